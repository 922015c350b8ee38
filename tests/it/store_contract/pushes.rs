//! Contract 4: what is committed is pushed to those who watch.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
    mpsc,
};

use moorline::{
    id::{EntryId, Lane},
    store::{Commit, Part, Producer, Push, Subscription, Tail},
};
use tokio::runtime::Handle;

use super::*;
use crate::support::PATIENCE;

promises![
    what_is_committed_after_the_subscription_is_pushed,
    a_commit_is_pushed_whole_and_in_order,
    only_changes_of_the_control_state_push_control,
    what_does_not_happen_is_not_pushed,
    a_deletion_is_pushed_once_and_the_subscription_outlives_it,
    nothing_is_pushed_after_the_subscription_is_dropped,
    a_session_can_be_watched_again_and_again,
    a_new_subscription_outlives_the_end_of_the_one_before,
    a_tail_can_be_subscribed_anew_before_its_old_subscription_ends,
    subscriptions_are_apart,
    a_subscription_may_end_while_it_is_pushed_to,
];

fn pushed(lane: Lane, ms: u64, n: u64, payloads: &[&str]) -> Push {
    Push::Entries { lane, first: EntryId { ms, n }, payloads: bytes(payloads) }
}

async fn what_is_committed_after_the_subscription_is_pushed(backend: Backend) {
    let store = backend.store(Retention::default()).await;
    for _ in 0..50 {
        // Of a session that is not there yet, and at once after the confirmation.
        let session = Session::new(store.clone());
        let (watcher, _subscription) = session.watch().await;
        let id = session.append_events(&["a", "b"]).await[0];
        assert_eq!(watcher.pushes(1).await, [pushed(Lane::Events, id.ms, 1, &["a", "b"])]);
        let (ms, _) = session.append(vec![commands(&["c"])]).await;
        assert_eq!(watcher.pushes(2).await[1], pushed(Lane::Commands, ms, 1, &["c"]));
    }
}

async fn a_commit_is_pushed_whole_and_in_order(backend: Backend) {
    let session = backend.session().await.begun().await;
    session.append(vec![events(&["old"])]).await;
    let (watcher, _subscription) = session.watch().await;
    let both = Part { events: bytes(&["a", "", "ä\\n"]), commands: bytes(&["x"]), ..Part::default() };
    let parts = vec![both, commands(&["y"]), events(&["d"])];
    let commit = Commit { changes: vec![record("k", "v")], closes: true, ..session.plan(parts).await };
    let (ms, _) = committed(session.commit(commit).await);
    let expected = [
        pushed(Lane::Events, ms, 2, &["a", "", "ä\\n", "d"]),
        pushed(Lane::Commands, ms, 1, &["x", "y"]),
        Push::Control,
        Push::Closed,
    ];
    assert_eq!(watcher.pushes(4).await, expected);
}

async fn only_changes_of_the_control_state_push_control(backend: Backend) {
    let session = backend.session().await.begun().await;
    let (watcher, _subscription) = session.watch().await;
    committed(session.commit(session.plan(vec![touches(&["r"])]).await).await);
    let (ms, _) = session.append(vec![events(&["a"])]).await;
    let changes = vec![("begun".into(), None)];
    committed(session.commit(Commit { changes, ..session.plan(vec![]).await }).await);
    assert_eq!(watcher.pushes(2).await, [pushed(Lane::Events, ms, 1, &["a"]), Push::Control]);
}

async fn what_does_not_happen_is_not_pushed(backend: Backend) {
    let session = backend.session().await.begun().await;
    let (watcher, _subscription) = session.watch().await;
    let refused = Part { producer: Some(Producer { id: name("p"), epoch: 0, seq: 5 }), ..events(&["gap"]) };
    session.append(vec![refused]).await;
    let changes = vec![record("k", "v")];
    conflict(session.commit(Commit { version: fresh(), changes, closes: true, ..Commit::default() }).await);
    committed(session.commit(session.plan(vec![]).await).await);
    let (ms, _) = session.append(vec![events(&["a"])]).await;
    assert_eq!(watcher.pushes(1).await, [pushed(Lane::Events, ms, 1, &["a"])]);
}

