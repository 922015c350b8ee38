//! The start: Redis may come up after the gateway, or be loading its data still.

use std::time::Duration;

use tokio::time::Instant;

use super::{RedisConfig, RedisStore};
use crate::{pause::Pause, store::StoreError};

const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Connects, trying again for so long if Redis is not there yet. What no waiting mends (a wrong password, a URL that is
/// none) is not tried again.
pub async fn connect(config: RedisConfig, patience: Duration) -> Result<RedisStore, StoreError> {
    let (began, mut pause, mut told) = (Instant::now(), Pause::new(PAUSE_MIN, PAUSE_MAX), false);
    loop {
        let error = match RedisStore::connect(config.clone()).await {
            Ok(store) => {
                return match store.try_out().await {
                    Err(error @ (StoreError::Denied(_) | StoreError::Fault(_))) => Err(error),
                    Err(error) => {
                        tracing::warn!(%error, "Redis is there, and takes no writes now");
                        Ok(store)
                    }
                    Ok(()) => Ok(store),
                };
            }
            Err(StoreError::Unavailable(error)) => error,
            Err(error) => return Err(error),
        };
        if let Some(advice) = distrust(&error) {
            return Err(StoreError::Unavailable(format!("{error}; {advice}")));
        }
        let hint = other_scheme(&config.url, &error);
        if began.elapsed() + pause.at_most() > patience {
            let seconds = began.elapsed().as_secs_f64();
            let hint = hint.map(|hint| format!("; {hint}")).unwrap_or_default();
            return Err(StoreError::Unavailable(format!("{error} (tried for {seconds:.1} s){hint}")));
        }
        if !told {
            let patience_s = patience.as_secs();
            tracing::warn!(error, patience_s, hint, "Redis is not there yet; trying again");
            told = true;
        }
        pause.wait().await;
    }
}

/// What to look at where one of the two does not trust the other. The errors are known by rustls's words: redis-rs keeps nothing
/// else of them.
fn distrust(error: &str) -> Option<&'static str> {
    if error.contains("invalid peer certificate") {
        Some(
            "look at --redis-ca, which names the authority that has signed Redis's certificate, and at the host in --redis-url, \
             which must be a name in that certificate",
        )
    } else if error.contains("received fatal alert") && (error.contains("ertificate") || error.contains("CA")) {
        Some("Redis does not take the gateway's certificate: look at --redis-cert and --redis-key")
    } else {
        None
    }
}

/// Whether the other end may speak TLS where we do not, or the other way round.
fn other_scheme(url: &str, error: &str) -> Option<&'static str> {
    // A port that speaks TLS hangs up at the first word that is none. One that speaks none waits for the end of a line.
    let hung_up = ["reset by peer", "roken pipe", "end of file", "early eof"].iter().any(|how| error.contains(how));
    if url.starts_with("redis://") && hung_up {
        Some("if that port speaks TLS, --redis-url begins with rediss://")
    } else if url.starts_with("rediss://") && (error.contains("timed out") || error.contains("corrupt message")) {
        Some("if that port speaks no TLS, --redis-url begins with redis://")
    } else {
        None
    }
}
