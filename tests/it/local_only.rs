//! A gateway on loopback without keys answers who sits at this machine, and no page that their browser shows.

use serde_json::{Value, json};

use crate::support::{
    gateway::{Answer, answer},
    http,
    process::Replica,
    unique,
};

/// A request of a page (or of none) that reaches the gateway by a name.
async fn ask(replica: &Replica, method: &str, path: &str, headers: &[(&str, &str)], body: Option<Value>) -> Answer {
    let method = method.parse().expect("a method");
    let request = http().request(method, format!("{}{path}", replica.url()));
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    answer(match body {
        Some(body) => request.json(&body),
        None => request,
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_that_has_its_name_lead_here_gets_nothing() {
    let replica = Replica::start_with(&["--console"]);
    let events = format!("/v1/sessions/{}/events", unique("s"));
    let rebound = [("host", "rebound.example:4770")];
    let own = [("host", "localhost:4770")];
    let event = || Some(json!({"data": 1}));
    ask(&replica, "POST", &events, &own, event()).await.is(201);
    ask(&replica, "POST", &events, &rebound, event()).await.problem(421, "wrong_host");
    let stream = [rebound[0], ("accept", "text/event-stream")];
    for (method, path, headers) in [
        ("GET", &*events, &rebound[..]),
        ("GET", &events, &stream),
        ("PUT", &events.replace("events", "runs/r"), &rebound),
        ("DELETE", events.trim_end_matches("/events"), &rebound),
        ("GET", "/console", &rebound),
    ] {
        let body = (method == "PUT").then(|| json!({"data": 1}));
        ask(&replica, method, path, headers, body).await.problem(421, "wrong_host");
    }
    // Probes and scrapers may come by any name.
    for path in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(ask(&replica, "GET", path, &rebound, None).await.status, 200, "{path}");
    }
    let page = ask(&replica, "GET", &events, &own, None).await.is(200);
    assert_eq!(page["events"].as_array().map(Vec::len), Some(1), "{page}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_another_origin_changes_nothing_unless_it_may() {
    let replica = Replica::start_with(&["--cors-origin", "http://localhost:5173"]);
    let session = format!("/v1/sessions/{}", unique("s"));
    let own = replica.url().to_owned();
    ask(&replica, "POST", &format!("{session}/events"), &[("origin", &own)], Some(json!({"data": 1}))).await.is(201);
    let close = format!("{session}/close");
    for origin in ["https://evil.example", "http://localhost:5174", "null"] {
        ask(&replica, "POST", &close, &[("origin", origin)], None).await.problem(403, "wrong_origin");
    }
    // To read is for CORS to allow, which tells the browser and not the gateway.
    ask(&replica, "GET", &session, &[("origin", "https://evil.example")], None).await.is(200);
    ask(&replica, "POST", &close, &[("origin", "http://localhost:5173")], None).await.is(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn something_in_front_may_let_others_in() {
    let replica = Replica::start_with(&["--insecure-no-auth"]);
    let events = format!("/v1/sessions/{}/events", unique("s"));
    let public = [("host", "chat.example.com"), ("origin", "https://chat.example.com")];
    ask(&replica, "POST", &events, &public, Some(json!({"data": 1}))).await.is(201);
}
