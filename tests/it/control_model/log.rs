//! What a log of runs, commands and approvals must look like: the rules once more, seen from what they wrote.

use std::collections::{BTreeMap, BTreeSet};

use moorline::{
    id::{EntryId, Ms, Name},
    rules::{ApprovalStatus, CommandStatus, Control, RunStatus, Verdict},
};
use proptest::{prelude::*, test_runner::TestCaseError};
use serde_json::Value;

/// A run as the log tells it.
#[derive(Debug, Clone)]
struct Run {
    attempt: u64,
    agent: Value,
    parent: Option<String>,
    status: Status,
    /// It was asked to stop at some time.
    stopped: bool,
    lease: Ms,
    /// When its agent was last heard of.
    heard: Ms,
    /// The earliest end of its grace.
    until: Ms,
}

#[derive(Debug, Clone, PartialEq)]
enum Status {
    Running,
    Stopping,
    Ended(String),
}

#[derive(Debug, Clone)]
struct Command {
    kind: String,
    run: Option<String>,
    /// It stops all that descends from the run, too.
    tree: bool,
    outcome: Option<String>,
    expires_not_before: Ms,
}

/// The end of the story.
#[derive(Debug, Default)]
pub struct Story {
    runs: BTreeMap<String, Run>,
    /// Stopped before they started.
    expected: BTreeSet<String>,
    /// Stopped with everything below.
    trees: BTreeSet<String>,
    commands: BTreeMap<String, Command>,
    issued: Vec<String>,
    approvals: BTreeMap<String, (Option<String>, Option<String>)>,
    /// Must be asked to stop before anything else happens.
    to_stop: BTreeSet<String>,
    /// Must end before anything else happens.
    to_end: BTreeSet<String>,
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("a text, not {value}")).to_owned()
}

/// Reads a log from its beginning; an error says where it breaks a rule.
pub fn replay(events: &[(EntryId, Value)], heartbeats: &[(Name, Option<Ms>)]) -> Result<Story, TestCaseError> {
    let mut story = Story::default();
    for (at, (id, event)) in events.iter().enumerate() {
        story.read(*id, event, heartbeats).map_err(|error| {
            let shown: Vec<_> = events[..=at].iter().map(|(id, event)| format!("{id} {event}")).collect();
            TestCaseError::fail(format!("{error}\n{}\n{story:#?}", shown.join("\n")))
        })?;
    }
    prop_assert!(story.to_stop.is_empty() && story.to_end.is_empty(), "{story:#?}");
    Ok(story)
}

