//! What can't be audited, and audits that end early.

use std::{
    net::TcpListener,
    time::{Duration, Instant},
};

use super::{PATIENCE, audit, fake::Fake};
use crate::cli::program::{Gateway, Program};

#[test]
fn what_is_no_stream_is_said_clearly() {
    let endpoint = Fake::default().start();
    let nobody = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
    let nobody = format!("http://{nobody}/stream");
    for (url, said) in [
        (nobody.as_str(), "nothing answers at"),
        (&endpoint.url("/locked"), "answers 401: no token came"),
        (&endpoint.url("/locked"), "--token"),
        (&endpoint.url("/nowhere"), "answers 404"),
        (&endpoint.url("/page"), "answers with text/html, not with a stream"),
        (&endpoint.url("/bare"), "answers 405"),
        (&endpoint.url("/squeezed"), "content encoded as gzip"),
        // A gateway that is none.
        (&endpoint.url, "--plain"),
    ] {
        let found = audit(&[url]);
        assert_eq!(found.code, 3, "{url}: {}", found.stderr);
        assert!(found.stderr.contains(said), "{said}: {}", found.stderr);
        assert_eq!(found.stdout, "");
    }
}

#[test]
fn a_stream_that_says_nothing_is_given_up() {
    let endpoint = Fake::default().start();
    let found = audit(&[&endpoint.url("/silent"), "--watch", "1s"]);
    assert_eq!(found.code, 3);
    assert!(found.stderr.contains("nothing came in 1s"), "{}", found.stderr);
}

#[test]
fn wrong_usage_is_2() {
    for arguments in [
        &["ftp://h/x"][..],
        &["http://h/{nonsense}"],
        &["http://h/x", "--resume-url", "http://h/{id}"],
        &["http://h/x", "--header", "no colon"],
        &["http://h", "--header", "x: of a gateway, which takes none"],
        &["http://h/x", "--data", "@/nowhere/at/all"],
        &["http://h/x", "--trials", "0"],
        &["http://h/x", "--id-from", "body"],
        &[],
    ] {
        let found = audit(arguments);
        assert_eq!(found.code, 2, "{arguments:?} {}", found.stderr);
    }
}

#[test]
fn control_c_leaves_a_partial_scorecard() {
    let endpoint = Fake { events: 300, ..Fake::default() }.start();
    let mut program = Program::start(&["audit", "--json", &endpoint.url("/stream/{new_id}")]);
    program.wait_for_stderr("cut 1 of 6");
    program.interrupt();
    assert_eq!(program.wait(PATIENCE), 130);
    let card: serde_json::Value = serde_json::from_str(&program.stdout()).expect("a scorecard");
    assert_eq!(card["complete"], false);
    assert_eq!(card["incomplete_because"], "interrupted");
    assert_eq!(card["measures"][2]["status"], "pass", "{card:#}");
}

/// A gateway that froze can't delete the sessions of the audit: the scorecard comes all the same.
#[test]
fn control_c_on_a_frozen_gateway_leaves_a_partial_scorecard() {
    let gateway = Gateway::start();
    let mut program = Program::start(&["audit", "--json", gateway.url()]);
    program.wait_for_stderr("cut 3 of 6");
    gateway.signal("-STOP");
    program.interrupt();
    assert_eq!(program.wait(PATIENCE), 130);
    gateway.signal("-CONT");
    let card: serde_json::Value = serde_json::from_str(&program.stdout()).expect("a scorecard");
    assert_eq!(card["incomplete_because"], "interrupted");
    assert_eq!(card["measures"][0]["figures"]["survived"], 2.0, "{card:#}");
}

#[test]
fn the_time_is_a_bound() {
    let endpoint = Fake { events: 1_000_000, ..Fake::default() }.start();
    let begun = Instant::now();
    let found = audit(&[&endpoint.url("/stream/{new_id}"), "--time", "4s", "--watch", "2s"]);
    let card = found.card().0;
    assert_eq!(card["incomplete_because"], "the time was up");
    assert_eq!(found.code, 3, "what passed so far is not all: {}", found.stderr);
    assert!(begun.elapsed() < Duration::from_secs(60));
}

/// An endpoint that answers at first: what was found stays found.
#[test]
fn an_endpoint_that_goes_away_leaves_a_partial_scorecard() {
    let endpoint = Fake { events: 150, ..Fake::default() }.start();
    let mut program = Program::start(&["audit", "--json", &endpoint.url("/stream/{new_id}"), "--trials", "3"]);
    program.wait_for_stderr("cut 2 of 3");
    drop(endpoint);
    assert_ne!(program.wait(PATIENCE), 0);
    let card: serde_json::Value = serde_json::from_str(&program.stdout()).expect("a scorecard");
    assert_eq!(card["complete"], false);
    assert!(card["incomplete_because"].as_str().is_some_and(|why| why.contains("nothing answers at")), "{card:#}");
    assert_eq!(card["measures"][2]["status"], "pass", "{card:#}");
}
