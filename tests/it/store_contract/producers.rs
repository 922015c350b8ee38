//! Idempotent producers: each event is stored once, however often it is sent.

use moorline::{
    id::{EntryId, Lane},
    store::{Part, Parted, Producer, ProducerState},
};

use super::*;

promises![
    a_producer_counts_its_events,
    what_was_stored_before_is_not_stored_again,
    the_last_request_sent_again_gets_its_ids,
    an_overlap_is_skipped,
    a_hole_is_refused,
    a_new_life_fences_off_the_old,
    a_new_life_begins_at_zero,
    an_unknown_producer_begins_at_zero,
    parts_of_one_producer_in_one_commit_follow_each_other,
    a_refused_part_does_not_hinder_the_others,
    numbered_events_renew_the_lease_of_their_run,
    refused_events_renew_no_lease,
    producers_are_apart,
    a_session_holds_so_many_producers,
    resends_racing_on_several_connections_are_stored_once,
];

fn part(producer: &str, epoch: u64, seq: u64, payloads: &[&str]) -> Part {
    Part { producer: Some(Producer { id: name(producer), epoch, seq }), ..events(payloads) }
}

fn appended(events_from: u64, skipped: usize) -> Parted {
    Parted::Appended { events_from, commands_from: 0, skipped }
}

impl Session {
    async fn send(&self, part: Part) -> Parted {
        self.append(vec![part]).await.1.remove(0)
    }

    async fn stands(&self, producer: &str) -> Option<(u64, u64)> {
        let state = self.store.producer(&self.name, &name(producer)).await.unwrap();
        state.map(|ProducerState { epoch, next_seq }| (epoch, next_seq))
    }
}

async fn a_producer_counts_its_events(backend: Backend) {
    let session = backend.session().await;
    assert_eq!(session.stands("p").await, None);
    assert_eq!(session.send(part("p", 0, 0, &["a", "b"])).await, appended(1, 0));
    assert_eq!(session.stands("p").await, Some((0, 2)));
    assert_eq!(session.stands("q").await, None);
    session.append_events(&["not counted"]).await;
    assert_eq!(session.send(part("p", 0, 2, &["c"])).await, appended(4, 0));
    assert_eq!(session.stands("p").await, Some((0, 3)));
}

async fn what_was_stored_before_is_not_stored_again(backend: Backend) {
    let session = backend.session().await;
    session.send(part("p", 0, 0, &["a", "b"])).await;
    session.send(part("p", 0, 2, &["c"])).await;
    // Older than the last request: its ids are no longer known.
    for (seq, again) in [(0, &["a", "b"][..]), (0, &["a"]), (1, &["b"]), (1, &["b", "c"])] {
        assert_eq!(session.send(part("p", 0, seq, again)).await, Parted::Duplicate(None), "{seq} {again:?}");
    }
    assert_eq!(session.payloads(Lane::Events).await, ["a", "b", "c"]);
    assert_eq!(session.stands("p").await, Some((0, 3)));
}

async fn the_last_request_sent_again_gets_its_ids(backend: Backend) {
    let session = backend.session().await;
    session.send(part("p", 0, 0, &["a"])).await;
    let (ms, _) = session.append(vec![part("p", 0, 1, &["b", "c", "d"])]).await;
    session.append_events(&["another's"]).await;
    let ids = |from: u64, count: usize| (from..).take(count).map(|n| EntryId { ms, n }).collect::<Vec<_>>();
    for _ in 0..2 {
        let again = session.send(part("p", 0, 1, &["b", "c", "d"])).await;
        assert_eq!(again, Parted::Duplicate(Some(ids(2, 3))));
    }
    assert_eq!(session.send(part("p", 0, 2, &["c"])).await, Parted::Duplicate(Some(ids(3, 1))));
    assert_eq!(session.payloads(Lane::Events).await, ["a", "b", "c", "d", "another's"]);
}

async fn an_overlap_is_skipped(backend: Backend) {
    let session = backend.session().await;
    session.send(part("p", 0, 0, &["a", "b", "c"])).await;
    assert_eq!(session.send(part("p", 0, 1, &["b", "c", "d", "e"])).await, appended(4, 2));
    assert_eq!(session.payloads(Lane::Events).await, ["a", "b", "c", "d", "e"]);
    assert_eq!(session.stands("p").await, Some((0, 5)));
    let log = session.log(Lane::Events).await;
    let ids = log[3..].iter().map(|e| e.id).collect();
    assert_eq!(session.send(part("p", 0, 3, &["d", "e"])).await, Parted::Duplicate(Some(ids)));
}

