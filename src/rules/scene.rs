//! A session in a test: the rules, a clock, and what they wrote.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::{Value, json, value::RawValue};

use super::*;
use crate::{id::EntryId, store::State};

/// A session that only the rules know.
pub struct Scene {
    pub control: Control,
    pub now: Ms,
    /// The events lane, as JSON.
    pub events: Vec<Value>,
    /// The commands lane, as JSON.
    pub commands: Vec<Value>,
    records: BTreeMap<String, Bytes>,
    touched: BTreeMap<Name, Ms>,
    closed: Option<Ms>,
}

pub fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// An event of this run.
pub fn event(run: &str) -> Event {
    let payload = json!({"type": "t", "run": run}).to_string().into();
    Event { run: Some(name(run)), agent: None, bound: false, payload }
}

pub fn raw(value: Value) -> Box<RawValue> {
    serde_json::value::to_raw_value(&value).unwrap()
}

impl Scene {
    pub fn new() -> Self {
        Self::with(Limits::default())
    }

    pub fn with(limits: Limits) -> Self {
        Scene {
            control: Control::new(limits),
            now: 1_000_000,
            events: Vec::new(),
            commands: Vec::new(),
            records: BTreeMap::new(),
            touched: BTreeMap::new(),
            closed: None,
        }
    }

    /// Does what a writer does with one action: judges, applies, commits; then reads back what the store has.
    pub fn act(&mut self, action: Action) -> Result<Reply, Refusal> {
        let mut effects = Effects::default();
        judge(&mut self.control, self.now, &mut effects);
        let before = (self.control.clone(), format!("{effects:?}"));
        let result = apply(&mut self.control, self.now, &action, &mut effects);
        if result.is_err() {
            let after = (&self.control, format!("{effects:?}"));
            assert_eq!(after, (&before.0, before.1), "a refusal changes nothing: {action:?}");
        }
        self.commit(&effects);
        assert!(self.control.next_due().is_none_or(|(at, _)| at > self.now), "what is due has been judged");
        // Now and then where there are many: to read a thousand runs a thousand times takes seconds.
        if self.records.len() <= 100 || self.records.len().is_multiple_of(100) {
            let mut read = Control::read(&self.stored(), self.control.limits).unwrap();
            // It looks for its earliest deadline, as the other one has.
            read.next_due();
            assert_eq!(read, self.control, "what the store has is what the rules know: {action:?}");
        }
        result
    }

    /// Does what a store does.
    fn commit(&mut self, effects: &Effects) {
        let issued = self.commands.len() as u64;
        let read = |bytes: &Bytes| serde_json::from_slice(bytes).unwrap();
        for part in &effects.parts {
            self.events.extend(part.events.iter().map(read));
            self.commands.extend(part.commands.iter().map(read));
            self.touched.extend(part.touch.iter().map(|run| (run.clone(), self.now)));
        }
        if effects.closes {
            self.closed = Some(self.now);
        }
        let entry = |at: usize| EntryId { ms: self.now, n: issued + 1 + at as u64 };
        for (key, value) in self.control.take_changes() {
            let at = effects.issued.iter().position(|id| command_key(id) == key);
            match (value, at) {
                (Some(value), None) => self.records.insert(key, value),
                (Some(value), Some(at)) => {
                    self.records.insert(key, [&value[..], format!(" {}", entry(at)).as_bytes()].concat().into())
                }
                (None, _) => self.records.remove(&key),
            };
        }
        for (at, id) in effects.issued.iter().enumerate() {
            self.control.set_entry(id, entry(at));
        }
        for run in effects.parts.iter().flat_map(|part| &part.touch) {
            self.control.touch(run, self.now);
        }
    }

    /// The control state, as the store has it.
    fn stored(&self) -> State {
        State {
            version: "v".into(),
            created: 0,
            closed: self.closed,
            records: self.records.clone().into_iter().collect(),
            touched: self.touched.clone().into_iter().collect(),
        }
    }

    pub fn wait(&mut self, ms: Ms) {
        self.now += ms;
        self.act(Action::Tick).unwrap();
    }

    pub fn start(&mut self, run: &str) -> Result<Reply, Refusal> {
        self.start_with(run, |_| {})
    }

