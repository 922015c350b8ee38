//! `GET …/events` as a stream: history, the live tail, cursors, filters, and the exact bytes.

use std::time::Duration;

use moorline::config::Config;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::Endless;
use crate::{
    store_contract::Backend,
    support::gateway::{Gateway, NEVER, Session, on_both_stores},
};

on_both_stores!(
    a_stream_is_history_then_caught_up_then_what_comes,
    a_stream_from_now_begins_at_the_tail_and_a_cut_before_its_first_event_loses_nothing,
    a_stream_from_now_can_come_before_the_session,
    a_stream_resumes_after_the_entry_named,
    the_header_of_a_client_that_reconnects_goes_before_its_query,
    a_last_event_id_that_is_no_id_gets_a_reset_and_the_whole_history,
    a_cursor_of_another_log_gets_a_reset_and_what_is_there,
    a_trimmed_cursor_gets_a_reset_and_what_is_left,
    a_log_cut_at_its_beginning_is_no_reason_for_a_reset,
    a_cursor_of_a_deleted_session_gets_a_reset,
    a_client_may_come_before_the_session,
    filters_are_lists_of_which_one_must_match,
    a_filtered_stream_resumes_behind_entries_that_it_did_not_show,
    format_data_gives_the_data_alone,
    frames_and_headers_are_exactly_so,
    a_stream_may_follow_other_requests_in_one_packet,
    http_1_0_gets_the_frames_without_chunks,
    a_heartbeat_is_one_comment_line,
    heartbeats_come_although_a_filter_drops_all_that_happens,
    large_events_come_whole_and_in_order,
    followers_that_join_at_any_moment_see_all_of_twenty_publishers_once,
);

fn heartbeat(every: Duration) -> impl FnOnce(&mut Config) {
    move |config| config.limits.heartbeat = every
}

async fn a_stream_is_history_then_caught_up_then_what_comes(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    let mut ids = session.append_numbers(0..3).await;
    for query in ["", "?from=start"] {
        let mut stream = session.follow(query).await;
        for id in &ids {
            assert_eq!(stream.entry().await.id, *id);
        }
        stream.caught_up().await;
        ids.extend(session.append_numbers(3..5).await);
        let live = stream.entries(2).await;
        assert_eq!(live[0].json, json!({"type": "n", "data": 3}));
        assert_eq!([&live[0].id, &live[1].id], [&ids[ids.len() - 2], &ids[ids.len() - 1]]);
    }
}

async fn a_stream_from_now_begins_at_the_tail_and_a_cut_before_its_first_event_loses_nothing(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    let ids = session.append_numbers(0..3).await;
    let mut stream = session.follow("?from=now").await;
    let frame = stream.next().await.expect("caught-up");
    assert_eq!((frame.event.as_deref(), frame.id.as_ref()), (Some("caught-up"), Some(&ids[2])));
    drop(stream);
    let late = session.append_numbers(3..5).await;
    // As EventSource would: the same query, and the id it has.
    let mut stream = session.resume("?from=now", &ids[2]).await;
    // Before or after `caught-up`: the replica followed the session already, and its push may be on the way.
    assert!(stream.entries(2).await.iter().map(|entry| &entry.id).eq(&late));
    session.append_numbers(5..6).await;
    assert_eq!(stream.data(1).await, [5]);
}

async fn a_stream_from_now_can_come_before_the_session(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    let mut stream = session.follow("?from=now").await;
    let frame = stream.next().await.expect("caught-up");
    assert_eq!((frame.event.as_deref(), frame.id.as_deref()), (Some("caught-up"), Some("0-0")));
    drop(stream);
    session.append_numbers(0..2).await;
    let mut stream = session.resume("?from=now", "0-0").await;
    assert_eq!(stream.data(2).await, [0, 1]);
}

async fn a_stream_resumes_after_the_entry_named(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    let ids = session.append_numbers(0..500).await;
    for at in [0, 1, 250, 498, 499] {
        for header in [false, true] {
            let mut stream = if header {
                session.resume("", &ids[at]).await
            } else {
                session.follow(&format!("?after={}", ids[at])).await
            };
            let rest = stream.entries(499 - at).await;
            assert!(rest.iter().map(|entry| &entry.id).eq(&ids[at + 1..]), "after {at}");
            if at == 499 {
                stream.caught_up().await;
            }
        }
    }
    // Before the first entry is a place too.
    let mut stream = session.follow("?after=0-0").await;
    assert_eq!(stream.entry().await.id, ids[0]);
}

