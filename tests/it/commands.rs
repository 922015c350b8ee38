//! The commands lane through HTTP, on both stores: asked once, seen by all, ended once.

use serde_json::{Value, json};

use crate::{
    store_contract::Backend,
    support::gateway::{Gateway, Session, Stream, answer, on_both_stores},
};

on_both_stores!(
    a_command_is_on_its_lane_and_mirrored_for_every_surface,
    a_command_carries_the_trace_it_was_asked_for_in,
    a_command_may_come_before_anything_else,
    the_gateway_names_a_command_that_has_no_name,
    the_same_id_gets_the_same_answer,
    the_same_id_at_the_same_time_is_one_command,
    commands_are_filtered_by_agent_and_run,
    the_commands_lane_is_followed_and_resumed_like_the_other,
    a_command_ends_once_and_all_see_how,
    one_of_many_outcomes_at_the_same_time_holds,
    pending_commands_can_be_asked_for,
    pending_commands_come_in_pages_that_are_not_too_large,
    a_command_whose_time_runs_out_expires_before_all_eyes,
    a_command_whose_time_ran_out_unwatched_has_expired_for_the_next_who_looks,
    what_was_asked_of_a_run_ends_with_it,
    the_first_decision_holds_and_the_next_is_told_it,
    an_approval_that_nobody_decides_decides_itself,
    an_approval_ends_with_its_run,
    what_a_command_says_stays_as_deep_as_events_may_be,
);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_id_gets_the_same_answer_from_every_replica() {
    let gateway = Gateway::start(Backend::Redis).await;
    let replica = gateway.replica().await;
    let session = gateway.session();
    let twin = replica.session_named(&session.name);
    let body = json!({"type": "steer", "id": "c1", "data": 1});
    let first = session.post("/commands", body.clone()).await.is(202);
    assert_eq!(twin.post("/commands", body.clone()).await.is(202), first);
    // And at the same time.
    for round in 0..20 {
        let body = json!({"type": "steer", "id": format!("r{round}")});
        let posts = (0..8).map(|n| if n % 2 == 0 { &session } else { &twin }.post("/commands", body.clone()));
        let answers = futures_util::future::join_all(posts).await;
        let answers: Vec<_> = answers.into_iter().map(|answer| answer.is(202)).collect();
        assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
        assert_eq!(twin.lane("commands").await.last().expect("a command")["id"], answers[0]["entry"]);
    }
    assert_eq!(session.lane("commands").await.len(), 21);
    assert_eq!(session.lane("events").await.len(), 21);
    // The agent that reconnects elsewhere goes on from its cursor.
    let seen = first["entry"].as_str().expect("an id");
    let mut stream = twin.follow_lane("commands", "", Some(seen)).await;
    assert_eq!(stream.entries(20).await[19].json["command"], "r19");
    twin.post("/commands/c1/outcome", json!({"outcome": "consumed"})).await.is(201);
    let ended = session.post("/commands/c1/outcome", json!({"outcome": "rejected"})).await;
    assert_eq!(ended.problem(409, "command_ended")["outcome"], "consumed");
}

async fn a_command_is_on_its_lane_and_mirrored_for_every_surface(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    session.append_numbers(0..1).await;
    let mut agent = session.follow_lane("commands", "", None).await;
    agent.caught_up().await;
    let mut surface = session.follow("?from=now").await;
    surface.next().await.expect("caught-up");

    let body = json!({"type": "steer", "id": "c1", "agent": "writer", "run": "r1", "data": {"text": "shorter"}});
    let issued = session.post("/commands", body).await.is(202);
    let entry = agent.entry().await;
    assert_eq!(issued, json!({"command": "c1", "entry": entry.id}));
    let asked = json!({"type": "steer", "command": "c1", "agent": "writer", "run": "r1", "data": {"text": "shorter"}});
    assert_eq!(entry.json, asked);
    let mirror = surface.entry().await;
    let told = json!({
        "type": "command.issued", "agent": "writer", "run": "r1",
        "data": {"command": "c1", "type": "steer", "data": {"text": "shorter"}},
    });
    assert_eq!(mirror.json, told);
    // One commit, one instant; each lane counts by itself.
    let (at, mirrored) = (entry.id.split_once('-').unwrap(), mirror.id.split_once('-').unwrap());
    assert_eq!((at.0, at.1, mirrored.1), (mirrored.0, "1", "2"));
    let view = session.get("").await.is(200);
    let pending = &view["pending_commands"][0];
    assert_eq!((&pending["command"], &pending["entry"]), (&json!("c1"), &json!(entry.id)));
    assert_eq!(view["lanes"]["commands"], json!({"first": entry.id, "last": entry.id, "count": 1}));
}

