//! Paths, queries, headers and methods.

use super::Scene;
use crate::{
    store_contract::Backend,
    support::gateway::{answer, on_both_stores},
};

on_both_stores!(
    names_outside_the_alphabet_are_refused_in_paths,
    names_outside_the_alphabet_are_refused_in_queries,
    queries_of_appends_are_read_strictly,
    queries_of_lanes_are_read_strictly,
    cursors_that_are_no_ids_are_refused_in_queries,
    producer_headers_that_are_none_are_refused,
    run_attempts_that_are_none_are_refused,
    what_no_resource_is_made_of_is_refused,
    wrong_methods_are_told_the_right_ones,
    unknown_paths_are_told_so,
);

/// Percent-encoded texts that are no names.
const NO_NAMES: [&str; 14] = [
    "a%20b", "%00", "a%00", "a%0Ab", "a%0D%0Ab", "a%2Fb", "%2e", "%2E%2e", "%2e.", "%C3%A4", "%FF", "a%7Bb%7D",
    "a%2520b", "a+b",
];

async fn names_outside_the_alphabet_are_refused_in_paths(backend: Backend) {
    let scene = Scene::new(backend).await;
    scene.refuses_raw("GET", "/v1/sessions//events", 400, "bad_name").await;
    let long = "x".repeat(129);
    let dots = [".", "..", &long, "a{b", "a|b", "a\\b", "a'b"];
    for name in NO_NAMES.into_iter().chain(dots) {
        for (method, path) in [
            ("GET", format!("/v1/sessions/{name}")),
            ("DELETE", format!("/v1/sessions/{name}")),
            ("GET", format!("/v1/sessions/{name}/events")),
            ("POST", format!("/v1/sessions/{name}/events")),
            ("POST", format!("/v1/sessions/{name}/close")),
            ("GET", format!("/v1/sessions/{}/producers/{name}", scene.session.name)),
            ("POST", format!("/v1/sessions/{}/runs/{name}/heartbeat", scene.session.name)),
            ("PUT", format!("/v1/sessions/{}/runs/{name}", scene.session.name)),
            ("POST", format!("/v1/sessions/{}/commands/{name}/outcome", scene.session.name)),
        ] {
            scene.refuses_raw(method, &path, 400, "bad_name").await;
        }
    }
}

async fn names_outside_the_alphabet_are_refused_in_queries(backend: Backend) {
    let scene = Scene::new(backend).await;
    let session = format!("/v1/sessions/{}", scene.session.name);
    for name in NO_NAMES.into_iter().chain(["", ".", ".."]) {
        for key in ["agent", "run"] {
            scene.refuses_raw("POST", &format!("{session}/events?{key}={name}"), 400, "bad_name").await;
            scene.refuses_raw("GET", &format!("{session}/events?{key}={name}"), 400, "bad_name").await;
            scene.refuses_raw("GET", &format!("{session}/commands?{key}=a,{name}"), 400, "bad_name").await;
        }
        for key in ["agent", "parent"] {
            scene.refuses_raw("PUT", &format!("{session}/runs/new?{key}={name}"), 400, "bad_name").await;
        }
    }
}

