//! Bodies of events, on their way to the log.
//!
//! A streaming body is appended as it comes: whatever complete events have arrived make one append, and while that is
//! under way the next ones arrive. An event that is no event ends the body; those before it are in the log, and the
//! answer says how many.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use axum::body::Body;
use bytes::Bytes;
use futures_util::FutureExt;
use http_body::Frame;
use http_body_util::BodyExt;
use serde_json::value::RawValue;
use tokio::time::Instant;

use crate::{
    event::{BadEvent, Defaults, Event},
    id::{EntryId, Ms, Name},
    quota::Account,
    rules::{Action, Append, Reply, RunView},
    sse::decode::{DecodeError, Decoder},
    store::Producer,
    writer::{Done, WriteError, Writers},
};

/// Events in one append of a streaming body.
const APPEND_EVENTS: usize = 500;
/// Bytes taken from a streaming body before what came is appended.
const APPEND_BYTES: usize = 256 * 1024;
/// What has arrived when a body is to be answered early lies with the system and is read piece by piece: until none has come
/// for so long, …
const LAST_GAP: Duration = Duration::from_millis(20);
/// … or for so long in all, …
const LAST_TIME: Duration = Duration::from_millis(200);
/// … or as much has come as the system takes at most before it is read.
const LAST_BYTES: usize = 2 * crate::RECEIVE_BUFFER as usize;

/// One event or an array of at most `most`.
pub fn events(json: &str, defaults: &Defaults, event_bytes: usize, most: usize) -> Result<Vec<Event>, BadBatch> {
    if !json.trim_start().starts_with('[') {
        return Ok(vec![Event::from_json(json, defaults, event_bytes).map_err(BadBatch::Event)?]);
    }
    let array: Vec<&RawValue> =
        serde_json::from_str(json).map_err(|e| BadBatch::Event(BadEvent::Json(e.to_string())))?;
    if array.is_empty() {
        return Err(BadBatch::Empty);
    }
    // Before they are made: that takes ten times as long as to count them.
    if array.len() > most {
        return Err(BadBatch::TooMany { count: array.len(), most });
    }
    let event = |(at, raw): (usize, &&RawValue)| {
        Event::from_json(raw.get(), defaults, event_bytes).map_err(|bad| BadBatch::InArray { at, bad })
    };
    array.iter().enumerate().map(event).collect()
}

/// Why a body of JSON is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadBatch {
    /// The array has no events.
    #[error("the array is empty")]
    Empty,
    /// The array has more events than a request may.
    #[error("the array has {count} events; send at most {most} a request")]
    TooMany {
        /// How many it has.
        count: usize,
        /// How many it may have.
        most: usize,
    },
    /// The body is no event.
    #[error(transparent)]
    Event(BadEvent),
    /// One of the array's elements is no event.
    #[error("element {at}: {bad}")]
    InArray {
        /// Its index, from 0.
        at: usize,
        /// What is wrong with it.
        bad: BadEvent,
    },
}

/// Cuts a streaming body into events.
pub enum Splitter {
    /// One JSON event a line.
    Lines {
        /// What came of the line that has not ended.
        line: Vec<u8>,
        /// Complete events.
        ready: VecDeque<Event>,
        /// Lines that have ended.
        count: usize,
    },
    /// Server-sent events.
    Sse(Box<Decoder>),
}

