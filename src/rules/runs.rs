//! Runs: one piece of work of one agent, that lives by a lease, ends once, and can be stopped.
//!
//! A run's name outlives its attempts. A run that was stopped or completed stays so; one that was lost or failed may
//! be taken up again by a new attempt.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Append, Control, Effects, Refusal, Reply, commands, entries};
use crate::{
    id::{Ms, Name},
    store::Part,
};

/// A shorter lease could not be renewed in time over a slow network.
pub const LEASE_MIN: Ms = 100;
/// An hour: a longer silence is no sign of life.
pub const LEASE_MAX: Ms = 3_600_000;
/// What a run gets that asks for none.
pub const LEASE_DEFAULT: Ms = 30_000;

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndStatus {
    /// It did what it was for.
    Completed,
    /// It could not.
    Failed,
    /// It was stopped.
    Cancelled,
    /// Its agent fell silent, or another attempt took over.
    Lost,
}

impl fmt::Display for EndStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            EndStatus::Completed => "completed",
            EndStatus::Failed => "failed",
            EndStatus::Cancelled => "cancelled",
            EndStatus::Lost => "lost",
        })
    }
}

/// Where a run stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum RunStatus {
    /// Not started, but already told to stop.
    Expected,
    /// At work.
    Running,
    /// Asked to stop; the gateway ends it at `until`.
    Stopping {
        /// The end of its grace.
        until: Ms,
    },
    /// Over.
    Ended {
        /// How.
        how: EndStatus,
        /// When.
        at: Ms,
    },
}

/// A run's record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Where it stands.
    #[serde(flatten)]
    pub status: RunStatus,
    /// Who does it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub agent: Option<Name>,
    /// The run that it is a part of.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub parent: Option<Name>,
    /// Counts from 1.
    pub attempt: u32,
    /// How long it may be silent.
    pub lease_ms: Ms,
    /// When this attempt started.
    pub started: Ms,
    /// It was asked to stop: no attempt begins after this one.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub stopped: bool,
    /// It was stopped with all that descends from it: what still starts below it ends at once.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub tree_stopped: bool,
    /// The commands that asked it to stop, and end with it.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub stops: Vec<Name>,
}

/// What the record of a run takes beyond its names, in bytes: an upper bound.
pub const RECORD_BYTES: usize = 320;

impl Run {
    /// A run that has not started, and is to end as it does.
    pub fn expected(tree: bool, now: Ms) -> Self {
        Run {
            status: RunStatus::Expected,
            agent: None,
            parent: None,
            attempt: 0,
            lease_ms: 0,
            started: now,
            stopped: true,
            tree_stopped: tree,
            stops: Vec::new(),
        }
    }

    /// Started and not ended.
    pub fn is_live(&self) -> bool {
        matches!(self.status, RunStatus::Running | RunStatus::Stopping { .. })
    }
}

/// A run as answers show it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunView {
    /// Its name.
    pub run: Name,
    /// Who does it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<Name>,
    /// The run that it is a part of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<Name>,
    /// Counts from 1; 0 if it was stopped before it started.
    pub attempt: u32,
    /// `expected`, `running`, `stopping`, `completed`, `failed`, `cancelled` or `lost`.
    pub status: &'static str,
    /// When this attempt started.
    pub started: Ms,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended: Option<Ms>,
    /// How long it may be silent.
    pub lease_ms: Ms,
    /// When its lease runs out, if nothing is heard of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease_until: Option<Ms>,
    /// How much time is left to stop by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace_ms: Option<Ms>,
}

