//! The start: Redis may come up after the gateway, or be loading its data still.

use std::time::Duration;

use tokio::time::Instant;

use super::{RedisConfig, RedisStore};
use crate::store::StoreError;

const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Connects, trying again for so long if Redis is not there yet. What no waiting mends (a wrong password, a URL that is
/// none) is not tried again.
pub async fn connect(config: RedisConfig, patience: Duration) -> Result<RedisStore, StoreError> {
    let (began, mut pause, mut told) = (Instant::now(), PAUSE_MIN, false);
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
        if began.elapsed() + pause > patience {
            let seconds = began.elapsed().as_secs_f64();
            return Err(StoreError::Unavailable(format!("{error} (tried for {seconds:.1} s)")));
        }
        if !told {
            let patience_s = patience.as_secs();
            tracing::warn!(error, patience_s, "Redis is not there yet; trying again");
            told = true;
        }
        tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}
