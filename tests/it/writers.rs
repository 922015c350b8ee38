//! Who does the work of a session's queue, and what becomes of it when they go away.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures_util::{FutureExt, future::join_all};
use moorline::{
    event::{Defaults, Event},
    id::{Lane, Name},
    rules::{Action, Append, CommandRequest, Control, Limits, Reply, RunRequest},
    store::{
        Commit, Outcome, Page, ProducerState, ReadFrom, Retention, Stat, Store, StoreError, Subscription, Tail,
        memory::MemoryStore,
    },
    writer::{WriteError, Writers},
};
use tokio::{sync::Semaphore, time::Instant};

/// A store that commits when it is let.
struct Gated {
    store: MemoryStore,
    commits: Semaphore,
    /// How many it was asked for.
    asked: AtomicUsize,
    /// The next one panics.
    breaks: AtomicBool,
    /// What an answer takes on its way.
    way: Duration,
}

impl Gated {
    fn new() -> Arc<Self> {
        Self::distant(Duration::ZERO, 0)
    }

    /// Lets so many commits through.
    fn distant(way: Duration, commits: usize) -> Arc<Self> {
        let began = Instant::now();
        let clock = move || 1_000_000 + began.elapsed().as_millis() as u64;
        Arc::new(Gated {
            store: MemoryStore::with_clock(Retention::default(), Arc::new(clock)),
            commits: Semaphore::new(commits),
            asked: AtomicUsize::new(0),
            breaks: AtomicBool::new(false),
            way,
        })
    }
}

#[async_trait]
impl Store for Gated {
    async fn commit(&self, session: &Name, commit: &Commit) -> Result<Outcome, StoreError> {
        self.asked.fetch_add(1, SeqCst);
        let closed = |_| StoreError::Unavailable("it is away".into());
        self.commits.acquire().await.map_err(closed)?.forget();
        assert!(!self.breaks.swap(false, SeqCst), "as told");
        let outcome = self.store.commit(session, commit).await;
        // (A pause of nothing is one, too.)
        if !self.way.is_zero() {
            tokio::time::sleep(self.way).await;
        }
        outcome
    }

    async fn read(&self, session: &Name, lane: Lane, from: ReadFrom, limit: usize) -> Result<Page, StoreError> {
        self.store.read(session, lane, from, limit).await
    }

    async fn stat(&self, session: &Name) -> Result<Option<Stat>, StoreError> {
        self.store.stat(session).await
    }

    async fn producer(&self, session: &Name, producer: &Name) -> Result<Option<ProducerState>, StoreError> {
        self.store.producer(session, producer).await
    }

    async fn delete(&self, session: &Name) -> Result<bool, StoreError> {
        self.store.delete(session).await
    }

    async fn subscribe(&self, session: &Name, tail: Arc<dyn Tail>) -> Result<Subscription, StoreError> {
        self.store.subscribe(session, tail).await
    }

    async fn health(&self) -> Result<(), StoreError> {
        self.store.health().await
    }

    fn kind(&self) -> &'static str {
        "gated"
    }
}

fn said(what: &str) -> Action {
    let event = Event::from_json(&format!("{{\"data\":\"{what}\"}}"), &Defaults::default(), 1000).expect("an event");
    Action::Append(Append { events: vec![event], ..Default::default() })
}

#[tokio::test]
async fn what_was_asked_for_is_done_when_whoever_asked_goes_away() {
    let store = Gated::new();
    let writers = Writers::new(store.clone(), Limits::default());
    let session: Name = "s".parse().expect("a name");

    // The first does the work, the second waits for it; both go away before anything has been committed.
    let mut first = Box::pin(writers.act(&session, said("first")));
    let mut second = Box::pin(writers.act(&session, said("second")));
    assert!((&mut first).now_or_never().is_none());
    assert!((&mut second).now_or_never().is_none());
    drop(first);
    drop(second);
    let mut third = Box::pin(writers.act(&session, said("third")));
    assert!((&mut third).now_or_never().is_none());

    store.commits.add_permits(10);
    let done = third.await.expect("an append");
    let page = store.read(&session, Lane::Events, ReadFrom::Start, 10).await.expect("a page");
    let payloads: Vec<_> = page.entries.iter().map(|entry| String::from_utf8_lossy(&entry.payload)).collect();
    for (payload, what) in payloads.iter().zip(["first", "second", "third"]) {
        assert!(payload.contains(what), "{payloads:?}");
    }
    assert_eq!((payloads.len(), done.ids), (3, vec![page.entries[2].id]));
}

