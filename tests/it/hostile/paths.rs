//! Tricks with paths: none leads from the session that a token is for to another one.

use serde_json::{Value, json};

use super::{Victim, send};
use crate::support::{
    gateway::Session,
    tokens::{KeyFiles, claims, hs256, token},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_path_leads_to_another_session() {
    let files = KeyFiles::new();
    let (auth, secret) = files.secret();
    let path = auth.secret_file.expect("a file").to_string_lossy().into_owned();
    // The well-behaved client of `Victim` brings no token: this gateway has its own.
    let gateway =
        tokio::task::spawn_blocking(move || crate::cli::program::Gateway::start_with(&["--auth-secret-file", &path]));
    let gateway = gateway.await.expect("a gateway");
    let sign = |change: Value| token(&json!({"alg": "HS256"}), &claims(change), hs256(&secret));
    let all = ["read", "append", "command", "manage"];
    let ours = sign(json!({"moorline": {"sessions": ["ours", "team-*"], "can": all}}));
    let owner = |name: &str| Session::at(gateway.url(), name).bearing(&sign(json!({})));
    owner("theirs").append_numbers(0..3).await;
    owner("ours").append_numbers(0..1).await;
    let before = owner("theirs").state().await;
    let addr = gateway.url().trim_start_matches("http://").to_owned();
    let absolute = format!("http://{addr}/v1/sessions/theirs");
    for session in [
        "theirs",
        "ours/../theirs",
        "ours%2f..%2ftheirs",
        "ours%2F%2E%2E%2Ftheirs",
        "ours%252f..%252ftheirs",
        "ours/%2e%2e/theirs",
        "ours/.%2e/theirs",
        "ours/./../theirs",
        "ours//../theirs",
        "/theirs",
        "ours;/../theirs",
        "ours%5c..%5ctheirs",
        "ours\\..\\theirs",
        "ours%00theirs",
        "theirs%00",
        "theirs%00ours",
        "%74heirs",
        "%2574heirs",
        "THEIRS",
        "theirs%20",
        "theirs%0d%0ax-y: z",
        "theirs.",
        "theirs%2f",
        "team-%2f..%2f..%2ftheirs",
        "team-/../theirs",
        "team-%00/../theirs",
        "ours%ff",
        "ours%",
        "ours%2",
        "ours%zz",
        "..%2ftheirs",
        "..",
        "%2e%2e",
        ".",
        "{session}",
        "ours?session=theirs&x=",
        "ours#/../theirs",
        "ours%23/../theirs",
        "ours%3f/../theirs",
        "th%C3%A9irs",
        "t%EF%BD%88eirs",
        "",
        &absolute,
    ] {
        let base = if session.starts_with("http") { session.to_owned() } else { format!("/v1/sessions/{session}") };
        for (method, rest) in [
            ("GET", ""),
            ("GET", "/events"),
            ("POST", "/events"),
            ("POST", "/close"),
            ("DELETE", ""),
            ("POST", "/commands"),
        ] {
            let body = "{\"type\":\"tricked\",\"data\":1}";
            let request = format!(
                "{method} {base}{rest} HTTP/1.1\r\nhost: {addr}\r\nauthorization: Bearer {ours}\r\n\
                 content-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            );
            let status = send(&addr, request.as_bytes()).await;
            // What stands behind a # is no part of the address: that request is for our own session, and may be good.
            let refused = status.is_none_or(|status| (400..500).contains(&status)) || session.contains('#');
            assert!(refused, "{method} {base}{rest}: {status:?}");
        }
        assert_eq!(owner("theirs").state().await, before, "{session}");
    }
    owner("ours").append_numbers(0..1).await;
    // The token is good where it is for; there too, a name that is spelt with escapes is the same name.
    Session::at(gateway.url(), "%6furs").bearing(&ours).get("/events").await.is(200);
    let log = gateway.log();
    assert!(!log.contains("panicked") && !log.contains("ERROR"), "{log}");
    drop(gateway);

    // The same tricks beside a client that behaves.
    let victim = Victim::start(&[]).await;
    for session in ["a%2fb", "a%00", "..", "%2e%2e%2f", "a%252fb", "%", "a/../b", "//", "%f0%28%8c%28"] {
        for rest in ["", "/events", "/runs/..", "/runs/%2e", "/commands/%00/outcome", "/producers/a%2fb"] {
            let request = format!("GET /v1/sessions/{session}{rest} HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n");
            let status = send(victim.addr(), request.as_bytes()).await;
            assert!(status.is_none_or(|status| (400..500).contains(&status)), "{session}{rest}: {status:?}");
        }
    }
    victim.unharmed("path tricks").await;
}
