//! What this process has done so far, in numbers: counted where it happens, read at `/metrics`.
//!
//! Counting must cost next to nothing where an event passes: an addition to an atomic number, no lock, no allocation.
//! The numbers are the process's, like its log: one [`METRICS`], so that a count is one line wherever it belongs.
//! What each means is said once, in [`exposition`], which is also what `docs/OPERATIONS.md` and the dashboard are
//! tested against.

pub mod exposition;
mod process;

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime},
};

use crate::{
    id::{EntryId, Lane},
    lock::lock,
    store::{Commit, Lost, Parted, StoreError},
};

/// The process's numbers.
pub static METRICS: Metrics = Metrics::new();

/// How an append ended.
#[derive(Debug, Clone, Copy)]
pub enum Appended {
    /// In the log, at least in part.
    Stored,
    /// All of it was in the log before.
    Duplicate,
    /// The rules or the producer's numbering said no.
    Refused,
    /// The store could not, or too much was waiting.
    Failed,
}

impl Appended {
    const ALL: [Self; 4] = [Self::Stored, Self::Duplicate, Self::Refused, Self::Failed];

    fn label(self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::Duplicate => "duplicate",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

/// What the store was asked for.
#[derive(Debug, Clone, Copy)]
pub enum Asked {
    /// To write.
    Commit,
    /// A page, a session's state.
    Read,
}

impl Asked {
    const ALL: [Self; 2] = [Self::Commit, Self::Read];

    fn label(self) -> &'static str {
        match self {
            Self::Commit => "commit",
            Self::Read => "read",
        }
    }
}

/// Why a stream was cut, for its client to resume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// The replica is going down.
    Draining,
    /// The store could not be read for too long.
    Store,
    /// The token under which it flowed has expired.
    Token,
}

impl Cut {
    const ALL: [Self; 3] = [Self::Draining, Self::Store, Self::Token];

    fn label(self) -> &'static str {
        match self {
            Self::Draining => "draining",
            Self::Store => "store",
            Self::Token => "token",
        }
    }
}

/// By [`StoreError`].
#[derive(Debug)]
pub struct StoreErrors {
    unavailable: Counter,
    unconfirmed: Counter,
    denied: Counter,
    fault: Counter,
}

/// All numbers. The help texts in [`exposition`] say what they are.
#[derive(Debug)]
pub struct Metrics {
    /// By [`Appended`].
    pub appends: [Counter; Appended::ALL.len()],
    /// From the writer's queue to the answer.
    pub append_time: Histogram,
    /// By lane.
    pub entries: [Counter; Lane::ALL.len()],
    /// Commits that the store accepted; some write nothing.
    pub commits: Counter,
    /// Commits that found another state.
    pub conflicts: Counter,

    /// Entries handed to clients' connections.
    pub deliveries: Counter,
    /// From the commit to there, for clients that are live.
    pub delivery_time: Histogram,
    /// Sessions that somebody follows here.
    pub live_sessions: Gauge,
    /// Open streams.
    pub streams: Gauge,
    /// Pages of history.
    pub pages: Counter,
    /// Reads that mended a ring.
    pub repairs: Counter,
    /// By [`Lost`].
    pub resets: [Counter; Lost::ALL.len()],
    /// Clients that took nothing.
    pub slow_cuts: Counter,
    /// Streams that this replica cut, by [`Cut`].
    pub stream_cuts: [Counter; Cut::ALL.len()],

    /// By [`Asked`].
    pub store_time: [Histogram; Asked::ALL.len()],
    /// Its questions without a good answer.
    pub store_errors: StoreErrors,
    /// The subscription to Redis is alive.
    pub subscribed: Gauge,
    /// How often it was lost.
    pub subscription_losses: Counter,
    /// How far this machine's clock is ahead of the store's, in microseconds.
    pub clock_ahead: Gauge,

