//! Requests that come whole are answered in another way than those that come in pieces. Nobody can tell by the answers.

use std::time::Duration;

use serde_json::json;

use crate::{
    store_contract::Backend,
    support::gateway::{Answer, Gateway, Socket, on_both_stores},
};

on_both_stores!(
    an_answer_is_the_same_whole_and_in_pieces,
    a_connection_goes_over_wherever_a_request_is_cut,
    requests_that_come_together_are_answered_in_their_order,
);

/// A request with a JSON body, and more headers.
fn request(path: &str, headers: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\n{headers}content-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Sends a request in a way that leaves no choice: what asks for trailers is no brief request.
async fn in_pieces(gateway: &Gateway, request: &str) -> Answer {
    let mut socket = gateway.socket().await;
    socket.send(request.replacen("host: t\r\n", "host: t\r\nte: trailers\r\n", 1)).await;
    socket.answer().await
}

async fn whole(gateway: &Gateway, request: &str) -> Answer {
    let mut socket = gateway.socket().await;
    socket.send(request).await;
    socket.answer().await
}

/// The answer without what differs from one request to the next.
fn comparable(answer: &Answer) -> (u16, Vec<(String, String)>, String) {
    let mut headers: Vec<(String, String)> = answer
        .headers
        .iter()
        .filter(|(name, _)| !["x-request-id", "date", "content-length"].contains(&name.as_str()))
        .map(|(name, value)| (name.to_string(), value.to_str().expect("text").to_owned()))
        .collect();
    headers.sort();
    // Ids of entries and commands.
    let mut text: Vec<char> =
        answer.text.chars().map(|c| if "0123456789abcdef".contains(c) { '0' } else { c }).collect();
    text.dedup();
    (answer.status, headers, text.into_iter().collect())
}

async fn an_answer_is_the_same_whole_and_in_pieces(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    session.append(json!({"data": 0})).await;
    let path = |rest: &str| format!("/v1/sessions/{}{rest}", session.name);
    for (what, request) in [
        ("an event", request(&path("/events"), "", r#"{"data":1}"#)),
        ("several", request(&path("/events"), "", r#"[{"data":1},{"data":2}]"#)),
        ("an event of an agent", request(&path("/events?agent=a&run=r"), "", r#"{"data":1}"#)),
        ("an id of its own", request(&path("/events"), "x-request-id: mine\r\n", r#"{"data":1}"#)),
        ("a producer without a number", request(&path("/events"), "producer-id: p\r\n", r#"{"data":1}"#)),
        ("no JSON", request(&path("/events"), "", "{")),
        ("nothing", request(&path("/events"), "", "")),
        ("an unknown parameter", request(&path("/events?nobody=knows"), "", r#"{"data":1}"#)),
        ("a bad name", request("/v1/sessions/%20/events", "", r#"{"data":1}"#)),
        ("no such path", request("/v2", "", "{}")),
        ("no such method", request("/livez", "", "{}")),
        ("a command", request(&path("/commands"), "", r#"{"type":"steer","data":"left"}"#)),
        ("a run that is not there", request(&path("/runs/nobody/end"), "", r#"{"status":"completed"}"#)),
        ("another kind of body", request(&path("/events"), "", "{}").replace("application/json", "text/plain")),
        ("lines", request(&path("/events"), "", "{\"data\":1}\n").replace("/json", "/x-ndjson")),
    ] {
        let (whole, pieces) = (whole(&gateway, &request).await, in_pieces(&gateway, &request).await);
        assert_eq!(comparable(&whole), comparable(&pieces), "{what}");
        let (length, date) = (&whole.headers["content-length"], &whole.headers["date"]);
        assert_eq!(length.to_str().unwrap().parse(), Ok(whole.text.len()), "{what}");
        assert!(date.to_str().unwrap().ends_with(" GMT"), "{what}: {date:?}");
        assert!(whole.headers.contains_key("x-request-id"), "{what}");
    }
}

async fn a_connection_goes_over_wherever_a_request_is_cut(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    let request =
        |n: usize| request(&format!("/v1/sessions/{}/events", session.name), "", &json!({"data": n}).to_string());
    let length = request(100).len();
    for at in 1..length {
        let mut socket = gateway.socket().await;
        // A good one, one in two pieces, and one behind it.
        for (n, cut) in [(100 + 3 * at, None), (101 + 3 * at, Some(at)), (102 + 3 * at, None)] {
            let request = request(n);
            let (first, second) = request.split_at(cut.unwrap_or(0));
            socket.send(first).await;
            tokio::task::yield_now().await;
            socket.send(second).await;
            assert_eq!(socket.answer().await.status, 201, "cut at {at}");
        }
    }
    let all = session.data().await;
    assert_eq!(all, (103..100 + 3 * length).map(|n| json!(n)).collect::<Vec<_>>());
}

async fn requests_that_come_together_are_answered_in_their_order(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    let path = format!("/v1/sessions/{}/events", session.name);
    let mut socket = gateway.socket().await;
    socket.send(request(&path, "", r#"{"data":0}"#)).await;
    assert_eq!(socket.answer().await.status, 201);
    let two = request(&path, "", r#"{"data":1}"#) + &request(&path, "", "{") + &request(&path, "", r#"{"data":2}"#);
    socket.send(two).await;
    for status in [201, 400, 201] {
        assert_eq!(socket.answer().await.status, status);
    }
    assert_eq!(session.data().await, [0, 1, 2]);
}

#[tokio::test]
async fn a_connection_at_rest_is_closed_in_time() {
    let gateway = Gateway::start_with(Backend::Memory, |config| {
        config.limits.idle_timeout = Duration::from_millis(300);
    })
    .await;
    let mut socket = gateway.socket().await;
    for n in 0..3 {
        socket.send(request("/v1/sessions/rests/events", "", &json!({"data": n}).to_string())).await;
        assert_eq!(socket.answer().await.status, 201);
    }
    assert_eq!(socket.ended().await, None);
}

#[tokio::test]
async fn a_replica_that_ends_closes_connections_at_rest() {
    let gateway = Gateway::start(Backend::Memory).await;
    let mut sockets: Vec<Socket> = Vec::new();
    for n in 0..20 {
        let mut socket = gateway.socket().await;
        socket.send(request("/v1/sessions/ends/events", "", &json!({"data": n}).to_string())).await;
        assert_eq!(socket.answer().await.status, 201);
        sockets.push(socket);
    }
    gateway.shutdown().await;
    for mut socket in sockets {
        assert_eq!(socket.ended().await, None);
    }
}