/// What a run looks like now. The run must exist.
pub fn view(control: &Control, name: &Name, now: Ms) -> RunView {
    let touched = control.touched(name);
    let run = control.run(name).cloned().unwrap_or_else(|| Run::expected(false, now));
    RunView {
        run: name.clone(),
        status: match &run.status {
            RunStatus::Expected => "expected",
            RunStatus::Running => "running",
            RunStatus::Stopping { .. } => "stopping",
            RunStatus::Ended { how: EndStatus::Completed, .. } => "completed",
            RunStatus::Ended { how: EndStatus::Failed, .. } => "failed",
            RunStatus::Ended { how: EndStatus::Cancelled, .. } => "cancelled",
            RunStatus::Ended { how: EndStatus::Lost, .. } => "lost",
        },
        attempt: run.attempt,
        started: run.started,
        ended: match run.status {
            RunStatus::Ended { at, .. } => Some(at),
            _ => None,
        },
        lease_ms: run.lease_ms,
        lease_until: run.is_live().then(|| touched + run.lease_ms),
        grace_ms: match run.status {
            RunStatus::Stopping { until } => Some(until.saturating_sub(now)),
            _ => None,
        },
        agent: run.agent,
        parent: run.parent,
    }
}

/// To start a run, or a new attempt at it.
#[derive(Debug, Clone)]
pub struct RunRequest {
    /// Its name.
    pub run: Name,
    /// Who does it.
    pub agent: Option<Name>,
    /// The run that it is a part of.
    pub parent: Option<Name>,
    /// How long it may be silent.
    pub lease_ms: Option<i64>,
    /// Whether a live or lost attempt is to be replaced.
    pub takeover: bool,
    /// The only agent that the request may speak as, if it is bound to one.
    pub speaker: Option<Name>,
}

/// A duration within its range.
pub fn in_range(what: &'static str, given: i64, min: Ms, max: Ms) -> Result<Ms, Refusal> {
    match u64::try_from(given) {
        Ok(ms) if (min..=max).contains(&ms) => Ok(ms),
        _ => Err(Refusal::OutOfRange { what, given, min, max }),
    }
}

/// Starts a run.
pub fn start(control: &mut Control, now: Ms, request: &RunRequest, part: &mut Part) -> Result<Reply, Refusal> {
    let name = &request.run;
    let lease = request.lease_ms.map(|ms| in_range("lease_ms", ms, LEASE_MIN, LEASE_MAX)).transpose()?;
    if let Some(parent) = &request.parent {
        check_parent(control, name, parent)?;
    }
    speaks_for(control, name, request.speaker.as_ref())?;
    let before = control.run(name).cloned();
    match &before {
        None => room(control, name)?,
        Some(run) => match run.status {
            RunStatus::Ended { how: EndStatus::Lost | EndStatus::Failed, .. } if request.takeover && !run.stopped => {}
            // What was stopped or done stays so.
            RunStatus::Ended { how, .. } => {
                return Err(Refusal::RunEnded { run: name.clone(), attempt: run.attempt, status: how });
            }
            RunStatus::Running | RunStatus::Stopping { .. } if !request.takeover => {
                return Err(Refusal::RunExists { run: name.clone(), attempt: run.attempt });
            }
            _ => {}
        },
    }

    let live = before.as_ref().filter(|run| run.is_live());
    // A stop holds: the attempt that takes over is asked to stop as the one before was.
    let until = live.and_then(|run| match run.status {
        RunStatus::Stopping { until } => Some(until),
        _ => None,
    });
    if live.is_some() {
        end_attempt(control, name, EndStatus::Lost, Some("another attempt took over"), now, part);
    }
    let old = before.as_ref();
    let run = Run {
        status: RunStatus::Running,
        agent: request.agent.clone().or_else(|| old?.agent.clone()),
        parent: request.parent.clone().or_else(|| old?.parent.clone()),
        attempt: old.map_or(0, |run| run.attempt) + 1,
        lease_ms: lease.or_else(|| old.map(|run| run.lease_ms).filter(|ms| *ms > 0)).unwrap_or(LEASE_DEFAULT),
        started: now,
        stopped: false,
        tree_stopped: old.is_some_and(|run| run.tree_stopped),
        stops: live.map(|run| run.stops.clone()).unwrap_or_default(),
    };
    let mut data = json!({"attempt": run.attempt, "lease_ms": run.lease_ms});
    if let Some(parent) = &run.parent {
        data["parent"] = json!(parent);
    }
    entries::event(part, "run.started", run.agent.as_ref(), Some(name), &data);
    // A stop of its tree came while no attempt was live.
    let stopped = run.tree_stopped || stopped_above(control, run.parent.as_ref());
    control.set_run(name, run);
    control.touch(name, now);
    part.touch.push(name.clone());

    if let Some(until) = until {
        stopping(control, name, until, now, None, part);
    } else if old.is_some_and(|run| run.status == RunStatus::Expected) || stopped {
        end(control, name, EndStatus::Cancelled, Some("stopped before it started"), now, part);
    }
    Ok(Reply::Run(view(control, name, now)))
}