async fn a_command_carries_the_trace_it_was_asked_for_in(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    let place = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let ask = async |id: &str, traceparent: &str| {
        let request = session.http.post(session.url("/commands")).header("traceparent", traceparent);
        answer(request.json(&json!({"type": "steer", "id": id, "data": 1}))).await.is(202)
    };
    ask("c1", place).await;
    // Asked again in another trace it is still the same command.
    ask("c1", &place.replace("4bf9", "0000")).await;
    ask("c2", "00-not-a-trace").await;
    // In the form that everybody reads, whatever version it came in.
    ask("c3", "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more").await;
    let lane = session.lane("commands").await;
    let entry = |id: &str, command: &str| json!({"id": id, "type": "steer", "command": command, "traceparent": place, "data": 1});
    assert_eq!(lane[0], entry(lane[0]["id"].as_str().expect("an id"), "c1"));
    assert_eq!(lane[1].get("traceparent"), None);
    assert_eq!(lane[2], entry(lane[2]["id"].as_str().expect("an id"), "c3"));
    assert_eq!(session.get("/commands?pending=true").await.is(200)["events"][0]["traceparent"], place);
    // Whoever watches sees it, too; what events say is not made longer by it.
    let request = session.http.post(session.url("/events")).header("traceparent", place);
    answer(request.json(&json!({"data": 1}))).await.is(201);
    let events = session.lane("events").await;
    assert_eq!(events[0]["data"], json!({"command": "c1", "type": "steer", "traceparent": place, "data": 1}));
    assert_eq!(events[1]["data"].get("traceparent"), None);
    assert!(!events[3].to_string().contains("trace"), "{}", events[3]);
}

async fn a_command_may_come_before_anything_else(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    session.get("/commands").await.problem(404, "unknown_session");
    let issued = session.post("/commands", json!({"type": "message", "data": "hello"})).await.is(202);
    let page = session.get("/commands").await.is(200);
    assert_eq!(page["events"][0]["id"], issued["entry"]);
    assert_eq!(page["next"], issued["entry"]);
}

async fn the_gateway_names_a_command_that_has_no_name(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    let first = session.post("/commands", json!({"type": "go"})).await.is(202);
    let second = session.post("/commands", json!({"type": "go"})).await.is(202);
    assert_ne!(first["command"], second["command"]);
    let lane = session.lane("commands").await;
    assert_eq!([&lane[0]["command"], &lane[1]["command"]], [&first["command"], &second["command"]]);
    // Any type is one, the gateway's own words too: they are mirrored under its name, not as its word.
    for kind in ["run.ended", "x/y", "1"] {
        session.post("/commands", json!({"type": kind})).await.is(202);
        let mirror = session.lane("events").await.pop().expect("an event");
        assert_eq!((&mirror["type"], &mirror["data"]["type"]), (&json!("command.issued"), &json!(kind)));
    }
}

async fn the_same_id_gets_the_same_answer(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    let first = session.post("/commands", json!({"type": "go", "id": "c", "data": 1})).await.is(202);
    session.append_numbers(0..1).await;
    let state = session.state().await;
    // Whatever else it says: the first is what was asked.
    assert_eq!(session.post("/commands", json!({"type": "go", "id": "c", "data": 1})).await.is(202), first);
    assert_eq!(session.post("/commands", json!({"type": "halt", "id": "c"})).await.is(202), first);
    assert_eq!(session.state().await, state);
    session.post("/commands/c/outcome", json!({"outcome": "consumed"})).await.is(201);
    assert_eq!(session.post("/commands", json!({"type": "go", "id": "c", "data": 1})).await.is(202), first);
    assert_eq!(session.lane("commands").await.len(), 1);
}

