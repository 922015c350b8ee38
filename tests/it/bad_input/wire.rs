//! What is wrong below the level of a request: broken, stalled and lying bodies, and heads without end.

use std::time::Duration;

use serde_json::{Value, json};

use super::Scene;
use crate::{
    store_contract::Backend,
    support::gateway::{Gateway, Socket, on_both_stores},
};

on_both_stores!(
    half_a_body_is_no_body,
    half_a_line_is_no_event,
    a_body_that_stalls_is_given_up,
    a_body_that_rests_between_events_is_waited_for,
    a_length_that_lies_harms_only_its_own_connection,
    chunks_that_are_none_harm_only_their_own_connection,
    heads_without_end_harm_only_their_own_connection,
    what_is_not_http_harms_only_its_own_connection,
    a_head_that_stalls_is_given_up,
    what_is_no_request_is_told_why,
    hundreds_of_stalled_connections_leave_the_gateway_serving,
);

const JSON: &str = "content-type: application/json";
const LINES: &str = "content-type: application/x-ndjson";
const SSE: &str = "content-type: text/event-stream";

/// Sends bytes and waits for the end of the connection; gives the status that was answered, if any.
async fn send(scene: &Scene, bytes: &[u8]) -> Option<u16> {
    let mut socket = scene.gateway.socket().await;
    // The gateway need not read it all.
    let _ = socket.try_send(bytes).await;
    socket.ended().await
}

fn refused(status: Option<u16>) -> bool {
    status.is_none_or(|status| (400..500).contains(&status))
}

async fn half_a_body_is_no_body(backend: Backend) {
    let scene = Scene::new(backend).await;
    for path in ["/events", "/commands", "/runs"] {
        let body = r#"[{"type":"go","run":"new"}]"#;
        let body = if path == "/events" { body } else { &body[1..body.len() - 1] };
        for cut in [0, 1, body.len() / 2, body.len() - 1, body.len()] {
            let what = format!("{path} cut at {cut}");
            let half_chunked = async {
                let mut socket = scene.session.open_body(path, JSON).await;
                if cut > 0 {
                    socket.chunk(&body[..cut]).await;
                }
                socket.half_close().await;
                assert!(refused(socket.ended().await), "{what}");
            };
            scene.unmoved(&what, half_chunked).await;
            let half_a_chunk = async {
                let mut socket = scene.session.open_body(path, JSON).await;
                socket.send(format!("{:x}\r\n{}", body.len() + 1, &body[..cut])).await;
                socket.half_close().await;
                assert!(refused(socket.ended().await), "{what}");
            };
            scene.unmoved(&what, half_a_chunk).await;
        }
    }
}

async fn half_a_line_is_no_event(backend: Backend) {
    let scene = Scene::new(backend).await;
    // As JSON the line is complete: but its body is not.
    for (kind, text) in [(LINES, "{\"data\":12}"), (SSE, "data: 12\n"), (LINES, "{\"data\":"), (SSE, "data: 1")] {
        let half = async {
            let mut socket = scene.session.open_body("/events", kind).await;
            socket.chunk(text).await;
            socket.half_close().await;
            assert!(refused(socket.ended().await), "{text}");
        };
        scene.unmoved(text, half).await;
    }
    // What was whole before it is in the log.
    let before = scene.session.lane("events").await.len();
    let mut socket = scene.session.open_body("/events", LINES).await;
    socket.chunk("{\"data\":\"whole\"}\n{\"data\":").await;
    socket.half_close().await;
    socket.ended().await;
    let log = scene.session.lane("events").await;
    assert_eq!((log.len(), &log[before]["data"]), (before + 1, &json!("whole")));
}

fn impatient(config: &mut moorline::config::Config) {
    config.limits.body_timeout = Duration::from_millis(100);
}

async fn a_body_that_stalls_is_given_up(backend: Backend) {
    let scene = Scene::with(backend, impatient).await;
    for (path, kind, text) in [
        ("/events", JSON, ""),
        ("/events", JSON, "[{\"data\":1},"),
        ("/events", LINES, "{\"data\":1"),
        ("/events", SSE, "data: 1\n"),
        ("/events", SSE, "dat"),
        ("/commands", JSON, "{\"type\":"),
    ] {
        let stalled = async {
            let mut socket = scene.session.open_body(path, kind).await;
            if !text.is_empty() {
                socket.chunk(text).await;
            }
            socket.answer().await
        };
        scene.refuses(&format!("{path} {text:?}"), stalled, 408, "body_timeout").await;
    }
    // A declared length is waited for no longer than chunks are.
    let stalled = async {
        let mut socket = scene.gateway.socket().await;
        let path = format!("/v1/sessions/{}/events", scene.session.name);
        socket.send(format!("POST {path} HTTP/1.1\r\nhost: t\r\n{JSON}\r\ncontent-length: 100\r\n\r\n{{}}")).await;
        socket.answer().await
    };
    scene.refuses("a length", stalled, 408, "body_timeout").await;
    // What was whole before the stall is in the log, and the answer says so.
    let mut socket = scene.session.open_body("/events", LINES).await;
    socket.chunk("{\"data\":\"whole\"}\n{\"data\":").await;
    let problem = socket.answer().await.problem(408, "body_timeout");
    let last = scene.session.lane("events").await.pop().expect("an event");
    assert_eq!(last["data"], "whole");
    assert_eq!((&problem["appended"], &problem["last"]), (&json!(1), &last["id"]));
}

