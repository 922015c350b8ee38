//! The agents that each answer one question about the book.

use std::time::Duration;

use serde_json::json;

use super::{
    Input,
    agent::{Agent, Halt, Verdict, Workplace},
    role::Role,
    watch::Watch,
};
use crate::{
    client::Outcome,
    desk::{
        book::Book,
        cadence, calendar, capacity,
        discovery::{self, Decision},
        finding::Finding,
        number::count,
        road_map,
    },
};

/// The approval that discovery asks for.
pub(super) const APPROVAL: &str = "drop-leads";

/// How many ids stand in one event.
const IDS: usize = 500;

/// For those that need nobody: says what was found, all of it.
pub(super) async fn tell(agent: &mut Agent, finding: &Finding) -> Result<(), Halt> {
    let mut at = 0;
    while at < finding.parts.len() {
        at = agent.present(finding, at).await?;
    }
    agent.publish_finding(finding).await
}

/// Names the leads to drop, asks, and does as it is told.
pub(super) async fn discovery(agent: &mut Agent, place: &Workplace, input: &Input, book: &Book) -> Result<(), Halt> {
    wait_for_needed(agent, place, Role::Discovery).await?;
    let opening = discovery::opening(book);
    let mut at = 0;
    while at < opening.parts.len() {
        at = agent.present(&opening, at).await?;
    }
    let items = discovery::items(book);
    let decision = if items.is_empty() {
        Decision::NotNeeded
    } else {
        let drops = discovery::to_drop(book);
        let text = format!("Drop {}? They stay unless you approve.", count(drops.len(), "lead"));
        let wait = Duration::from_millis(input.approval_wait_ms);
        let decision = match agent.decision(APPROVAL, json!({"text": text, "items": items}), wait).await? {
            Verdict::Approved => Decision::Approved,
            Verdict::Denied => Decision::Denied,
            Verdict::Expired => Decision::Expired,
        };
        if decision == Decision::Approved {
            for drops in drops.chunks(IDS) {
                let ids: Vec<&str> = drops.iter().map(|(lead, _)| lead.id.as_str()).collect();
                agent.event("dropped", json!({"leads": ids})).await?;
            }
        }
        decision
    };
    let finding = discovery::finding(book, decision);
    agent.present(&finding, opening.parts.len()).await?;
    agent.publish_finding(&finding).await
}

/// Plans the follow-up of whom discovery has left, and hands out the calendar.
pub(super) async fn cadence(agent: &mut Agent, place: &Workplace, book: &Book) -> Result<(), Halt> {
    let watch = wait_for_needed(agent, place, Role::Cadence).await?;
    let discovered: Option<discovery::Figures> = watch.figures(Role::Discovery);
    // Nobody is dropped without an approval.
    let cadence = cadence::plan(book, discovered.map_or(Decision::NotNeeded, |figures| figures.decision));
    let finding = cadence.finding();
    tell(agent, &finding).await?;
    let files = calendar::files(book, &cadence);
    for (i, file) in files.iter().enumerate() {
        let name = if files.len() == 1 { "calendar.ics".to_owned() } else { format!("calendar-{}.ics", i + 1) };
        agent.file(&name, "text/calendar", file).await?;
    }
    Ok(())
}

/// Draws the road map as soon as it can, again whenever the capacity is steered, and once more when it is known which
/// leads stay. Until the others are done it can be steered.
pub(super) async fn road_map(agent: &mut Agent, place: &Workplace, input: &Input, book: &Book) -> Result<(), Halt> {
    let shown = road_map::shown_capacity(book);
    let mut capacity = input.capacity;
    let mut watch = Watch::of(place, &[Role::Reactivation, Role::LifetimeValue, Role::Pipeline]);
    let mut rest = Watch::of(place, &[Role::Discovery, Role::Cadence]);
    agent.say(&waiting_for(Role::RoadMap)).await?;
    while agent.wait_for_unless_steered(watch.found()).await?.transpose()?.is_none() {
        take_steer(agent, &mut capacity).await?;
    }
    let (mut told, mut at, mut complete) = (None, 0, false);
    loop {
        take_steer(agent, &mut capacity).await?;
        let found = road_map::Findings {
            reactivation: watch.figures(Role::Reactivation),
            lifetime: watch.figures(Role::LifetimeValue),
            pipeline: watch.figures(Role::Pipeline),
            discovery: rest.figures(Role::Discovery),
        };
        let finding = road_map::finding(book, &found, capacity.unwrap_or(shown), capacity.is_none());
        if told.as_ref() != Some(&finding) {
            (told, at) = (Some(finding.clone()), 0);
        }
        if at <= finding.parts.len() {
            at = agent.present(&finding, at).await?;
            if at < finding.parts.len() || agent.is_steered() {
                continue;
            }
            agent.publish_finding(&finding).await?;
            at += 1;
        }
        if agent.is_steered() {
            continue;
        }
        if complete {
            return Ok(());
        }
        complete = agent.wait_for_unless_steered(rest.ended()).await?.transpose()?.is_some();
    }
}

/// Does as a steer says, or says why not.
async fn take_steer(agent: &mut Agent, capacity: &mut Option<usize>) -> Result<(), Halt> {
    while let Some(steer) = agent.steered() {
        match capacity::parse(&steer.text) {
            Ok(jobs) => {
                *capacity = Some(jobs);
                agent.event("steered", json!({"capacity": jobs})).await?;
                agent.answer(&steer.command, Outcome::Consumed, None).await;
            }
            Err(why) => agent.answer(&steer.command, Outcome::Rejected, Some(&why)).await,
        }
    }
    Ok(())
}

/// Waits for the findings that a role needs; says so, and says which will not come.
async fn wait_for_needed(agent: &mut Agent, place: &Workplace, role: Role) -> Result<Watch, Halt> {
    let mut watch = Watch::of(place, role.needs());
    agent.say(&waiting_for(role)).await?;
    agent.wait_for(watch.found()).await??;
    for (needed, lack) in watch.missing() {
        if watch.report(needed).is_some_and(|report| report.finding.is_none()) {
            agent.say(&format!("The {needed} agent {lack}: on without it.")).await?;
        }
    }
    Ok(watch)
}

fn waiting_for(role: Role) -> String {
    let needed: Vec<String> = role.needs().iter().map(|role| role.title().to_lowercase()).collect();
    format!("Waiting for: {}.", needed.join(", "))
}
