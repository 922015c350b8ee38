//! Runs, commands and approvals that the rules refuse.

use serde_json::json;

use super::Scene;
use crate::{
    store_contract::Backend,
    support::gateway::{Answer, answer, on_both_stores},
};

on_both_stores!(
    bodies_of_another_shape_are_refused,
    times_out_of_range_are_refused,
    runs_that_nobody_started_are_refused,
    runs_that_have_ended_are_refused,
    attempts_that_are_not_the_current_one_are_refused,
    parents_that_make_a_circle_are_refused,
    a_live_run_is_not_started_twice,
    too_many_runs_are_refused,
    a_full_control_state_is_refused,
    too_many_pending_commands_are_refused,
    a_second_outcome_is_refused_with_the_first,
    decisions_of_what_is_not_open_are_refused,
    a_run_that_is_a_bad_body_does_not_start,
);

/// A year.
const YEAR: i64 = 365 * 86_400_000;

async fn bodies_of_another_shape_are_refused(backend: Backend) {
    let scene = Scene::new(backend).await;
    let long = "x".repeat(1001);
    let reason = format!(r#"{{"status":"failed","reason":"{long}"}}"#);
    let why = format!(r#"{{"outcome":"rejected","reason":"{long}"}}"#);
    for (path, body) in [
        ("/commands", r#"{}"#),
        ("/commands", r#"{"type":1}"#),
        ("/commands", r#"{"type":null}"#),
        ("/commands", r#"{"type":"go","colour":1}"#),
        ("/commands", r#"{"type":"go","type":"go"}"#),
        ("/commands", r#"{"type":"go","id":"a b"}"#),
        ("/commands", r#"{"type":"go","id":""}"#),
        ("/commands", r#"{"type":"go","id":".."}"#),
        ("/commands", r#"{"type":"go","run":"a\u0000"}"#),
        ("/commands", r#"{"type":"go","agent":"a\nb"}"#),
        ("/commands", r#"{"type":"go","ttl_ms":"5"}"#),
        ("/commands", r#"{"type":"go","ttl_ms":1.5}"#),
        ("/commands", r#"{"type":"go","ttl_ms":99999999999999999999}"#),
        ("/commands", r#"{"type":"go","grace_ms":5}"#),
        ("/commands", r#"{"type":"go","tree":true}"#),
        ("/commands", r#"{"type":"stop","tree":"yes"}"#),
        ("/commands", r#"{"type":"stop","tree":true}"#),
        ("/commands", r#"{"type":"go","approval":"open"}"#),
        ("/commands", r#"{"type":"decide"}"#),
        ("/commands", r#"{"type":"decide","approval":"open"}"#),
        ("/commands", r#"{"type":"decide","approval":"open","data":"approve"}"#),
        ("/commands", r#"{"type":"decide","approval":"open","data":{"decision":"yes"}}"#),
        ("/commands", r#"{"type":"decide","approval":"open","data":{"decision":true}}"#),
        ("/commands", "1"),
        ("/commands", "null"),
        ("/commands", r#""stop""#),
        // A list of values is no object, even where their order would fit.
        ("/commands", r#"["go",null,null,null,null,null,null,false,null]"#),
        ("/commands", r#"[{"type":"go"}]"#),
        ("/runs", r#"["new",null,null,null,false]"#),
        ("/runs", r#"["new",null,null,null]"#),
        ("/runs", r#"{}"#),
        ("/runs", r#"{"run":"a b"}"#),
        ("/runs", r#"{"run":1}"#),
        ("/runs", r#"{"run":"new","lease":5}"#),
        ("/runs", r#"{"run":"new","takeover":1}"#),
        ("/runs", r#"{"run":"new","parent":"a/b"}"#),
        ("/runs", r#"{"run":"new","lease_ms":"5000"}"#),
        ("/runs/live/end", r#"{}"#),
        ("/runs/live/end", r#"{"status":"lost"}"#),
        ("/runs/live/end", r#"{"status":"done"}"#),
        ("/runs/live/end", r#"{"status":"failed","reason":5}"#),
        ("/runs/live/end", r#"{"status":"failed","attempt":-1}"#),
        ("/runs/live/end", r#"["failed",null,null]"#),
        ("/runs/live/end", &reason),
        ("/commands/pending/outcome", r#"{}"#),
        ("/commands/pending/outcome", r#"{"outcome":"expired"}"#),
        ("/commands/pending/outcome", r#"{"outcome":1}"#),
        ("/commands/pending/outcome", r#"["consumed",null]"#),
        ("/commands/pending/outcome", &why),
        ("/approvals", r#"{"approval":"new"}"#),
        ("/approvals", r#"{"prompt":"?"}"#),
        ("/approvals", r#"{"approval":"a b","prompt":"?"}"#),
        ("/approvals", r#"{"approval":"new","prompt":"?","on_expiry":"maybe"}"#),
        ("/approvals", r#"{"approval":"new","prompt":"?","expires":5}"#),
        ("/approvals", r#"["new",null,null,"?",null,null]"#),
    ] {
        scene.refuses_post(path, body, 400, "bad_request").await;
    }
    for path in ["/commands", "/runs", "/runs/live/end", "/commands/pending/outcome", "/approvals"] {
        for body in ["{", "x", r#"{"a":1}}"#, "{'a':1}", "\u{feff}{}"] {
            scene.refuses_post(path, body, 400, "bad_json").await;
        }
    }
    for kind in ["", "a b", "a,b", "a\\nb", "\\u0000", "ä", "x".repeat(129).as_str()] {
        scene.refuses_post("/commands", &format!("{{\"type\":\"{kind}\"}}"), 400, "bad_type").await;
    }
}

async fn times_out_of_range_are_refused(backend: Backend) {
    let scene = Scene::new(backend).await;
    for ms in [i64::MIN, -1, 0, YEAR, i64::MAX] {
        for (path, body, field) in [
            ("/commands", json!({"type": "go", "ttl_ms": ms}), "ttl_ms"),
            ("/runs", json!({"run": "new", "lease_ms": ms}), "lease_ms"),
            ("/runs", json!({"run": "live", "lease_ms": ms, "takeover": true}), "lease_ms"),
            ("/approvals", json!({"approval": "new", "prompt": "?", "expires_ms": ms}), "expires_ms"),
        ] {
            let problem = scene.refuses_post(path, &body.to_string(), 400, "out_of_range").await;
            assert_eq!(problem["field"], field);
            assert!(problem["min"].is_u64() && problem["max"].is_u64(), "{problem}");
        }
        let path = format!("/v1/sessions/{}/runs/new?lease_ms={ms}", scene.session.name);
        scene.refuses_raw("PUT", &path, 400, "out_of_range").await;
        if ms != 0 {
            let body = json!({"type": "stop", "run": "live", "grace_ms": ms}).to_string();
            scene.refuses_post("/commands", &body, 400, "out_of_range").await;
        }
    }
}

async fn runs_that_nobody_started_are_refused(backend: Backend) {
    let scene = Scene::new(backend).await;
    let post = |path, body: serde_json::Value| scene.session.post(path, body);
    for (path, body) in [
        ("/runs/none/end", json!({"status": "completed"})),
        ("/runs/none/heartbeat", json!({})),
        ("/runs", json!({"run": "new", "parent": "none"})),
        ("/approvals", json!({"approval": "new", "run": "none", "prompt": "?"})),
    ] {
        let problem = scene.refuses(path, post(path, body), 404, "unknown_run").await;
        assert_eq!(problem["run"], "none");
    }
    // A label that nobody started has no attempts.
    let request = scene.session.http.post(scene.session.url("/events?run=none")).header("run-attempt", "1");
    scene.refuses("an attempt", answer(request.json(&json!({"data": 1}))), 404, "unknown_run").await;
    scene.session.post("/events?run=none", json!({"data": 1})).await.is(201);
}

async fn runs_that_have_ended_are_refused(backend: Backend) {
    let scene = Scene::new(backend).await;
    for (path, body) in [
        ("/events?run=ended", json!({"data": 1})),
        ("/events", json!([{"data": 1}, {"data": 2, "run": "ended"}])),
        ("/runs/ended/end", json!({"status": "failed"})),
        ("/runs/ended/heartbeat", json!({})),
        ("/runs", json!({"run": "ended"})),
        ("/runs", json!({"run": "ended", "takeover": true})),
        ("/commands", json!({"type": "steer", "run": "ended"})),
        ("/commands", json!({"type": "stop", "run": "ended"})),
        ("/approvals", json!({"approval": "new", "run": "ended", "prompt": "?"})),
    ] {
        let problem = scene.refuses(path, scene.session.post(path, body), 409, "run_ended").await;
        assert_eq!(problem["run"], json!({"run": "ended", "attempt": 1, "status": "completed"}));
    }
    for kind in ["application/x-ndjson", "text/event-stream"] {
        let body = "data: 1\n\n".replace("data: 1", if kind.ends_with("json") { r#"{"data":1}"# } else { "data: 1" });
        let sent = scene.session.post_as("/events?run=ended", kind, body);
        assert_eq!(scene.refuses(kind, sent, 409, "run_ended").await["appended"], 0);
    }
    let path = format!("/v1/sessions/{}/runs/ended", scene.session.name);
    scene.refuses_raw("PUT", &path, 409, "run_ended").await;
}

async fn attempts_that_are_not_the_current_one_are_refused(backend: Backend) {
    let scene = Scene::new(backend).await;
    let taken = scene.session.post("/runs", json!({"run": "live", "takeover": true})).await.is(201);
    assert_eq!(taken["attempt"], 2);
    for given in [1, 3, u32::MAX] {
        let append = scene.session.http.post(scene.session.url("/events?run=live")).json(&json!({"data": 1}));
        let lines = scene.session.http.post(scene.session.url("/events?run=live")).body("{\"data\":1}\n");
        let lines = lines.header("content-type", "application/x-ndjson");
        let beat = scene.session.http.post(scene.session.url("/runs/live/heartbeat"));
        let end = scene.session.http.post(scene.session.url("/runs/live/end")).json(&json!({"status": "completed"}));
        for (what, request) in [("append", append), ("lines", lines), ("heartbeat", beat), ("end", end)] {
            let sent = answer(request.header("run-attempt", given));
            let problem = scene.refuses(what, sent, 409, "stale_attempt").await;
            let told = (&problem["run"], &problem["received"]);
            assert_eq!(told, (&json!({"run": "live", "attempt": 2}), &json!(given)));
        }
        let body = json!({"status": "completed", "attempt": given}).to_string();
        scene.refuses_post("/runs/live/end", &body, 409, "stale_attempt").await;
    }
}

async fn parents_that_make_a_circle_are_refused(backend: Backend) {
    let scene = Scene::new(backend).await;
    for (run, parent) in [("new", "new"), ("live", "live"), ("live", "child")] {
        let body = json!({"run": run, "parent": parent, "takeover": true}).to_string();
        scene.refuses_post("/runs", &body, 409, "parent_circle").await;
    }
    let path = format!("/v1/sessions/{}/runs/new?parent=new", scene.session.name);
    scene.refuses_raw("PUT", &path, 409, "parent_circle").await;
}

async fn a_live_run_is_not_started_twice(backend: Backend) {
    let scene = Scene::new(backend).await;
    let problem = scene.refuses_post("/runs", r#"{"run":"live"}"#, 409, "run_exists").await;
    assert_eq!(problem["run"], json!({"run": "live", "attempt": 1}));
    let path = format!("/v1/sessions/{}/runs/live", scene.session.name);
    scene.refuses_raw("PUT", &path, 409, "run_exists").await;
}

async fn too_many_runs_are_refused(backend: Backend) {
    let scene = Scene::with(backend, |config| config.control.runs = 10).await;
    for n in 3..10 {
        scene.session.post("/runs", json!({"run": format!("r{n}")})).await.is(201);
    }
    let problem = scene.refuses_post("/runs", r#"{"run":"r10"}"#, 409, "too_many_runs").await;
    assert_eq!(problem["limit"], 10);
    let path = format!("/v1/sessions/{}/runs/r10", scene.session.name);
    scene.refuses_raw("PUT", &path, 409, "too_many_runs").await;
    // Those that are there go on.
    scene.session.post("/events?run=r9", json!({"data": 1})).await.is(201);
    scene.session.post("/runs", json!({"run": "r9", "takeover": true})).await.is(201);
    scene.session.post("/runs/r9/end", json!({"status": "completed"})).await.is(200);
    // A stop of a run that has not started is remembered, and takes its place among them.
    scene.refuses_post("/commands", r#"{"type":"stop","run":"r10"}"#, 409, "too_many_runs").await;
}

async fn a_full_control_state_is_refused(backend: Backend) {
    let scene = Scene::with(backend, |config| config.control.bytes = 2000).await;
    let mut full = None;
    for n in 0..1000 {
        let answer: Answer = scene.session.post("/runs", json!({"run": format!("r{n}")})).await;
        if answer.status != 201 {
            full = Some(answer);
            break;
        }
    }
    let problem = full.expect("a limit").problem(409, "control_full");
    assert_eq!(problem["limit"], 2000);
    for (path, body) in [
        ("/runs", json!({"run": "new"})),
        ("/commands", json!({"type": "go"})),
        ("/commands", json!({"type": "stop", "run": "new"})),
        ("/approvals", json!({"approval": "new", "prompt": "?"})),
    ] {
        scene.refuses(path, scene.session.post(path, body), 409, "control_full").await;
    }
    // What is there can still end.
    scene.session.post("/runs/r0/end", json!({"status": "completed"})).await.is(200);
    scene.session.post("/commands/pending/outcome", json!({"outcome": "consumed"})).await.is(201);
}

async fn too_many_pending_commands_are_refused(backend: Backend) {
    let scene = Scene::with(backend, |config| config.control.pending_commands = 3).await;
    for n in 0..2 {
        scene.session.post("/commands", json!({"type": "go", "id": format!("c{n}")})).await.is(202);
    }
    scene.refuses_post("/commands", r#"{"type":"go","id":"c2"}"#, 409, "too_many_commands").await;
    // The answer to one that is known does not depend on there being room.
    scene.session.post("/commands", json!({"type": "go", "id": "c1"})).await.is(202);
    scene.session.post("/commands/c0/outcome", json!({"outcome": "consumed"})).await.is(201);
    scene.session.post("/commands", json!({"type": "go", "id": "c2"})).await.is(202);
}

async fn a_second_outcome_is_refused_with_the_first(backend: Backend) {
    let scene = Scene::new(backend).await;
    for outcome in ["consumed", "rejected"] {
        let body = json!({"outcome": outcome}).to_string();
        let problem = scene.refuses_post("/commands/consumed/outcome", &body, 409, "command_ended").await;
        assert_eq!((&problem["command"], &problem["outcome"]), (&json!("consumed"), &json!("consumed")));
        scene.refuses_post("/commands/none/outcome", &body, 404, "unknown_command").await;
    }
}

async fn decisions_of_what_is_not_open_are_refused(backend: Backend) {
    let scene = Scene::new(backend).await;
    let decide =
        |approval: &str| json!({"type": "decide", "approval": approval, "data": {"decision": "deny"}}).to_string();
    scene.refuses_post("/commands", &decide("none"), 404, "unknown_approval").await;
    let problem = scene.refuses_post("/commands", &decide("decided"), 409, "approval_ended").await;
    let told = (&problem["approval"], &problem["decision"], &problem["command"]);
    assert_eq!(told, (&json!("decided"), &json!("approve"), &json!("d")));
    for approval in ["open", "decided"] {
        let body = json!({"approval": approval, "prompt": "?"}).to_string();
        scene.refuses_post("/approvals", &body, 409, "approval_exists").await;
    }
}

async fn a_run_that_is_a_bad_body_does_not_start(backend: Backend) {
    let scene = Scene::new(backend).await;
    let put = |body: &str| {
        let request = scene.session.http.put(scene.session.url("/runs/new"));
        answer(request.header("content-type", "application/json").body(body.to_owned()))
    };
    for (body, code) in [
        ("", "empty_body"),
        ("nonsense", "bad_json"),
        ("[]", "empty_batch"),
        ("{}", "empty_event"),
        (r#"{"type":"run.ended"}"#, "reserved_type"),
        (r#"[{"data":1},{"data":1,"run":"a b"}]"#, "bad_name"),
    ] {
        scene.refuses(body, put(body), 400, code).await;
    }
    put(r#"[{"data":1},{"data":2}]"#).await.is(201);
}
