//! The sub-agent that summarises by extraction: it chooses the sentences that say most, one at a time.

use serde_json::{Value, json};

use super::{
    agent::{Agent, Halt},
    text::{Document, Ranking},
};
use crate::client::Outcome;

/// How much of a document a summary is, and its least and greatest length, in sentences.
const SHARE: usize = 3;
const LEAST: usize = 4;
const MOST: usize = 40;

/// Says the summary. A `steer` command's text names what the sentences chosen from then on should be about.
pub(super) async fn work(agent: &mut Agent, document: &Document) -> Result<Value, Halt> {
    let mut ranking = Ranking::new(document);
    let candidates = ranking.left();
    let length = (candidates / SHARE).clamp(LEAST, MOST).min(candidates);
    let mut chosen = Vec::new();
    while chosen.len() < length {
        if let Some(steer) = agent.steered() {
            let focus = ranking.focus(&steer.text);
            let answer = match focus.is_empty() {
                true => (Outcome::Rejected, Some("the text has none of these words")),
                false => (Outcome::Consumed, None),
            };
            agent.event("steered", json!({"to": steer.text, "focus": focus})).await?;
            agent.answer(&steer.command, answer.0, answer.1).await;
        }
        let Some(sentence) = ranking.next() else { break };
        agent.say(&format!("• {sentence}")).await?;
        chosen.push(sentence);
    }
    Ok(json!({"sentences": chosen.len(), "of": document.sentences().count(), "first": chosen.first()}))
}
