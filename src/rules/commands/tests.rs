//! Commands: what is accepted, how each ends, and how far a stop reaches.

use super::*;
use crate::rules::{
    Action, Limits, RunRequest, Verdict,
    scene::{Scene, name, raw},
};

#[test]
fn a_stop_gives_the_run_its_grace_and_then_ends_it() {
    let mut scene = Scene::new();
    scene.start("r").unwrap();
    scene.stop("r", 500).unwrap();
    let Ok(Reply::Appended(stopping)) = scene.append("r", None) else { panic!("partial output is welcome") };
    assert_eq!((stopping[0].status, stopping[0].grace_ms), ("stopping", Some(500)));
    scene.wait(499);
    scene.append("r", None).unwrap();
    scene.wait(1);
    assert_eq!(scene.about("r"), ["started", "stopping", "ended cancelled"]);
    assert_eq!(scene.outcomes("c1"), ["consumed"]);
    assert!(matches!(scene.append("r", None), Err(Refusal::RunEnded { status: EndStatus::Cancelled, .. })));
}

#[test]
fn a_stop_without_grace_ends_the_run_in_the_same_commit() {
    let mut scene = Scene::new();
    scene.start("r").unwrap();
    scene.stop("r", 0).unwrap();
    assert_eq!(scene.about("r"), ["started", "stopping", "ended cancelled"]);
    assert_eq!(scene.outcomes("c1"), ["consumed"]);
}

#[test]
fn an_outcome_of_an_older_attempt_is_refused_and_renews_nothing() {
    let mut scene = Scene::new();
    scene.start("r").unwrap();
    scene.command("steer", |request| request.run = Some(name("r"))).unwrap();
    scene.take_over("r").unwrap();
    let mut report = |attempt| {
        let (command, attempt) = (name("c1"), Some(attempt));
        scene.act(Action::Outcome(OutcomeRequest {
            command,
            outcome: Reported::Consumed,
            reason: None,
            attempt,
            speaker: None,
        }))
    };
    assert!(matches!(report(1), Err(Refusal::StaleAttempt { given: 1, current: 2, .. })));
    report(2).unwrap();
    assert_eq!(scene.outcomes("c1"), ["consumed"]);
}

#[test]
fn a_second_stop_is_the_same_stop_and_can_only_shorten_the_grace() {
    let mut scene = Scene::new();
    scene.start("r").unwrap();
    scene.stop("r", 1_000).unwrap();
    scene.stop("r", 60_000).unwrap();
    scene.wait(400);
    scene.stop("r", 100).unwrap();
    scene.wait(100);
    assert_eq!(scene.about("r"), ["started", "stopping", "ended cancelled"]);
    for stop in ["c1", "c2", "c3"] {
        assert_eq!(scene.outcomes(stop), ["consumed"], "{stop}");
    }
    assert!(matches!(scene.stop("r", 0), Err(Refusal::RunEnded { .. })));
}

#[test]
fn an_agent_that_is_done_before_its_grace_is_over_supersedes_the_stop() {
    let mut scene = Scene::new();
    scene.start("r").unwrap();
    scene.stop("r", 500).unwrap();
    scene.end("r", EndStatus::Completed).unwrap();
    assert_eq!(scene.outcomes("c1"), ["superseded"]);
    scene.wait(500);
    assert_eq!(scene.about("r"), ["started", "stopping", "ended completed"]);
}

#[test]
fn a_stop_before_the_start_is_kept() {
    let mut scene = Scene::new();
    scene.stop("r", 5_000).unwrap();
    scene.stop("r", 5_000).unwrap();
    assert_eq!(scene.status("r"), "expected");
    scene.append("r", None).expect("it is still a label");
    let Ok(Reply::Run(view)) = scene.start("r") else { panic!() };
    assert_eq!((view.status, view.attempt), ("cancelled", 1));
    assert_eq!(scene.about("r"), ["started", "ended cancelled"]);
    assert_eq!((scene.outcomes("c1"), scene.outcomes("c2")), (vec!["consumed".into()], vec!["consumed".into()]));
    assert!(scene.append("r", None).is_err());
    assert!(scene.take_over("r").is_err());
}

#[test]
fn a_stop_before_the_start_lapses_with_its_time_or_when_it_is_rejected() {
    let mut scene = Scene::new();
    let stop = |request: &mut CommandRequest| (request.run, request.ttl_ms) = (Some(name("r")), Some(1_000));
    scene.command("stop", stop).unwrap();
    scene.command("stop", stop).unwrap();
    scene.report("c1", false).unwrap();
    assert_eq!(scene.status("r"), "expected", "the second one still holds");
    scene.wait(1_000);
    assert_eq!(scene.outcomes("c2"), ["expired"]);
    assert!(scene.control.run(&name("r")).is_none());
    scene.start("r").unwrap();
    assert_eq!(scene.status("r"), "running");
}

