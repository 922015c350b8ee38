//! What the scorecard looks like: for programs, for people, and with text that wants to be more than text.

use std::time::Duration;

use super::{
    audit,
    fake::{Fake, Form},
    run,
};

const HOSTILE: &str = "\u{202e}<script>alert(1)</script>\u{1b}[31m&\"'";

#[test]
fn each_connection_with_a_stream_of_its_own_is_told_from_a_shared_one() {
    let endpoint = Fake::default().start();
    let found = audit(&[&endpoint.url("/private"), "--trials", "1"]);
    let card = found.card();
    assert_eq!(card.is("sync", "fail")["share"], 0.0);
    // Another stream after a return is no survival, and says nothing of the one before.
    card.is("resilience", "not_tested");
    assert_eq!(card.is("control", "not_tested")["checks"][0]["status"], "not_tested");
    card.verdict("trapped");
}

/// The same words for each connection are still not one stream.
#[test]
fn each_connection_with_a_copy_of_its_own_is_told_from_a_shared_stream() {
    let endpoint = Fake { form: Form::Words, ..Fake::default() }.start();
    let found = audit(&[&endpoint.url("/private"), "--trials", "1"]);
    let card = found.card();
    assert_eq!(card.is("sync", "fail")["share"], 0.0);
    let (_, evidence) = card.check("sync", "a second and a third surface");
    assert!(evidence.starts_with("a second surface got a copy that began anew"), "{evidence}");
    card.verdict("trapped");
}

/// A log that each connection polls is as late on each as that came; it is one stream all the same.
#[test]
fn a_log_that_is_polled_is_a_shared_one() {
    let endpoint = Fake { polls: Some(Duration::from_millis(450)), events: 101, ..Fake::default() }.start();
    let card = audit(&[&endpoint.url("/stream/{new_id}"), "--trials", "1"]).card();
    let sync = card.is("sync", "pass");
    assert!(sync["figures"]["lag_p50_ms"].as_f64() > Some(75.0), "it shows nothing: {:#}", card.0);
    card.verdict("free");
}

#[test]
fn events_that_nobody_can_come_back_to_are_told() {
    let endpoint = Fake { form: Form::SomeIds, ..Fake::default() }.start();
    let card = audit(&[&endpoint.url("/stream/{new_id}"), "--trials", "1"]).card();
    let (status, evidence) = card.check("fidelity", "events without an id");
    assert_eq!(status, "not_tested");
    assert!(evidence.starts_with("20 in the first stream"), "{evidence}");
}

#[test]
fn the_json_has_its_documented_shape() {
    let endpoint = Fake::default().start();
    let card = audit(&[&endpoint.url("/bare"), "--data", "{}", "--stop-url", &endpoint.url("/chat/x/stop")]).card().0;
    let keys = |value: &serde_json::Value| value.as_object().expect("an object").keys().cloned().collect::<Vec<_>>();
    assert_eq!(
        keys(&card),
        [
            "schema",
            "target",
            "complete",
            "incomplete_because",
            "duration_ms",
            "requests",
            "events",
            "verdict",
            "measures"
        ]
    );
    assert_eq!(card["schema"], "moorline.audit/1");
    assert_eq!(keys(&card["target"]), ["kind", "url", "method"]);
    assert_eq!(keys(&card["verdict"]), ["trap", "why"]);
    let measures = card["measures"].as_array().expect("measures");
    assert_eq!(
        measures.iter().map(|m| m["id"].as_str().expect("an id")).collect::<Vec<_>>(),
        ["resilience", "fidelity", "sync", "control"]
    );
    for measure in measures {
        assert_eq!(keys(measure), ["id", "name", "status", "share", "summary", "figures", "checks", "advice"]);
        for check in measure["checks"].as_array().expect("checks") {
            assert_eq!(keys(check), ["what", "status", "evidence"]);
        }
    }
    let documented = include_str!("../../../docs/AUDIT.md");
    for word in ["moorline.audit/1", "incomplete_because", "lag_p50_ms", "events_after_stop", "not_tested", "undecided"]
    {
        assert!(documented.contains(word), "{word}");
    }
}

#[test]
fn hostile_text_stays_text_in_the_page_and_in_the_terminal() {
    let endpoint = Fake { text: HOSTILE, ..Fake::default() }.start();
    let dir = tempfile::tempdir().expect("a directory");
    let page = dir.path().join("report.html");
    let page = page.to_str().expect("a path");
    let url = endpoint.url("/bare?q=<b>secret-in-query</b>");
    let header = "Authorization: Bearer s3cret-t0ken";
    let found = run(&["audit", &url, "--data", "{}", "--header", header, "--html", page]);
    assert_eq!(found.code, 1, "{}", found.stderr);
    let html = std::fs::read_to_string(page).expect("the page");
    for text in [&html, &found.stdout, &found.stderr] {
        assert!(!text.contains("secret-in-query") && !text.contains("s3cret"), "{text}");
        assert!(!text.contains('\u{202e}') && !text.contains('\u{1b}'), "{text}");
    }
    assert!(html.contains("&lt;script&gt;") && !html.contains("<script"), "{html}");
    for outside in ["src=", "href=", "url(", "@import"] {
        assert!(!html.contains(outside), "{outside} {html}");
    }
    assert!(found.stdout.contains("IN THE SINGLE-CONNECTION TRAP"), "{}", found.stdout);
    assert!(found.stdout.contains("FAIL        Stream resilience"), "{}", found.stdout);
}
