//! The contract of `src/store.rs`, held to both stores by the same tests: a promise is a function over a [`Backend`],
//! and [`promises!`] makes two tests of it.

/// Makes the tests `memory::<promise>` and `redis::<promise>` of each function named.
macro_rules! promises {
    ($($promise:ident),* $(,)?) => {
        mod memory {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                super::$promise(crate::store_contract::Backend::Memory).await;
            })*
        }
        mod redis {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                super::$promise(crate::store_contract::Backend::Redis).await;
            })*
        }
    };
}

mod calls;
mod commits;
mod lifetime;
mod outages;
mod producers;
mod pushes;
mod reads;

use std::sync::{Arc, LazyLock, Mutex};

use bytes::Bytes;
use moorline::{
    id::{EntryId, Lane, Ms, Name},
    store::{
        Commit, Entry, Outcome, Page, Part, Parted, Push, ReadFrom, Retention, Snapshot, Stat, State, Store,
        StoreError, Subscription, Tail, Version, Versions,
        memory::MemoryStore,
        redis::{RedisConfig, RedisStore},
    },
};

use crate::support::{eventually, redis::RedisServer, unique};

/// Which store a promise is tested on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    Memory,
    Redis,
}

impl Backend {
    pub async fn store(self, retention: Retention) -> Arc<dyn Store> {
        match self {
            Backend::Memory => Arc::new(MemoryStore::new(retention)),
            Backend::Redis => Arc::new(connect(RedisServer::shared(), |config| config.retention = retention).await),
        }
    }

    /// A session that is not there yet.
    pub async fn session(self) -> Session {
        self.session_with(Retention::default()).await
    }

    pub async fn session_with(self, retention: Retention) -> Session {
        Session::new(self.store(retention).await)
    }
}

/// A store in this Redis under a prefix of its own.
pub async fn connect(server: &RedisServer, configure: impl FnOnce(&mut RedisConfig)) -> RedisStore {
    let mut config = RedisConfig::new(server.url());
    config.prefix = unique("test") + ":";
    configure(&mut config);
    RedisStore::connect(config).await.expect("a connection to Redis")
}

/// A version that nobody had.
pub fn fresh() -> Option<Version> {
    static VERSIONS: LazyLock<Versions> = LazyLock::new(Versions::default);
    Some(VERSIONS.fresh())
}

pub fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

pub fn bytes(payloads: &[&str]) -> Vec<Bytes> {
    payloads.iter().map(|p| Bytes::copy_from_slice(p.as_bytes())).collect()
}

pub fn events(payloads: &[&str]) -> Part {
    Part { events: bytes(payloads), ..Part::default() }
}

pub fn commands(payloads: &[&str]) -> Part {
    Part { commands: bytes(payloads), ..Part::default() }
}

/// A part that is nothing but a sign of life of these runs.
pub fn touches(runs: &[&str]) -> Part {
    Part { touch: runs.iter().map(|run| name(run)).collect(), ..Part::default() }
}

/// A change of a record, for [`Commit::changes`].
pub fn record(key: &str, value: &str) -> (String, Option<Bytes>) {
    (key.into(), Some(Bytes::copy_from_slice(value.as_bytes())))
}

/// A session of a store, and what tests ask of it.
#[derive(Clone)]
pub struct Session {
    pub store: Arc<dyn Store>,
    pub name: Name,
}

impl Session {
    pub fn new(store: Arc<dyn Store>) -> Self {
        Session { store, name: name(&unique("s")) }
    }

    /// The session, existing: closed to nobody, with one record and nothing in its lanes.
    pub async fn begun(self) -> Self {
        let commit = Commit { version: fresh(), changes: vec![record("begun", "1")], ..Commit::default() };
        committed(self.commit(commit).await);
        self
    }

    pub async fn version(&self) -> Option<Version> {
        self.stat().await?.snapshot.state.map(|state| state.version)
    }

    /// The commit that writes these parts to the session as it is now.
    pub async fn plan(&self, parts: Vec<Part>) -> Commit {
        Commit { expect: self.version().await, version: fresh(), parts, ..Commit::default() }
    }

    pub async fn try_commit(&self, commit: &Commit) -> Result<Outcome, StoreError> {
        self.store.commit(&self.name, commit).await
    }

    pub async fn commit(&self, commit: Commit) -> Outcome {
        self.try_commit(&commit).await.expect("an outcome")
    }

    /// Appends parts whatever the version is.
    pub async fn append(&self, parts: Vec<Part>) -> (Ms, Vec<Parted>) {
        let mut commit = self.plan(parts).await;
        loop {
            match self.commit(commit.clone()).await {
                Outcome::Committed { now, parts } => return (now, parts),
                Outcome::Conflict(snapshot) => commit.expect = snapshot.state.map(|state| state.version),
            }
        }
    }

    /// Until the session's time has moved on.
    pub async fn a_millisecond_later(&self) {
        let before = self.stat().await.map(|stat| stat.snapshot.now);
        while self.stat().await.map(|stat| stat.snapshot.now) == before {}
    }