async fn the_header_of_a_client_that_reconnects_goes_before_its_query(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    let ids = session.append_numbers(0..4).await;
    for query in [format!("?after={}", ids[0]), "?from=now".into(), "?from=start".into()] {
        let mut stream = session.resume(&query, &ids[2]).await;
        assert_eq!(stream.entry().await.id, ids[3], "{query}");
        stream.caught_up().await;
    }
    // EventSource sends an empty one while it has none.
    let mut stream = session.resume(&format!("?after={}", ids[1]), "").await;
    assert_eq!(stream.entry().await.id, ids[2]);
}

async fn a_last_event_id_that_is_no_id_gets_a_reset_and_the_whole_history(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    let ids = session.append_numbers(0..3).await;
    let after = format!("?after={}", ids[1]);
    for (query, last) in [("", "nonsense"), ("", "1-2-3"), ("", "01-1"), ("?from=now", "42"), (&after, "-")] {
        let mut stream = session.resume(query, last).await;
        assert_eq!(stream.named("reset").await, json!({"reason": "unknown", "first": ids[0]}), "{last}");
        assert_eq!(stream.data(3).await, [0, 1, 2]);
        stream.caught_up().await;
    }
}

async fn a_cursor_of_another_log_gets_a_reset_and_what_is_there(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    let ids = session.append_numbers(0..3).await;
    let (ms, _) = ids[2].split_once('-').expect("an id");
    let ms: u64 = ms.parse().expect("a number");
    let foreign = [
        (format!("{}-2", ms + 1), "unknown"),
        (format!("{ms}-99"), "unknown"),
        (format!("{}-4", ms + 1_000_000), "unknown"),
        (format!("{}-{}", u64::MAX, u64::MAX), "unknown"),
        // Before this session came to be there may have been another one.
        (format!("{}-2", ms - 1_000_000), "deleted"),
        ("1-1".into(), "deleted"),
    ];
    for (cursor, reason) in foreign {
        let first = &ids[0];
        let mut stream = session.resume("", &cursor).await;
        assert_eq!(stream.named("reset").await, json!({"reason": reason, "first": first}), "{cursor}");
        assert_eq!(stream.data(3).await, [0, 1, 2], "{cursor}");
        stream.caught_up().await;
        let lost = session.get(&format!("/events?after={cursor}")).await.problem(410, "cursor_lost");
        assert_eq!((&lost["reason"], &lost["first"]), (&json!(reason), &json!(first)), "{cursor}");
    }
}

/// Stores keep at least so many entries.
const CAP: u64 = 10;

async fn trimmed(backend: Backend) -> (Gateway, Session, Vec<String>) {
    let gateway = Gateway::start_with(backend, |config| config.retention.cap = CAP).await;
    let session = gateway.session();
    let mut ids = Vec::new();
    // Redis trims whole nodes, of a hundred entries each.
    for n in 0..8 {
        ids.extend(session.append_numbers(n * 50..(n + 1) * 50).await);
    }
    (gateway, session, ids)
}

async fn a_trimmed_cursor_gets_a_reset_and_what_is_left(backend: Backend) {
    let (_gateway, session, ids) = trimmed(backend).await;
    let view = session.get("").await.is(200);
    let first = view["lanes"]["events"]["first"].as_str().expect("a first entry").to_owned();
    let at = ids.iter().position(|id| *id == first).expect("one of ours");
    assert!(at > 1 && ids.len() - at >= CAP as usize, "{at}");
    for cursor in [&ids[0], &ids[at - 1], &"0-0".to_owned()] {
        let mut stream = session.resume("", cursor).await;
        assert_eq!(stream.named("reset").await, json!({"reason": "trimmed", "first": first}), "{cursor}");
        let rest = stream.entries(ids.len() - at).await;
        assert!(rest.iter().map(|entry| &entry.id).eq(&ids[at..]));
        let lost = session.get(&format!("/events?after={cursor}")).await.problem(410, "cursor_lost");
        assert_eq!((&lost["reason"], &lost["first"]), (&json!("trimmed"), &json!(first)));
    }
    // The first that is left is a cursor as good as any.
    let mut stream = session.resume("", &first).await;
    assert_eq!(stream.entry().await.id, ids[at + 1]);
}

async fn a_log_cut_at_its_beginning_is_no_reason_for_a_reset(backend: Backend) {
    let (_gateway, session, ids) = trimmed(backend).await;
    let mut stream = session.follow("").await;
    let first = stream.entry().await.id;
    let at = ids.iter().position(|id| *id == first).expect("one of ours");
    assert!(stream.entries(ids.len() - at - 1).await.iter().map(|entry| &entry.id).eq(&ids[at + 1..]));
    stream.caught_up().await;
}

