//! Where published events come from: an argument, lines of text, lines of events, or an event stream.

use std::fmt;

use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader, Stdin, stdin},
    sync::mpsc::Sender,
};

use crate::{
    cli::{broken_json, output},
    event::{Defaults, Event},
    sse::decode::Decoder,
};

/// The longest line, or event of a stream. Gateways take 256 KiB by default; this only bounds what is held here.
const LINE_MAX: usize = 4 << 20;

/// What to read, and how.
pub(super) enum Input {
    /// One event, its data given on the command line.
    Argument { text: String, kind: Option<String> },
    /// Each line is an event's data.
    Lines { kind: Option<String> },
    /// Each line is an event.
    Events,
    /// `text/event-stream`.
    EventStream,
}

/// One event, ready to be sent, and where it was found.
pub(super) struct Item {
    pub place: Place,
    pub json: Box<RawValue>,
}

/// Where an event stands, for messages.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place {
    Argument,
    Line(u64),
    Event(u64),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Argument => write!(f, "the event"),
            Place::Line(n) => write!(f, "line {n}"),
            Place::Event(n) => write!(f, "event {n} of the stream"),
        }
    }
}

impl Input {
    /// Sends all events, in order; after one that can't be read, why, and no more.
    pub async fn read(self, items: Sender<Result<Item, String>>) {
        let result = match self {
            Input::Argument { text, kind } => {
                Notice::default().of(Place::Argument, &text);
                let json = with_data(kind.as_deref(), &text);
                send(&items, Place::Argument, json).await.map(drop)
            }
            Input::Lines { kind } => {
                let mut notice = Notice::default();
                let event = |place, line: &str| {
                    notice.of(place, line);
                    with_data(kind.as_deref(), line).map(Some)
                };
                read_lines(&items, event).await
            }
            Input::Events => read_lines(&items, |_, line| whole_event(line)).await,
            Input::EventStream => read_event_stream(&items).await,
        };
        if let Err(why) = result {
            // Nobody listens any more: then nobody wants to know either.
            let _ = items.send(Err(why)).await;
        }
    }
}

/// What was meant to be JSON and is published as a text is told, but only the first time: it may well be what is wanted.
#[derive(Default)]
struct Notice {
    told: bool,
}

impl Notice {
    fn of(&mut self, place: Place, text: &str) {
        if self.told {
            return;
        }
        if let Some(why) = broken_json(text) {
            output::notice(format_args!("{place} is published as a text, for it is no JSON: {why}"));
            self.told = true;
        }
    }
}

/// Sends one event. `false` if nobody takes it.
async fn send(
    items: &Sender<Result<Item, String>>,
    place: Place,
    json: Result<Box<RawValue>, String>,
) -> Result<bool, String> {
    let json = json.map_err(|why| format!("{place}: {why}"))?;
    Ok(items.send(Ok(Item { place, json })).await.is_ok())
}

/// Reads lines up to the end of the input. `event` gives a line's event, or `None` to leave the line out.
async fn read_lines(
    items: &Sender<Result<Item, String>>,
    mut event: impl FnMut(Place, &str) -> Result<Option<Box<RawValue>>, String>,
) -> Result<(), String> {
    let mut input = BufReader::new(stdin());
    let mut line = Vec::new();
    for place in (1..).map(Place::Line) {
        if !next_line(&mut input, &mut line).await.map_err(|why| format!("{place}: {why}"))? {
            break;
        }
        let text = str::from_utf8(&line).map_err(|_| format!("{place}: it is not valid UTF-8"))?;
        if let Some(json) = event(place, text).transpose()
            && !send(items, place, json).await?
        {
            break;
        }
    }
    Ok(())
}

