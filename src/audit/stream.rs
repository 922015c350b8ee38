//! Streams as the audit reads them: watched by a task of their own, from their first event to their end or a cut.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use reqwest::Response;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, timeout_at},
};

use crate::{client::root_cause, lock::lock, sse::decode::Decoder};

/// The most events that are kept of one stream. The comparison takes time and memory by the square of it.
pub(super) const UNITS_MAX: usize = 4_000;

/// The most bytes that are kept of one stream, and the largest event.
const BYTES_MAX: usize = 8 << 20;

/// What a stream is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Server-sent events.
    Sse,
    /// A line an event.
    Lines,
    /// Text: each word counts.
    Text,
}

impl Form {
    /// `None` for what is no stream.
    pub fn of(content_type: &str) -> Option<Form> {
        let kind = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match kind.as_str() {
            "text/event-stream" => Some(Form::Sse),
            "application/x-ndjson"
            | "application/ndjson"
            | "application/jsonl"
            | "application/json-seq"
            | "application/jsonlines"
            | "application/x-json-stream" => Some(Form::Lines),
            "text/plain" | "application/octet-stream" | "" => Some(Form::Text),
            _ => None,
        }
    }
}

/// One event (or line, or word) of a stream.
#[derive(Debug, Clone)]
pub(super) struct Unit {
    /// All that makes it what it is. Two units are the same if this is.
    pub key: String,
    pub id: Option<String>,
    pub data: String,
    pub at: Instant,
}

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// The answer was complete.
    Clean,
    /// The connection broke, or what came could not be read.
    Broken(String),
    /// We have enough.
    Enough,
}

/// Where a client was when its connection was cut.
#[derive(Debug, Clone, Default)]
pub(super) struct Place {
    pub last_id: Option<String>,
    pub events: usize,
    pub chars: usize,
}

#[derive(Debug, Default)]
struct Seen {
    units: Vec<Unit>,
    /// How many of them have an id.
    with_id: usize,
    raw: Vec<u8>,
    last_id: Option<String>,
    done: bool,
    end: Option<(End, Instant)>,
}