async fn a_body_that_rests_between_events_is_waited_for(backend: Backend) {
    let scene = Scene::with(backend, impatient).await;
    for (kind, one, two) in [(LINES, "{\"data\":1}\n", "{\"data\":2}\n"), (SSE, "data: 1\n\n", ": ping\ndata: 2\n\n")] {
        let mut resting = scene.session.open_body("/events", kind).await;
        resting.chunk(one).await;
        // Two that begin later, one after the other, are given up before it: so much time has passed.
        for _ in 0..2 {
            let mut stalled = scene.session.open_body("/events", LINES).await;
            stalled.chunk("{").await;
            stalled.answer().await.problem(408, "body_timeout");
        }
        resting.chunk(two).await;
        resting.chunk([]).await;
        assert_eq!(resting.answer().await.is(201)["appended"], 2);
    }
}

async fn a_length_that_lies_harms_only_its_own_connection(backend: Backend) {
    let scene = Scene::new(backend).await;
    let head = format!("POST /v1/sessions/{}/events HTTP/1.1\r\nhost: t\r\n{JSON}\r\n", scene.session.name);
    let too_long = async {
        let mut socket = scene.gateway.socket().await;
        socket.send(format!("{head}content-length: 1000\r\n\r\n{{\"data\":1}}")).await;
        socket.half_close().await;
        assert!(refused(socket.ended().await));
    };
    scene.unmoved("too long", too_long).await;
    let too_short = async {
        let mut socket = scene.gateway.socket().await;
        socket.send(format!("{head}content-length: 5\r\n\r\n{{\"data\":1}}")).await;
        socket.answer().await.problem(400, "bad_json");
        // The rest is taken for another request, and is none.
        socket.half_close().await;
        assert!(refused(socket.ended().await));
    };
    scene.unmoved("too short", too_short).await;
    for lengths in [
        "content-length: -1",
        "content-length: 1x",
        "content-length: 10\r\ncontent-length: 11",
        "content-length: 99999999999999999999999",
        "content-length: 10, 11",
        "content-length: +10",
    ] {
        let sent = async {
            let bytes = format!("{head}{lengths}\r\n\r\n{{\"data\":1}}");
            let mut socket = scene.gateway.socket().await;
            socket.send(bytes).await;
            socket.half_close().await;
            assert!(refused(socket.ended().await), "{lengths}");
        };
        scene.unmoved(lengths, sent).await;
    }
}

async fn chunks_that_are_none_harm_only_their_own_connection(backend: Backend) {
    let scene = Scene::new(backend).await;
    for bytes in ["x\r\n", "-1\r\n", "ffffffffffffffffff\r\n", "\r\n\r\n", "a;\0\r\n", "5\r\n{\"data\":1}\r\n0\r\n\r\n"]
    {
        for kind in [JSON, LINES] {
            let sent = async {
                let mut socket = scene.session.open_body("/events", kind).await;
                socket.send(bytes).await;
                socket.half_close().await;
                assert!(refused(socket.ended().await), "{bytes:?}");
            };
            scene.unmoved(bytes, sent).await;
        }
    }
}

async fn heads_without_end_harm_only_their_own_connection(backend: Backend) {
    let scene = Scene::new(backend).await;
    let path = format!("/v1/sessions/{}/events", scene.session.name);
    let body = "content-type: application/json\r\ncontent-length: 10\r\n\r\n{\"data\":1}";
    let many: String = (0..10_000).map(|n| format!("x-{n}: 1\r\n")).collect();
    let more: String = (0..101).map(|n| format!("x-{n}: 1\r\n")).collect();
    for (what, bytes) in [
        ("10,000 headers", format!("POST {path} HTTP/1.1\r\nhost: t\r\n{many}{body}")),
        ("101 headers", format!("POST {path} HTTP/1.1\r\nhost: t\r\n{more}{body}")),
        ("a huge header", format!("POST {path} HTTP/1.1\r\nhost: t\r\nx: {}\r\n{body}", "x".repeat(1 << 20))),
        ("a huge name", format!("POST {path} HTTP/1.1\r\nhost: t\r\n{}: x\r\n{body}", "x".repeat(1 << 20))),
        ("a huge path", format!("POST {path}?{} HTTP/1.1\r\nhost: t\r\n{body}", "x".repeat(1 << 20))),
        ("a huge method", format!("{} {path} HTTP/1.1\r\nhost: t\r\n{body}", "X".repeat(1 << 20))),
    ] {
        let sent = async { assert!(refused(send(&scene, bytes.as_bytes()).await), "{what}") };
        scene.unmoved(what, sent).await;
    }
    // As many as are allowed are served.
    let some: String = (0..90).map(|n| format!("x-{n}: {}\r\n", "y".repeat(400))).collect();
    let mut socket = scene.gateway.socket().await;
    socket.send(format!("POST {path} HTTP/1.1\r\nhost: t\r\n{some}{body}")).await;
    assert_eq!(socket.answer().await.status, 201);
}

