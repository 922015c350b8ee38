//! Commands: what somebody asks of the agents, each with exactly one outcome.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use serde_json::{json, value::RawValue};

use super::{Control, Effects, EndStatus, Refusal, Reply, Run, RunStatus, approvals, entries, runs};
use crate::{
    id::{EntryId, Ms, Name},
    store::Part,
    trace::Traceparent,
};

/// A day: a session rarely lives longer without a write.
pub const TTL_MAX: Ms = 86_400_000;
/// What a stop gives that names no grace.
pub const GRACE_DEFAULT: Ms = 5_000;
/// An hour.
pub const GRACE_MAX: Ms = 3_600_000;

/// How a command can end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The agent did what it asks.
    Consumed,
    /// The agent will not.
    Rejected,
    /// Its time ran out.
    Expired,
    /// Its run ended first.
    Superseded,
}

/// Where a command stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CommandStatus {
    /// No outcome yet.
    Pending,
    /// The agent did what it asks.
    Consumed,
    /// The agent will not.
    Rejected,
    /// Its time ran out.
    Expired,
    /// Its run ended first.
    Superseded,
}

impl fmt::Display for CommandStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CommandStatus::Pending => "pending",
            CommandStatus::Consumed => "consumed",
            CommandStatus::Rejected => "rejected",
            CommandStatus::Expired => "expired",
            CommandStatus::Superseded => "superseded",
        })
    }
}

/// A command's record. What it says is in the log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Command {
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Where it stands.
    pub status: CommandStatus,
    /// The agent it is for.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub agent: Option<Name>,
    /// The run it is for.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub run: Option<Name>,
    /// When it expires.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub expires: Option<Ms>,
    /// When it was issued; when it ended, once it has.
    pub at: Ms,
    /// Of a stop: how many of the runs that it stopped have not ended yet. Each of them names the command.
    #[serde(skip_serializing_if = "none", default)]
    pub waits_for: usize,
    /// Of a stop: it is for all that descends from its run, too.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub tree: bool,
    /// Of a stop: a run has ended because of it.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub cancelled: bool,
    /// Its place in the commands lane; kept behind the record by the store.
    #[serde(skip)]
    pub entry: Option<EntryId>,
}

fn none(count: &usize) -> bool {
    *count == 0
}

/// What the record of a command takes beyond its type and names, in bytes: an upper bound.
const RECORD_BYTES: usize = 300;
/// What a run's record takes for a stop, beyond the command's id.
const STOP_BYTES: usize = 80;

/// To ask something.
#[derive(Debug, Clone)]
pub struct CommandRequest {
    /// The client's id for it, or one that the gateway made.
    pub id: Name,
    /// `stop`, `decide`, or any other type.
    pub kind: String,
    /// The agent it is for.
    pub agent: Option<Name>,
    /// The run it is for.
    pub run: Option<Name>,
    /// What it says: compact JSON.
    pub data: Option<Box<RawValue>>,
    /// How long it may wait for its outcome.
    pub ttl_ms: Option<i64>,
    /// Of a stop: how long the run may take to end by itself.
    pub grace_ms: Option<i64>,
    /// Of a stop: with all that descends from the run.
    pub tree: bool,
    /// Of a decision: what it decides.
    pub decision: Option<approvals::Decision>,
    /// Who asks: the subject of their token, if there was one.
    pub by: Option<Arc<str>>,
    /// The trace in which it is asked for. Goes on to whoever obeys.
    pub traceparent: Option<Traceparent>,
}

/// What an agent can say of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reported {
    /// It did what it asks.
    Consumed,
    /// It will not.
    Rejected,
}

/// To say what became of a command.
#[derive(Debug, Clone)]
pub struct OutcomeRequest {
    /// The command.
    pub command: Name,
    /// What became of it.
    pub outcome: Reported,
    /// Why.
    pub reason: Option<String>,
    /// The attempt at the command's run that the agent believes itself to be, if it says so.
    pub attempt: Option<u32>,
    /// The only agent that the request may speak as, if it is bound to one.
    pub speaker: Option<Name>,
}

