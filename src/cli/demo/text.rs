//! What the demo's agents do to a text: divide it, count it, rank its sentences. Pure, and computed for real.

use std::{
    collections::{HashMap, HashSet},
    sync::LazyLock,
};

/// A sentence with fewer words says too little to stand in a summary.
const SENTENCE_MIN: usize = 6;

/// One with more is a list or a table that lost its form.
const SENTENCE_MAX: usize = 50;

/// Paragraphs to a part, in a text without headings.
const PART: usize = 8;

/// How much a term in focus weighs, in units of the heaviest term.
const FOCUS: f64 = 4.0;

/// Words that say nothing about what an English text is about.
const STOP_WORDS: &str = "about above after again against all also although always am an and another any are aren't as at be \
    because been before being below between both but by can cannot could did do does doing done down during each either else \
    even ever every few for from further get gets give given go goes had has have having he her here hers him his how however \
    i if in into is it its itself just let like made make makes many may me might more most much must my neither never no nor \
    not now of off on once one only onto or other others our out over own per quite rather same say says see she should since \
    so some such than that the their them then there these they this those through to too two under until up upon us use used \
    uses using very was way we well were what when where whether which while who whom whose why will with within without \
    would yet you your";

/// A text, divided.
#[derive(Debug)]
pub(super) struct Document {
    pub sections: Vec<Section>,
}

/// What stands under one heading.
#[derive(Debug, Default)]
pub(super) struct Section {
    pub title: String,
    pub sentences: Vec<String>,
}

impl Document {
    /// Divides Markdown or plain text. Code blocks, tables and HTML are left out: they hold no sentences.
    pub fn parse(text: &str) -> Document {
        let mut sections: Vec<Section> = Vec::new();
        let (mut paragraph, mut paragraphs, mut in_code) = (String::new(), 0, false);
        let headings = text.lines().any(|line| heading(line).is_some());
        for line in text.lines().map(str::trim).chain([""]) {
            let fence = line.starts_with("```") || line.starts_with("~~~");
            in_code ^= fence;
            let title = if in_code || fence { None } else { heading(line) };
            let skipped = fence || in_code || line.starts_with(['|', '<']);
            let (item, words) = list_item(line);
            if line.is_empty() || skipped || title.is_some() || item {
                if !paragraph.trim().is_empty() {
                    if sections.is_empty() || (!headings && paragraphs % PART == 0) {
                        let title = if headings { "Opening".into() } else { format!("Part {}", paragraphs / PART + 1) };
                        sections.push(Section { title, ..Section::default() });
                    }
                    if let Some(section) = sections.last_mut() {
                        section.sentences.extend(sentences(&plain(&paragraph)));
                    }
                    paragraphs += 1;
                }
                paragraph.clear();
            }
            match title {
                Some(title) => sections.push(Section { title: plain(title), ..Section::default() }),
                None if skipped => {}
                None => {
                    paragraph.push_str(words);
                    paragraph.push(' ');
                }
            }
        }
        Document { sections }
    }

    /// All sentences, in order.
    pub fn sentences(&self) -> impl Iterator<Item = &str> {
        self.sections.iter().flat_map(|section| section.sentences.iter().map(String::as_str))
    }

    /// How many words its sentences have.
    pub fn words(&self) -> usize {
        self.sections.iter().map(Section::words).sum()
    }

    /// Its terms and how often each occurs, most frequent first.
    pub fn terms(&self) -> Vec<(String, usize)> {
        count_terms(self.sentences())
    }
}

impl Section {
    /// How many words its sentences have.
    pub fn words(&self) -> usize {
        self.sentences.iter().map(|sentence| sentence.split_whitespace().count()).sum()
    }

    /// Its terms and how often each occurs, most frequent first.
    pub fn terms(&self) -> Vec<(String, usize)> {
        count_terms(self.sentences.iter().map(String::as_str))
    }
}

