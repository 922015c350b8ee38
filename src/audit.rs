//! The audit: is an AI streaming endpoint in the single-connection trap?
//!
//! ```text
//! Plan ─▶ trials ── wire: streams that are opened, cut, come back to ──▶ judge: lost, doubled, out of order
//!            │                                                              │
//!            └── target: what a stream is, the way back, the stop           ▼
//!                                                          Findings ─▶ Scorecard ─▶ text, JSON, HTML
//! ```
//!
//! It only says what it tested: each measure has its evidence, or the reason why there is none. docs/AUDIT.md tells
//! what the measures mean.

mod control;
mod findings;
mod gateway;
mod judge;
mod measures;
mod report;
mod scorecard;
mod stream;
mod target;
mod template;
mod trials;
mod wire;

use std::{future::Future, time::Duration};

pub use self::{
    findings::{CutFinding, Fidelity, Findings, StopFinding, SyncFinding},
    report::html,
    scorecard::{Check, Measure, Scorecard, Status, Trap, Verdict},
    target::{BadTarget, Endpoint, Gateway, IdFrom, StopCall, Target},
    template::shown_url,
    wire::AuditError,
};

/// What to audit, and how much.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What is audited.
    pub target: Target,
    /// How many cuts to make.
    pub cuts: usize,
    /// The most time to take in all.
    pub time: Duration,
    /// The most time that one stream is watched; a stream that goes on counts as endless.
    pub watch: Duration,
}

impl Plan {
    /// The most streams that it will begin: with a POST, each is a generation at the user's expense.
    pub fn streams(&self) -> usize {
        // The first look, the cuts, the silent disconnect.
        let without_stop = if self.target.can_come_back() { 1 + self.cuts + 1 } else { 3 };
        without_stop + usize::from(self.target.can_stop())
    }
}

/// How the audit came to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stopped {
    /// All that was planned was done.
    Done,
    /// The time was up.
    TimeUp,
    /// The user ended it.
    Interrupted,
    /// The endpoint answered at first, and then no more.
    Failed(String),
}

/// Audits. `interrupted` ends it early, with what was found so far; `progress` is told what is being done. It fails if
/// the endpoint can't be audited at all.
pub async fn run(
    plan: &Plan,
    interrupted: impl Future<Output = ()>,
    progress: impl Fn(String) + Sync,
) -> Result<Scorecard, AuditError> {
    let begun = tokio::time::Instant::now();
    let wire = wire::Wire::new(plan.target.is_local(), plan.target.is_secure())?;
    let mut findings = Findings::default();
    let stopped = {
        let trials = trials::run(plan, &wire, &mut findings, &progress);
        tokio::select! {
            result = trials => result.map(|()| Stopped::Done),
            () = tokio::time::sleep(plan.time) => Ok(Stopped::TimeUp),
            () = interrupted => Ok(Stopped::Interrupted),
        }
    };
    plan.target.tidy_up().await;
    findings.requests = wire.requests();
    let stopped = match stopped {
        // What was found before stays found.
        Err(error) if findings.first.is_some() => Stopped::Failed(error.to_string()),
        stopped => stopped?,
    };
    if stopped == Stopped::TimeUp && findings.first.is_none() {
        return Err(AuditError::Nothing(format!("no stream was read to its end within {:?}", plan.time)));
    }
    Ok(Scorecard::of(plan, &findings, stopped, begun.elapsed()))
}
