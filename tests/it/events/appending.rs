//! `POST …/events`: one event, arrays, lines, server-sent events, and what they look like in the log.

use serde_json::{Value, json};

use super::Endless;
use crate::{
    store_contract::Backend,
    support::gateway::{Gateway, on_both_stores},
};

on_both_stores!(
    every_kind_of_body_is_appended_in_order_and_answered_with_its_ids,
    an_event_is_kept_compact_in_key_order_and_with_its_numbers_as_they_were_written,
    the_query_gives_agent_and_run_to_events_that_name_none,
    lines_are_seen_before_their_body_ends,
    server_sent_events_are_seen_before_their_body_ends,
    the_stream_of_a_model_server_becomes_events,
    an_event_that_comes_in_single_bytes_is_one_event,
    a_bad_line_ends_the_body_and_tells_what_came_before_it,
    a_stop_is_answered_at_once_to_a_body_that_waits,
    a_run_that_is_a_body_and_is_stopped_has_not_completed,
    a_stop_is_never_missed_however_early_it_comes,
    a_body_whose_run_is_taken_over_is_refused,
    a_body_that_its_replica_leaves_is_no_success,
);

async fn every_kind_of_body_is_appended_in_order_and_answered_with_its_ids(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    let one = session.post("/events", json!({"data": 1})).await.is(201);
    let array = session.post("/events", json!([{"data": 2}, {"data": 3}])).await.is(201);
    let lines = "{\"data\":4}\n\n{\"data\":5}\r\n{\"data\":6}";
    let lines = session.post_as("/events", "application/x-ndjson", lines).await.is(201);
    let sse = session.post_as("/events", "text/event-stream; charset=utf-8", "data: 7\n\ndata: 8\n\n").await.is(201);

    let log = session.lane("events").await;
    let id = |at: usize| log[at]["id"].clone();
    assert_eq!(one, json!({"ids": [id(0)]}));
    assert_eq!(array, json!({"ids": [id(1), id(2)]}));
    assert_eq!(lines, json!({"appended": 3, "last": id(5)}));
    assert_eq!(sse, json!({"appended": 2, "last": id(7)}));
    assert_eq!(session.data().await, (1..=8).map(Value::from).collect::<Vec<_>>());
    for (at, event) in log.iter().enumerate() {
        let id = event["id"].as_str().expect("an id");
        let (ms, n) = id.split_once('-').expect("<ms>-<n>");
        assert_eq!(n, (at + 1).to_string());
        assert!(ms.len() == 13 && ms.bytes().all(|b| b.is_ascii_digit()), "{id}");
    }
}

