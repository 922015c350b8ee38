//! Entries as a person reads them.
//!
//! Tokens of one agent run on in one line. When several agents stream at the same time, one has the open line, and the
//! others' text is held until it makes a line of its own ([`TURN`]); else each token would begin a new line. Nothing
//! is held long: the caller [settles](Printer::settle) when the session is quiet.

use std::{borrow::Cow, fmt::Write};

use serde_json::Value;

use super::handout;
use crate::{cli::output::printable, client::Entry, event::Head};

/// Held text of this many bytes takes the open line over from another agent: about one line of a terminal.
const TURN: usize = 64;

/// The most agents whose text is held; with one more, all are shown.
const HELD_MAX: usize = 32;

/// Data of events that are no text is cut off after this many characters.
const DATA_MAX: usize = 300;

/// The column of the names; longer ones push the text aside.
const NAME_WIDTH: usize = 15;

const DIM: &str = "\x1b[2m";
const PLAIN: &str = "\x1b[0m";
/// Red stays for failures.
const AGENT_COLOURS: [&str; 5] = ["\x1b[36m", "\x1b[32m", "\x1b[33m", "\x1b[35m", "\x1b[34m"];

/// Turns entries into text for a terminal or a pipe.
pub(in crate::cli) struct Printer {
    colours: bool,
    /// Whose line is open, if the output does not stand at the start of a line.
    open: Option<String>,
    /// Text of others that waits, in the order in which it began.
    held: Vec<(String, String)>,
}

impl Printer {
    /// A printer at the start of a line.
    pub fn new(colours: bool) -> Printer {
        Printer { colours, open: None, held: Vec::new() }
    }

    /// What to print for an entry; empty if its text is held.
    pub fn entry(&mut self, entry: &Entry) -> String {
        let mut out = String::new();
        let Some(head) = entry.head() else {
            self.line(&mut out, "", &printable(&entry.json));
            return out;
        };
        let speaker = match (head.agent, head.run) {
            (Some(agent), Some(run)) => format!("{agent}/{run}"),
            (Some(name), None) | (None, Some(name)) => name.to_owned(),
            (None, None) => String::new(),
        };
        let data: Option<Value> = head.data.and_then(|data| serde_json::from_str(data.get()).ok());
        if let Some(text) = data.as_ref().and_then(|data| streamed(head.kind, data)) {
            self.streamed(&mut out, speaker, text);
        } else {
            // What the agent said before comes before.
            self.release(&mut out, &speaker);
            let text = self.whole(&head, data.as_ref());
            self.line(&mut out, &speaker, &text);
        }
        out
    }

    /// Whether text is held.
    pub fn holds(&self) -> bool {
        !self.held.is_empty()
    }

    /// All held text. The last line stays open.
    pub fn settle(&mut self) -> String {
        let mut out = String::new();
        for (speaker, text) in std::mem::take(&mut self.held) {
            self.say(&mut out, &speaker, &text);
        }
        out
    }

    /// All held text, and the end of the line.
    pub fn end(&mut self) -> String {
        let mut out = self.settle();
        self.break_line(&mut out);
        out
    }

    fn streamed(&mut self, out: &mut String, speaker: String, text: &str) {
        if self.open.as_ref().is_none_or(|open| *open == speaker) {
            self.release(out, &speaker);
            self.say(out, &speaker, text);
            return;
        }
        let at = self.held.iter().position(|(held, _)| *held == speaker);
        let at = at.unwrap_or_else(|| {
            self.held.push((speaker.clone(), String::new()));
            self.held.len() - 1
        });
        let waiting = &mut self.held[at].1;
        waiting.push_str(text);
        if waiting.len() >= TURN || waiting.contains('\n') {
            self.release(out, &speaker);
        } else if self.held.len() > HELD_MAX {
            out.push_str(&self.settle());
        }
    }

    /// Prints what is held of one speaker.
    fn release(&mut self, out: &mut String, speaker: &str) {
        if let Some(at) = self.held.iter().position(|(held, _)| held == speaker) {
            let (speaker, text) = self.held.remove(at);
            self.say(out, &speaker, &text);
        }
    }

    /// Prints text in the speaker's line, a new one if another's is open. Line breaks in it end the line.
    fn say(&mut self, out: &mut String, speaker: &str, text: &str) {
        for (i, part) in text.split('\n').enumerate() {
            if i > 0 {
                self.break_line(out);
            }
            if part.is_empty() {
                continue;
            }
            if self.open.as_deref() == Some(speaker) {
                out.push_str(&printable(part));
            } else {
                self.break_line(out);
                self.label(out, speaker);
                out.push_str(&printable(part.trim_start_matches(' ')));
                self.open = Some(speaker.to_owned());
            }
        }
    }

    /// Prints a line by itself.
    fn line(&mut self, out: &mut String, speaker: &str, text: &str) {
        self.break_line(out);
        self.label(out, speaker);
        out.push_str(text);
        out.push('\n');
    }

    fn break_line(&mut self, out: &mut String) {
        if self.open.take().is_some() {
            out.push('\n');
        }
    }

    fn label(&self, out: &mut String, speaker: &str) {
        if self.colours {
            // The same agent has the same colour in every terminal.
            let hash = speaker.bytes().fold(5381_usize, |hash, byte| hash.wrapping_mul(33) ^ usize::from(byte));
            let colour = if speaker.is_empty() { DIM } else { AGENT_COLOURS[hash % AGENT_COLOURS.len()] };
            let _ = write!(out, "{colour}{speaker:>NAME_WIDTH$} │{PLAIN} ");
        } else {
            let _ = write!(out, "{speaker:>NAME_WIDTH$} │ ");
        }
    }