/// Reads one line without its end. `false` at the end of the input.
async fn next_line(input: &mut BufReader<Stdin>, line: &mut Vec<u8>) -> Result<bool, String> {
    line.clear();
    let read = input.take(LINE_MAX as u64 + 1).read_until(b'\n', line).await;
    if read.map_err(|e| format!("the standard input can't be read: {e}"))? == 0 {
        return Ok(false);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
        if line.last() == Some(&b'\r') {
            line.pop();
        }
    } else if line.len() > LINE_MAX {
        return Err(format!("it has more than {LINE_MAX} bytes"));
    }
    Ok(true)
}

async fn read_event_stream(items: &Sender<Result<Item, String>>) -> Result<(), String> {
    let (mut input, mut decoder, mut buffer, mut count) = (stdin(), Decoder::new(LINE_MAX), vec![0; 64 * 1024], 0);
    loop {
        let read = input.read(&mut buffer).await.map_err(|e| format!("the standard input can't be read: {e}"))?;
        if read == 0 {
            break;
        }
        decoder.push(&buffer[..read]);
        while let Some(frame) = decoder.next_frame().map_err(|e| format!("event {}: {e}", count + 1))? {
            count += 1;
            if frame.is_done() {
                continue;
            }
            let event = Event::from_sse(frame.event.as_deref(), &frame.data, &Defaults::default(), usize::MAX);
            let json = event.map_err(|e| e.to_string()).and_then(|event| {
                let text = String::from_utf8(event.payload.to_vec()).map_err(|e| e.to_string())?;
                RawValue::from_string(text).map_err(|e| e.to_string())
            });
            if !send(items, Place::Event(count), json).await? {
                return Ok(());
            }
        }
    }
    if decoder.mid_event() {
        Err(format!("the stream was cut in event {}, which is left out", count + 1))
    } else {
        Ok(())
    }
}

/// An event with this data: JSON as it is written, else the text as a string.
fn with_data(kind: Option<&str>, text: &str) -> Result<Box<RawValue>, String> {
    #[derive(Serialize)]
    struct Outgoing<'a> {
        #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
        kind: Option<&'a str>,
        data: &'a RawValue,
    }
    let parsed: Result<&RawValue, _> = serde_json::from_str(text);
    let quoted;
    let data = match parsed {
        Ok(json) => json,
        Err(_) => {
            quoted = to_raw_value(text).map_err(|e| e.to_string())?;
            &quoted
        }
    };
    to_raw_value(&Outgoing { kind, data }).map_err(|e| e.to_string())
}

/// A line that is an event by itself; a blank one is none. That it is one JSON object is checked here, since it goes
/// into an array with others; the rest is the gateway's to judge.
fn whole_event(line: &str) -> Result<Option<Box<RawValue>>, String> {
    let line = line.trim();
    if line.is_empty() {
        return Ok(None);
    }
    let json = RawValue::from_string(line.to_owned()).map_err(|e| format!("it is not JSON: {e}"))?;
    if !line.starts_with('{') {
        return Err("it is not an event; an event is an object with the keys type, data, agent and run".into());
    }
    Ok(Some(json))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_json_if_it_parses_and_else_text() {
        let json = |kind, text| with_data(kind, text).unwrap().get().to_owned();
        assert_eq!(json(None, r#"{"a": 1.50}"#), r#"{"data":{"a": 1.50}}"#);
        assert_eq!(json(Some("t"), "say \"hi\""), r#"{"type":"t","data":"say \"hi\""}"#);
        assert_eq!(json(None, ""), r#"{"data":""}"#);
        assert_eq!(json(None, "{\"a\":1} x"), r#"{"data":"{\"a\":1} x"}"#);
    }

    #[test]
    fn a_raw_line_is_one_object() {
        assert!(whole_event("  ").unwrap().is_none());
        assert_eq!(whole_event(" {\"data\":1} ").unwrap().unwrap().get(), "{\"data\":1}");
        for bad in ["{\"data\":1},{\"data\":2}", "[1]", "1", "x", "{"] {
            assert!(whole_event(bad).is_err(), "{bad}");
        }
    }
}
