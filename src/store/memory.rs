//! The embedded store: sessions in this process's memory, for one replica, gone when it ends.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, Weak},
    time::SystemTime,
};

use async_trait::async_trait;
use bytes::Bytes;

use super::{
    Commit, Entry, Extent, Lost, Outcome, PRODUCERS_MAX, Page, Parted, Producer, ProducerState, Push, ReadFrom,
    Retention, Snapshot, Stat, State, Store, StoreError, Subscription, Tail, Version,
};
use crate::{
    id::{EntryId, Lane, Ms, Name},
    lock::lock,
};

/// Sessions that nobody touches are dropped at the first write after so long.
const SWEEP_EVERY: Ms = 60_000;

/// Tells the time in milliseconds since the Unix epoch. Tests bring their own.
pub type Clock = Arc<dyn Fn() -> Ms + Send + Sync>;

/// Sessions in memory.
pub struct MemoryStore {
    shared: Arc<Shared>,
    retention: Retention,
    clock: Clock,
}

#[derive(Default)]
struct Shared {
    sessions: Mutex<Sessions>,
    tails: Mutex<HashMap<Name, Vec<Watch>>>,
}

/// A subscription's own pointer to its tail, which tells it from another one of the same tail.
type Watch = Arc<Arc<dyn Tail>>;

#[derive(Default)]
struct Sessions {
    by_name: HashMap<Name, Session>,
    swept: Ms,
    /// Later than every entry of the sessions that were deleted: one made again must not give out an id of before.
    floor: Ms,
}

struct Session {
    version: Version,
    created: Ms,
    closed: Option<Ms>,
    /// The time of the last entry: ids never go back behind it.
    last: Ms,
    expires: Ms,
    lanes: [Log; 2],
    records: BTreeMap<String, Bytes>,
    touched: BTreeMap<Name, Ms>,
    producers: HashMap<Name, Life>,
}

#[derive(Default)]
struct Log {
    entries: VecDeque<Entry>,
    last: EntryId,
}

/// A producer's current epoch, and what its last request stored.
struct Life {
    epoch: u64,
    next: u64,
    from: u64,
    first: EntryId,
}

impl Default for MemoryStore {
    fn default() -> Self {
        MemoryStore::new(Retention::default())
    }
}

impl MemoryStore {
    /// An empty store on the system's clock.
    pub fn new(retention: Retention) -> Self {
        let clock = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_millis() as Ms);
        MemoryStore::with_clock(retention, Arc::new(clock))
    }

    /// An empty store on a clock of the caller's.
    pub fn with_clock(retention: Retention, clock: Clock) -> Self {
        MemoryStore { shared: Default::default(), retention, clock }
    }

    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        lock(&self.shared.sessions)
    }

    /// Called while the sessions are locked, so that pushes come in the order of the commits.
    fn push(&self, session: &Name, push: Push) {
        // Taken out of the lock first: a tail may be the last to hold its session, whose end takes this very lock.
        let tails = lock(&self.shared.tails).get(session).cloned().unwrap_or_default();
        for tail in tails {
            tail.push(push.clone());
        }
    }
}

impl Sessions {
    fn live(&mut self, name: &Name, now: Ms) -> Option<&mut Session> {
        if self.by_name.get(name).is_some_and(|s| s.expires <= now) {
            self.by_name.remove(name);
        }
        self.by_name.get_mut(name)
    }

    fn sweep(&mut self, now: Ms) {
        if now.abs_diff(self.swept) >= SWEEP_EVERY {
            self.by_name.retain(|_, s| s.expires > now);
            self.swept = now;
        }
    }
}

impl Session {
    fn new(version: Version, now: Ms) -> Session {
        Session {
            version,
            created: now,
            closed: None,
            last: now,
            expires: Ms::MAX,
            lanes: Default::default(),
            records: Default::default(),
            touched: Default::default(),
            producers: Default::default(),
        }
    }

    fn snapshot(&self, now: Ms) -> Snapshot {
        Snapshot {
            now: now.max(self.last),
            state: Some(State {
                version: self.version.clone(),
                created: self.created,
                closed: self.closed,
                records: self.records.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
                touched: self.touched.iter().map(|(k, v)| (k.clone(), *v)).collect(),
            }),
        }
    }

    fn extents(&self) -> [Extent; 2] {
        Lane::ALL.map(|lane| {
            let log = &self.lanes[lane.index()];
            Extent { first: log.entries.front().map(|e| e.id), last: log.last }
        })
    }
}

impl Log {
    /// The number that the next entry gets.
    fn next(&self) -> u64 {
        self.last.n + 1
    }

    fn append(&mut self, now: Ms, payloads: &[Bytes], cap: u64) {
        for payload in payloads {
            self.last = EntryId { ms: now, n: self.next() };
            self.entries.push_back(Entry { id: self.last, payload: payload.clone() });
        }
        while self.entries.len() as u64 > cap {
            self.entries.pop_front();
        }
    }