/// Accepts a command and does what the gateway itself has to do about it.
pub fn issue(
    control: &mut Control,
    now: Ms,
    request: &CommandRequest,
    part: &mut Part,
    effects: &mut Effects,
) -> Result<Reply, Refusal> {
    let id = &request.id;
    if control.command(id).is_some() {
        return Ok(Reply::Known(id.clone()));
    }
    let Weighed { ttl, grace, targets, expects } = weigh(control, request)?;
    let stops = request.kind == "stop";
    let said = if stops { Some(stop_data(request, grace)) } else { request.data.clone() };
    let (agent, run) = (request.agent.as_ref(), request.run.as_ref());
    let approval = request.decision.as_ref().map(|decision| &decision.approval);
    let (kind, data) = (request.kind.as_str(), said.as_deref());
    let (by, traceparent) = (request.by.as_deref(), request.traceparent);
    part.commands.push(entries::Command { kind, id, agent, run, approval, by, traceparent, data }.payload());
    let issued = Issued { command: id, kind, approval, by, traceparent, data };
    entries::event(part, "command.issued", agent, run, &issued);
    effects.issued.push(id.clone());
    control.set_command(
        id,
        Command {
            kind: request.kind.clone(),
            status: CommandStatus::Pending,
            agent: request.agent.clone(),
            run: request.run.clone(),
            // A stop that has taken effect ends with its runs, and not before them.
            expires: ttl.filter(|_| targets.is_empty()).map(|ttl| now + ttl),
            at: now,
            waits_for: targets.len(),
            tree: stops && request.tree,
            cancelled: false,
            entry: None,
        },
    );

    if let Some(run) = expects {
        expect(control, run, request.tree, now);
    } else if stops && targets.is_empty() {
        resolve(control, id, Outcome::Superseded, Some("nothing was running"), now, part);
    }
    if let Some(top) = request.run.as_ref().filter(|_| request.tree)
        && let Some(run) = control.run(top).filter(|run| !run.is_live() && !run.tree_stopped).cloned()
    {
        control.set_run(top, Run { tree_stopped: true, ..run });
    }
    for run in &targets {
        runs::stop(control, run, grace, request.tree, now, id, part);
    }
    if grace == 0 {
        for run in &targets {
            runs::end(control, run, EndStatus::Cancelled, Some("stopped"), now, part);
        }
    }
    if let Some(decision) = &request.decision {
        approvals::decide(control, decision, id, by, part);
        resolve(control, id, Outcome::Consumed, None, now, part);
    }
    Ok(Reply::Accepted(id.clone()))
}

/// What a command comes to, where it is accepted.
struct Weighed<'a> {
    ttl: Option<Ms>,
    grace: Ms,
    /// The live runs that a stop is for.
    targets: Vec<Name>,
    /// A run that is to be stopped when it starts.
    expects: Option<&'a Name>,
}

/// Whether there is anything against a command. Changes nothing.
fn weigh<'a>(control: &Control, request: &'a CommandRequest) -> Result<Weighed<'a>, Refusal> {
    let id = &request.id;
    let ttl = request.ttl_ms.map(|ms| runs::in_range("ttl_ms", ms, 1, TTL_MAX)).transpose()?;
    let grace = request.grace_ms.map(|ms| runs::in_range("grace_ms", ms, 0, GRACE_MAX)).transpose()?;
    let grace = grace.unwrap_or(GRACE_DEFAULT);
    let stops = request.kind == "stop";
    let targets = if stops { targets(control, request) } else { Vec::new() };
    if let Some(run) = &request.run
        && let Some(Run { status: RunStatus::Ended { how, .. }, attempt, .. }) = control.run(run)
        // A run may be over and what it started still at work.
        && targets.is_empty()
    {
        return Err(Refusal::RunEnded { run: run.clone(), attempt: *attempt, status: *how });
    }
    if let Some(decision) = &request.decision {
        approvals::check(control, decision)?;
    }
    let expects = request.run.as_ref().filter(|run| stops && !control.is_live(run) && targets.is_empty());
    if let Some(run) = expects.filter(|run| control.run(run).is_none()) {
        runs::room(control, run)?;
    }
    let names = [Some(id), request.agent.as_ref(), request.run.as_ref()];
    let size =
        RECORD_BYTES + request.kind.len() + names.iter().flatten().map(|name| name.as_str().len()).sum::<usize>();
    // What is settled here, or by the clock at the latest, is accepted although agents let other commands pile up.
    let settles = !targets.is_empty() || request.decision.is_some();
    if !settles {
        let pending = control.commands().filter(|(_, c)| c.status == CommandStatus::Pending).count();
        if pending >= control.limits.pending_commands {
            return Err(Refusal::TooManyCommands(control.limits.pending_commands));
        }
    }
    let fits = if settles {
        control.has_spare_room(size + targets.len() * (id.as_str().len() + STOP_BYTES))
    } else {
        control.has_room(size)
    };
    if !fits {
        return Err(Refusal::ControlFull(control.limits.bytes));
    }
    Ok(Weighed { ttl, grace, targets, expects })
}

