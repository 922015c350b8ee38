//! How much one token may do: events a second, new sessions a minute, open streams. Counted by `sub`, on each replica for
//! itself. Knows no HTTP.
//!
//! Events and sessions are counted with a bucket each: it fills at the rate, up to a second's or a minute's worth, and
//! may be overdrawn: what has begun is done as a whole, and its bearer then waits until the debt is paid. So a large
//! array is neither refused for ever nor for free.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;

use crate::{config::Quotas, id::Name, lock::lock};

/// Accounts beyond which those that are at rest are closed: they would begin again as they are.
const ACCOUNTS: usize = 10_000;

/// Sessions known to exist, in each of two generations: what is asked for moves to the young one.
const KNOWN: usize = 10_000;

/// All that is counted on this replica.
#[derive(Debug)]
pub struct Quota {
    limits: Quotas,
    accounts: Mutex<HashMap<Arc<str>, Arc<Account>>>,
    streams: Arc<Streams>,
    known: Mutex<[std::collections::HashSet<Name>; 2]>,
}

/// What one subject does.
#[derive(Debug)]
pub struct Account {
    events: Bucket,
    sessions: Bucket,
    streams: AtomicUsize,
}

/// It has to wait.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Wait(pub Duration);

/// Too many streams are open already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TooMany {
    /// On this replica.
    InAll(usize),
    /// Of this session.
    OfSession(usize),
    /// Of this token's subject.
    OfToken(usize),
}

#[derive(Debug, Default)]
struct Streams {
    all: AtomicUsize,
    by_session: Mutex<HashMap<Name, usize>>,
}

impl Quota {
    /// Nothing has been done yet.
    pub fn new(limits: Quotas) -> Self {
        Quota { limits, accounts: Mutex::default(), streams: Arc::default(), known: Mutex::default() }
    }

    /// The limits.
    pub fn limits(&self) -> &Quotas {
        &self.limits
    }

    /// The account of a subject; `None` where nothing is counted by subject.
    pub fn account(&self, subject: &Arc<str>) -> Option<Arc<Account>> {
        let limits = &self.limits;
        if !limits.counts_tokens() {
            return None;
        }
        let mut accounts = lock(&self.accounts);
        if let Some(account) = accounts.get(subject) {
            return Some(account.clone());
        }
        if accounts.len() >= ACCOUNTS {
            // Whoever is under way counts on its own: another one for the subject would let it have twice as much.
            accounts.retain(|_, account| Arc::strong_count(account) > 1 || !account.rests());
        }
        let account = Arc::new(Account {
            events: Bucket::new(limits.events_per_second, Duration::from_secs(1)),
            sessions: Bucket::new(limits.new_sessions_per_minute, Duration::from_secs(60)),
            streams: AtomicUsize::new(0),
        });
        accounts.insert(subject.clone(), account.clone());
        Some(account)
    }

    /// Whether a session has been seen here, so that it need not be looked for.
    pub fn knows(&self, session: &Name) -> bool {
        let [young, old] = &mut *lock(&self.known);
        young.contains(session) || old.take(session).is_some_and(|session| young.insert(session))
    }

    /// Remembers that a session exists, or is about to.
    pub fn learn(&self, session: &Name) {
        let [young, old] = &mut *lock(&self.known);
        if young.len() >= KNOWN {
            *old = std::mem::take(young);
        }
        young.insert(session.clone());
    }

    /// A session is to be erased: to make it again makes a new one.
    pub fn forget(&self, session: &Name) {
        for known in &mut *lock(&self.known) {
            known.remove(session);
        }
    }