impl Story {
    fn read(&mut self, id: EntryId, event: &Value, heartbeats: &[(Name, Option<Ms>)]) -> Result<(), TestCaseError> {
        let (kind, data, now) = (text(&event["type"]), &event["data"], id.ms);
        let run = event["run"].as_str().map(str::to_owned);
        let about = |command: &Value| text(command);
        if !kind.starts_with("run.") && !kind.starts_with("command.") && !kind.starts_with("approval.") {
            prop_assert!(self.to_stop.is_empty(), "a stop took no effect");
        }
        if kind != "run.ended" {
            prop_assert!(self.to_end.is_empty(), "{:?} should have ended as it started", self.to_end);
        }
        match kind.as_str() {
            "run.started" => {
                let name = run.expect("a run");
                let attempt = data["attempt"].as_u64().expect("a number");
                let before = self.runs.get(&name).cloned();
                prop_assert_eq!(attempt, before.as_ref().map_or(0, |run| run.attempt) + 1);
                // The attempt before has ended, in a way that leaves something to do.
                let inherits = match &before {
                    None => false,
                    Some(Run { status: Status::Ended(how), stopped, .. }) => {
                        prop_assert!(how == "lost" || how == "failed", "{} was {} and starts again", name, how);
                        *stopped
                    }
                    Some(run) => return Err(TestCaseError::fail(format!("{name} starts twice: {run:?}"))),
                };
                let parent = data["parent"].as_str().map(str::to_owned);
                let parent = parent.or_else(|| before.as_ref().and_then(|run| run.parent.clone()));
                let mut above = parent.clone();
                let mut stopped = self.expected.remove(&name);
                while let Some(parent) = above {
                    prop_assert!(parent != name, "{} is above itself", name);
                    stopped |= self.trees.contains(&parent);
                    above = self.runs.get(&parent).expect("a parent that has started").parent.clone();
                }
                if inherits {
                    // Only an attempt that takes over from a live one may follow a stop, and it is asked to stop, too.
                    self.to_stop.insert(name.clone());
                } else if stopped {
                    self.to_end.insert(name.clone());
                }
                let lease = data["lease_ms"].as_u64().expect("a number");
                let until = before.filter(|_| inherits).map_or(Ms::MAX, |run| run.until);
                let agent = event["agent"].clone();
                let run = Run {
                    attempt,
                    agent,
                    parent,
                    status: Status::Running,
                    stopped: inherits,
                    lease,
                    heard: now,
                    until,
                };
                self.runs.insert(name, run);
            }
            "run.stopping" => {
                let name = run.expect("a run");
                self.to_stop.remove(&name);
                let run = self.runs.get_mut(&name).expect("a run that has started");
                prop_assert_eq!(&run.status, &Status::Running, "{} is asked to stop twice", name);
                prop_assert_eq!(data["attempt"].as_u64(), Some(run.attempt));
                run.status = Status::Stopping;
                run.stopped = true;
                run.until = run.until.min(now + data["grace_ms"].as_u64().expect("a number") + 2);
            }
            "run.ended" => {
                let name = run.expect("a run");
                self.to_end.remove(&name);
                self.to_stop.remove(&name);
                let run = self.runs.get_mut(&name).expect("a run that has started");
                prop_assert!(!matches!(run.status, Status::Ended(_)), "{} ends twice", name);
                prop_assert_eq!(data["attempt"].as_u64(), Some(run.attempt));
                let how = text(&data["status"]);
                if data["reason"] == "its lease ran out" {
                    // A fifth of the lease may pass before a touch is written down.
                    let silent = now - run.heard;
                    prop_assert!(silent + run.lease / 5 + 1 >= run.lease, "{} lost after {} ms", name, silent);
                }
                run.status = Status::Ended(how);
            }
            "command.issued" => {
                let command = about(&data["command"]);
                let kind = text(&data["type"]);
                if kind == "stop" {
                    self.stop(&run, event, now);
                }
                self.issued.push(command.clone());
                let expires_not_before = now;
                let tree = kind == "stop" && event["data"]["data"]["tree"] == true;
                let issued = Command { kind, run, tree, outcome: None, expires_not_before };
                let before = self.commands.insert(command, issued);
                prop_assert!(before.is_none(), "issued twice");
            }
            "command.consumed" | "command.rejected" | "command.expired" | "command.superseded" => {
                let name = about(&data["command"]);
                let command = self.commands.get_mut(&name).expect("a command that was issued");
                prop_assert_eq!(&command.outcome, &None, "{} ends twice", name);
                prop_assert!(now >= command.expires_not_before);
                let how = kind["command.".len()..].to_owned();
                if let Some(run) = command.run.clone().filter(|_| how == "consumed" || how == "rejected") {
                    self.hear(&run, now);
                }
                let command = self.commands.get_mut(&name).expect("a command that was issued");
                let lapses = command.kind == "stop" && (how == "expired" || how == "rejected");
                command.outcome = Some(how);
                if lapses && let Some(run) = command.run.clone() {
                    let holds = |c: &Command| c.kind == "stop" && c.outcome.is_none() && c.run.as_ref() == Some(&run);
                    // What still holds, holds as far as it was meant.
                    let trees: Vec<_> = self.commands.values().filter(|c| holds(c)).map(|c| c.tree).collect();
                    if self.expected.contains(&run) && !trees.contains(&true) {
                        self.trees.remove(&run);
                    }
                    if trees.is_empty() {
                        self.expected.remove(&run);
                    }
                }
            }
            "approval.requested" => {
                if let Some(run) = &run {
                    prop_assert!(self.is_live(run), "{run} asks after its end");
                    self.hear(run, now);
                }
                let before = self.approvals.insert(text(&data["approval"]), (run, None));
                prop_assert!(before.is_none(), "asked twice");
            }
            "approval.decided" | "approval.superseded" => {
                let approval = self.approvals.get_mut(&text(&data["approval"])).expect("an approval");
                prop_assert_eq!(&approval.1, &None, "settled twice");
                let how = data["decision"].as_str().unwrap_or("superseded");
                approval.1 = Some(how.to_owned());
            }
            _ => {
                let name = run.expect("a run");
                let Some(run) = self.runs.get_mut(&name) else {
                    prop_assert_eq!(&data["attempt"], &Value::Null, "{} was never started", name);
                    return Ok(());
                };
                prop_assert!(!matches!(run.status, Status::Ended(_)), "{} writes after its end", name);
                let attempt = &data["attempt"];
                prop_assert!(attempt.is_null() || *attempt == run.attempt, "{} writes as a stale attempt", name);
                prop_assert!(now < run.until, "{} writes after its grace", name);
                // Heartbeats are not in the log. One whose answer was lost may have come at any time.
                let beats = heartbeats.iter().filter(|(of, _)| of.as_str() == name).map(|(_, at)| at.unwrap_or(now));
                let heard = beats.filter(|at| *at <= now).chain([run.heard]).max().unwrap_or_default();
                prop_assert!(now < heard + run.lease, "{} writes after its lease", name);
                run.heard = now;
            }
        }
        Ok(())
    }

