//! How long to wait before trying again.

use std::time::Duration;

use super::error::RETRY_AFTER_MAX;

/// The first wait where the gateway named none.
const FIRST: Duration = Duration::from_millis(250);

/// Waits grow from at least this, whatever the gateway names: `retry: 0` must not become a busy loop.
const LEAST: Duration = Duration::from_millis(20);

/// Waits grow up to this: a user is watching.
const LONGEST: Duration = Duration::from_secs(5);

/// Waits that double with each failure and differ between clients, so that a thousand of them that lost the same
/// gateway don't come back in the same millisecond.
#[derive(Debug)]
pub(super) struct Backoff {
    floor: Duration,
    failures: u32,
}

impl Default for Backoff {
    fn default() -> Self {
        Backoff { floor: FIRST, failures: 0 }
    }
}

impl Backoff {
    /// The gateway's own word on the shortest wait (`retry:` of its stream).
    pub fn set_floor(&mut self, floor: Duration) {
        self.floor = floor.min(RETRY_AFTER_MAX);
    }

    /// Something worked: the next failure is the first again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// The wait after one more failure; no shorter than what the gateway asked for in its answer.
    pub fn next(&mut self, asked: Option<Duration>) -> Duration {
        let longest = LONGEST.max(self.floor);
        let ceiling = self.floor.max(LEAST).saturating_mul(1 << self.failures.min(16)).min(longest);
        self.failures = self.failures.saturating_add(1);
        // Between the floor and half above the ceiling, evenly.
        let spread = (ceiling - self.floor) + ceiling / 2;
        let wait = self.floor + spread.mul_f64(fastrand::f64());
        wait.min(longest).max(asked.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_stay_within_bounds() {
        let mut backoff = Backoff::default();
        for _ in 0..100 {
            let wait = backoff.next(None);
            assert!((FIRST..=LONGEST).contains(&wait), "{wait:?}");
        }
        backoff.reset();
        assert!(backoff.next(None) <= FIRST * 3 / 2);
    }

    #[test]
    fn the_gateway_is_obeyed() {
        let mut backoff = Backoff::default();
        assert!(backoff.next(Some(Duration::from_secs(30))) >= Duration::from_secs(30));
        backoff.set_floor(Duration::from_secs(8));
        assert!(backoff.next(None) >= Duration::from_secs(8));
    }

    #[test]
    fn no_wait_at_all_is_no_busy_loop() {
        let mut backoff = Backoff::default();
        backoff.set_floor(Duration::ZERO);
        let total: Duration = (0..20).map(|_| backoff.next(None)).sum();
        assert!(total > Duration::from_secs(5), "{total:?}");
    }
}