    /// Open connections.
    pub connections: Gauge,
    /// All there ever were.
    pub accepted: Counter,
    /// By class of status: 1xx to 5xx.
    pub answers: [Counter; 5],
    /// By code.
    pub problems: Counts,
}

impl Metrics {
    const fn new() -> Self {
        Metrics {
            appends: [const { Counter::new() }; Appended::ALL.len()],
            append_time: Histogram::new(),
            entries: [const { Counter::new() }; Lane::ALL.len()],
            commits: Counter::new(),
            conflicts: Counter::new(),
            deliveries: Counter::new(),
            delivery_time: Histogram::new(),
            live_sessions: Gauge::new(),
            streams: Gauge::new(),
            pages: Counter::new(),
            repairs: Counter::new(),
            resets: [const { Counter::new() }; Lost::ALL.len()],
            slow_cuts: Counter::new(),
            stream_cuts: [const { Counter::new() }; Cut::ALL.len()],
            store_time: [const { Histogram::new() }; Asked::ALL.len()],
            store_errors: StoreErrors {
                unavailable: Counter::new(),
                unconfirmed: Counter::new(),
                denied: Counter::new(),
                fault: Counter::new(),
            },
            subscribed: Gauge::new(),
            subscription_losses: Counter::new(),
            clock_ahead: Gauge::new(),
            connections: Gauge::new(),
            accepted: Counter::new(),
            answers: [const { Counter::new() }; 5],
            problems: Counts(Mutex::new(BTreeMap::new())),
        }
    }

    /// An append was answered.
    pub fn append(&self, how: Appended, since: Instant) {
        self.appends[how as usize].add(1);
        self.append_time.observe(since.elapsed());
    }

    /// A commit happened.
    pub fn committed(&self, commit: &Commit, parts: &[Parted]) {
        self.commits.add(1);
        for (part, parted) in commit.parts.iter().zip(parts) {
            if let Parted::Appended { skipped, .. } = parted {
                self.entries[Lane::Events.index()].add((part.events.len() - skipped) as u64);
                if !part.commands.is_empty() {
                    self.entries[Lane::Commands.index()].add(part.commands.len() as u64);
                }
            }
        }
    }

    /// Entries go to a client's connection. `live`: they are news, so it matters how old they are.
    pub fn delivered(&self, ids: impl Iterator<Item = EntryId>, live: bool) {
        let now = if live { self.store_clock() } else { 0 };
        let mut count = 0;
        for id in ids {
            count += 1;
            if live {
                self.delivery_time.observe_us(now.saturating_sub(id.ms.saturating_mul(1000)));
            }
        }
        self.deliveries.add(count);
    }

    /// A stream was cut.
    pub fn cut(&self, why: Cut) {
        self.stream_cuts[why as usize].add(1);
    }

    /// A client was told that its place in the log is lost.
    pub fn reset(&self, reason: Lost) {
        self.resets[reason as usize].add(1);
    }

    /// The store was asked, and has answered one way or the other.
    pub fn asked<T>(&self, what: Asked, since: Instant, answer: &Result<T, StoreError>) {
        self.store_time[what as usize].observe(since.elapsed());
        let Err(error) = answer else { return };
        let counter = match error {
            StoreError::Unavailable(_) => &self.store_errors.unavailable,
            StoreError::Unconfirmed { .. } => &self.store_errors.unconfirmed,
            StoreError::Denied(_) => &self.store_errors.denied,
            StoreError::Fault(_) => &self.store_errors.fault,
        };
        counter.add(1);
    }

    /// The store's clock as reckoned here, in microseconds since 1970.
    fn store_clock(&self) -> u64 {
        let here = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_micros() as u64);
        here.saturating_add_signed(-self.clock_ahead.0.load(Relaxed))
    }
}

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    const fn new() -> Self {
        Counter(AtomicU64::new(0))
    }

    /// Counts so many more.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    const fn new() -> Self {
        Gauge(AtomicI64::new(0))
    }

    /// Sets it.
    pub fn set(&self, to: i64) {
        self.0.store(to, Relaxed);
    }

    fn get(&self) -> f64 {
        self.0.load(Relaxed) as f64
    }

    /// One more, until what is returned is dropped.
    pub fn hold(&'static self) -> Held {
        self.0.fetch_add(1, Relaxed);
        Held(self)
    }
}

