//! Contract 1 to 3: a commit is atomic, conditional and numbered.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use moorline::{
    id::{EntryId, Lane, Ms},
    store::{Commit, Outcome, Part, Parted, Producer, Retention, StoreError, Window, memory::MemoryStore},
};

use super::*;

promises![
    entries_are_numbered_in_the_order_of_their_commits,
    entries_of_a_commit_share_their_time_and_time_never_goes_back,
    payloads_are_kept_byte_for_byte,
    parts_of_a_commit_are_numbered_on_from_each_other,
    a_commit_on_another_version_conflicts_and_changes_nothing,
    a_commit_that_expects_no_session_conflicts_with_one,
    a_commit_that_expects_a_session_conflicts_with_none,
    a_commit_outside_of_its_time_window_conflicts_and_changes_nothing,
    a_commit_on_a_run_that_was_touched_meanwhile_conflicts,
    the_parts_of_a_commit_renew_each_their_own_runs,
    a_conflict_gives_the_current_control_state,
    appends_and_touches_keep_the_version_and_changes_replace_it,
    an_empty_commit_is_judged_and_creates_nothing,
    refused_parts_alone_create_nothing,
    records_are_set_and_dropped_and_the_last_change_of_a_key_counts,
    a_record_of_an_issued_command_gets_the_id_of_its_entry,
    a_touch_alone_creates_the_session_whole,
    a_commit_without_the_version_it_needs_is_a_fault_and_changes_nothing,
    a_commit_of_20_000_changes_happens_whole,
    a_commit_of_20_000_entries_happens_whole,
    of_racing_creators_one_creates,
    of_racing_changes_on_one_version_one_happens,
    concurrent_appends_are_each_stored_once_and_numbered_without_holes,
];

