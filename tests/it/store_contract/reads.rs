//! Contract 5 and 6: a read verifies where it starts, and a lane is bounded.

use std::time::Duration;

use moorline::{
    id::{EntryId, Lane},
    store::{Commit, Entry, Extent, Lost, Page, ReadFrom, Retention},
};

use super::*;

promises![
    a_read_from_the_start_gives_the_first_entries,
    a_read_after_an_entry_gives_what_follows_it,
    a_read_after_zero_is_a_read_from_the_start,
    a_read_of_the_latest_ends_with_the_newest,
    a_read_at_an_entry_begins_with_it_or_the_next,
    a_read_after_a_trimmed_entry_says_so_and_begins_at_the_first,
    a_read_after_an_entry_that_never_was_says_so,
    a_read_after_an_entry_of_a_deleted_session_says_so,
    pages_follow_each_other_without_hole_or_repetition,
    a_read_of_no_session_is_up_to_date,
    a_lane_keeps_its_cap_and_not_many_more,
    a_batch_of_any_size_is_cut_to_the_cap,
    batches_are_numbered_on_across_hundreds_and_thousands,
    lanes_are_read_and_trimmed_apart,
    a_stat_shows_where_lanes_begin_and_end,
    sessions_are_apart,
    a_reader_that_leaves_leaves_nothing_for_the_next,
];

const FIVE: [&str; 5] = ["1", "2", "3", "4", "5"];

async fn five(backend: Backend) -> (Session, Vec<EntryId>) {
    let session = backend.session().await;
    let mut ids = session.append_events(&FIVE[..2]).await;
    for payload in &FIVE[2..] {
        ids.extend(session.append_events(&[payload]).await);
    }
    (session, ids)
}

/// A session whose log has been cut, with the ids of all the entries it ever had.
async fn trimmed(backend: Backend) -> (Session, Vec<EntryId>) {
    let retention = Retention { cap: 10, ..Retention::default() };
    let session = backend.session_with(retention).await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.extend(session.append_events(&["x"; 100]).await);
    }
    (session, ids)
}

fn ns(page: &Page) -> Vec<u64> {
    page.entries.iter().map(|e| e.id.n).collect()
}

async fn a_read_from_the_start_gives_the_first_entries(backend: Backend) {
    let (session, ids) = five(backend).await;
    let page = session.read(ReadFrom::Start, 2).await;
    assert_eq!(texts(&page.entries), ["1", "2"]);
    assert_eq!((page.exists, page.closed, page.lost), (true, false, None));
    assert_eq!(page.extent, Extent { first: Some(ids[0]), last: ids[4] });
    assert!(!page.up_to_date(ReadFrom::Start));
    let page = session.read(ReadFrom::Start, 5).await;
    assert_eq!(texts(&page.entries), FIVE);
    assert!(page.up_to_date(ReadFrom::Start));
}

async fn a_read_after_an_entry_gives_what_follows_it(backend: Backend) {
    let (session, ids) = five(backend).await;
    for (at, id) in ids.iter().enumerate() {
        for limit in 1..=5 {
            let from = ReadFrom::After(*id);
            let page = session.read(from, limit).await;
            let rest = &FIVE[at + 1..];
            assert_eq!(page.lost, None);
            assert_eq!(texts(&page.entries), rest[..limit.min(rest.len())]);
            assert_eq!(page.up_to_date(from), limit >= rest.len());
        }
    }
    let from = ReadFrom::After(ids[4]);
    assert_eq!(session.read(from, 9).await.next(from), ids[4]);
}

async fn a_read_after_zero_is_a_read_from_the_start(backend: Backend) {
    let zero = ReadFrom::After(EntryId::ZERO);
    let (session, _) = five(backend).await;
    let page = session.read(zero, 3).await;
    assert_eq!((page.lost, texts(&page.entries)), (None, vec!["1".into(), "2".into(), "3".into()]));
    assert_eq!(session.read_lane(Lane::Commands, zero, 3).await.lost, None);

    // But not once entry number 1 is gone: then something is missing.
    let (session, _) = trimmed(backend).await;
    let page = session.read(zero, 3).await;
    assert_eq!(page.lost, Some(Lost::Trimmed));
    assert_eq!(page.entries[0].id, page.extent.first.unwrap());
}

