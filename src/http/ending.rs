//! How a replica goes down without anybody losing anything.
//!
//! ```text
//! told ──▶ leaving: /readyz fails, all else goes on        for `wait`, so that load balancers notice
//!      ──▶ draining: new streams are refused, open ones    for `spread`, each at a moment of its own,
//!          cut, streaming bodies answered                  or their clients would all knock next door at once
//!      ──▶ the listener closes; what is under way finishes  for at most `finish`
//! ```
//!
//! From the first step on every answer closes its connection, so that the load balancer keeps none that is about to
//! end: a request that is sent into one could not be repeated safely.

use std::time::Duration;

use tokio::sync::watch;

use crate::config::Drain;

/// How far a replica has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Serving,
    Leaving,
    Draining { spread: Duration },
}

/// Whether, and how far, this replica is going down.
#[derive(Debug)]
pub struct Ending {
    /// Whoever holds a stream subscribes, so that it is known when the last is gone.
    phase: watch::Sender<Phase>,
}

impl Default for Ending {
    fn default() -> Self {
        Ending { phase: watch::Sender::new(Phase::Serving) }
    }
}

impl Ending {
    /// It has been told to end.
    pub fn has_begun(&self) -> bool {
        *self.phase.borrow() != Phase::Serving
    }

    /// It takes no new streams.
    pub fn is_draining(&self) -> bool {
        matches!(*self.phase.borrow(), Phase::Draining { .. })
    }

    /// Takes part as a stream: ready when it is this one's turn to be cut.
    pub fn turn(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut phase = self.phase.subscribe();
        async move {
            let spread = match phase.wait_for(|phase| matches!(phase, Phase::Draining { .. })).await.as_deref() {
                Ok(Phase::Draining { spread }) => *spread,
                _ => Duration::ZERO,
            };
            // Boxed: every idle stream holds this future, and none needs the timer until it ends.
            Box::pin(tokio::time::sleep(spread.mul_f64(fastrand::f64()))).await;
        }
    }

    /// Goes through the first two steps. What is left then is for the server to finish.
    pub(super) async fn go(&self, drain: Drain) {
        self.phase.send_replace(Phase::Leaving);
        tokio::time::sleep(drain.wait).await;
        self.phase.send_replace(Phase::Draining { spread: drain.spread });
        // Over when the last stream is gone. One that is stuck in a write to a client that takes nothing does not see
        // its turn, and ends with the process.
        let _ = tokio::time::timeout(drain.spread, self.phase.closed()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[tokio::test]
    async fn streams_are_cut_one_by_one_after_the_wait() {
        let ending = Arc::new(Ending::default());
        let turns: Vec<_> = (0..1000).map(|_| tokio::spawn(ending.turn())).collect();
        let cut = || turns.iter().filter(|turn| turn.is_finished()).count();
        let drain = Drain { wait: Duration::from_millis(50), spread: Duration::from_secs(60), finish: Duration::ZERO };
        let going = tokio::spawn({
            let ending = ending.clone();
            async move { ending.go(drain).await }
        });
        while !ending.is_draining() {
            assert_eq!(cut(), 0);
            tokio::task::yield_now().await;
        }
        assert!(ending.has_begun());
        while cut() == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(cut() < 900, "all at once");
        going.abort();
    }

    #[tokio::test]
    async fn nobody_is_waited_for_who_is_gone() {
        let ending = Ending::default();
        drop(ending.turn());
        let hour = Duration::from_secs(3600);
        ending.go(Drain { wait: Duration::ZERO, spread: hour, finish: hour }).await;
    }
}
