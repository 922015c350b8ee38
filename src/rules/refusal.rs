//! Why an action is refused.

use crate::id::{Ms, Name};

use super::{CommandStatus, EndStatus, Verdict};

/// The rules say no. Nothing has changed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// The session takes no more entries.
    #[error("the session is closed")]
    SessionClosed,
    /// There is no session to close.
    #[error("there is no such session")]
    UnknownSession,
    /// The session that the request has written to is no more. There may be another one of its name.
    #[error("the session is gone: it was deleted, or has expired, since this request began; a new one begins it anew")]
    SessionGone,
    /// No such run was started.
    #[error("no run {0:?} was started in this session")]
    UnknownRun(Name),
    /// The run is over.
    #[error("the run {run:?} has ended: {status}")]
    RunEnded {
        /// The run.
        run: Name,
        /// The attempt that ended.
        attempt: u32,
        /// How it ended.
        status: EndStatus,
    },
    /// The run is already being worked on.
    #[error("the run {run:?} is live, in attempt {attempt}; to take it over, start it with \"takeover\": true")]
    RunExists {
        /// The run.
        run: Name,
        /// Its live attempt.
        attempt: u32,
    },
    /// Another process has taken the run over.
    #[error("attempt {given} of the run {run:?} is not the current one, which is {current}")]
    StaleAttempt {
        /// The run.
        run: Name,
        /// What the agent said.
        given: u32,
        /// What holds.
        current: u32,
    },
    /// It belongs to another agent than the only one that the request may speak as.
    #[error("the {what} {name:?} belongs to the agent {owner:?}; the token is for {speaker:?} alone")]
    AnotherAgents {
        /// `run` or `command`.
        what: &'static str,
        /// Which.
        name: Name,
        /// Whose it is.
        owner: Name,
        /// Whose token came.
        speaker: Name,
    },
    /// A run can't be above itself.
    #[error("the parent {parent:?} of the run {run:?} is the run itself or descends from it")]
    ParentCircle {
        /// The run.
        run: Name,
        /// The parent it asked for.
        parent: Name,
    },
    /// As many runs as a session can hold.
    #[error("the session has {0} runs, which is the limit; start a new session")]
    TooManyRuns(usize),
    /// The records of runs, commands and approvals are at their limit.
    #[error("the session's control state has reached its limit of {0} bytes; start a new session")]
    ControlFull(usize),
    /// Too many commands wait for an outcome.
    #[error("{0} commands are pending, which is the limit; let the agents report what became of them")]
    TooManyCommands(usize),
    /// No such command.
    #[error("no command {0:?} is known in this session")]
    UnknownCommand(Name),
    /// The command has its outcome.
    #[error("the command {command:?} has ended: {status}")]
    CommandEnded {
        /// The command.
        command: Name,
        /// What became of it.
        status: CommandStatus,
    },
    /// No such approval.
    #[error("no approval {0:?} was asked for in this session")]
    UnknownApproval(Name),
    /// An approval of that name was asked for before.
    #[error("the approval {0:?} was asked for before")]
    ApprovalExists(Name),
    /// The approval has been decided, or needs no decision any more.
    #[error("the approval {approval:?} has ended: {}", decision.map_or("superseded", Verdict::as_str))]
    ApprovalEnded {
        /// The approval.
        approval: Name,
        /// How it was decided; `None`: it was superseded.
        decision: Option<Verdict>,
        /// The command that decided it; `None` if its time ran out or its run ended.
        command: Option<Name>,
    },
    /// A duration outside of its range.
    #[error("{what} is {given} ms; it takes {min} to {max} ms")]
    OutOfRange {
        /// The field.
        what: &'static str,
        /// What was asked for.
        given: i64,
        /// The least.
        min: Ms,
        /// The most.
        max: Ms,
    },
}