async fn a_cursor_of_a_deleted_session_gets_a_reset(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    let old = session.append_numbers(0..3).await;
    assert_eq!(session.http.delete(session.url("")).send().await.expect("an answer").status(), 204);

    let mut stream = session.resume("", &old[1]).await;
    assert_eq!(stream.named("reset").await, json!({"reason": "deleted", "first": null}));
    stream.caught_up().await;
    let new = session.append_numbers(10..13).await;
    assert_eq!(stream.data(3).await, [10, 11, 12]);

    // The number is the same, the entry is not.
    let mut stream = session.resume("", &old[1]).await;
    assert_eq!(stream.named("reset").await, json!({"reason": "deleted", "first": new[0]}));
    assert_eq!(stream.data(3).await, [10, 11, 12]);
}

async fn a_client_may_come_before_the_session(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    session.get("/events").await.problem(404, "unknown_session");
    let mut stream = session.follow("").await;
    stream.caught_up().await;
    // To watch is not to make.
    session.get("/events").await.problem(404, "unknown_session");
    session.get("").await.problem(404, "unknown_session");
    let ids = session.append_numbers(0..1).await;
    assert_eq!(stream.entry().await.id, ids[0]);
}

async fn filters_are_lists_of_which_one_must_match(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    let events = json!([
        {"type": "t", "agent": "a", "run": "r", "data": 0},
        {"type": "t", "agent": "b", "run": "r", "data": 1},
        {"type": "u", "agent": "a", "run": "s", "data": 2},
        {"type": "u", "data": 3},
        {"type": "t", "agent": "c", "run": "s", "data": 4},
    ]);
    let cases = [
        ("agent=a", vec![0, 2]),
        ("agent=a,c", vec![0, 2, 4]),
        ("run=s", vec![2, 4]),
        ("run=r,s", vec![0, 1, 2, 4]),
        ("type=u", vec![2, 3]),
        ("type=u,t", vec![0, 1, 2, 3, 4]),
        ("agent=a,b&type=t", vec![0, 1]),
        ("agent=a&run=s&type=u", vec![2]),
        ("agent=A", vec![]),
    ];
    session.append(events.clone()).await;
    let mut streams = Vec::new();
    for (query, wanted) in &cases {
        let page = session.get(&format!("/events?{query}")).await.is(200);
        let paged: Vec<_> = page["events"].as_array().expect("events").iter().map(|e| e["data"].clone()).collect();
        assert_eq!(paged, *wanted, "{query}");
        let mut stream = session.follow(&format!("?{query}")).await;
        assert_eq!(stream.data(wanted.len()).await, *wanted, "{query}");
        stream.caught_up().await;
        streams.push(stream);
    }
    // Live as well, whether events come together or one by one.
    session.append(events.clone()).await;
    for event in events.as_array().expect("events") {
        session.append(event.clone()).await;
    }
    session.post("/close", json!({})).await.is(200);
    for (mut stream, (query, wanted)) in streams.into_iter().zip(cases) {
        let twice = [&wanted[..], &wanted].concat();
        assert_eq!(stream.data(twice.len()).await, twice, "{query}");
        assert_eq!(stream.named("closed").await, json!({}));
    }
}

async fn a_filtered_stream_resumes_behind_entries_that_it_did_not_show(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    let events = (0..300).map(|n| json!({"type": if n % 100 == 0 { "rare" } else { "n" }, "data": n})).collect();
    let ids = session.append(events).await;
    let mut stream = session.resume("?type=rare", &ids[100]).await;
    assert_eq!(stream.data(1).await, [200]);
    stream.caught_up().await;
    // A cursor need not be of an entry that the filter lets through.
    let mut stream = session.resume("?type=rare", &ids[42]).await;
    assert_eq!(stream.data(2).await, [100, 200]);
}