/// The data of `command.issued`.
#[derive(Serialize)]
struct Issued<'a> {
    command: &'a Name,
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    approval: Option<&'a Name>,
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<Traceparent>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
}

/// What an agent must know to obey stands in a stop's data, beside what the user put there, whose values stay as written.
fn stop_data(request: &CommandRequest, grace: Ms) -> Box<RawValue> {
    let raw = |text: String| RawValue::from_string(text).unwrap_or_else(|_| RawValue::NULL.to_owned());
    let mut said: BTreeMap<String, Box<RawValue>> = match &request.data {
        Some(data) if data.get().starts_with('{') => serde_json::from_str(data.get()).unwrap_or_default(),
        Some(other) => BTreeMap::from([("data".to_owned(), other.clone())]),
        None => BTreeMap::new(),
    };
    said.insert("grace_ms".to_owned(), raw(grace.to_string()));
    said.insert("tree".to_owned(), raw(request.tree.to_string()));
    serde_json::value::to_raw_value(&said).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

/// The live runs that a stop is for.
fn targets(control: &Control, request: &CommandRequest) -> Vec<Name> {
    let mut below = Below { control, top: request.run.as_ref(), known: HashMap::new() };
    let live = control.runs().filter(|(_, run)| run.is_live());
    let meant = live.filter(|(name, run)| match (&request.run, &request.agent) {
        (Some(top), _) => *name == top || request.tree && below.holds(name),
        (None, Some(_)) => run.agent == request.agent,
        (None, None) => true,
    });
    meant.map(|(name, _)| name.clone()).collect()
}

/// Which runs descend from one, each looked at once however deep the tree is.
struct Below<'a> {
    control: &'a Control,
    top: Option<&'a Name>,
    known: HashMap<&'a Name, bool>,
}

impl<'a> Below<'a> {
    fn holds(&mut self, name: &'a Name) -> bool {
        let (mut path, mut at) = (Vec::new(), Some(name));
        let found = loop {
            let Some(name) = at else { break false };
            if let Some(known) = self.known.get(name) {
                break *known;
            }
            path.push(name);
            at = self.control.run(name).and_then(|run| run.parent.as_ref());
            if at.is_some() && at == self.top {
                break true;
            }
        };
        self.known.extend(path.into_iter().map(|name| (name, found)));
        found
    }
}

/// Remembers that a run is to end as it starts.
fn expect(control: &mut Control, run: &Name, tree: bool, now: Ms) {
    let before = control.run(run);
    let tree = tree || before.is_some_and(|run| run.tree_stopped);
    if before.is_none_or(|run| run.tree_stopped != tree) {
        control.set_run(run, Run::expected(tree, now));
    }
}

/// Forgets the run that a lapsed stop expected, unless another pending stop expects it; its tree mark is then that of
/// those that are left.
fn lapse(control: &mut Control, command: &Command) {
    let Some(run) = command.run.as_ref().filter(|_| command.kind == "stop") else { return };
    let Some(expected) = control.run(run).filter(|run| run.status == RunStatus::Expected).cloned() else { return };
    let holds = |c: &Command| c.status == CommandStatus::Pending && c.kind == "stop" && c.run.as_ref() == Some(run);
    let trees: Vec<_> = control.commands().filter(|(_, c)| holds(c)).map(|(_, c)| c.tree).collect();
    let tree = trees.contains(&true);
    if trees.is_empty() {
        control.forget_run(run);
    } else if expected.tree_stopped != tree {
        control.set_run(run, Run { tree_stopped: tree, ..expected });
    }
}

