//! How a replica goes down without anybody losing anything.
//!
//! ```text
//! told ──▶ leaving: /readyz fails, all else goes on        for `wait`, so that load balancers notice
//!      ──▶ draining: new streams are refused, open ones    for `spread`, each at a moment of its own,
//!          cut, streaming bodies answered                  or their clients would all knock next door at once
//!      ──▶ the listener closes; what is under way finishes  for at most `finish`
//! ```
//!
//! A replica whose store is away for too long lets its streams go in the same way, without going down: elsewhere the
//! store may be there, and clients that only ever hear heartbeats would not find out.
//!
//! From the first step on every answer closes its connection, so that the load balancer keeps none that is about to
//! end: a request that is sent into one could not be repeated safely.

use std::{
    sync::Weak,
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::Shared;
use crate::{config::Drain, metrics::Cut};

/// How far a replica has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Serving,
    /// As before, but for the streams.
    Lost {
        spread: Duration,
    },
    Leaving,
    Draining {
        spread: Duration,
    },
}

impl Phase {
    /// Whether streams are to be cut: over which time, and why.
    fn cuts(&self) -> Option<(Duration, Cut)> {
        match self {
            Phase::Serving | Phase::Leaving => None,
            Phase::Lost { spread } => Some((*spread, Cut::Store)),
            Phase::Draining { spread } => Some((*spread, Cut::Draining)),
        }
    }
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
        matches!(*self.phase.borrow(), Phase::Leaving | Phase::Draining { .. })
    }

    /// It takes no new streams.
    pub fn is_draining(&self) -> bool {
        matches!(*self.phase.borrow(), Phase::Draining { .. })
    }

    /// Takes part as a stream: ready when it is this one's turn to be cut.
    pub fn turn(&self) -> impl Future<Output = Cut> + Send + use<> {
        let mut phase = self.phase.subscribe();
        async move {
            // A stream that comes while the store counts as lost has found it: it waits for the next loss.
            let mut cuts = phase.borrow_and_update().cuts().filter(|(_, why)| *why == Cut::Draining);
            while cuts.is_none() && phase.changed().await.is_ok() {
                cuts = phase.borrow_and_update().cuts();
            }
            let (spread, why) = cuts.unwrap_or((Duration::ZERO, Cut::Draining));
            // Boxed: every idle stream holds this future, and none needs the timer until it ends.
            Box::pin(tokio::time::sleep(spread.mul_f64(fastrand::f64()))).await;
            why
        }
    }

    /// The store has been away for too long, or is there again. Changes nothing any more once the end has begun.
    fn store(&self, to: Phase) {
        self.phase.send_if_modified(|phase| {
            let may = matches!(phase, Phase::Serving | Phase::Lost { .. });
            if may {
                *phase = to;
            }
            may
        });
    }

    /// Goes through the first two steps. What is left then is for the server to finish.
    pub(super) async fn go(&self, drain: Drain) {
        self.phase.send_replace(Phase::Leaving);
        tokio::time::sleep(drain.wait).await;
        self.phase.send_replace(Phase::Draining { spread: drain.spread });
        // Over when the last stream is gone.
        let _ = tokio::time::timeout(drain.spread, self.phase.closed()).await;
    }
}

/// How often the store is asked whether it is there.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// Lets the streams go when the store has been away for so long. Lives as long as the gateway.
pub(super) async fn watch_store(gateway: Weak<Shared>, patience: Duration, spread: Duration) {
    let (mut heard, mut lost) = (Instant::now(), false);
    loop {
        tokio::time::sleep(ASK_EVERY.min(patience)).await;
        let Some(gateway) = gateway.upgrade() else { return };
        if gateway.store.health().await.is_ok() {
            heard = Instant::now();
            if lost {
                lost = false;
                tracing::info!("the store is there again");
                gateway.ending.store(Phase::Serving);
            }
        } else if heard.elapsed() > patience {
            if lost {
                tracing::debug!("the store is still away");
            } else {
                let patience_ms = patience.as_millis() as u64;
                tracing::warn!(
                    patience_ms,
                    "the store has been away for too long: streams are cut, to resume elsewhere"
                );
            }
            // Once in so long, for streams that came in between.
            (heard, lost) = (Instant::now(), true);
            gateway.ending.store(Phase::Lost { spread });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[tokio::test(start_paused = true)]
    async fn streams_are_cut_one_by_one_after_the_wait() {
        let ending = Arc::new(Ending::default());
        let turns: Vec<_> = (0..1000).map(|_| tokio::spawn(ending.turn())).collect();
        let cut = || turns.iter().filter(|turn| turn.is_finished()).count();
        let (wait, spread) = (Duration::from_millis(50), Duration::from_secs(60));
        let drain = Drain { wait, spread, finish: Duration::ZERO };
        let going = tokio::spawn({
            let ending = ending.clone();
            async move { ending.go(drain).await }
        });
        tokio::time::sleep(wait - Duration::from_millis(1)).await;
        assert!(ending.has_begun() && !ending.is_draining());
        assert_eq!(cut(), 0);
        tokio::time::sleep(Duration::from_millis(1) + spread / 2).await;
        assert!(ending.is_draining() && !going.is_finished());
        // Half of them, give or take six standard deviations.
        assert!((405..=595).contains(&cut()), "{}", cut());
        tokio::time::sleep(spread / 2 + Duration::from_millis(1)).await;
        assert_eq!(cut(), 1000);
        assert!(going.is_finished());
    }

    #[tokio::test]
    async fn nobody_is_waited_for_who_is_gone() {
        let ending = Ending::default();
        drop(ending.turn());
        let hour = Duration::from_secs(3600);
        ending.go(Drain { wait: Duration::ZERO, spread: hour, finish: hour }).await;
    }
}
