//! Commands: what somebody asks of the agents, each with exactly one outcome.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
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
    /// The trace in which it is asked for. Goes on to whoever obeys.
    pub traceparent: Option<Traceparent>,
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
            return Err(Refusal::TooManyCommands(pending));
        }
    }
    let fits = match settles {
        true => control.has_spare_room(size + targets.len() * (id.as_str().len() + STOP_BYTES)),
        false => control.has_room(size),
    };
    if !fits {
        return Err(Refusal::ControlFull(control.limits.bytes));
    }

    let said = if stops { Some(stop_data(request, grace)) } else { request.data.clone() };
    let (agent, run) = (request.agent.as_ref(), request.run.as_ref());
    let approval = request.decision.as_ref().map(|decision| &decision.approval);
    let (kind, data) = (request.kind.as_str(), said.as_deref());
    let traceparent = request.traceparent;
    part.commands.push(entries::Command { kind, id, agent, run, approval, traceparent, data }.payload());
    let issued = Issued { command: id, kind, approval, traceparent, data };
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
        approvals::decide(control, decision, id, part);
        resolve(control, id, Outcome::Consumed, None, now, part);
    }
    Ok(Reply::Accepted(id.clone()))
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

/// A stop of a run that never started holds no longer, unless another one does; and no further than that one.
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
    let outcome = if request.consumed { Outcome::Consumed } else { Outcome::Rejected };
    resolve(control, id, outcome, request.reason.as_deref(), now, part);
    if outcome == Outcome::Rejected {
        lapse(control, &command);
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
        match command.kind == "stop" && how == EndStatus::Cancelled {
            true => resolve(control, &id, Outcome::Consumed, None, now, part),
            false => resolve(control, &id, Outcome::Superseded, Some("the run ended first"), now, part),
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
mod tests {
    use super::*;
    use crate::rules::{
        Action, Limits, RunRequest, Verdict,
        scene::{Scene, name, raw},
    };

    #[test]
    fn a_stop_gives_the_run_its_grace_and_then_ends_it() {
        let mut scene = Scene::new();
        scene.start("r").unwrap();
        scene.stop("r", 500).unwrap();
        let Ok(Reply::Appended(stopping)) = scene.append("r", None) else { panic!("partial output is welcome") };
        assert_eq!((stopping[0].status, stopping[0].grace_ms), ("stopping", Some(500)));
        scene.wait(499);
        scene.append("r", None).unwrap();
        scene.wait(1);
        assert_eq!(scene.about("r"), ["started", "stopping", "ended cancelled"]);
        assert_eq!(scene.outcomes("c1"), ["consumed"]);
        assert!(matches!(scene.append("r", None), Err(Refusal::RunEnded { status: EndStatus::Cancelled, .. })));
    }

    #[test]
    fn a_stop_without_grace_ends_the_run_in_the_same_commit() {
        let mut scene = Scene::new();
        scene.start("r").unwrap();
        scene.stop("r", 0).unwrap();
        assert_eq!(scene.about("r"), ["started", "stopping", "ended cancelled"]);
        assert_eq!(scene.outcomes("c1"), ["consumed"]);
    }

    #[test]
    fn an_outcome_of_an_older_attempt_is_refused_and_renews_nothing() {
        let mut scene = Scene::new();
        scene.start("r").unwrap();
        scene.command("steer", |request| request.run = Some(name("r"))).unwrap();
        scene.take_over("r").unwrap();
        let mut report = |attempt| {
            let (command, attempt) = (name("c1"), Some(attempt));
            scene.act(Action::Outcome(OutcomeRequest { command, consumed: true, reason: None, attempt, speaker: None }))
        };
        assert!(matches!(report(1), Err(Refusal::StaleAttempt { given: 1, current: 2, .. })));
        report(2).unwrap();
        assert_eq!(scene.outcomes("c1"), ["consumed"]);
    }

    #[test]
    fn a_second_stop_is_the_same_stop_and_can_only_shorten_the_grace() {
        let mut scene = Scene::new();
        scene.start("r").unwrap();
        scene.stop("r", 1_000).unwrap();
        scene.stop("r", 60_000).unwrap();
        scene.wait(400);
        scene.stop("r", 100).unwrap();
        scene.wait(100);
        assert_eq!(scene.about("r"), ["started", "stopping", "ended cancelled"]);
        for stop in ["c1", "c2", "c3"] {
            assert_eq!(scene.outcomes(stop), ["consumed"], "{stop}");
        }
        assert!(matches!(scene.stop("r", 0), Err(Refusal::RunEnded { .. })));
    }

    #[test]
    fn an_agent_that_is_done_before_its_grace_is_over_supersedes_the_stop() {
        let mut scene = Scene::new();
        scene.start("r").unwrap();
        scene.stop("r", 500).unwrap();
        scene.end("r", EndStatus::Completed).unwrap();
        assert_eq!(scene.outcomes("c1"), ["superseded"]);
        scene.wait(500);
        assert_eq!(scene.about("r"), ["started", "stopping", "ended completed"]);
    }

    #[test]
    fn a_stop_before_the_start_is_kept() {
        let mut scene = Scene::new();
        scene.stop("r", 5_000).unwrap();
        scene.stop("r", 5_000).unwrap();
        assert_eq!(scene.status("r"), "expected");
        scene.append("r", None).expect("it is still a label");
        let Ok(Reply::Run(view)) = scene.start("r") else { panic!() };
        assert_eq!((view.status, view.attempt), ("cancelled", 1));
        assert_eq!(scene.about("r"), ["started", "ended cancelled"]);
        assert_eq!((scene.outcomes("c1"), scene.outcomes("c2")), (vec!["consumed".into()], vec!["consumed".into()]));
        assert!(scene.append("r", None).is_err());
        assert!(scene.take_over("r").is_err());
    }

    #[test]
    fn a_stop_before_the_start_lapses_with_its_time_or_when_it_is_rejected() {
        let mut scene = Scene::new();
        let stop = |request: &mut CommandRequest| (request.run, request.ttl_ms) = (Some(name("r")), Some(1_000));
        scene.command("stop", stop).unwrap();
        scene.command("stop", stop).unwrap();
        scene.report("c1", false).unwrap();
        assert_eq!(scene.status("r"), "expected", "the second one still holds");
        scene.wait(1_000);
        assert_eq!(scene.outcomes("c2"), ["expired"]);
        assert!(scene.control.run(&name("r")).is_none());
        scene.start("r").unwrap();
        assert_eq!(scene.status("r"), "running");
    }

    #[test]
    fn a_stop_that_has_taken_effect_does_not_expire() {
        let mut scene = Scene::new();
        scene.start("r").unwrap();
        scene
            .command("stop", |request| {
                (request.run, request.ttl_ms, request.grace_ms) = (Some(name("r")), Some(100), Some(1_000));
            })
            .unwrap();
        scene.wait(500);
        assert_eq!(scene.outcomes("c1"), [""; 0]);
        scene.wait(500);
        assert_eq!(scene.outcomes("c1"), ["consumed"]);
    }

    #[test]
    fn a_stop_of_all_ends_with_the_last_of_its_runs() {
        let mut scene = Scene::new();
        for run in ["a", "b", "c"] {
            scene.start(run).unwrap();
        }
        scene.end("c", EndStatus::Completed).unwrap();
        scene.command("stop", |request| request.grace_ms = Some(100)).unwrap();
        scene.start("later").unwrap();
        scene.end("a", EndStatus::Cancelled).unwrap();
        assert_eq!(scene.outcomes("c1"), [""; 0]);
        scene.end("b", EndStatus::Completed).unwrap();
        assert_eq!(scene.outcomes("c1"), ["consumed"], "it did stop one of them");
        scene.wait(100);
        assert_eq!(scene.status("later"), "running");
    }

    #[test]
    fn a_stop_of_an_agent_stops_its_runs_alone() {
        let mut scene = Scene::new();
        for (run, agent) in [("a", "x"), ("b", "y"), ("c", "x")] {
            scene.start_with(run, |request| request.agent = Some(name(agent))).unwrap();
        }
        scene.command("stop", |request| (request.agent, request.grace_ms) = (Some(name("x")), Some(0))).unwrap();
        assert_eq!(["a", "b", "c"].map(|run| scene.status(run)), ["cancelled", "running", "cancelled"]);
    }

    #[test]
    fn a_stop_with_nothing_to_stop_waits_for_nobody() {
        let mut scene = Scene::new();
        scene.command("stop", |_| {}).unwrap();
        assert_eq!(scene.outcomes("c1"), ["superseded"]);
        scene.start("r").unwrap();
        assert_eq!(scene.status("r"), "running");
    }

    #[test]
    fn a_tree_stop_reaches_children_and_those_that_start_later() {
        let mut scene = Scene::new();
        let below = |parent: &str| {
            let parent = name(parent);
            move |request: &mut RunRequest| request.parent = Some(parent)
        };
        scene.start("top").unwrap();
        scene.start_with("child", below("top")).unwrap();
        scene.start_with("grandchild", below("child")).unwrap();
        scene.start("other").unwrap();
        scene.stop_tree("top", 100).unwrap();
        scene.start_with("late", below("grandchild")).unwrap();
        assert_eq!(scene.about("late"), ["started", "ended cancelled"]);
        scene.wait(100);
        for run in ["top", "child", "grandchild"] {
            assert_eq!(scene.about(run), ["started", "stopping", "ended cancelled"], "{run}");
        }
        assert_eq!(scene.outcomes("c1"), ["consumed"]);
        assert_eq!(scene.status("other"), "running");
        scene.start_with("later", below("child")).unwrap();
        assert_eq!(scene.status("later"), "cancelled");
    }

    #[test]
    fn a_tree_is_stopped_even_if_its_top_has_ended() {
        let mut scene = Scene::new();
        scene.start("top").unwrap();
        let below = |request: &mut RunRequest| request.parent = Some(name("top"));
        scene.start_with("child", below).unwrap();
        scene.end("top", EndStatus::Completed).unwrap();
        assert!(matches!(scene.stop("top", 0), Err(Refusal::RunEnded { .. })));
        scene.stop_tree("top", 0).unwrap();
        assert_eq!(scene.status("child"), "cancelled");
        scene.start_with("late", below).unwrap();
        assert_eq!(scene.status("late"), "cancelled");
        assert!(matches!(scene.stop_tree("top", 0), Err(Refusal::RunEnded { .. })), "nothing is left to stop");
    }

    #[test]
    fn a_tree_stop_before_the_start_reaches_what_starts_below() {
        let mut scene = Scene::new();
        scene.stop("top", 0).unwrap();
        scene.stop_tree("top", 0).unwrap();
        scene.start("top").unwrap();
        scene.start_with("child", |request| request.parent = Some(name("top"))).unwrap();
        assert_eq!((scene.status("top"), scene.status("child")), ("cancelled", "cancelled"));
    }

    #[test]
    fn a_tree_stop_that_lapses_leaves_a_plain_one_plain() {
        let mut scene = Scene::new();
        scene.stop("top", 0).unwrap();
        scene.stop_tree("top", 0).unwrap();
        scene.report("c2", false).unwrap();
        scene.start("top").unwrap();
        scene.start_with("child", |request| request.parent = Some(name("top"))).unwrap();
        assert_eq!((scene.status("top"), scene.status("child")), ("cancelled", "running"));

        // The other way round the tree stays stopped.
        scene.stop("other", 0).unwrap();
        scene.stop_tree("other", 0).unwrap();
        scene.report("c3", false).unwrap();
        scene.start("other").unwrap();
        scene.start_with("below", |request| request.parent = Some(name("other"))).unwrap();
        assert_eq!((scene.status("other"), scene.status("below")), ("cancelled", "cancelled"));
    }

    #[test]
    fn a_command_has_one_outcome() {
        let mut scene = Scene::new();
        scene.command("steer", |_| {}).unwrap();
        scene.report("c1", true).unwrap();
        let second = scene.report("c1", false);
        assert!(matches!(second, Err(Refusal::CommandEnded { status: CommandStatus::Consumed, .. })));
        assert!(matches!(scene.report("nobody", true), Err(Refusal::UnknownCommand(_))));
        assert_eq!(scene.outcomes("c1"), ["consumed"]);
    }

    #[test]
    fn a_command_that_nobody_takes_up_expires() {
        let mut scene = Scene::new();
        scene.command("steer", |request| request.ttl_ms = Some(1)).unwrap();
        scene.wait(1);
        assert_eq!(scene.outcomes("c1"), ["expired"]);
        let late = scene.report("c1", true);
        assert!(matches!(late, Err(Refusal::CommandEnded { status: CommandStatus::Expired, .. })));
    }

    #[test]
    fn what_was_asked_of_a_run_that_has_ended_is_superseded() {
        let mut scene = Scene::new();
        scene.start("r").unwrap();
        scene.command("steer", |request| request.run = Some(name("r"))).unwrap();
        scene.command("steer", |_| {}).unwrap();
        scene.take_over("r").unwrap();
        assert_eq!(scene.outcomes("c1"), [""; 0], "the next attempt may still do it");
        scene.end("r", EndStatus::Completed).unwrap();
        assert_eq!(scene.outcomes("c1"), ["superseded"]);
        assert_eq!(scene.outcomes("c2"), [""; 0], "it was not for this run");
        let late = scene.command("steer", |request| request.run = Some(name("r")));
        assert!(matches!(late, Err(Refusal::RunEnded { .. })));
    }

    #[test]
    fn the_same_id_is_the_same_command() {
        let mut scene = Scene::new();
        scene.start("r").unwrap();
        for (n, expected) in [Reply::Accepted(name("x")), Reply::Known(name("x"))].into_iter().enumerate() {
            let again = scene.command("steer", |request| request.id = name("x")).unwrap();
            assert_eq!((again, scene.commands.len()), (expected, 1), "{n}");
        }
        scene.report("x", true).unwrap();
        assert_eq!(scene.command("steer", |request| request.id = name("x")), Ok(Reply::Known(name("x"))));
    }

    #[test]
    fn data_keeps_its_digits() {
        let mut scene = Scene::new();
        let data = r#"{"n":1.00,"big":123456789012345678901234567890}"#;
        scene.command("steer", |request| request.data = Some(RawValue::from_string(data.into()).unwrap())).unwrap();
        let mut part = Part::default();
        let raw: Box<RawValue> = RawValue::from_string(data.into()).unwrap();
        let (id, data_) = (name("c"), Some(&*raw));
        let command = entries::Command {
            kind: "steer",
            id: &id,
            agent: None,
            run: None,
            approval: None,
            traceparent: None,
            data: data_,
        };
        let payload = command.payload();
        assert!(std::str::from_utf8(&payload).unwrap().ends_with(&format!("\"data\":{data}}}")), "{payload:?}");
        entries::event(
            &mut part,
            "x",
            None,
            None,
            &Issued { command: &name("c"), kind: "steer", approval: None, traceparent: None, data: Some(&raw) },
        );
        assert!(std::str::from_utf8(&part.events[0]).unwrap().contains(data));
    }

    #[test]
    fn a_stop_says_what_agents_must_know_beside_the_users_data() {
        let mut scene = Scene::new();
        scene.start("r").unwrap();
        scene.command("stop", |request| request.data = Some(raw(json!({"why": "x", "grace_ms": 7})))).unwrap();
        assert_eq!(scene.commands[0]["data"], json!({"why": "x", "grace_ms": 5_000, "tree": false}));
        scene.command("stop", |request| request.data = Some(raw(json!("please")))).unwrap();
        assert_eq!(scene.commands[1]["data"], json!({"data": "please", "grace_ms": 5_000, "tree": false}));
    }

    #[test]
    fn bad_durations_are_refused() {
        let mut scene = Scene::new();
        for ms in [0, -1, 365 * 86_400_000, i64::MIN, i64::MAX] {
            let ttl = scene.command("steer", |request| request.ttl_ms = Some(ms));
            assert!(matches!(ttl, Err(Refusal::OutOfRange { what: "ttl_ms", .. })), "{ms}");
            let grace = scene.stop("r", ms);
            assert!(ms == 0 || matches!(grace, Err(Refusal::OutOfRange { what: "grace_ms", .. })), "{ms}");
        }
    }

    #[test]
    fn pending_commands_have_a_limit_that_does_not_stand_in_the_way_of_a_stop_or_a_decision() {
        let mut scene = Scene::with(Limits { pending_commands: 2, ..Limits::default() });
        scene.start("r").unwrap();
        scene.ask("a", None, None).unwrap();
        for _ in 0..2 {
            scene.command("steer", |_| {}).unwrap();
        }
        assert!(matches!(scene.command("steer", |_| {}), Err(Refusal::TooManyCommands(2))));
        assert!(matches!(scene.stop("made-up", 0), Err(Refusal::TooManyCommands(2))));
        scene.decide("a", Verdict::Approve).unwrap();
        scene.stop("r", 0).unwrap();
    }

    #[test]
    fn a_full_control_state_refuses_more_but_not_a_stop() {
        let mut scene = Scene::with(Limits { bytes: 3_000, ..Limits::default() });
        scene.start("r").unwrap();
        scene.ask("a", None, None).unwrap();
        while scene.command("steer", |_| {}).is_ok() {}
        assert!(matches!(scene.command("steer", |_| {}), Err(Refusal::ControlFull(3_000))));
        assert!(matches!(scene.start("s"), Err(Refusal::ControlFull(_))));
        assert!(matches!(scene.ask("b", None, None), Err(Refusal::ControlFull(_))));
        assert!(scene.control.bytes() <= 3_000);
        scene.stop("r", 500).unwrap();
        scene.decide("a", Verdict::Deny).unwrap();
        scene.wait(500);
        assert_eq!(scene.status("r"), "cancelled");
    }

    #[test]
    fn ended_commands_are_forgotten_in_time() {
        let mut scene = Scene::with(Limits { ended_commands: 3, ..Limits::default() });
        for n in 1..=5 {
            scene.command("steer", |_| {}).unwrap();
            scene.wait(1);
            scene.report(&format!("c{n}"), true).unwrap();
        }
        let known: Vec<_> = scene.control.commands().map(|(id, _)| id.as_str()).collect();
        assert_eq!(known, ["c3", "c4", "c5"]);
    }

    #[test]
    fn a_deep_tree_is_searched_in_one_pass() {
        let mut scene = Scene::new();
        scene.start("r0").unwrap();
        for n in 1..1_000 {
            let parent = name(&format!("r{}", n - 1));
            scene.start_with(&format!("r{n}"), |request| request.parent = Some(parent)).unwrap();
        }
        let began = std::time::Instant::now();
        scene.stop_tree("r0", 0).unwrap();
        assert_eq!(scene.control.live_runs(), [] as [Name; 0]);
        assert!(began.elapsed() < std::time::Duration::from_secs(5), "{:?}", began.elapsed());
    }

    #[test]
    fn a_closed_session_leaves_nothing_open() {
        let mut scene = Scene::new();
        scene.start("r").unwrap();
        scene.start("s").unwrap();
        scene.command("steer", |_| {}).unwrap();
        scene.command("steer", |request| request.run = Some(name("r"))).unwrap();
        scene.command("stop", |_| {}).unwrap();
        scene.stop("later", 0).unwrap();
        scene.ask("a", Some("r"), None).unwrap();
        scene.ask("b", None, None).unwrap();
        scene.act(Action::Close).unwrap();
        for command in ["c1", "c2", "c3", "c4"] {
            assert_eq!(scene.outcomes(command).len(), 1, "{command}");
        }
        for approval in ["a", "b"] {
            assert_eq!(scene.about_approval(approval), ["requested", "superseded"]);
        }
        assert_eq!(scene.about("r"), ["started", "stopping", "ended cancelled"]);
        assert_eq!(scene.control.next_due(), None);
        scene.act(Action::Close).unwrap();
        let written = scene.events.len();
        assert_eq!(scene.append("x", None), Err(Refusal::SessionClosed));
        assert_eq!(scene.start("x"), Err(Refusal::SessionClosed));
        assert_eq!(scene.command("steer", |_| {}), Err(Refusal::SessionClosed));
        assert_eq!(scene.events.len(), written);
    }
}