async fn what_is_not_http_harms_only_its_own_connection(backend: Backend) {
    let scene = Scene::new(backend).await;
    let path = format!("/v1/sessions/{}/events", scene.session.name);
    let random: Vec<u8> = (0..10_000).map(|_| fastrand::u8(..)).collect();
    for (what, bytes) in [
        ("a TLS hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec()),
        ("nothing", Vec::new()),
        ("line ends", b"\r\n\r\n\r\n".to_vec()),
        ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec()),
        ("no version", format!("POST {path}\r\n\r\n").into_bytes()),
        ("a space in the path", format!("POST {path} x HTTP/1.1\r\n\r\n").into_bytes()),
        ("a NUL in a header", format!("POST {path} HTTP/1.1\r\nx: a\0b\r\n\r\n").into_bytes()),
        ("a line end in a header", format!("POST {path} HTTP/1.1\r\nx\r\ny: 1\r\n\r\n").into_bytes()),
        ("random bytes", random),
    ] {
        let sent = async {
            let mut socket = scene.gateway.socket().await;
            let _ = socket.try_send(&bytes).await;
            socket.half_close().await;
            assert!(refused(socket.ended().await), "{what}");
        };
        scene.unmoved(what, sent).await;
    }
}

async fn a_head_that_stalls_is_given_up(backend: Backend) {
    let scene = Scene::with(backend, |config| {
        (config.limits.head_timeout, config.limits.idle_timeout) =
            (Duration::from_millis(100), Duration::from_millis(300));
    })
    .await;
    for head in ["", "POST", "POST /v1/sessions/s/events HTTP/1.1\r\nhost: t\r\n"] {
        let stalled = async { assert!(refused(send(&scene, head.as_bytes()).await), "{head}") };
        scene.unmoved(head, stalled).await;
    }
}

async fn hundreds_of_stalled_connections_leave_the_gateway_serving(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    let mut stream = session.follow("").await;
    stream.caught_up().await;
    let mut sockets: Vec<Socket> = Vec::new();
    for n in 0..300 {
        let mut socket = match n % 3 {
            0 => session.open_body("/events", JSON).await,
            1 => session.open_body("/events", LINES).await,
            _ => gateway.socket().await,
        };
        socket.send(if n % 3 == 2 { "POST /v1" } else { "5\r\n{\"da" }).await;
        sockets.push(socket);
    }
    for n in 0..20u64 {
        session.append_numbers(n..n + 1).await;
        assert_eq!(stream.data(1).await, [n]);
    }
    drop(sockets);
    assert_eq!(session.data().await, (0..20).map(Value::from).collect::<Vec<_>>());
}

async fn what_is_no_request_is_told_why(backend: Backend) {
    let scene = Scene::new(backend).await;
    let path = format!("/v1/sessions/{}/events", scene.session.name);
    let many: String = (0..101).map(|n| format!("x-{n}: y\r\n")).collect();
    for (status, code, bytes) in [
        (431, "head_too_large", format!("GET {path} HTTP/1.1\r\nhost: t\r\n{many}\r\n")),
        (414, "path_too_long", format!("GET {path}?{} HTTP/1.1\r\n\r\n", "x".repeat(66_000))),
        (400, "bad_http", "nonsense\r\n\r\n".to_owned()),
        (400, "bad_http", format!("GET {path} HTTP/1.1\r\na b: c\r\n\r\n")),
    ] {
        let mut socket = scene.gateway.socket().await;
        // Exactly what was read before the refusal, or a reset would overtake it.
        let _ = socket.try_send(&bytes).await;
        let answer = socket.answer().await;
        answer.problem(status, code);
        assert!(refused(socket.ended().await), "{code}");
    }
    // The same on a connection that has served before.
    let mut socket = scene.gateway.socket().await;
    socket.send("GET /livez HTTP/1.1\r\nhost: t\r\n\r\n").await;
    assert_eq!(socket.answer().await.status, 200);
    socket.send("nonsense\r\n\r\n").await;
    socket.answer().await.problem(400, "bad_http");
}
