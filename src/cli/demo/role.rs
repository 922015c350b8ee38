//! The growth desk's agents: what each is called, which run it does, what for, and whose findings it waits for.

use std::fmt;

use clap::ValueEnum;

use crate::id::Name;

/// Which of the agents a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(super) enum Role {
    Orchestrator,
    Reactivation,
    LifetimeValue,
    Pipeline,
    Discovery,
    Cadence,
    RoadMap,
}

/// Those that the orchestrator gives work to.
pub(super) const TEAM: [Role; 6] =
    [Role::Reactivation, Role::LifetimeValue, Role::Pipeline, Role::Discovery, Role::Cadence, Role::RoadMap];

impl Role {
    /// All, the orchestrator first.
    pub const ALL: [Role; 7] = [
        Role::Orchestrator,
        Role::Reactivation,
        Role::LifetimeValue,
        Role::Pipeline,
        Role::Discovery,
        Role::Cadence,
        Role::RoadMap,
    ];

    /// Its name, as an agent's and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Orchestrator => "orchestrator",
            Role::Reactivation => "reactivation",
            Role::LifetimeValue => "lifetime-value",
            Role::Pipeline => "pipeline",
            Role::Discovery => "discovery",
            Role::Cadence => "cadence",
            Role::RoadMap => "road-map",
        }
    }

    /// Its part of the report.
    pub fn title(self) -> &'static str {
        match self {
            Role::Orchestrator => "Report",
            Role::Reactivation => "Reactivation",
            Role::LifetimeValue => "Lifetime value",
            Role::Pipeline => "Pipeline",
            Role::Discovery => "Discovery",
            Role::Cadence => "Follow-up cadence",
            Role::RoadMap => "Road map",
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
            Role::Reactivation => "r1",
            Role::LifetimeValue => "r2",
            Role::Pipeline => "r3",
            Role::Discovery => "r4",
            Role::Cadence => "r5",
            Role::RoadMap => "r6",
        })
    }

    /// The run that this one is a part of.
    pub fn parent(self) -> Option<Name> {
        (self != Role::Orchestrator).then(|| Role::Orchestrator.run())
    }

    /// Its task, as the plan says it.
    pub fn task(self) -> &'static str {
        match self {
            Role::Orchestrator => "plan the work, wait for what the others find, write the report",
            Role::Reactivation => "who bought before, or nearly did, and is to be called before any ad is paid for",
            Role::LifetimeValue => "what a customer is worth over the years, by segment",
            Role::Pipeline => "every lead in its stage, the rates between them, and where leads die",
            Role::Discovery => "which open leads to drop, if you approve, and what to offer the rest",
            Role::Cadence => "a calendar of 30 to 40 attempts for each open lead that asked to be contacted",
            Role::RoadMap => "twelve months in four 90-day blocks, within the crew's capacity",
        }
    }

    /// Whose findings it waits for before it begins.
    pub fn needs(self) -> &'static [Role] {
        match self {
            Role::Discovery => &[Role::Pipeline],
            Role::Cadence => &[Role::Discovery],
            Role::RoadMap => &[Role::Reactivation, Role::LifetimeValue, Role::Pipeline],
            _ => &[],
        }
    }

    /// Whether it can be turned in another direction.
    pub fn takes_steers(self) -> bool {
        self == Role::RoadMap
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