/// The agent says what became of a command.
pub fn report(control: &mut Control, now: Ms, request: &OutcomeRequest, part: &mut Part) -> Result<Reply, Refusal> {
    let id = &request.command;
    let command = control.command(id).ok_or_else(|| Refusal::UnknownCommand(id.clone()))?;
    if command.status != CommandStatus::Pending {
        return Err(Refusal::CommandEnded { command: id.clone(), status: command.status });
    }
    if let Some(run) = &command.run {
        runs::speaks_for(control, run, request.speaker.as_ref())?;
    }
    if let (Some(speaker), Some(owner)) = (&request.speaker, &command.agent)
        && speaker != owner
    {
        let (name, owner, speaker) = (id.clone(), owner.clone(), speaker.clone());
        return Err(Refusal::AnotherAgents { what: "command", name, owner, speaker });
    }
    if let (Some(attempt), Some(run)) = (request.attempt, &command.run) {
        runs::live(control, run, Some(attempt))?;
    }
    let command = command.clone();
    // A sign of life of the run's agent.
    part.touch.extend(command.run.iter().filter(|run| control.is_live(run)).cloned());
    let reason = request.reason.as_deref();
    match request.outcome {
        Reported::Consumed => resolve(control, id, Outcome::Consumed, reason, now, part),
        Reported::Rejected => {
            resolve(control, id, Outcome::Rejected, reason, now, part);
            lapse(control, &command);
        }
    }
    Ok(Reply::Done)
}

/// Nobody took the command up in time.
pub fn expire(control: &mut Control, id: &Name, now: Ms, part: &mut Part) {
    let Some(command) = control.command(id).filter(|c| c.status == CommandStatus::Pending).cloned() else { return };
    resolve(control, id, Outcome::Expired, None, now, part);
    lapse(control, &command);
}

/// Gives a pending command its outcome.
pub fn resolve(control: &mut Control, id: &Name, how: Outcome, reason: Option<&str>, now: Ms, part: &mut Part) {
    let Some(command) = control.command(id).filter(|c| c.status == CommandStatus::Pending).cloned() else { return };
    let (kind, status) = match how {
        Outcome::Consumed => ("command.consumed", CommandStatus::Consumed),
        Outcome::Rejected => ("command.rejected", CommandStatus::Rejected),
        Outcome::Expired => ("command.expired", CommandStatus::Expired),
        Outcome::Superseded => ("command.superseded", CommandStatus::Superseded),
    };
    let mut data = json!({"command": id, "type": command.kind});
    if let Some(reason) = reason {
        data["reason"] = json!(reason);
    }
    entries::event(part, kind, command.agent.as_ref(), command.run.as_ref(), &data);
    control.set_command(id, Command { status, at: now, expires: None, waits_for: 0, cancelled: false, ..command });
    forget_oldest(control);
}

/// A run has ended: what asked it to stop (`stops`) is done when all the runs it stopped have, and anything else that
/// was asked of the run comes too late.
pub fn run_ended(control: &mut Control, run: &Name, stops: &[Name], how: EndStatus, now: Ms, part: &mut Part) {
    for id in stops {
        // A stop that an agent has reported as done waits for nothing.
        let Some(command) = control.command(id).filter(|c| c.status == CommandStatus::Pending).cloned() else {
            continue;
        };
        let waits_for = command.waits_for.saturating_sub(1);
        let cancelled = command.cancelled || how == EndStatus::Cancelled;
        if waits_for > 0 {
            control.set_command(id, Command { waits_for, cancelled, ..command });
        } else if cancelled {
            resolve(control, id, Outcome::Consumed, None, now, part);
        } else {
            resolve(control, id, Outcome::Superseded, Some("the run ended first"), now, part);
        }
    }
    let too_late = |c: &Command| c.status == CommandStatus::Pending && c.run.as_ref() == Some(run) && c.waits_for == 0;
    let late: Vec<_> = control.commands().filter(|(_, c)| too_late(c)).map(|(id, c)| (id.clone(), c.clone())).collect();
    for (id, command) in late {
        // A stop that came before the run did what it was for.
        if command.kind == "stop" && how == EndStatus::Cancelled {
            resolve(control, &id, Outcome::Consumed, None, now, part)
        } else {
            resolve(control, &id, Outcome::Superseded, Some("the run ended first"), now, part)
        }
    }
}

/// Ended commands are remembered only so far back.
fn forget_oldest(control: &mut Control) {
    let ended = control.commands().filter(|(_, c)| c.status != CommandStatus::Pending);
    let (count, oldest) = ended.fold((0, None), |(count, oldest): (usize, Option<(Ms, &Name)>), (id, c)| {
        let older = oldest.is_none_or(|(at, _)| c.at < at);
        (count + 1, if older { Some((c.at, id)) } else { oldest })
    });
    if count > control.limits.ended_commands
        && let Some(id) = oldest.map(|(_, id)| id.clone())
    {
        control.forget_command(&id);
    }
}

#[cfg(test)]
mod tests;