/// Why a streaming body ends early.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadStream {
    /// A line that is no event.
    #[error("line {line}: {bad}")]
    Line {
        /// Its number, from 1.
        line: usize,
        /// What is wrong with it.
        bad: BadEvent,
    },
    /// A line that is no UTF-8.
    #[error("line {line} is not valid UTF-8")]
    Utf8 {
        /// Its number, from 1.
        line: usize,
    },
    /// A server-sent event that is no event.
    #[error(transparent)]
    Event(#[from] BadEvent),
    /// No server-sent events at all.
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

/// How a body's events are read.
#[derive(Debug, Clone)]
pub struct Reading {
    /// What the request gives to events that do not say it themselves.
    pub defaults: Defaults,
    /// The largest payload.
    pub event_bytes: usize,
}

impl Splitter {
    /// For `application/x-ndjson`.
    pub fn lines() -> Self {
        Splitter::Lines { line: Vec::new(), ready: VecDeque::new(), count: 0 }
    }

    /// For `text/event-stream`. An event may be as large as what it becomes, and a little more for its field names.
    pub fn sse(event_bytes: usize) -> Self {
        Splitter::Sse(Box::new(Decoder::new(event_bytes.saturating_add(1024))))
    }

    /// Takes a piece of the body.
    pub fn push(&mut self, bytes: &[u8], reading: &Reading) -> Result<(), BadStream> {
        match self {
            Splitter::Sse(decoder) => decoder.push(bytes),
            Splitter::Lines { line, ready, count } => {
                // White space does not reach the log, but a line may not consist of it without end. Asked of every line,
                // finished or not, for the pieces to make no difference.
                let limit = reading.event_bytes.saturating_mul(2);
                let bounded = |size: usize, number: usize| {
                    let bad = BadEvent::TooLarge { size, limit: reading.event_bytes };
                    if size > limit { Err(BadStream::Line { line: number, bad }) } else { Ok(()) }
                };
                let mut at = 0;
                for end in memchr::memchr_iter(b'\n', bytes) {
                    *count += 1;
                    bounded(line.len() + end - at, *count)?;
                    // A line that came in one piece, the common case, is parsed where it lies.
                    let event = if line.is_empty() {
                        parse_line(&bytes[at..end], *count, reading)
                    } else {
                        line.extend_from_slice(&bytes[at..end]);
                        parse_line(&std::mem::take(line), *count, reading)
                    };
                    ready.extend(event?);
                    at = end + 1;
                }
                line.extend_from_slice(&bytes[at..]);
                bounded(line.len(), *count + 1)?;
            }
        }
        Ok(())
    }

    /// The next complete event.
    pub fn next_event(&mut self, reading: &Reading) -> Result<Option<Event>, BadStream> {
        match self {
            Splitter::Lines { ready, .. } => Ok(ready.pop_front()),
            Splitter::Sse(decoder) => loop {
                let Some(frame) = decoder.next_frame()? else { return Ok(None) };
                if frame.is_done() {
                    continue;
                }
                let event = frame.event.as_deref();
                return Ok(Some(Event::from_sse(event, &frame.data, &reading.defaults, reading.event_bytes)?));
            },
        }
    }

    /// The body has ended: a last line needs no line break. An unfinished server-sent event is none, by its rules.
    pub fn finish(&mut self, reading: &Reading) -> Result<(), BadStream> {
        if let Splitter::Lines { line, ready, count } = self {
            *count += 1;
            ready.extend(parse_line(&std::mem::take(line), *count, reading)?);
        }
        Ok(())
    }

    /// Whether the body has stopped in the middle of an event.
    pub fn mid_event(&self) -> bool {
        match self {
            Splitter::Lines { line, .. } => !line.is_empty(),
            Splitter::Sse(decoder) => decoder.mid_event(),
        }
    }
}

fn parse_line(line: &[u8], number: usize, reading: &Reading) -> Result<Option<Event>, BadStream> {
    let text = std::str::from_utf8(line).map_err(|_| BadStream::Utf8 { line: number })?;
    if text.trim().is_empty() {
        return Ok(None);
    }
    let event = Event::from_json(text, &reading.defaults, reading.event_bytes);
    event.map(Some).map_err(|bad| BadStream::Line { line: number, bad })
}

/// What has become of a streaming body so far.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    /// Events appended.
    pub appended: usize,
    /// Events that were stored before.
    pub skipped: usize,
    /// The id of the last one in the log, where it is known: that of an event stored before is only if it was among
    /// the producer's last.
    pub last: Option<EntryId>,
    /// The runs that are asked to stop, as the last append saw it.
    pub stopping: Vec<RunView>,
    /// When the request last wrote to the session, in the session's time.
    pub wrote: Option<Ms>,
}

/// How far a streaming body was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    /// To its end.
    Whole,
    /// Until it was to be answered early.
    Early,
}

/// Why a streaming body ended before its end.
#[derive(Debug)]
pub enum Stopped {
    /// It carries what is no event.
    Bad(BadStream),
    /// An append was refused or failed.
    Write {
        /// Why.
        error: WriteError,
        /// The number of its first event, if it has a producer.
        received: Option<u64>,
    },
    /// The connection broke.
    Broken(axum::Error),
    /// It stopped in the middle of an event.
    TimedOut,
    /// The replica is going down; another one takes the rest.
    Draining,
}

impl From<WriteError> for Stopped {
    fn from(error: WriteError) -> Self {
        Stopped::Write { error, received: None }
    }
}

type NextFrame = Option<Result<Frame<Bytes>, axum::Error>>;

/// A body that is to be answered early. What has arrived is still taken: an agent that is asked to stop may have said its last
/// word.
struct LastWord {
    why: Result<Read, Stopped>,
    until: Instant,
    bytes: usize,
}