    /// An event that is no token: its type, unless that says nothing, and its data, shortened unless it is text.
    fn whole(&self, head: &Head, data: Option<&Value>) -> String {
        if let Some(text) = data.and_then(|data| handout::text(head.kind, data)) {
            return under_the_first(&text);
        }
        let data: Cow<str> = match data {
            None => Cow::Borrowed(""),
            Some(Value::String(text)) => Cow::Owned(lines(text)),
            Some(data) => shortened(data.to_string()),
        };
        match head.kind {
            "message" => data.into_owned(),
            kind if self.colours => format!("{DIM}{kind}{PLAIN} {data}"),
            kind => format!("{kind} {data}").trim_end().to_owned(),
        }
    }
}

/// Text of several lines, its further lines under the first.
fn lines(text: &str) -> String {
    let lines: Vec<Cow<str>> = text.trim_end().split('\n').map(|line| printable(line.trim_end_matches('\r'))).collect();
    under_the_first(&lines.join("\n"))
}

fn under_the_first(text: &str) -> String {
    text.replace('\n', &format!("\n{:NAME_WIDTH$} │ ", ""))
}

fn shortened(text: String) -> Cow<'static, str> {
    let text = printable(&text).into_owned();
    match text.char_indices().nth(DATA_MAX) {
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
        None => Cow::Owned(text),
    }
}

/// The token that an event carries, if it is one: the delta of the common formats, or text whose type says so.
fn streamed<'a>(kind: &str, data: &'a Value) -> Option<&'a str> {
    let text = |value: &'a Value| value.get("text").or_else(|| value.get("content")).and_then(Value::as_str);
    // OpenAI's chat completions; Anthropic's content blocks; everybody else's `delta`.
    let delta = data.pointer("/choices/0/delta").or_else(|| data.get("delta"));
    if let Some(delta) = delta {
        return delta.as_str().or_else(|| text(delta));
    }
    if ["delta", "token", "chunk"].iter().any(|word| kind.contains(word)) {
        return data.as_str().or_else(|| text(data));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(json: &str) -> Entry {
        Entry { id: "5-1".parse().unwrap(), json: json.into() }
    }

    fn token(agent: &str, text: &str) -> Entry {
        let text = Value::from(text);
        entry(&format!(r#"{{"type":"text-delta","agent":"{agent}","data":{{"delta":{text}}}}}"#))
    }

    fn printed(entries: &[Entry]) -> String {
        let mut printer = Printer::new(false);
        let mut out: String = entries.iter().map(|entry| printer.entry(entry)).collect();
        out += &printer.end();
        out
    }

    #[test]
    fn tokens_of_one_agent_run_on_in_one_line() {
        let out = printed(&[token("a", "Hel"), token("a", "lo "), token("a", "you\nand"), token("a", " me")]);
        assert_eq!(out, "              a │ Hello you\n              a │ and me\n");
    }

    #[test]
    fn agents_that_stream_at_once_take_turns_by_lines() {
        let entries: Vec<Entry> = (0..40).flat_map(|_| [token("a", "one two "), token("b", "three ")]).collect();
        let out = printed(&entries);
        assert!(out.lines().count() < 14, "{out}");
        for (agent, word) in [("a │ ", "one two"), ("b │ ", "three")] {
            let text: Vec<&str> = out.lines().filter_map(|line| line.trim_start().strip_prefix(agent)).collect();
            assert_eq!(text.join(" ").split_whitespace().collect::<Vec<_>>().join(" "), [word; 40].join(" "));
        }
    }

    #[test]
    fn held_text_comes_before_the_same_agents_next_event() {
        let end = entry(r#"{"type":"text-end","agent":"b"}"#);
        let out = printed(&[token("a", "one"), token("b", "two"), end, token("a", "three")]);
        assert_eq!(
            out,
            "              a │ one\n              b │ two\n              b │ text-end\n              a │ three\n"
        );
    }

    #[test]
    fn other_events_are_one_line() {
        let out = printed(&[
            token("a", "x"),
            entry(r#"{"type":"plan","agent":"a","run":"r","data":{"n":1}}"#),
            entry(r#"{"type":"message","data":"two\nlines"}"#),
            entry(r#"{"type":"message","data":{"text":"kept whole"}}"#),
        ]);
        assert_eq!(
            out,
            "              a │ x\n            a/r │ plan {\"n\":1}\n                │ two\n                │ lines\n                │ {\"text\":\"kept whole\"}\n"
        );
    }

    #[test]
    fn tokens_of_the_common_formats_are_found() {
        let found = |kind, data: &str| streamed(kind, &serde_json::from_str(data).unwrap()).map(str::to_owned);
        assert_eq!(found("message", r#"{"choices":[{"delta":{"content":"a"}}]}"#).as_deref(), Some("a"));
        assert_eq!(found("content_block_delta", r#"{"delta":{"type":"text_delta","text":"a"}}"#).as_deref(), Some("a"));
        assert_eq!(found("token", r#""a""#).as_deref(), Some("a"));
        assert_eq!(found("TEXT_MESSAGE_CHUNK", r#"{"delta":"a"}"#).as_deref(), Some("a"));
        assert_eq!(found("message", r#""a""#), None);
        assert_eq!(found("message", r#"{"choices":[]}"#), None);
    }

    #[test]
    fn a_log_cannot_command_the_terminal() {
        let out = printed(&[token("a", "\x1b[2Jx\r"), entry(r#"{"type":"note","data":"\u001b]0;t\u0007"}"#)]);
        assert!(!out.contains(['\x1b', '\r', '\x07']), "{out:?}");
    }
}
