//! Bodies of events.

use serde_json::json;

use super::Scene;
use crate::{store_contract::Backend, support::gateway::on_both_stores};

on_both_stores!(
    what_is_no_json_or_no_event_is_refused,
    types_that_cannot_be_used_are_refused,
    names_outside_the_alphabet_are_refused_in_events,
    one_bad_element_refuses_its_array_whole,
    what_carries_no_events_is_refused,
    what_is_too_large_is_refused,
    bytes_that_are_no_text_are_refused,
    server_sent_events_that_are_no_events_are_refused,
    unknown_content_types_are_refused,
    a_refusal_is_read_although_its_body_was_not,
);

async fn what_is_no_json_or_no_event_is_refused(backend: Backend) {
    let scene = Scene::new(backend).await;
    let deep = format!("{{\"data\":{}1{}}}", "[".repeat(121), "]".repeat(121));
    let deeper = format!("{{\"data\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
    for (body, code) in [
        ("{\"data\":", "bad_json"),
        ("nonsense", "bad_json"),
        ("{\"data\":1} x", "bad_json"),
        ("{\"data\":1}{\"data\":2}", "bad_json"),
        ("{'data':1}", "bad_json"),
        ("{\"data\":01}", "bad_json"),
        ("{\"data\":NaN}", "bad_json"),
        ("{\"data\":\"a\tb\"}", "bad_json"),
        ("{\"data\":\"\\x\"}", "bad_json"),
        ("{\"data\":1,}", "bad_json"),
        ("\u{feff}{\"data\":1}", "bad_json"),
        ("1", "bad_event"),
        ("null", "bad_event"),
        ("\"text\"", "bad_event"),
        ("{\"type\":1}", "bad_event"),
        ("{\"type\":[\"t\"]}", "bad_event"),
        ("{\"data\":1,\"agent\":5}", "bad_event"),
        ("{\"data\":1,\"run\":{}}", "bad_event"),
        ("{\"data\":1,\"id\":\"1-1\"}", "bad_event"),
        ("{\"data\":1,\"Data\":1}", "bad_event"),
        ("{\"data\":1,\"data\":2}", "bad_event"),
        ("{}", "empty_event"),
        ("{\"agent\":\"a\"}", "empty_event"),
        (&deep, "bad_event"),
        (&deeper, "bad_event"),
    ] {
        scene.refuses_post("/events", body, 400, code).await;
        let line = scene.session.post_as("/events", "application/x-ndjson", body.to_owned());
        let problem = scene.refuses(body.get(..40).unwrap_or(body), line, 400, code).await;
        assert_eq!((&problem["line"], &problem["appended"], &problem["last"]), (&json!(1), &json!(0), &json!(null)));
    }
    for (body, code) in [("[{\"data\":1},]", "bad_json"), ("[{\"data\":1}", "bad_json"), ("[1]", "bad_event")] {
        scene.refuses_post("/events", body, 400, code).await;
    }
    // A line is one event.
    let line = scene.session.post_as("/events", "application/x-ndjson", "[{\"data\":1}]\n");
    scene.refuses("an array as a line", line, 400, "bad_event").await;
}

async fn types_that_cannot_be_used_are_refused(backend: Backend) {
    let scene = Scene::new(backend).await;
    let long = "x".repeat(129);
    let unusable = ["", " ", "a b", "a,b", "a\\\"b", "a\\\\b", "a\\nb", "a\\u0000", "ä", "\\u007f", &long];
    let reserved = ["session.", "session.created", "run.ended", "run.", "command.issued", "approval.decided"];
    for (kinds, code) in [(&unusable[..], "bad_type"), (&reserved, "reserved_type")] {
        for kind in kinds {
            scene.refuses_post("/events", &format!("{{\"type\":\"{kind}\"}}"), 400, code).await;
        }
    }
    // These only look alike.
    for kind in ["session", "running", "Run.ended", "commands.x", "x".repeat(128).as_str()] {
        scene.session.append(json!({"type": kind})).await;
    }
}

async fn names_outside_the_alphabet_are_refused_in_events(backend: Backend) {
    let scene = Scene::new(backend).await;
    let long = "x".repeat(129);
    for name in ["", ".", "..", "a b", "a/b", "a\\nb", "a\\u0000", "\\u0000", "ä", "a{b}", "a%20b", &long] {
        for key in ["agent", "run"] {
            scene.refuses_post("/events", &format!("{{\"data\":1,\"{key}\":\"{name}\"}}"), 400, "bad_name").await;
        }
    }
}

async fn one_bad_element_refuses_its_array_whole(backend: Backend) {
    let scene = Scene::new(backend).await;
    let large = format!("{{\"data\":\"{}\"}}", "x".repeat(256 * 1024));
    for (bad, status, code) in [
        ("null", 400, "bad_event"),
        ("[{\"data\":1}]", 400, "bad_event"),
        ("{}", 400, "empty_event"),
        ("{\"type\":\"run.x\"}", 400, "reserved_type"),
        ("{\"data\":1,\"run\":\"a b\"}", 400, "bad_name"),
        (&large, 413, "event_too_large"),
    ] {
        let body = format!("[{{\"data\":1}},{{\"data\":2}},{bad},{{\"data\":3}}]");
        let problem = scene.refuses_post("/events", &body, status, code).await;
        assert_eq!(problem["element"], 2);
        assert!(problem["detail"].as_str().expect("a detail").starts_with("element 2: "), "{problem}");
    }
    let body = r#"[{"data":1},{"data":2,"run":"ended"}]"#;
    scene.refuses_post("/events", body, 409, "run_ended").await;
}

async fn what_carries_no_events_is_refused(backend: Backend) {
    let scene = Scene::new(backend).await;
    for body in ["", " ", "\r\n\t "] {
        scene.refuses_post("/events", body, 400, "empty_body").await;
    }
    scene.refuses_post("/events", "[]", 400, "empty_batch").await;
    scene.refuses_post("/events", " [ ] ", 400, "empty_batch").await;
    for (kind, body) in [
        ("application/x-ndjson", ""),
        ("application/x-ndjson", "\n \r\n\n"),
        ("text/event-stream", ""),
        ("text/event-stream", ": a comment\n\nretry: 5\n\nevent: t\n\n"),
        ("text/event-stream", "data: unfinished"),
        ("text/event-stream", "data: [DONE]\n\n"),
    ] {
        for path in ["/events", "/events?run=live"] {
            let sent = scene.session.post_as(path, kind, body.to_owned());
            scene.refuses(&format!("{path} {body:?}"), sent, 400, "empty_batch").await;
        }
    }
    for path in ["/commands", "/runs", "/approvals", "/commands/pending/outcome", "/runs/live/end"] {
        scene.refuses_post(path, "", 400, "empty_body").await;
    }
}

async fn what_is_too_large_is_refused(backend: Backend) {
    let scene = Scene::new(backend).await;
    const LIMIT: usize = 256 * 1024;
    let fits =
        |bytes: usize| format!("{{\"data\":\"{}\"}}", "x".repeat(bytes - r#"{"type":"message","data":""}"#.len()));
    for kind in ["application/json", "application/x-ndjson"] {
        scene.session.post_as("/events", kind, fits(LIMIT)).await.is(201);
        let sent = scene.session.post_as("/events", kind, fits(LIMIT + 1));
        assert_eq!(scene.refuses("an event", sent, 413, "event_too_large").await["limit"], LIMIT);
    }
    for (kind, body) in [
        ("application/x-ndjson", "x".repeat(3 * LIMIT)),
        ("application/x-ndjson", " ".repeat(3 * LIMIT)),
        ("text/event-stream", format!("data: {}\n\n", "x".repeat(LIMIT))),
        ("text/event-stream", "data: x\n".repeat(LIMIT)),
        ("text/event-stream", "x".repeat(2 * LIMIT)),
    ] {
        let sent = scene.session.post_as("/events", kind, body);
        scene.refuses(kind, sent, 413, "event_too_large").await;
    }
    let batch = |count: usize| format!("[{}]", vec!["{\"data\":1}"; count].join(","));
    let problem = scene.refuses_post("/events", &batch(1001), 413, "batch_too_large").await;
    assert_eq!(problem["limit"], 1000);
    scene.session.post_as("/events", "application/json", batch(1000)).await.is(201);

    let body = format!("[{}]", vec![fits(100 * 1024); 50].join(","));
    assert!(body.len() > 5_000_000);
    scene.refuses_post("/events", &body, 413, "body_too_large").await;
    let spaces = " ".repeat(4 * 1024 * 1024 + 1);
    scene.refuses_post("/commands", &spaces, 413, "body_too_large").await;
    let data = format!("\"{}\"", "x".repeat(LIMIT));
    scene.refuses_post("/commands", &format!("{{\"type\":\"go\",\"data\":{data}}}"), 413, "event_too_large").await;
    let approval = format!("{{\"approval\":\"x\",\"prompt\":{data}}}");
    scene.refuses_post("/approvals", &approval, 413, "event_too_large").await;
}

async fn bytes_that_are_no_text_are_refused(backend: Backend) {
    let scene = Scene::new(backend).await;
    for bad in [&b"\xff"[..], b"\xc3", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\xc0\x80"] {
        for (kind, head, tail) in [
            ("application/json", "{\"data\":\"", "\"}"),
            ("application/x-ndjson", "{\"data\":\"", "\"}\n"),
            ("text/event-stream", "data: ", "\n\n"),
        ] {
            let body = [head.as_bytes(), bad, tail.as_bytes()].concat();
            let sent = scene.session.post_as("/events", kind, body);
            scene.refuses(&format!("{bad:?} in {kind}"), sent, 400, "bad_utf8").await;
        }
        let body = [b"{\"type\":\"", bad, b"\"}"].concat();
        scene.refuses("a command", scene.session.post_as("/commands", "application/json", body), 400, "bad_utf8").await;
    }
    // A character that two lines share is none in either.
    let sent = scene.session.post_as("/events", "application/x-ndjson", b"{\"data\":\"\xc3\n\xa4\"}\n".to_vec());
    assert_eq!(scene.refuses("a cut character", sent, 400, "bad_utf8").await["line"], 1);
}

async fn server_sent_events_that_are_no_events_are_refused(backend: Backend) {
    let scene = Scene::new(backend).await;
    for (body, code) in [
        ("event: a b\ndata: 1\n\n", "bad_type"),
        ("event: run.ended\ndata: 1\n\n", "reserved_type"),
        ("event: a,b\r\ndata: 1\r\n\r\n", "bad_type"),
    ] {
        let sent = scene.session.post_as("/events", "text/event-stream", body);
        let problem = scene.refuses(body, sent, 400, code).await;
        assert_eq!((&problem["appended"], &problem["last"]), (&json!(0), &json!(null)));
    }
    let deep = format!("data: {}{}\n\n", "[".repeat(121), "]".repeat(121));
    let sent = scene.session.post_as("/events", "text/event-stream", deep);
    scene.refuses("deep", sent, 400, "bad_event").await;
    // What came before it is in the log, and the answer says so.
    let body = "data: 1\n\ndata: 2\n\nevent: run.x\ndata: 3\n\ndata: 4\n\n";
    let before = scene.session.lane("events").await.len();
    let problem = scene.session.post_as("/events", "text/event-stream", body).await.problem(400, "reserved_type");
    let log = scene.session.lane("events").await;
    assert_eq!(log.len(), before + 2);
    assert_eq!((&problem["appended"], &problem["last"]), (&json!(2), &log[before + 1]["id"]));
}

async fn unknown_content_types_are_refused(backend: Backend) {
    let scene = Scene::new(backend).await;
    let kinds = ["text/plain", "application/xml", "json", "application/json-seq", "application", "*/*", "", ";"];
    for path in ["/events", "/commands", "/runs", "/approvals", "/runs/live/end", "/commands/pending/outcome"] {
        for kind in kinds {
            let sent = scene.session.post_as(path, kind, r#"{"data":1}"#);
            scene.refuses(&format!("{path} {kind}"), sent, 415, "unsupported_media_type").await;
        }
        let none = scene.session.http.post(scene.session.url(path)).body(r#"{"data":1}"#);
        scene.refuses(path, crate::support::gateway::answer(none), 415, "unsupported_media_type").await;
    }
    for path in ["/commands", "/runs", "/approvals", "/runs/live/end", "/commands/pending/outcome"] {
        let sent = scene.session.post_as(path, "application/x-ndjson", r#"{"type":"go"}"#);
        scene.refuses(path, sent, 415, "unsupported_media_type").await;
    }
    let put = scene.session.http.put(scene.session.url("/runs/new")).header("content-type", "text/plain").body("x");
    scene.refuses("PUT", crate::support::gateway::answer(put), 415, "unsupported_media_type").await;
    for path in ["/events", "/commands"] {
        let sent = scene.session.http.post(scene.session.url(path)).header("content-encoding", "gzip");
        let sent = sent.header("content-type", "application/json").body(r#"{"type":"go","data":1}"#);
        let problem = scene.refuses(path, crate::support::gateway::answer(sent), 415, "unsupported_media_type").await;
        assert!(problem["detail"].as_str().unwrap().contains("without Content-Encoding"), "{problem}");
    }
    let plain = scene.session.http.post(scene.session.url("/events")).header("content-encoding", "identity");
    crate::support::gateway::answer(plain.json(&json!({"data": 1}))).await.is(201);
    // The name of a type has no case, and may have parameters.
    let kind = "Application/JSON ; charset=utf-8";
    scene.session.post_as("/events", kind, r#"{"data":1}"#).await.is(201);
}

async fn a_refusal_is_read_although_its_body_was_not(backend: Backend) {
    let scene = Scene::new(backend).await;
    let large = || "x".repeat(3 * 1024 * 1024);
    for (path, kind, status, code) in [
        ("/events", "text/plain", 415, "unsupported_media_type"),
        ("/events?agent=a%20b", "application/json", 400, "bad_name"),
        ("/events?colour=red", "application/json", 400, "bad_query"),
        ("/runs/live", "application/json", 405, "method_not_allowed"),
        ("/nothing", "application/json", 404, "unknown_path"),
        ("/commands", "text/plain", 415, "unsupported_media_type"),
    ] {
        let sent = scene.session.post_as(path, kind, large());
        scene.refuses(path, sent, status, code).await;
    }
}