impl LastWord {
    fn of(why: Result<Read, Stopped>) -> Self {
        LastWord { why, until: Instant::now() + LAST_TIME, bytes: 0 }
    }

    /// More of what has arrived; nothing where that was all.
    async fn frame(&self, body: &mut Body) -> Option<NextFrame> {
        if self.bytes >= LAST_BYTES {
            return None;
        }
        let until = self.until.min(Instant::now() + LAST_GAP);
        tokio::time::timeout_at(until, body.frame()).await.ok()
    }
}

/// Appends a streaming body's events as they come.
pub struct Ingest {
    /// Where they go.
    pub writers: Arc<Writers>,
    /// The session.
    pub session: Name,
    /// How they are read.
    pub reading: Reading,
    /// The attempt that the agent believes its run to be in.
    pub attempt: Option<u32>,
    /// Numbers them, counted on with each append.
    pub producer: Option<Producer>,
    /// The longest silence in the middle of an event.
    pub timeout: Duration,
    /// Where the events are counted, if they are: too many, and the body is read no faster than they may come.
    pub account: Option<Arc<Account>>,
    /// Events that were counted when the request was let through.
    pub prepaid: usize,
}

impl Ingest {
    /// Runs until the body ends, one way or the other. `until` ends it from outside, with what it gives. What has
    /// arrived by then is appended.
    pub async fn run(
        &mut self,
        body: &mut Body,
        mut splitter: Splitter,
        until: impl Future<Output = Result<Read, Stopped>>,
        progress: &mut Progress,
    ) -> Result<Read, Stopped> {
        tokio::pin!(until);
        let mut last_word: Option<LastWord> = None;
        loop {
            let first = match &last_word {
                Some(last_word) => match last_word.frame(body).await {
                    Some(frame) => frame,
                    None => break,
                },
                None => tokio::select! {
                    frame = self.frame(body, splitter.mid_event()) => frame?,
                    why = &mut until => {
                        last_word = Some(LastWord::of(why));
                        continue;
                    }
                },
            };
            let (mut next, mut bytes, mut bad, mut ended) = (Some(first), 0, None, false);
            // Whatever else has already arrived joins the same append.
            while let Some(frame) = next {
                match frame {
                    None => {
                        ended = true;
                        bad = splitter.finish(&self.reading).err();
                        break;
                    }
                    Some(Ok(frame)) => {
                        let data: Bytes = frame.into_data().unwrap_or_default();
                        bytes += data.len();
                        bad = splitter.push(&data, &self.reading).err();
                    }
                    Some(Err(error)) => {
                        self.append(&mut splitter, progress).await?;
                        return Err(Stopped::Broken(error));
                    }
                }
                next = if bytes < APPEND_BYTES && bad.is_none() { body.frame().now_or_never() } else { None };
            }
            // What came before a bad event is appended all the same.
            self.append(&mut splitter, progress).await?;
            if let Some(bad) = bad {
                return Err(Stopped::Bad(bad));
            }
            if ended {
                return Ok(Read::Whole);
            }
            if let Some(last_word) = &mut last_word {
                last_word.bytes += bytes;
            }
        }
        last_word.map_or(Ok(Read::Early), |last_word| last_word.why)
    }

    /// What comes next, as soon as it may.
    async fn frame(&self, body: &mut Body, mid_event: bool) -> Result<NextFrame, Stopped> {
        const FOR_EVER: Duration = Duration::from_secs(365 * 86_400);
        if let Some(account) = &self.account {
            account.paid().await;
        }
        let silence = if mid_event { self.timeout } else { FOR_EVER };
        tokio::time::timeout(silence, body.frame()).await.map_err(|_| Stopped::TimedOut)
    }

    async fn append(&mut self, splitter: &mut Splitter, progress: &mut Progress) -> Result<(), Stopped> {
        loop {
            let (mut events, mut bad) = (Vec::new(), None);
            while events.len() < APPEND_EVENTS {
                match splitter.next_event(&self.reading) {
                    Ok(Some(event)) => events.push(event),
                    Ok(None) => break,
                    Err(error) => {
                        bad = Some(error);
                        break;
                    }
                }
            }
            let full = events.len() == APPEND_EVENTS;
            if !events.is_empty() {
                let count = events.len() as u64;
                if let Some(account) = &self.account {
                    let prepaid = self.prepaid.min(events.len());
                    self.prepaid -= prepaid;
                    account.more(events.len() - prepaid);
                }
                let run = self.reading.defaults.run.clone();
                let append = Append { events, run, attempt: self.attempt, producer: self.producer.clone() };
                let received = self.producer.as_ref().map(|producer| producer.seq);
                let done = self.writers.go_on(&self.session, Action::Append(append), progress.wrote).await;
                let done = done.map_err(|error| Stopped::Write { error, received })?;
                if let Some(producer) = &mut self.producer {
                    producer.seq += count;
                }
                progress.add(done);
            }
            if let Some(bad) = bad {
                return Err(Stopped::Bad(bad));
            }
            if !full {
                return Ok(());
            }
        }
    }
}