/// Chooses sentences for a summary, one at a time: SumBasic (Nenkova and Vanderwende, 2005). A sentence is worth the
/// mean probability of its terms; once chosen, its terms are worth less, so the next one says something else.
#[derive(Debug)]
pub(super) struct Ranking {
    weights: HashMap<String, f64>,
    heaviest: f64,
    left: Vec<Candidate>,
}

#[derive(Debug)]
struct Candidate {
    sentence: String,
    terms: HashSet<String>,
}

impl Ranking {
    /// All sentences of a document that could stand in a summary, weighed.
    pub fn new(document: &Document) -> Ranking {
        let terms = document.terms();
        let total: usize = terms.iter().map(|(_, count)| count).sum();
        let weights: HashMap<_, _> =
            terms.into_iter().map(|(term, count)| (term, count as f64 / total.max(1) as f64)).collect();
        let heaviest = weights.values().copied().fold(0.0, f64::max);
        let mut seen = HashSet::new();
        let left = document
            .sentences()
            .filter(|sentence| (SENTENCE_MIN..=SENTENCE_MAX).contains(&sentence.split_whitespace().count()))
            .filter(|sentence| seen.insert(*sentence))
            .map(|sentence| Candidate { sentence: sentence.to_owned(), terms: terms_of(sentence).collect() })
            .filter(|candidate| !candidate.terms.is_empty())
            .collect();
        Ranking { weights, heaviest, left }
    }

    /// How many sentences are left to choose from.
    pub fn left(&self) -> usize {
        self.left.len()
    }

    /// Makes terms of a request weigh most from now on. Gives those that the text has at all.
    pub fn focus(&mut self, request: &str) -> Vec<String> {
        let mut found: Vec<String> = terms_of(request).filter(|term| self.weights.contains_key(term)).collect();
        found.sort();
        found.dedup();
        for term in &found {
            self.weights.insert(term.clone(), self.heaviest * FOCUS);
        }
        found
    }
}

impl Iterator for Ranking {
    type Item = String;

    /// The best of what is left.
    fn next(&mut self) -> Option<String> {
        let score = |candidate: &Candidate| {
            let sum: f64 = candidate.terms.iter().filter_map(|term| self.weights.get(term)).sum();
            sum / candidate.terms.len() as f64
        };
        // Of equals the first in the text.
        let best = (0..self.left.len()).rev().max_by(|&a, &b| score(&self.left[a]).total_cmp(&score(&self.left[b])))?;
        let chosen = self.left.remove(best);
        for term in &chosen.terms {
            if let Some(weight) = self.weights.get_mut(term) {
                *weight *= (*weight).min(0.5);
            }
        }
        Some(chosen.sentence)
    }
}

fn heading(line: &str) -> Option<&str> {
    let title = line.trim_start_matches('#');
    let level = line.len() - title.len();
    let title = title.trim_matches([' ', '#']);
    ((1..=6).contains(&level) && line[level..].starts_with(' ') && !title.is_empty()).then_some(title)
}

/// Whether a line begins a list item or a quotation, and the line without its mark.
fn list_item(line: &str) -> (bool, &str) {
    if let Some(rest) = ["- ", "* ", "+ ", "> "].iter().find_map(|mark| line.strip_prefix(mark)) {
        return (true, rest);
    }
    let rest = line.trim_start_matches(|c: char| c.is_ascii_digit());
    match rest.strip_prefix(". ") {
        Some(item) if rest.len() < line.len() => (true, item),
        _ => (false, line),
    }
}

/// Text without Markdown's marks: a link is its words, emphasis and code are what they hold.
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(open) = rest.find("](") {
        let Some(close) = rest[open..].find(')') else { break };
        out.push_str(&rest[..open]);
        rest = &rest[open + close + 1..];
    }
    out.push_str(rest);
    out.retain(|c| !matches!(c, '*' | '`' | '[' | ']'));
    out.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Divides a paragraph after `.`, `!` and `?` (or their kin) where the next word doesn't begin in lower case.
