//! Where sessions live: the contract, and the two stores that keep it.
//!
//! A session is two logs (lanes) of numbered entries and a *control state*: a handful of small records (who may still
//! write, what was asked and not yet answered) under a version. Every write is one [`Commit`]; everything else reads.
//!
//! # The contract
//! 1. **Atomic.** A commit happens whole, at one instant of the session, or not at all.
//! 2. **Conditional.** It happens only while the control state has the version that the committer saw, within the
//!    committer's time window, judged on the store's clock. Otherwise the store answers with the current state
//!    ([`Outcome::Conflict`]) and nothing has changed. Versions are never reused, not even by a session that was
//!    deleted and made again.
//! 3. **Numbered.** Entries get ids `<ms>-<n>`, `n` without holes in a lane, `ms` the store's clock and never going
//!    back. The entries of a commit share their `ms`.
//! 4. **Pushed.** After a commit, its subscribers get the new entries in order (or a doorbell if they are large). Pushes
//!    may be lost, doubled or late, never reordered unnoticed: `n` shows it. What was pushed had been committed.
//! 5. **Readable.** A read tells whether the id it starts after is still in the log. If it isn't, it says why and starts
//!    at the first entry that is there.
//! 6. **Bounded.** A lane keeps at least its newest `cap` entries and not many more; a session that nobody wrote to for
//!    its `ttl` is gone, whole.

pub mod memory;
pub mod redis;

pub use redis::{Durability, Tls};

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use serde::Serialize;

use crate::id::{EntryId, Lane, Ms, Name};

/// What a store does. Implementations are shared by all requests of a replica.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Writes to a session, creating it if `expect` is `None` and there is none.
    async fn commit(&self, session: &Name, commit: &Commit) -> Result<Outcome, StoreError>;

    /// Reads up to `limit` entries of a lane, in order.
    async fn read(&self, session: &Name, lane: Lane, from: ReadFrom, limit: usize) -> Result<Page, StoreError>;

    /// What a session is now: its control state and where its lanes begin and end. `None` if there is no such session.
    async fn stat(&self, session: &Name) -> Result<Option<Stat>, StoreError>;

    /// Where an idempotent producer stands in a session. `None` if the session does not know it.
    async fn producer(&self, session: &Name, producer: &Name) -> Result<Option<ProducerState>, StoreError>;

    /// Erases a session; subscribers are told. `false` if there was none.
    async fn delete(&self, session: &Name) -> Result<bool, StoreError>;

    /// Begins to push what is committed from now on to `tail`, until the subscription is dropped. A session needs not
    /// exist to be subscribed to. A store serves one subscriber a session, its hub; a later one may take its place.
    async fn subscribe(&self, session: &Name, tail: Arc<dyn Tail>) -> Result<Subscription, StoreError>;

    /// Whether the store answers and its pushes arrive; not whether it takes writes.
    async fn health(&self) -> Result<(), StoreError>;

    /// `memory` or `redis`: for messages and metrics.
    fn kind(&self) -> &'static str;
}

/// The receiving end of a subscription. Must not block, nor call the store: the one in memory holds its lock meanwhile.
pub trait Tail: Send + Sync {
    /// Something was committed.
    fn push(&self, push: Push);
    /// Pushes may have been missed: the subscription was lost and is back. Read what matters again.
    fn doubt(&self);
}

/// What a subscriber is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Push {
    /// New entries of one lane: the first has the id `first`, the rest count on from it with the same `ms`.
    Entries {
        /// The lane they were appended to.
        lane: Lane,
        /// The id of the first.
        first: EntryId,
        /// Their payloads, in order.
        payloads: Vec<Bytes>,
    },
    /// There are new entries up to this id, too large to be pushed.
    Doorbell {
        /// The lane they were appended to.
        lane: Lane,
        /// The id of the last.
        last: EntryId,
    },
    /// The control state has another version.
    Control,
    /// The session is closed: no more entries after those pushed.
    Closed,
    /// The session was erased.
    Deleted,
}