#[test]
fn a_stop_that_has_taken_effect_does_not_expire() {
    let mut scene = Scene::new();
    scene.start("r").unwrap();
    scene
        .command("stop", |request| {
            (request.run, request.ttl_ms, request.grace_ms) = (Some(name("r")), Some(100), Some(1_000));
        })
        .unwrap();
    scene.wait(500);
    assert_eq!(scene.outcomes("c1"), [""; 0]);
    scene.wait(500);
    assert_eq!(scene.outcomes("c1"), ["consumed"]);
}

#[test]
fn a_stop_of_all_ends_with_the_last_of_its_runs() {
    let mut scene = Scene::new();
    for run in ["a", "b", "c"] {
        scene.start(run).unwrap();
    }
    scene.end("c", EndStatus::Completed).unwrap();
    scene.command("stop", |request| request.grace_ms = Some(100)).unwrap();
    scene.start("later").unwrap();
    scene.end("a", EndStatus::Cancelled).unwrap();
    assert_eq!(scene.outcomes("c1"), [""; 0]);
    scene.end("b", EndStatus::Completed).unwrap();
    assert_eq!(scene.outcomes("c1"), ["consumed"], "it did stop one of them");
    scene.wait(100);
    assert_eq!(scene.status("later"), "running");
}

#[test]
fn a_stop_of_an_agent_stops_its_runs_alone() {
    let mut scene = Scene::new();
    for (run, agent) in [("a", "x"), ("b", "y"), ("c", "x")] {
        scene.start_with(run, |request| request.agent = Some(name(agent))).unwrap();
    }
    scene.command("stop", |request| (request.agent, request.grace_ms) = (Some(name("x")), Some(0))).unwrap();
    assert_eq!(["a", "b", "c"].map(|run| scene.status(run)), ["cancelled", "running", "cancelled"]);
}

#[test]
fn a_stop_with_nothing_to_stop_waits_for_nobody() {
    let mut scene = Scene::new();
    scene.command("stop", |_| {}).unwrap();
    assert_eq!(scene.outcomes("c1"), ["superseded"]);
    scene.start("r").unwrap();
    assert_eq!(scene.status("r"), "running");
}

#[test]
fn a_tree_stop_reaches_children_and_those_that_start_later() {
    let mut scene = Scene::new();
    let below = |parent: &str| {
        let parent = name(parent);
        move |request: &mut RunRequest| request.parent = Some(parent)
    };
    scene.start("top").unwrap();
    scene.start_with("child", below("top")).unwrap();
    scene.start_with("grandchild", below("child")).unwrap();
    scene.start("other").unwrap();
    scene.stop_tree("top", 100).unwrap();
    scene.start_with("late", below("grandchild")).unwrap();
    assert_eq!(scene.about("late"), ["started", "ended cancelled"]);
    scene.wait(100);
    for run in ["top", "child", "grandchild"] {
        assert_eq!(scene.about(run), ["started", "stopping", "ended cancelled"], "{run}");
    }
    assert_eq!(scene.outcomes("c1"), ["consumed"]);
    assert_eq!(scene.status("other"), "running");
    scene.start_with("later", below("child")).unwrap();
    assert_eq!(scene.status("later"), "cancelled");
}

#[test]
fn a_tree_is_stopped_even_if_its_top_has_ended() {
    let mut scene = Scene::new();
    scene.start("top").unwrap();
    let below = |request: &mut RunRequest| request.parent = Some(name("top"));
    scene.start_with("child", below).unwrap();
    scene.end("top", EndStatus::Completed).unwrap();
    assert!(matches!(scene.stop("top", 0), Err(Refusal::RunEnded { .. })));
    scene.stop_tree("top", 0).unwrap();
    assert_eq!(scene.status("child"), "cancelled");
    scene.start_with("late", below).unwrap();
    assert_eq!(scene.status("late"), "cancelled");
    assert!(matches!(scene.stop_tree("top", 0), Err(Refusal::RunEnded { .. })), "nothing is left to stop");
}

#[test]
fn a_tree_stop_before_the_start_reaches_what_starts_below() {
    let mut scene = Scene::new();
    scene.stop("top", 0).unwrap();
    scene.stop_tree("top", 0).unwrap();
    scene.start("top").unwrap();
    scene.start_with("child", |request| request.parent = Some(name("top"))).unwrap();
    assert_eq!((scene.status("top"), scene.status("child")), ("cancelled", "cancelled"));
}

