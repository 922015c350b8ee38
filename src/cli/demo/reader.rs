//! The sub-agent that walks through the document and says what stands where.

use serde_json::{Value, json};

use super::{
    agent::{Agent, Halt},
    text::{Document, Section},
};

/// Reads one section after the other. The result: counts, outline, and the most frequent terms.
pub(super) async fn work(agent: &mut Agent, document: &Document) -> Result<Value, Halt> {
    let count = document.sections.len();
    for (i, section) in document.sections.iter().enumerate() {
        agent.say(&describe(i + 1, count, section)).await?;
    }
    let terms: Vec<Value> =
        document.terms().into_iter().take(8).map(|(term, count)| json!({"term": term, "count": count})).collect();
    agent.event("terms", Value::from(terms.clone())).await?;
    Ok(json!({
        "sections": document.sections.len(),
        "sentences": document.sentences().count(),
        "words": document.words(),
        "terms": terms,
    }))
}

fn describe(place: usize, count: usize, section: &Section) -> String {
    let head = format!("Section {place} of {count}, “{}”:", section.title);
    let Some(first) = section.sentences.first() else {
        return format!("{head} a table or code, no sentences.");
    };
    let sentences = section.sentences.len();
    let words = section.words();
    let longest = section.sentences.iter().map(|sentence| sentence.split_whitespace().count()).max().unwrap_or(0);
    let size = match sentences {
        1 => format!("{words} words in one sentence."),
        _ => format!("{words} words in {sentences} sentences, the longest of {longest} words."),
    };
    let terms: Vec<String> = section.terms().into_iter().take(3).map(|(term, n)| format!("{term} ({n})")).collect();
    let about = if terms.is_empty() { String::new() } else { format!(" Mostly about: {}.", terms.join(", ")) };
    format!("{head} {size}{about} It begins: “{first}”")
}
