//! Runs: leases, attempts, and ends.

use super::*;
use crate::{
    rules::{
        Action, Limits, apply,
        scene::{Scene, event, name},
    },
    store::Producer,
};

#[test]
fn a_run_starts_and_ends_once() {
    let mut scene = Scene::new();
    scene.start("r").unwrap();
    assert!(matches!(scene.start("r"), Err(Refusal::RunExists { attempt: 1, .. })));
    scene.append("r", None).unwrap();
    scene.end("r", EndStatus::Completed).unwrap();
    assert_eq!(scene.about("r"), ["started", "ended completed"]);
    let ended = |result| matches!(result, Err(Refusal::RunEnded { attempt: 1, status: EndStatus::Completed, .. }));
    assert!(ended(scene.end("r", EndStatus::Failed)));
    assert!(ended(scene.append("r", None)));
    assert!(ended(scene.start("r")));
    assert!(ended(scene.take_over("r")), "what is done stays so");
    assert!(ended(scene.act(Action::Heartbeat { run: name("r"), attempt: None, speaker: None })));
    assert_eq!(scene.about("r"), ["started", "ended completed"]);
}

#[test]
fn a_name_that_nobody_registered_is_a_label() {
    let mut scene = Scene::new();
    scene.append("label", None).unwrap();
    assert!(matches!(scene.append("label", Some(1)), Err(Refusal::UnknownRun(_))));
    assert!(matches!(scene.end("label", EndStatus::Completed), Err(Refusal::UnknownRun(_))));
}

#[test]
fn a_silent_run_is_lost_when_its_lease_is_over_and_not_before() {
    let mut scene = Scene::new();
    scene.start_with("r", |request| request.lease_ms = Some(1_000)).unwrap();
    scene.wait(999);
    assert_eq!(scene.status("r"), "running");
    scene.wait(1);
    assert_eq!(scene.about("r"), ["started", "ended lost"]);
    assert!(matches!(scene.append("r", None), Err(Refusal::RunEnded { status: EndStatus::Lost, .. })));
}

#[test]
fn whatever_a_run_sends_renews_its_lease() {
    let mut scene = Scene::new();
    scene.start_with("r", |request| request.lease_ms = Some(1_000)).unwrap();
    for _ in 0..5 {
        scene.wait(800);
        scene.append("r", None).unwrap();
        scene.wait(800);
        scene.act(Action::Heartbeat { run: name("r"), attempt: Some(1), speaker: None }).unwrap();
    }
    scene.wait(800);
    scene.ask("a", Some("r"), Some(60_000)).unwrap();
    scene.command("steer", |request| request.run = Some(name("r"))).unwrap();
    scene.wait(800);
    scene.report("c1", true).unwrap();
    scene.wait(800);
    assert_eq!(scene.about("r"), ["started"]);
}

#[test]
fn a_takeover_ends_the_old_attempt_and_fences_it_off() {
    let mut scene = Scene::new();
    scene.start("r").unwrap();
    let Ok(Reply::Run(view)) = scene.take_over("r") else { panic!() };
    assert_eq!(view.attempt, 2);
    assert_eq!(scene.about("r"), ["started", "ended lost", "started"]);
    let stale = |result| matches!(result, Err(Refusal::StaleAttempt { given: 1, current: 2, .. }));
    assert!(stale(scene.append("r", Some(1))));
    assert!(stale(scene.act(Action::Heartbeat { run: name("r"), attempt: Some(1), speaker: None })));
    assert!(stale(scene.act(Action::End {
        run: name("r"),
        attempt: Some(1),
        status: EndStatus::Completed,
        reason: None,
        speaker: None,
    })));
    scene.append("r", Some(2)).unwrap();
}

#[test]
fn an_attempt_said_of_one_run_is_not_said_of_others() {
    let mut scene = Scene::new();
    scene.start("r").unwrap();
    scene.take_over("r").unwrap();
    scene.start("other").unwrap();
    let events = ["r", "other", "label"].map(|run| crate::event::Event {
        run: Some(name(run)),
        agent: None,
        bound: false,
        payload: format!("{{\"run\":\"{run}\"}}").into(),
    });
    let append = |attempt| {
        let events = events.to_vec();
        Action::Append(Append { events, run: Some(name("r")), attempt: Some(attempt), ..Append::default() })
    };
    scene.act(append(2)).unwrap();
    assert!(matches!(scene.act(append(1)), Err(Refusal::StaleAttempt { .. })));
    // The header is about the request's run even if its events name none.
    let bare = Append { run: Some(name("r")), attempt: Some(1), ..Append::default() };
    assert!(matches!(scene.act(Action::Append(bare)), Err(Refusal::StaleAttempt { .. })));
}

