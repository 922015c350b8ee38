//! What may happen in a session: pure functions from the control state, an action and the time to what is written.
//!
//! No I/O and no clock: the caller brings the time, and the [`Effects`] it gets become one [`Commit`]. The store
//! performs it only if the control state and the time are still what the rules were shown, so a rule never needs to
//! think of another replica.
//!
//! An action that is refused has changed nothing. Deadlines that have passed are judged before anything else
//! ([`judge`]), so a rule never sees a run whose lease is over or a command past its time.
//!
//! [`Commit`]: crate::store::Commit

mod approvals;
mod commands;
mod control;
mod entries;
mod refusal;
mod runs;
#[cfg(test)]
mod scene;

pub use approvals::{Approval, ApprovalRequest, ApprovalStatus, Decision, Verdict};
pub use commands::{Command, CommandRequest, CommandStatus, Outcome, OutcomeRequest, Reported};
pub use control::{Control, Limits, command_key};
pub use refusal::Refusal;
pub use runs::{EndStatus, Run, RunRequest, RunStatus, RunView, view as run_view};

use crate::{
    event::Event,
    id::{Ms, Name},
    store::{Part, Producer},
};

/// Something that somebody wants to do to a session.
#[derive(Debug, Clone)]
pub enum Action {
    /// Append events.
    Append(Append),
    /// Ask something of the agents.
    Command(CommandRequest),
    /// Say what became of a command.
    Outcome(OutcomeRequest),
    /// Start a run, or a new attempt at it.
    Start(RunRequest),
    /// End a run.
    End {
        /// The run.
        run: Name,
        /// The attempt that the agent believes it is, if it says so.
        attempt: Option<u32>,
        /// How it ended.
        status: EndStatus,
        /// Why, in the agent's words.
        reason: Option<String>,
        /// The only agent that the request may speak as, if it is bound to one.
        speaker: Option<Name>,
    },
    /// Renew a run's lease.
    Heartbeat {
        /// The run.
        run: Name,
        /// The attempt that the agent believes it is, if it says so.
        attempt: Option<u32>,
        /// The only agent that the request may speak as, if it is bound to one.
        speaker: Option<Name>,
    },
    /// Ask for a decision.
    Approval(ApprovalRequest),
    /// Take no more entries.
    Close,
    /// Only judge what is due.
    Tick,
}

/// Events of one request.
#[derive(Debug, Clone, Default)]
pub struct Append {
    /// The events, in order.
    pub events: Vec<Event>,
    /// The run that the request as a whole belongs to, if it names one.
    pub run: Option<Name>,
    /// The attempt that the agent believes that run to be in, if it says so; without such a run it is said of every
    /// run that the events name.
    pub attempt: Option<u32>,
    /// Makes the events idempotent.
    pub producer: Option<Producer>,
}

/// What an accepted action answers, apart from the ids of what it appended.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// Nothing to say but the entries.
    Done,
    /// Events were appended; these of their runs are asked to stop.
    Appended(Vec<RunView>),
    /// The command was accepted now.
    Accepted(Name),
    /// The command was accepted before.
    Known(Name),
    /// The run, as it is now.
    Run(RunView),
}

/// Everything that a batch of actions writes.
#[derive(Debug)]
pub struct Effects {
    /// What to append: one part for what was due, one for each accepted action that appends or renews a lease.
    pub parts: Vec<Part>,
    /// The commands among it, in order.
    pub issued: Vec<Name>,
    /// Runs that were judged lost, and when they had last been touched.
    pub untouched: Vec<(Name, Ms)>,
    /// Whether a deadline was judged as passed.
    pub judged: bool,
    /// Decided only for the time before this: an append that found a lease fresh and left it would have to renew it from
    /// here on.
    pub before: Ms,
    /// Whether the session is closed.
    pub closes: bool,
}

