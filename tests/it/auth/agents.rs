//! A token that is bound to an agent speaks as that agent and no other.

use serde_json::{Value, json};

use super::Guarded;
use crate::{
    store_contract::Backend,
    support::gateway::{Session, on_both_stores},
};

on_both_stores!(
    what_an_agent_appends_is_stamped_with_its_name,
    an_agent_can_t_speak_as_another,
    an_agent_has_no_say_in_the_runs_of_another,
    a_body_that_is_answered_early_tells_nothing_of_the_run_of_another,
    an_agent_reports_only_on_commands_that_are_for_it,
    an_agent_asks_for_approvals_only_in_its_own_name,
    an_agent_without_read_sees_the_commands_for_it,
    who_asked_and_who_decided_is_in_the_log,
);

/// Whatever is sent must be refused as another agent's, and leave the session as it was.
async fn refused(scene: &Guarded, what: &str, sent: impl Future<Output = crate::support::gateway::Answer>) {
    let before = scene.owner().state().await;
    let answer = sent.await;
    assert_eq!(answer.status, 403, "{what}: {answer:?}");
    answer.problem(403, "wrong_agent");
    assert_eq!(scene.owner().state().await, before, "{what}");
}

async fn agents_of(session: &Session) -> Vec<Value> {
    session.lane("events").await.into_iter().map(|mut event| event["agent"].take()).collect()
}

async fn what_an_agent_appends_is_stamped_with_its_name(backend: Backend) {
    let scene = Guarded::start(backend).await;
    let writer = scene.agent("writer");
    writer.append(json!([{"data": 1}, {"data": 2, "agent": "writer"}])).await;
    writer.post_as("/events?agent=writer", "application/x-ndjson", "{\"data\":3}\n").await.is(201);
    writer.post_as("/events", "text/event-stream", "data: 4\n\n").await.is(201);
    writer.post("/runs", json!({"run": "r1"})).await.is(201);
    writer.post("/events?run=r1", json!({"data": 5})).await.is(201);
    writer.post("/runs/r1/heartbeat", json!({})).await.is(200);
    writer.post("/runs/r1/end", json!({"status": "completed"})).await.is(200);
    let put =
        writer.http.put(writer.url("/runs/r2")).header("content-type", "application/x-ndjson").body("{\"data\":6}");
    crate::support::gateway::answer(put).await.is(201);
    writer.post("/approvals", json!({"approval": "a", "prompt": "?"})).await.is(201);
    let agents = agents_of(&scene.owner()).await;
    assert!(agents.len() > 10 && agents.iter().all(|agent| agent == "writer"), "{agents:?}");
    // Who is bound to nobody may speak as anybody.
    scene.owner().append(json!({"data": 7, "agent": "anybody"})).await;
}

