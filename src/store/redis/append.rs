//! The commits that there are most of: they append events, numbered or not, to a session that exists, and that is all.
//!
//! `append.lua` does those of many sessions in one call: what comes while calls are under way goes into the next one, so
//! under load Redis and the replica share the cost of a call among many commits (measured on Redis 7.0: 11 µs of Redis's
//! time an event in calls of 20 against 17 in calls of one, pipelined, and 33 in `commit.lua`, which does everything).
//! Where there is little to do nobody waits: beside a call of a single commit another one goes at once, on the same
//! connection. Beside a larger call none goes, or calls would get smaller and events dearer; unless it is full: then
//! waiting gains nothing, and Redis should find the next one ready. Never more than two.
//! What the script is not made for, it leaves undone, and `commit.lua` decides.
//!
//! In a Redis Cluster a call would be for the sessions of one slot, or of one alone.

use bytes::Bytes;
use futures_util::{StreamExt, stream::FuturesUnordered};
use redis::{Cmd, Value};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{Instant, timeout},
};

use super::{Keys, RedisConfig, array, link::Link, script::Script, script_error, store_error, text, unreadable};
use crate::{
    id::{EntryId, Lane, Ms, Name},
    store::{Commit, Outcome, Parted, Producer, StoreError, Version, Window},
};

/// Calls under way.
const CALLS: usize = 2;
/// Commits in one call. Bounds how long Redis is busy with it: about a millisecond, for single events.
const BATCH: usize = 64;
/// Events in one call, beyond which no further commit joins it: one or two milliseconds. Streaming bodies come with
/// dozens a commit; without this a call took nine, and longer calls are not cheaper.
const BATCH_EVENTS: usize = 512;
/// Bytes of payload in one call, beyond which no further commit joins it.
const BATCH_BYTES: usize = 512 * 1024;
/// Commits that may wait for their call. Those of a session come one at a time; more than this wait in their writers.
const QUEUE: usize = 4096;

/// A plain commit, as the script takes it.
struct Append {
    meta: String,
    events: String,
    version: Version,
    window: Window,
    touch: Option<Name>,
    producer: Option<Producer>,
    payloads: Vec<Bytes>,
    done: oneshot::Sender<Answer>,
}

/// The id of the first event. `None`: nothing was done.
type Answer = Result<Option<EntryId>, StoreError>;

/// A task that appends over one connection.
pub struct Appender {
    queue: mpsc::Sender<Append>,
    task: JoinHandle<()>,
}

impl Drop for Appender {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Appender {
    /// Whether the task is at work. It ends before its store does only if it has panicked.
    pub fn alive(&self) -> bool {
        !self.task.is_finished()
    }

    pub fn start(connection: Link, config: &RedisConfig) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let script = Script::new(include_str!("append.lua").to_owned(), config.durability, config.timeout);
        let calls = Calls { connection, script, config: config.clone() };
        Appender { queue, task: tokio::spawn(calls.run(waiting)) }
    }

    /// Does a commit if it is plain and the session is as it was decided on. `None`: nothing was done. Takes at most the
    /// time of two calls: one that is under way and its own.
    pub async fn commit(&self, keys: &Keys, session: &Name, commit: &Commit) -> Result<Option<Outcome>, StoreError> {
        let Some(version) = plain(commit) else { return Ok(None) };
        let (done, answer) = oneshot::channel();
        let append = Append {
            meta: keys.meta(session),
            events: keys.lane(session, Lane::Events),
            version: version.clone(),
            window: commit.window,
            touch: commit.parts.iter().find_map(|part| part.touch.first()).cloned(),
            producer: commit.parts[0].producer.clone(),
            payloads: commit.parts.iter().flat_map(|part| &part.events).cloned().collect(),
            done,
        };
        let ended = || StoreError::Fault("the task that appends has ended".into());
        self.queue.send(append).await.map_err(|_| ended())?;
        let first = answer.await.map_err(|_| ended())??;
        Ok(first.map(|first| appended(first, commit)))
    }
}

/// The version on which a commit is decided that appends events, may renew the lease of one run, and does nothing else.
/// Numbered events only come alone: what becomes of a part must not depend on another one.
fn plain(commit: &Commit) -> Option<&Version> {
    let Commit { expect, untouched, changes, issued, closes, parts, version: _, window: _ } = commit;
    let mut touched = parts.iter().flat_map(|part| &part.touch);
    let first = touched.next();
    let plain = touched.all(|run| Some(run) == first)
        && untouched.is_empty()
        && changes.is_empty()
        && issued.is_empty()
        && !closes
        && !parts.is_empty()
        && parts.iter().all(|part| part.commands.is_empty() && !part.events.is_empty())
        && (parts.len() == 1 || parts.iter().all(|part| part.producer.is_none()));
    expect.as_ref().filter(|_| plain)
}

/// What became of a plain commit whose first event got this id.
fn appended(first: EntryId, commit: &Commit) -> Outcome {
    let mut next = first.n;
    let parts = commit.parts.iter().map(|part| {
        let events_from = next;
        next += part.events.len() as u64;
        Parted::Appended { events_from, commands_from: 0, skipped: 0 }
    });
    Outcome::Committed { now: first.ms, parts: parts.collect() }
}

