//! A token ends, and with it what flows under it.

use std::time::Duration;

use serde_json::json;

use super::Guarded;
use crate::{
    store_contract::Backend,
    support::{gateway::on_both_stores, tokens::now},
};

on_both_stores!(
    a_stream_breaks_when_its_token_expires,
    a_body_is_answered_when_its_token_expires,
    a_client_with_a_fresh_token_goes_on_where_it_was_cut,
    a_page_is_whole_whenever_its_token_ends,
);

async fn scene(backend: Backend) -> Guarded {
    Guarded::start_with(backend, |auth| auth.leeway = Duration::ZERO).await
}

async fn a_stream_breaks_when_its_token_expires(backend: Backend) {
    let scene = scene(backend).await;
    scene.owner().append_numbers(0..3).await;
    let short = scene.session.bearing(&scene.token(json!({"exp": now() + 2})));
    let mut stream = short.follow("").await;
    assert_eq!(stream.data(3).await, [0, 1, 2]);
    // It breaks: a clean end would say that the session is over.
    stream.cut().await;
    short.get("/events").await.problem(401, "token_expired");
    // Who has another token goes on.
    let mut other = scene.owner().follow("").await;
    assert_eq!(other.data(3).await, [0, 1, 2]);
}

async fn a_body_is_answered_when_its_token_expires(backend: Backend) {
    let scene = scene(backend).await;
    let token = scene.token(json!({"exp": now() + 2}));
    let headers = format!("content-type: application/x-ndjson\r\nauthorization: Bearer {token}");
    let mut socket = scene.session.open_body("/events", &headers).await;
    socket.chunk("{\"data\":1}\n{\"data\":2}\n").await;
    let problem = socket.answer().await.problem(401, "token_expired");
    let log = scene.owner().lane("events").await;
    assert_eq!((&problem["appended"], &problem["last"]), (&json!(2), &log[1]["id"]));
}

async fn a_client_with_a_fresh_token_goes_on_where_it_was_cut(backend: Backend) {
    let scene = scene(backend).await;
    scene.owner().append_numbers(0..2).await;
    let short = scene.session.bearing(&scene.token(json!({"exp": now() + 2})));
    let mut stream = short.follow("").await;
    let last = stream.entries(2).await.pop().expect("two").id;
    stream.cut().await;
    scene.owner().append_numbers(2..4).await;
    assert_eq!(scene.owner().resume("", &last).await.data(2).await, [2, 3]);
}

async fn a_page_is_whole_whenever_its_token_ends(backend: Backend) {
    let scene = scene(backend).await;
    scene.owner().append_numbers(0..100).await;
    let end = now() + 2;
    let short = scene.session.bearing(&scene.token(json!({"exp": end})));
    // Each answer is either all of it or a refusal.
    loop {
        let answer = short.get("/events?limit=1000").await;
        if answer.status == 401 {
            answer.problem(401, "token_expired");
            break;
        }
        assert_eq!(answer.is(200)["events"].as_array().map(Vec::len), Some(100));
    }
    assert!(now() >= end);
}
