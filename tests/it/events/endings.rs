//! How a session ends: closed, deleted, and what its clients are told.

use serde_json::json;

use super::Endless;
use crate::{
    store_contract::Backend,
    support::gateway::{Gateway, on_both_stores},
};

on_both_stores!(
    a_session_shows_what_it_is,
    a_closed_session_is_read_to_its_end_and_takes_no_more,
    a_client_that_has_all_of_a_closed_session_is_told_to_stay_away,
    an_endless_body_ends_with_its_session,
    an_endless_body_does_not_bring_back_a_session_that_is_deleted,
    what_runs_ends_with_its_session,
    clients_of_a_deleted_session_go_on_with_the_one_made_anew,
    a_deleted_session_is_gone_whole,
    a_session_that_is_deleted_and_made_anew_many_times_is_followed_through_all_of_it,
    a_replica_that_goes_down_cuts_its_streams,
);

async fn a_session_shows_what_it_is(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    session.get("").await.problem(404, "unknown_session");
    let ids = session.append_numbers(0..3).await;
    let view = session.get("").await;
    assert_eq!(view.headers["cache-control"], "no-store");
    let view = view.is(200);
    let created = view["created"].as_u64().expect("a time");
    assert!(ids[0].starts_with(&format!("{created}-")), "{view}");
    assert!(view["now"].as_u64() >= Some(created));
    let lanes = json!({
        "events": {"first": ids[0], "last": ids[2], "count": 3},
        "commands": {"first": null, "last": null, "count": 0},
    });
    assert_eq!(view["lanes"], lanes);
    assert_eq!((&view["session"], &view["closed"]), (&json!(session.name), &json!(null)));
    for list in ["runs", "pending_commands", "pending_approvals"] {
        assert_eq!(view[list], json!([]), "{list}");
    }
}

