//! Limits that count: what one token may do, and how many streams there may be.

use std::time::Instant;

use moorline::config::Quotas;
use serde_json::{Value, json};

use crate::{
    store_contract::Backend,
    support::{
        eventually,
        gateway::{Gateway, Session, answer, on_both_stores},
        tokens::{KeyFiles, claims, hs256, token},
    },
};

on_both_stores!(
    a_token_that_writes_too_fast_is_told_when_to_come_back,
    a_large_array_is_taken_as_a_whole_and_waited_for,
    a_body_without_end_is_slowed_down_to_the_rate,
    one_event_costs_one_however_it_comes,
    a_token_makes_so_many_sessions_and_no_more,
    streams_are_limited_in_all_by_session_and_by_token,
    streams_are_limited_without_tokens,
);

struct Scene {
    gateway: Gateway,
    secret: Vec<u8>,
    _files: KeyFiles,
}

impl Scene {
    async fn new(backend: Backend, quotas: Quotas) -> Self {
        let files = KeyFiles::new();
        let (auth, secret) = files.secret();
        let change = |config: &mut moorline::config::Config| (config.auth, config.quotas) = (Some(auth), quotas);
        Scene { gateway: Gateway::start_with(backend, change).await, secret, _files: files }
    }

    /// A session, for this subject.
    fn session_of(&self, subject: &str) -> Session {
        self.of(subject, &self.gateway.session())
    }

    fn of(&self, subject: &str, session: &Session) -> Session {
        session.bearing(&token(&json!({"alg": "HS256"}), &claims(json!({"sub": subject})), hs256(&self.secret)))
    }
}

/// The `Retry-After` of a refusal, in seconds.
fn again(answer: &crate::support::gateway::Answer) -> u64 {
    answer.headers["retry-after"].to_str().expect("text").parse().expect("seconds")
}

async fn a_token_that_writes_too_fast_is_told_when_to_come_back(backend: Backend) {
    let scene = Scene::new(backend, Quotas { events_per_second: 5, ..Quotas::default() }).await;
    let (ada, bob) = (scene.session_of("ada"), scene.session_of("bob"));
    let since = Instant::now();
    let (mut taken, mut refused) = (0, 0);
    while refused == 0 || since.elapsed().as_secs() < 2 {
        let answer = ada.post("/events", json!({"data": taken})).await;
        match answer.status {
            201 => taken += 1,
            _ => {
                assert!(again(&answer) >= 1);
                answer.problem(429, "too_many_events");
                refused += 1;
                // Others are not held up.
                if refused <= 3 {
                    bob.post("/events", json!({"data": 1})).await.is(201);
                }
            }
        }
    }
    // A second's worth at once, and the rate from then on.
    let most = 5.0 + 5.0 * since.elapsed().as_secs_f64() + 1.0;
    assert!(taken >= 5 && f64::from(taken) <= most, "{taken} in {:?}", since.elapsed());
    // Reading is free, and what was refused is not in the log.
    assert_eq!(ada.data().await, (0..taken).map(Value::from).collect::<Vec<_>>());
}

async fn a_large_array_is_taken_as_a_whole_and_waited_for(backend: Backend) {
    let scene = Scene::new(backend, Quotas { events_per_second: 50, ..Quotas::default() }).await;
    let ada = scene.session_of("ada");
    assert_eq!(ada.append_numbers(0..1000).await.len(), 1000);
    let refused = ada.post("/events", json!({"data": 1})).await;
    assert!((15..=20).contains(&again(&refused)), "{refused:?}");
    refused.problem(429, "too_many_events");
    // Another session is the same token's.
    scene.session_of("ada").post("/runs", json!({"run": "r"})).await.problem(429, "too_many_events");
    scene.session_of("bob").append_numbers(0..50).await;
}

async fn a_body_without_end_is_slowed_down_to_the_rate(backend: Backend) {
    let scene = Scene::new(backend, Quotas { events_per_second: 1000, ..Quotas::default() }).await;
    let ada = scene.session_of("ada");
    let since = Instant::now();
    let lines: String = (0..3000).map(|n| format!("{{\"data\":{n}}}\n")).collect();
    // In pieces, as it would come: what has come is appended, and the rest waits.
    let pieces: Vec<Result<Vec<u8>, std::io::Error>> =
        lines.as_bytes().chunks(1000).map(|piece| Ok(piece.to_vec())).collect();
    let body = reqwest::Body::wrap_stream(futures_util::stream::iter(pieces));
    ada.post_as("/events", "application/x-ndjson", body).await.is(201);
    let log = ada.data().await;
    assert_eq!(log, (0..3000).map(Value::from).collect::<Vec<_>>());
    // A second's worth at once, at most as much again in a last debt that nobody waited for: the rest at the rate.
    assert!(since.elapsed().as_secs_f64() > 0.5, "{:?}", since.elapsed());
}

