//! The agent that plans, gives the work away, and has the last word.
//!
//! It relays nothing: its sub-agents write to the session themselves. What came of their work it learns as everybody
//! does, by reading the session.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio::{task::JoinSet, time::timeout};

use super::{
    Input,
    agent::{Agent, Halt, Workplace},
    reader, summarizer,
    text::Document,
};
use crate::{
    client::{Error, FollowOptions, Update},
    id::{EntryId, Lane, Name},
};

/// Sub-agents speak all the time; one that says nothing for this long is gone.
const PATIENCE: Duration = Duration::from_secs(60);

/// The sub-agents, each with its run and its task in words.
const TEAM: [(&str, &str, &str); 2] = [
    ("reader", "r1", "walk through the text and report what stands where"),
    ("summarizer", "r2", "choose the sentences that say most"),
];

/// Plans, starts the team, waits for it, concludes. Returns when all agents have ended.
pub(super) async fn run(place: Workplace, input: Input) -> Result<(), Error> {
    let document = Arc::new(Document::parse(&input.text));
    let mut agent = Agent::start(&place, name("orchestrator"), name("r0")).await?;
    let mut team = JoinSet::new();
    let work = work(&mut agent, &place, &input, document, &mut team).await;
    agent.finish(work).await?;
    // A stop of this agent alone leaves the others at work.
    while team.join_next().await.is_some() {}
    Ok(())
}

async fn work(
    agent: &mut Agent,
    place: &Workplace,
    input: &Input,
    document: Arc<Document>,
    team: &mut JoinSet<()>,
) -> Result<Value, Halt> {
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
        TEAM.iter().map(|(agent, run, task)| json!({"agent": agent, "run": run, "task": task})).collect();
    let plan = json!({"file": input.name, "bytes": input.text.len(), "tasks": tasks, "outline": outline});
    let plan = agent.event("plan", plan).await?;

    for (member, run, _) in TEAM {
        team.spawn(sub_agent(place.clone(), name(member), name(run), document.clone()));
    }
    let results = tokio::select! {
        results = results(place, plan.ids.last().copied()) => results?,
        halt = agent.halted() => return Err(halt),
    };
    agent.say(&conclusion(&results)).await?;
    Ok(results.into_iter().map(|(agent, data)| (agent, data["status"].clone())).collect())
}

async fn sub_agent(place: Workplace, name: Name, run: Name, document: Arc<Document>) {
    let reading = name.as_str() == "reader";
    let result = async {
        let mut agent = Agent::start(&place, name.clone(), run).await?;
        let work = match reading {
            true => reader::work(&mut agent, document).await,
            false => summarizer::work(&mut agent, document).await,
        };
        agent.finish(work).await
    };
    if let Err(error) = result.await {
        // It can't say so in the session. The orchestrator notices by its silence.
        tracing::warn!(agent = %name, %error, "an agent of the demo could not go on");
    }
}

/// Reads the session until each member of the team has finished. Gives their last words.
async fn results(place: &Workplace, after: Option<EntryId>) -> Result<BTreeMap<String, Value>, Halt> {
    let agents = TEAM.iter().map(|(member, ..)| name(member)).collect();
    let options = FollowOptions { cursor: after, agents, ..FollowOptions::default() };
    let mut session = place.client.follow(&place.session, Lane::Events, options);
    let mut results = BTreeMap::new();
    while results.len() < TEAM.len() {
        let update = timeout(PATIENCE, session.next()).await;
        let update = update.map_err(|_| Halt::Failed("the other agents have fallen silent".into()))?;
        let Some(update) = update else { return Err(Halt::Failed("the session was closed".into())) };
        if let Update::Entry(entry) = update?
            && let Some(head) = entry.head().filter(|head| head.kind == "agent.finished")
            && let (Some(agent), Some(data)) = (head.agent, head.data)
        {
            results.insert(agent.to_owned(), serde_json::from_str(data.get()).unwrap_or_default());
        }
    }
    Ok(results)
}

/// A message made of what the others have published.
fn conclusion(results: &BTreeMap<String, Value>) -> String {
    let finished = |agent| results.get(agent).filter(|data| data["status"] == "completed").map(|data| &data["result"]);
    let mut text = match finished("reader") {
        Some(result) => {
            let terms: Vec<&str> = result["terms"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|term| term["term"].as_str())
                .take(4)
                .collect();
            format!(
                "The reader went through {} sentences; the text is mostly about {}.",
                result["sentences"],
                terms.join(", ")
            )
        }
        None => "The reader did not get to the end.".to_owned(),
    };
    text += &match finished("summarizer") {
        Some(result) => {
            let first = result["first"].as_str().unwrap_or("nothing that makes a sentence");
            format!(" The summarizer chose {} of them, first of all this: “{first}”", result["sentences"])
        }
        None => " The summarizer was ended early; what it had said stays in the session.".to_owned(),
    };
    text
}

fn name(text: &str) -> Name {
    text.parse().expect("the demo's own names are names")
}
