//! The agent that plans, sets the others to work, and writes the report.
//!
//! It relays nothing: the others write to the session themselves. What they found it learns as everybody does, by reading
//! the session.

use serde_json::{Value, json};

use super::{
    Input,
    agent::{Agent, Halt, Workplace},
    role::{Role, TEAM},
    watch::Watch,
};
use crate::{
    client::{FollowOptions, Update},
    desk::{
        book::Book,
        number::count,
        report::{self, Chapter},
    },
    id::Lane,
};

/// Plans, waits for the team, reports.
pub(super) async fn work(agent: &mut Agent, place: &Workplace, input: &Input, book: &Book) -> Result<(), Halt> {
    let opening = format!(
        "This is {}, as of {}: {}, {} and {}. Six agents work on it. What was earned already comes first, ads come last.",
        input.name,
        book.as_of,
        count(book.customers.len(), "customer"),
        count(book.jobs.len(), "job"),
        count(book.leads.len(), "lead"),
    );
    agent.say(&opening).await?;
    agent.event("plan", plan(input, book)).await?;

    let mut watch = Watch::of(place, &TEAM);
    agent.wait_for(watch.ended()).await??;
    let chapters = TEAM.map(|role| {
        let report = watch.report(role);
        Chapter {
            title: role.title(),
            finding: report.and_then(|report| report.finding.as_ref()),
            missing: report.and_then(|report| report.lack()).map(|lack| format!("its agent {lack}")),
        }
    });
    for (role, lack) in watch.missing() {
        agent.say(&format!("The {role} agent {lack}; what it had said stays in the session.")).await?;
    }
    for line in report::headlines(&chapters) {
        agent.say(&format!("• {line}")).await?;
    }
    let report = report::markdown(&input.name, &book.as_of.to_string(), &chapters);
    agent.file("report.md", "text/markdown", &report).await?;
    let ends = TEAM.map(|role| {
        let status = watch.report(role).and_then(|report| report.status.clone());
        (role.to_string(), Value::from(status.unwrap_or_else(|| "missing".into())))
    });
    agent.event("result", Value::Object(ends.into_iter().collect())).await?;
    Ok(())
}

fn plan(input: &Input, book: &Book) -> Value {
    let tasks = TEAM.map(|role| {
        let needs: Vec<&str> = role.needs().iter().map(|needed| needed.as_str()).collect();
        json!({"agent": role.agent(), "run": role.run(), "task": role.task(), "needs": needs})
    });
    json!({"file": input.name, "as_of": book.as_of.to_string(), "tasks": tasks})
}

/// Waits, as another agent, until the plan stands in the session; `false` if it will not come.
pub(super) async fn planned(place: &Workplace) -> Result<bool, Halt> {
    let options = FollowOptions {
        runs: vec![Role::Orchestrator.run()],
        types: ["plan", "run.ended"].map(str::to_owned).to_vec(),
        ..FollowOptions::default()
    };
    let mut session = place.client.follow(&place.session, Lane::Events, options);
    while let Some(update) = session.next().await {
        if let Update::Entry(entry) = update? {
            return Ok(entry.head().is_some_and(|head| head.kind == "plan"));
        }
    }
    Ok(false)
}
