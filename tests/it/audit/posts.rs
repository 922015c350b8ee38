//! POSTs that stream: the trap itself, and ways out of it.

use std::time::Duration;

use super::{
    audit,
    fake::{Fake, Running, Stop},
};

#[test]
fn a_bare_post_is_trapped_and_its_output_unseen() {
    // To the outside both are the same, and so is what is said.
    for dies_with_client in [true, false] {
        let endpoint = Fake { dies_with_client, ..Fake::default() }.start();
        let found = audit(&[&endpoint.url("/bare"), "--data", "{\"stream\":true}"]);
        let card = found.card();
        assert_eq!(found.code, 1);
        assert!(found.stderr.contains("3 generations at your expense"), "{}", found.stderr);
        assert_eq!(endpoint.begun(), 3, "as many as was said");
        assert_eq!(card.is("resilience", "fail")["share"], 0.0);
        assert!(card.check("resilience", "cut").1.contains("began another answer"), "{:#}", card.0);
        card.is("fidelity", "not_tested");
        let sync = card.is("sync", "fail");
        assert_eq!(sync["share"], 0.0);
        card.is("control", "not_tested");
        let (status, why) = card.check("control", "a disconnect is no stop");
        assert_eq!(status, "not_tested");
        assert!(why.contains("may have stopped, or run on unseen"), "{why}");
        card.verdict("trapped");
    }
}

fn with_ways(endpoint: &Running, more: &[&str]) -> super::Audit {
    let (chat, stop) = (endpoint.url("/chat/{new_id}"), endpoint.url("/chat/{new_id}/stop"));
    let mut arguments = vec![chat.as_str(), "--data", "{}", "--resume-url", &chat, "--stop-url", &stop];
    arguments.extend(if more.contains(&"--trials") { &[][..] } else { &["--trials", "2"] });
    arguments.extend(more);
    audit(&arguments)
}

#[test]
fn a_post_with_a_way_back_and_a_stop_passes() {
    let endpoint = Fake::default().start();
    let found = with_ways(&endpoint, &[]);
    let card = found.card();
    for id in ["resilience", "fidelity", "sync", "control"] {
        card.is(id, "pass");
    }
    assert_eq!(found.code, 0);
    card.verdict("free");
    assert_eq!(endpoint.begun(), 5, "the first, two cuts, the disconnect, the stop");
    assert!(found.stderr.contains("5 generations at your expense"), "{}", found.stderr);
}

#[test]
fn a_disconnect_that_stops_is_found_where_it_can_be_seen() {
    let endpoint = Fake { dies_with_client: true, ..Fake::default() }.start();
    let found = with_ways(&endpoint, &[]);
    let card = found.card();
    let (status, evidence) = card.check("control", "a disconnect is no stop");
    assert_eq!(status, "fail", "{:#}", card.0);
    assert!(evidence.contains("ended with nothing more"), "{evidence}");
    card.is("control", "fail");
    assert_eq!(found.code, 1);
}

#[test]
fn a_stop_that_is_ignored_is_found() {
    let card = with_ways(&Fake { stop: Stop::Ignores, ..Fake::default() }.start(), &[]).card();
    let (status, evidence) = card.check("control", "a stop ends the output");
    assert_eq!(status, "fail", "{:#}", card.0);
    assert!(evidence.contains("went on to its own end"), "{evidence}");
    card.verdict("partly");
}

#[test]
fn a_stop_that_works_late_is_told_from_one_that_works() {
    let late = Stop::EndsAfter(Duration::from_millis(2500));
    let endpoint = Fake { stop: late, events: 300, ..Fake::default() }.start();
    let card = with_ways(&endpoint, &["--trials", "1"]).card();
    let (status, evidence) = card.check("control", "a stop ends the output");
    assert_eq!(status, "partial", "{:#}", card.0);
    let after = card.figure("control", "stopped_after_ms");
    assert!((2_000..6_000).contains(&after), "{after} {evidence}");
    card.is("control", "partial");
}

/// A stream that never ends, and whose stop does nothing: told in bounded time.
#[test]
fn an_endless_stream_is_audited_in_bounded_time() {
    let endpoint = Fake { events: 1_000_000, stop: Stop::Ignores, ..Fake::default() }.start();
    let found = with_ways(&endpoint, &["--watch", "3s"]);
    let card = found.card();
    card.is("resilience", "pass");
    card.is("fidelity", "pass");
    assert!(card.check("control", "a stop ends the output").1.contains("still going"), "{:#}", card.0);
}