    /// Appends events in one commit and gives their ids.
    pub async fn append_events(&self, payloads: &[&str]) -> Vec<EntryId> {
        let (ms, parted) = self.append(vec![events(payloads)]).await;
        match parted[..] {
            [Parted::Appended { events_from, skipped: 0, .. }] => {
                (events_from..).take(payloads.len()).map(|n| EntryId { ms, n }).collect()
            }
            _ => panic!("not appended: {parted:?}"),
        }
    }

    pub async fn read(&self, from: ReadFrom, limit: usize) -> Page {
        self.read_lane(Lane::Events, from, limit).await
    }

    pub async fn read_lane(&self, lane: Lane, from: ReadFrom, limit: usize) -> Page {
        self.store.read(&self.name, lane, from, limit).await.expect("a page")
    }

    /// All that a lane holds.
    pub async fn log(&self, lane: Lane) -> Vec<Entry> {
        let (mut from, mut log) = (ReadFrom::Start, Vec::new());
        loop {
            let page = self.read_lane(lane, from, 500).await;
            assert_eq!(page.lost, None);
            let (next, last) = (page.next(from), page.up_to_date(from));
            log.extend(page.entries);
            if last {
                return log;
            }
            from = ReadFrom::After(next);
        }
    }

    /// The payloads of a lane.
    pub async fn payloads(&self, lane: Lane) -> Vec<String> {
        texts(&self.log(lane).await)
    }

    pub async fn stat(&self) -> Option<Stat> {
        self.store.stat(&self.name).await.expect("a stat")
    }

    /// The control state of a session that exists, its records and runs in order.
    pub async fn state(&self) -> State {
        sorted(self.stat().await.expect("a session").snapshot).state.expect("a session")
    }

    pub async fn delete(&self) -> bool {
        self.store.delete(&self.name).await.expect("a deletion")
    }

    /// Everything that can be seen of the session, to compare.
    pub async fn all(&self) -> (Option<State>, Vec<Entry>, Vec<Entry>) {
        let state = self.stat().await.and_then(|stat| sorted(stat.snapshot).state);
        (state, self.log(Lane::Events).await, self.log(Lane::Commands).await)
    }

    pub async fn watch(&self) -> (Arc<Watcher>, Subscription) {
        let watcher = Arc::new(Watcher::default());
        let subscription = self.store.subscribe(&self.name, watcher.clone()).await.expect("a subscription");
        (watcher, subscription)
    }
}

pub fn texts(entries: &[Entry]) -> Vec<String> {
    entries.iter().map(|e| String::from_utf8(e.payload.to_vec()).expect("a text")).collect()
}

/// Stores give records and runs in any order.
pub fn sorted(mut snapshot: Snapshot) -> Snapshot {
    if let Some(state) = &mut snapshot.state {
        state.records.sort();
        state.touched.sort();
    }
    snapshot
}

#[track_caller]
pub fn committed(outcome: Outcome) -> (Ms, Vec<Parted>) {
    match outcome {
        Outcome::Committed { now, parts } => (now, parts),
        Outcome::Conflict(snapshot) => panic!("conflict: {snapshot:?}"),
    }
}

#[track_caller]
pub fn conflict(outcome: Outcome) -> Snapshot {
    match outcome {
        Outcome::Conflict(snapshot) => sorted(snapshot),
        other => panic!("no conflict: {other:?}"),
    }
}

/// A subscriber that keeps what it is told.
#[derive(Default)]
pub struct Watcher(Mutex<Told>);

#[derive(Default, Clone)]
pub struct Told {
    pub pushes: Vec<Push>,
    pub doubts: usize,
}

impl Tail for Watcher {
    fn push(&self, push: Push) {
        self.0.lock().unwrap().pushes.push(push);
    }

    fn doubt(&self) {
        self.0.lock().unwrap().doubts += 1;
    }
}

impl Watcher {
    pub fn told(&self) -> Told {
        self.0.lock().unwrap().clone()
    }

    /// The entries of a lane that were pushed, in the order in which they were.
    pub fn entries(&self, lane: Lane) -> Vec<Entry> {
        let of_lane = |push| match push {
            Push::Entries { lane: of, first, payloads } if of == lane => Some((first, payloads)),
            _ => None,
        };
        let numbered = |(first, payloads): (EntryId, Vec<Bytes>)| {
            (first.n..).zip(payloads).map(move |(n, payload)| Entry { id: EntryId { ms: first.ms, n }, payload })
        };
        self.told().pushes.into_iter().filter_map(of_lane).flat_map(numbered).collect()
    }

    /// Waits until the store holds the watcher no more (it may while it pushes).
    pub async fn let_go(self: &Arc<Self>) {
        eventually("the store lets the tail go", || async { (Arc::strong_count(self) == 1).then_some(()) }).await;
    }

    /// Waits for more doubts than there were.
    pub async fn doubt_after(&self, before: usize) {
        eventually("doubt", || async { (self.told().doubts > before).then_some(()) }).await;
    }

    /// Waits until so many pushes have come, and gives them.
    pub async fn pushes(&self, count: usize) -> Vec<Push> {
        let what = format!("{count} pushes");
        let enough = || async { Some(self.told().pushes).filter(|pushes| pushes.len() >= count) };
        eventually(&what, enough).await
    }
}
