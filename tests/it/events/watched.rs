//! Bodies without end whose run or session goes away, and what the log says of that is late, lost or of another time.

use std::time::Duration;

use serde_json::json;

use super::Endless;
use crate::{
    store_contract::Backend,
    support::{
        gateway::{Gateway, Session, on_both_stores},
        redis::RedisServer,
    },
};

on_both_stores!(
    what_has_arrived_when_a_stop_comes_is_appended,
    a_body_ends_with_its_session_although_it_is_silent,
    a_body_does_not_go_on_in_a_later_session_of_the_name,
    a_body_that_was_stopped_and_erased_is_no_success,
);

const LINES: &str = "application/x-ndjson";
const EVENT: &str = "{\"type\":\"n\"}\n";

fn put(session: &Session) -> Endless {
    Endless::send(session.http.put(session.url("/runs/r")).header("content-type", LINES))
}

/// The bodies, each with an event in the log.
async fn begun<const N: usize>(session: &Session, bodies: [Endless; N]) -> [Endless; N] {
    let mut stream = session.follow("?type=n").await;
    stream.caught_up().await;
    for body in &bodies {
        body.piece(EVENT).await;
        stream.entry().await;
    }
    bodies
}

async fn delete(session: &Session) {
    let deleted = session.http.delete(session.url("")).send().await.expect("an answer");
    assert_eq!(deleted.status(), 204);
}

async fn what_has_arrived_when_a_stop_comes_is_appended(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    for round in 0..5 {
        let session = gateway.session();
        session.post("/runs", json!({"run": "r"})).await.is(201);
        let mut stream = session.follow("?type=n").await;
        stream.caught_up().await;
        let mut body = session.open_body("/events?run=r", &format!("content-type: {LINES}")).await;
        body.chunk(EVENT).await;
        stream.entry().await;
        // More than is read at once, and less than the system holds.
        for _ in 0..20 {
            body.chunk(EVENT.repeat(200)).await;
        }
        session.post("/commands", json!({"type": "stop", "run": "r", "grace_ms": 3_600_000})).await.is(202);
        let answer = body.answer().await.is(201);
        assert_eq!((&answer["appended"], &answer["run"]["status"]), (&json!(4001), &json!("stopping")), "{round}");
    }
}

async fn a_body_ends_with_its_session_although_it_is_silent(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    let bodies = begun(&session, [put(&session), Endless::post(&session, "/events?run=label", LINES)]).await;
    delete(&session).await;
    for body in bodies {
        assert_eq!(body.answered().await.problem(404, "unknown_session")["appended"], 1);
    }
    session.get("").await.problem(404, "unknown_session");
}

async fn a_body_does_not_go_on_in_a_later_session_of_the_name(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    let bodies = begun(&session, [put(&session), Endless::post(&session, "/events", LINES)]).await;
    delete(&session).await;
    session.post("/runs", json!({"run": "r"})).await.is(201);
    for body in bodies {
        // The one that names a run may have been told by now.
        body.piece_if_taken(EVENT).await;
        body.end().await.problem(404, "unknown_session");
    }
    let view = session.get("").await.is(200);
    assert_eq!((&view["runs"][0]["status"], &view["lanes"]["events"]["count"]), (&json!("running"), &json!(1)));
}

async fn a_body_that_was_stopped_and_erased_is_no_success(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    for _ in 0..20 {
        let session = gateway.session();
        let [body] = begun(&session, [put(&session)]).await;
        session.post("/commands", json!({"type": "stop", "run": "r", "grace_ms": 0})).await.is(202);
        delete(&session).await;
        let answer = body.answered().await;
        assert!([404, 409].contains(&answer.status), "{answer:?}");
    }
}

/// A gateway on a Redis of its own that it gives up waiting for soon.
async fn impatient(redis: &RedisServer) -> Gateway {
    Gateway::start_with(Backend::Redis, |config| {
        config.redis_url = Some(redis.url());
        config.redis_prefix = "m:".into();
        config.redis_timeout = Duration::from_millis(500);
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_began_while_redis_was_away_is_told_of_a_stop() {
    let redis = RedisServer::start();
    let gateway = impatient(&redis).await;
    let session = gateway.session();
    session.post("/runs", json!({"run": "r", "lease_ms": 3_600_000})).await.is(201);
    redis.freeze();
    let body = Endless::post(&session, "/events?run=r", LINES);
    // Each waits for as long as the body's subscription does.
    for _ in 0..3 {
        session.get("").await.problem(503, "store_unavailable");
    }
    redis.thaw();
    crate::support::eventually("a stop", || async {
        let stop = json!({"type": "stop", "id": "s", "run": "r", "grace_ms": 3_600_000});
        (session.post("/commands", stop).await.status == 202).then_some(())
    })
    .await;
    assert_eq!(body.answered().await.is(201)["run"]["status"], "stopping");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_does_not_take_the_end_of_an_earlier_attempt_for_its_own() {
    let redis = RedisServer::start();
    let gateway = impatient(&redis).await;
    let session = gateway.session();
    session.post("/runs", json!({"run": "r", "lease_ms": 3_600_000})).await.is(201);
    session.post("/runs/r/end", json!({"status": "failed"})).await.is(200);
    let mut stream = session.follow("").await;
    let request = session.http.put(session.url("/runs/r?takeover=true&lease_ms=3600000")).header("content-type", LINES);
    let body = Endless::send(request);
    body.piece(EVENT).await;
    stream.until("n").await;
    // As after a failover to a replica that lacks the newest entry.
    let key = |last: &str| format!("m:{{{}}}:{last}", session.name);
    let last = redis.cli(&["HGET", &key("meta"), "e"]);
    redis.cli(&["XDEL", &key("events"), last.trim()]);
    let before = redis.cli(&["XREVRANGE", &key("events"), "+", "-", "COUNT", "1"]);
    let before = before.lines().next().expect("an id").to_owned();
    redis.cli(&["HSET", &key("meta"), "e", &before]);
    redis.cli(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    stream.named("reset").await;
    body.piece(EVENT).await;
    assert_eq!(body.end().await.is(201)["appended"], 2);
    let view = session.get("").await.is(200);
    assert_eq!((&view["runs"][0]["attempt"], &view["runs"][0]["status"]), (&json!(2), &json!("completed")));
}