impl Progress {
    fn add(&mut self, done: Done) {
        self.skipped += done.skipped;
        if !done.duplicate {
            self.appended += done.ids.len();
        }
        self.last = done.ids.last().copied().or(self.last);
        self.wrote = self.last.map(|last| last.ms).or(self.wrote);
        if let Reply::Appended(stopping) = done.reply {
            self.stopping = stopping;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn reading() -> Reading {
        Reading { defaults: Defaults::default(), event_bytes: 1000 }
    }

    fn split(mut splitter: Splitter, pieces: &[&[u8]]) -> (Vec<String>, Option<BadStream>) {
        let mut events = Vec::new();
        let mut drain = |splitter: &mut Splitter| loop {
            match splitter.next_event(&reading()) {
                Ok(Some(event)) => events.push(String::from_utf8(event.payload.to_vec()).unwrap()),
                Ok(None) => return None,
                Err(bad) => return Some(bad),
            }
        };
        for piece in pieces {
            let pushed = splitter.push(piece, &reading()).err();
            if let Some(bad) = drain(&mut splitter).or(pushed) {
                return (events, Some(bad));
            }
        }
        let finished = splitter.finish(&reading()).err();
        let bad = drain(&mut splitter).or(finished);
        (events, bad)
    }

    #[test]
    fn lines_are_events_and_the_last_needs_no_break() {
        let (events, bad) = split(Splitter::lines(), &[b"{\"data\":1}\n\n{\"da", b"ta\":2}\r\n{\"data\":3}"]);
        assert_eq!(events.len(), 3);
        assert_eq!(bad, None);
    }

    #[test]
    fn a_bad_line_ends_the_body_and_tells_its_number() {
        let (events, bad) = split(Splitter::lines(), &[b"{\"data\":1}\n\nnonsense\n{\"data\":2}\n"]);
        assert_eq!(events.len(), 1);
        assert!(matches!(bad, Some(BadStream::Line { line: 3, .. })), "{bad:?}");
        let (_, bad) = split(Splitter::lines(), &[b"{\"data\":\"\xff\"}\n"]);
        assert_eq!(bad, Some(BadStream::Utf8 { line: 1 }));
        let (_, bad) = split(Splitter::lines(), &[&[b' '; 3000]]);
        assert!(matches!(bad, Some(BadStream::Line { line: 1, bad: BadEvent::TooLarge { .. } })), "{bad:?}");
    }

    #[test]
    fn done_marks_of_model_servers_are_not_stored() {
        let (events, bad) =
            split(Splitter::sse(1000), &[b"\xef\xbb\xbfdata: {\"a\":\r\ndata: 1}\r\n\r\ndata: [DONE]\r\n\r\n"]);
        assert_eq!(events, [r#"{"type":"message","data":{"a":1}}"#]);
        assert_eq!(bad, None);
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(
            lines in prop::collection::vec("\\{\"data\":[0-9]{1,4}\\}|x|", 0..20),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..10),
            sse: bool,
        ) {
            let body = if sse {
                lines.iter().map(|line| format!("data: {line}\n\n")).collect::<String>()
            } else {
                lines.join("\n")
            };
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(body.len() + 1)).chain([0, body.len()]).collect();
            cuts.sort_unstable();
            let pieces: Vec<_> = cuts.windows(2).map(|cut| &body.as_bytes()[cut[0]..cut[1]]).collect();
            let new = || if sse { Splitter::sse(1000) } else { Splitter::lines() };
            prop_assert_eq!(split(new(), &pieces), split(new(), &[body.as_bytes()]));
        }

        #[test]
        fn no_bytes_panic(pieces in prop::collection::vec(any::<Vec<u8>>(), 0..8), sse: bool) {
            let pieces: Vec<_> = pieces.iter().map(Vec::as_slice).collect();
            split(if sse { Splitter::sse(100) } else { Splitter::lines() }, &pieces);
        }
    }
}
