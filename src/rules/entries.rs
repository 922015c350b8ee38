//! The entries that the gateway writes itself.

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::{event::Payload, id::Name, store::Part, trace::Traceparent};

/// An event of the gateway's, about an agent and a run where there is one.
pub fn event(part: &mut Part, kind: &str, agent: Option<&Name>, run: Option<&Name>, data: &impl Serialize) {
    let mut payload = Payload::new(kind);
    payload.name("agent", agent);
    payload.name("run", run);
    payload.value("data", data);
    part.events.push(payload.finish());
}

/// A command, as agents read it.
pub struct Command<'a> {
    /// Its type.
    pub kind: &'a str,
    /// Its id.
    pub id: &'a Name,
    /// The agent it is for.
    pub agent: Option<&'a Name>,
    /// The run it is for.
    pub run: Option<&'a Name>,
    /// Of a decision: what it decides.
    pub approval: Option<&'a Name>,
    /// Who asks, if that is known.
    pub by: Option<&'a str>,
    /// The trace in which it was asked for.
    pub traceparent: Option<Traceparent>,
    /// What it says.
    pub data: Option<&'a RawValue>,
}

impl Command<'_> {
    /// Its payload on the commands lane.
    pub fn payload(&self) -> Bytes {
        let mut payload = Payload::new(self.kind);
        payload.name("command", Some(self.id));
        payload.name("agent", self.agent);
        payload.name("run", self.run);
        payload.name("approval", self.approval);
        if let Some(by) = self.by {
            payload.value("by", &by);
        }
        if let Some(traceparent) = &self.traceparent {
            payload.value("traceparent", traceparent);
        }
        payload.value("data", &self.data);
        payload.finish()
    }
}