/// Counts as one in a gauge for as long as it lives.
#[derive(Debug)]
pub struct Held(&'static Gauge);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Relaxed);
    }
}

/// The upper bounds of a histogram's buckets, in microseconds; one more bucket takes the rest. An append takes about
/// 0.3 ms on an idle machine, Redis is waited for 2 s.
const BOUNDS_US: [u64; 15] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    10_000_000,
];

/// How often something took how long.
#[derive(Debug)]
pub struct Histogram {
    buckets: [AtomicU64; BOUNDS_US.len() + 1],
    sum_us: AtomicU64,
}

impl Histogram {
    const fn new() -> Self {
        Histogram { buckets: [const { AtomicU64::new(0) }; BOUNDS_US.len() + 1], sum_us: AtomicU64::new(0) }
    }

    /// Counts something that took so long.
    pub fn observe(&self, took: Duration) {
        self.observe_us(took.as_micros() as u64);
    }

    fn observe_us(&self, us: u64) {
        let bucket = BOUNDS_US.iter().position(|bound| us <= *bound).unwrap_or(BOUNDS_US.len());
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.sum_us.fetch_add(us, Relaxed);
    }

    fn counts(&self) -> impl Iterator<Item = u64> {
        self.buckets.iter().map(|bucket| bucket.load(Relaxed))
    }

    fn sum_seconds(&self) -> f64 {
        self.sum_us.load(Relaxed) as f64 / 1e6
    }
}

/// Counts under names that the program gives. For what is rare: this one has a lock.
#[derive(Debug)]
pub struct Counts(Mutex<BTreeMap<&'static str, u64>>);

impl Counts {
    /// Counts one more.
    pub fn add(&self, name: &'static str) {
        *lock(&self.0).entry(name).or_default() += 1;
    }

    fn get(&self) -> BTreeMap<&'static str, u64> {
        lock(&self.0).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_falls_into_the_first_bucket_that_holds_it() {
        let histogram = Histogram::new();
        for us in [0, 100, 101, 10_000_000, 10_000_001, u64::MAX / 2] {
            histogram.observe_us(us);
        }
        let counts = histogram.buckets.map(|bucket| bucket.into_inner());
        assert_eq!((counts[0], counts[1], counts[14], counts[15]), (2, 1, 1, 2));
        assert_eq!(counts.iter().sum::<u64>(), 6);
    }

    #[test]
    fn a_gauge_counts_what_is_held() {
        static HELD: Gauge = Gauge::new();
        let (one, two) = (HELD.hold(), HELD.hold());
        assert_eq!(HELD.0.load(Relaxed), 2);
        drop(one);
        assert_eq!(HELD.0.load(Relaxed), 1);
        drop(two);
        assert_eq!(HELD.0.load(Relaxed), 0);
    }

    #[test]
    fn an_entry_is_as_old_as_the_stores_clock_says() {
        let metrics = Metrics::new();
        metrics.clock_ahead.set(5_000_000);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis() as u64;
        // Committed 5 s ago by this machine's clock: just now by the store's. And one from the future counts as new.
        let ids = [EntryId { ms: now - 5_000, n: 1 }, EntryId { ms: now + 60_000, n: 2 }];
        metrics.delivered(ids.into_iter(), true);
        let late: u64 = metrics.delivery_time.buckets[12..].iter().map(|bucket| bucket.load(Relaxed)).sum();
        assert_eq!((late, metrics.deliveries.0.load(Relaxed)), (0, 2));
    }
}