async fn a_deletion_is_pushed_once_and_the_subscription_outlives_it(backend: Backend) {
    let session = backend.session().await.begun().await;
    let (watcher, _subscription) = session.watch().await;
    assert!(session.delete().await);
    assert!(!session.delete().await);
    let (ms, _) = session.append(vec![events(&["again"])]).await;
    assert_eq!(watcher.pushes(2).await, [Push::Deleted, pushed(Lane::Events, ms, 1, &["again"])]);
}

async fn nothing_is_pushed_after_the_subscription_is_dropped(backend: Backend) {
    let session = backend.session().await;
    let (watcher, subscription) = session.watch().await;
    session.append_events(&["a"]).await;
    watcher.pushes(1).await;
    drop(subscription);
    session.append_events(&["b"]).await;
    // Whoever watches now gets the next one (and "b", if that is still on its way); by then the dropped one would have
    // got both.
    let (later, _subscription) = session.watch().await;
    let (ms, _) = session.append(vec![events(&["c"])]).await;
    let arrived = || async { later.told().pushes.contains(&pushed(Lane::Events, ms, 3, &["c"])).then_some(()) };
    eventually("the entry is pushed", arrived).await;
    assert_eq!(watcher.told().pushes.len(), 1);
    watcher.let_go().await;
}

async fn a_session_can_be_watched_again_and_again(backend: Backend) {
    let session = backend.session().await;
    for n in 1..=100 {
        // The end of the one before may still be on its way to Redis.
        let (watcher, _subscription) = session.watch().await;
        let (ms, _) = session.append(vec![events(&["a"])]).await;
        assert_eq!(watcher.pushes(1).await.last(), Some(&pushed(Lane::Events, ms, n, &["a"])));
    }
}

async fn a_new_subscription_outlives_the_end_of_the_one_before(backend: Backend) {
    let session = backend.session().await;
    let (_, mut before) = session.watch().await;
    for n in 1..=50 {
        let (watcher, subscription) = session.watch().await;
        drop(std::mem::replace(&mut before, subscription));
        let (ms, _) = session.append(vec![events(&["a"])]).await;
        assert_eq!(watcher.pushes(1).await, [pushed(Lane::Events, ms, n, &["a"])]);
    }
}

async fn a_tail_can_be_subscribed_anew_before_its_old_subscription_ends(backend: Backend) {
    let session = backend.session().await;
    let watcher = Arc::new(Watcher::default());
    let old = session.store.subscribe(&session.name, watcher.clone()).await.unwrap();
    let new = session.store.subscribe(&session.name, watcher.clone()).await.unwrap();
    drop(old);
    let (ms, _) = session.append(vec![events(&["a"])]).await;
    assert_eq!(watcher.pushes(1).await, [pushed(Lane::Events, ms, 1, &["a"])]);
    drop(new);
    watcher.let_go().await;
}

async fn subscriptions_are_apart(backend: Backend) {
    let store = backend.store(Retention::default()).await;
    let sessions = ["a", "b"].map(|text| Session { store: store.clone(), name: name(text) });
    let mut watched = Vec::new();
    for session in &sessions {
        watched.push((session, session.watch().await));
    }
    for _ in 0..10 {
        for session in &sessions {
            session.append_events(&[session.name.as_str()]).await;
        }
    }
    for (session, (watcher, _)) in &watched {
        watcher.pushes(10).await;
        assert_eq!(watcher.entries(Lane::Events), session.log(Lane::Events).await);
    }
    let (_, (_, ended)) = watched.remove(0);
    drop(ended);
    sessions[0].append_events(&["unseen"]).await;
    sessions[1].append_events(&["seen"]).await;
    assert_eq!(watched[0].1.0.pushes(11).await.len(), 11);
}