async fn queries_of_appends_are_read_strictly(backend: Backend) {
    let scene = Scene::new(backend).await;
    let event = r#"{"data":1}"#;
    for query in ["colour=red", "agent=a&agent=b", "Agent=a", "type=t", "run=r&x", "after=1-1"] {
        scene.refuses_post(&format!("/events?{query}"), event, 400, "bad_query").await;
    }
    let bodies = [
        ("/commands?agent=a", r#"{"type":"go"}"#),
        ("/runs?run=r", r#"{"run":"new"}"#),
        ("/approvals?x=1", r#"{"approval":"new","prompt":1}"#),
        ("/commands/pending/outcome?x=1", r#"{"outcome":"consumed"}"#),
        ("/runs/live/end?x=1", r#"{"status":"completed"}"#),
        ("/runs/live/heartbeat?x=1", ""),
        ("/close?x=1", ""),
    ];
    for (path, body) in bodies {
        scene.refuses_post(path, body, 400, "bad_query").await;
    }
    for query in ["lease_ms=soon", "lease_ms=", "takeover=maybe", "run=r", "lease_ms=1.5"] {
        let path = format!("/v1/sessions/{}/runs/new?{query}", scene.session.name);
        scene.refuses_raw("PUT", &path, 400, "bad_query").await;
    }
    scene.refuses_raw("DELETE", &format!("/v1/sessions/{}?x=1", scene.session.name), 400, "bad_query").await;
    for path in ["?x=1", "/producers/p?x=1"] {
        scene.refuses_get(path, 400, "bad_query").await;
    }
}

async fn queries_of_lanes_are_read_strictly(backend: Backend) {
    let scene = Scene::new(backend).await;
    for query in [
        "limit=0",
        "limit=1001",
        "limit=-1",
        "limit=1.5",
        "limit=ten",
        "limit=",
        "limit=%2B5",
        "limit=99999999999999999999",
        "format=xml",
        "format=",
        "format=Data",
        "format=data",
        "from=yesterday",
        "from=",
        "from=0",
        "colour=red",
        "limit=1&limit=2",
        "pending=maybe",
        "pending=",
    ] {
        for lane in ["events", "commands"] {
            scene.refuses_get(&format!("/{lane}?{query}"), 400, "bad_query").await;
        }
    }
    scene.refuses_get("/events?pending=true", 400, "bad_query").await;
    for list in ["agent", "run", "type"] {
        scene.refuses_get(&format!("/events?{list}={}", ["x"; 101].join(",")), 400, "bad_query").await;
        scene.session.get(&format!("/events?{list}={}", ["x"; 100].join(","))).await.is(200);
    }
    for query in ["type=", "type=a%20b", "type=t,", "type=a%00", "type=%C3%A4"] {
        scene.refuses_get(&format!("/events?{query}"), 400, "bad_type").await;
    }
    scene.refuses_get("/events?agent=a,", 400, "bad_name").await;
    // A stream too is refused before it begins.
    for (query, code) in [
        ("limit=5", "bad_query"),
        ("format=xml", "bad_query"),
        ("from=never", "bad_query"),
        ("colour=red", "bad_query"),
        ("after=x", "bad_cursor"),
        ("agent=a%20b", "bad_name"),
        ("type=a%20b", "bad_type"),
    ] {
        let request = scene.session.http.get(scene.session.url(&format!("/events?{query}")));
        scene.refuses(query, answer(request.header("accept", "text/event-stream")), 400, code).await;
    }
}

async fn cursors_that_are_no_ids_are_refused_in_queries(backend: Backend) {
    let scene = Scene::new(backend).await;
    for cursor in [
        "",
        "x",
        "1",
        "1-",
        "-1",
        "-",
        "1-2-3",
        "01-1",
        "1-01",
        "%2B1-1",
        "1-1%20",
        "1-1%00",
        "$",
        "0",
        "18446744073709551616-1",
        "1-18446744073709551616",
    ] {
        for lane in ["events", "commands"] {
            scene.refuses_get(&format!("/{lane}?after={cursor}"), 400, "bad_cursor").await;
        }
    }
    // These are ids, though none of this log's.
    for cursor in ["1-1", "18446744073709551615-18446744073709551615", "0-1", "1-0"] {
        scene.refuses_get(&format!("/events?after={cursor}"), 410, "cursor_lost").await;
    }
}

async fn producer_headers_that_are_none_are_refused(backend: Backend) {
    let scene = Scene::new(backend).await;
    const ID: &str = "producer-id";
    const EPOCH: &str = "producer-epoch";
    const SEQ: &str = "producer-seq";
    let parts: [(&str, &[u8]); 3] = [(ID, b"q"), (EPOCH, b"0"), (SEQ, b"0")];
    for missing in 0..3 {
        let one = [parts[missing]];
        let two: Vec<_> =
            parts.into_iter().enumerate().filter(|(at, _)| *at != missing).map(|(_, part)| part).collect();
        scene.refuses_headers(&one, 400, "bad_producer").await;
        scene.refuses_headers(&two, 400, "bad_producer").await;
    }
    for number in
        ["", "-1", "+1", "1.5", "x", "1e3", "0x1", "9007199254740992", "99999999999999999999", "1 2", "\u{661}"]
    {
        scene.refuses_headers(&[parts[0], (EPOCH, number.as_bytes()), parts[2]], 400, "bad_producer").await;
        scene.refuses_headers(&[parts[0], parts[1], (SEQ, number.as_bytes())], 400, "bad_producer").await;
    }
    for name in [&b""[..], b"a b", b".", b"..", b"a/b", b"\xc3\xa4", b"\xff", b"a,b"] {
        scene.refuses_headers(&[(ID, name), parts[1], parts[2]], 400, "bad_name").await;
    }
    // Which of two would hold?
    for again in parts {
        let twice: Vec<_> = parts.into_iter().chain([again]).collect();
        scene.refuses_headers(&twice, 400, "bad_producer").await;
    }
    let put = scene.session.http.put(scene.session.url("/runs/new")).header("content-type", "application/json");
    let put = put.header(ID, "q").header(EPOCH, "0").header(SEQ, "0").body(r#"{"data":1}"#);
    scene.refuses("PUT with a producer", answer(put), 400, "bad_producer").await;
}

async fn run_attempts_that_are_none_are_refused(backend: Backend) {
    let scene = Scene::new(backend).await;
    for attempt in ["", "0", "-1", "+1", "1.5", "x", "4294967296", "1 1", "\u{661}"] {
        scene.refuses_headers(&[("run-attempt", attempt.as_bytes())], 400, "bad_attempt").await;
        let beat = scene.session.http.post(scene.session.url("/runs/live/heartbeat"));
        let value = reqwest::header::HeaderValue::from_bytes(attempt.as_bytes()).expect("a header's value");
        scene.refuses(attempt, answer(beat.header("run-attempt", value)), 400, "bad_attempt").await;
    }
}

async fn what_no_resource_is_made_of_is_refused(backend: Backend) {
    let scene = Scene::new(backend).await;
    for accept in
        ["text/html", "image/png, text/plain", "application/xml", "application/json;q=0", "text/event-streamx"]
    {
        let request = scene.session.http.get(scene.session.url("/events")).header("accept", accept);
        scene.refuses(accept, answer(request), 406, "not_acceptable").await;
    }
}

async fn wrong_methods_are_told_the_right_ones(backend: Backend) {
    let scene = Scene::new(backend).await;
    let session = format!("/v1/sessions/{}", scene.session.name);
    for (method, path, allowed) in [
        ("PATCH", format!("{session}/events"), &["GET", "POST"][..]),
        ("DELETE", format!("{session}/events"), &["GET", "POST"]),
        ("PUT", format!("{session}/commands"), &["GET", "POST"]),
        ("POST", session.clone(), &["GET", "DELETE"]),
        ("GET", format!("{session}/close"), &["POST"]),
        ("GET", format!("{session}/runs"), &["POST"]),
        ("POST", format!("{session}/runs/live"), &["PUT"]),
        ("GET", format!("{session}/runs/live/end"), &["POST"]),
        ("PUT", format!("{session}/runs/live/heartbeat"), &["POST"]),
        ("GET", format!("{session}/approvals"), &["POST"]),
        ("GET", format!("{session}/commands/pending/outcome"), &["POST"]),
        ("POST", format!("{session}/producers/p"), &["GET"]),
        ("BREW", format!("{session}/events"), &["GET", "POST"]),
        ("POST", "/livez".into(), &["GET"]),
        ("POST", "/readyz".into(), &["GET"]),
    ] {
        let answer = scene.refuses_raw(method, &path, 405, "method_not_allowed").await;
        let told = answer.headers["allow"].to_str().expect("text").to_owned();
        for method in allowed {
            assert!(told.split(',').any(|told| told.trim() == *method), "{path}: {told}");
        }
    }
}

async fn unknown_paths_are_told_so(backend: Backend) {
    let scene = Scene::new(backend).await;
    let session = format!("/v1/sessions/{}", scene.session.name);
    for path in [
        "/".to_owned(),
        "/v1".into(),
        "/v1/sessions".into(),
        "/v2/sessions/s/events".into(),
        "/V1/sessions/s/events".into(),
        format!("{session}/event"),
        format!("{session}/events/"),
        format!("{session}/events/1-1"),
        format!("{session}/runs/live/end/now"),
        format!("{session}/../{}/events", scene.session.name),
        "/%00".into(),
        "/livez/".into(),
        format!("/{}", "x".repeat(5000)),
    ] {
        for method in ["GET", "POST", "DELETE"] {
            scene.refuses_raw(method, &path, 404, "unknown_path").await;
        }
    }
}