async fn the_same_id_at_the_same_time_is_one_command(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    for round in 0..20 {
        let body = json!({"type": "go", "id": format!("c{round}")});
        let answers = futures_util::future::join_all((0..10).map(|_| session.post("/commands", body.clone()))).await;
        let answers: Vec<_> = answers.into_iter().map(|answer| answer.is(202)).collect();
        assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
        assert!(answers[0]["entry"].is_string(), "{answers:?}");
    }
    assert_eq!(session.lane("commands").await.len(), 20);
    assert_eq!(session.lane("events").await.len(), 20);
}

async fn commands_are_filtered_by_agent_and_run(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    for (n, (agent, run)) in [("a", "r"), ("b", "r"), ("a", "s")].into_iter().enumerate() {
        let command = json!({"type": format!("t{n}"), "id": format!("c{n}"), "agent": agent, "run": run});
        session.post("/commands", command).await.is(202);
    }
    session.post("/commands", json!({"type": "t3", "id": "c3"})).await.is(202);
    for (query, wanted) in [
        // What names no agent is for every agent, what names no run for every run.
        ("?agent=a", vec!["c0", "c2", "c3"]),
        ("?run=r", vec!["c0", "c1", "c3"]),
        ("?agent=a,b&run=s", vec!["c2", "c3"]),
        ("?type=t1,t3", vec!["c1", "c3"]),
        ("", vec!["c0", "c1", "c2", "c3"]),
    ] {
        let page = session.get(&format!("/commands{query}")).await.is(200);
        let paged: Vec<_> = page["events"].as_array().expect("events").iter().map(|e| e["command"].clone()).collect();
        assert_eq!(paged, wanted, "{query}");
        let mut stream = session.follow_lane("commands", query, None).await;
        let seen: Vec<_> = stream.entries(wanted.len()).await.into_iter().map(|e| e.json["command"].clone()).collect();
        assert_eq!(seen, wanted, "{query}");
        stream.caught_up().await;
    }
}

async fn the_commands_lane_is_followed_and_resumed_like_the_other(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    let mut entries = Vec::new();
    for n in 0..3 {
        let issued = session.post("/commands", json!({"type": "go", "data": n})).await.is(202);
        entries.push(issued["entry"].as_str().expect("an id").to_owned());
    }
    let follow = |query: &'static str, last: Option<String>| {
        let session = session.clone();
        async move { session.follow_lane("commands", query, last.as_deref()).await }
    };
    let mut stream = follow("", Some(entries[1].clone())).await;
    assert_eq!(stream.entry().await.id, entries[2]);
    stream.caught_up().await;
    let mut data = follow("?format=data", None).await;
    assert_eq!(data.next().await.expect("an entry").data, "0");
    let now = follow("?from=now", None).await.next().await.expect("caught-up");
    assert_eq!(now.id.as_ref(), Some(&entries[2]));
    let mut lost = follow("", Some("x".into())).await;
    assert_eq!(lost.named("reset").await, json!({"reason": "unknown", "first": entries[0]}));
    assert_eq!(lost.data(3).await, [0, 1, 2]);
    session.post("/close", json!({})).await.is(200);
    stream.named("closed").await;
    stream.ended().await;
    assert_eq!(session.try_follow("commands", "", Some(&entries[2])).await.status(), 204);
}

async fn next_event(stream: &mut Stream) -> Value {
    stream.entries(1).await.remove(0).json
}