async fn one_event_costs_one_however_it_comes(backend: Backend) {
    let scene = Scene::new(backend, Quotas { events_per_second: 20, ..Quotas::default() }).await;
    let forms = [("json", "{\"data\":1}"), ("x-ndjson", "{\"data\":1}\n")];
    for (form, body) in forms {
        let session = scene.session_of(form);
        for _ in 0..20 {
            session.post_as("/events", &format!("application/{form}"), body).await.is(201);
        }
    }
}

async fn a_token_makes_so_many_sessions_and_no_more(backend: Backend) {
    let scene = Scene::new(backend, Quotas { new_sessions_per_minute: 3, ..Quotas::default() }).await;
    let ada: Vec<Session> = (0..4).map(|_| scene.session_of("ada")).collect();
    ada[0].append_numbers(0..1).await;
    ada[1].post("/commands", json!({"type": "go"})).await.is(202);
    ada[2].post("/runs", json!({"run": "r"})).await.is(201);
    let refused = ada[3].post("/events", json!({"data": 1})).await;
    assert!((1..=21).contains(&again(&refused)), "{refused:?}");
    refused.problem(429, "too_many_sessions");
    assert_eq!(ada[3].get("").await.status, 404);
    // Those that are there are written to as before; so are those that others have made.
    ada[0].append_numbers(1..3).await;
    let bobs = scene.session_of("bob");
    bobs.append_numbers(0..1).await;
    scene.of("ada", &bobs).append_numbers(1..2).await;
    ada[3].post("/events", json!({"data": 1})).await.problem(429, "too_many_sessions");
    // What can make none is not counted, and one made again is a new one.
    let eve: Vec<Session> = (0..5).map(|_| scene.session_of("eve")).collect();
    for session in &eve {
        session.post("/close", json!({})).await.problem(404, "unknown_session");
        session.post("/runs/r/heartbeat", json!({})).await.problem(404, "unknown_run");
    }
    for session in &eve[..3] {
        session.append_numbers(0..1).await;
    }
    assert_eq!(answer(eve[0].http.delete(eve[0].url(""))).await.status, 204);
    eve[0].post("/events", json!({"data": 1})).await.problem(429, "too_many_sessions");
}

async fn streams_are_limited_in_all_by_session_and_by_token(backend: Backend) {
    let quotas = Quotas { streams: 4, streams_per_session: 3, streams_per_token: 2, ..Quotas::default() };
    let scene = Scene::new(backend, quotas).await;
    let (one, two) = (scene.gateway.session(), scene.gateway.session());
    let of = |subject: &str, session: &Session| scene.of(subject, session);
    let mut open = vec![of("ada", &one).follow("").await, of("ada", &one).follow_lane("commands", "", None).await];
    refused(&of("ada", &two), 429, "token").await;
    open.push(of("bob", &one).follow("").await);
    refused(&of("bob", &one), 429, "session").await;
    open.push(of("bob", &two).follow("").await);
    refused(&of("cy", &two), 503, "replica").await;
    // Pages are no streams.
    of("cy", &two).append_numbers(0..1).await;
    assert_eq!(of("cy", &two).data().await, [0]);
    // When one ends there is room for another.
    open.pop();
    let opens =
        |session: Session| async move { (session.try_follow("events", "", None).await.status() == 200).then_some(()) };
    eventually("room", || opens(of("cy", &two))).await;
    // Also when the session ends all of its own.
    of("ada", &one).append_numbers(0..1).await;
    of("ada", &one).post("/close", json!({})).await.is(200);
    for mut stream in open {
        while stream.next().await.is_some() {}
    }
    eventually("room for ada", || opens(of("ada", &two))).await;
}

async fn refused(session: &Session, status: u16, of: &str) {
    let request = session.http.get(session.url("/events")).header("accept", "text/event-stream");
    let answer = crate::support::gateway::answer(request).await;
    assert!(again(&answer) >= 1, "{answer:?}");
    assert_eq!(answer.problem(status, "too_many_streams")["of"], of);
}

async fn streams_are_limited_without_tokens(backend: Backend) {
    let quotas = Quotas { streams: 2, streams_per_session: 1, ..Quotas::default() };
    let gateway = Gateway::start_with(backend, |config| config.quotas = quotas).await;
    let (one, two, three) = (gateway.session(), gateway.session(), gateway.session());
    let mut stream = one.follow("").await;
    refused(&one, 429, "session").await;
    let other = two.follow("").await;
    refused(&three, 503, "replica").await;
    one.append_numbers(0..3).await;
    assert_eq!(stream.data(3).await, [0, 1, 2]);
    drop(other);
    eventually("room", || async { (three.try_follow("events", "", None).await.status() == 200).then_some(()) }).await;
}