/// Ends the pushes when dropped.
pub struct Subscription(Option<Box<dyn FnOnce() + Send + Sync>>);

impl Subscription {
    /// A subscription that runs `end` when dropped.
    pub fn new(end: impl FnOnce() + Send + Sync + 'static) -> Self {
        Subscription(Some(Box::new(end)))
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if let Some(end) = self.0.take() {
            end();
        }
    }
}

/// A version of a session's control state: a token that is never used twice.
pub type Version = Arc<str>;

/// One write.
#[derive(Debug, Clone, Default)]
pub struct Commit {
    /// The version of the control state that this commit was decided on; `None`: there is no session.
    pub expect: Option<Version>,
    /// The version from now on, if this commit creates the session or changes its control state.
    pub version: Option<Version>,
    /// The times for which the decision holds.
    pub window: Window,
    /// Runs that must not have been touched after the time that the committer saw.
    pub untouched: Vec<(Name, Ms)>,
    /// Records of the control state to write (`Some`, not empty) or to drop (`None`), by key. The last change of a key
    /// counts.
    pub changes: Vec<(String, Option<Bytes>)>,
    /// The keys of the records that belong to the commands appended here, in the order of those: the store writes
    /// behind each record a space and the id that its command got.
    pub issued: Vec<String>,
    /// The session is closed by this commit.
    pub closes: bool,
    /// What to append, in order. Each part succeeds or is refused by itself as far as producers are concerned.
    pub parts: Vec<Part>,
}

impl Commit {
    /// Refuses a commit that may begin a session or change its control state, and brings no version for it.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        let begins = self.expect.is_none() && !self.parts.is_empty();
        if self.version.is_none() && (begins || self.closes || !self.changes.is_empty()) {
            return Err(StoreError::Fault("a commit came without the version it needs".into()));
        }
        Ok(())
    }
}

/// The times for which a decision holds: `not_before <= now < before`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// The time at which deadlines were judged as passed; 0 if none was.
    pub not_before: Ms,
    /// The first deadline that was judged as not yet passed.
    pub before: Ms,
}

impl Default for Window {
    fn default() -> Self {
        Window { not_before: 0, before: Ms::MAX }
    }
}

/// What one request writes to the log, and whose sign of life it is.
#[derive(Debug, Clone, Default)]
pub struct Part {
    /// Makes the events idempotent.
    pub producer: Option<Producer>,
    /// Payloads for the events lane.
    pub events: Vec<Bytes>,
    /// Payloads for the commands lane.
    pub commands: Vec<Bytes>,
    /// Runs whose lease this renews, to the store's time, unless the part is refused.
    pub touch: Vec<Name>,
}

/// Numbers the events of a part, so that each is stored once however often it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Producer {
    /// Who counts.
    pub id: Name,
    /// Which life of the producer; a higher one fences off the lower ones.
    pub epoch: u64,
    /// The number of the part's first event, from 0.
    pub seq: u64,
}

/// What became of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It happened.
    Committed {
        /// The `ms` of its entries.
        now: Ms,
        /// What became of each part, in order.
        parts: Vec<Parted>,
    },
    /// Nothing happened: the decision was made on another state or for another time.
    Conflict(Snapshot),
}

impl Parted {
    /// What it asks for is in the log, now or since before.
    pub fn is_stored(&self) -> bool {
        matches!(self, Parted::Appended { .. } | Parted::Duplicate(_))
    }
}

/// What became of a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parted {
    /// Its entries are in the log: numbered from these on in each lane, after skipping so many of its events that had
    /// been stored before.
    Appended {
        /// `n` of the first event appended.
        events_from: u64,
        /// `n` of the first command appended; 0 if the part has none.
        commands_from: u64,
        /// How many of the events were already stored.
        skipped: usize,
    },
    /// All of its events were stored before. Their ids, if it was the producer's last request.
    Duplicate(Option<Vec<EntryId>>),
    /// A newer life of the producer has written.
    StaleEpoch {
        /// The epoch of that life.
        current: u64,
    },
    /// Events before these are missing.
    ProducerGap {
        /// The number that comes next.
        expected: u64,
    },
    /// The first event of a new epoch must have the number 0.
    EpochNotAtZero,
    /// The session has as many producers as it can hold.
    TooManyProducers,
}

