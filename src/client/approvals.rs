//! Approvals, as an agent asks for them.

use std::time::Duration;

use reqwest::Method;
use serde::Serialize;
use serde_json::Value;

use super::{ANSWER_TIMEOUT, Client, Error};
use crate::id::Name;

/// A decision to be asked for. The event `approval.decided` of this name tells how it went.
#[derive(Debug, Clone, Serialize)]
pub struct AskApproval {
    /// Its name, for good.
    pub approval: Name,
    /// The run that waits.
    pub run: Name,
    /// What those who decide are shown: a text, or any JSON.
    pub prompt: Value,
    /// How long it may wait; then it is denied.
    pub expires_ms: u64,
}

impl AskApproval {
    /// Asks this, for so long.
    pub fn new(approval: Name, run: Name, prompt: Value, wait: Duration) -> AskApproval {
        let expires_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1);
        AskApproval { approval, run, prompt, expires_ms }
    }
}

impl Client {
    /// Asks for a decision, as an attempt of the run. After an error that is transient it may have been asked: asking again
    /// is then a [`Problem`](super::Problem) with the code `approval_exists`.
    pub async fn ask_approval(&self, session: &Name, attempt: u32, ask: &AskApproval) -> Result<(), Error> {
        let request = self.request(Method::POST, &[session.as_str(), "approvals"]).header("run-attempt", attempt);
        self.send(request.json(ask).timeout(ANSWER_TIMEOUT)).await.map(drop)
    }
}
