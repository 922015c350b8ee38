//! Clients that take little: they go back to paging, and are cut when they take nothing at all.

use std::time::Duration;

use serde_json::json;

use crate::{
    store_contract::Backend,
    support::{
        eventually,
        gateway::{Gateway, Session, Socket, on_both_stores},
        process::Replica,
        redis::RedisServer,
        unique,
    },
};

on_both_stores!(a_client_that_falls_far_behind_still_gets_everything_once, a_client_that_takes_nothing_is_cut,);

/// More than sockets and rings hold of it.
const EVENTS: usize = 400;
const BYTES: usize = 100 * 1024;

async fn fill(session: &Session) {
    let text = "x".repeat(BYTES);
    for n in 0..EVENTS / 20 {
        let events: Vec<_> = (0..20).map(|i| json!({"type": "n", "data": [n * 20 + i, text]})).collect();
        session.append(events.into()).await;
    }
}

async fn a_client_that_falls_far_behind_still_gets_everything_once(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    let mut slow = session.follow("").await;
    slow.caught_up().await;
    fill(&session).await;
    for n in 0..EVENTS {
        assert_eq!(slow.entry().await.json["data"][0], json!(n));
    }
}

async fn a_client_that_takes_nothing_is_cut(backend: Backend) {
    let stall = |config: &mut moorline::config::Config| config.limits.stall_timeout = Duration::from_millis(300);
    let gateway = Gateway::start_with(backend, stall).await;
    let session = gateway.session();
    let mut stalled = gateway.socket().await;
    let path = format!("/v1/sessions/{}/events", session.name);
    stalled.send(format!("GET {path} HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\n\r\n")).await;
    fill(&session).await;
    // A connection that is closed answers what it is sent with a reset.
    let stalled = tokio::sync::Mutex::new(stalled);
    eventually("the stalled client is cut", async || {
        let mut stalled = stalled.lock().await;
        stalled.try_send("x").await.is_err().then_some(())
    })
    .await;
}

/// Nobody takes it for the end, and nothing stays in the kernel for a peer that is there but takes nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_a_client_takes_nothing_of_is_cut_in_the_middle() {
    let redis = RedisServer::shared().url();
    let arguments = ["--redis-url", &redis, "--redis-prefix", &unique("slow"), "--stall-timeout", "300ms"];
    let replica = Replica::start_with(&arguments);
    let session = Session::at(replica.url(), "s");
    fill(&session).await;
    let ask = async |version, accept| {
        let mut socket = Socket::connect(replica.addr()).await;
        let limit = if accept == "application/json" { "?limit=1000" } else { "" };
        let path = format!("/v1/sessions/s/events{limit}");
        socket.send(format!("GET {path} HTTP/{version}\r\nhost: localhost\r\naccept: {accept}\r\n\r\n")).await;
        socket
    };
    let mut stalled = [
        ask("1.1", "text/event-stream").await,
        // Without chunks, only the connection's end can tell.
        ask("1.0", "text/event-stream").await,
        ask("1.1", "application/json").await,
        ask("1.0", "application/json").await,
    ];
    eventually("all are cut", async || {
        let metrics = session.http.get(format!("{}/metrics", replica.url())).send().await.ok()?.text().await.ok()?;
        metrics.contains(&format!("moorline_slow_client_cuts_total {}", stalled.len())).then_some(())
    })
    .await;
    for socket in &mut stalled {
        socket.cut().await;
    }
}