#[test]
fn a_tree_stop_that_lapses_leaves_a_plain_one_plain() {
    let mut scene = Scene::new();
    scene.stop("top", 0).unwrap();
    scene.stop_tree("top", 0).unwrap();
    scene.report("c2", false).unwrap();
    scene.start("top").unwrap();
    scene.start_with("child", |request| request.parent = Some(name("top"))).unwrap();
    assert_eq!((scene.status("top"), scene.status("child")), ("cancelled", "running"));

    // The other way round the tree stays stopped.
    scene.stop("other", 0).unwrap();
    scene.stop_tree("other", 0).unwrap();
    scene.report("c3", false).unwrap();
    scene.start("other").unwrap();
    scene.start_with("below", |request| request.parent = Some(name("other"))).unwrap();
    assert_eq!((scene.status("other"), scene.status("below")), ("cancelled", "cancelled"));
}

#[test]
fn a_command_has_one_outcome() {
    let mut scene = Scene::new();
    scene.command("steer", |_| {}).unwrap();
    scene.report("c1", true).unwrap();
    let second = scene.report("c1", false);
    assert!(matches!(second, Err(Refusal::CommandEnded { status: CommandStatus::Consumed, .. })));
    assert!(matches!(scene.report("nobody", true), Err(Refusal::UnknownCommand(_))));
    assert_eq!(scene.outcomes("c1"), ["consumed"]);
}

#[test]
fn a_command_that_nobody_takes_up_expires() {
    let mut scene = Scene::new();
    scene.command("steer", |request| request.ttl_ms = Some(1)).unwrap();
    scene.wait(1);
    assert_eq!(scene.outcomes("c1"), ["expired"]);
    let late = scene.report("c1", true);
    assert!(matches!(late, Err(Refusal::CommandEnded { status: CommandStatus::Expired, .. })));
}

#[test]
fn what_was_asked_of_a_run_that_has_ended_is_superseded() {
    let mut scene = Scene::new();
    scene.start("r").unwrap();
    scene.command("steer", |request| request.run = Some(name("r"))).unwrap();
    scene.command("steer", |_| {}).unwrap();
    scene.take_over("r").unwrap();
    assert_eq!(scene.outcomes("c1"), [""; 0], "the next attempt may still do it");
    scene.end("r", EndStatus::Completed).unwrap();
    assert_eq!(scene.outcomes("c1"), ["superseded"]);
    assert_eq!(scene.outcomes("c2"), [""; 0], "it was not for this run");
    let late = scene.command("steer", |request| request.run = Some(name("r")));
    assert!(matches!(late, Err(Refusal::RunEnded { .. })));
}

#[test]
fn the_same_id_is_the_same_command() {
    let mut scene = Scene::new();
    scene.start("r").unwrap();
    for (n, expected) in [Reply::Accepted(name("x")), Reply::Known(name("x"))].into_iter().enumerate() {
        let again = scene.command("steer", |request| request.id = name("x")).unwrap();
        assert_eq!((again, scene.commands.len()), (expected, 1), "{n}");
    }
    scene.report("x", true).unwrap();
    assert_eq!(scene.command("steer", |request| request.id = name("x")), Ok(Reply::Known(name("x"))));
}

#[test]
fn data_keeps_its_digits() {
    let mut scene = Scene::new();
    let data = r#"{"n":1.00,"big":123456789012345678901234567890}"#;
    scene.command("steer", |request| request.data = Some(RawValue::from_string(data.into()).unwrap())).unwrap();
    let mut part = Part::default();
    let raw: Box<RawValue> = RawValue::from_string(data.into()).unwrap();
    let (id, data_) = (name("c"), Some(&*raw));
    let command = entries::Command {
        kind: "steer",
        id: &id,
        agent: None,
        run: None,
        approval: None,
        by: None,
        traceparent: None,
        data: data_,
    };
    let payload = command.payload();
    assert!(std::str::from_utf8(&payload).unwrap().ends_with(&format!("\"data\":{data}}}")), "{payload:?}");
    entries::event(
        &mut part,
        "x",
        None,
        None,
        &Issued { command: &name("c"), kind: "steer", approval: None, by: None, traceparent: None, data: Some(&raw) },
    );
    assert!(std::str::from_utf8(&part.events[0]).unwrap().contains(data));
}

#[test]
fn a_stop_says_what_agents_must_know_beside_the_users_data() {
    let mut scene = Scene::new();
    scene.start("r").unwrap();
    scene.command("stop", |request| request.data = Some(raw(json!({"why": "x", "grace_ms": 7})))).unwrap();
    assert_eq!(scene.commands[0]["data"], json!({"why": "x", "grace_ms": 5_000, "tree": false}));
    scene.command("stop", |request| request.data = Some(raw(json!("please")))).unwrap();
    assert_eq!(scene.commands[1]["data"], json!({"data": "please", "grace_ms": 5_000, "tree": false}));
}