async fn a_command_ends_once_and_all_see_how(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    let mut stream = session.follow("").await;
    for (id, outcome, reason) in [("c1", "consumed", None), ("c2", "rejected", Some("no \"such\" tool\n"))] {
        session.post("/commands", json!({"type": "go", "id": id, "agent": "a"})).await.is(202);
        assert_eq!(next_event(&mut stream).await["type"], "command.issued");
        let mut body = json!({"outcome": outcome});
        let mut told = json!({"command": id, "type": "go"});
        if let Some(reason) = reason {
            body["reason"] = json!(reason);
            told["reason"] = json!(reason);
        }
        let reported = session.post(&format!("/commands/{id}/outcome"), body).await.is(201);
        let entry = stream.entries(1).await.remove(0);
        assert_eq!(reported, json!({"ids": [entry.id]}));
        assert_eq!(entry.json, json!({"type": format!("command.{outcome}"), "agent": "a", "data": told}));
        for second in ["consumed", "rejected"] {
            let answer = session.post(&format!("/commands/{id}/outcome"), json!({"outcome": second})).await;
            let problem = answer.problem(409, "command_ended");
            assert_eq!((&problem["command"], &problem["outcome"]), (&json!(id), &json!(outcome)));
        }
    }
    assert_eq!(session.lane("events").await.len(), 4);
}

async fn one_of_many_outcomes_at_the_same_time_holds(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    for round in 0..20 {
        session.post("/commands", json!({"type": "go", "id": format!("c{round}")})).await.is(202);
        let reports = (0..6).map(|n| {
            let outcome = if n % 2 == 0 { "consumed" } else { "rejected" };
            let session = session.clone();
            async move {
                let answer = session.post(&format!("/commands/c{round}/outcome"), json!({"outcome": outcome})).await;
                (outcome, answer)
            }
        });
        let answers = futures_util::future::join_all(reports).await;
        let (won, lost): (Vec<_>, Vec<_>) = answers.into_iter().partition(|(_, answer)| answer.status == 201);
        assert_eq!(won.len(), 1);
        for (_, answer) in lost {
            assert_eq!(answer.problem(409, "command_ended")["outcome"], won[0].0);
        }
        let last = session.lane("events").await.pop().expect("an event");
        assert_eq!(last["type"], format!("command.{}", won[0].0));
    }
    assert_eq!(session.lane("events").await.len(), 40);
}

async fn pending(session: &Session, query: &str) -> Vec<Value> {
    let page = session.get(&format!("/commands?pending=true{query}")).await.is(200);
    assert_eq!(page["up_to_date"], true);
    page["events"].as_array().expect("events").iter().map(|event| event["command"].clone()).collect()
}

async fn pending_commands_can_be_asked_for(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    for n in 0..5 {
        let agent = if n % 2 == 0 { "even" } else { "odd" };
        session.post("/commands", json!({"type": "go", "id": format!("c{n}"), "agent": agent})).await.is(202);
    }
    assert_eq!(pending(&session, "").await, ["c0", "c1", "c2", "c3", "c4"]);
    session.post("/commands/c2/outcome", json!({"outcome": "consumed"})).await.is(201);
    session.post("/commands/c3/outcome", json!({"outcome": "rejected"})).await.is(201);
    assert_eq!(pending(&session, "").await, ["c0", "c1", "c4"]);
    assert_eq!(pending(&session, "&agent=even").await, ["c0", "c4"]);
    // From the answer's `next` the lane is followed without missing any.
    let page = session.get("/commands?pending=true").await.is(200);
    session.post("/commands", json!({"type": "go", "id": "c5"})).await.is(202);
    let mut stream = session.follow_lane("commands", "", page["next"].as_str()).await;
    assert_eq!(stream.entry().await.json["command"], "c5");
    let all = session.get("/commands?pending=false").await.is(200);
    assert_eq!(all["events"].as_array().expect("events").len(), 6);
}

