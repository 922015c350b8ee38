//! Commands: what somebody asks of the agents, each with exactly one outcome.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Control, Effects, EndStatus, Refusal, Reply, Run, RunStatus, approvals, entries, runs};
use crate::{
    id::{EntryId, Ms, Name},
    store::Part,
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
    /// Of a stop: the runs that have not ended yet.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub targets: Vec<Name>,
    /// Its place in the commands lane; kept behind the record by the store.
    #[serde(skip)]
    pub entry: Option<EntryId>,
}

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
    /// What it says.
    pub data: Option<Value>,
    /// How long it may wait for its outcome.
    pub ttl_ms: Option<i64>,
    /// Of a stop: how long the run may take to end by itself.
    pub grace_ms: Option<i64>,
    /// Of a stop: with all that descends from the run.
    pub tree: bool,
    /// Of a decision: what it decides.
    pub decision: Option<approvals::Decision>,
}

/// To say what became of a command.
#[derive(Debug, Clone)]
pub struct OutcomeRequest {
    /// The command.
    pub command: Name,
    /// Whether it was done; else it was rejected.
    pub consumed: bool,
    /// Why.
    pub reason: Option<String>,
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
    let ttl = request.ttl_ms.map(|ms| runs::in_range("ttl_ms", ms, 1, TTL_MAX)).transpose()?;
    let grace = request.grace_ms.map(|ms| runs::in_range("grace_ms", ms, 0, GRACE_MAX)).transpose()?;
    let grace = grace.unwrap_or(GRACE_DEFAULT);
    if let Some(run) = &request.run
        && let Some(Run { status: RunStatus::Ended { how, .. }, attempt, .. }) = control.run(run)
    {
        return Err(Refusal::RunEnded { run: run.clone(), attempt: *attempt, status: *how });
    }
    if let Some(decision) = &request.decision {
        approvals::check(control, decision)?;
    }
    let pending = control.commands().filter(|(_, c)| c.status == CommandStatus::Pending).count();
    if pending >= control.limits.pending_commands {
        return Err(Refusal::TooManyCommands(pending));
    }
    if !control.has_room() {
        return Err(Refusal::ControlFull(control.limits.bytes));
    }

    let stops = request.kind == "stop";
    // A run that has not started is remembered so that it ends as it starts, and counts like any other.
    let expected = request.run.as_ref().filter(|run| stops && control.run(run).is_none());
    if expected.is_some() && control.runs().count() >= control.limits.runs {
        return Err(Refusal::TooManyRuns(control.limits.runs));
    }
    let targets = if stops { targets(control, request) } else { Vec::new() };
    let mut data = json!({"command": id, "type": request.kind});
    let mut said = request.data.clone();
    if stops {
        // What an agent must know to obey stands in the data, whatever else the user put there.
        let object = said.get_or_insert_with(|| json!({}));
        if !object.is_object() {
            *object = json!({"data": object.take()});
        }
        object["grace_ms"] = json!(grace);
        object["tree"] = json!(request.tree);
    }
    if let Some(decision) = &request.decision {
        data["approval"] = json!(decision.approval);
    }
    if let Some(said) = &said {
        data["data"] = said.clone();
    }
    let (agent, run) = (request.agent.as_ref(), request.run.as_ref());
    part.commands.push(entries::command(&request.kind, id, agent, run, said.as_ref().unwrap_or(&Value::Null)));
    entries::event(part, "command.issued", agent, run, &data);
    effects.issued.push(id.clone());
    control.set_command(
        id,
        Command {
            kind: request.kind.clone(),
            status: CommandStatus::Pending,
            agent: request.agent.clone(),
            run: request.run.clone(),
            expires: ttl.map(|ttl| now + ttl),
            at: now,
            targets: targets.clone(),
            entry: None,
        },
    );

    if stops {
        if let Some(run) = expected {
            expect(control, run, request.tree, now);
        }
        for run in &targets {
            runs::stop(control, run, grace, request.tree, now, id, part);
        }
    }
    if let Some(decision) = &request.decision {
        approvals::decide(control, decision, id, part);
        resolve(control, id, Outcome::Consumed, None, now, part);
    }
    Ok(Reply::Accepted(id.clone()))
}

/// The live runs that a stop is for.
fn targets(control: &Control, request: &CommandRequest) -> Vec<Name> {
    let below = |name: &Name, top: &Name| {
        let mut above = control.run(name).and_then(|run| run.parent.as_ref());
        while let Some(parent) = above {
            if parent == top {
                return true;
            }
            above = control.run(parent).and_then(|run| run.parent.as_ref());
        }
        false
    };
    let live = control.runs().filter(|(_, run)| run.is_live());
    let meant = live.filter(|(name, run)| {
        let by_run = request.run.as_ref().is_none_or(|top| *name == top || request.tree && below(name, top));
        let by_agent = request.agent.is_none() || request.run.is_some() || run.agent == request.agent;
        by_run && by_agent
    });
    meant.map(|(name, _)| name.clone()).collect()
}

/// Remembers that a run is to end as it starts.
fn expect(control: &mut Control, run: &Name, tree: bool, now: Ms) {
    let expected = Run {
        status: RunStatus::Expected,
        agent: None,
        parent: None,
        attempt: 0,
        lease_ms: 0,
        started: now,
        tree_stopped: tree,
    };
    control.set_run(run, expected);
}

/// The agent says what became of a command.
pub fn report(control: &mut Control, now: Ms, request: &OutcomeRequest, part: &mut Part) -> Result<Reply, Refusal> {
    let id = &request.command;
    let command = control.command(id).ok_or_else(|| Refusal::UnknownCommand(id.clone()))?;
    if command.status != CommandStatus::Pending {
        return Err(Refusal::CommandEnded { command: id.clone(), status: command.status });
    }
    let outcome = if request.consumed { Outcome::Consumed } else { Outcome::Rejected };
    resolve(control, id, outcome, request.reason.as_deref(), now, part);
    Ok(Reply::Done)
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
    control.set_command(id, Command { status, at: now, expires: None, targets: Vec::new(), ..command });
    forget_oldest(control);
}

/// A run has ended: a stop of it is done, and anything else that was asked of it comes too late.
pub fn run_ended(control: &mut Control, run: &Name, how: EndStatus, now: Ms, part: &mut Part) {
    for id in control.pending_commands() {
        let Some(command) = control.command(&id).cloned() else { continue };
        if command.targets.contains(run) {
            let mut left = command.targets.clone();
            left.retain(|target| target != run);
            if !left.is_empty() {
                control.set_command(&id, Command { targets: left, ..command });
            } else if how == EndStatus::Cancelled {
                resolve(control, &id, Outcome::Consumed, Some("the run was cancelled"), now, part);
            } else {
                resolve(control, &id, Outcome::Superseded, Some("the run ended first"), now, part);
            }
        } else if command.run.as_ref() == Some(run) {
            // A stop that came before the run did what it was for.
            let stopped = command.kind == "stop" && how == EndStatus::Cancelled;
            let outcome = if stopped { Outcome::Consumed } else { Outcome::Superseded };
            resolve(control, &id, outcome, Some("the run ended"), now, part);
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
