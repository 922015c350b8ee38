//! The client against a server that follows a script: what it sends, and what it makes of each answer.

use std::time::{Duration, Instant};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::mpsc,
};

use super::*;

const STREAM: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\nretry: 10\n\n";

/// Answers each request with the next text of the script and closes the connection. Gives the requests as they came.
async fn scripted<const N: usize>(script: [String; N]) -> (Client, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = Client::new(&format!("http://{}", listener.local_addr().unwrap()), None).unwrap();
    let (requests, received) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        for answer in script {
            let (mut socket, _) = listener.accept().await.unwrap();
            let request = read_request(&mut socket).await;
            requests.send(request).unwrap();
            socket.write_all(answer.as_bytes()).await.unwrap();
            socket.shutdown().await.unwrap();
        }
    });
    (client, received)
}

async fn read_request(socket: &mut tokio::net::TcpStream) -> String {
    let (mut request, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let read = socket.read(&mut buffer).await.unwrap();
        assert!(read > 0, "the request is cut");
        request.extend_from_slice(&buffer[..read]);
        let text = String::from_utf8_lossy(&request).to_lowercase();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
                return text;
            }
        }
    }
}

fn stream(frames: &str) -> String {
    format!("{STREAM}{frames}")
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len())
}

fn entry(id: &str, n: u32) -> String {
    format!("id: {id}\ndata: {{\"type\":\"t\",\"data\":{n}}}\n\n")
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// What a follower sees, in short, up to the end of the stream.
async fn seen(mut follow: Follow) -> Vec<String> {
    let mut seen = Vec::new();
    while let Some(update) = follow.next().await {
        seen.push(match update {
            Ok(Update::Entry(entry)) => entry.id.to_string(),
            Ok(Update::CaughtUp) => "caught-up".into(),
            Ok(Update::Reset { reason, .. }) => reason,
            Ok(Update::Reconnecting { .. }) => "reconnecting".into(),
            Ok(Update::Closed) => "closed".into(),
            Err(error) => format!("error {}", error.code().unwrap_or_default()),
        });
    }
    seen
}

#[tokio::test]
async fn a_follower_comes_back_with_its_cursor() {
    let (client, mut requests) = scripted([
        stream(&format!(
            "{}{}event: caught-up\ndata: {{}}\n\nid: 9-9\ndata: {{\"cut",
            entry("5-1", 1),
            entry("5-2", 2)
        )),
        answer("503 Service Unavailable", "", "<html>"),
        stream(&format!("{}event: closed\ndata: {{}}\n\n", entry("5-3", 3))),
    ])
    .await;
    let seen = seen(client.follow(&name("s"), Lane::Events, FollowOptions::default())).await;
    assert_eq!(seen, ["5-1", "5-2", "caught-up", "reconnecting", "reconnecting", "5-3", "closed"]);
    let first = requests.recv().await.unwrap();
    assert!(first.starts_with("get /v1/sessions/s/events http"), "{first}");
    assert!(first.contains("accept: text/event-stream\r\n") && !first.contains("application/json"), "{first}");
    assert!(!first.contains("last-event-id"), "{first}");
    for _ in 0..2 {
        assert!(requests.recv().await.unwrap().contains("last-event-id: 5-2\r\n"));
    }
}

#[tokio::test]
async fn a_follower_from_now_returns_to_where_now_was() {
    let (client, mut requests) =
        scripted([stream("event: caught-up\nid: 7-3\ndata: {}\n\n"), stream("event: closed\ndata: {}\n\n")]).await;
    let options = FollowOptions {
        begin: Begin::Now,
        agents: vec![name("a"), name("b")],
        types: vec!["x+y".into()],
        ..FollowOptions::default()
    };
    seen(client.follow(&name("s"), Lane::Commands, options)).await;
    let first = requests.recv().await.unwrap();
    assert!(first.starts_with("get /v1/sessions/s/commands?agent=a%2cb&type=x%2by&from=now http"), "{first}");
    assert!(requests.recv().await.unwrap().contains("last-event-id: 7-3\r\n"));
}

#[tokio::test]
async fn after_a_reset_the_old_cursor_is_forgotten() {
    let (client, mut requests) = scripted([
        stream("event: reset\ndata: {\"reason\":\"trimmed\",\"first\":\"8-1\",\"more\":1}\n\n"),
        stream(&format!("{}event: news\ndata: x\n\nevent: closed\ndata: {{}}\n\n", entry("8-1", 1))),
    ])
    .await;
    let options = FollowOptions { cursor: Some("5-5".parse().unwrap()), begin: Begin::Now, ..Default::default() };
    let seen = seen(client.follow(&name("s"), Lane::Events, options)).await;
    assert_eq!(seen, ["trimmed", "reconnecting", "8-1", "closed"]);
    assert!(requests.recv().await.unwrap().contains("last-event-id: 5-5\r\n"));
    let second = requests.recv().await.unwrap();
    assert!(!second.contains("last-event-id") && !second.contains("from=now"), "{second}");
}

#[tokio::test]
async fn a_silent_connection_is_given_up() {
    let (listener, silence) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), Duration::from_millis(400));
    let client = Client::new(&format!("http://{}", listener.local_addr().unwrap()), None).unwrap();
    let mut follow = client.follow(&name("s"), Lane::Events, FollowOptions { silence, ..Default::default() });
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        read_request(&mut socket).await;
        socket.write_all(STREAM.as_bytes()).await.unwrap();
        for _ in 0..3 {
            tokio::time::sleep(silence / 2).await;
            socket.write_all(b":\n").await.unwrap();
        }
        std::future::pending::<()>().await
    });
    let begun = Instant::now();
    let update = follow.next().await.unwrap().unwrap();
    assert!(matches!(&update, Update::Reconnecting { connected_before: true, .. }), "{update:?}");
    assert!(begun.elapsed() >= silence * 5 / 2, "heartbeats count: {:?}", begun.elapsed());
}

