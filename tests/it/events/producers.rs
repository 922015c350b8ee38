//! Idempotent producers: each event is stored once, however often it is sent.

use futures_util::StreamExt;
use serde_json::{Value, json};

use crate::{
    store_contract::Backend,
    support::gateway::{Gateway, Session, on_both_stores},
};

on_both_stores!(
    an_event_sent_again_is_a_duplicate_with_its_first_id,
    a_batch_sent_again_from_an_earlier_event_stores_the_rest,
    a_hole_is_refused_with_what_was_expected,
    a_newer_epoch_fences_off_the_older,
    a_producer_is_shown_with_its_next_number,
    lines_sent_again_are_counted_as_skipped,
    lines_that_leave_a_hole_are_refused_with_what_was_expected,
    an_endless_body_is_numbered_on,
    a_body_broken_at_any_byte_and_sent_again_stores_each_event_once,
    requests_that_race_with_the_same_numbers_store_each_event_once,
    what_was_stored_before_the_end_is_known_after_it,
);

fn numbers(range: std::ops::Range<u64>) -> String {
    Value::from(range.map(|n| json!({"data": n})).collect::<Vec<_>>()).to_string()
}

fn lines(range: std::ops::Range<u64>) -> String {
    range.map(|n| format!("{{\"data\":{n}}}\n")).collect()
}

async fn holds(session: &Session, range: std::ops::Range<u64>) {
    assert_eq!(session.data().await, range.map(Value::from).collect::<Vec<_>>());
}