#[test]
fn what_was_lost_or_failed_is_taken_up_again_by_the_next_attempt() {
    for how in [EndStatus::Failed, EndStatus::Lost] {
        let mut scene = Scene::new();
        scene.start_with("r", |request| request.lease_ms = Some(1_000)).unwrap();
        match how {
            EndStatus::Lost => scene.wait(1_000),
            _ => drop(scene.end("r", how).unwrap()),
        }
        assert!(matches!(scene.start("r"), Err(Refusal::RunEnded { .. })), "only a takeover says that it knows");
        let Ok(Reply::Run(view)) = scene.take_over("r") else { panic!() };
        assert_eq!((view.attempt, view.lease_ms), (2, 1_000));
    }
}

#[test]
fn a_stop_survives_a_takeover_a_lost_lease_and_a_failure() {
    let mut scene = Scene::new();
    scene.start("r").unwrap();
    scene.stop("r", 5_000).unwrap();
    scene.take_over("r").unwrap();
    assert_eq!(scene.about("r"), ["started", "stopping", "ended lost", "started", "stopping"]);
    scene.wait(4_999);
    assert_eq!(scene.status("r"), "stopping");
    scene.wait(1);
    assert_eq!(scene.status("r"), "cancelled");
    assert_eq!(scene.outcomes("c1"), ["consumed"]);

    for how in [EndStatus::Failed, EndStatus::Lost] {
        let mut scene = Scene::new();
        scene.start_with("r", |request| request.lease_ms = Some(1_000)).unwrap();
        scene.stop("r", 5_000).unwrap();
        match how {
            EndStatus::Lost => scene.wait(1_000),
            _ => drop(scene.end("r", how).unwrap()),
        }
        assert!(matches!(scene.take_over("r"), Err(Refusal::RunEnded { .. })), "{how}");
        assert_eq!(scene.outcomes("c1"), ["superseded"]);
    }
}

#[test]
fn bad_durations_are_refused() {
    let mut scene = Scene::new();
    for lease in [0, -1, 99, LEASE_MAX as i64 + 1, 365 * 86_400_000, i64::MIN, i64::MAX] {
        let result = scene.start_with("r", |request| request.lease_ms = Some(lease));
        assert!(matches!(result, Err(Refusal::OutOfRange { what: "lease_ms", .. })), "{lease}");
    }
    assert_eq!(scene.control.runs().len(), 0);
}

#[test]
fn appends_decided_together_each_renew_the_lease() {
    // Any of them may be refused by its producer's numbering, which no rule knows.
    let mut scene = Scene::new();
    scene.start("r").unwrap();
    let append = |seq| Append {
        events: vec![event("r")],
        producer: Some(Producer { id: name("p"), epoch: 0, seq }),
        ..Append::default()
    };
    let renewed = |scene: &mut Scene| {
        let mut effects = Effects::default();
        for seq in [1, 2] {
            apply(&mut scene.control, scene.now, &Action::Append(append(seq)), &mut effects).unwrap();
        }
        effects.parts.iter().map(|part| part.touch.len()).collect::<Vec<_>>()
    };
    assert_eq!(renewed(&mut scene), [0, 0], "a tenth of the lease has not passed");
    scene.now += LEASE_DEFAULT / 10;
    assert_eq!(renewed(&mut scene), [1, 1]);
}

#[test]
fn a_run_cannot_be_above_itself() {
    let mut scene = Scene::new();
    let parent = |parent: &str| {
        let parent = name(parent);
        move |request: &mut RunRequest| (request.parent, request.takeover) = (Some(parent), true)
    };
    assert!(matches!(scene.start_with("a", parent("a")), Err(Refusal::ParentCircle { .. })));
    assert!(matches!(scene.start_with("a", parent("nobody")), Err(Refusal::UnknownRun(_))));
    scene.start("a").unwrap();
    scene.start_with("b", parent("a")).unwrap();
    scene.start_with("c", parent("b")).unwrap();
    assert!(matches!(scene.start_with("a", parent("c")), Err(Refusal::ParentCircle { .. })));
    assert_eq!(scene.about("a"), ["started"]);
}

#[test]
fn a_session_holds_so_many_runs() {
    let mut scene = Scene::with(Limits { runs: 3, ..Limits::default() });
    for run in ["a", "b", "c"] {
        scene.start(run).unwrap();
    }
    assert!(matches!(scene.start("d"), Err(Refusal::TooManyRuns(3))));
    assert!(matches!(scene.stop("d", 0), Err(Refusal::TooManyRuns(3))), "nor what is to be stopped before it starts");
    scene.take_over("a").unwrap();
}
