//! What crowds of followers take of the machine.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use crate::lock::lock;

/// Of the machine's time, what crowds may take before they are served at a pace: one part in so many.
const PART: u32 = 10;
/// How far they may be ahead of it.
const AHEAD: Duration = Duration::from_millis(50);
/// How far they are ever taken to be ahead: what a long broadcast took, or a pause of the whole process while a crowd was
/// served, is forgotten so soon after it.
const DEBT: Duration = Duration::from_secs(1);

/// The time that crowds may take before they are served at a pace.
pub struct Budget {
    /// What they took is paid by then.
    paid: Mutex<Instant>,
    cores: u32,
}

impl Budget {
    pub fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(1));
        Budget { paid: Mutex::new(Instant::now()), cores }
    }

    /// Counts what was taken.
    pub fn spend(&self, time: Duration) {
        let (mut paid, now) = (lock(&self.paid), Instant::now());
        *paid = ((*paid).max(now) + time * PART / self.cores).min(now + DEBT);
    }

    /// Whether they have taken more than their part.
    pub fn is_spent(&self) -> bool {
        *lock(&self.paid) > Instant::now() + AHEAD
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_crowd_took_is_soon_forgotten() {
        let budget = Budget::new();
        for _ in 0..3 {
            budget.spend(Duration::from_secs(3600));
        }
        assert!(budget.is_spent());
        assert!(*lock(&budget.paid) <= Instant::now() + DEBT);
    }
}
