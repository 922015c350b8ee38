//! Pauses between attempts at what failed.

use std::time::Duration;

/// Pauses that double up to a longest one. Each is shortened by up to half, at random: what failed for many at once must not be
/// tried again by all in the same millisecond.
#[derive(Debug)]
pub(crate) struct Pause {
    least: Duration,
    next: Duration,
    most: Duration,
}

impl Pause {
    /// Before the first failure.
    pub const fn new(least: Duration, most: Duration) -> Self {
        Pause { least, next: least, most }
    }

    /// Something worked: the next failure is the first again.
    pub fn begin_anew(&mut self) {
        self.next = self.least;
    }

    /// The longest that the next one can be.
    pub fn at_most(&self) -> Duration {
        self.next
    }

    /// How long to wait after one more failure.
    pub fn next(&mut self) -> Duration {
        let whole = self.next;
        self.next = (whole * 2).min(self.most);
        whole.mul_f64(0.5 + fastrand::f64() / 2.0)
    }

    /// Waits so long.
    pub async fn wait(&mut self) {
        tokio::time::sleep(self.next()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_differ() {
        let ms = Duration::from_millis;
        let mut pause = Pause::new(ms(20), ms(100));
        for whole in [20, 40, 80, 100, 100] {
            assert_eq!(pause.at_most(), ms(whole));
            let next = pause.next();
            assert!(ms(whole) / 2 <= next && next <= ms(whole), "{next:?} of {whole} ms");
        }
        pause.begin_anew();
        assert_eq!(pause.at_most(), ms(20));
    }
}