async fn pending_commands_come_in_pages_that_are_not_too_large(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    let large = "x".repeat(200 * 1024);
    for n in 0..30 {
        session.post("/commands", json!({"type": "go", "id": format!("c{n}"), "data": large})).await.is(202);
    }
    for n in [0, 7, 8, 29] {
        session.post(&format!("/commands/c{n}/outcome"), json!({"outcome": "consumed"})).await.is(201);
    }
    let (mut seen, mut pages, mut after) = (Vec::new(), 0, "0-0".to_owned());
    loop {
        let page = session.get(&format!("/commands?pending=true&after={after}")).await.is(200);
        let events = page["events"].as_array().expect("events");
        assert!(events.len() < 26, "{}", events.len());
        seen.extend(events.iter().map(|event| event["command"].as_str().expect("a name").to_owned()));
        (pages, after) = (pages + 1, page["next"].as_str().expect("an id").to_owned());
        if page["up_to_date"] == true {
            break;
        }
    }
    let expected: Vec<_> = (0..30).filter(|n| ![0, 7, 8, 29].contains(n)).map(|n| format!("c{n}")).collect();
    assert_eq!((seen, pages), (expected, 2));
    // The last page leads to the end of the lane, whatever was left out.
    session.post("/commands", json!({"type": "go", "id": "c30"})).await.is(202);
    let mut stream = session.follow_lane("commands", "", Some(&after)).await;
    assert_eq!(stream.entry().await.json["command"], "c30");
}

async fn a_command_whose_time_runs_out_expires_before_all_eyes(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    let mut stream = session.follow("").await;
    stream.caught_up().await;
    session.post("/commands", json!({"type": "go", "id": "c", "ttl_ms": 50})).await.is(202);
    assert_eq!(stream.entry().await.json["type"], "command.issued");
    let expired = stream.entry().await;
    assert_eq!(expired.json, json!({"type": "command.expired", "data": {"command": "c", "type": "go"}}));
    let problem = session.post("/commands/c/outcome", json!({"outcome": "consumed"})).await;
    assert_eq!(problem.problem(409, "command_ended")["outcome"], "expired");
}

async fn a_command_whose_time_ran_out_unwatched_has_expired_for_the_next_who_looks(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    session.post("/commands", json!({"type": "go", "id": "c", "ttl_ms": 20})).await.is(202);
    // Whoever looks in time sees it pending, whoever looks later sees it ended; nobody sees anything else.
    loop {
        let view = session.get("").await.is(200);
        let Some(pending) = view["pending_commands"].get(0) else { break };
        assert!(view["now"].as_u64() < pending["expires"].as_u64(), "{view}");
    }
    assert_eq!(session.lane("events").await.pop().expect("an event")["type"], "command.expired");
}

async fn what_was_asked_of_a_run_ends_with_it(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    session.post("/runs", json!({"run": "r"})).await.is(201);
    session.post("/commands", json!({"type": "steer", "id": "c", "run": "r"})).await.is(202);
    session.post("/runs/r/end", json!({"status": "completed"})).await.is(200);
    let log = session.lane("events").await;
    let last = log.last().expect("an event");
    assert_eq!((&last["type"], &last["data"]["command"]), (&json!("command.superseded"), &json!("c")));
    let problem = session.post("/commands/c/outcome", json!({"outcome": "consumed"})).await;
    assert_eq!(problem.problem(409, "command_ended")["outcome"], "superseded");
    // And what is asked of it now comes too late.
    let late = session.post("/commands", json!({"type": "steer", "run": "r"})).await.problem(409, "run_ended");
    assert_eq!(late["run"], json!({"run": "r", "attempt": 1, "status": "completed"}));
    assert_eq!(session.lane("events").await, log);
}

