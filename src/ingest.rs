//! Bodies of events, on their way to the log.
//!
//! A streaming body is appended as it comes: whatever complete events have arrived make one append, and while that is
//! under way the next ones arrive. An event that is no event ends the body; those before it are in the log, and the
//! answer says how many.

mod splitter;

pub use splitter::{BadStream, Reading, Splitter};

use std::{sync::Arc, time::Duration};

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
    // Before they are made, which takes far longer than to count them.
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
