//! Streams of every form: tokens without ids, lines, plain text.

use super::{
    Card, audit,
    fake::{Fake, Form, Return},
};

fn audited(form: Form, comes_back: Return, parameter: &str) -> Card {
    let endpoint = Fake { form, comes_back, ..Fake::default() }.start();
    let chat = endpoint.url("/chat/{new_id}");
    let back = format!("{chat}?{parameter}={{{parameter}}}");
    audit(&[&chat, "--data", "{}", "--resume-url", &back, "--trials", "3"]).card()
}

#[test]
fn equal_tokens_without_ids_are_told_apart_by_their_number() {
    let card = audited(Form::EqualTokens, Return::Right, "events");
    for id in ["resilience", "fidelity", "sync"] {
        card.is(id, "pass");
    }
    let card = audited(Form::EqualTokens, Return::Loses(3), "events");
    let lost = card.cuts().into_iter().map(|cut| (cut + 1..=61).filter(|n| n % 3 == 0).count()).sum();
    card.figures("fidelity", &[("lost", lost), ("doubled", 0), ("out_of_order", 0)]);
}

#[test]
fn lines_and_words_come_back_by_events_and_by_characters() {
    for (form, parameter) in [(Form::Lines, "events"), (Form::Words, "chars"), (Form::Sse, "chars")] {
        let card = audited(form, Return::Right, parameter);
        for id in ["resilience", "fidelity", "sync"] {
            card.is(id, "pass");
        }
        assert_eq!(card.0["events"], 61);
    }
}

/// A stream's id may be the server's to choose.
#[test]
fn an_id_that_the_answer_does_not_hold_is_said_to_be_missing() {
    let endpoint = Fake::default().start();
    let back = endpoint.url("/chat/{id}");
    for (place, found) in [("header:x-stream-id", false), ("json:type", true)] {
        let card = audit(&[
            &endpoint.url("/bare"),
            "--data",
            "{}",
            "--resume-url",
            &back,
            "--id-from",
            place,
            "--trials",
            "1",
        ]);
        let card = card.card();
        assert_eq!(card.is("resilience", "fail")["share"], 0.0);
        let evidence = card.check("resilience", "cut early").1;
        // Found, it leads to a stream that is not there.
        assert!(evidence.contains(if found { "404" } else { "did not hold the stream's {id}" }), "{evidence}");
    }
}