async fn a_read_of_the_latest_ends_with_the_newest(backend: Backend) {
    let (session, ids) = five(backend).await;
    for (limit, expected) in [(2, &FIVE[3..]), (5, &FIVE), (9, &FIVE)] {
        let page = session.read(ReadFrom::Latest, limit).await;
        assert_eq!(texts(&page.entries), expected);
        assert_eq!(page.next(ReadFrom::Latest), ids[4]);
        assert!(page.up_to_date(ReadFrom::Latest));
    }
    let (session, ids) = trimmed(backend).await;
    let page = session.read(ReadFrom::Latest, 3).await;
    assert_eq!((page.lost, ns(&page)), (None, vec![298, 299, 300]));
    assert_eq!(page.next(ReadFrom::Latest), ids[299]);
}

async fn a_read_at_an_entry_begins_with_it_or_the_next(backend: Backend) {
    let (session, ids) = five(backend).await;
    for (at, expected) in [(EntryId::ZERO, &FIVE[..2]), (ids[2], &FIVE[2..4]), (ids[4], &FIVE[4..])] {
        assert_eq!(texts(&session.read(ReadFrom::At(at), 2).await.entries), expected);
    }
    let page = session.read(ReadFrom::At(EntryId { n: 6, ..ids[4] }), 2).await;
    assert_eq!((page.lost, texts(&page.entries).len(), page.next(ReadFrom::Start)), (None, 0, ids[4]));
    let (session, ids) = trimmed(backend).await;
    let page = session.read(ReadFrom::At(ids[0]), 1).await;
    assert_eq!((page.lost, page.entries.first().map(|e| e.id)), (None, page.extent.first));
}

async fn a_read_after_a_trimmed_entry_says_so_and_begins_at_the_first(backend: Backend) {
    let (session, ids) = trimmed(backend).await;
    let first = session.read(ReadFrom::Start, 1).await.extent.first.unwrap();
    for id in ids {
        let page = session.read(ReadFrom::After(id), 5).await;
        // Even the one just before the first: that it *was* the one before cannot be proven any more.
        if id.n < first.n {
            assert_eq!(page.lost, Some(Lost::Trimmed), "{id}");
            assert_eq!(page.entries.first().map(|e| e.id), Some(first));
        } else {
            assert_eq!(page.lost, None, "{id}");
            assert!(page.entries.first().is_none_or(|e| e.id.n == id.n + 1));
        }
    }
}

async fn a_read_after_an_entry_that_never_was_says_so(backend: Backend) {
    let (session, ids) = five(backend).await;
    let EntryId { ms, n } = ids[4];
    for cursor in [
        EntryId { ms, n: n + 1 },
        EntryId { ms: ms + 3_600_000, n: n + 1 },
        EntryId { ms: ms + 1, n },
        EntryId { ms: ms + 1, n: 3 },
        EntryId { ms: ids[0].ms, n: 0 },
        EntryId { ms: ms + 5, n: 0 },
        EntryId { ms: u64::MAX, n: u64::MAX },
    ] {
        let page = session.read(ReadFrom::After(cursor), 2).await;
        assert_eq!(page.lost, Some(Lost::Unknown), "{cursor}");
        assert_eq!(texts(&page.entries), ["1", "2"]);
    }
    // An empty lane of a session that exists.
    let page = session.read_lane(Lane::Commands, ReadFrom::After(ids[0]), 2).await;
    assert_eq!((page.lost, page.entries), (Some(Lost::Unknown), vec![]));
    // A time after all that was cut off.
    let (session, ids) = trimmed(backend).await;
    let page = session.read(ReadFrom::After(EntryId { ms: ids[299].ms + 9, n: 5 }), 2).await;
    assert_eq!(page.lost, Some(Lost::Unknown));
}

