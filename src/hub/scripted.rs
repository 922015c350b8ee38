//! A store for tests: they say what is in its log, what is pushed of it, and how its reads go.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;

use super::Hub;
use crate::{
    id::{EntryId, Lane, Name},
    lock::lock,
    rules::Limits,
    store::{
        Commit, Entry, Extent, Lost, Outcome, Page, ProducerState, Push, ReadFrom, Retention, Stat, Store, StoreError,
        Subscription, Tail, memory::MemoryStore,
    },
    writer::Writers,
};

/// A store whose sessions all have this log for events, and no commands.
pub struct Scripted {
    pub script: Mutex<Script>,
    /// Whatever else is asked.
    rest: MemoryStore,
}

#[derive(Default)]
pub struct Script {
    pub log: Vec<Entry>,
    pub closed: bool,
    /// Reads find nobody.
    pub is_away: bool,
    /// How long a read takes. What it finds is what is there at its end.
    pub takes: Duration,
    /// The reads of the log that were asked for.
    pub reads: Vec<(ReadFrom, usize)>,
    tail: Option<Arc<dyn Tail>>,
}

impl Scripted {
    pub fn new() -> (Arc<Scripted>, Arc<Hub>) {
        let store = Arc::new(Scripted { script: Mutex::default(), rest: MemoryStore::new(Retention::default()) });
        (store.clone(), Hub::new(store.clone(), Writers::new(store, Limits::default())))
    }

    /// Changes what is there. Nobody is told.
    pub fn set<T>(&self, change: impl FnOnce(&mut Script) -> T) -> T {
        change(&mut lock(&self.script))
    }

    /// Tells the subscriber of the entries with these numbers.
    pub fn push(&self, numbers: std::ops::RangeInclusive<u64>) {
        for n in numbers {
            let (tail, entry) = self.set(|script| {
                let entry = script.log.iter().find(|entry| entry.id.n == n).expect("an entry").clone();
                (script.tail.clone(), entry)
            });
            let push = Push::Entries { lane: Lane::Events, first: entry.id, payloads: vec![entry.payload] };
            tail.expect("a subscriber").push(push);
        }
    }

    /// Has the subscriber look again.
    pub fn doubt(&self) {
        self.set(|script| script.tail.clone()).expect("a subscriber").doubt();
    }
}

impl Script {
    /// Appends entries of this time and size, numbered on from the last.
    pub fn append(&mut self, ms: u64, count: u64, size: usize) {
        let last = self.log.last().map_or(0, |entry| entry.id.n);
        let entry = |n| Entry { id: EntryId { ms, n }, payload: Bytes::from(vec![b'1'; size]) };
        self.log.extend((last + 1..=last + count).map(entry));
    }

    fn read(&self, from: ReadFrom, limit: usize) -> Page {
        let ids = || self.log.iter().map(|entry| entry.id);
        let extent = Extent { first: ids().next(), last: ids().next_back().unwrap_or_default() };
        let after = |cursor: EntryId| ids().position(|id| id == cursor).map(|at| at + 1);
        let (begin, lost) = match from {
            ReadFrom::Start | ReadFrom::After(EntryId::ZERO) => (0, None),
            ReadFrom::After(cursor) => (after(cursor).unwrap_or(0), after(cursor).is_none().then_some(Lost::Unknown)),
            ReadFrom::At(first) => (ids().position(|id| id >= first).unwrap_or(self.log.len()), None),
            ReadFrom::Latest => (self.log.len().saturating_sub(limit), None),
        };
        let entries = self.log[begin..].iter().take(limit).cloned().collect();
        Page { exists: true, closed: self.closed, extent, lost, entries }
    }
}

#[async_trait]
impl Store for Scripted {
    async fn read(&self, session: &Name, lane: Lane, from: ReadFrom, limit: usize) -> Result<Page, StoreError> {
        if lane != Lane::Events {
            return self.rest.read(session, lane, from, limit).await;
        }
        let takes = self.set(|script| {
            script.reads.push((from, limit));
            script.takes
        });
        if !takes.is_zero() {
            tokio::time::sleep(takes).await;
        }
        self.set(|script| {
            if script.is_away { Err(StoreError::Unavailable("away".into())) } else { Ok(script.read(from, limit)) }
        })
    }

    async fn subscribe(&self, _: &Name, tail: Arc<dyn Tail>) -> Result<Subscription, StoreError> {
        self.set(|script| script.tail = Some(tail));
        Ok(Subscription::new(|| {}))
    }

    async fn commit(&self, session: &Name, commit: &Commit) -> Result<Outcome, StoreError> {
        self.rest.commit(session, commit).await
    }

    async fn stat(&self, session: &Name) -> Result<Option<Stat>, StoreError> {
        self.rest.stat(session).await
    }

    async fn producer(&self, session: &Name, producer: &Name) -> Result<Option<ProducerState>, StoreError> {
        self.rest.producer(session, producer).await
    }

    async fn delete(&self, session: &Name) -> Result<bool, StoreError> {
        self.rest.delete(session).await
    }

    async fn health(&self) -> Result<(), StoreError> {
        self.rest.health().await
    }

    fn kind(&self) -> &'static str {
        "scripted"
    }
}