    fn contains(&self, id: EntryId) -> bool {
        self.entries.binary_search_by_key(&id.n, |e| e.id.n).is_ok_and(|at| self.entries[at].id == id)
    }
}

/// What a producer's next part may do.
enum Admitted {
    /// Append the events from this index on.
    From(usize),
    Refused(Parted),
}

fn admit(lives: &HashMap<Name, Life>, producer: &Producer, count: usize) -> Admitted {
    let Some(life) = lives.get(&producer.id) else {
        return match producer.seq {
            0 if lives.len() as u64 >= PRODUCERS_MAX => Admitted::Refused(Parted::TooManyProducers),
            0 => Admitted::From(0),
            _ => Admitted::Refused(Parted::ProducerGap { expected: 0 }),
        };
    };
    if producer.epoch < life.epoch {
        return Admitted::Refused(Parted::StaleEpoch { current: life.epoch });
    }
    if producer.epoch > life.epoch {
        return if producer.seq == 0 { Admitted::From(0) } else { Admitted::Refused(Parted::EpochNotAtZero) };
    }
    if producer.seq > life.next {
        return Admitted::Refused(Parted::ProducerGap { expected: life.next });
    }
    let skip = life.next - producer.seq;
    if skip < count as u64 {
        return Admitted::From(skip as usize);
    }
    let last = producer.seq >= life.from;
    let ids = |seq| EntryId { ms: life.first.ms, n: life.first.n + (seq - life.from) };
    Admitted::Refused(Parted::Duplicate(
        last.then(|| (producer.seq..producer.seq + count as u64).map(ids).collect::<Vec<_>>()),
    ))
}

#[async_trait]
impl Store for MemoryStore {
    async fn commit(&self, name: &Name, commit: &Commit) -> Result<Outcome, StoreError> {
        commit.check()?;
        let mut sessions = self.sessions();
        let clock = (self.clock)();
        sessions.sweep(clock);

        let floor = sessions.floor;
        let existing = sessions.live(name, clock);
        let now = clock.max(existing.as_ref().map_or(floor, |s| s.last));
        let touched_since = |s: &Session| commit.untouched.iter().any(|(run, seen)| s.touched.get(run) > Some(seen));
        if existing.as_ref().map(|s| &s.version) != commit.expect.as_ref()
            || now < commit.window.not_before
            || now >= commit.window.before
            || existing.as_ref().is_some_and(|s| touched_since(s))
        {
            let state = existing.and_then(|s| s.snapshot(now).state);
            return Ok(Outcome::Conflict(Snapshot { now, state }));
        }

        // A session that is not there is made aside: what is refused must not create it.
        let mut fresh = None;
        let session = match existing {
            Some(session) => session,
            None => fresh.insert(Session::new(commit.version.clone().unwrap_or_default(), now)),
        };
        let mut wrote = !commit.changes.is_empty() || commit.closes;
        let mut parted = Vec::with_capacity(commit.parts.len());
        let mut appended: [Vec<Bytes>; 2] = Default::default();
        let mut touched = Vec::new();
        let first = session.lanes.each_ref().map(Log::next);
        let next = |lane: Lane, appended: &[Vec<Bytes>; 2]| first[lane.index()] + appended[lane.index()].len() as u64;
        for part in &commit.parts {
            let mut skipped = 0;
            if let Some(producer) = &part.producer {
                match admit(&session.producers, producer, part.events.len()) {
                    Admitted::From(skip) => skipped = skip,
                    Admitted::Refused(refused) => {
                        if refused.is_stored() {
                            touched.extend(&part.touch);
                        }
                        parted.push(refused);
                        continue;
                    }
                }
                let (seq, count) = (producer.seq + skipped as u64, (part.events.len() - skipped) as u64);
                let first = EntryId { ms: now, n: next(Lane::Events, &appended) };
                let life = Life { epoch: producer.epoch, next: seq + count, from: seq, first };
                session.producers.insert(producer.id.clone(), life);
            }
            parted.push(Parted::Appended {
                events_from: next(Lane::Events, &appended),
                commands_from: if part.commands.is_empty() { 0 } else { next(Lane::Commands, &appended) },
                skipped,
            });
            appended[Lane::Events.index()].extend_from_slice(&part.events[skipped..]);
            appended[Lane::Commands.index()].extend_from_slice(&part.commands);
            touched.extend(&part.touch);
            wrote = true;
        }
        for run in touched {
            session.touched.insert(run.clone(), now);
            wrote = true;
        }
        for (lane, payloads) in Lane::ALL.into_iter().zip(&appended) {
            session.lanes[lane.index()].append(now, payloads, self.retention.cap);
            if !payloads.is_empty() {
                session.last = now;
            }
        }
        for (key, value) in &commit.changes {
            let command = commit.issued.iter().position(|issued| issued == key);
            let entry = command.map(|at| EntryId { ms: now, n: first[Lane::Commands.index()] + at as u64 });
            match value {
                Some(value) => session.records.insert(
                    key.clone(),
                    match entry {
                        Some(entry) => [&value[..], format!(" {entry}").as_bytes()].concat().into(),
                        None => value.clone(),
                    },
                ),
                None => session.records.remove(key),
            };
        }
        if commit.closes {
            session.closed = Some(now);
        }
        let changed = !commit.changes.is_empty() || commit.closes;
        if let (true, Some(version)) = (changed, &commit.version) {
            session.version = version.clone();
        }
        if wrote {
            let ttl = self.retention.ttl.as_millis() as Ms;
            session.expires = if ttl == 0 { Ms::MAX } else { now.saturating_add(ttl) };
        }
        if let Some(session) = fresh
            && wrote
        {
            sessions.by_name.insert(name.clone(), session);
        }
        for ((lane, first), payloads) in Lane::ALL.into_iter().zip(first).zip(appended) {
            if !payloads.is_empty() {
                self.push(name, Push::Entries { lane, first: EntryId { ms: now, n: first }, payloads });
            }
        }
        if changed {
            self.push(name, Push::Control);
        }
        if commit.closes {
            self.push(name, Push::Closed);
        }
        Ok(Outcome::Committed { now, parts: parted })
    }