/// How many producers a session remembers.
pub const PRODUCERS_MAX: u64 = 10_000;

/// The control state as the store has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The session's time: the store's clock, not before its last entry.
    pub now: Ms,
    /// `None`: there is no such session.
    pub state: Option<State>,
}

/// The control state of a session that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// Changes with every change of the records.
    pub version: Version,
    /// When the session came to be.
    pub created: Ms,
    /// When it was closed.
    pub closed: Option<Ms>,
    /// The records, by key.
    pub records: Vec<(String, Bytes)>,
    /// When each run was last touched.
    pub touched: Vec<(Name, Ms)>,
}

/// Where an idempotent producer stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ProducerState {
    /// Its current life.
    pub epoch: u64,
    /// The number that its next event must have.
    pub next_seq: u64,
}

/// A session as `GET /v1/sessions/{session}` shows it.
#[derive(Debug, Clone)]
pub struct Stat {
    /// The control state.
    pub snapshot: Snapshot,
    /// The first and last entry of each lane, by [`Lane::index`].
    pub lanes: [Extent; 2],
}

/// Where a lane begins and ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Extent {
    /// The oldest entry that is still there.
    pub first: Option<EntryId>,
    /// The newest entry ever appended; `0-0` if none was.
    pub last: EntryId,
}

/// Where a read begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadFrom {
    /// At the first entry that is there.
    Start,
    /// At this entry or, if it is no longer there, the next one.
    At(EntryId),
    /// After this entry, which must still be in the log. `0-0` stands before entry number 1.
    After(EntryId),
    /// So that the page ends with the newest entry.
    Latest,
}

/// Entries of a read where it is not known how large they are: each may be as large as an event can, 256 KiB.
pub const BLIND: usize = 16;
/// Entries of a read, however large they are.
const READ_MIN: usize = 4;

/// How many entries to read where so many bytes of payload are wanted, and at most `most` entries. `size`: how large they
/// are, in bytes, if that is known.
pub fn limit(size: Option<usize>, bytes: usize, most: usize) -> usize {
    size.map_or(BLIND, |size| (bytes / size.max(1)).max(READ_MIN)).min(most)
}

/// An entry of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its place.
    pub id: EntryId,
    /// Its JSON, on one line.
    pub payload: Bytes,
}

/// What a read gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Whether there is such a session.
    pub exists: bool,
    /// Whether it takes no more entries.
    pub closed: bool,
    /// Where the lane began and ended when it was read.
    pub extent: Extent,
    /// Why the id to start after was not there, if so; `entries` then begin at the start.
    pub lost: Option<Lost>,
    /// The entries, in order.
    pub entries: Vec<Entry>,
}

impl Extent {
    /// Whether `0-0` stands right before what is there: nothing was cut off.
    pub(crate) fn is_whole(&self) -> bool {
        self.first.map_or(self.last == EntryId::ZERO, |first| first.n == 1)
    }
}

impl Page {
    /// The id to read on from.
    pub fn next(&self, from: ReadFrom) -> EntryId {
        match (self.entries.last(), from) {
            (Some(last), _) => last.id,
            (None, ReadFrom::After(id)) if self.lost.is_none() => id,
            _ => self.extent.last,
        }
    }

    /// How large its entries are on average, in bytes of payload.
    pub fn entry_size(&self) -> Option<usize> {
        let bytes: usize = self.entries.iter().map(|entry| entry.payload.len()).sum();
        bytes.checked_div(self.entries.len())
    }

    /// Whether there was nothing after this page when it was read.
    pub fn up_to_date(&self, from: ReadFrom) -> bool {
        self.next(from).n >= self.extent.last.n
    }
}

