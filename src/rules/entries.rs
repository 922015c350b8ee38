//! The entries that the gateway writes itself.

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::{event::Payload, id::Name, store::Part};

/// An event of the gateway's, about an agent and a run where there is one.
pub fn event(part: &mut Part, kind: &str, agent: Option<&Name>, run: Option<&Name>, data: &impl Serialize) {
    let mut payload = Payload::new(kind);
    payload.name("agent", agent);
    payload.name("run", run);
    payload.value("data", data);
    part.events.push(payload.finish());
}

/// A command, as agents read it.
pub fn command(kind: &str, id: &Name, agent: Option<&Name>, run: Option<&Name>, data: Option<&RawValue>) -> Bytes {
    let mut payload = Payload::new(kind);
    payload.name("command", Some(id));
    payload.name("agent", agent);
    payload.name("run", run);
    payload.value("data", &data);
    payload.finish()
}