#[tokio::test]
async fn redis_rings_a_doorbell_for_what_is_too_large_to_push() {
    let store = connect(RedisServer::shared(), |config| config.push_max = 10).await;
    let session = Session::new(Arc::new(store));
    let (watcher, _subscription) = session.watch().await;
    // Just small enough; one byte too many, in one lane or in both; and small again.
    let (first, _) = session.append(vec![events(&["12345", "67890"])]).await;
    let (second, _) = session.append(vec![events(&["12345", "6", "78901"]), commands(&["small"])]).await;
    let both = Part { events: bytes(&["01234567890"]), commands: bytes(&["01234567890"]), ..Part::default() };
    let (third, _) = session.append(vec![both]).await;
    let (fourth, _) = session.append(vec![events(&["small"])]).await;
    // The same for events alone, of one request and of two.
    let (fifth, _) = session.append(vec![events(&["01234567890"])]).await;
    let (sixth, _) = session.append(vec![events(&["12345", "6"]), events(&["78901"])]).await;
    let (seventh, _) = session.append(vec![events(&["12345"]), events(&["67890"])]).await;
    let doorbell = |lane, ms, n| Push::Doorbell { lane, last: EntryId { ms, n } };
    let expected = [
        pushed(Lane::Events, first, 1, &["12345", "67890"]),
        doorbell(Lane::Events, second, 5),
        pushed(Lane::Commands, second, 1, &["small"]),
        doorbell(Lane::Events, third, 6),
        doorbell(Lane::Commands, third, 2),
        pushed(Lane::Events, fourth, 7, &["small"]),
        doorbell(Lane::Events, fifth, 8),
        doorbell(Lane::Events, sixth, 11),
        pushed(Lane::Events, seventh, 12, &["12345", "67890"]),
    ];
    assert_eq!(watcher.pushes(9).await, expected);
}

#[tokio::test]
async fn redis_a_foreign_message_raises_doubt() {
    let server = RedisServer::shared();
    let prefix = unique("test") + ":";
    let store = connect(server, |config| config.prefix = prefix.clone()).await;
    let session = Session::new(Arc::new(store));
    let (watcher, _subscription) = session.watch().await;
    let channel = format!("{prefix}{{{}}}:tail", session.name);
    for message in ["", "hello", "e1-x\n", "E"] {
        let before = watcher.told().doubts;
        server.cli(&["PUBLISH", &channel, message]);
        watcher.doubt_after(before).await;
    }
    assert_eq!(watcher.told().pushes, []);
}

/// A tail that ends its own subscription at the first push, as the last holder of a live session does.
#[derive(Default)]
struct Quitter {
    subscription: Mutex<Option<Subscription>>,
    pushes: AtomicUsize,
}

impl Tail for Quitter {
    fn push(&self, _: Push) {
        drop(self.subscription.lock().unwrap().take());
        self.pushes.fetch_add(1, Ordering::Relaxed);
    }

    fn doubt(&self) {}
}

async fn a_subscription_may_end_while_it_is_pushed_to(backend: Backend) {
    let session = backend.session().await;
    let quitter = Arc::new(Quitter::default());
    let subscription = session.store.subscribe(&session.name, quitter.clone()).await.expect("a subscription");
    *quitter.subscription.lock().unwrap() = Some(subscription);
    // On a thread of its own: a store that locks itself up never comes back to see that it is late.
    let (appended, done) = mpsc::channel();
    let runtime = Handle::current();
    std::thread::spawn(move || {
        runtime.block_on(session.append_events(&["a"]));
        appended.send(session)
    });
    let waited = tokio::task::spawn_blocking(move || done.recv_timeout(PATIENCE)).await.expect("a thread");
    let session = waited.expect("the append comes back");
    let pushed = || async { (quitter.pushes.load(Ordering::Relaxed) == 1).then_some(()) };
    eventually("the quitter is pushed to", pushed).await;
    session.append_events(&["b"]).await;
}
