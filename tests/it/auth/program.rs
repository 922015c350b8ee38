//! The program with tokens: what it prints, what it refuses, and what never shows.

use std::time::Duration;

use serde_json::json;

use crate::{
    cli::program::{Gateway, moorline},
    support::{
        tokens::{KeyFiles, claims, hs256, token},
        unique,
    },
};

#[test]
fn a_token_made_for_development_opens_what_it_says() {
    let files = KeyFiles::new();
    let secret = files.secret().0.secret_file.expect("a file").to_string_lossy().into_owned();
    let gateway = Gateway::start_with(&["--auth-secret-file", &secret]);
    let make = |arguments: &[&str]| {
        let made = moorline(&[&["token", "--secret-file", &secret], arguments].concat(), "");
        assert_eq!(made.code, 0, "{made:?}");
        made.stdout.trim_end().to_owned()
    };
    let writer = make(&["chat-*", "--can", "append", "--agent", "writer"]);
    let reader = make(&["chat-*"]);
    let owner = make(&["*", "--can", "read,append,command,manage"]);

    let refused = gateway.run(&["publish", "chat-1", "hello"], "");
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("unauthenticated") && refused.stderr.contains("MOORLINE_TOKEN"), "{refused:?}");
    assert_eq!(gateway.run(&["publish", "chat-1", "hello", "--token", &writer], "").code, 0);
    let refused = gateway.run(&["publish", "chat-1", "hello", "--token", &reader], "");
    assert!(refused.stderr.contains("forbidden") && refused.stderr.contains("append"), "{refused:?}");
    let refused = gateway.run(&["publish", "chat-1", "hello", "--agent", "boss", "--token", &writer], "");
    assert!(refused.stderr.contains("wrong_agent"), "{refused:?}");
    let refused = gateway.run(&["publish", "other", "hello", "--token", &writer], "");
    assert!(refused.stderr.contains("forbidden"), "{refused:?}");
    for arguments in
        [&["tail", "chat-1"][..], &["sessions", "show", "chat-1"], &["runs", "chat-1"], &["command", "chat-1", "stop"]]
    {
        let refused = gateway.run(&[arguments, &["--token", &writer]].concat(), "");
        assert_eq!(refused.code, 1, "{arguments:?} {refused:?}");
        assert!(refused.stderr.contains("forbidden") && refused.stderr.contains("moorline token"), "{refused:?}");
    }
    let shown = gateway.run(&["sessions", "show", "chat-1", "--token", &reader], "");
    assert!(shown.stdout.contains("count: 1"), "{shown:?}");
    assert_eq!(gateway.run(&["command", "chat-1", "steer", "--token", &owner], "").code, 0);
    assert_eq!(gateway.run(&["sessions", "close", "chat-1", "--token", &owner], "").code, 0);
    let tail = gateway.run(&["tail", "chat-1", "--token", &reader], "");
    assert!(tail.stdout.contains("writer │ hello"), "{tail:?}");
    assert_eq!(gateway.run(&["health"], "").code, 0, "health is open");
}

#[test]
fn a_tail_ends_when_its_token_does() {
    let files = KeyFiles::new();
    let secret = files.secret().0.secret_file.expect("a file").to_string_lossy().into_owned();
    let gateway = Gateway::start_with(&["--auth-secret-file", &secret, "--auth-leeway", "0"]);
    let made = moorline(&["token", "*", "--ttl", "2s", "--secret-file", &secret], "");
    let mut tail = gateway.spawn(&["tail", "s", "--token", made.stdout.trim_end()]);
    tail.wait_for_stderr("caught up");
    assert_eq!(tail.wait(Duration::from_secs(20)), 1);
    assert!(tail.stderr().contains("token_expired"), "{}", tail.stderr());
}

#[test]
fn no_log_shows_a_token() {
    let files = KeyFiles::new();
    let (auth, secret) = files.secret();
    let path = auth.secret_file.expect("a file").to_string_lossy().into_owned();
    let gateway = Gateway::start_with(&["--auth-secret-file", &path, "--log", "trace", "--log-format", "json"]);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let good = token(&json!({"alg": "HS256"}), &claims(json!({})), hs256(&secret));
    let bad = token(&json!({"alg": "HS256"}), &claims(json!({})), hs256(b"another"));
    let http = crate::support::http();
    runtime.block_on(async {
        for token in [&good, &bad] {
            for path in
                ["/v1/sessions/s/events", "/v1/sessions/a%20b/events", "/nowhere", "/v1/sessions/s/events/x", "/readyz"]
            {
                for query in ["access_token=", "x=1&access_token=", "access%5Ftoken=", "access_token=1&access_token="] {
                    for method in ["GET", "POST", "PATCH"] {
                        let url = format!("{}{path}?{query}{token}", gateway.url());
                        let request = http.request(method.parse().expect("a method"), url).body("{\"data\":1}");
                        let answer = request.send().await.expect("an answer");
                        let (headers, text) = (format!("{:?}", answer.headers()), answer.text().await.expect("a text"));
                        assert!(!text.contains(token.as_str()) && !headers.contains(token.as_str()), "{path} {text}");
                    }
                }
            }
        }
    });
    let log = gateway.log();
    for token in [&good, &bad] {
        let signature = token.rsplit('.').next().expect("a signature");
        assert!(!log.contains(signature), "{log}");
    }
    assert!(!log.contains(std::str::from_utf8(&secret).expect("text")));
}

#[test]
fn without_tokens_only_loopback_is_listened_on() {
    let files = KeyFiles::new();
    let secret = files.secret().0.secret_file.expect("a file").to_string_lossy().into_owned();
    let refused = moorline(&["serve", "--listen", "0.0.0.0:0"], "");
    assert_eq!(refused.code, 2);
    assert!(refused.stderr.contains("--auth-secret-file"), "{refused:?}");
    let keyless = moorline(&["serve", "--listen", "127.0.0.1:0", "--auth-audience", "us"], "");
    assert_eq!(keyless.code, 2);
    assert!(keyless.stderr.contains("--auth-secret-file"), "{keyless:?}");
    let guarded = Gateway::start_on("0.0.0.0:0", &["--auth-secret-file", &secret]);
    assert!(guarded.log().contains("tokens"), "{}", guarded.log());
    let unreadable = moorline(&["serve", "--listen", "127.0.0.1:0", "--auth-secret-file", &unique("/nowhere/")], "");
    assert_eq!(unreadable.code, 1);
    assert!(unreadable.stderr.contains("can't read the keys"), "{unreadable:?}");
}