struct Calls {
    connection: Link,
    script: Script,
    config: RedisConfig,
}

impl Calls {
    /// Calls, for as long as somebody may append.
    async fn run(self, mut waiting: mpsc::Receiver<Append>) {
        let mut under_way = FuturesUnordered::new();
        // Another call may go beside the latest.
        let mut beside = true;
        loop {
            tokio::select! {
                biased;
                Some(late) = under_way.next() => {
                    if late {
                        // What has waited behind this call must not wait for a row of others like it.
                        while let Ok(append) = waiting.try_recv() {
                            append.answer(Err(super::late(self.config.timeout)));
                        }
                    }
                }
                Some(first) = waiting.recv(), if under_way.is_empty() || under_way.len() < CALLS && beside => {
                    let (batch, full) = gather(first, &mut waiting);
                    if !batch.is_empty() {
                        beside = full || batch.len() == 1;
                        under_way.push(self.settle(batch));
                    }
                }
                else => return,
            }
        }
    }

    /// Does a call and answers those that wait for it. Tells whether it got no answer in time.
    async fn settle(&self, batch: Vec<Append>) -> bool {
        let began = Instant::now();
        // One timer for them all. The connection's own does not cover a reconnect that it waits for.
        let answers = timeout(self.config.timeout, self.call(&batch)).await;
        let answers = answers.unwrap_or_else(|_| Err(self.connection.late(self.config.timeout)));
        // Whichever of the two timers it was.
        let late = answers.is_err() && began.elapsed() >= self.config.timeout;
        match answers {
            Ok(answers) => batch.into_iter().zip(answers).for_each(|(append, answer)| append.answer(answer)),
            Err(error) => batch.into_iter().for_each(|append| append.answer(Err(error.clone()))),
        }
        late
    }

    async fn call(&self, batch: &[Append]) -> Result<Vec<Answer>, StoreError> {
        let (config, mut connection) = (&self.config, self.connection.clone());
        let arguments = |cmd: &mut Cmd| {
            cmd.arg(2 * batch.len());
            for append in batch {
                cmd.arg(&append.meta).arg(&append.events);
            }
            let retention = &config.retention;
            cmd.arg(u8::from(!retention.ttl.is_zero())).arg(retention.cap).arg(config.push_max);
            for append in batch {
                cmd.arg(&*append.version).arg(append.conditions()).arg(append.payloads.len());
                for payload in &append.payloads {
                    cmd.arg(&payload[..]);
                }
            }
        };
        let reply = self.script.run(&mut connection, arguments, appended_any).await.map_err(store_error)?;
        let answer = |value| match (answer(value)?, &reply.unconfirmed) {
            (Some(_), Some(unconfirmed)) => Err(unconfirmed.clone()),
            (answer, _) => Ok(answer),
        };
        let answers: Vec<_> = array(reply.value)?.into_iter().map(answer).collect();
        if answers.len() != batch.len() { Err(unreadable("an append's answer", &answers)) } else { Ok(answers) }
    }
}

/// The next call: what waits, from `first` on, as far as it goes into one; and whether that fills it.
fn gather(first: Append, waiting: &mut mpsc::Receiver<Append>) -> (Vec<Append>, bool) {
    let mut batch = Vec::with_capacity(BATCH.min(1 + waiting.len()));
    let (mut next, mut events, mut bytes) = (Some(first), 0, 0);
    while let Some(append) = next {
        // Whoever asked has been told that the time is up: after an outage the queue is full of those, and they would
        // hold up the ones that are still waited for.
        if !append.done.is_closed() {
            events += append.payloads.len();
            bytes += append.bytes();
            batch.push(append);
        }
        if batch.len() == BATCH || events >= BATCH_EVENTS || bytes >= BATCH_BYTES {
            return (batch, true);
        }
        next = waiting.try_recv().ok();
    }
    (batch, false)
}

impl Append {
    fn answer(self, answer: Answer) {
        // Whoever asked may have gone.
        let _ = self.done.send(answer);
    }

    fn bytes(&self) -> usize {
        self.payloads.iter().map(Bytes::len).sum()
    }

    /// Empty in the common case: each argument costs.
    fn conditions(&self) -> String {
        if self.window == Window::default() && self.touch.is_none() && self.producer.is_none() {
            return String::new();
        }
        let before = if self.window.before == Ms::MAX { 0 } else { self.window.before };
        let run = self.touch.as_ref().map_or("", |run| run.as_str());
        let conditions = format!("{} {before} {run}", self.window.not_before);
        match &self.producer {
            Some(Producer { id, epoch, seq }) => format!("{conditions} {id} {epoch} {seq}"),
            None => conditions,
        }
    }
}

/// An answer that is no refusal.
fn appended_any(reply: &Value) -> bool {
    let appended =
        |answer: &Value| matches!(answer, Value::BulkString(id) if id.first().is_some_and(u8::is_ascii_digit));
    matches!(reply, Value::Array(answers) if answers.iter().any(appended))
}

fn answer(value: Value) -> Answer {
    let answer = text(value)?;
    match answer.strip_prefix('!') {
        Some(error) => Err(script_error(error)),
        None if answer.is_empty() => Ok(None),
        None => answer.parse().map(Some).map_err(|_| unreadable("an append's answer", &answer)),
    }
}