/// A stream that is being watched. Dropping it cuts it.
pub(super) struct Watching {
    pub opened: Instant,
    pub headers: Vec<(String, String)>,
    pub form: Form,
    seen: Arc<Mutex<Seen>>,
    turned: watch::Receiver<()>,
    task: JoinHandle<()>,
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Watching {
    pub fn start(response: Response, form: Form, headers: Vec<(String, String)>) -> Watching {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (turn, turned) = watch::channel(());
        let task = tokio::spawn(read(response, form, seen.clone(), turn));
        Watching { opened: Instant::now(), headers, form, seen, turned, task }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        lock(&self.seen)
    }

    /// What came so far. Where events carry ids, those without one are the connection's own and don't count.
    pub fn units(&self) -> Vec<Unit> {
        let seen = self.seen();
        let ids = seen.units.iter().any(|unit| unit.id.is_some());
        seen.units.iter().filter(|unit| !ids || unit.id.is_some()).cloned().collect()
    }

    /// How many units came so far.
    pub fn count(&self) -> usize {
        let seen = self.seen();
        if seen.with_id > 0 { seen.with_id } else { seen.units.len() }
    }

    /// How many came without an id, where others have one.
    pub fn without_id(&self) -> usize {
        let seen = self.seen();
        if seen.with_id > 0 { seen.units.len() - seen.with_id } else { 0 }
    }

    /// Whether this came.
    pub fn holds(&self, key: &str) -> bool {
        self.seen().units.iter().rev().any(|unit| unit.key == key)
    }

    /// How and when it ended, if it has.
    pub fn end(&self) -> Option<(End, Instant)> {
        self.seen().end.clone()
    }

    /// Whether it said that it is complete (`[DONE]`).
    pub fn done(&self) -> bool {
        self.seen().done
    }

    /// Waits until `is` holds, the stream has ended, or it is too late. Tells whether it holds.
    pub async fn until(&self, deadline: Instant, is: impl Fn(&Watching) -> bool) -> bool {
        let mut turned = self.turned.clone();
        loop {
            turned.borrow_and_update();
            if is(self) {
                return true;
            }
            if self.end().is_some() {
                return false;
            }
            match timeout_at(deadline, turned.changed()).await {
                Ok(Ok(())) => {}
                // The reader has ended: its last word was said before.
                Ok(Err(_)) => return is(self),
                Err(_) => return is(self),
            }
        }
    }

    /// Waits for the end, or until it is too late. Tells whether it has ended.
    pub async fn ended(&self, deadline: Instant) -> bool {
        self.until(deadline, |watching| watching.end().is_some()).await || self.end().is_some()
    }

    /// Waits until nothing came for `quiet`, it has ended, or it is too late.
    pub async fn quiet(&self, quiet: Duration, deadline: Instant) {
        loop {
            let count = self.seen().units.len();
            let pause = (Instant::now() + quiet).min(deadline);
            let more = self.until(pause, |watching| watching.seen().units.len() > count).await;
            if !more {
                return;
            }
        }
    }

    /// Cuts the connection. What came, and where the client is.
    pub fn cut(self) -> (Vec<Unit>, Place) {
        self.task.abort();
        let units = self.units();
        let seen = self.seen();
        let chars = settled(&seen.raw, self.form);
        let place = Place { last_id: seen.last_id.clone(), events: units.len(), chars };
        drop(seen);
        (units, place)
    }
}

/// How many characters the complete events take, from the beginning.
fn settled(raw: &[u8], form: Form) -> usize {
    let text = String::from_utf8_lossy(raw);
    let end = match form {
        Form::Sse => ["\n\n", "\r\n\r\n"].iter().filter_map(|mark| Some(text.rfind(mark)? + mark.len())).max(),
        Form::Lines => text.rfind('\n').map(|at| at + 1),
        Form::Text => text.rfind(char::is_whitespace).map(|at| at + 1),
    };
    // A character of white space may be longer than a byte: to the next boundary.
    let end = (end.unwrap_or(0)..=text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text[..end].chars().count()
}

async fn read(mut response: Response, form: Form, seen: Arc<Mutex<Seen>>, turn: watch::Sender<()>) {
    let mut splitter = Splitter::new(form);
    let end = loop {
        let chunk = match response.chunk().await {
            Ok(Some(chunk)) => chunk,
            Ok(None) => break End::Clean,
            Err(error) => break End::Broken(root_cause(&error)),
        };
        let mut seen = lock(&seen);
        if seen.raw.len() + chunk.len() <= BYTES_MAX {
            seen.raw.extend_from_slice(&chunk);
        }
        let split = splitter.push(&chunk, &mut seen);
        let enough = seen.units.len() >= UNITS_MAX;
        if enough {
            // One chunk may bring far more than there is room to compare.
            seen.units.truncate(UNITS_MAX);
            seen.with_id = seen.units.iter().filter(|unit| unit.id.is_some()).count();
        }
        drop(seen);
        turn.send_replace(());
        if let Err(why) = split {
            break End::Broken(why);
        }
        if enough {
            break End::Enough;
        }
    };
    let mut seen = lock(&seen);
    if end == End::Clean {
        splitter.finish(&mut seen);
    }
    seen.end = Some((end, Instant::now()));
    drop(seen);
    turn.send_replace(());
}

/// Bytes into units.
enum Splitter {
    Sse(Box<Decoder>),
    Plain { form: Form, rest: Vec<u8> },
}

impl Splitter {
    fn new(form: Form) -> Splitter {
        match form {
            Form::Sse => Splitter::Sse(Box::new(Decoder::new(BYTES_MAX))),
            _ => Splitter::Plain { form, rest: Vec::new() },
        }
    }

    fn push(&mut self, chunk: &[u8], seen: &mut Seen) -> Result<(), String> {
        match self {
            Splitter::Sse(decoder) => {
                decoder.push(chunk);
                while let Some(frame) = decoder.next_frame().map_err(|e| e.to_string())? {
                    if frame.is_done() {
                        seen.done = true;
                        continue;
                    }
                    let id = frame.id.filter(|id| !id.is_empty());
                    if id.is_some() {
                        seen.last_id = id.clone();
                        seen.with_id += 1;
                    }
                    let event = frame.event.unwrap_or_default();
                    let key = format!("{}\u{1f}{event}\u{1f}{}", id.as_deref().unwrap_or_default(), frame.data);
                    let data = if event.is_empty() { frame.data } else { format!("{event} {}", frame.data) };
                    seen.units.push(Unit { key, id, data, at: Instant::now() });
                }
            }
            Splitter::Plain { form, rest } => {
                rest.extend_from_slice(chunk);
                let ends = |byte: &u8| match form {
                    Form::Text => byte.is_ascii_whitespace(),
                    _ => *byte == b'\n',
                };
                while let Some(at) = rest.iter().position(ends) {
                    let piece: Vec<u8> = rest.drain(..=at).collect();
                    plain(&piece, seen);
                }
                if rest.len() > BYTES_MAX {
                    return Err(format!("there is no end of a line in {BYTES_MAX} bytes"));
                }
            }
        }
        Ok(())
    }

    fn finish(&mut self, seen: &mut Seen) {
        if let Splitter::Plain { rest, .. } = self {
            plain(rest, seen);
        }
    }
}

fn plain(piece: &[u8], seen: &mut Seen) {
    let text = String::from_utf8_lossy(piece).trim().to_owned();
    if !text.is_empty() {
        seen.units.push(Unit { key: text.clone(), id: None, data: text, at: Instant::now() });
    }
}

/// Whether all ids of these units differ. A stream whose ids repeat has none to come back to.
pub(super) fn distinct_ids(units: &[Unit]) -> bool {
    let mut ids = HashSet::new();
    units.iter().all(|unit| unit.id.as_ref().is_some_and(|id| ids.insert(id)))
}