async fn format_data_gives_the_data_alone(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    let body = r#"[{"type":"t","data":{"a": 1.0}},{"type":"t","data":"x\ny"},{"type":"t"},{"data":null}]"#;
    session.post_as("/events", "application/json", body).await.is(201);
    let mut stream = session.follow("?format=data").await;
    for wanted in [r#"{"a":1.0}"#, r#""x\ny""#, "null", "null"] {
        let frame = stream.next().await.expect("an entry");
        assert_eq!((frame.data.as_str(), frame.event, frame.id.is_some()), (wanted, None, true));
    }
    stream.caught_up().await;
    let mut stream = session.follow("?format=event&type=t").await;
    assert_eq!(stream.next().await.expect("an entry").data, r#"{"type":"t","data":{"a":1.0}}"#);
}

async fn frames_and_headers_are_exactly_so(backend: Backend) {
    let gateway = Gateway::start_with(backend, heartbeat(NEVER)).await;
    let session = gateway.session();
    let ids = session.append_numbers(0..2).await;
    session.append_numbers(2..3).await;
    let mut stream = session.resume("", &ids[0]).await;
    let headers = stream.headers().clone();
    assert_eq!(headers["cache-control"], "no-cache, no-transform");
    assert_eq!(headers["x-accel-buffering"], "no");
    assert!(!headers.contains_key("content-encoding") && !headers.contains_key("content-length"), "{headers:?}");
    session.post("/close", json!({})).await.is(200);
    while stream.read().await {}
    let text = String::from_utf8(stream.raw.clone()).expect("text");
    let (retry, rest) = text.split_once('\n').expect("a first line");
    let ms: u64 = retry.strip_prefix("retry: ").expect("a retry").parse().expect("a number");
    assert!((500..1500).contains(&ms), "{ms}");
    let last = session.lane("events").await.pop().expect("an event")["id"].as_str().expect("an id").to_owned();
    let entry = |id: &str, n: u64| format!("id: {id}\ndata: {{\"type\":\"n\",\"data\":{n}}}\n\n");
    let wanted = entry(&ids[1], 1) + &entry(&last, 2) + "event: caught-up\ndata: {}\n\nevent: closed\ndata: {}\n\n";
    assert_eq!(rest, wanted);

    let text = String::from_utf8({
        let mut stream = session.resume("?from=now", "x").await;
        while stream.read().await {}
        stream.raw
    });
    let reset = format!("\nevent: reset\ndata: {{\"reason\":\"unknown\",\"first\":\"{}\"}}\n\nid: ", ids[0]);
    assert!(text.expect("text").contains(&reset));

    let other = gateway.session();
    let mut stream = other.follow("?from=now").await;
    stream.next().await.expect("caught-up");
    let text = String::from_utf8(stream.raw).expect("text");
    assert!(text.ends_with("\nevent: caught-up\nid: 0-0\ndata: {}\n\n"), "{text:?}");
}

async fn a_stream_may_follow_other_requests_in_one_packet(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    session.append_numbers(0..1).await;
    let path = format!("/v1/sessions/{}", session.name);
    let mut socket = gateway.socket().await;
    let page = format!("GET {path}/events HTTP/1.1\r\nhost: x\r\naccept: application/json\r\n\r\n");
    let stream = format!("GET {path}/events HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\n\r\n");
    socket.send(page.repeat(3) + &stream).await;
    for _ in 0..3 {
        assert_eq!(socket.answer().await.status, 200);
    }
    assert_eq!(socket.answer().await.headers["transfer-encoding"], "chunked");
    session.post("/close", json!({})).await.is(200);
    let rest = socket.rest().await;
    assert!(
        rest.contains("event: caught-up\n") && rest.ends_with("event: closed\ndata: {}\n\n\r\n0\r\n\r\n"),
        "{rest}"
    );
}

async fn http_1_0_gets_the_frames_without_chunks(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    let ids = session.append_numbers(0..1).await;
    let mut socket = gateway.socket().await;
    let path = format!("/v1/sessions/{}/events", session.name);
    socket.send(format!("GET {path} HTTP/1.0\r\naccept: text/event-stream\r\n\r\n")).await;
    let head = socket.answer().await;
    assert!(!head.headers.contains_key("transfer-encoding"), "{head:?}");
    // One that is read, and one that is pushed.
    session.append_numbers(1..2).await;
    session.post("/close", json!({})).await.is(200);
    let rest = socket.rest().await;
    let frames: Vec<&str> = rest.split("\n\n").collect();
    assert!(frames[0].starts_with("retry: ") && frames[0].ends_with("data: {\"type\":\"n\",\"data\":0}"), "{rest}");
    assert!(frames[0].contains(&format!("id: {}\n", ids[0])), "{rest}");
    let mut said: Vec<&str> = frames[1..].iter().filter_map(|frame| frame.lines().last()).collect();
    said.sort_unstable();
    assert_eq!(said, ["data: {\"type\":\"n\",\"data\":1}", "data: {}", "data: {}"], "{rest}");
}

async fn a_heartbeat_is_one_comment_line(backend: Backend) {
    let gateway = Gateway::start_with(backend, heartbeat(Duration::from_millis(20))).await;
    let session = gateway.session();
    session.append_numbers(0..1).await;
    let mut stream = session.follow("").await;
    while !stream.raw.ends_with(b"data: {}\n\n:\n:\n") {
        assert!(stream.read().await);
    }
    let id = session.append_numbers(1..2).await.remove(0);
    assert_eq!(stream.entries(2).await[1].id, id);
    let text = String::from_utf8(stream.raw).expect("text");
    let beats = text.split_once("data: {}\n\n").expect("caught-up").1.split_once("id: ").expect("an entry").0;
    assert!(beats.split_inclusive('\n').all(|line| line == ":\n"), "{text:?}");
    assert!(text.ends_with(&format!("\nid: {id}\ndata: {{\"type\":\"n\",\"data\":1}}\n\n")), "{text:?}");
}

async fn heartbeats_come_although_a_filter_drops_all_that_happens(backend: Backend) {
    // Longer than the pause between two of the events that are dropped, however busy the machine is.
    let gateway = Gateway::start_with(backend, heartbeat(Duration::from_millis(500))).await;
    let session = gateway.session();
    let mut stream = session.follow("?type=none").await;
    stream.caught_up().await;
    let busy = Endless::post(&session, "/events", "application/x-ndjson");
    let (stop, mut stopped) = watch::channel(false);
    let publisher = tokio::spawn(async move {
        while !*stopped.borrow_and_update() {
            busy.piece("{\"type\":\"n\"}\n").await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        busy.end().await.is(201)
    });
    for _ in 0..2 {
        assert!(stream.read().await);
    }
    assert!(stream.raw.ends_with(b"data: {}\n\n:\n:\n"), "{:?}", String::from_utf8_lossy(&stream.raw));
    stop.send_replace(true);
    publisher.await.expect("a publisher");
}

async fn large_events_come_whole_and_in_order(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    let mut live = session.follow("").await;
    live.caught_up().await;
    // Too large to be pushed, in between small ones; and more of them than a ring holds.
    let text = "x".repeat(200 * 1024);
    let mut wanted: Vec<Value> = Vec::new();
    for n in 0..4 {
        wanted.extend([json!(text), json!(n)]);
        session.append(json!([{"data": text}])).await;
        session.append(json!([{"data": n}])).await;
    }
    assert!(live.data(8).await == wanted);
    assert!(session.follow("").await.data(8).await == wanted);
    assert!(session.data().await == wanted);
}

async fn followers_that_join_at_any_moment_see_all_of_twenty_publishers_once(backend: Backend) {
    const PUBLISHERS: u64 = 20;
    const EACH: u64 = 50;
    const ALL: usize = (PUBLISHERS * EACH) as usize;
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    let (count, counted) = watch::channel(0);
    let count = std::sync::Arc::new(count);
    let followers: Vec<_> = (0..10)
        .map(|_| {
            let (session, mut counted) = (session.clone(), counted.clone());
            // A moment somewhere in between: when so many events have been answered.
            let moment = fastrand::usize(..ALL);
            tokio::spawn(async move {
                counted.wait_for(|count| *count >= moment).await.expect("publishers");
                session.follow("").await.entries(ALL).await
            })
        })
        .collect();
    let publishers: Vec<_> = (0..PUBLISHERS)
        .map(|publisher| {
            let (session, count) = (session.clone(), count.clone());
            tokio::spawn(async move {
                let mut ids = Vec::new();
                for n in 0..EACH {
                    ids.extend(session.append(json!({"agent": format!("p{publisher}"), "data": n})).await);
                    count.send_modify(|count| *count += 1);
                }
                ids
            })
        })
        .collect();
    let mut answered = Vec::new();
    for publisher in publishers {
        answered.push(publisher.await.expect("a publisher"));
    }
    for follower in followers {
        let seen = follower.await.expect("a follower");
        for (at, entry) in seen.iter().enumerate() {
            assert_eq!(entry.id.split_once('-').expect("an id").1, (at + 1).to_string());
        }
        // In the order of its answers, each publisher's own.
        for (publisher, ids) in answered.iter().enumerate() {
            let agent = format!("p{publisher}");
            let own = seen.iter().filter(|entry| entry.json["agent"] == agent);
            let own: Vec<_> = own.map(|entry| (entry.id.clone(), entry.json["data"].clone())).collect();
            assert!(own.into_iter().eq(ids.iter().cloned().zip((0..EACH).map(Value::from))));
        }
    }
    assert_eq!(session.data().await.len(), ALL);
}
