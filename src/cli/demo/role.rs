//! The demo's three agents: what each is called, which run it does, and what for.

use std::fmt;

use clap::ValueEnum;

use crate::id::Name;

/// Which of the agents a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(super) enum Role {
    Orchestrator,
    Reader,
    Summarizer,
}

/// Those that the orchestrator gives work to.
pub(super) const TEAM: [Role; 2] = [Role::Reader, Role::Summarizer];

impl Role {
    /// All, the orchestrator first.
    pub const ALL: [Role; 3] = [Role::Orchestrator, Role::Reader, Role::Summarizer];

    /// Its name, as a word and as an agent's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Orchestrator => "orchestrator",
            Role::Reader => "reader",
            Role::Summarizer => "summarizer",
        }
    }

    /// The agent's name.
    pub fn agent(self) -> Name {
        name(self.as_str())
    }

    /// The run that it does.
    pub fn run(self) -> Name {
        name(match self {
            Role::Orchestrator => "r0",
            Role::Reader => "r1",
            Role::Summarizer => "r2",
        })
    }

    /// The run that this one is a part of.
    pub fn parent(self) -> Option<Name> {
        match self {
            Role::Orchestrator => None,
            Role::Reader | Role::Summarizer => Some(Role::Orchestrator.run()),
        }
    }

    /// Its task, as the plan says it.
    pub fn task(self) -> &'static str {
        match self {
            Role::Orchestrator => "plan the work, give it away, have the last word",
            Role::Reader => "walk through the text and report what stands where",
            Role::Summarizer => "choose the sentences that say most",
        }
    }

    /// Whether it can be turned in another direction.
    pub fn takes_steers(self) -> bool {
        self == Role::Summarizer
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

fn name(text: &str) -> Name {
    text.parse().expect("the demo's own names are names")
}
