//! Redis lost, frozen, full or at odds: each failure is answered in time, nothing is half done, and what comes back is
//! used again. These tests have servers of their own.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use moorline::{
    id::Lane,
    store::{Commit, Part, Producer, ProducerState, Push, ReadFrom, StoreError, Tail},
};

use super::*;
use crate::support::redis::APPEND_ONLY;

/// Short, so that the tests are; long enough for a busy machine.
const TIMEOUT: Duration = Duration::from_secs(1);

/// After so long without a beat the store gives a subscription up.
const SILENT_AFTER: Duration = Duration::from_secs(4);

/// A session in a server's only store, under the prefix `m:`.
async fn session(server: &RedisServer) -> Session {
    let store = connect(server, |config| {
        config.prefix = "m:".into();
        config.timeout = TIMEOUT;
    });
    Session::new(Arc::new(store.await))
}

fn key(session: &Session, last: &str) -> String {
    format!("m:{{{}}}:{last}", session.name)
}

async fn healthy(session: &Session) {
    eventually("a healthy store", || async { session.store.health().await.ok() }).await;
}

/// Appends until it works; what failed before may or may not be stored.
async fn append_at_last(session: &Session, payload: &str) {
    eventually("a commit works", || async {
        let expect = session.store.stat(&session.name).await.ok()?.and_then(|s| s.snapshot.state).map(|s| s.version);
        let commit = Commit { expect, version: fresh(), parts: vec![events(&[payload])], ..Commit::default() };
        let outcome = session.try_commit(&commit).await.ok()?;
        matches!(outcome, Outcome::Committed { .. }).then_some(())
    })
    .await;
}

async fn a_push_of(watcher: &Watcher, payload: &str) {
    let arrived = || async { texts(&watcher.entries(Lane::Events)).iter().any(|p| p == payload).then_some(()) };
    eventually("the entry is pushed", arrived).await;
}

#[track_caller]
fn unavailable<T: std::fmt::Debug>(result: Result<T, StoreError>) {
    assert!(matches!(result, Err(StoreError::Unavailable(_))), "{result:?}");
}

#[track_caller]
fn fault<T: std::fmt::Debug>(result: Result<T, StoreError>) {
    assert!(matches!(result, Err(StoreError::Fault(_))), "{result:?}");
}