async fn an_event_is_kept_compact_in_key_order_and_with_its_numbers_as_they_were_written(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    let data = r#"{"z":12345678901234567890123,"a":1.50,"e":1E+2,"m":-0.0,"t":"ä\u00e4 \" \\ 😀","n":null,"l":[ ]}"#;
    let spaced = data.replace(',', " ,\r\n\t").replace(':', " : ");
    let sent = format!(" {{ \"data\" : {spaced} , \"run\":\"r\",\n \"agent\" :\"a\", \"type\" : \"t\" }} ");
    session.post_as("/events", "application/json", sent).await.is(201);
    session.post_as("/events", "application/x-ndjson", r#"{"data": null}"#).await.is(201);
    session.post("/events", json!({"type": "bare"})).await.is(201);

    let data = data.replace("[ ]", "[]");
    let stored = format!(r#"{{"type":"t","agent":"a","run":"r","data":{data}}}"#);
    let mut stream = session.follow("").await;
    let told = [&stored, r#"{"type":"message","data":null}"#, r#"{"type":"bare"}"#];
    for wanted in told {
        assert_eq!(stream.next().await.expect("an entry").data, wanted);
    }
    let page = session.get("/events").await.text;
    assert!(page.contains(&format!(r#"",{}"#, &stored[1..])), "{page}");
}

async fn the_query_gives_agent_and_run_to_events_that_name_none(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    let query = "/events?agent=writer&run=r1";
    session.post(query, json!([{"data": 1}, {"data": 2, "agent": "other"}, {"data": 3, "run": "r2"}])).await.is(201);
    session.post_as(query, "application/x-ndjson", "{\"data\":4}\n{\"data\":5,\"run\":\"r2\"}\n").await.is(201);
    session.post_as(query, "text/event-stream", "data: {\"agent\":\"ignored\"}\n\n").await.is(201);
    let log = session.lane("events").await;
    let told: Vec<_> = log.iter().map(|e| (e["agent"].as_str().unwrap(), e["run"].as_str().unwrap())).collect();
    let given = ("writer", "r1");
    assert_eq!(told, [given, ("other", "r1"), ("writer", "r2"), given, ("writer", "r2"), given]);
}

async fn lines_are_seen_before_their_body_ends(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    let mut stream = session.follow("").await;
    stream.caught_up().await;
    let body = Endless::post(&session, "/events?agent=a", "application/x-ndjson");
    for n in 0..5 {
        // Each line comes in two pieces, the second of which begins the next one.
        body.piece(format!("{{\"data\":{n}")).await;
        body.piece("}\n ").await;
        let entry = stream.entry().await;
        assert_eq!(entry.json, json!({"type": "message", "agent": "a", "data": n}));
    }
    body.piece("{\"data\":5}").await;
    let answer = body.end().await.is(201);
    let last = stream.entry().await;
    assert_eq!(last.json["data"], 5);
    assert_eq!(answer, json!({"appended": 6, "last": last.id}));
}

async fn server_sent_events_are_seen_before_their_body_ends(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    let mut stream = session.follow("").await;
    stream.caught_up().await;
    let body = Endless::post(&session, "/events", "text/event-stream");
    for n in 0..5 {
        body.piece("event: delta\r").await;
        body.piece(format!("\ndata: {n}\r\n\r")).await;
        assert_eq!(stream.entry().await.json, json!({"type": "delta", "data": n}));
        body.piece("\n: a comment\n").await;
    }
    // By the rules of server-sent events one that no blank line ends is none.
    body.piece("data: unfinished\n").await;
    assert_eq!(body.end().await.is(201)["appended"], 5);
    assert_eq!(session.data().await.len(), 5);
}

async fn the_stream_of_a_model_server_becomes_events(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    let body = "\u{feff}retry: 10\r\n\r\nid: 7\r\nevent: content_block_delta\r\ndata: {\"type\":\"x\",\r\ndata: \"n\":1.0}\
                \r\n\r\ndata: {\"type\":\"text-delta\",\"delta\":\"Hi\"}\n\ndata: plain\ndata:  text\n\n: ping\n\n\
                data: {\"type\":\"run.ended\"}\r\rdata: {\"type\":\"with space\"}\n\ndata: [1]\n\ndata: [DONE]\n\n";
    let answer = session.post_as("/events", "text/event-stream", body).await.is(201);
    assert_eq!(answer["appended"], 6);
    let mut stream = session.follow("").await;
    for wanted in [
        r#"{"type":"content_block_delta","data":{"type":"x","n":1.0}}"#,
        r#"{"type":"text-delta","data":{"type":"text-delta","delta":"Hi"}}"#,
        r#"{"type":"message","data":"plain\n text"}"#,
        // Not a type that agents may write, nor one that can be filtered by: it stays in the data.
        r#"{"type":"message","data":{"type":"run.ended"}}"#,
        r#"{"type":"message","data":{"type":"with space"}}"#,
        r#"{"type":"message","data":[1]}"#,
    ] {
        assert_eq!(stream.next().await.expect("an entry").data, wanted);
    }
    stream.caught_up().await;
}

async fn an_event_that_comes_in_single_bytes_is_one_event(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    for (kind, text) in [
        ("application/x-ndjson", "{\"data\":\"ä😀\"}\n"),
        ("text/event-stream", "\u{feff}data: \"ä\r\ndata: 😀\"\r\n\r\n"),
        ("application/json", "{\"data\":\"ä😀\"}"),
    ] {
        let mut socket = session.open_body("/events", &format!("content-type: {kind}")).await;
        for byte in text.bytes() {
            socket.chunk([byte]).await;
        }
        socket.chunk([]).await;
        assert_eq!(socket.answer().await.status, 201, "{kind}");
    }
    assert_eq!(session.data().await, ["ä😀", "\"ä\n😀\"", "ä😀"]);
}

async fn a_bad_line_ends_the_body_and_tells_what_came_before_it(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    let body = Endless::post(&session, "/events", "application/x-ndjson");
    body.piece("{\"data\":1}\n{\"data\":2}\nnonsense\n{\"data\":3}\n").await;
    let problem = body.answered().await.problem(400, "bad_json");
    let log = session.lane("events").await;
    assert_eq!((log[0]["data"].clone(), log[1]["data"].clone(), log.len()), (json!(1), json!(2), 2));
    assert_eq!(problem["line"], 3);
    assert_eq!((&problem["appended"], &problem["last"]), (&json!(2), &log[1]["id"]));
}

async fn a_stop_is_answered_at_once_to_a_body_that_waits(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    session.post("/runs", json!({"run": "r"})).await.is(201);
    let mut stream = session.follow("?type=n").await;
    let body = Endless::post(&session, "/events?run=r", "application/x-ndjson");
    body.piece("{\"type\":\"n\",\"data\":1}\n").await;
    let entry = stream.entries(1).await.remove(0);
    session.post("/commands", json!({"type": "stop", "run": "r", "grace_ms": 60_000})).await.is(202);
    let mut answer = body.answered().await.is(201);
    // The body says nothing more, so it is the answer that tells the agent.
    assert_eq!((&answer["run"]["run"], &answer["run"]["status"]), (&json!("r"), &json!("stopping")), "{answer}");
    answer.as_object_mut().expect("an object").remove("run");
    assert_eq!(answer, json!({"appended": 1, "last": entry.id}));
}

async fn a_run_that_is_a_body_and_is_stopped_has_not_completed(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    let mut stream = session.follow("").await;
    let put = |run: &str| {
        let request = session.http.put(session.url(&format!("/runs/{run}")));
        Endless::send(request.header("content-type", "application/x-ndjson"))
    };
    // Stopped while the body waits, with grace and without.
    for (run, grace, status) in [("r", 600_000, "stopping"), ("q", 0, "cancelled")] {
        let body = put(run);
        body.piece("{\"type\":\"n\"}\n").await;
        stream.until("n").await;
        session.post("/commands", json!({"type": "stop", "run": run, "grace_ms": grace})).await.is(202);
        let answer = body.answered().await;
        let told = if grace > 0 { answer.is(201) } else { answer.problem(409, "run_ended") };
        assert_eq!((&told["appended"], &told["run"]["status"]), (&json!(1), &json!(status)), "{told}");
        let view = session.get("").await.is(200);
        let runs = view["runs"].as_array().expect("runs");
        let shown = runs.iter().find(|shown| shown["run"] == run).expect("the run");
        assert_eq!(shown["status"], status);
    }
    // One that ends by itself has.
    let body = put("p");
    body.piece("{\"type\":\"n\"}\n").await;
    stream.until("n").await;
    body.end().await.is(201);
    let ended = stream.until("run.ended").await.json;
    assert_eq!((&ended["run"], &ended["data"]["status"]), (&json!("p"), &json!("completed")));
}

async fn a_stop_is_never_missed_however_early_it_comes(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    // The stop races with the start of the run, with its first line, and with nothing at all.
    let rounds = (0..40).map(|round| {
        let session = session.clone();
        async move {
            let run = format!("r{round}");
            let request = session.http.put(session.url(&format!("/runs/{run}")));
            let body = Endless::send(request.header("content-type", "application/x-ndjson"));
            if round % 2 == 0 {
                body.piece("{\"type\":\"n\"}\n").await;
            }
            session.post("/commands", json!({"type": "stop", "run": run, "grace_ms": 600_000})).await.is(202);
            let answer = body.answered().await.is(201);
            let status = answer["run"]["status"].as_str().expect("a status").to_owned();
            // Before its start it is kept, and ends the run as it starts.
            assert!(matches!(status.as_str(), "stopping" | "cancelled"), "{answer}");
        }
    });
    futures_util::future::join_all(rounds).await;
}

async fn a_body_whose_run_is_taken_over_is_refused(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    let mut stream = session.follow("?type=n").await;
    let put = |query: &str| {
        let request = session.http.put(session.url(&format!("/runs/r{query}")));
        Endless::send(request.header("content-type", "application/x-ndjson"))
    };
    let first = put("");
    first.piece("{\"type\":\"n\"}\n").await;
    let entry = stream.entries(1).await.remove(0);
    // The second attempt's own start ends the first, and must not end its own body.
    let second = put("?takeover=true");
    second.piece("{\"type\":\"n\"}\n").await;
    stream.entries(1).await;
    let problem = first.answered().await.problem(409, "stale_attempt");
    assert_eq!((&problem["appended"], &problem["last"]), (&json!(1), &json!(entry.id)));
    second.piece("{\"type\":\"n\"}\n").await;
    assert_eq!(second.end().await.is(201)["appended"], 2);
    let view = session.get("").await.is(200);
    assert_eq!((&view["runs"][0]["attempt"], &view["runs"][0]["status"]), (&json!(2), &json!("completed")));
}

async fn a_body_that_its_replica_leaves_is_no_success(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    let mut stream = session.follow("").await;
    let request = session.http.put(session.url("/runs/r")).header("content-type", "application/x-ndjson");
    let bodies = [Endless::post(&session, "/events", "application/x-ndjson"), Endless::send(request)];
    for body in &bodies {
        body.piece("{\"type\":\"n\"}\n").await;
        stream.until("n").await;
    }
    let down = tokio::spawn(gateway.shutdown());
    for body in bodies {
        let problem = body.answered().await.problem(503, "draining");
        // So much is in the log; the rest is for another replica.
        assert_eq!(problem["appended"], 1);
    }
    down.await.expect("an end");
}
