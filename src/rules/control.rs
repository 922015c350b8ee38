//! The control state: what a session must remember beyond its logs.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

use super::{Approval, ApprovalStatus, Command, CommandStatus, Run, RunStatus};
use crate::{
    id::{EntryId, Ms, Name},
    store::{State, StoreError},
};

/// Bounds of a control state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of all records.
    pub bytes: usize,
    /// Runs, live and ended. An ended run stays known, so that nothing can be appended to it.
    pub runs: usize,
    /// Commands without an outcome.
    pub pending_commands: usize,
    /// Commands with an outcome that are remembered, so that asking again gets the same answer.
    pub ended_commands: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { bytes: 1 << 20, runs: 5_000, pending_commands: 1_000, ended_commands: 1_000 }
    }
}

/// What a session must remember: runs, commands and approvals, each a small record in the store.
#[derive(Debug, Clone, Default)]
#[cfg_attr(test, derive(PartialEq))]
pub struct Control {
    /// When the session was closed.
    pub closed: Option<Ms>,
    /// Bounds.
    pub limits: Limits,
    runs: BTreeMap<Name, Run>,
    commands: BTreeMap<Name, Command>,
    approvals: BTreeMap<Name, Approval>,
    touched: HashMap<Name, Ms>,
    /// Records that differ from the store's, as they are to be written there; `None` is to be dropped.
    changes: BTreeMap<Key, Option<Bytes>>,
    /// The size of each record, and of all.
    sizes: HashMap<Key, usize>,
    bytes: usize,
    /// The earliest deadline; kept while nothing changes.
    due: Option<Option<(Ms, Due)>>,
}

/// The key of a command's record.
pub fn command_key(id: &Name) -> String {
    format!("command:{id}")
}

/// A record's key.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Key {
    Run(Name),
    Command(Name),
    Approval(Name),
}

/// What happens at a deadline.
#[derive(Debug, Clone, PartialEq)]
pub enum Due {
    /// A run's lease runs out.
    Lease(Name),
    /// A run's time to stop by itself runs out.
    Grace(Name),
    /// A command expires.
    Command(Name),
    /// An approval expires.
    Approval(Name),
}

impl Control {
    /// The control state of a session that does not exist yet.
    pub fn new(limits: Limits) -> Self {
        Control { limits, ..Default::default() }
    }

    /// The control state as the store has it.
    pub fn read(state: &State, limits: Limits) -> Result<Self, StoreError> {
        let mut control = Control { closed: state.closed, ..Control::new(limits) };
        for (key, value) in &state.records {
            let unreadable = || StoreError::Fault(format!("the record {key:?} reads {value:?}"));
            let (kind, name) = key.split_once(':').ok_or_else(unreadable)?;
            let name: Name = name.parse().map_err(|_| unreadable())?;
            let key = match kind {
                "run" => {
                    control.runs.insert(name.clone(), json(value).ok_or_else(unreadable)?);
                    Key::Run(name)
                }
                "command" => {
                    let (value, entry) = split_entry(value);
                    let mut command: Command = json(value).ok_or_else(unreadable)?;
                    command.entry = entry;
                    control.commands.insert(name.clone(), command);
                    Key::Command(name)
                }
                "approval" => {
                    control.approvals.insert(name.clone(), json(value).ok_or_else(unreadable)?);
                    Key::Approval(name)
                }
                _ => return Err(unreadable()),
            };
            control.bytes += value.len();
            control.sizes.insert(key, value.len());
        }
        control.touched = state.touched.iter().cloned().collect();
        Ok(control)
    }

    /// The records to write since the last call.
    pub fn take_changes(&mut self) -> Vec<(String, Option<Bytes>)> {
        let name = |key| match key {
            Key::Run(name) => format!("run:{name}"),
            Key::Command(name) => command_key(&name),
            Key::Approval(name) => format!("approval:{name}"),
        };
        std::mem::take(&mut self.changes).into_iter().map(|(key, value)| (name(key), value)).collect()
    }

    /// The size of all records, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether there is room for so many bytes more.
    pub fn has_room(&self, more: usize) -> bool {
        self.bytes + more <= self.limits.bytes
    }

    /// Whether there is room for so many bytes of what takes work off the session: a stop, a decision. Somebody who
    /// filled the session up must not keep others from stopping what runs in it.
    pub fn has_spare_room(&self, more: usize) -> bool {
        self.bytes + more <= self.limits.bytes.saturating_mul(2)
    }