async fn an_event_sent_again_is_a_duplicate_with_its_first_id(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    for n in 0..3 {
        let event = format!("{{\"data\":{n}}}");
        let first = session.produce(("p", 0, n), true, &event).await.is(201);
        let again = session.produce(("p", 0, n), true, &event).await.is(200);
        assert_eq!(again, json!({"ids": first["ids"], "skipped": 1, "duplicate": true}));
    }
    // The ids of the last request only are remembered.
    let old = session.produce(("p", 0, 0), true, r#"{"data":0}"#).await.is(200);
    assert_eq!(old, json!({"ids": [], "skipped": 1, "duplicate": true}));
    // Another producer's numbers are its own.
    session.produce(("q", 0, 0), true, r#"{"data":3}"#).await.is(201);
    holds(&session, 0..4).await;
}

async fn a_batch_sent_again_from_an_earlier_event_stores_the_rest(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    let first = session.produce(("p", 0, 0), true, &numbers(0..4)).await.is(201);
    let again = session.produce(("p", 0, 0), true, &numbers(0..4)).await.is(200);
    assert_eq!(again, json!({"ids": first["ids"], "skipped": 4, "duplicate": true}));
    let part = session.produce(("p", 0, 1), true, &numbers(1..3)).await.is(200);
    assert_eq!(part["ids"], json!([first["ids"][1], first["ids"][2]]));
    let more = session.produce(("p", 0, 2), true, &numbers(2..6)).await.is(201);
    assert_eq!((&more["skipped"], more["ids"].as_array().expect("ids").len()), (&json!(2), 2));
    assert!(more.get("duplicate").is_none(), "{more}");
    holds(&session, 0..6).await;
}

async fn a_hole_is_refused_with_what_was_expected(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    let gap = session.produce(("p", 0, 1), true, r#"{"data":1}"#).await.problem(409, "producer_gap");
    assert_eq!((&gap["expected"], &gap["received"]), (&json!(0), &json!(1)));
    // What was refused has not brought the session into being.
    session.get("").await.problem(404, "unknown_session");
    session.produce(("p", 0, 0), true, &numbers(0..3)).await.is(201);
    let gap = session.produce(("p", 0, 4), true, &numbers(4..6)).await.problem(409, "producer_gap");
    assert_eq!((&gap["expected"], &gap["received"]), (&json!(3), &json!(4)));
    session.produce(("p", 0, 3), true, &numbers(3..4)).await.is(201);
    holds(&session, 0..4).await;
}

async fn a_newer_epoch_fences_off_the_older(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    session.produce(("p", 1, 0), true, &numbers(0..2)).await.is(201);
    session.produce(("p", 2, 1), true, r#"{"data":9}"#).await.problem(400, "epoch_not_at_zero");
    session.produce(("p", 5, 0), true, &numbers(2..4)).await.is(201);
    for json in [true, false] {
        let stale = session.produce(("p", 1, 2), json, r#"{"data":9}"#).await.problem(403, "stale_epoch");
        assert_eq!(stale["current_epoch"], 5);
        session.produce(("p", 6, 2), json, r#"{"data":9}"#).await.problem(400, "epoch_not_at_zero");
    }
    holds(&session, 0..4).await;
}

async fn a_producer_is_shown_with_its_next_number(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    session.get("/producers/p").await.problem(404, "unknown_producer");
    session.produce(("p", 7, 0), true, &numbers(0..5)).await.is(201);
    assert_eq!(session.get("/producers/p").await.is(200), json!({"epoch": 7, "next_seq": 5}));
    session.get("/producers/q").await.problem(404, "unknown_producer");
}

async fn lines_sent_again_are_counted_as_skipped(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    let first = session.produce(("p", 0, 0), false, &lines(0..3)).await.is(201);
    assert_eq!(first["appended"], 3);
    // The request that was stored last: its ids are known, and so the last of them.
    let again = session.produce(("p", 0, 0), false, &lines(0..3)).await.is(200);
    assert_eq!(again, json!({"appended": 0, "last": first["last"], "skipped": 3, "duplicate": true}));
    let more = session.produce(("p", 0, 1), false, &lines(1..5)).await.is(201);
    assert_eq!((&more["appended"], &more["skipped"]), (&json!(2), &json!(2)));
    assert!(more.get("duplicate").is_none(), "{more}");
    holds(&session, 0..5).await;
}

async fn lines_that_leave_a_hole_are_refused_with_what_was_expected(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    let gap = session.produce(("p", 0, 2), false, &lines(2..4)).await.problem(409, "producer_gap");
    assert_eq!((&gap["expected"], &gap["received"]), (&json!(0), &json!(2)));
    session.produce(("p", 0, 0), false, &lines(0..2)).await.is(201);
    let gap = session.produce(("p", 0, 3), false, &lines(3..4)).await.problem(409, "producer_gap");
    assert_eq!((&gap["expected"], &gap["received"], &gap["appended"]), (&json!(2), &json!(3), &json!(0)));
    holds(&session, 0..2).await;
}

async fn an_endless_body_is_numbered_on(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    let mut stream = session.follow("").await;
    stream.caught_up().await;
    let headers =
        "content-type: application/x-ndjson\r\nproducer-id: p\r\nproducer-epoch: 0\r\nproducer-seq: 0".to_owned();
    let mut socket = session.open_body("/events", &headers).await;
    for n in 0..10u64 {
        socket.chunk(lines(n..n + 1)).await;
        assert_eq!(stream.data(1).await, [n]);
        assert_eq!(session.get("/producers/p").await.is(200)["next_seq"], n + 1);
    }
    // Another request of the same life goes on where this one stands; this one then finds itself behind.
    session.produce(("p", 0, 10), false, &lines(10..12)).await.is(201);
    socket.chunk(lines(10..13)).await;
    socket.chunk([]).await;
    let answer = socket.answer().await.is(201);
    assert_eq!((&answer["appended"], &answer["skipped"]), (&json!(11), &json!(2)));
    holds(&session, 0..13).await;
}

async fn a_body_broken_at_any_byte_and_sent_again_stores_each_event_once(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    // Lines and characters of several bytes; the last line has no end of its own.
    let body = "{\"data\":0}\n\n{\"data\":1,\"agent\":\"a\"}\r\n{\"data\":2,\"type\":\"t\"}\n{\"data\":\"é😀\"}";
    let wanted = [json!(0), json!(1), json!(2), json!("é😀")];
    let attempts = (0..=body.len()).map(|cut| {
        let gateway = &gateway;
        let wanted = &wanted;
        async move {
            let session = gateway.session();
            let headers =
                "content-type: application/x-ndjson\r\nproducer-id: p\r\nproducer-epoch: 0\r\nproducer-seq: 0";
            let mut socket = session.open_body("/events", headers).await;
            // In one piece or in two, which may part the body anywhere.
            let (first, second) = body.as_bytes()[..cut].split_at(fastrand::usize(..=cut));
            for piece in [first, second].into_iter().filter(|piece| !piece.is_empty()) {
                socket.chunk(piece).await;
            }
            drop(socket);
            // Sent again at once: the broken request may still be at work.
            let again = session.produce(("p", 0, 0), false, body).await;
            let (status, answer) = (again.status, again.json());
            let count = |key: &str| answer[key].as_u64().unwrap_or(0);
            assert_eq!(count("appended") + count("skipped"), 4, "cut at {cut}: {status} {answer}");
            assert_eq!(status, if count("appended") > 0 { 201 } else { 200 }, "cut at {cut}: {answer}");
            // And once more, by which time nothing can be under way: then all of it is known.
            assert_eq!(session.produce(("p", 0, 0), false, body).await.is(200)["duplicate"], true);
            assert_eq!(session.data().await, wanted, "cut at {cut}");
        }
    });
    futures_util::stream::iter(attempts).buffer_unordered(8).collect::<Vec<()>>().await;
}

async fn requests_that_race_with_the_same_numbers_store_each_event_once(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    // Each request begins somewhere at or before what is stored, as a sender would that got no answer.
    for round in 0..10u64 {
        let racers = (0..8).map(|racer| {
            let session = session.clone();
            async move {
                let from = fastrand::u64(..=round * 10);
                let (json, body) = match racer % 2 {
                    0 => (true, numbers(from..round * 10 + 10)),
                    _ => (false, lines(from..round * 10 + 10)),
                };
                let answer = session.produce(("p", 0, from), json, &body).await;
                assert!(matches!(answer.status, 200 | 201), "{answer:?}");
            }
        });
        futures_util::future::join_all(racers).await;
    }
    holds(&session, 0..100).await;
}

async fn what_was_stored_before_the_end_is_known_after_it(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    session.post("/runs", json!({"run": "r"})).await.is(201);
    let events = json!([{"data": 0, "run": "r"}, {"data": 1, "run": "r"}]).to_string();
    session.produce(("p", 0, 0), true, &events).await.is(201);
    session.post("/runs/r/end", json!({"status": "completed"})).await.is(200);
    let known = json!({"ids": [], "skipped": 2, "duplicate": true});
    assert_eq!(session.produce(("p", 0, 0), true, &events).await.is(200), known);
    session.produce(("p", 0, 1), true, &events).await.problem(409, "run_ended");
    session.produce(("p", 1, 0), true, &events).await.problem(409, "run_ended");
    session.post("/close", json!({})).await.is(200);
    assert_eq!(session.produce(("p", 0, 0), true, &events).await.is(200), known);
    session.produce(("p", 0, 2), true, &events).await.problem(409, "session_closed");
}