#[test]
fn bad_durations_are_refused() {
    let mut scene = Scene::new();
    for ms in [0, -1, 365 * 86_400_000, i64::MIN, i64::MAX] {
        let ttl = scene.command("steer", |request| request.ttl_ms = Some(ms));
        assert!(matches!(ttl, Err(Refusal::OutOfRange { what: "ttl_ms", .. })), "{ms}");
        let grace = scene.stop("r", ms);
        assert!(ms == 0 || matches!(grace, Err(Refusal::OutOfRange { what: "grace_ms", .. })), "{ms}");
    }
}

#[test]
fn pending_commands_have_a_limit_that_does_not_stand_in_the_way_of_a_stop_or_a_decision() {
    let mut scene = Scene::with(Limits { pending_commands: 2, ..Limits::default() });
    scene.start("r").unwrap();
    scene.ask("a", None, None).unwrap();
    for _ in 0..2 {
        scene.command("steer", |_| {}).unwrap();
    }
    assert!(matches!(scene.command("steer", |_| {}), Err(Refusal::TooManyCommands(2))));
    assert!(matches!(scene.stop("made-up", 0), Err(Refusal::TooManyCommands(2))));
    scene.decide("a", Verdict::Approve).unwrap();
    // A stop that waits is pending, too: the limit is told, not how many there are.
    scene.stop("r", 1_000).unwrap();
    assert!(matches!(scene.command("steer", |_| {}), Err(Refusal::TooManyCommands(2))));
}

#[test]
fn a_full_control_state_refuses_more_but_not_a_stop() {
    let mut scene = Scene::with(Limits { bytes: 3_000, ..Limits::default() });
    scene.start("r").unwrap();
    scene.ask("a", None, None).unwrap();
    while scene.command("steer", |_| {}).is_ok() {}
    assert!(matches!(scene.command("steer", |_| {}), Err(Refusal::ControlFull(3_000))));
    assert!(matches!(scene.start("s"), Err(Refusal::ControlFull(_))));
    assert!(matches!(scene.ask("b", None, None), Err(Refusal::ControlFull(_))));
    assert!(scene.control.bytes() <= 3_000);
    scene.stop("r", 500).unwrap();
    scene.decide("a", Verdict::Deny).unwrap();
    scene.wait(500);
    assert_eq!(scene.status("r"), "cancelled");
}

#[test]
fn ended_commands_are_forgotten_in_time() {
    let mut scene = Scene::with(Limits { ended_commands: 3, ..Limits::default() });
    for n in 1..=5 {
        scene.command("steer", |_| {}).unwrap();
        scene.wait(1);
        scene.report(&format!("c{n}"), true).unwrap();
    }
    let known: Vec<_> = scene.control.commands().map(|(id, _)| id.as_str()).collect();
    assert_eq!(known, ["c3", "c4", "c5"]);
}

#[test]
fn a_deep_tree_is_searched_in_one_pass() {
    let mut scene = Scene::new();
    scene.start("r0").unwrap();
    for n in 1..1_000 {
        let parent = name(&format!("r{}", n - 1));
        scene.start_with(&format!("r{n}"), |request| request.parent = Some(parent)).unwrap();
    }
    let began = std::time::Instant::now();
    scene.stop_tree("r0", 0).unwrap();
    assert_eq!(scene.control.live_runs(), [] as [Name; 0]);
    assert!(began.elapsed() < std::time::Duration::from_secs(5), "{:?}", began.elapsed());
}

#[test]
fn a_closed_session_leaves_nothing_open() {
    let mut scene = Scene::new();
    scene.start("r").unwrap();
    scene.start("s").unwrap();
    scene.command("steer", |_| {}).unwrap();
    scene.command("steer", |request| request.run = Some(name("r"))).unwrap();
    scene.command("stop", |_| {}).unwrap();
    scene.stop("later", 0).unwrap();
    scene.ask("a", Some("r"), None).unwrap();
    scene.ask("b", None, None).unwrap();
    scene.act(Action::Close).unwrap();
    for command in ["c1", "c2", "c3", "c4"] {
        assert_eq!(scene.outcomes(command).len(), 1, "{command}");
    }
    for approval in ["a", "b"] {
        assert_eq!(scene.about_approval(approval), ["requested", "superseded"]);
    }
    assert_eq!(scene.about("r"), ["started", "stopping", "ended cancelled"]);
    assert_eq!(scene.control.next_due(), None);
    scene.act(Action::Close).unwrap();
    let written = scene.events.len();
    assert_eq!(scene.append("x", None), Err(Refusal::SessionClosed));
    assert_eq!(scene.start("x"), Err(Refusal::SessionClosed));
    assert_eq!(scene.command("steer", |_| {}), Err(Refusal::SessionClosed));
    assert_eq!(scene.events.len(), written);
}
