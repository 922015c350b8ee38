//! How sessions end: closed, deleted, outlived; and how they begin again.

use std::time::{Duration, Instant};

use moorline::{
    id::{EntryId, Lane},
    store::{Commit, Lost, Part, Producer, ReadFrom, Retention},
};

use super::*;

promises![
    a_closed_session_says_so_everywhere,
    deletion_erases_everything_once,
    a_session_made_again_starts_at_one_and_later_than_the_old,
    a_version_of_a_deleted_session_is_good_for_nothing_in_the_next,
    a_session_is_gone_whole_after_its_ttl,
    writing_renews_the_ttl,
    events_alone_renew_the_ttl,
];

async fn a_closed_session_says_so_everywhere(backend: Backend) {
    let session = backend.session().await;
    session.append_events(&["a"]).await;
    assert!(!session.read(ReadFrom::Start, 9).await.closed);
    assert_eq!(session.state().await.closed, None);
    let commit = Commit { closes: true, ..session.plan(vec![events(&["b"])]).await };
    let (now, _) = committed(session.commit(commit).await);
    for lane in Lane::ALL {
        assert!(session.read_lane(lane, ReadFrom::Start, 9).await.closed);
    }
    assert_eq!(session.state().await.closed, Some(now));
    assert_eq!(session.payloads(Lane::Events).await, ["a", "b"]);
}

async fn deletion_erases_everything_once(backend: Backend) {
    let session = backend.session().await.begun().await;
    let producer = Some(Producer { id: name("p"), epoch: 3, seq: 0 });
    session.append(vec![Part { producer, events: bytes(&["a"]), commands: bytes(&["b"]), ..Part::default() }]).await;
    assert!(session.delete().await);
    assert!(!session.delete().await);
    assert_eq!(session.all().await, (None, vec![], vec![]));
    assert_eq!(session.store.producer(&session.name, &name("p")).await.unwrap(), None);
    let page = session.read(ReadFrom::Start, 9).await;
    assert!(!page.exists && !page.closed && page.lost.is_none());
    assert!(page.up_to_date(ReadFrom::Start));
}

async fn a_session_made_again_starts_at_one_and_later_than_the_old(backend: Backend) {
    let session = backend.session().await;
    // Many times, since a deletion and a new beginning may fall into one millisecond.
    let mut old = EntryId::ZERO;
    for _ in 0..50 {
        let ids = session.append_events(&["a", "b"]).await;
        assert_eq!(ids.iter().map(|id| id.n).collect::<Vec<_>>(), [1, 2]);
        assert!(ids[0].ms > old.ms, "{} is not after {old}: a cursor of the old log would be good in the new", ids[0]);
        old = ids[1];
        assert!(session.delete().await);
    }
}

async fn a_version_of_a_deleted_session_is_good_for_nothing_in_the_next(backend: Backend) {
    let session = backend.session().await.begun().await;
    let stale = session.plan(vec![events(&["late"])]).await;
    session.delete().await;
    assert_eq!(conflict(session.commit(stale.clone()).await).state, None);
    let session = session.begun().await;
    assert!(conflict(session.commit(stale).await).state.is_some());
    assert_eq!(session.log(Lane::Events).await, []);
}

fn retention(ttl: Duration) -> Retention {
    Retention { ttl, ..Retention::default() }
}

async fn a_session_is_gone_whole_after_its_ttl(backend: Backend) {
    let ttl = Duration::from_millis(400);
    let session = backend.session_with(retention(ttl)).await.begun().await;
    let producer = Some(Producer { id: name("p"), epoch: 0, seq: 0 });
    let part = Part { producer, events: bytes(&["a"]), commands: bytes(&["b"]), ..Part::default() };
    let written = Instant::now();
    let (ms, _) = session.append(vec![part]).await;
    eventually("the session is gone", || async { session.stat().await.is_none().then_some(()) }).await;
    // It is renewed at most every tenth of the ttl, so it may go so much earlier.
    assert!(written.elapsed() >= ttl * 9 / 10);
    assert_eq!(session.all().await, (None, vec![], vec![]));
    assert_eq!(session.store.producer(&session.name, &name("p")).await.unwrap(), None);
    assert_eq!(session.read(ReadFrom::After(EntryId { ms, n: 1 }), 9).await.lost, Some(Lost::Deleted));
    assert!(!session.delete().await);
    assert_eq!(session.append_events(&["again"]).await[0].n, 1);
    assert_eq!(session.payloads(Lane::Events).await, ["again"]);
}

async fn writing_renews_the_ttl(backend: Backend) {
    // The commands lane comes to be later than the meta and must end no earlier, and no later.
    lives_while_written_to(backend, &[Lane::Commands, Lane::Events]).await;
}

async fn events_alone_renew_the_ttl(backend: Backend) {
    lives_while_written_to(backend, &[Lane::Events]).await;
}

async fn lives_while_written_to(backend: Backend, lanes: &[Lane]) {
    let ttl = Duration::from_millis(1500);
    let session = backend.session_with(retention(ttl)).await;
    session.append_events(&["a"]).await;
    let mut written = 1;
    let mut lane = lanes.iter().cycle();
    let began = Instant::now();
    while began.elapsed() < ttl * 2 {
        let pause = Instant::now();
        // Reads renew nothing, so the writes alone must be what keeps the session.
        while pause.elapsed() < ttl / 6 {
            assert!(session.stat().await.is_some());
            tokio::time::sleep(ttl / 60).await;
        }
        let mut part = Part::default();
        match lane.next().unwrap() {
            Lane::Events => part.events = bytes(&["e"]),
            Lane::Commands => part.commands = bytes(&["c"]),
        }
        session.append(vec![part]).await;
        written += 1;
    }
    let count = session.log(Lane::Events).await.len() + session.log(Lane::Commands).await.len();
    assert_eq!(count, written);
    eventually("the session is gone", || async { session.stat().await.is_none().then_some(()) }).await;
    assert_eq!(session.all().await, (None, vec![], vec![]));
}

#[tokio::test]
async fn redis_every_key_of_a_session_expires_with_the_others() {
    let server = RedisServer::shared();
    let prefix = unique("test") + ":";
    let store = connect(server, |config| config.prefix = prefix.clone()).await;
    let session = Session::new(Arc::new(store));
    let expiries = |lasts: &[&str]| {
        let expiry = |last: &&str| server.cli(&["PEXPIRETIME", &format!("{prefix}{{{}}}:{last}", session.name)]);
        lasts.iter().map(expiry).collect::<std::collections::BTreeSet<_>>()
    };
    // One time for all, and a time at all ("-1" would be none), as the lanes come to be one after the other.
    let one = |expiries: std::collections::BTreeSet<String>| expiries.len() == 1 && !expiries.contains("-1");
    session.clone().begun().await;
    assert!(one(expiries(&["meta"])));
    session.append(vec![commands(&["a"])]).await;
    assert!(one(expiries(&["meta", "commands"])));
    session.append(vec![events(&["a"])]).await;
    session.append(vec![events(&["a"])]).await;
    assert!(one(expiries(&["meta", "commands", "events"])));

    // A lane that Redis evicted (or somebody deleted) comes back with the time of the others.
    for (lane, part) in [("events", events(&["b"])), ("events", events(&["c", "d"])), ("commands", commands(&["b"]))] {
        server.cli(&["DEL", &format!("{prefix}{{{}}}:{lane}", session.name)]);
        session.append(vec![part]).await;
        assert!(one(expiries(&["meta", "commands", "events"])), "{lane}");
    }
    assert_eq!(session.payloads(Lane::Events).await, ["c", "d"]);
}