async fn a_read_after_an_entry_of_a_deleted_session_says_so(backend: Backend) {
    let (session, ids) = five(backend).await;
    session.delete().await;
    for id in &ids {
        let page = session.read(ReadFrom::After(*id), 9).await;
        assert_eq!((page.exists, page.lost, page.entries), (false, Some(Lost::Deleted), vec![]));
    }
    session.append_events(&FIVE).await;
    session.append(vec![commands(&["x"])]).await;
    for id in ids {
        for lane in Lane::ALL {
            let page = session.read_lane(lane, ReadFrom::After(id), 9).await;
            assert_eq!((page.exists, page.lost), (true, Some(Lost::Deleted)), "{id}");
            assert_eq!(page.entries, session.log(lane).await);
        }
    }
}

async fn pages_follow_each_other_without_hole_or_repetition(backend: Backend) {
    let session = backend.session().await;
    let payloads: Vec<String> = (0..57).map(|k| k.to_string()).collect();
    for chunk in payloads.chunks(4) {
        session.append_events(&chunk.iter().map(String::as_str).collect::<Vec<_>>()).await;
    }
    for limit in [1, 7, 57, 58] {
        let (mut from, mut read) = (ReadFrom::Start, Vec::<Entry>::new());
        loop {
            let page = session.read(from, limit).await;
            assert!(page.entries.len() <= limit);
            assert_eq!(page.lost, None);
            assert_eq!(page.next(from), page.entries.last().unwrap().id);
            read.extend(page.entries.iter().cloned());
            assert_eq!(page.up_to_date(from), read.len() == 57);
            if page.up_to_date(from) {
                break;
            }
            from = ReadFrom::After(page.next(from));
        }
        assert_eq!(texts(&read), payloads);
    }
}

async fn a_read_of_no_session_is_up_to_date(backend: Backend) {
    let session = backend.session().await;
    for from in [ReadFrom::Start, ReadFrom::Latest, ReadFrom::After(EntryId::ZERO)] {
        let page = session.read(from, 9).await;
        let nothing = Page { exists: false, closed: false, extent: Extent::default(), lost: None, entries: Vec::new() };
        assert_eq!(page, nothing);
        assert!(page.up_to_date(from));
        assert_eq!(page.next(from), EntryId::ZERO);
    }
    assert!(session.stat().await.is_none());
}

async fn a_lane_keeps_its_cap_and_not_many_more(backend: Backend) {
    /// Redis cuts whole nodes of its tree (`stream-node-max-entries`, 100 by default).
    const NODE: usize = 100;
    let cap = 50;
    let retention = Retention { cap: cap as u64, ..Retention::default() };
    let session = backend.session_with(retention).await;
    for round in 1..=40 {
        session.append_events(&["x"; 17]).await;
        let log = session.log(Lane::Events).await;
        let written = round * 17;
        assert!(log.len() >= cap.min(written) && log.len() <= cap + NODE, "{} of {written}", log.len());
        assert!(log.iter().rev().map(|e| e.id.n as usize).eq((1..=written).rev().take(log.len())));
    }
}

async fn a_batch_of_any_size_is_cut_to_the_cap(backend: Backend) {
    let session = backend.session_with(Retention { cap: 10, ..Retention::default() }).await;
    session.append_events(&["first"]).await;
    // More than Redis cuts at one time, which is a hundred nodes.
    let ids = session.append_events(&["x"; 25_000]).await;
    let log = session.log(Lane::Events).await;
    assert!((10..=110).contains(&log.len()), "{} are left", log.len());
    assert_eq!(log.last().map(|e| e.id), ids.last().copied());
}

async fn batches_are_numbered_on_across_hundreds_and_thousands(backend: Backend) {
    let session = backend.session().await.begun().await;
    let (mut ids, mut payloads) = (Vec::new(), Vec::new());
    for size in [1, 8, 2, 88, 2, 99, 1, 100, 3, 695, 1, 2, 250] {
        let batch: Vec<String> = (payloads.len()..).take(size).map(|n| format!("payload {n}")).collect();
        let texts: Vec<&str> = batch.iter().map(String::as_str).collect();
        ids.extend(session.append_events(&texts).await);
        payloads.extend(batch);
    }
    let log = session.log(Lane::Events).await;
    assert!(ids.iter().map(|id| id.n).eq((1..).take(payloads.len())));
    assert_eq!(log.iter().map(|e| e.id).collect::<Vec<_>>(), ids);
    assert_eq!(texts(&log), payloads);
}