async fn entries_are_numbered_in_the_order_of_their_commits(backend: Backend) {
    let session = backend.session().await;
    for (n, payload) in (1..).zip(["a", "b", "c"]) {
        let ids = session.append_events(&[payload]).await;
        assert_eq!(ids.iter().map(|id| id.n).collect::<Vec<_>>(), [n]);
    }
    let ids = session.append_events(&["d", "e"]).await;
    let log = session.log(Lane::Events).await;
    assert_eq!(texts(&log), ["a", "b", "c", "d", "e"]);
    assert_eq!(log.iter().map(|e| e.id.n).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    assert_eq!(log[3..].iter().map(|e| e.id).collect::<Vec<_>>(), ids);
    assert_eq!(session.log(Lane::Commands).await, []);
}

async fn entries_of_a_commit_share_their_time_and_time_never_goes_back(backend: Backend) {
    let session = backend.session().await;
    let mut before = 0;
    for _ in 0..50 {
        let part = Part { events: bytes(&["1", "2"]), commands: bytes(&["3"]), ..Part::default() };
        let (now, _) = session.append(vec![part]).await;
        assert!(now >= before);
        before = now;
        let (_, events, commands) = session.all().await;
        let newest = events.iter().rev().take(2).chain(commands.last());
        assert!(newest.map(|e| e.id.ms).all(|ms| ms == now));
    }
}

async fn payloads_are_kept_byte_for_byte(backend: Backend) {
    let session = backend.session().await;
    let payloads = [String::new(), "ä\u{1F980}\0\t\"\\".into(), "'$ %s {} -".into(), "x".repeat(1 << 20)];
    let payloads: Vec<&str> = payloads.iter().map(String::as_str).collect();
    session.append_events(&payloads).await;
    assert_eq!(session.payloads(Lane::Events).await, payloads);
}

async fn parts_of_a_commit_are_numbered_on_from_each_other(backend: Backend) {
    let session = backend.session().await;
    session.append(vec![events(&["a"]), commands(&["x"])]).await;
    let both = Part { events: bytes(&["b", "c"]), commands: bytes(&["y"]), ..Part::default() };
    let (_, parted) = session.append(vec![both, commands(&["z"]), events(&["d"])]).await;
    let from = |events_from, commands_from| Parted::Appended { events_from, commands_from, skipped: 0 };
    assert_eq!(parted, [from(2, 2), from(4, 3), from(4, 0)]);
    assert_eq!(session.payloads(Lane::Events).await, ["a", "b", "c", "d"]);
    assert_eq!(session.payloads(Lane::Commands).await, ["x", "y", "z"]);
}

/// A commit that would leave a trace everywhere, had it happened.
fn everything() -> Commit {
    let producer = Some(Producer { id: name("p"), epoch: 0, seq: 0 });
    Commit {
        version: fresh(),
        changes: vec![record("changed", "1"), ("begun".into(), None)],
        closes: true,
        parts: vec![
            Part { producer, events: bytes(&["e"]), commands: bytes(&["c"]), ..Part::default() },
            touches(&["touched"]),
        ],
        ..Commit::default()
    }
}

async fn a_commit_on_another_version_conflicts_and_changes_nothing(backend: Backend) {
    let session = backend.session().await.begun().await;
    session.append_events(&["a"]).await;
    let before = session.all().await;
    let snapshot = conflict(session.commit(Commit { expect: fresh(), ..everything() }).await);
    assert_eq!(snapshot.state, before.0);
    assert_eq!(session.all().await, before);
    assert_eq!(session.store.producer(&session.name, &name("p")).await.unwrap(), None);
}

async fn a_commit_that_expects_no_session_conflicts_with_one(backend: Backend) {
    let session = backend.session().await.begun().await;
    let before = session.all().await;
    let snapshot = conflict(session.commit(Commit { expect: None, ..everything() }).await);
    assert_eq!(snapshot.state, before.0);
    assert_eq!(session.all().await, before);
}

async fn a_commit_that_expects_a_session_conflicts_with_none(backend: Backend) {
    let session = backend.session().await;
    let snapshot = conflict(session.commit(Commit { expect: fresh(), ..everything() }).await);
    assert_eq!(snapshot.state, None);
    assert!(session.stat().await.is_none());
}

async fn a_commit_outside_of_its_time_window_conflicts_and_changes_nothing(backend: Backend) {
    let session = backend.session().await.begun().await;
    let expect = session.version().await;
    let (now, _) = committed(session.commit(session.plan(vec![events(&["a"])]).await).await);
    let before = session.all().await;
    let early = Window { not_before: now + 3_600_000, ..Window::default() };
    let late = Window { before: now, ..Window::default() };
    let plain = || Commit { parts: vec![events(&["e"])], ..Commit::default() };
    for window in [early, late] {
        for commit in [everything(), plain()] {
            let snapshot = conflict(session.commit(Commit { expect: expect.clone(), window, ..commit }).await);
            assert!(snapshot.now >= now);
            assert_eq!(snapshot.state, before.0);
            assert_eq!(session.all().await, before);
        }
    }
    let window = Window { not_before: now, before: now + 3_600_000 };
    committed(session.commit(Commit { expect: expect.clone(), window, ..plain() }).await);
    committed(session.commit(Commit { expect, window, ..everything() }).await);
}

async fn a_commit_on_a_run_that_was_touched_meanwhile_conflicts(backend: Backend) {
    let session = backend.session().await.begun().await;
    let expect = session.version().await;
    let touch = Commit { expect: expect.clone(), parts: vec![touches(&["r", "q"])], ..Commit::default() };
    let (touched, _) = committed(session.commit(touch).await);
    let before = session.all().await;
    let judged = |seen| {
        let untouched = vec![(name("never"), 0), (name("r"), seen)];
        Commit { expect: expect.clone(), untouched, ..everything() }
    };
    let snapshot = conflict(session.commit(judged(touched - 1)).await);
    assert_eq!(snapshot.state.unwrap().touched, [(name("q"), touched), (name("r"), touched)]);
    assert_eq!(session.all().await, before);
    committed(session.commit(judged(touched)).await);
}

async fn the_parts_of_a_commit_renew_each_their_own_runs(backend: Backend) {
    let session = backend.session().await;
    session.append_events(&["first"]).await;
    let part = |run: &str| Part { touch: vec![name(run)], ..events(&[run]) };
    let (now, _) = session.append(vec![part("q"), part("r"), part("q")]).await;
    assert_eq!(session.state().await.touched, [(name("q"), now), (name("r"), now)]);
    assert_eq!(session.payloads(Lane::Events).await, ["first", "q", "r", "q"]);
}

async fn a_conflict_gives_the_current_control_state(backend: Backend) {
    let session = backend.session().await;
    let (created, version) = (session.append(vec![events(&["a"])]).await.0, fresh());
    let commit = Commit {
        version: version.clone(),
        changes: vec![record("k", "v"), record("run.r", "{}")],
        closes: true,
        ..session.plan(vec![touches(&["r"])]).await
    };
    let (closed, _) = committed(session.commit(commit).await);
    let snapshot = conflict(session.commit(Commit::default()).await);
    assert!(snapshot.now >= closed);
    let records = vec![("k".into(), Bytes::from("v")), ("run.r".into(), Bytes::from("{}"))];
    let version = version.unwrap();
    let state = State { version, created, closed: Some(closed), records, touched: vec![(name("r"), closed)] };
    assert_eq!(snapshot.state, Some(state.clone()));
    assert_eq!(session.state().await, state);
}

async fn appends_and_touches_keep_the_version_and_changes_replace_it(backend: Backend) {
    let session = backend.session().await.begun().await;
    let version = session.version().await;
    let commit = session.plan(vec![events(&["a"]), commands(&["b"]), touches(&["r"])]).await;
    committed(session.commit(commit).await);
    assert_eq!(session.version().await, version);
    for commit in [
        Commit { changes: vec![record("k", "v")], ..session.plan(vec![]).await },
        Commit { closes: true, ..session.plan(vec![]).await },
    ] {
        let expect = session.version().await;
        let new = commit.version.clone();
        committed(session.commit(Commit { expect, ..commit }).await);
        assert_eq!(session.version().await, new);
    }
}

async fn an_empty_commit_is_judged_and_creates_nothing(backend: Backend) {
    let session = backend.session().await;
    for version in [None, fresh()] {
        committed(session.commit(Commit { version, ..Commit::default() }).await);
        assert!(session.stat().await.is_none());
        assert!(!session.read(ReadFrom::Start, 1).await.exists);
    }
    conflict(session.commit(Commit { expect: fresh(), ..Commit::default() }).await);

    let session = session.begun().await;
    let before = session.all().await;
    committed(session.commit(Commit { expect: session.version().await, ..Commit::default() }).await);
    conflict(session.commit(Commit::default()).await);
    assert_eq!(session.all().await, before);
}

async fn refused_parts_alone_create_nothing(backend: Backend) {
    let session = backend.session().await;
    let producer = Some(Producer { id: name("p"), epoch: 0, seq: 7 });
    let part = Part { producer, ..events(&["a"]) };
    let (_, parted) = session.append(vec![part.clone(), part]).await;
    assert_eq!(parted, [Parted::ProducerGap { expected: 0 }, Parted::ProducerGap { expected: 0 }]);
    assert!(session.stat().await.is_none());
    assert!(!session.delete().await);
}

async fn records_are_set_and_dropped_and_the_last_change_of_a_key_counts(backend: Backend) {
    let session = backend.session().await;
    let keys = |state: State| state.records.into_iter().map(|(k, v)| (k, v.to_vec())).collect::<Vec<_>>();
    let change = async |changes: Vec<(String, Option<Bytes>)>| {
        committed(session.commit(Commit { changes, ..session.plan(vec![]).await }).await);
        keys(session.state().await)
    };
    let dropped = |key: &str| (key.to_owned(), None);
    let held = |key: &str, value: &str| (key.to_owned(), value.as_bytes().to_vec());
    // Keys that look like the store's own fields are still only keys.
    let odd = ["v", "at", "x", "e", "p.q", "r.a", "u.b", "ä b"];
    let stored = change(odd.iter().map(|key| record(key, "1")).collect()).await;
    assert_eq!(stored.len(), odd.len());
    assert_eq!(session.state().await.closed, None);
    assert_eq!(change(odd.iter().map(|key| dropped(key)).collect()).await, []);

    assert_eq!(change(vec![record("a", "1"), record("b", "1")]).await, [held("a", "1"), held("b", "1")]);
    assert_eq!(change(vec![record("a", "2"), dropped("b"), dropped("never")]).await, [held("a", "2")]);
    assert_eq!(change(vec![record("a", "3"), dropped("a")]).await, []);
    assert_eq!(change(vec![dropped("a"), record("a", "4")]).await, [held("a", "4")]);
    assert_eq!(change(vec![record("a", "5"), record("a", "6")]).await, [held("a", "6")]);
}

async fn a_record_of_an_issued_command_gets_the_id_of_its_entry(backend: Backend) {
    let session = backend.session().await;
    session.append(vec![commands(&["before"])]).await;
    let parts = vec![commands(&["first"]), Part { commands: bytes(&["second"]), ..events(&["mirror"]) }];
    let issued = vec!["c.first".to_owned(), "c.second".to_owned()];
    let changes = vec![record("c.second", "{}"), record("other", "1"), record("c.first", "x y")];
    let (now, _) = committed(session.commit(Commit { issued, changes, ..session.plan(parts).await }).await);
    let records = [("c.first", format!("x y {now}-2")), ("c.second", format!("{{}} {now}-3")), ("other", "1".into())];
    assert_eq!(session.state().await.records, records.map(|(key, value)| (key.to_owned(), Bytes::from(value))));
    let log = session.log(Lane::Commands).await;
    assert_eq!(log[1..].iter().map(|e| e.id).collect::<Vec<_>>(), [2, 3].map(|n| EntryId { ms: now, n }));
}

async fn a_touch_alone_creates_the_session_whole(backend: Backend) {
    let session = backend.session().await;
    let commit = Commit { version: fresh(), parts: vec![touches(&["r"])], ..Commit::default() };
    let version = commit.version.clone().unwrap();
    let (now, _) = committed(session.commit(commit).await);
    let touched = vec![(name("r"), now)];
    assert_eq!(session.state().await, State { version, created: now, closed: None, records: vec![], touched });
}

async fn a_commit_without_the_version_it_needs_is_a_fault_and_changes_nothing(backend: Backend) {
    let session = backend.session().await;
    for commit in [everything(), Commit { parts: vec![events(&["a"])], ..Commit::default() }] {
        let refused = session.try_commit(&Commit { version: None, ..commit }).await;
        assert!(matches!(refused, Err(StoreError::Fault(_))), "{refused:?}");
        assert!(session.stat().await.is_none());
    }
    let session = session.begun().await;
    let before = session.all().await;
    let closes = Commit { closes: true, ..Commit::default() };
    for commit in [everything(), Commit { changes: vec![record("k", "v")], ..Commit::default() }, closes] {
        let expect = session.version().await;
        let refused = session.try_commit(&Commit { expect, version: None, ..commit }).await;
        assert!(matches!(refused, Err(StoreError::Fault(_))), "{refused:?}");
        assert_eq!(session.all().await, before);
    }
}

async fn a_commit_of_20_000_changes_happens_whole(backend: Backend) {
    let session = backend.session().await;
    let keys: Vec<String> = (0..20_000).map(|k| format!("{k:05}")).collect();
    let set: Vec<_> = keys.iter().map(|key| record(key, "1")).collect();
    let touch = Part { touch: keys.iter().map(|key| name(key)).collect(), ..Part::default() };
    committed(session.commit(Commit { changes: set, ..session.plan(vec![touch]).await }).await);
    let state = session.state().await;
    assert_eq!(state.records.into_iter().map(|(key, _)| key).collect::<Vec<_>>(), keys);
    assert_eq!(state.touched.len(), keys.len());

    // All of it in a conflict, too.
    let untouched: Vec<_> = keys.iter().map(|key| (name(key), Ms::MAX)).collect();
    assert_eq!(conflict(session.commit(Commit::default()).await).state.unwrap().records.len(), keys.len());

    let drop = keys.iter().map(|key| (key.clone(), None)).collect();
    committed(session.commit(Commit { changes: drop, untouched, ..session.plan(vec![]).await }).await);
    assert_eq!(session.state().await.records, []);
}

async fn a_commit_of_20_000_entries_happens_whole(backend: Backend) {
    let session = backend.session().await;
    let payloads: Vec<String> = (0..20_000).map(|k| k.to_string()).collect();
    let parts = payloads.iter().map(|p| events(&[p])).collect();
    let (now, parted) = session.append(parts).await;
    assert_eq!(parted.len(), payloads.len());
    assert_eq!(parted[19_999], Parted::Appended { events_from: 20_000, commands_from: 0, skipped: 0 });
    let log = session.log(Lane::Events).await;
    assert_eq!(texts(&log), payloads);
    assert_eq!(log[19_999].id, EntryId { ms: now, n: 20_000 });
}

async fn of_racing_creators_one_creates(backend: Backend) {
    let session = backend.session().await;
    let create = |k: usize| {
        let session = session.clone();
        tokio::spawn(async move {
            let parts = vec![events(&[&k.to_string()])];
            session.commit(Commit { version: fresh(), parts, ..Commit::default() }).await
        })
    };
    let racers: Vec<_> = (0..20).map(create).collect();
    let mut created = 0;
    for racer in racers {
        created += usize::from(matches!(racer.await.unwrap(), Outcome::Committed { .. }));
    }
    assert_eq!(created, 1);
    assert_eq!(session.log(Lane::Events).await.len(), 1);
}

async fn of_racing_changes_on_one_version_one_happens(backend: Backend) {
    let session = backend.session().await.begun().await;
    for round in 1..=10 {
        let expect = session.version().await;
        let change = |k: usize| {
            let (session, expect) = (session.clone(), expect.clone());
            tokio::spawn(async move {
                let changes = vec![record("winner", &k.to_string())];
                let parts = vec![events(&[&k.to_string()])];
                session.commit(Commit { expect, version: fresh(), changes, parts, ..Commit::default() }).await
            })
        };
        let racers: Vec<_> = (0..10).map(change).collect();
        let mut winners = Vec::new();
        for (k, racer) in racers.into_iter().enumerate() {
            if let Outcome::Committed { .. } = racer.await.unwrap() {
                winners.push(k.to_string());
            }
        }
        let log = session.payloads(Lane::Events).await;
        assert_eq!((winners.len(), log.len()), (1, round));
        assert_eq!(log.last(), winners.first());
        let records = session.state().await.records;
        assert!(records.contains(&("winner".into(), Bytes::from(winners[0].clone()))));
    }
}

async fn concurrent_appends_are_each_stored_once_and_numbered_without_holes(backend: Backend) {
    const COMMITTERS: usize = 50;
    const EACH: usize = 20;
    let session = backend.session().await;
    let (watcher, _subscription) = session.watch().await;
    let committer = |c: usize| {
        let session = session.clone();
        tokio::spawn(async move {
            let mut ids = Vec::new();
            for k in 0..EACH {
                ids.extend(session.append_events(&[&format!("{c}-{k}")]).await);
            }
            ids
        })
    };
    let committers: Vec<_> = (0..COMMITTERS).map(committer).collect();
    let mut answered = Vec::new();
    for (c, committer) in committers.into_iter().enumerate() {
        answered.extend((0..).zip(committer.await.unwrap()).map(|(k, id)| (id, format!("{c}-{k}"))));
    }
    let log = session.log(Lane::Events).await;
    assert!(log.iter().map(|e| e.id.n).eq(1..=(COMMITTERS * EACH) as u64));
    assert!(log.is_sorted_by_key(|e| e.id.ms));
    assert_eq!(texts(&log).into_iter().collect::<BTreeSet<_>>().len(), COMMITTERS * EACH);
    // What each committer was told is where its entry stands.
    for (id, payload) in answered {
        let entry = &log[id.n as usize - 1];
        assert_eq!((entry.id, &entry.payload[..]), (id, payload.as_bytes()));
    }
    watcher.pushes(log.len()).await;
    assert_eq!(watcher.entries(Lane::Events), log);
}

#[tokio::test]
async fn memory_ids_do_not_go_back_with_the_clock() {
    let time = Arc::new(AtomicU64::new(5_000));
    let clock = time.clone();
    let clock = Arc::new(move || clock.load(Ordering::Relaxed));
    let session = Session::new(Arc::new(MemoryStore::with_clock(Retention::default(), clock)));
    session.append_events(&["a"]).await;
    time.store(3_000, Ordering::Relaxed);
    assert_eq!(session.append_events(&["b"]).await, [EntryId { ms: 5_000, n: 2 }]);
    assert_eq!(session.stat().await.unwrap().snapshot.now, 5_000);
    time.store(6_000, Ordering::Relaxed);
    assert_eq!(session.append_events(&["c"]).await, [EntryId { ms: 6_000, n: 3 }]);
    assert_eq!(session.payloads(Lane::Events).await, ["a", "b", "c"]);
}

#[tokio::test]
async fn redis_ids_do_not_go_back_with_the_clock() {
    let server = RedisServer::shared();
    let prefix = unique("test") + ":";
    let store: Arc<dyn Store> = Arc::new(connect(server, |config| config.prefix = prefix.clone()).await);
    // As if the last event, the last command, or the beginning had been an hour ahead of the clock.
    for field in ["e", "c", "at"] {
        let session = Session::new(store.clone()).begun().await;
        let ahead = session.stat().await.unwrap().snapshot.now + 3_600_000;
        let key = |last: &str| format!("{prefix}{{{}}}:{last}", session.name);
        let value = match field {
            "at" => ahead.to_string(),
            _ => format!("{ahead}-1"),
        };
        server.cli(&["HSET", &key("meta"), field, &value]);
        match field {
            "e" => drop(server.cli(&["XADD", &key("events"), &value, "p", "a"])),
            "c" => drop(server.cli(&["XADD", &key("commands"), &value, "p", "a"])),
            _ => {}
        }
        assert_eq!(session.stat().await.unwrap().snapshot.now, ahead, "{field}");
        assert_eq!(conflict(session.commit(Commit::default()).await).now, ahead, "{field}");
        let parts = vec![events(&["b"]), commands(&["b"])];
        assert_eq!(session.append(parts).await.0, ahead, "{field}");
        for lane in Lane::ALL {
            let log = session.log(lane).await;
            assert_eq!(log.last().map(|e| e.id), Some(EntryId { ms: ahead, n: log.len() as u64 }));
        }
    }
}

#[tokio::test]
async fn redis_what_creates_nothing_leaves_no_key() {
    let server = RedisServer::shared();
    let prefix = unique("test") + ":";
    let session = Session::new(Arc::new(connect(server, |config| config.prefix = prefix.clone()).await));
    let producer = Some(Producer { id: name("p"), epoch: 0, seq: 7 });
    session.append(vec![]).await;
    session.append(vec![Part { producer, ..events(&["gap"]) }]).await;
    conflict(session.commit(Commit { expect: fresh(), ..everything() }).await);
    session.read(ReadFrom::After(EntryId { ms: 1, n: 1 }), 1).await;
    assert_eq!(server.cli(&["KEYS", &format!("{prefix}*")]), "");
    session.append(vec![events(&["a"]), commands(&["b"])]).await;
    assert_eq!(server.cli(&["KEYS", &format!("{prefix}*")]).lines().count(), 3);
    session.delete().await;
    assert_eq!(server.cli(&["KEYS", &format!("{prefix}*")]), "");
}