async fn a_hole_is_refused(backend: Backend) {
    let session = backend.session().await;
    session.send(part("p", 0, 0, &["a"])).await;
    assert_eq!(session.send(part("p", 0, 2, &["c"])).await, Parted::ProducerGap { expected: 1 });
    assert_eq!(session.stands("p").await, Some((0, 1)));
    assert_eq!(session.payloads(Lane::Events).await, ["a"]);
}

async fn a_new_life_fences_off_the_old(backend: Backend) {
    let session = backend.session().await;
    session.send(part("p", 4, 0, &["a"])).await;
    assert_eq!(session.send(part("p", 7, 0, &["b"])).await, appended(2, 0));
    assert_eq!(session.stands("p").await, Some((7, 1)));
    for seq in [0, 1, 9] {
        assert_eq!(session.send(part("p", 4, seq, &["late"])).await, Parted::StaleEpoch { current: 7 });
    }
    assert_eq!(session.payloads(Lane::Events).await, ["a", "b"]);
    assert_eq!(session.send(part("p", 7, 1, &["c"])).await, appended(3, 0));
}

async fn a_new_life_begins_at_zero(backend: Backend) {
    let session = backend.session().await;
    session.send(part("p", 0, 0, &["a"])).await;
    assert_eq!(session.send(part("p", 1, 1, &["b"])).await, Parted::EpochNotAtZero);
    assert_eq!(session.stands("p").await, Some((0, 1)));
    assert_eq!(session.send(part("p", 0, 1, &["b"])).await, appended(2, 0));
}

async fn an_unknown_producer_begins_at_zero(backend: Backend) {
    let session = backend.session().await.begun().await;
    assert_eq!(session.send(part("p", 5, 3, &["a"])).await, Parted::ProducerGap { expected: 0 });
    assert_eq!(session.stands("p").await, None);
    assert_eq!(session.send(part("p", 5, 0, &["a"])).await, appended(1, 0));
    assert_eq!(session.stands("p").await, Some((5, 1)));
}

async fn parts_of_one_producer_in_one_commit_follow_each_other(backend: Backend) {
    let session = backend.session().await;
    let parts = vec![
        part("p", 0, 0, &["a", "b"]),
        part("p", 0, 0, &["a", "b"]),
        part("p", 0, 1, &["b", "c"]),
        part("p", 0, 4, &["e"]),
        part("p", 1, 0, &["A"]),
        part("p", 0, 3, &["d"]),
    ];
    let (ms, parted) = session.append(parts).await;
    let ids = [1, 2].map(|n| EntryId { ms, n }).to_vec();
    assert_eq!(
        parted,
        [
            appended(1, 0),
            Parted::Duplicate(Some(ids)),
            appended(3, 1),
            Parted::ProducerGap { expected: 3 },
            appended(4, 0),
            Parted::StaleEpoch { current: 1 },
        ]
    );
    assert_eq!(session.payloads(Lane::Events).await, ["a", "b", "c", "A"]);
    assert_eq!(session.stands("p").await, Some((1, 1)));
}

async fn a_refused_part_does_not_hinder_the_others(backend: Backend) {
    let session = backend.session().await;
    let refused = Part { commands: bytes(&["not this"]), ..part("p", 0, 1, &["not this"]) };
    let taken = Part { commands: bytes(&["c"]), ..part("q", 0, 0, &["b"]) };
    let (_, parted) = session.append(vec![events(&["a"]), refused, taken]).await;
    let both = Parted::Appended { events_from: 2, commands_from: 1, skipped: 0 };
    assert_eq!(parted, [appended(1, 0), Parted::ProducerGap { expected: 0 }, both]);
    assert_eq!(session.payloads(Lane::Events).await, ["a", "b"]);
    assert_eq!(session.payloads(Lane::Commands).await, ["c"]);
}