/// Whether one more run can be remembered.
pub fn room(control: &Control, name: &Name) -> Result<(), Refusal> {
    if control.runs().len() >= control.limits.runs {
        return Err(Refusal::TooManyRuns(control.limits.runs));
    }
    if !control.has_room(name.as_str().len() + RECORD_BYTES) {
        return Err(Refusal::ControlFull(control.limits.bytes));
    }
    Ok(())
}

fn check_parent(control: &Control, run: &Name, parent: &Name) -> Result<(), Refusal> {
    if control.run(parent).is_none_or(|p| p.status == RunStatus::Expected) && parent != run {
        return Err(Refusal::UnknownRun(parent.clone()));
    }
    // Parents were checked when their runs started, so this walk ends.
    let mut above = Some(parent);
    while let Some(name) = above {
        if name == run {
            return Err(Refusal::ParentCircle { run: run.clone(), parent: parent.clone() });
        }
        above = control.run(name).and_then(|r| r.parent.as_ref());
    }
    Ok(())
}

fn stopped_above(control: &Control, parent: Option<&Name>) -> bool {
    let mut above = parent;
    while let Some(run) = above.and_then(|name| control.run(name)) {
        if run.tree_stopped {
            return true;
        }
        above = run.parent.as_ref();
    }
    false
}

/// The run, if it is live and its current attempt is the one meant.
pub fn live<'a>(control: &'a Control, name: &Name, attempt: Option<u32>) -> Result<&'a Run, Refusal> {
    let known = control.run(name).filter(|run| run.status != RunStatus::Expected);
    let run = known.ok_or_else(|| Refusal::UnknownRun(name.clone()))?;
    if let Some(given) = attempt.filter(|given| *given != run.attempt) {
        return Err(Refusal::StaleAttempt { run: name.clone(), given, current: run.attempt });
    }
    match run.status {
        RunStatus::Ended { how, .. } => Err(Refusal::RunEnded { run: name.clone(), attempt: run.attempt, status: how }),
        _ => Ok(run),
    }
}

/// Refuses a request that may speak only as one agent, where the run is another's. A run without an agent is anybody's.
pub fn speaks_for(control: &Control, name: &Name, speaker: Option<&Name>) -> Result<(), Refusal> {
    let Some(speaker) = speaker else { return Ok(()) };
    match control.run(name).and_then(|run| run.agent.as_ref()) {
        Some(owner) if owner != speaker => {
            let (name, owner, speaker) = (name.clone(), owner.clone(), speaker.clone());
            Err(Refusal::AnotherAgents { what: "run", name, owner, speaker })
        }
        _ => Ok(()),
    }
}