async fn a_closed_session_is_read_to_its_end_and_takes_no_more(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    session.post("/close", json!({})).await.problem(404, "unknown_session");
    let mut live = session.follow("").await;
    let mut filtered = session.follow("?type=none").await;
    filtered.caught_up().await;
    let ids = session.append_numbers(0..3).await;
    assert_eq!(live.entries(3).await[2].id, ids[2]);

    let closed = session.post("/close", json!({})).await.is(200);
    assert_eq!(closed, json!({"session": session.name, "closed": true}));
    for stream in [&mut live, &mut filtered] {
        assert_eq!(stream.named("closed").await, json!({}));
        stream.ended().await;
    }
    let state = session.state().await;
    assert!(state["view"]["closed"].is_u64());
    for (path, body) in [
        ("/events", json!({"data": 1})),
        ("/commands", json!({"type": "steer"})),
        ("/runs", json!({"run": "r"})),
        ("/approvals", json!({"approval": "a", "prompt": "?"})),
    ] {
        session.post(path, body).await.problem(409, "session_closed");
    }
    session.post_as("/events", "application/x-ndjson", "{\"data\":1}\n").await.problem(409, "session_closed");
    session.produce(("p", 0, 0), true, r#"{"data":1}"#).await.problem(409, "session_closed");
    // To close it again is no mistake, and changes nothing.
    session.post("/close", json!({})).await.is(200);
    assert_eq!(session.state().await, state);

    // Who comes late sees all of it.
    for lane in ["events", "commands"] {
        let mut late = session.follow_lane(lane, "", None).await;
        if lane == "events" {
            assert_eq!(late.data(3).await, [0, 1, 2]);
        }
        late.caught_up().await;
        assert_eq!(late.named("closed").await, json!({}));
        late.ended().await;
    }
}

async fn a_client_that_has_all_of_a_closed_session_is_told_to_stay_away(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    let ids = session.append(json!([{"type": "t"}, {"type": "u"}, {"type": "u"}])).await;
    session.post("/close", json!({})).await.is(200);
    for (query, last) in [("", Some(&ids[2])), ("?type=t", Some(&ids[0])), ("?type=t", Some(&ids[2]))] {
        let answer = session.try_follow("events", query, last.map(String::as_str)).await;
        assert_eq!(answer.status(), 204, "{query} {last:?}");
    }
    let answer = session.try_follow("events", &format!("?after={}", ids[2]), None).await;
    assert_eq!(answer.status(), 204);
    // Whoever has not had all gets the rest, and the end.
    let mut stream = session.resume("?type=u", &ids[1]).await;
    assert_eq!(stream.entry().await.id, ids[2]);
    stream.caught_up().await;
    stream.named("closed").await;
    stream.ended().await;
    // A first visit is no reconnect: it is told why nothing comes.
    let mut stream = session.follow("?type=none").await;
    stream.caught_up().await;
    stream.named("closed").await;
    stream.ended().await;
}

async fn an_endless_body_ends_with_its_session(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    let mut stream = session.follow("").await;
    stream.caught_up().await;
    let body = Endless::post(&session, "/events", "application/x-ndjson");
    body.piece("{\"data\":1}\n").await;
    let entry = stream.entry().await;
    session.post("/close", json!({})).await.is(200);
    body.piece("{\"data\":2}\n").await;
    let problem = body.answered().await.problem(409, "session_closed");
    assert_eq!((&problem["appended"], &problem["last"]), (&json!(1), &json!(entry.id)));
    assert_eq!(session.data().await, [1]);
}

async fn an_endless_body_does_not_bring_back_a_session_that_is_deleted(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    let mut stream = session.follow("").await;
    stream.caught_up().await;
    let bodies = [1, 2].map(|_| Endless::post(&session, "/events", "application/x-ndjson"));
    let mut last = Vec::new();
    for body in &bodies {
        body.piece("{\"data\":1}\n").await;
        last.push(stream.entry().await.id);
    }
    let deleted = session.http.delete(session.url("")).send().await.expect("an answer");
    assert_eq!(deleted.status(), 204);
    for (body, last) in bodies.into_iter().zip(last) {
        body.piece("{\"data\":2}\n").await;
        let problem = body.answered().await.problem(404, "unknown_session");
        assert_eq!((&problem["appended"], &problem["last"]), (&json!(1), &json!(last)));
        session.get("").await.problem(404, "unknown_session");
    }
    // One that begins later does begin it.
    let body = Endless::post(&session, "/events", "application/x-ndjson");
    body.piece("{\"data\":3}\n").await;
    assert_eq!(body.end().await.is(201)["appended"], 1);
    assert_eq!(session.data().await, [3]);
}

async fn what_runs_ends_with_its_session(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    session.post("/runs", json!({"run": "r"})).await.is(201);
    session.post("/commands", json!({"type": "steer", "id": "c"})).await.is(202);
    session.post("/approvals", json!({"approval": "a", "prompt": "?"})).await.is(201);
    session.post("/close", json!({})).await.is(200);
    let mut stream = session.follow("").await;
    let ended = stream.until("run.ended").await.json;
    assert_eq!((&ended["run"], &ended["data"]["status"]), (&json!("r"), &json!("cancelled")));
    assert_eq!(stream.until("approval.superseded").await.json["data"]["approval"], "a");
    assert_eq!(stream.until("command.superseded").await.json["data"]["command"], "c");
    stream.caught_up().await;
    stream.named("closed").await;
    let view = session.get("").await.is(200);
    assert_eq!((&view["pending_commands"], &view["pending_approvals"]), (&json!([]), &json!([])));
    assert_eq!(view["runs"][0]["status"], "cancelled");
}

async fn clients_of_a_deleted_session_go_on_with_the_one_made_anew(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    session.append(json!([{"type": "t", "data": 0}, {"type": "u", "data": 1}])).await;
    let mut streams = Vec::new();
    for (query, seen) in [("", 2), ("?type=u", 1), ("?from=now", 0)] {
        let mut stream = session.follow(query).await;
        assert_eq!(stream.entries(seen).await.len(), seen);
        assert_eq!(stream.next().await.expect("caught-up").event.as_deref(), Some("caught-up"));
        streams.push(stream);
    }
    let deleted = session.http.delete(session.url("")).send().await.expect("an answer");
    assert_eq!(deleted.status(), 204);
    for stream in &mut streams {
        assert_eq!(stream.named("reset").await, json!({"reason": "deleted", "first": null}));
        stream.caught_up().await;
    }
    let ids = session.append(json!([{"type": "u", "data": 10}])).await;
    for stream in &mut streams {
        let entry = stream.entry().await;
        assert_eq!((&entry.id, &entry.json["data"]), (&ids[0], &json!(10)));
    }
    // A closed one may be deleted too, and what comes after is open.
    session.post("/close", json!({})).await.is(200);
    session.http.delete(session.url("")).send().await.expect("an answer");
    session.append_numbers(0..1).await;
    assert!(session.get("").await.is(200)["closed"].is_null());
}

async fn a_deleted_session_is_gone_whole(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    let delete = || async { session.http.delete(session.url("")).send().await.expect("an answer") };
    assert_eq!(delete().await.status(), 404);
    session.produce(("p", 3, 0), true, r#"{"data":1}"#).await.is(201);
    session.post("/runs", json!({"run": "r"})).await.is(201);
    session.post("/commands", json!({"type": "steer", "id": "c"})).await.is(202);
    session.post("/approvals", json!({"approval": "a", "prompt": "?"})).await.is(201);
    assert_eq!(delete().await.status(), 204);
    for path in ["", "/events", "/commands", "/commands?pending=true"] {
        session.get(path).await.problem(404, "unknown_session");
    }
    session.get("/producers/p").await.problem(404, "unknown_producer");
    // Nothing of before is remembered: neither names nor numbers.
    session.produce(("p", 0, 0), true, r#"{"data":2}"#).await.is(201);
    assert_eq!(session.post("/runs", json!({"run": "r"})).await.is(201)["attempt"], 1);
    session.post("/commands/c/outcome", json!({"outcome": "consumed"})).await.problem(404, "unknown_command");
    session.post("/approvals", json!({"approval": "a", "prompt": "?"})).await.is(201);
    let log = session.lane("events").await;
    let id = log[0]["id"].as_str().expect("an id");
    assert!(id.ends_with("-1"), "{id}");
}

async fn a_session_that_is_deleted_and_made_anew_many_times_is_followed_through_all_of_it(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    let mut stream = session.follow("").await;
    stream.caught_up().await;
    for life in 0..20u64 {
        session.append_numbers(life * 10..life * 10 + 3).await;
        assert_eq!(stream.data(3).await, [life * 10, life * 10 + 1, life * 10 + 2]);
        // What is appended at once, before the client can have been told, is not lost either.
        session.http.delete(session.url("")).send().await.expect("an answer");
        let ids = session.append_numbers(1000..1002).await;
        let reset = stream.named("reset").await;
        assert_eq!(reset["reason"], "deleted");
        let mut seen = stream.entries(2).await;
        assert_eq!([&seen[0].id, &seen[1].id], [&ids[0], &ids[1]]);
        assert_eq!(seen.remove(0).json["data"], 1000);
        session.http.delete(session.url("")).send().await.expect("an answer");
        // Either the emptiness was seen in between, or what came next.
        loop {
            let frame = stream.next().await.expect("a stream without end");
            match frame.event.as_deref() {
                Some("caught-up") => {}
                Some("reset") => break,
                other => panic!("{other:?}: {frame:?}"),
            }
        }
        stream.caught_up().await;
    }
}

async fn a_replica_that_goes_down_cuts_its_streams(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    session.append_numbers(0..3).await;
    let mut streams = [session.follow("").await, session.follow("?type=none").await, session.follow("?from=now").await];
    for stream in &mut streams {
        while stream.next().await.expect("caught-up").event.as_deref() != Some("caught-up") {}
    }
    let down = tokio::spawn(gateway.shutdown());
    // A clean end would tell them that the session is over.
    for mut stream in streams {
        stream.cut().await;
    }
    down.await.expect("an end");
}