async fn an_agent_can_t_speak_as_another(backend: Backend) {
    let scene = Guarded::start(backend).await;
    scene.owner().append_numbers(0..1).await;
    let writer = &scene.agent("writer");
    for (what, path, kind, body) in [
        ("an event", "/events", "application/json", r#"{"data":1,"agent":"boss"}"#),
        ("one of an array", "/events", "application/json", r#"[{"data":1},{"data":2,"agent":"boss"}]"#),
        ("the query", "/events?agent=boss", "application/json", r#"{"data":1}"#),
        ("the query, overruled", "/events?agent=boss", "application/json", r#"{"data":1,"agent":"writer"}"#),
        ("a line", "/events", "application/x-ndjson", "{\"data\":1,\"agent\":\"boss\"}\n{\"data\":2}\n"),
        ("a stream", "/events?agent=boss", "text/event-stream", "data: 1\n\n"),
        ("a run", "/runs", "application/json", r#"{"run":"r","agent":"boss"}"#),
        ("an approval", "/approvals", "application/json", r#"{"approval":"a","agent":"boss","prompt":1}"#),
    ] {
        refused(&scene, what, writer.post_as(path, kind, body)).await;
    }
    let put = writer
        .http
        .put(writer.url("/runs/r?agent=boss"))
        .header("content-type", "application/json")
        .body("{\"data\":1}");
    refused(&scene, "a run that is a body", crate::support::gateway::answer(put)).await;
    // Lines before the bad one are in the log.
    let problem =
        writer.post_as("/events", "application/x-ndjson", "{\"data\":1}\n{\"data\":2,\"agent\":\"boss\"}\n").await;
    let problem = problem.problem(403, "wrong_agent");
    assert_eq!((&problem["appended"], &problem["line"]), (&json!(1), &json!(2)));
}

async fn an_agent_has_no_say_in_the_runs_of_another(backend: Backend) {
    let scene = Guarded::start(backend).await;
    let (writer, boss) = (&scene.agent("writer"), &scene.agent("boss"));
    boss.post("/runs", json!({"run": "theirs", "lease_ms": 3_600_000})).await.is(201);
    writer.post("/runs", json!({"run": "ours", "lease_ms": 3_600_000})).await.is(201);
    scene.owner().post("/runs", json!({"run": "nobody's", "lease_ms": 3_600_000})).await.problem(400, "bad_request");
    scene.owner().post("/runs", json!({"run": "free", "lease_ms": 3_600_000})).await.is(201);
    for (what, path, body) in [
        ("an event", "/events?run=theirs", json!({"data": 1})),
        ("an event that names it", "/events", json!([{"data": 1}, {"data": 1, "run": "theirs"}])),
        ("a takeover", "/runs", json!({"run": "theirs", "takeover": true})),
        ("a heartbeat", "/runs/theirs/heartbeat", json!({})),
        ("an end", "/runs/theirs/end", json!({"status": "failed"})),
        ("an approval", "/approvals", json!({"approval": "a", "prompt": 1, "run": "theirs"})),
    ] {
        refused(&scene, what, writer.post(path, body)).await;
    }
    // Nor is a lease renewed by naming the run of the request alone.
    let sideways = writer.http.post(writer.url("/events?run=theirs")).header("run-attempt", 1);
    let sideways = sideways.json(&json!({"data": 1, "run": "ours"}));
    refused(&scene, "a lease", crate::support::gateway::answer(sideways)).await;
    // Below another's run, beside it, and for nobody's, there is work for everybody.
    writer.post("/runs", json!({"run": "below", "parent": "theirs"})).await.is(201);
    for run in ["ours", "below", "free", "a-label"] {
        writer.post(&format!("/events?run={run}"), json!({"data": 1})).await.is(201);
    }
    writer.post("/runs/free/end", json!({"status": "completed"})).await.is(200);
    boss.post("/runs/theirs/end", json!({"status": "failed"})).await.is(200);
    refused(&scene, "a takeover of what failed", writer.post("/runs", json!({"run": "theirs", "takeover": true})))
        .await;
}

async fn a_body_that_is_answered_early_tells_nothing_of_the_run_of_another(backend: Backend) {
    let scene = Guarded::start(backend).await;
    scene.agent("boss").post("/runs", json!({"run": "theirs"})).await.is(201);
    let token = scene.token(json!({"moorline": {"can": ["append"], "agent": "writer"}}));
    let headers = format!("content-type: application/x-ndjson\r\nauthorization: Bearer {token}");
    let mut body = scene.session.open_body("/events?run=theirs", &headers).await;
    // Its end comes later than the body's beginning, in any case.
    let stop = json!({"type": "stop", "run": "theirs", "grace_ms": 1000});
    scene.owner().post("/commands", stop).await.is(202);
    body.answer().await.problem(403, "wrong_agent");
}

async fn an_agent_reports_only_on_commands_that_are_for_it(backend: Backend) {
    let scene = Guarded::start(backend).await;
    let (writer, boss) = (&scene.agent("writer"), &scene.agent("boss"));
    boss.post("/runs", json!({"run": "theirs", "lease_ms": 3_600_000})).await.is(201);
    for (id, to) in [("to-boss", json!({"agent": "boss"})), ("to-run", json!({"run": "theirs"})), ("to-all", json!({}))]
    {
        let mut command = json!({"type": "steer", "id": id});
        command.as_object_mut().expect("an object").extend(to.as_object().expect("an object").clone());
        scene.can(&["command"]).post("/commands", command).await.is(202);
    }
    let done = json!({"outcome": "consumed"});
    for id in ["to-boss", "to-run"] {
        refused(&scene, id, writer.post(&format!("/commands/{id}/outcome"), done.clone())).await;
        boss.post(&format!("/commands/{id}/outcome"), done.clone()).await.is(201);
    }
    writer.post("/commands/to-all/outcome", done).await.is(201);
    // To be an agent is not to give orders.
    writer.post("/commands", json!({"type": "steer"})).await.problem(403, "forbidden");
}

async fn an_agent_asks_for_approvals_only_in_its_own_name(backend: Backend) {
    let scene = Guarded::start(backend).await;
    let writer = &scene.agent("writer");
    writer.post("/approvals", json!({"approval": "a", "prompt": 1})).await.is(201);
    assert_eq!(scene.owner().state().await["view"]["pending_approvals"][0]["agent"], "writer");
    // Whoever asks does not decide.
    let decide = json!({"type": "decide", "approval": "a", "data": {"decision": "approve"}});
    writer.post("/commands", decide.clone()).await.problem(403, "forbidden");
    scene.can(&["read", "append"]).post("/commands", decide.clone()).await.problem(403, "forbidden");
    scene.can(&["command"]).post("/commands", decide).await.is(202);
    // Nor lets time decide in its favour.
    let by_itself = json!({"approval": "b", "prompt": 1, "expires_ms": 1, "on_expiry": "approve"});
    let problem = writer.post("/approvals", by_itself.clone()).await.problem(403, "forbidden");
    assert_eq!(problem["needs"], json!(["command"]));
    writer.post("/approvals", json!({"approval": "b", "prompt": 1, "on_expiry": "deny"})).await.is(201);
    let mut by_itself = by_itself;
    by_itself["approval"] = json!("c");
    scene.can(&["append", "command"]).post("/approvals", by_itself).await.is(201);
}

async fn an_agent_without_read_sees_the_commands_for_it(backend: Backend) {
    let scene = Guarded::start(backend).await;
    let writer = &scene.agent("writer");
    for (id, agent) in [("c1", Some("boss")), ("c2", Some("writer")), ("c3", None)] {
        scene.owner().post("/commands", json!({"type": "steer", "id": id, "agent": agent})).await.is(202);
    }
    let commands = |entries: Vec<Value>| -> Vec<String> {
        entries.iter().map(|entry| entry["command"].as_str().expect("a command").to_owned()).collect()
    };
    assert_eq!(commands(writer.lane("commands").await), ["c2", "c3"]);
    let pending = writer.get("/commands?pending=true").await.is(200);
    assert_eq!(commands(pending["events"].as_array().expect("events").clone()), ["c2", "c3"]);
    let mut stream = writer.follow_lane("commands", "?agent=writer", None).await;
    let seen: Vec<_> = stream.entries(2).await.into_iter().map(|entry| entry.json).collect();
    assert_eq!(commands(seen), ["c2", "c3"]);
    for asked in ["boss", "writer,boss"] {
        writer.get(&format!("/commands?agent={asked}")).await.problem(403, "wrong_agent");
    }
    writer.get("/events").await.problem(403, "forbidden");
    // With `read` it sees what all see.
    let token = scene.token(json!({"moorline": {"can": ["read", "append"], "agent": "writer"}}));
    let reader = scene.session.bearing(&token);
    assert_eq!(commands(reader.lane("commands").await), ["c1", "c2", "c3"]);
    assert_eq!(reader.get("/commands?agent=boss").await.is(200)["events"].as_array().map(Vec::len), Some(2));
}

async fn who_asked_and_who_decided_is_in_the_log(backend: Backend) {
    let scene = Guarded::start(backend).await;
    let user = scene.owner();
    scene.agent("writer").post("/approvals", json!({"approval": "a", "prompt": "?"})).await.is(201);
    user.post("/commands", json!({"type": "steer", "id": "c1", "data": {"by": "somebody else"}})).await.is(202);
    let decide = json!({"type": "decide", "id": "c2", "approval": "a", "data": {"decision": "approve"}});
    user.post("/commands", decide).await.is(202);
    let commands = user.lane("commands").await;
    assert_eq!((&commands[0]["by"], &commands[1]["by"]), (&json!("tester"), &json!("tester")));
    let events = user.lane("events").await;
    let of = |kind: &str| {
        events.iter().filter(|event| event["type"] == kind).map(|event| &event["data"]).collect::<Vec<_>>()
    };
    let issued = of("command.issued");
    let said = json!({"command": "c1", "type": "steer", "by": "tester", "data": {"by": "somebody else"}});
    assert_eq!((issued[0], &issued[1]["by"]), (&said, &json!("tester")));
    let decided = json!({"approval": "a", "decision": "approve", "command": "c2", "by": "tester", "data": {"decision": "approve"}});
    assert_eq!(of("approval.decided"), [&decided]);
}
