//! What becomes of a connection, and of what was sent over it: clients that hang up, that rest, that send what nobody waits
//! for.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    store_contract::Backend,
    support::{
        eventually,
        gateway::{Gateway, Session, Socket, on_both_stores},
    },
};

on_both_stores!(
    a_write_goes_on_when_its_client_hangs_up,
    a_client_that_sends_no_more_gets_its_answer,
    a_bad_request_behind_a_good_one_is_explained,
);

fn request(line: &str, headers: &str, body: &str) -> String {
    format!("{line} HTTP/1.1\r\nhost: t\r\n{headers}content-length: {}\r\n\r\n{body}", body.len())
}

const LINES: &str = "content-type: application/x-ndjson\r\n";
const JSON: &str = "content-type: application/json\r\n";

/// A header that makes a request more than a brief one.
fn padding() -> String {
    format!("x-padding: {}\r\n", "p".repeat(5000))
}

async fn a_write_goes_on_when_its_client_hangs_up(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let send = async |request: String| {
        gateway.socket().await.send(request).await;
    };

    let session = gateway.session();
    let path = format!("/v1/sessions/{}", session.name);
    let lines: String = (0..1200).map(|n| format!("{{\"data\":{n}}}\n")).collect();
    send(request(&format!("POST {path}/events"), &format!("{LINES}connection: close\r\n"), &lines)).await;
    has(&session, "all lines", |view| view["lanes"]["events"]["count"] == 1200).await;

    send(request(&format!("PUT {path}/runs/r1"), LINES, "{\"data\":\"a\"}\n{\"data\":\"b\"}\n")).await;
    has(&session, "a completed run", |view| view["runs"][0]["status"] == "completed").await;

    send(request(&format!("POST {path}/close"), &format!("{JSON}{}", padding()), "{}")).await;
    has(&session, "an end", |view| !view["closed"].is_null()).await;
}

/// Waits until the session is there and has something.
async fn has(session: &Session, what: &str, has: impl Fn(&Value) -> bool) {
    eventually(&format!("the session has {what}"), || async {
        let answer = session.get("").await;
        (answer.status == 200 && has(&answer.json())).then_some(())
    })
    .await;
}

async fn a_client_that_sends_no_more_gets_its_answer(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    session.append(json!({"data": 0})).await;
    let path = format!("/v1/sessions/{}", session.name);
    let post = format!("POST {path}/events");
    let event = r#"{"data":1}"#;
    let chunked = format!("{post} HTTP/1.1\r\nhost: t\r\n{LINES}transfer-encoding: chunked\r\n\r\n");
    for (what, request, status) in [
        ("a brief request", request(&post, JSON, event), 201),
        ("the last one", request(&post, &format!("{JSON}connection: close\r\n"), event), 201),
        ("an old one", request(&post, JSON, event).replace("HTTP/1.1", "HTTP/1.0"), 201),
        ("a large one", request(&post, &(JSON.to_owned() + &padding()), event), 201),
        ("chunks", format!("{chunked}a\r\n{event}\r\n0\r\n\r\n"), 201),
        ("half a body", format!("{chunked}a\r\n{event}\r\n"), 400),
        ("a page", request(&format!("GET {path}/events"), "", ""), 200),
        ("a session", request(&format!("GET {path}"), "", ""), 200),
        ("a deletion", request(&format!("DELETE {path}"), "", ""), 204),
    ] {
        let mut socket = gateway.socket().await;
        socket.send(request).await;
        socket.half_close().await;
        assert_eq!(socket.ended().await, Some(status), "{what}");
    }
}

async fn a_bad_request_behind_a_good_one_is_explained(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let mut socket = gateway.socket().await;
    socket.send("GET /livez HTTP/1.1\r\nhost: t\r\n\r\nGET /a b HTTP/1.1\r\nhost: t\r\n\r\n").await;
    assert_eq!(socket.answer().await.status, 200);
    socket.answer().await.problem(400, "bad_http");
    assert_eq!(socket.ended().await, None);
}

/// Waits for as long as a head may take.
async fn time_of_a_head(gateway: &Gateway) {
    half_a_head(gateway).await.ended().await;
}

async fn half_a_head(gateway: &Gateway) -> Socket {
    let mut socket = gateway.socket().await;
    socket.send("GET /livez HTTP/1.1\r\n").await;
    socket
}

#[tokio::test]
async fn the_rest_of_an_answered_body_is_no_head_that_takes_too_long() {
    let gateway = Gateway::start_with(Backend::Memory, |config| {
        config.limits.head_timeout = Duration::from_millis(300);
    })
    .await;
    let (head, body) = ("POST /v1/sessions/late/events?nobody=knows", r#"{"data":1}"#);
    let request = request(head, JSON, body);
    let (head, body) = request.split_at(request.len() - body.len());
    let mut socket = gateway.socket().await;
    socket.send(head).await;
    socket.answer().await.problem(400, "bad_query");
    socket.send(body).await;
    time_of_a_head(&gateway).await;
    socket.send(request.replace("?nobody=knows", "")).await;
    assert_eq!(socket.answer().await.status, 201);
}

#[tokio::test]
async fn a_connection_on_which_nothing_comes_is_closed_in_time() {
    let gateway = Gateway::start_with(Backend::Memory, |config| {
        config.limits.idle_timeout = Duration::from_secs(1);
        config.limits.head_timeout = Duration::from_millis(500);
    })
    .await;
    let mut silent = gateway.socket().await;
    let mut resting = gateway.socket().await;
    resting.send(request("POST /v1/sessions/rests/events", JSON, r#"{"data":1}"#)).await;
    assert_eq!(resting.answer().await.status, 201);
    assert_eq!(resting.ended().await, None);
    // Now the silent one's time is up, too.
    let mut later = half_a_head(&gateway).await;
    tokio::select! {
        biased;
        before = silent.ended() => assert_eq!(before, None),
        _ = later.ended() => panic!("it is still open"),
    }
}