fn sentences(paragraph: &str) -> Vec<String> {
    let words: Vec<&str> = paragraph.split_whitespace().collect();
    let (mut out, mut sentence) = (Vec::new(), Vec::new());
    for (i, word) in words.iter().enumerate() {
        sentence.push(*word);
        let end = word.trim_end_matches(['"', '\'', ')', '”', '’', '»']).ends_with(['.', '!', '?', '…', '。']);
        let next_is_lower = words.get(i + 1).and_then(|next| next.chars().next()).is_some_and(char::is_lowercase);
        if (end && !next_is_lower) || i + 1 == words.len() {
            out.push(sentence.join(" "));
            sentence.clear();
        }
    }
    out
}

fn count_terms<'a>(sentences: impl Iterator<Item = &'a str>) -> Vec<(String, usize)> {
    let mut counts: HashMap<String, usize> = HashMap::new();
    for term in sentences.flat_map(terms_of) {
        *counts.entry(term).or_default() += 1;
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    counts
}

/// The words of a text that carry meaning, in lower case, plural and singular as one.
fn terms_of(text: &str) -> impl Iterator<Item = String> + '_ {
    static STOPS: LazyLock<HashSet<&str>> = LazyLock::new(|| STOP_WORDS.split_whitespace().collect());
    text.split(|c: char| !c.is_alphanumeric() && c != '\'' && c != '’')
        .map(|word| word.trim_matches(['\'', '’']).to_lowercase())
        .filter(|word| word.chars().count() > 2 && word.chars().any(char::is_alphabetic))
        .filter(|word| !STOPS.contains(word.as_str()))
        .map(|word| match word.strip_suffix('s') {
            Some(singular) if singular.len() > 3 && !singular.ends_with(['s', 'u', 'i']) => singular.to_owned(),
            _ => word,
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TEXT: &str = "# Boats\nA mooring line holds a boat while the stream runs past it. It's e.g. a rope!\n\n\
        ```\n# not a heading. Code.\n```\n## Kinds\n- Ropes of **hemp** are strong and last for many years.\n\
        - See [the manual](http://x/y.z) for ropes that float on water in a storm.\n\n| a | b |\n";

    #[test]
    fn markdown_is_divided_by_its_headings() {
        let document = Document::parse(TEXT);
        let titles: Vec<&str> = document.sections.iter().map(|section| section.title.as_str()).collect();
        assert_eq!(titles, ["Boats", "Kinds"]);
        assert_eq!(
            document.sections[0].sentences,
            ["A mooring line holds a boat while the stream runs past it.", "It's e.g. a rope!"]
        );
        assert_eq!(document.sections[1].sentences[1], "See the manual for ropes that float on water in a storm.");
    }

    #[test]
    fn plain_text_is_divided_into_parts() {
        let text = "One paragraph here.\n\n".repeat(20);
        let titles: Vec<String> = Document::parse(&text).sections.into_iter().map(|section| section.title).collect();
        assert_eq!(titles, ["Part 1", "Part 2", "Part 3"]);
    }

    #[test]
    fn plural_and_singular_are_one_term() {
        assert_eq!(Document::parse(TEXT).terms()[0], ("rope".to_owned(), 3));
    }

    #[test]
    fn a_summary_begins_with_the_most_telling_sentence_and_takes_each_once() {
        let chosen: Vec<String> = Ranking::new(&Document::parse(TEXT)).collect();
        assert_eq!(chosen.len(), 3);
        assert!(chosen[0].starts_with("Ropes of hemp"), "{chosen:?}");
    }

    #[test]
    fn a_focus_turns_the_choice() {
        let mut ranking = Ranking::new(&Document::parse(TEXT));
        assert_eq!(ranking.focus("tell me about the storm, and zebras"), ["storm"]);
        assert!(ranking.next().unwrap().contains("storm"));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC*|([#>|`*. \\[\\]()a-zA-Z0-9-]{0,12}\n){0,20}") {
            let document = Document::parse(&text);
            document.sections.iter().for_each(|section| drop(section.terms()));
            Ranking::new(&document).for_each(drop);
        }
    }
}
