//! Runs, as their agents begin, keep and end them.

use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{ANSWER_TIMEOUT, Client, Entry, Error};
use crate::id::{EntryId, Name};

/// A run to be started. [`StartRun::new`], then the fields that matter.
#[derive(Debug, Clone, Serialize)]
pub struct StartRun {
    /// Its name.
    pub run: Name,
    /// Who does it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<Name>,
    /// The run that it is a part of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<Name>,
    /// The silence after which the run counts as lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease_ms: Option<u64>,
    /// Begin a new attempt at a run that is live, lost or failed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub takeover: bool,
}

impl StartRun {
    /// A run of this name.
    pub fn new(run: Name) -> StartRun {
        StartRun { run, agent: None, parent: None, lease_ms: None, takeover: false }
    }
}

/// A run, as the gateway says it stands.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Run {
    /// Its name.
    pub run: Name,
    /// Who does it.
    pub agent: Option<Name>,
    /// The run that it is a part of.
    pub parent: Option<Name>,
    /// Which attempt this is, from 1. The agent says it in all that it sends ([`Producer::attempt`]), and is refused
    /// once another attempt has taken over.
    ///
    /// [`Producer::attempt`]: super::Producer::attempt
    pub attempt: u32,
    /// `expected`, `running`, `stopping`, `completed`, `failed`, `cancelled` or `lost`.
    pub status: String,
    /// The silence after which it counts as lost.
    pub lease_ms: u64,
    /// When it does, in milliseconds since the Unix epoch, if nothing is heard of it. Live runs only.
    pub lease_until: Option<u64>,
    /// What is left to end by itself. Stopping runs only.
    pub grace_ms: Option<u64>,
}

/// How an agent ends its run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RunEnd {
    /// It did what it was for.
    Completed,
    /// It could not.
    Failed,
    /// It was stopped.
    Cancelled,
}

/// The commands without an outcome.
#[derive(Debug, Clone)]
pub struct Pending {
    /// In the order in which they were issued.
    pub commands: Vec<Entry>,
    /// The cursor behind which the commands lane goes on after them.
    pub next: EntryId,
}

impl Client {
    /// Starts a run. If it has been stopped before, it is `cancelled` in the answer already.
    pub async fn start_run(&self, session: &Name, start: &StartRun) -> Result<Run, Error> {
        let request = self.request(Method::POST, &[session.as_str(), "runs"]).json(start);
        self.answer(request.timeout(ANSWER_TIMEOUT)).await
    }

    /// Ends a run, once.
    pub async fn end_run(
        &self,
        session: &Name,
        run: &Name,
        attempt: u32,
        end: RunEnd,
        reason: Option<&str>,
    ) -> Result<Run, Error> {
        let request = self.request(Method::POST, &[session.as_str(), "runs", run.as_str(), "end"]);
        let request = request.json(&json!({"status": end, "reason": reason, "attempt": attempt}));
        self.answer(request.timeout(ANSWER_TIMEOUT)).await
    }

    /// Renews a run's lease while there is nothing to publish, and asks how the run stands.
    pub async fn heartbeat(&self, session: &Name, run: &Name, attempt: u32) -> Result<Run, Error> {
        let request = self.request(Method::POST, &[session.as_str(), "runs", run.as_str(), "heartbeat"]);
        self.answer(request.header("run-attempt", attempt).timeout(ANSWER_TIMEOUT)).await
    }

    /// What has been asked and not been done: where an agent begins that has no cursor in the commands lane.
    pub async fn pending_commands(&self, session: &Name) -> Result<Pending, Error> {
        #[derive(Deserialize)]
        struct Page {
            events: Vec<Box<serde_json::value::RawValue>>,
            next: EntryId,
            up_to_date: bool,
        }
        #[derive(Deserialize)]
        struct Id {
            id: EntryId,
        }
        let entry = |raw: Box<serde_json::value::RawValue>| {
            let id = serde_json::from_str::<Id>(raw.get());
            let Id { id } = id.map_err(|e| Error::Protocol(format!("a command that can't be read: {e}")))?;
            Ok(Entry { id, json: raw.get().to_owned() })
        };
        let mut pending = Pending { commands: Vec::new(), next: EntryId::ZERO };
        loop {
            let request = self.request(Method::GET, &[session.as_str(), "commands"]);
            let request = request.query(&[("pending", "true"), ("after", &pending.next.to_string())]);
            let page: Page = self.answer(request.timeout(ANSWER_TIMEOUT)).await?;
            for raw in page.events {
                pending.commands.push(entry(raw)?);
            }
            pending.next = page.next;
            if page.up_to_date {
                return Ok(pending);
            }
        }
    }
}