#[tokio::test]
async fn whoever_works_for_others_is_answered_before_them() {
    let store = Gated::new();
    let writers = Writers::new(store.clone(), Limits::default());
    let session: Name = "s".parse().expect("a name");
    let mut first = Box::pin(writers.act(&session, said("first")));
    assert!((&mut first).now_or_never().is_none());
    let mut second = Box::pin(writers.act(&session, said("second")));
    assert!((&mut second).now_or_never().is_none());

    // One commit is let through: the first has its answer, though the second's commit is still to come.
    store.commits.add_permits(1);
    first.await.expect("an append");
    assert!((&mut second).now_or_never().is_none());
    store.commits.add_permits(1);
    second.await.expect("an append");
}

#[tokio::test]
async fn a_panic_at_work_ends_what_is_under_way_and_no_more() {
    let store = Gated::new();
    let writers = Writers::new(store.clone(), Limits::default());
    let session: Name = "s".parse().expect("a name");
    let act = |what: &'static str| {
        let (writers, session) = (writers.clone(), session.clone());
        async move { writers.act(&session, said(what)).await }
    };
    store.breaks.store(true, SeqCst);
    let mut second = Box::pin(act("second"));
    let first = tokio::spawn(act("first"));
    // The first is at work before the second comes.
    while store.asked.load(SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    assert!((&mut second).now_or_never().is_none());
    store.commits.add_permits(10);
    assert!(first.await.is_err_and(|ended| ended.is_panic()));
    let told = tokio::time::timeout(Duration::from_secs(20), second).await.expect("an answer");
    assert!(matches!(&told, Err(WriteError::Store(StoreError::Fault(_)))), "{told:?}");
    act("third").await.expect("an append");
}

#[tokio::test]
async fn what_waits_behind_a_store_that_is_away_does_not_wait_for_a_row_of_failures() {
    let store = Gated::new();
    let writers = Writers::new(store.clone(), Limits::default());
    let session: Name = "s".parse().expect("a name");
    let all = join_all((0..1000).map(|n| {
        let (writers, session) = (writers.clone(), session.clone());
        async move { writers.act(&session, said(&n.to_string())).await }
    }));
    let away = async {
        // As long as a store is waited for, and no answer comes.
        tokio::time::sleep(Duration::from_millis(300)).await;
        store.commits.close();
    };
    let (answers, ()) = tokio::join!(all, away);
    for answer in answers {
        assert!(matches!(answer, Err(WriteError::Store(StoreError::Unavailable(_)))), "{answer:?}");
    }
    assert_eq!(store.asked.load(SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_is_neither_too_early_nor_a_lease_overstated_however_late_the_store_answers() {
    let way = Duration::from_millis(900);
    let store = Gated::distant(way, 100);
    let writers = Writers::new(store.clone(), Limits::default());
    let session: Name = "s".parse().unwrap();
    let command = |id: &str| {
        Action::Command(CommandRequest {
            id: id.parse().unwrap(),
            kind: "steer".into(),
            agent: None,
            run: None,
            data: None,
            ttl_ms: Some(5_000),
            grace_ms: None,
            tree: false,
            decision: None,
            by: None,
            traceparent: None,
        })
    };
    for id in ["c1", "c2", "c3"] {
        let entry = writers.act(&session, command(id)).await.unwrap().ids[0];
        let state = store.stat(&session).await.unwrap().unwrap().snapshot.state.unwrap();
        let control = Control::read(&state, Limits::default()).unwrap();
        let lives = control.command(&id.parse().unwrap()).unwrap().expires.unwrap() - entry.ms;
        assert!((5_000..=5_000 + 2 * way.as_millis() as u64).contains(&lives), "{id}: {lives} ms");
    }
    // What an agent is told of its lease is no more than what it has.
    let start = RunRequest {
        run: "r".parse().unwrap(),
        agent: None,
        parent: None,
        lease_ms: None,
        takeover: false,
        speaker: None,
    };
    for action in [Action::Start(start), Action::Heartbeat { run: "r".parse().unwrap(), attempt: None, speaker: None }]
    {
        let Reply::Run(view) = writers.act(&session, action).await.unwrap().reply else { panic!("no run") };
        let state = store.stat(&session).await.unwrap().unwrap().snapshot.state.unwrap();
        let touched = state.touched.iter().find(|(run, _)| run.as_str() == "r").unwrap().1;
        assert_eq!(view.lease_until, Some(touched + view.lease_ms));
    }
}