    /// A run that was started, or is to be stopped when it starts.
    pub fn run(&self, name: &Name) -> Option<&Run> {
        self.runs.get(name)
    }

    /// All runs, by name.
    pub fn runs(&self) -> impl ExactSizeIterator<Item = (&Name, &Run)> {
        self.runs.iter()
    }

    /// Whether a run has started and not ended.
    pub fn is_live(&self, name: &Name) -> bool {
        self.runs.get(name).is_some_and(Run::is_live)
    }

    /// The names of the runs that have started and not ended.
    pub fn live_runs(&self) -> Vec<Name> {
        self.runs.iter().filter(|(_, run)| run.is_live()).map(|(name, _)| name.clone()).collect()
    }

    /// A command that is remembered.
    pub fn command(&self, id: &Name) -> Option<&Command> {
        self.commands.get(id)
    }

    /// All commands that are remembered, by id.
    pub fn commands(&self) -> impl Iterator<Item = (&Name, &Command)> {
        self.commands.iter()
    }

    /// The ids of the commands without an outcome.
    pub fn pending_commands(&self) -> Vec<Name> {
        let pending = self.commands.iter().filter(|(_, c)| c.status == CommandStatus::Pending);
        pending.map(|(id, _)| id.clone()).collect()
    }

    /// An approval.
    pub fn approval(&self, id: &Name) -> Option<&Approval> {
        self.approvals.get(id)
    }

    /// All approvals, by id.
    pub fn approvals(&self) -> impl Iterator<Item = (&Name, &Approval)> {
        self.approvals.iter()
    }

    /// The ids of the approvals that wait for a decision.
    pub fn pending_approvals(&self) -> Vec<Name> {
        let pending = self.approvals.iter().filter(|(_, a)| a.status == ApprovalStatus::Pending);
        pending.map(|(id, _)| id.clone()).collect()
    }

    pub(super) fn set_run(&mut self, name: &Name, run: Run) {
        self.change(Key::Run(name.clone()), Some(record(&run)));
        self.runs.insert(name.clone(), run);
    }

    pub(super) fn forget_run(&mut self, name: &Name) {
        self.change(Key::Run(name.clone()), None);
        self.runs.remove(name);
    }

    pub(super) fn set_command(&mut self, id: &Name, command: Command) {
        self.change(Key::Command(id.clone()), Some(command_record(&command)));
        self.commands.insert(id.clone(), command);
    }

    pub(super) fn forget_command(&mut self, id: &Name) {
        self.change(Key::Command(id.clone()), None);
        self.commands.remove(id);
    }

    pub(super) fn set_approval(&mut self, id: &Name, approval: Approval) {
        self.change(Key::Approval(id.clone()), Some(record(&approval)));
        self.approvals.insert(id.clone(), approval);
    }

    fn change(&mut self, key: Key, value: Option<Bytes>) {
        let before = match &value {
            Some(value) => self.sizes.insert(key.clone(), value.len()),
            None => self.sizes.remove(&key),
        };
        self.bytes = self.bytes + value.as_ref().map_or(0, Bytes::len) - before.unwrap_or(0);
        self.changes.insert(key, value);
        self.due = None;
    }

    /// When a run was last touched, as far as this copy knows.
    pub fn touched(&self, run: &Name) -> Ms {
        self.touched.get(run).copied().unwrap_or(0)
    }

    /// A run was touched: its lease counts from there.
    pub fn touch(&mut self, run: &Name, now: Ms) {
        self.touched.insert(run.clone(), now);
        self.due = None;
    }

    /// The store gave a new command its place.
    pub fn set_entry(&mut self, id: &Name, entry: EntryId) {
        let Some(command) = self.commands.get_mut(id) else { return };
        command.entry = Some(entry);
        let size = command_record(command).len();
        self.bytes = self.bytes + size - self.sizes.insert(Key::Command(id.clone()), size).unwrap_or(0);
    }

    /// The earliest deadline, and what happens then.
    pub fn next_due(&mut self) -> Option<(Ms, Due)> {
        if self.due.is_none() {
            self.due = Some(self.find_due());
        }
        self.due.clone().flatten()
    }