    /// Room for a stream, held until it is dropped.
    pub fn open(&self, session: &Name, account: Option<&Arc<Account>>) -> Result<Open, TooMany> {
        let limits = &self.limits;
        if !take(&self.streams.all, limits.streams) {
            return Err(TooMany::InAll(limits.streams));
        }
        // From here on whatever was counted is given back with this.
        let mut open = Open { streams: self.streams.clone(), session: None, account: None };
        if limits.streams_per_session > 0 {
            let mut by_session = lock(&self.streams.by_session);
            let count = by_session.entry(session.clone()).or_default();
            if *count >= limits.streams_per_session {
                drop(by_session);
                return Err(TooMany::OfSession(limits.streams_per_session));
            }
            *count += 1;
            drop(by_session);
            open.session = Some(session.clone());
        }
        if let Some(account) = account {
            if !take(&account.streams, limits.streams_per_token) {
                return Err(TooMany::OfToken(limits.streams_per_token));
            }
            open.account = Some(account.clone());
        }
        Ok(open)
    }
}

/// Counts one more, unless there are as many as may be. No limit: 0.
fn take(count: &AtomicUsize, limit: usize) -> bool {
    let more = |count| (limit == 0 || count < limit).then_some(count + 1);
    count.fetch_update(Relaxed, Relaxed, more).is_ok()
}

/// An open stream.
#[derive(Debug)]
pub struct Open {
    streams: Arc<Streams>,
    /// Set once it is counted there.
    session: Option<Name>,
    account: Option<Arc<Account>>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.streams.all.fetch_sub(1, Relaxed);
        if let Some(account) = &self.account {
            account.streams.fetch_sub(1, Relaxed);
        }
        if let Some(session) = &self.session {
            let mut by_session = lock(&self.streams.by_session);
            if let Some(count) = by_session.get_mut(session) {
                *count -= 1;
                if *count == 0 {
                    by_session.remove(session);
                }
            }
        }
    }
}

impl Account {
    /// A write begins: its first event.
    pub fn begin(&self) -> Result<(), Wait> {
        self.events.take(Instant::now())
    }

    /// More events came in what has begun.
    pub fn more(&self, events: usize) {
        self.events.overdraw(events, Instant::now());
    }

    /// Waits until no debt is left: how a body without end is slowed down to the rate.
    pub async fn paid(&self) {
        while let Some(wait) = self.events.debt(Instant::now()) {
            tokio::time::sleep(wait).await;
        }
    }

    /// A session is about to come into being.
    pub fn create(&self) -> Result<(), Wait> {
        self.sessions.take(Instant::now())
    }

    fn rests(&self) -> bool {
        let now = Instant::now();
        self.streams.load(Relaxed) == 0 && self.events.is_full(now) && self.sessions.is_full(now)
    }
}

/// Fills at a rate; what is in it may be taken.
#[derive(Debug)]
struct Bucket {
    /// A second.
    rate: f64,
    /// What fits.
    size: f64,
    level: Mutex<(f64, Instant)>,
}

impl Bucket {
    /// So many in a time. No limit: 0.
    fn new(count: u32, per: Duration) -> Self {
        let size = f64::from(count);
        Bucket { rate: size / per.as_secs_f64(), size, level: Mutex::new((size, Instant::now())) }
    }

