//! The agent that plans, gives the work away, and has the last word.
//!
//! It relays nothing: its sub-agents write to the session themselves. What came of their work it learns as everybody
//! does, by reading the session.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

use super::{
    Input,
    agent::{Agent, Halt, Workplace},
    role::{Role, TEAM},
    text::Document,
};
use crate::{
    client::{Follow, FollowOptions, Update},
    event::Head,
    id::Lane,
};

/// A sub-agent that reads the plan starts at once; one that has not after this long is not there.
const START_PATIENCE: Duration = Duration::from_secs(20);

/// What the session says of one sub-agent.
#[derive(Debug, Default)]
struct Report {
    started: bool,
    result: Value,
    /// How its run ended.
    status: Option<String>,
}

/// Plans, waits for the team, concludes. The result: how each member ended.
pub(super) async fn work(agent: &mut Agent, place: &Workplace, input: &Input) -> Result<Value, Halt> {
    let document = Document::parse(&input.text);
    let sections = document.sections.len();
    let opening = format!(
        "This is {}: {} words in {sections} {}. Two agents work on it at the same time: reader and summarizer.",
        input.name,
        document.words(),
        if sections == 1 { "section" } else { "sections" },
    );
    agent.say(&opening).await?;
    let outline: Vec<&str> = document.sections.iter().map(|section| section.title.as_str()).take(30).collect();
    let tasks: Vec<Value> =
        TEAM.iter().map(|role| json!({"agent": role.agent(), "run": role.run(), "task": role.task()})).collect();
    let plan = json!({"file": input.name, "bytes": input.text.len(), "tasks": tasks, "outline": outline});
    let plan = agent.event("plan", plan).await?;

    let options = FollowOptions {
        cursor: plan.ids.last().copied(),
        runs: TEAM.iter().map(|role| role.run()).collect(),
        types: ["run.started", "result", "run.ended"].map(str::to_owned).to_vec(),
        ..FollowOptions::default()
    };
    let session = place.client.follow(&place.session, Lane::Events, options);
    let reports = agent.wait_for(reports(session)).await??;
    agent.say(&conclusion(&reports)).await?;
    let ends = reports.iter().map(|(role, report)| (role.to_string(), Value::from(report.end())));
    Ok(Value::Object(ends.collect()))
}

/// Waits, as a sub-agent, until the plan stands in the session; `false` if it will not come.
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

/// Reads the session until each member of the team has ended, or has not even begun. The gateway ends the run of an agent
/// that is dead, so there is an end to wait for.
async fn reports(mut session: Follow) -> Result<BTreeMap<Role, Report>, Halt> {
    let mut reports = BTreeMap::from(TEAM.map(|role| (role, Report::default())));
    let deadline = Instant::now() + START_PATIENCE;
    let mut late = false;
    while !reports.values().all(|report| report.status.is_some() || (late && !report.started)) {
        tokio::select! {
            update = session.next() => match update.transpose()? {
                Some(Update::Entry(entry)) => {
                    if let Some(head) = entry.head() {
                        note(&mut reports, &head);
                    }
                }
                Some(_) => {}
                None => return Err(Halt::Over("the session was closed".into())),
            },
            () = sleep_until(deadline), if !late => late = true,
        }
    }
    Ok(reports)
}

fn note(reports: &mut BTreeMap<Role, Report>, head: &Head) {
    let Some((_, report)) = reports.iter_mut().find(|(role, _)| head.run == Some(role.run().as_str())) else { return };
    let data: Value = head.data.and_then(|data| serde_json::from_str(data.get()).ok()).unwrap_or_default();
    match head.kind {
        // Also when another attempt goes on with what one had to leave.
        "run.started" => (report.started, report.status) = (true, None),
        "result" => report.result = data,
        "run.ended" => report.status = data["status"].as_str().map(str::to_owned),
        _ => {}
    }
}

impl Report {
    fn end(&self) -> &str {
        self.status.as_deref().unwrap_or("missing")
    }
}

/// A message made of what the others have published.
fn conclusion(reports: &BTreeMap<Role, Report>) -> String {
    let sentences: Vec<String> = reports
        .iter()
        .map(|(role, report)| match (role, report.end()) {
            (Role::Reader, "completed") => read(&report.result),
            (_, "completed") => summarised(&report.result),
            (_, "cancelled") => format!("The {role} was stopped early; what it had said stays in the session."),
            (_, "lost") => format!("The {role} fell silent and is lost; what it had said stays in the session."),
            (_, "missing") => format!("The {role} never began."),
            (_, end) => format!("The {role} did not get to the end ({end})."),
        })
        .collect();
    sentences.join(" ")
}

fn read(result: &Value) -> String {
    let terms = result["terms"].as_array().into_iter().flatten();
    let terms: Vec<&str> = terms.filter_map(|term| term["term"].as_str()).take(4).collect();
    format!("The reader went through {} sentences; the text is mostly about {}.", result["sentences"], terms.join(", "))
}

fn summarised(result: &Value) -> String {
    let first = result["first"].as_str().unwrap_or("nothing that makes a sentence");
    format!("The summarizer chose {} of them, first of all this: “{first}”", result["sentences"])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(log: &[&str]) -> BTreeMap<Role, Report> {
        let mut reports = BTreeMap::from(TEAM.map(|role| (role, Report::default())));
        for json in log {
            note(&mut reports, &Head::of(json.as_bytes()).expect("an entry"));
        }
        reports
    }

    #[test]
    fn the_conclusion_says_who_was_stopped_lost_or_never_there() {
        let text = conclusion(&told(&[
            r#"{"type":"run.started","agent":"reader","run":"r1","data":{"attempt":1}}"#,
            r#"{"type":"run.ended","agent":"reader","run":"r1","data":{"attempt":1,"status":"lost"}}"#,
        ]));
        assert!(text.contains("The reader fell silent and is lost"), "{text}");
        assert!(text.contains("The summarizer never began"), "{text}");
        let text = conclusion(&told(&[
            r#"{"type":"run.ended","run":"r1","data":{"attempt":1,"status":"cancelled"}}"#,
            r#"{"type":"run.ended","run":"r2","data":{"attempt":1,"status":"failed"}}"#,
        ]));
        assert!(text.contains("The reader was stopped early"), "{text}");
        assert!(text.contains("The summarizer did not get to the end (failed)"), "{text}");
    }

    #[test]
    fn a_further_attempt_is_waited_for() {
        let reports = told(&[
            r#"{"type":"run.ended","run":"r1","data":{"attempt":1,"status":"lost"}}"#,
            r#"{"type":"run.started","run":"r1","data":{"attempt":2}}"#,
        ]);
        assert_eq!(reports[&Role::Reader].status, None);
    }
}
