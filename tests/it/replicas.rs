//! Guarantees 1 and 2 under fire: two gateway processes on one Redis, clients that are cut all the time and resume on
//! the other replica, publishers that send again what they got no answer for.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use moorline::sse::decode::Decoder;
use serde_json::{Value, json};

use crate::support::{http, process::Replica, redis::RedisServer, unique};

const SESSIONS: usize = 5;
const CLIENTS: usize = 200;
/// Events a second in all sessions together.
const RATE: usize = 500;
/// How long a client's connection lasts on average.
const CUT_AFTER: Duration = Duration::from_millis(300);
/// Longer with MOORLINE_SOAK_SECONDS.
const SECONDS: u64 = 6;
/// A client that does not get what it waits for within this is stuck.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq)]
enum Trouble {
    None,
    /// One of the replicas is killed half-way.
    KillReplica,
    /// All subscriber connections are killed once a second.
    KillSubscriptions,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_hop_between_replicas_see_everything_once() {
    run(Trouble::None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_replica_costs_no_event() {
    run(Trouble::KillReplica).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_subscriptions_cost_no_event() {
    run(Trouble::KillSubscriptions).await;
}

struct Scene {
    http: reqwest::Client,
    replicas: Vec<Replica>,
    sessions: Vec<String>,
    resumes: AtomicUsize,
}

async fn run(trouble: Trouble) {
    let seconds = std::env::var("MOORLINE_SOAK_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(SECONDS);
    let redis = RedisServer::start();
    let prefix = unique("replicas");
    let scene = Arc::new(Scene {
        http: http(),
        replicas: (0..2).map(|_| Replica::start(&redis.url(), &prefix)).collect(),
        sessions: (0..SESSIONS).map(|n| format!("s{n}")).collect(),
        resumes: AtomicUsize::new(0),
    });
    let count = RATE / SESSIONS * seconds as usize;
    let started = Instant::now();
    let publishers: Vec<_> = (0..SESSIONS).map(|n| tokio::spawn(publish(scene.clone(), n, count))).collect();
    let clients: Vec<_> = (0..CLIENTS).map(|n| tokio::spawn(follow(scene.clone(), n % SESSIONS, n, count))).collect();

    let half = Duration::from_secs(seconds) / 2;
    match trouble {
        Trouble::None => {}
        Trouble::KillReplica => {
            tokio::time::sleep(half).await;
            scene.replicas[1].kill9();
        }
        Trouble::KillSubscriptions => {
            while started.elapsed() < Duration::from_secs(seconds) {
                tokio::time::sleep(Duration::from_secs(1)).await;
                redis.cli(&["CLIENT", "KILL", "TYPE", "pubsub"]);
            }
        }
    }
    for publisher in publishers {
        publisher.await.expect("a publisher");
    }
    for client in clients {
        client.await.expect("a client");
    }
    let resumes = scene.resumes.load(Ordering::Relaxed);
    println!(
        "{trouble:?}: {CLIENTS} clients × {count} events in {:.1} s, {resumes} resumes; gaps 0, duplicates 0",
        started.elapsed().as_secs_f64()
    );
    assert!(resumes > CLIENTS, "the clients were hardly ever cut: {resumes} resumes");
}

/// Publishes numbers as an idempotent producer, at its share of the rate, to alternating replicas.
async fn publish(scene: Arc<Scene>, session: usize, count: usize) {
    let mut tick = tokio::time::interval(Duration::from_secs(1) / (RATE / SESSIONS) as u32);
    for n in 0..count {
        tick.tick().await;
        let deadline = Instant::now() + PATIENCE;
        for attempt in 0.. {
            let replica = &scene.replicas[(n + attempt) % 2];
            let url = format!("{}/v1/sessions/{}/events", replica.url(), scene.sessions[session]);
            let request = scene.http.post(url).json(&json!({"type": "n", "data": n}));
            let request =
                request.header("producer-id", "p").header("producer-epoch", "0").header("producer-seq", n.to_string());
            match request.send().await {
                Ok(answer) if answer.status().is_success() => break,
                Ok(answer) if answer.status().is_server_error() => {}
                Ok(answer) => panic!("{n}: {} {}", answer.status(), answer.text().await.unwrap_or_default()),
                // Killed: whether the event was stored is unknown, so it is sent again.
                Err(_) => {}
            }
            assert!(Instant::now() < deadline, "event {n} of {session} is not taken");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Follows a session until it has seen everything, cut at random and resuming on the other replica.
async fn follow(scene: Arc<Scene>, session: usize, client: usize, count: usize) {
    let mut last: Option<String> = None;
    let mut next = 0;
    let mut heard = Instant::now();
    for connection in client.. {
        let replica = &scene.replicas[connection % 2];
        let url = format!("{}/v1/sessions/{}/events", replica.url(), scene.sessions[session]);
        let mut request = scene.http.get(url).header("accept", "text/event-stream");
        if let Some(last) = &last {
            request = request.header("last-event-id", last);
            scene.resumes.fetch_add(1, Ordering::Relaxed);
        }
        // Memoryless: cut at any moment, also in the middle of the history or at once.
        let cut = tokio::time::sleep(CUT_AFTER.mul_f64(-(1.0 - fastrand::f64()).ln()));
        tokio::pin!(cut);
        let mut decoder = Decoder::new(1 << 20);
        let mut response = tokio::select! {
            response = request.send() => match response {
                Ok(response) if response.status() == 200 => response,
                Ok(response) if response.status().is_server_error() => continue,
                Ok(response) => panic!("client {client}: {}", response.status()),
                Err(_) => {
                    // A killed replica: the load balancer would have taken the other one.
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    continue;
                }
            },
            () = &mut cut => continue,
        };
        loop {
            let chunk = tokio::select! {
                chunk = response.chunk() => chunk,
                () = &mut cut => break,
            };
            let Ok(Some(chunk)) = chunk else { break };
            decoder.push(&chunk);
            while let Some(frame) = decoder.next_frame().expect("valid frames") {
                match frame.event.as_deref() {
                    None => {
                        let event: Value = serde_json::from_str(&frame.data).expect("JSON");
                        assert_eq!(event["data"], json!(next), "client {client} of session {session}, after {last:?}");
                        last = frame.id;
                        next += 1;
                        heard = Instant::now();
                    }
                    Some("caught-up") => {}
                    Some(other) => panic!("client {client}: {other} {} after {last:?}", frame.data),
                }
            }
            if next == count {
                return;
            }
        }
        assert!(heard.elapsed() < PATIENCE, "client {client} of session {session} is stuck after {last:?}");
    }
}