/// Checks that every event's run may still write, and renews leases, if the events are taken. Gives the runs that are
/// asked to stop.
///
/// A request that says which attempt it comes from is refused where there is no such run: it was written for a session
/// that is gone.
pub fn append(
    control: &mut Control,
    now: Ms,
    append: &Append,
    part: &mut Part,
    effects: &mut Effects,
) -> Result<Vec<RunView>, Refusal> {
    // All events of a request have the same sender.
    let speaker = append.events.first().filter(|event| event.bound).and_then(|event| event.agent.as_ref());
    if let Some(run) = &append.run {
        speaks_for(control, run, speaker)?;
    }
    let mut seen: Vec<&Name> = Vec::new();
    if append.attempt.is_some()
        && let Some(run) = &append.run
    {
        live(control, run, append.attempt)?;
        seen.push(run);
    }
    let said = append.attempt.filter(|_| append.run.is_none());
    for run in append.events.iter().filter_map(|event| event.run.as_ref()) {
        // The events of a request mostly share one run.
        if !seen.contains(&run) {
            speaks_for(control, run, speaker)?;
            // Runs that nobody started are labels.
            let registered = control.run(run).is_some_and(|run| run.status != RunStatus::Expected);
            if registered || said.is_some() {
                live(control, run, said)?;
                seen.push(run);
            }
        }
    }
    let mut stopping = Vec::new();
    for name in seen {
        let Some(run) = control.run(name) else { continue };
        let (lease, asked) = (run.lease_ms, matches!(run.status, RunStatus::Stopping { .. }));
        // A tenth of the lease is precise enough, and most appends then write nothing but their entry. The time is
        // reckoned: should it lag behind the store's, twice that is still precise enough, and no more.
        let touched = control.touched(name);
        // Another part of this commit renews it; but that one may be refused.
        let renewed = || effects.parts.iter().any(|part| part.touch.contains(name));
        if touched + lease / 10 <= now || renewed() {
            control.touch(name, now);
            part.touch.push(name.clone());
        } else {
            effects.before = effects.before.min(touched + lease / 5);
        }
        if asked {
            stopping.push(view(control, name, now));
        }
    }
    Ok(stopping)
}

/// Asks a live run to stop, once; a later stop can only shorten its grace. The run ends by itself, or at its deadline.
pub fn stop(control: &mut Control, name: &Name, grace: Ms, tree: bool, now: Ms, command: &Name, part: &mut Part) {
    let Some(mut run) = control.run(name).cloned() else { return };
    let until = now + grace;
    run.tree_stopped |= tree;
    run.stops.push(command.clone());
    match &mut run.status {
        RunStatus::Stopping { until: before } => *before = until.min(*before),
        RunStatus::Running => {
            control.set_run(name, run);
            return stopping(control, name, until, now, Some(command), part);
        }
        RunStatus::Expected | RunStatus::Ended { .. } => return,
    }
    control.set_run(name, run);
}

fn stopping(control: &mut Control, name: &Name, until: Ms, now: Ms, command: Option<&Name>, part: &mut Part) {
    let Some(run) = control.run(name).cloned() else { return };
    let mut data = json!({"attempt": run.attempt, "grace_ms": until.saturating_sub(now)});
    if let Some(command) = command {
        data["command"] = json!(command);
    }
    entries::event(part, "run.stopping", run.agent.as_ref(), Some(name), &data);
    control.set_run(name, Run { status: RunStatus::Stopping { until }, stopped: true, ..run });
}

/// Ends a live run, and whatever was asked of it.
pub fn end(control: &mut Control, name: &Name, how: EndStatus, reason: Option<&str>, now: Ms, part: &mut Part) {
    let stops = control.run(name).map(|run| run.stops.clone()).unwrap_or_default();
    end_attempt(control, name, how, reason, now, part);
    super::approvals::run_ended(control, name, part);
    commands::run_ended(control, name, &stops, how, now, part);
}

/// Ends an attempt; what was asked of the run stays open for the next one.
fn end_attempt(control: &mut Control, name: &Name, how: EndStatus, reason: Option<&str>, now: Ms, part: &mut Part) {
    let Some(run) = control.run(name).filter(|run| run.is_live()).cloned() else { return };
    let mut data = json!({"attempt": run.attempt, "status": how});
    if let Some(reason) = reason {
        data["reason"] = json!(reason);
    }
    entries::event(part, "run.ended", run.agent.as_ref(), Some(name), &data);
    control.set_run(name, Run { status: RunStatus::Ended { how, at: now }, stops: Vec::new(), ..run });
}

#[cfg(test)]
mod tests;