async fn the_first_decision_holds_and_the_next_is_told_it(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    let asked = session.post("/approvals", json!({"approval": "a", "agent": "w", "prompt": {"q": 1}})).await.is(201);
    let log = session.lane("events").await;
    assert_eq!(asked, json!({"approval": "a", "entry": log[0]["id"]}));
    assert_eq!((&log[0]["type"], &log[0]["data"]["prompt"]), (&json!("approval.requested"), &json!({"q": 1})));
    for data in [json!(["approve"]), json!("approve"), json!({"decision": "maybe"}), json!(null)] {
        let bad = json!({"type": "decide", "approval": "a", "data": data});
        session.post("/commands", bad).await.problem(400, "bad_request");
    }
    let decide = |n: usize| {
        let decision = if n.is_multiple_of(2) { "approve" } else { "deny" };
        let body = json!({"type": "decide", "id": format!("d{n}"), "approval": "a", "data": {"decision": decision}});
        let session = session.clone();
        async move { (n, decision, session.post("/commands", body).await) }
    };
    let answers = futures_util::future::join_all((0..10).map(decide)).await;
    let (won, lost): (Vec<_>, Vec<_>) = answers.into_iter().partition(|(.., answer)| answer.status == 202);
    let [(winner, decision, _)] = &won[..] else { panic!("{won:?}") };
    for (.., answer) in lost {
        let problem = answer.problem(409, "approval_ended");
        assert_eq!(problem["decision"], *decision);
        assert_eq!(problem["command"], format!("d{winner}"));
    }
    let kinds: Vec<_> = session.lane("events").await.iter().map(|event| event["type"].clone()).collect();
    let commands = session.lane("commands").await;
    assert_eq!((&commands[0]["type"], &commands[0]["approval"]), (&json!("decide"), &json!("a")));
    assert_eq!(kinds, ["approval.requested", "command.issued", "approval.decided", "command.consumed"]);
    assert_eq!(session.lane("commands").await.len(), 1);
    // The winner who asks again is not told that it lost.
    let (.., again) = decide(*winner).await;
    assert_eq!(again.is(202), won[0].2.json());
    session.post("/approvals", json!({"approval": "a", "prompt": 1})).await.problem(409, "approval_exists");
}

async fn an_approval_that_nobody_decides_decides_itself(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    let mut stream = session.follow("").await;
    for (id, given, decision) in [("a", None, "deny"), ("b", Some("approve"), "approve")] {
        let mut body = json!({"approval": id, "prompt": "?", "expires_ms": 50});
        if let Some(given) = given {
            body["on_expiry"] = json!(given);
        }
        session.post("/approvals", body).await.is(201);
        assert_eq!(next_event(&mut stream).await["type"], "approval.requested");
        let decided = json!({"approval": id, "decision": decision, "expired": true});
        assert_eq!(next_event(&mut stream).await, json!({"type": "approval.decided", "data": decided}));
        let late = json!({"type": "decide", "approval": id, "data": {"decision": "approve"}});
        let problem = session.post("/commands", late).await.problem(409, "approval_ended");
        assert_eq!((&problem["decision"], &problem["command"]), (&json!(decision), &json!(null)));
    }
}

async fn an_approval_ends_with_its_run(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    session.post("/runs", json!({"run": "r", "agent": "w"})).await.is(201);
    session.post("/approvals", json!({"approval": "a", "run": "r", "prompt": "?"})).await.is(201);
    session.post("/runs/r/end", json!({"status": "failed", "reason": "why"})).await.is(200);
    let last = session.lane("events").await.pop().expect("an event");
    assert_eq!(
        (&last["type"], &last["agent"], &last["run"]),
        (&json!("approval.superseded"), &json!("w"), &json!("r"))
    );
    let late = json!({"type": "decide", "approval": "a", "data": {"decision": "approve"}});
    assert_eq!(session.post("/commands", late).await.problem(409, "approval_ended")["decision"], "superseded");
}

async fn what_a_command_says_stays_as_deep_as_events_may_be(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    let deep = |levels: usize| format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
    let send = |path: &'static str, body: String| {
        let request = session.http.post(session.url(path)).header("content-type", "application/json").body(body);
        answer(request)
    };
    let command = |levels: usize| send("/commands", format!(r#"{{"type":"go","data":{}}}"#, deep(levels)));
    let approval = |levels: usize| send("/approvals", format!(r#"{{"approval":"a","prompt":{}}}"#, deep(levels)));
    command(121).await.problem(400, "bad_event");
    approval(121).await.problem(400, "bad_event");
    session.get("").await.problem(404, "unknown_session");
    command(120).await.is(202);
    approval(120).await.is(201);
    // Parsers stop at 128 levels: every page and frame must be readable.
    assert_eq!(session.lane("events").await.len(), 2);
    assert_eq!(session.lane("commands").await.len(), 1);
    session.follow("").await.entries(2).await;
}
