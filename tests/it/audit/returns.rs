//! Endpoints that come back wrongly: the audit finds exactly that.

use super::{
    Card, audit,
    fake::{Fake, Return},
};

const EVENTS: usize = 61;

fn audited(comes_back: Return, code: i32) -> Card {
    let endpoint = Fake { events: EVENTS, comes_back, ..Fake::default() }.start();
    let found = audit(&[&endpoint.url("/stream/{new_id}"), "--trials", "4"]);
    assert_eq!(found.code, code, "{comes_back:?}: {}\n{}", found.stderr, found.stdout);
    let card = found.card();
    // Faults upon return are none of live surfaces.
    card.is("sync", "pass");
    card
}

/// How many events with such a number come after the cuts.
fn due(card: &Card, is: impl Fn(usize) -> bool) -> usize {
    card.cuts().into_iter().map(|cut| (cut + 1..=EVENTS).filter(|n| is(*n)).count()).sum()
}

#[test]
fn one_that_is_right_passes() {
    let card = audited(Return::Right, 0);
    card.is("resilience", "pass");
    card.is("fidelity", "pass");
    card.figures(
        "fidelity",
        &[("events", due(&card, |_| true)), ("right", due(&card, |_| true)), ("lost", 0), ("doubled", 0)],
    );
    // No stop was named: nothing is said of it.
    card.is("control", "pass");
    assert_eq!(card.check("control", "a stop ends the output").0, "not_tested");
    assert_eq!(card.check("control", "a disconnect is no stop").0, "pass");
    card.verdict("free");
    assert!(card.0["verdict"]["why"].as_str().is_some_and(|why| why.ends_with("held as far as it was tested")));
}

/// An observer whose own connection breaks has not seen all: what else comes is no fault of the return.
#[test]
fn an_observer_that_breaks_is_no_reference() {
    let endpoint = Fake { events: EVENTS, breaks: Some(40), ..Fake::default() }.start();
    let card = audit(&[&endpoint.url("/stream/{new_id}"), "--trials", "2"]).card();
    card.is("resilience", "pass");
    card.is("fidelity", "not_tested");
    let evidence = card.check("fidelity", "cut early").1;
    assert!(evidence.starts_with("the uncut observer's connection broke"), "{evidence}");
}

#[test]
fn a_lossy_one_is_found_to_the_event() {
    let card = audited(Return::Loses(3), 1);
    card.is("resilience", "pass");
    let fidelity = card.is("fidelity", "fail");
    let (all, lost) = (due(&card, |_| true), due(&card, |n| n % 3 == 0));
    card.figures(
        "fidelity",
        &[("events", all), ("lost", lost), ("right", all - lost), ("doubled", 0), ("out_of_order", 0)],
    );
    let share = fidelity["share"].as_f64().expect("a share");
    assert!((share - (all - lost) as f64 / all as f64).abs() < 1e-9, "{share}");
    card.verdict("partly");
}

#[test]
fn one_that_doubles_is_found_to_the_event() {
    let card = audited(Return::Doubles(4), 1);
    let (all, doubled) = (due(&card, |_| true), due(&card, |n| n % 4 == 0));
    card.is("fidelity", "fail");
    card.figures("fidelity", &[("events", all), ("lost", 0), ("doubled", doubled), ("right", all - doubled)]);
}

#[test]
fn one_that_changes_the_order_is_found_to_the_event() {
    let card = audited(Return::Swaps, 1);
    card.is("fidelity", "fail");
    let pairs: usize = card.cuts().into_iter().map(|cut| (EVENTS - cut) / 2).sum();
    card.figures("fidelity", &[("lost", 0), ("doubled", 0), ("out_of_order", pairs)]);
}

#[test]
fn a_replay_from_the_start_doubles_all_that_was_seen() {
    let card = audited(Return::FromTheStart, 1);
    card.is("resilience", "pass");
    let seen: usize = card.cuts().into_iter().sum();
    let all = due(&card, |_| true);
    card.figures("fidelity", &[("lost", 0), ("doubled", seen), ("events", all + seen), ("right", all)]);
}

#[test]
fn silence_after_a_return_survives_no_cut() {
    let card = audited(Return::IsSilent, 1);
    assert_eq!(card.is("resilience", "fail")["share"], 0.0);
    let all = due(&card, |_| true);
    card.figures("fidelity", &[("events", all), ("lost", all), ("right", 0)]);
    card.verdict("trapped");
}

#[test]
fn a_clean_end_at_once_survives_no_cut() {
    let card = audited(Return::EndsAtOnce, 1);
    assert_eq!(card.is("resilience", "fail")["share"], 0.0);
    assert!(card.check("resilience", "cut early").1.contains("ended at once"));
    card.verdict("trapped");
}

#[test]
fn a_refused_return_says_nothing_of_fidelity() {
    let card = audited(Return::IsRefused, 1);
    assert_eq!(card.is("resilience", "fail")["share"], 0.0);
    assert!(card.check("resilience", "cut early").1.contains("410"));
    card.is("fidelity", "not_tested");
    card.verdict("trapped");
}