/// Why an id is not in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Lost {
    /// It was, but the log has been cut behind it.
    Trimmed,
    /// It never was in this log, or what was there has been replaced (after a failover of Redis).
    Unknown,
    /// The session it belonged to is gone.
    Deleted,
}

impl Lost {
    /// All there are, each at its place in an array that it is an index of.
    pub const ALL: [Lost; 3] = [Lost::Trimmed, Lost::Unknown, Lost::Deleted];

    /// As clients are told.
    pub fn as_str(self) -> &'static str {
        match self {
            Lost::Trimmed => "trimmed",
            Lost::Unknown => "unknown",
            Lost::Deleted => "deleted",
        }
    }

    /// Why a cursor that was not found is not there. Written once for all stores. `0-0` is not found where entry number
    /// 1 is gone.
    pub fn why(cursor: EntryId, created: Option<Ms>, extent: Extent) -> Lost {
        let Some(created) = created else { return Lost::Deleted };
        // Where the log now begins. All of a lane may be gone (Redis evicted it): then it begins with what comes next.
        let first = extent.first.unwrap_or(EntryId { ms: extent.last.ms, n: extent.last.n + 1 });
        // Both halves of an id grow along the log; one that is early by its number and late by its time never was.
        let before_first = (1..first.n).contains(&cursor.n) && cursor.ms <= first.ms;
        match cursor {
            EntryId::ZERO => Lost::Trimmed,
            _ if cursor.ms < created => Lost::Deleted,
            _ if before_first => Lost::Trimmed,
            _ => Lost::Unknown,
        }
    }
}

/// How long sessions are kept.
#[derive(Debug, Clone, Copy)]
pub struct Retention {
    /// A session that nobody wrote to for so long is gone; zero: none ever is.
    pub ttl: Duration,
    /// How many entries a lane keeps at least.
    pub cap: u64,
}

impl Default for Retention {
    fn default() -> Self {
        Retention { ttl: Duration::from_secs(24 * 3600), cap: 100_000 }
    }
}

/// Why a store could not answer. Whether a commit happened is then unknown, unless the variant says otherwise.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The store cannot be reached, or did not answer in time. Try again later.
    #[error("the store is not available: {0}")]
    Unavailable(String),
    /// It is written, but not as durable as asked for. It may be lost with a failover, or may stay.
    #[error("the write is done, but only {confirmed} of {wanted} replicas of Redis confirm it")]
    Unconfirmed {
        /// How many replicas of the store have it.
        confirmed: u32,
        /// How many it takes.
        wanted: u32,
    },
    /// The store does not let us in, or not do this: its operator has to mend that.
    #[error("the store refuses us: {0}")]
    Denied(String),
    /// The store answered something that this version cannot read, or refuses its work for good.
    #[error("the store is at fault: {0}")]
    Fault(String),
}

/// Makes version tokens: random once a process, then counted.
#[derive(Debug)]
pub struct Versions {
    nonce: u64,
    count: std::sync::atomic::AtomicU64,
}

impl Default for Versions {
    fn default() -> Self {
        // The standard hasher is keyed by the operating system's randomness: two replicas never share a nonce.
        let nonce = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), std::process::id());
        Versions { nonce, count: Default::default() }
    }
}

impl Versions {
    /// A token that nobody had before.
    pub fn fresh(&self) -> Version {
        let count = self.count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        format!("{:016x}-{count:x}", self.nonce).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_is_as_large_as_is_wanted_as_far_as_sizes_are_known() {
        for (size, most, entries) in [
            (None, 1000, BLIND),
            (None, 1, 1),
            (Some(100), 1000, 40),
            (Some(100), 30, 30),
            (Some(0), 1000, 1000),
            (Some(100_000), 1000, READ_MIN),
            (Some(100_000), 1, 1),
        ] {
            assert_eq!(limit(size, 4000, most), entries, "{size:?}, {most}");
        }
    }
}