#[tokio::test]
async fn no_content_is_the_end() {
    let (client, _requests) = scripted([answer("204 No Content", "", "")]).await;
    let seen = seen(client.follow(&name("s"), Lane::Events, FollowOptions::default())).await;
    assert_eq!(seen, ["closed"]);
}

#[tokio::test]
async fn what_waiting_does_not_heal_ends_the_stream_with_its_code() {
    for (answer, expected) in [
        (answer("401 Unauthorized", "", r#"{"status":401,"code":"bad_token","title":"t"}"#), "error bad_token"),
        (answer("302 Found", "Location: https://h/\r\n", ""), "error "),
        (answer("200 OK", "Content-Type: text/html\r\n", "<html>"), "error "),
        (stream("data: an entry without an id\n\n"), "error "),
        (stream("id: x\ndata: {}\n\n"), "error "),
        (stream("event: reset\ndata: [\n\n"), "error "),
    ] {
        let (client, _requests) = scripted([answer]).await;
        let seen = seen(client.follow(&name("s"), Lane::Events, FollowOptions::default())).await;
        assert_eq!(seen, [expected]);
    }
}

#[tokio::test]
async fn retry_after_is_obeyed() {
    let (client, _requests) =
        scripted([answer("429 Too Many Requests", "Retry-After: 1\r\n", ""), answer("204 No Content", "", "")]).await;
    let begun = Instant::now();
    seen(client.follow(&name("s"), Lane::Events, FollowOptions::default())).await;
    assert!(begun.elapsed() >= Duration::from_secs(1));
}

#[tokio::test]
async fn a_producer_sends_again_under_the_same_numbers() {
    let created = |body: &str| answer("201 Created", "", body);
    let (client, mut requests) = scripted([
        String::new(),
        answer("503 Service Unavailable", "", ""),
        created(r#"{"ids":["5-1","5-2"],"skipped":0}"#),
        answer("200 OK", "", r#"{"ids":[],"duplicate":true,"skipped":1}"#),
    ])
    .await;
    let mut producer = client.producer(&name("s"), Speaker { agent: Some(name("a")), run: None });
    let published = producer.publish(&[json!({"data": 1}), json!({"data": 2})]).await.unwrap();
    assert_eq!(published.ids.len(), 2);
    assert!(producer.publish(&[json!({"data": 3})]).await.unwrap().duplicate);
    assert_eq!(producer.published(), 3);

    let mut ids = Vec::new();
    for seq in [0, 0, 0, 2] {
        let request = requests.recv().await.unwrap();
        assert!(request.starts_with("post /v1/sessions/s/events?agent=a http"), "{request}");
        assert!(request.contains("producer-epoch: 0\r\n"), "{request}");
        assert!(request.contains(&format!("producer-seq: {seq}\r\n")), "{request}");
        ids.push(request.lines().find(|line| line.starts_with("producer-id: ")).unwrap().to_owned());
    }
    assert!(ids.iter().all(|id| *id == ids[0]));
}

#[tokio::test]
async fn a_producer_sees_to_what_it_left_unanswered_before_it_goes_on() {
    let stored = answer("200 OK", "", r#"{"ids":["1-1"],"skipped":1,"duplicate":true}"#);
    let new = || answer("201 Created", "", r#"{"ids":["1-2"]}"#);
    let refused = answer("409 Conflict", "", r#"{"code":"run_ended","detail":"…"}"#);
    let (client, mut requests) =
        scripted([String::new(), stored, new(), String::new(), new(), String::new(), refused, new()]).await;
    let mut producer = client.producer(&name("s"), Speaker::default()).patience(Duration::ZERO);
    let sent = |request: String| {
        let number = request.split("producer-seq: ").nth(1).unwrap().split("\r\n").next().unwrap().to_owned();
        (number, request.split("\r\n\r\n").nth(1).unwrap().to_owned())
    };
    // Other events: what got no answer goes first.
    producer.publish(&["a"]).await.unwrap_err();
    producer.publish(&["b"]).await.unwrap();
    // The same ones again.
    producer.publish(&["c", "d"]).await.unwrap_err();
    producer.publish(&["c", "d"]).await.unwrap();
    assert_eq!(producer.published(), 4);
    // Refused for good: not stored, and its number is free.
    producer.publish(&["e"]).await.unwrap_err();
    producer.publish(&["f"]).await.unwrap();
    assert_eq!(producer.published(), 5);
    for expected in [
        ("0", "\"a\""),
        ("0", "\"a\""),
        ("1", "\"b\""),
        ("2", "[\"c\",\"d\"]"),
        ("2", "[\"c\",\"d\"]"),
        ("4", "\"e\""),
        ("4", "\"e\""),
        ("4", "\"f\""),
    ] {
        let (number, body) = sent(requests.recv().await.unwrap());
        assert_eq!((number.as_str(), body.as_str()), expected);
    }
}

#[tokio::test]
async fn a_producer_gives_up_on_a_refusal_and_on_an_address_where_nobody_is() {
    let problem = r#"{"status":409,"code":"producer_gap","title":"Conflict","detail":"d","expected":0,"received":7}"#;
    let (client, _requests) = scripted([answer("409 Conflict", "", problem)]).await;
    let error = client.producer(&name("s"), Speaker::default()).publish(&[json!({})]).await.unwrap_err();
    assert_eq!(error.code(), Some("producer_gap"));
    assert!(matches!(&error, Error::Problem(problem) if problem.more["received"] == 7));
    assert_eq!(error.to_string(), "d (producer_gap)");

    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let client = Client::new(&format!("http://{closed}"), None).unwrap();
    let error = client.producer(&name("s"), Speaker::default()).publish(&[json!({})]).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn a_token_goes_into_the_header_and_nowhere_else() {
    let (client, mut requests) = scripted([answer("200 OK", "", "{}")]).await;
    let client = Client::new(client.base_url(), Some("abc.def".into())).unwrap();
    client.session(&name("s")).await.unwrap();
    let request = requests.recv().await.unwrap();
    assert!(request.starts_with("get /v1/sessions/s http"), "{request}");
    assert!(request.contains("authorization: bearer abc.def\r\n"), "{request}");
}

fn requested(base: &str, session: &str) -> String {
    let client = Client::new(base, None).unwrap();
    let request = client.request(Method::GET, &[session, "events"]).build().unwrap();
    request.url().to_string()
}

#[test]
fn a_base_url_keeps_its_path() {
    assert_eq!(requested("http://h:1", "a"), "http://h:1/v1/sessions/a/events");
    assert_eq!(requested("https://h/moor/", "a~b:c"), "https://h/moor/v1/sessions/a~b:c/events");
}

#[test]
fn what_is_no_http_address_is_refused() {
    for bad in ["", "localhost:4770", "redis://h", "mailto:x", "http://"] {
        assert!(matches!(Client::new(bad, None), Err(Error::Url { .. })), "{bad:?}");
    }
    assert!(matches!(Client::new("http://h", Some("a\nb".into())), Err(Error::Token(_))));
}

#[test]
fn a_token_is_not_in_the_debug_output() {
    let client = Client::new("http://h", Some("s3cret".into())).unwrap();
    assert!(!format!("{client:?}").contains("s3cret"));
}

#[test]
fn no_proxy_stands_before_this_machine() {
    let loopback = |url: &str| is_loopback(&url.parse().unwrap());
    for url in ["http://127.0.0.1:1", "http://[::1]:1", "http://localhost"] {
        assert!(loopback(url), "{url}");
    }
    assert!(!loopback("http://10.0.0.1") && !loopback("http://example.com"));
}