async fn lanes_are_read_and_trimmed_apart(backend: Backend) {
    let (session, _) = trimmed(backend).await;
    session.append(vec![commands(&["c1"])]).await;
    session.append_events(&["x"; 100]).await;
    session.append(vec![commands(&["c2"])]).await;
    let commands = session.log(Lane::Commands).await;
    assert_eq!(texts(&commands), ["c1", "c2"]);
    assert_eq!(commands.iter().map(|e| e.id.n).collect::<Vec<_>>(), [1, 2]);
    // An id of one lane is nothing to the other, even with the number of an entry there.
    let events = session.log(Lane::Events).await;
    let page = session.read(ReadFrom::After(commands[1].id), 2).await;
    assert!(page.lost.is_some());
    assert_eq!(page.entries, events[..2]);
}

async fn a_stat_shows_where_lanes_begin_and_end(backend: Backend) {
    let session = backend.session().await.begun().await;
    let stat = session.stat().await.unwrap();
    assert_eq!(stat.lanes, [Extent::default(); 2]);
    assert!(stat.snapshot.now >= stat.snapshot.state.unwrap().created);

    let (session, ids) = trimmed(backend).await;
    let stat = session.stat().await.unwrap();
    let log = session.log(Lane::Events).await;
    assert_eq!(stat.lanes, [Extent { first: Some(log[0].id), last: ids[299] }, Extent::default()]);
    assert!(stat.snapshot.now >= ids[299].ms);
    let state = stat.snapshot.state.unwrap();
    assert_eq!((state.created, state.closed), (ids[0].ms, None));
    let commit = Commit { closes: true, ..session.plan(vec![commands(&["c"])]).await };
    let (now, _) = committed(session.commit(commit).await);
    let stat = session.stat().await.unwrap();
    assert_eq!(stat.lanes[1].last, EntryId { ms: now, n: 1 });
    assert_eq!(stat.snapshot.state.unwrap().closed, Some(now));
}

async fn sessions_are_apart(backend: Backend) {
    let store = backend.store(Retention { ttl: Duration::from_secs(60), cap: 1000 }).await;
    let session = |text: &str| Session { store: store.clone(), name: name(text) };
    let sessions = ["a", "a:events", "a:meta", "events", "A"].map(session);
    for session in &sessions {
        session.append_events(&[session.name.as_str()]).await;
    }
    assert!(sessions[0].delete().await);
    assert!(sessions[0].stat().await.is_none());
    for session in &sessions[1..] {
        assert_eq!(session.payloads(Lane::Events).await, [session.name.as_str()]);
    }
}

#[tokio::test]
async fn redis_a_lane_that_was_evicted_alone_reads_as_trimmed() {
    let server = RedisServer::shared();
    let prefix = unique("test") + ":";
    let store = connect(server, |config| config.prefix = prefix.clone()).await;
    let session = Session::new(Arc::new(store));
    let ids = session.append_events(&FIVE).await;
    server.cli(&["DEL", &format!("{prefix}{{{}}}:events", session.name)]);
    for from in [EntryId::ZERO, ids[0], ids[4]].map(ReadFrom::After) {
        let page = session.read(from, 9).await;
        assert_eq!((page.lost, page.entries.len()), (Some(Lost::Trimmed), 0));
        assert_eq!((page.next(from), page.up_to_date(from)), (ids[4], true));
    }
    // The numbers go on, and the hole can be seen.
    assert_eq!(session.append_events(&["6"]).await[0].n, 6);
    let page = session.read(ReadFrom::After(ids[4]), 9).await;
    assert_eq!((page.lost, ns(&page)), (Some(Lost::Trimmed), vec![6]));
}

async fn a_reader_that_leaves_leaves_nothing_for_the_next(backend: Backend) {
    let long = backend.session().await;
    long.append_events(&["long"; 300]).await;
    let short = Session::new(long.store.clone());
    short.append_events(&["short"]).await;
    // Each left a little later than the one before, so that some are left before their question and some within its answer.
    for turns in 0..200 {
        let read = long.read(ReadFrom::Start, 300);
        let leave = async {
            for _ in 0..turns {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            biased;
            _ = read => {}
            () = leave => {}
        }
        assert_eq!(texts(&short.read(ReadFrom::Start, 10).await.entries), ["short"]);
    }
}
