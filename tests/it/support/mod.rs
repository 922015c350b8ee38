//! What the integration tests share.

pub mod agent;
pub mod authority;
pub mod balancer;
pub mod chat;
pub mod crowd;
pub mod gateway;
pub mod process;
pub mod redis;
pub mod tokens;

use std::{
    future::Future,
    time::{Duration, Instant},
};

/// How long a condition may take to come true: far more than it takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until `probe` gives something. `what` says what was waited for if it never does.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut probe: impl FnMut() -> F) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(Instant::now() < deadline, "after {PATIENCE:?} still not: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A text that no other test uses, for names and key prefixes.
pub fn unique(what: &str) -> String {
    format!("{what}-{:016x}", fastrand::u64(..))
}

/// An HTTP client that knows nothing of Moorline.
pub fn http() -> reqwest::Client {
    // Refused if it is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::new()
}
