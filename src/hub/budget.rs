//! What crowds of followers take of the machine.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use crate::lock::lock;

/// Crowds may take one part in so many of the machine's time before they are paced.
const PART: u32 = 10;
/// How far ahead of that they may run first.
const AHEAD: Duration = Duration::from_millis(50);
/// The most that is held against them: after a long broadcast, or one amid which the whole process paused, they are paced
/// for so long and no longer.
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