    /// Everything whose deadline is not after `now`, the earliest first.
    pub fn due_by(&mut self, now: Ms) -> Vec<Due> {
        if self.next_due().is_none_or(|(at, _)| at > now) {
            return Vec::new();
        }
        let mut due: Vec<_> = self.deadlines().filter(|(at, _)| *at <= now).collect();
        due.sort_by_key(|(at, _)| *at);
        due.into_iter().map(|(_, due)| due).collect()
    }

    fn find_due(&self) -> Option<(Ms, Due)> {
        self.deadlines().min_by_key(|(at, _)| *at)
    }

    fn deadlines(&self) -> impl Iterator<Item = (Ms, Due)> {
        let leases = self.runs.iter().filter(|(_, run)| run.is_live());
        let leases = leases.map(|(name, run)| (self.touched(name) + run.lease_ms, Due::Lease(name.clone())));
        let graces = self.runs.iter().filter_map(|(name, run)| match &run.status {
            RunStatus::Stopping { until, .. } => Some((*until, Due::Grace(name.clone()))),
            _ => None,
        });
        let commands = self.commands.iter().filter(|(_, c)| c.status == CommandStatus::Pending);
        let commands = commands.filter_map(|(id, c)| Some((c.expires?, Due::Command(id.clone()))));
        let approvals = self.approvals.iter().filter(|(_, a)| a.status == ApprovalStatus::Pending);
        let approvals = approvals.map(|(id, a)| (a.expires, Due::Approval(id.clone())));
        // A stop goes before a lost lease of the same instant: it was asked for.
        graces.chain(leases).chain(commands).chain(approvals)
    }
}

fn json<T: DeserializeOwned>(value: &[u8]) -> Option<T> {
    serde_json::from_slice(value).ok()
}

fn record<T: Serialize>(value: &T) -> Bytes {
    // Names, numbers and enums: nothing that can fail to be JSON.
    serde_json::to_vec(value).unwrap_or_default().into()
}

/// A command's record is its JSON and behind it the id of its entry.
fn command_record(command: &Command) -> Bytes {
    let mut value = record(command).to_vec();
    if let Some(entry) = command.entry {
        value.extend_from_slice(format!(" {entry}").as_bytes());
    }
    value.into()
}

fn split_entry(value: &[u8]) -> (&[u8], Option<EntryId>) {
    let end = memchr::memrchr(b'}', value).map_or(value.len(), |at| at + 1);
    let entry = std::str::from_utf8(&value[end..]).ok().and_then(|text| text.trim().parse().ok());
    (&value[..end], entry)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::{
        EndStatus,
        scene::{Scene, name},
    };

    #[test]
    fn what_is_read_back_is_what_was_written() {
        // A scene reads back after everything that is done in it.
        let mut scene = Scene::new();
        scene.start("r").unwrap();
        scene.start_with("s", |request| request.parent = Some(name("r"))).unwrap();
        scene.ask("a", Some("r"), None).unwrap();
        scene.command("steer", |request| request.ttl_ms = Some(500)).unwrap();
        scene.stop_tree("r", 100).unwrap();
        scene.stop("later", 100).unwrap();
        scene.end("s", EndStatus::Failed).unwrap();
        scene.wait(1_000);
        assert!(scene.control.commands.values().all(|command| command.entry.is_some()));
    }

    #[test]
    fn the_bytes_are_those_of_the_records() {
        let mut scene = Scene::new();
        scene.start("r").unwrap();
        scene.command("steer", |_| {}).unwrap();
        scene.stop("r", 100).unwrap();
        scene.command("stop", |request| (request.run, request.ttl_ms) = (Some(name("x")), Some(1))).unwrap();
        scene.wait(1_000);
        let runs = scene.control.runs.values().map(|run| record(run).len()).sum::<usize>();
        let commands = scene.control.commands.values().map(|command| command_record(command).len()).sum::<usize>();
        assert_eq!(scene.control.bytes(), runs + commands);
    }

    #[test]
    fn a_record_that_nobody_wrote_is_an_error() {
        for (key, value) in [("run:r", "{"), ("run:r", "[]"), ("run:a b", "{}"), ("colour:r", "{}"), ("run", "{}")] {
            let records = vec![(key.to_owned(), Bytes::from(value))];
            let state = State { version: "v".into(), created: 0, closed: None, records, touched: Vec::new() };
            assert!(Control::read(&state, Limits::default()).is_err(), "{key} {value}");
        }
    }
}