impl Default for Effects {
    fn default() -> Self {
        Effects {
            parts: Vec::new(),
            issued: Vec::new(),
            untouched: Vec::new(),
            judged: false,
            before: Ms::MAX,
            closes: false,
        }
    }
}

/// Lets everything happen whose time has come.
pub fn judge(control: &mut Control, now: Ms, effects: &mut Effects) {
    let mut part = Part::default();
    // The earliest first. What happens at one deadline can settle what another one is about (a run's end, its
    // commands), which then passes unnoticed; it never makes anything else due.
    for due in control.due_by(now) {
        effects.judged = true;
        match due {
            control::Due::Lease(run) if control.is_live(&run) => {
                effects.untouched.push((run.clone(), control.touched(&run)));
                runs::end(control, &run, EndStatus::Lost, Some("its lease ran out"), now, &mut part);
            }
            control::Due::Grace(run) if control.is_live(&run) => {
                runs::end(control, &run, EndStatus::Cancelled, Some("stopped"), now, &mut part);
            }
            control::Due::Lease(_) | control::Due::Grace(_) => {}
            control::Due::Command(id) => commands::expire(control, &id, now, &mut part),
            control::Due::Approval(id) => approvals::expire(control, &id, &mut part),
        }
    }
    if !part.events.is_empty() {
        effects.parts.push(part);
    }
}

/// One action, after what was due has been judged. On `Err` nothing has changed.
pub fn apply(control: &mut Control, now: Ms, action: &Action, effects: &mut Effects) -> Result<Reply, Refusal> {
    let closed = control.closed.is_some();
    let allowed = match action {
        Action::Close | Action::Tick => true,
        // Asked again: it gets the answer of the first time.
        Action::Command(request) => control.command(&request.id).is_some(),
        _ => false,
    };
    if closed && !allowed {
        return Err(Refusal::SessionClosed);
    }
    let mut part = Part::default();
    let reply = match action {
        Action::Append(append) => {
            let stopping = runs::append(control, now, append, &mut part, effects)?;
            part.producer = append.producer.clone();
            part.events = append.events.iter().map(|event| event.payload.clone()).collect();
            Reply::Appended(stopping)
        }
        Action::Command(request) => commands::issue(control, now, request, &mut part, effects)?,
        Action::Outcome(request) => commands::report(control, now, request, &mut part)?,
        Action::Start(request) => runs::start(control, now, request, &mut part)?,
        Action::End { run, attempt, status, reason, speaker } => {
            runs::speaks_for(control, run, speaker.as_ref())?;
            runs::live(control, run, *attempt)?;
            runs::end(control, run, *status, reason.as_deref(), now, &mut part);
            Reply::Run(runs::view(control, run, now))
        }
        Action::Heartbeat { run, attempt, speaker } => {
            runs::speaks_for(control, run, speaker.as_ref())?;
            runs::live(control, run, *attempt)?;
            control.touch(run, now);
            part.touch.push(run.clone());
            Reply::Run(runs::view(control, run, now))
        }
        Action::Approval(request) => approvals::request(control, now, request, &mut part)?,
        Action::Close if closed => Reply::Done,
        Action::Close => {
            close(control, now, &mut part);
            effects.closes = true;
            Reply::Done
        }
        Action::Tick => Reply::Done,
    };
    if part.producer.is_some() || !(part.events.is_empty() && part.commands.is_empty() && part.touch.is_empty()) {
        effects.parts.push(part);
    }
    Ok(reply)
}

/// Ends whatever is still open.
fn close(control: &mut Control, now: Ms, part: &mut Part) {
    for run in control.live_runs() {
        runs::end(control, &run, EndStatus::Cancelled, Some("the session was closed"), now, part);
    }
    for id in control.pending_approvals() {
        approvals::supersede(control, &id, part);
    }
    for id in control.pending_commands() {
        commands::resolve(control, &id, Outcome::Superseded, Some("the session was closed"), now, part);
    }
    control.closed = Some(now);
}
