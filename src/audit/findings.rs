//! What the trials found: facts, before anything is judged by them.

use std::time::Duration;

use super::{judge::Tally, stream::Unit};

/// All that was found.
#[derive(Debug, Clone, Default)]
pub struct Findings {
    /// Events of the first stream; `None` until it was seen.
    pub first: Option<First>,
    /// What other surfaces saw.
    pub sync: Option<SyncFinding>,
    /// What became of the cuts.
    pub cuts: Vec<CutFinding>,
    /// What the same request gave when it was sent again.
    pub sent_again: Option<String>,
    /// What a disconnect did to the output.
    pub disconnect: Option<Result<DisconnectFinding, String>>,
    /// What the stop did.
    pub stop: Option<Result<StopFinding, String>>,
    /// Requests sent.
    pub requests: usize,
}

/// The first stream, read without a cut.
#[derive(Debug, Clone, Default)]
pub struct First {
    /// How many events.
    pub events: usize,
    /// How many more came without an id, where these have one.
    pub without_id: usize,
    /// How long it took.
    pub took: Duration,
    /// It came to an end of its own.
    pub ended: bool,
    /// Its events have ids, all different.
    pub ids: bool,
    /// What it brought.
    pub keys: Vec<String>,
}

/// What other surfaces saw of the live events.
#[derive(Debug, Clone)]
pub enum SyncFinding {
    /// There is no address for them.
    NoAddress(String),
    /// They were refused.
    Refused(String),
    /// It could not be tested.
    Untested(String),
    /// Each connection gets a stream of its own; this far behind.
    Private(Duration),
    /// What each surface saw of the live events that it was there for.
    Seen {
        /// A surface each: events there were to see, and those seen.
        surfaces: Vec<(usize, usize)>,
        /// Behind the first surface, in milliseconds, sorted.
        lags: Vec<f64>,
    },
}

impl First {
    /// Those of these that are the stream's own: where its events carry ids, what comes without is the connection's.
    pub(super) fn own(&self, mut units: Vec<Unit>) -> Vec<Unit> {
        units.retain(|unit| !self.ids || unit.id.is_some());
        units
    }
}

impl SyncFinding {
    /// Connections at the same address get streams of their own.
    pub fn is_apart(&self) -> bool {
        match self {
            SyncFinding::Private(_) => true,
            SyncFinding::Seen { surfaces, .. } => surfaces.iter().all(|(_, seen)| *seen == 0),
            _ => false,
        }
    }
}

/// How faithful the rest was.
#[derive(Debug, Clone)]
pub enum Fidelity {
    /// Compared with an uncut observer.
    Compared(Tally),
    /// It could not be tested.
    Untested(String),
}

/// One cut.
#[derive(Debug, Clone)]
pub struct CutFinding {
    /// Where, and how long away.
    pub label: String,
    /// Events seen before it.
    pub seen: usize,
    /// `None` if it could not be tested.
    pub survived: Option<bool>,
    /// What happened.
    pub what: String,
    /// What the rest was worth.
    pub fidelity: Fidelity,
}

/// What a disconnect did.
#[derive(Debug, Clone)]
pub struct DisconnectFinding {
    /// The output went on without anyone connected.
    pub went_on: bool,
    /// What was seen.
    pub what: String,
}

/// What a stop did.
#[derive(Debug, Clone)]
pub struct StopFinding {
    /// The status that answered it.
    pub status: u16,
    /// What it said, if it refused.
    pub said: String,
    /// Events seen when it was sent.
    pub at: usize,
    /// Events after that.
    pub more: usize,
    /// From the stop to the last event.
    pub last_after: Duration,
    /// The output went on to its own end, or was still going when it was given up.
    pub ran_on: bool,
    /// Why it counts as that.
    pub what: String,
    /// Another surface learnt of it; `None` if there is none.
    pub told: Option<bool>,
    /// An append of the run after the stop, where the audit is the agent.
    pub append: Option<String>,
}