#[tokio::test]
async fn commits_and_deletions_outlive_a_script_flush() {
    let server = RedisServer::start();
    let session = session(&server).await;
    for n in 1..=3 {
        assert_eq!(session.append_events(&["a"]).await[0].n, n);
        server.cli(&["SCRIPT", "FLUSH"]);
    }
    assert!(session.delete().await);
    server.cli(&["SCRIPT", "FLUSH"]);
    assert!(!session.delete().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_subscription_raises_doubt_and_comes_back() {
    let server = RedisServer::start();
    let session = session(&server).await;
    // More sessions than go into one SUBSCRIBE.
    let mut others = Vec::new();
    for others_name in (0..1200).map(|k| name(&format!("other-{k}"))) {
        let other = Session { store: session.store.clone(), name: others_name };
        others.push(tokio::spawn(async move { other.watch().await }));
    }
    let mut watched = Vec::new();
    for other in others {
        watched.push(other.await.unwrap());
    }
    let (watcher, _subscription) = session.watch().await;
    for round in 1..=3 {
        let before = watcher.told().doubts;
        let others_before: Vec<usize> = watched.iter().map(|(other, _)| other.told().doubts).collect();
        assert_eq!(server.cli(&["CLIENT", "KILL", "TYPE", "pubsub"]), "1");
        watcher.doubt_after(before).await;
        for ((other, _), before) in watched.iter().zip(others_before) {
            other.doubt_after(before).await;
        }
        // From the doubt on everything is pushed again.
        let payload = format!("after {round}");
        session.append_events(&[&payload]).await;
        a_push_of(&watcher, &payload).await;
    }
    healthy(&session).await;
    for (other, subscription) in watched {
        drop(subscription);
        other.let_go().await;
    }
}

#[tokio::test]
async fn a_store_without_its_subscription_is_not_healthy_but_commits() {
    let server = RedisServer::start();
    let session = session(&server).await;
    let (watcher, _subscription) = session.watch().await;
    healthy(&session).await;
    let before = watcher.told().doubts;
    server.cli(&["ACL", "SETUSER", "default", "-subscribe"]);
    server.cli(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    let why = eventually("an unhealthy store", || async { session.store.health().await.err() }).await;
    assert!(matches!(&why, StoreError::Unavailable(text) if text.contains("subscription")), "{why}");
    session.append_events(&["unseen"]).await;
    assert_eq!(watcher.told().pushes, []);
    server.cli(&["ACL", "SETUSER", "default", "+subscribe"]);
    watcher.doubt_after(before).await;
    healthy(&session).await;
    session.append_events(&["seen"]).await;
    a_push_of(&watcher, "seen").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_asked_for_while_redis_is_away_is_refused_in_time_or_works() {
    let server = RedisServer::start();
    let session = session(&server).await;
    server.kill9();
    let asked = Instant::now();
    unavailable(session.store.subscribe(&session.name, Arc::new(Watcher::default())).await.map(drop));
    assert!(asked.elapsed() < TIMEOUT * 4, "{:?}", asked.elapsed());
    server.restart();
    let watch = || async {
        let watcher = Arc::new(Watcher::default());
        let subscription = session.store.subscribe(&session.name, watcher.clone()).await.ok()?;
        Some((watcher, subscription))
    };
    let (watcher, _subscription) = eventually("a subscription", watch).await;
    append_at_last(&session, "back").await;
    a_push_of(&watcher, "back").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscriptions_given_up_while_redis_is_away_are_not_asked_for_when_it_is_back() {
    let server = RedisServer::start();
    let session = session(&server).await;
    server.kill9();
    for _ in 0..3 {
        let names: Vec<_> = (0..20).map(|_| name(&unique("s"))).collect();
        let asked = names.iter().map(|name| session.store.subscribe(name, Arc::new(Watcher::default())));
        for subscription in futures_util::future::join_all(asked).await {
            unavailable(subscription.map(drop));
        }
    }
    server.restart();
    let watch = || async { session.store.subscribe(&session.name, Arc::new(Watcher::default())).await.ok() };
    let _subscription = eventually("a subscription", watch).await;
    let stats = server.cli(&["INFO", "commandstats"]);
    assert!(!stats.contains("cmdstat_unsubscribe"), "{stats}");
}

/// Panics when anything comes.
struct Trap;

impl Tail for Trap {
    fn push(&self, _: Push) {
        panic!("a fault of ours");
    }

    fn doubt(&self) {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_whose_pushes_have_ended_for_good_is_not_healthy() {
    let server = RedisServer::start();
    let session = session(&server).await;
    let _subscription = session.store.subscribe(&session.name, Arc::new(Trap)).await.unwrap();
    healthy(&session).await;
    session.append_events(&["1"]).await;
    let why = eventually("an unhealthy store", || async { session.store.health().await.err() }).await;
    assert!(matches!(&why, StoreError::Unavailable(text) if text.contains("subscription")), "{why}");
}

#[tokio::test]
async fn a_clients_session_does_not_keep_a_replica_from_its_start() {
    let server = RedisServer::start();
    let store = connect(&server, |config| config.prefix = "m:".into()).await;
    for last in ["meta", "events", "commands"] {
        server.cli(&["SET", &format!("m:{{s}}:{last}"), "foreign"]);
    }
    store.try_out().await.unwrap();
    assert_eq!(server.cli(&["KEYS", "m:try-out*"]), "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_redis_is_used_again_when_it_is_back() {
    let server = RedisServer::start();
    let session = session(&server).await;
    session.append_events(&["lost with the server"]).await;
    let (watcher, _subscription) = session.watch().await;
    for round in 1..=2 {
        let before = watcher.told().doubts;
        server.kill9();
        let asked = Instant::now();
        unavailable(session.try_commit(&Commit { version: fresh(), ..session_begins() }).await);
        unavailable(session.store.read(&session.name, Lane::Events, ReadFrom::Start, 1).await);
        unavailable(session.store.stat(&session.name).await);
        unavailable(session.store.delete(&session.name).await);
        unavailable(session.store.health().await);
        assert!(asked.elapsed() < TIMEOUT * 10, "{:?}", asked.elapsed());
        server.restart();
        let payload = format!("after {round}");
        watcher.doubt_after(before).await;
        append_at_last(&session, &payload).await;
        a_push_of(&watcher, &payload).await;
        healthy(&session).await;
        assert_eq!(session.payloads(Lane::Events).await, [payload]);
    }
}

fn session_begins() -> Commit {
    Commit { parts: vec![events(&["a"])], ..Commit::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_answered_is_in_the_log_once_after_a_kill() {
    let server = Arc::new(RedisServer::start_with(&APPEND_ONLY));
    let session = session(&server).await.begun().await;
    let writer = |w: usize| {
        let session = session.clone();
        tokio::spawn(async move {
            let expect = session.version().await;
            let mut answered = Vec::new();
            for k in 0.. {
                let payload = format!("{w}-{k}");
                let parts = vec![Part { commands: bytes(&[&payload]), ..events(&[&payload]) }];
                let commit = Commit { expect: expect.clone(), parts, ..Commit::default() };
                match session.try_commit(&commit).await {
                    Ok(Outcome::Committed { now: ms, parts }) => match parts[..] {
                        [Parted::Appended { events_from: n, .. }] => answered.push((EntryId { ms, n }, payload)),
                        _ => panic!("{parts:?}"),
                    },
                    Ok(other) => panic!("{other:?}"),
                    Err(_) => break,
                }
            }
            answered
        })
    };
    let writers: Vec<_> = (0..8).map(writer).collect();
    let written = || async { (session.stat().await?.lanes[0].last.n > 200).then_some(()) };
    eventually("some entries", written).await;
    server.kill9();
    let mut answered = Vec::new();
    for writer in writers {
        answered.extend(writer.await.unwrap());
    }
    server.restart();
    healthy(&session).await;
    let log = session.log(Lane::Events).await;
    assert!(log.iter().map(|e| e.id.n).eq(1..=log.len() as u64));
    assert!(answered.len() > 100);
    for (id, payload) in answered {
        let entry = &log[id.n as usize - 1];
        assert_eq!((entry.id, &entry.payload[..]), (id, payload.as_bytes()));
    }
    let once: std::collections::HashSet<_> = texts(&log).into_iter().collect();
    assert_eq!(once.len(), log.len());
    // Both lanes of a commit came through, or none.
    assert_eq!(session.payloads(Lane::Commands).await, texts(&log));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_redis_is_answered_for_in_time_and_used_again_when_it_thaws() {
    let server = RedisServer::start();
    let session = session(&server).await.begun().await;
    let (watcher, _subscription) = session.watch().await;
    let commit = session.plan(vec![events(&["late"])]).await;
    let before = watcher.told().doubts;
    server.freeze();
    let frozen = Instant::now();
    let asked = Instant::now();
    unavailable(session.try_commit(&commit).await);
    assert!(asked.elapsed() < TIMEOUT * 3, "{:?}", asked.elapsed());
    let asked = Instant::now();
    unavailable(session.store.read(&session.name, Lane::Events, ReadFrom::Start, 1).await);
    assert!(asked.elapsed() < TIMEOUT * 10, "{:?}", asked.elapsed());
    // Many at once wait no longer than a few: each for its own connection's turn, and all are told when one gets no answer.
    let asked = Instant::now();
    let read = || session.store.read(&session.name, Lane::Events, ReadFrom::Start, 1);
    futures_util::future::join_all((0..100).map(|_| read())).await.into_iter().for_each(unavailable);
    assert!(asked.elapsed() < TIMEOUT * 4, "{:?}", asked.elapsed());
    unavailable(session.store.health().await);
    // Longer than a subscription may be silent: it is given up, although its connection still stands.
    tokio::time::sleep(SILENT_AFTER.saturating_sub(frozen.elapsed())).await;
    server.thaw();
    watcher.doubt_after(before).await;
    append_at_last(&session, "after").await;
    a_push_of(&watcher, "after").await;
    healthy(&session).await;
    // The commit that was refused may have happened, but not twice, and not after the later one.
    let payloads = session.payloads(Lane::Events).await;
    assert!(payloads == ["after"] || payloads == ["late", "after"], "{payloads:?}");
}

#[tokio::test]
async fn a_store_does_not_begin_without_redis() {
    let server = RedisServer::start();
    let mut config = RedisConfig::new(server.url());
    config.timeout = TIMEOUT;
    server.cli(&["CONFIG", "SET", "requirepass", "secret"]);
    let denied = RedisStore::connect(config.clone()).await.map(drop);
    assert!(matches!(denied, Err(StoreError::Denied(_))), "{denied:?}");
    server.freeze();
    let asked = Instant::now();
    unavailable(RedisStore::connect(config.clone()).await.map(drop));
    server.thaw();
    server.kill9();
    unavailable(RedisStore::connect(config.clone()).await.map(drop));
    assert!(asked.elapsed() < TIMEOUT * 8, "{:?}", asked.elapsed());
    config.url = "nonsense".into();
    fault(RedisStore::connect(config).await.map(drop));
}

#[tokio::test]
async fn a_dropped_store_leaves_no_connection() {
    let server = RedisServer::start();
    let session = session(&server).await.begun().await;
    let (watcher, subscription) = session.watch().await;
    drop((session, watcher));
    // Only the one that asks.
    eventually("no connections", || async {
        let clients = server.cli(&["CLIENT", "LIST"]);
        (clients.lines().count() == 1).then_some(())
    })
    .await;
    drop(subscription);
}

/// What Redis holds of a session.
fn dump(server: &RedisServer, session: &Session) -> [String; 3] {
    ["meta", "events", "commands"].map(|last| server.cli(&["DUMP", &key(session, last)]))
}

/// Commits that write a lane each, both, and everything.
async fn writes(session: &Session) -> Vec<Commit> {
    let both = Part { events: bytes(&["e"]), commands: bytes(&["c"]), ..Part::default() };
    let mut commits = Vec::new();
    for parts in [vec![both.clone()], vec![events(&["e"]), commands(&["c"])], vec![commands(&["c"]), events(&["e"])]] {
        let commit = session.plan(parts).await;
        commits.push(Commit {
            changes: vec![record("k", "v"), ("begun".into(), None)],
            closes: true,
            ..commit.clone()
        });
        commits.push(commit);
    }
    commits
}

#[tokio::test]
async fn a_foreign_type_at_a_lane_is_a_fault_and_leaves_nothing_half_done() {
    let server = RedisServer::start();
    for lane in Lane::ALL {
        let session = session(&server).await.begun().await;
        session.append(vec![events(&["a"]), commands(&["b"])]).await;
        let writes = writes(&session).await;
        server.cli(&["SET", &key(&session, lane.as_str()), "foreign"]);
        let before = dump(&server, &session);
        for commit in &writes {
            fault(session.try_commit(commit).await);
            assert_eq!(dump(&server, &session), before);
        }
        fault(session.store.read(&session.name, lane, ReadFrom::Start, 1).await);
        fault(session.store.stat(&session.name).await);
        // Deletion is the way out.
        assert!(session.delete().await);
        assert_eq!(session.append_events(&["fine"]).await[0].n, 1);
    }
}

#[tokio::test]
async fn a_foreign_type_at_the_meta_is_a_fault_and_leaves_nothing_half_done() {
    let server = RedisServer::start();
    let session = session(&server).await;
    let writes = writes(&session).await;
    server.cli(&["SET", &key(&session, "meta"), "foreign"]);
    let before = dump(&server, &session);
    for commit in &writes {
        fault(session.try_commit(commit).await);
    }
    fault(session.store.read(&session.name, Lane::Events, ReadFrom::Start, 1).await);
    fault(session.store.stat(&session.name).await);
    fault(session.store.producer(&session.name, &name("p")).await);
    fault(session.store.delete(&session.name).await);
    assert_eq!(dump(&server, &session), before);
}

#[tokio::test]
async fn what_is_left_of_a_session_whose_meta_was_evicted_does_not_show_in_the_next() {
    let server = RedisServer::start();
    let session = session(&server).await.begun().await;
    session.append(vec![events(&["old"]), commands(&["old"])]).await;
    server.cli(&["DEL", &key(&session, "meta")]);
    assert!(session.stat().await.is_none());
    assert!(!session.read(ReadFrom::Start, 9).await.exists);
    session.append_events(&["new"]).await;
    assert_eq!(session.payloads(Lane::Events).await, ["new"]);
    assert_eq!(session.payloads(Lane::Commands).await, [""; 0]);
}

#[tokio::test]
async fn a_full_redis_refuses_for_now_and_leaves_nothing_half_done() {
    let server = RedisServer::start();
    let session = session(&server).await.begun().await;
    session.append(vec![events(&["a"]), commands(&["b"])]).await;
    let writes = writes(&session).await;
    let touch = session.plan(vec![touches(&["r"])]).await;
    let begins = Session::new(session.store.clone());
    let producer = Some(Producer { id: name("p"), epoch: 1, seq: 0 });
    session.append(vec![Part { producer, ..events(&["c"]) }]).await;
    let stands = ProducerState { epoch: 1, next_seq: 1 };
    let all = session.all().await;
    server.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    let before = dump(&server, &session);
    for commit in writes.iter().chain([&touch]) {
        unavailable(session.try_commit(commit).await);
        assert_eq!(dump(&server, &session), before);
    }
    unavailable(begins.try_commit(&Commit { version: fresh(), ..session_begins() }).await);
    assert_eq!(dump(&server, &begins), [""; 3]);
    assert!(begins.stat().await.is_none());
    // What is there can still be read, and erased to make room.
    assert_eq!(session.all().await, all);
    assert_eq!(session.store.producer(&session.name, &name("p")).await.unwrap(), Some(stands));
    assert!(session.delete().await);
    server.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    session.append_events(&["fine"]).await;
}

#[tokio::test]
async fn a_busy_redis_refuses_for_now() {
    let server = Arc::new(RedisServer::start());
    let session = session(&server).await.begun().await;
    let commit = session.plan(vec![events(&["a"])]).await;
    server.cli(&["CONFIG", "SET", "busy-reply-threshold", "1"]);
    let endless = server.clone();
    let endless = std::thread::spawn(move || {
        // Its death is an error of its own.
        let _ = std::panic::catch_unwind(|| endless.cli(&["EVAL", "while true do end", "0"]));
    });
    eventually("redis is busy", || async { session.store.health().await.err() }).await;
    unavailable(session.try_commit(&commit).await);
    unavailable(session.store.read(&session.name, Lane::Events, ReadFrom::Start, 1).await);
    unavailable(session.store.stat(&session.name).await);
    unavailable(session.store.producer(&session.name, &name("p")).await);
    unavailable(session.store.delete(&session.name).await);
    server.cli(&["SCRIPT", "KILL"]);
    endless.join().unwrap();
    append_at_last(&session, "fine").await;
    assert_eq!(session.payloads(Lane::Events).await, ["fine"]);
}
