//! How far this machine's clock is from Redis's. Nothing is decided by it: entries carry Redis's time, and it takes this
//! to tell how old they are when they reach a client.

use std::time::{Duration, Instant, SystemTime};

use super::link::Link;
use crate::metrics::METRICS;

/// Clocks that are kept by NTP drift apart by less than this file can see in between.
const EVERY: Duration = Duration::from_secs(10);
/// Questions at a time. The one that was answered fastest tells best: its error is at most half of its time.
const QUESTIONS: usize = 5;

/// Asks for the time now and again, for as long as it is let.
pub async fn keep(mut connection: Link) {
    let mut every = tokio::time::interval(EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let mut best: Option<(Duration, i64)> = None;
        for _ in 0..QUESTIONS {
            let (asked, here) = (Instant::now(), now_us());
            let time = redis::cmd("TIME").query_async::<(i64, i64)>(&mut connection).await;
            let took = asked.elapsed();
            // Failures are seen, counted and told elsewhere.
            let Ok((seconds, micros)) = time else { break };
            let ahead = here + took.as_micros() as i64 / 2 - (seconds * 1_000_000 + micros);
            best = Some(best.filter(|(best, _)| *best <= took).unwrap_or((took, ahead)));
        }
        if let Some((_, ahead)) = best {
            METRICS.clock_ahead.set(ahead);
        }
    }
}

fn now_us() -> i64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_micros() as i64)
}