async fn numbered_events_renew_the_lease_of_their_run(backend: Backend) {
    let session = backend.session().await;
    session.send(part("p", 0, 0, &["a"])).await;
    let renewing = |part: Part| vec![Part { touch: vec![name("r")], ..part }];
    let (now, parts) = session.append(renewing(part("p", 0, 1, &["b", "c"]))).await;
    assert_eq!(parts, [appended(2, 0)]);
    assert_eq!(session.state().await.touched, [(name("r"), now)]);
    assert_eq!(session.stands("p").await, Some((0, 3)));
    // What is repeated renews it, too: its sender lives, and is told that all is well.
    session.a_millisecond_later().await;
    let (now, parts) = session.append(renewing(part("p", 0, 1, &["b", "c"]))).await;
    assert!(matches!(parts[..], [Parted::Duplicate(_)]), "{parts:?}");
    assert_eq!(session.state().await.touched, [(name("r"), now)]);
}

async fn refused_events_renew_no_lease(backend: Backend) {
    let session = backend.session().await;
    let renewing = |run: &str, part: Part| Part { touch: vec![name(run)], ..part };
    let (before, _) = session.append(vec![renewing("r", part("p", 1, 0, &["a"]))]).await;
    session.a_millisecond_later().await;
    for refused in [part("p", 0, 1, &["old"]), part("p", 1, 5, &["gap"]), part("p", 2, 1, &["not at zero"])] {
        let (_, parts) = session.append(vec![renewing("r", refused.clone())]).await;
        assert!(!parts[0].is_stored(), "{parts:?}");
        // Beside others, only it stands back.
        let others = vec![renewing("r", refused), renewing("q", events(&["b"]))];
        let (now, _) = session.append(others).await;
        assert_eq!(session.state().await.touched, [(name("q"), now), (name("r"), before)]);
    }
    // Of nothing but refusals no session comes to be.
    let other = Session::new(session.store.clone());
    other.append(vec![renewing("r", part("p", 0, 3, &["gap"]))]).await;
    assert!(other.stat().await.is_none());
}

async fn producers_are_apart(backend: Backend) {
    let session = backend.session().await;
    let other = Session::new(session.store.clone());
    session.send(part("p", 3, 0, &["a", "b"])).await;
    assert_eq!(session.send(part("p:q", 0, 0, &["c"])).await, appended(3, 0));
    assert_eq!(other.send(part("p", 0, 0, &["d"])).await, appended(1, 0));
    assert_eq!(session.stands("p").await, Some((3, 2)));
    assert_eq!(session.stands("p:q").await, Some((0, 1)));
    assert_eq!(other.stands("p").await, Some((0, 1)));
}

async fn a_session_holds_so_many_producers(backend: Backend) {
    let session = backend.session().await;
    let max = moorline::store::PRODUCERS_MAX;
    session.append((1..max).map(|k| part(&format!("p{k}"), 0, 0, &["a"])).collect()).await;
    // A refused one takes no place; the last place is taken by one that counts on in the same commit.
    let parts = vec![
        part("x", 0, 1, &["gap"]),
        part("last", 0, 0, &["a"]),
        part("last", 0, 1, &["b"]),
        part("one-too-many", 0, 0, &["c"]),
    ];
    let (_, parted) = session.append(parts).await;
    assert_eq!(
        parted,
        [Parted::ProducerGap { expected: 0 }, appended(max, 0), appended(max + 1, 0), Parted::TooManyProducers]
    );
    assert_eq!(session.send(part("another", 0, 0, &["c"])).await, Parted::TooManyProducers);
    assert_eq!(session.send(part("p1", 0, 1, &["known"])).await, appended(max + 2, 0));
    assert_eq!(session.send(part("p2", 1, 0, &["known"])).await, appended(max + 3, 0));
}

async fn resends_racing_on_several_connections_are_stored_once(backend: Backend) {
    let session = backend.session().await;
    let sender = |_| {
        let session = session.clone();
        tokio::spawn(async move {
            for seq in 0..50 {
                // Each sends two events and steps on by one: overlaps, duplicates and races, but no gap.
                let payloads = [seq.to_string(), (seq + 1).to_string()];
                let parted = session.send(part("p", 0, seq, &[&payloads[0], &payloads[1]])).await;
                assert!(matches!(parted, Parted::Appended { .. } | Parted::Duplicate(_)), "{parted:?}");
            }
        })
    };
    let senders: Vec<_> = (0..8).map(sender).collect();
    for sender in senders {
        sender.await.unwrap();
    }
    let expected: Vec<String> = (0..=50).map(|seq| seq.to_string()).collect();
    assert_eq!(session.payloads(Lane::Events).await, expected);
}