    /// A sign of life of a run's agent.
    fn hear(&mut self, run: &str, now: Ms) {
        if let Some(run) = self.runs.get_mut(run) {
            run.heard = now;
        }
    }

    fn is_live(&self, run: &str) -> bool {
        self.runs.get(run).is_some_and(|run| !matches!(run.status, Status::Ended(_)))
    }

    /// A stop was issued: whom it reaches.
    fn stop(&mut self, run: &Option<String>, event: &Value, now: Ms) {
        let tree = event["data"]["data"]["tree"] == true;
        let grace = event["data"]["data"]["grace_ms"].as_u64().expect("a number");
        let below = |name: &str, top: &str| {
            let mut above = Some(name.to_owned());
            while let Some(name) = above {
                if name == top {
                    return true;
                }
                above = self.runs[&name].parent.clone();
            }
            false
        };
        let meant = |name: &str, of: &Run| match run {
            Some(top) => name == top || tree && below(name, top),
            None => event["agent"].is_null() || event["agent"] == of.agent,
        };
        let meant = self.runs.iter().filter(|(name, run)| self.is_live(name) && meant(name, run));
        let meant: Vec<_> = meant.map(|(name, run)| (name.clone(), run.status.clone())).collect();
        if let Some(top) = run {
            if !self.runs.contains_key(top) {
                self.expected.insert(top.clone());
            }
            if tree {
                self.trees.insert(top.clone());
            }
        }
        for (name, status) in meant {
            if status == Status::Running {
                self.to_stop.insert(name.clone());
            }
            if tree {
                self.trees.insert(name.clone());
            }
            let run = self.runs.get_mut(&name).expect("just seen");
            run.until = run.until.min(now + grace + 2);
        }
    }

    /// Whether the control state is what the log implies.
    pub fn agrees_with(&self, control: &Control, commands: &[(EntryId, Value)]) -> Result<(), TestCaseError> {
        let started = control.runs().filter(|(_, run)| run.status != RunStatus::Expected);
        let started: Vec<_> = started
            .map(|(name, run)| {
                let status = match run.status {
                    RunStatus::Stopping { .. } => Status::Stopping,
                    RunStatus::Ended { how, .. } => Status::Ended(how.to_string()),
                    _ => Status::Running,
                };
                (name.to_string(), run.attempt as u64, status)
            })
            .collect();
        let told: Vec<_> = self.runs.iter().map(|(n, run)| (n.clone(), run.attempt, run.status.clone())).collect();
        prop_assert_eq!(started, told);
        let expected = control.runs().filter(|(_, run)| run.status == RunStatus::Expected);
        let expected: BTreeSet<_> = expected.map(|(name, _)| name.to_string()).collect();
        prop_assert_eq!(&expected, &self.expected);

        let lane: Vec<_> = commands.iter().map(|(_, command)| text(&command["command"])).collect();
        prop_assert_eq!(&lane, &self.issued, "the lanes tell different stories");
        let known: BTreeMap<_, _> = control.commands().map(|(id, c)| (id.to_string(), c)).collect();
        prop_assert_eq!(known.len(), self.commands.len());
        for (id, command) in &self.commands {
            let status = known[id].status;
            let told = command.outcome.as_deref().unwrap_or("pending");
            prop_assert_eq!(status.to_string(), told, "{}", id);
            let entry = commands.iter().find(|(_, c)| c["command"] == *id).map(|(entry, _)| *entry);
            prop_assert_eq!(known[id].entry, entry);
            let waits = control.runs().filter(|(_, run)| run.stops.iter().any(|stop| stop.as_str() == id)).count();
            if status == CommandStatus::Pending {
                prop_assert_eq!(known[id].waits_for, waits, "{}", id);
            }
        }
        for (id, approval) in control.approvals() {
            let told = self.approvals.get(id.as_str()).cloned();
            let status = match &approval.status {
                ApprovalStatus::Pending => None,
                ApprovalStatus::Decided { decision: Verdict::Approve, .. } => Some("approve"),
                ApprovalStatus::Decided { decision: Verdict::Deny, .. } => Some("deny"),
                ApprovalStatus::Superseded => Some("superseded"),
            };
            let run = approval.run.as_ref().map(ToString::to_string);
            prop_assert_eq!(told, Some((run, status.map(str::to_owned))), "{}", id);
        }
        prop_assert_eq!(control.approvals().count(), self.approvals.len());
        if control.closed.is_some() {
            let open = self.runs.values().any(|run| !matches!(run.status, Status::Ended(_)));
            prop_assert!(!open, "a closed session has a live run");
            prop_assert!(self.commands.values().all(|c| c.outcome.is_some()), "a closed session has a pending command");
            prop_assert!(self.approvals.values().all(|a| a.1.is_some()), "a closed session has a pending approval");
        }
        Ok(())
    }
}