    /// The level at a time.
    fn level(&self, now: Instant) -> MutexGuard<'_, (f64, Instant)> {
        let mut level = lock(&self.level);
        level.0 = (level.0 + self.rate * now.saturating_duration_since(level.1).as_secs_f64()).min(self.size);
        level.1 = level.1.max(now);
        level
    }

    fn take(&self, now: Instant) -> Result<(), Wait> {
        if self.size == 0.0 {
            return Ok(());
        }
        let mut level = self.level(now);
        if level.0 < 1.0 {
            return Err(Wait(Duration::from_secs_f64((1.0 - level.0) / self.rate)));
        }
        level.0 -= 1.0;
        Ok(())
    }

    fn overdraw(&self, count: usize, now: Instant) {
        if self.size > 0.0 {
            self.level(now).0 -= count as f64;
        }
    }

    fn debt(&self, now: Instant) -> Option<Duration> {
        let level = if self.size > 0.0 { self.level(now).0 } else { 0.0 };
        (level < 0.0).then(|| Duration::from_secs_f64(-level / self.rate))
    }

    fn is_full(&self, now: Instant) -> bool {
        self.size == 0.0 || self.level(now).0 >= self.size
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quota(change: impl FnOnce(&mut Quotas)) -> Quota {
        let mut limits = Quotas::default();
        change(&mut limits);
        Quota::new(limits)
    }

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    #[test]
    fn a_rate_holds_over_time_and_debts_are_paid() {
        let (bucket, start) = (Bucket::new(10, Duration::from_secs(1)), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        for _ in 0..10 {
            bucket.take(at(0)).unwrap();
        }
        let Err(Wait(wait)) = bucket.take(at(0)) else { panic!() };
        assert!((0.09..0.11).contains(&wait.as_secs_f64()), "{wait:?}");
        bucket.take(at(101)).unwrap();
        bucket.take(at(150)).unwrap_err();
        // No more than a second's worth is saved up.
        assert!(bucket.is_full(at(60_000)) && bucket.debt(at(60_000)).is_none());
        // A hundred at once: done as a whole, and waited for.
        bucket.take(at(60_000)).unwrap();
        bucket.overdraw(99, at(60_000));
        let Err(Wait(wait)) = bucket.take(at(60_000)) else { panic!() };
        assert!((9.0..9.2).contains(&wait.as_secs_f64()), "{wait:?}");
        assert!(bucket.debt(at(68_000)).is_some() && bucket.debt(at(69_001)).is_none());
        bucket.take(at(69_200)).unwrap();
    }

    #[test]
    fn no_rate_is_no_limit() {
        let (bucket, now) = (Bucket::new(0, Duration::from_secs(1)), Instant::now());
        bucket.overdraw(1_000_000, now);
        bucket.take(now).unwrap();
        assert!(bucket.debt(now).is_none() && bucket.is_full(now));
    }

    #[test]
    fn accounts_at_rest_are_closed_when_there_are_many() {
        let quota = quota(|limits| limits.new_sessions_per_minute = 10);
        let busy = quota.account(&"busy".into()).unwrap();
        busy.create().unwrap();
        for n in 0..2 * ACCOUNTS {
            quota.account(&format!("{n}").into()).unwrap();
        }
        assert!(lock(&quota.accounts).len() <= ACCOUNTS);
        assert!(Arc::ptr_eq(&busy, &quota.account(&"busy".into()).unwrap()));
    }

    #[test]
    fn streams_are_counted_in_all_by_session_and_by_token() {
        let quota = quota(|limits| (limits.streams, limits.streams_per_session, limits.streams_per_token) = (4, 3, 2));
        let (ada, bob) = (quota.account(&"ada".into()).unwrap(), quota.account(&"bob".into()).unwrap());
        let (a, b) = (name("a"), name("b"));
        let mut open = vec![quota.open(&a, Some(&ada)).unwrap(), quota.open(&a, Some(&ada)).unwrap()];
        assert_eq!(quota.open(&b, Some(&ada)).unwrap_err(), TooMany::OfToken(2));
        open.push(quota.open(&a, Some(&bob)).unwrap());
        assert_eq!(quota.open(&a, Some(&bob)).unwrap_err(), TooMany::OfSession(3));
        open.push(quota.open(&b, Some(&bob)).unwrap());
        assert_eq!(quota.open(&b, None).unwrap_err(), TooMany::InAll(4));
        // What was refused is not counted, and what has ended makes room.
        open.pop();
        quota.open(&b, None).unwrap();
        open.clear();
        assert_eq!(quota.streams.all.load(Relaxed), 0);
        assert!(lock(&quota.streams.by_session).is_empty());
        assert_eq!(ada.streams.load(Relaxed) + bob.streams.load(Relaxed), 0);
    }

    #[test]
    fn sessions_that_are_asked_for_stay_known() {
        let quota = quota(|_| {});
        quota.learn(&name("asked"));
        for n in 0..3 * KNOWN {
            quota.learn(&name(&format!("s{n}")));
            assert!(quota.knows(&name("asked")));
        }
        assert!(!quota.knows(&name("s0")) && !quota.knows(&name("never")));
    }
}