    pub fn start_with(&mut self, run: &str, set: impl FnOnce(&mut RunRequest)) -> Result<Reply, Refusal> {
        let mut request =
            RunRequest { run: name(run), agent: None, parent: None, lease_ms: None, takeover: false, speaker: None };
        set(&mut request);
        self.act(Action::Start(request))
    }

    pub fn take_over(&mut self, run: &str) -> Result<Reply, Refusal> {
        self.start_with(run, |request| request.takeover = true)
    }

    pub fn end(&mut self, run: &str, status: EndStatus) -> Result<Reply, Refusal> {
        self.act(Action::End { run: name(run), attempt: None, status, reason: None, speaker: None })
    }

    pub fn append(&mut self, run: &str, attempt: Option<u32>) -> Result<Reply, Refusal> {
        self.act(Action::Append(Append { events: vec![event(run)], attempt, ..Append::default() }))
    }

    pub fn command(&mut self, kind: &str, set: impl FnOnce(&mut CommandRequest)) -> Result<Reply, Refusal> {
        let mut request = CommandRequest {
            id: name(&format!("c{}", self.commands.len() + 1)),
            kind: kind.into(),
            agent: None,
            run: None,
            data: None,
            ttl_ms: None,
            grace_ms: None,
            tree: false,
            decision: None,
            by: None,
            traceparent: None,
        };
        set(&mut request);
        self.act(Action::Command(request))
    }

    pub fn stop(&mut self, run: &str, grace: i64) -> Result<Reply, Refusal> {
        self.command("stop", |request| (request.run, request.grace_ms) = (Some(name(run)), Some(grace)))
    }

    pub fn stop_tree(&mut self, run: &str, grace: i64) -> Result<Reply, Refusal> {
        self.command("stop", |request| {
            (request.run, request.grace_ms, request.tree) = (Some(name(run)), Some(grace), true);
        })
    }

    pub fn report(&mut self, command: &str, consumed: bool) -> Result<Reply, Refusal> {
        self.act(Action::Outcome(OutcomeRequest {
            command: name(command),
            outcome: if consumed { Reported::Consumed } else { Reported::Rejected },
            reason: None,
            attempt: None,
            speaker: None,
        }))
    }

    pub fn ask(&mut self, approval: &str, run: Option<&str>, expires_ms: Option<i64>) -> Result<Reply, Refusal> {
        self.act(Action::Approval(ApprovalRequest {
            approval: name(approval),
            agent: None,
            run: run.map(name),
            attempt: None,
            prompt: raw(json!("sure?")),
            expires_ms,
            on_expiry: Verdict::Deny,
            speaker: None,
        }))
    }

    pub fn decide(&mut self, approval: &str, verdict: Verdict) -> Result<Reply, Refusal> {
        self.command("decide", |request| {
            request.decision =
                Some(Decision { approval: name(approval), verdict, data: raw(json!({"decision": verdict})) });
        })
    }

    /// The gateway's events about a run, in short: `started`, `stopping`, `ended lost`, …
    pub fn about(&self, run: &str) -> Vec<String> {
        let about = self.events.iter().filter(|event| event["run"] == run);
        let short = about.filter_map(|event| {
            let kind = event["type"].as_str()?.strip_prefix("run.")?;
            let status = event["data"]["status"].as_str().unwrap_or_default();
            Some(format!("{kind} {status}").trim_end().to_owned())
        });
        short.collect()
    }

    /// The outcomes of a command.
    pub fn outcomes(&self, command: &str) -> Vec<String> {
        let about = self.events.iter().filter(|event| event["data"]["command"] == command);
        let kinds = about.filter_map(|event| event["type"].as_str()?.strip_prefix("command."));
        kinds.filter(|kind| *kind != "issued").map(str::to_owned).collect()
    }

    /// The types of the events about an approval.
    pub fn about_approval(&self, approval: &str) -> Vec<&str> {
        let about = self.events.iter().filter(|event| event["data"]["approval"] == approval);
        about.filter_map(|event| event["type"].as_str()?.strip_prefix("approval.")).collect()
    }

    pub fn status(&self, run: &str) -> &'static str {
        run_view(&self.control, &name(run), self.now).status
    }
}