    async fn read(&self, name: &Name, lane: Lane, from: ReadFrom, limit: usize) -> Result<Page, StoreError> {
        let mut sessions = self.sessions();
        let session = sessions.live(name, (self.clock)());
        let extent = session.as_ref().map_or_else(Extent::default, |s| s.extents()[lane.index()]);
        let created = session.as_ref().map(|s| s.created);
        let log = session.as_ref().map(|s| &s.lanes[lane.index()]);
        let (start, lost) = match (from, log) {
            (ReadFrom::Start, _) => (0, None),
            (ReadFrom::Latest, log) => (log.map_or(0, |l| l.entries.len().saturating_sub(limit)), None),
            (ReadFrom::At(id), log) => (log.map_or(0, |l| l.entries.partition_point(|e| e.id < id)), None),
            (ReadFrom::After(EntryId::ZERO), None) => (0, None),
            (ReadFrom::After(EntryId::ZERO), Some(_)) if extent.is_whole() => (0, None),
            (ReadFrom::After(id), Some(log)) if log.contains(id) => {
                (log.entries.partition_point(|e| e.id.n <= id.n), None)
            }
            (ReadFrom::After(id), _) => (0, Some(Lost::why(id, created, extent))),
        };
        Ok(Page {
            exists: session.is_some(),
            closed: session.as_ref().is_some_and(|s| s.closed.is_some()),
            extent,
            lost,
            entries: log.into_iter().flat_map(|l| l.entries.iter().skip(start).take(limit).cloned()).collect(),
        })
    }

    async fn stat(&self, name: &Name) -> Result<Option<Stat>, StoreError> {
        let now = (self.clock)();
        let mut sessions = self.sessions();
        Ok(sessions.live(name, now).map(|s| Stat { snapshot: s.snapshot(now), lanes: s.extents() }))
    }

    async fn producer(&self, name: &Name, producer: &Name) -> Result<Option<ProducerState>, StoreError> {
        let mut sessions = self.sessions();
        let life = sessions.live(name, (self.clock)()).and_then(|s| s.producers.get(producer));
        Ok(life.map(|life| ProducerState { epoch: life.epoch, next_seq: life.next }))
    }

    async fn delete(&self, name: &Name) -> Result<bool, StoreError> {
        let mut sessions = self.sessions();
        let Some(last) = sessions.live(name, (self.clock)()).map(|s| s.last) else { return Ok(false) };
        sessions.by_name.remove(name);
        sessions.floor = sessions.floor.max(last + 1);
        self.push(name, Push::Deleted);
        Ok(true)
    }

    async fn subscribe(&self, name: &Name, tail: Arc<dyn Tail>) -> Result<Subscription, StoreError> {
        let watch = Watch::new(tail);
        lock(&self.shared.tails).entry(name.clone()).or_default().push(watch.clone());
        let (shared, name): (Weak<Shared>, _) = (Arc::downgrade(&self.shared), name.clone());
        Ok(Subscription::new(move || {
            let Some(shared) = shared.upgrade() else { return };
            let mut tails = lock(&shared.tails);
            if let Some(list) = tails.get_mut(&name) {
                list.retain(|t| !Arc::ptr_eq(t, &watch));
                if list.is_empty() {
                    tails.remove(&name);
                }
            }
        }))
    }

    async fn health(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn kind(&self) -> &'static str {
        "memory"
    }
}
