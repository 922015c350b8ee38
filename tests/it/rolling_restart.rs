//! Replicas that are told to end: the steps in which they do, and that nobody loses anything by it.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{
    PATIENCE,
    balancer::Balancer,
    crowd::{Crowd, Plan},
    eventually, http,
    process::Replica,
    redis::RedisServer,
    unique,
};

fn replica(prefix: &str, more: &[&str]) -> Replica {
    let redis = RedisServer::shared().url();
    Replica::start_with(&[&["--redis-url", &redis, "--redis-prefix", prefix], more].concat())
}

const QUICK: [&str; 4] = ["--drain-wait", "300ms", "--drain-spread", "700ms"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_loses_nothing_and_no_append_needs_more_than_one_retry() {
    let prefix = unique("rolling");
    let mut replicas = [replica(&prefix, &QUICK), replica(&prefix, &QUICK)];
    let balancer = Balancer::start(&[replicas[0].addr(), replicas[1].addr()]).await;
    let crowd = Crowd::start(Plan {
        urls: vec![balancer.url()],
        sessions: 5,
        agents: 10,
        clients: 40,
        pause: Duration::from_millis(10),
        retries: 1,
        patience: PATIENCE,
    });
    for round in 0..2 {
        for replica in &mut replicas {
            let before = crowd.tally().acknowledged.load(std::sync::atomic::Ordering::Relaxed);
            replica.signal("-TERM");
            assert_eq!(replica.ended().await, Some(0), "round {round}:\n{}", replica.log());
            assert!(!replica.log().contains("still under way"), "round {round}:\n{}", replica.log());
            balancer.remove(replica.addr());
            *replica = self::replica(&prefix, &QUICK);
            balancer.add(replica.addr());
            // The other one must have carried the load meanwhile; and this one gets its share before that one goes.
            eventually("appends go on", || async {
                let now = crowd.tally().acknowledged.load(std::sync::atomic::Ordering::Relaxed);
                (now > before + 100).then_some(())
            })
            .await;
        }
    }
    let resumes = crowd.tally().resumes.load(std::sync::atomic::Ordering::Relaxed);
    assert!(resumes >= 40, "the clients were hardly ever cut: {resumes} resumes");
    crowd.settle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_is_told_to_end_first_fails_to_be_ready_then_lets_its_streams_go() {
    let replica = replica(&unique("drain"), &["--drain-wait", "3s", "--drain-spread", "300ms"]);
    let (http, url) = (http(), replica.url().to_owned());
    let get = async |path: &str| {
        let request = http.get(format!("{url}{path}")).header("accept", "text/event-stream, application/json");
        request.send().await.expect("an answer")
    };
    let append = async |n: u64| {
        let request = http.post(format!("{url}/v1/sessions/s/events")).json(&json!({"data": n}));
        request.send().await.expect("an answer").status()
    };
    assert_eq!(append(1).await, 201);
    let mut streams = Vec::new();
    for _ in 0..20 {
        streams.push(get("/v1/sessions/s/events").await);
    }
    let told = Instant::now();
    replica.signal("-TERM");

    eventually("not ready", || async { (get("/readyz").await.status() == 503).then_some(()) }).await;
    // Until load balancers have noticed, all else goes on; but connections are not kept.
    assert_eq!(append(2).await, 201);
    let late = get("/v1/sessions/s/events").await;
    assert_eq!(late.status(), 200);
    assert_eq!(late.headers()["connection"], "close");

    let mut cut = Vec::new();
    for mut stream in streams {
        loop {
            match stream.chunk().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("a clean end, which says that the session is over"),
                Err(_) => break,
            }
        }
        cut.push(told.elapsed());
    }
    assert!(cut[0] >= Duration::from_secs(3), "cut before the wait was over: {cut:?}");
    assert_eq!(replica.ended().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_streams_are_let_go_new_ones_are_refused_and_appends_are_not() {
    let replica = replica(&unique("drain"), &["--drain-wait", "0", "--drain-spread", "20s"]);
    let (http, url) = (http(), format!("{}/v1/sessions/s/events", replica.url()));
    // Somebody has to be let go for it to take any time.
    let mut streams = Vec::new();
    for _ in 0..30 {
        streams.push(http.get(&url).header("accept", "text/event-stream").send().await.expect("an answer"));
    }
    replica.signal("-TERM");
    let refused = eventually("a stream is refused", || async {
        let answer = http.get(&url).header("accept", "text/event-stream").send().await.expect("an answer");
        (answer.status() == 503).then_some(answer)
    });
    let refused = refused.await;
    assert_eq!(refused.headers()["retry-after"], "1");
    assert_eq!(refused.json::<serde_json::Value>().await.expect("JSON")["code"], "draining");
    let append = http.post(&url).json(&json!({"data": 1})).send().await.expect("an answer");
    assert_eq!(append.status(), 201);

    // Somebody is in a hurry. Sooner it would pass for the same signal.
    tokio::time::sleep(Duration::from_millis(300)).await;
    replica.signal("-TERM");
    let asked = Instant::now();
    assert_eq!(replica.ended().await, Some(1));
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_under_way_is_finished_before_the_end() {
    let replica = replica(&unique("drain"), &["--drain-wait", "0", "--drain-spread", "0"]);
    let url = format!("{}/v1/sessions/s/events", replica.url());
    // Its body comes in two pieces, and the order to end between them.
    let (send, body) = tokio::sync::mpsc::channel::<Result<&'static str, std::io::Error>>(1);
    let body = futures_util::stream::unfold(body, |mut body| async { Some((body.recv().await?, body)) });
    let request = http().post(&url).header("content-type", "application/json").body(reqwest::Body::wrap_stream(body));
    let answer = tokio::spawn(request.send());
    send.send(Ok("{\"data\":")).await.expect("taken");
    eventually("the request is under way", || async {
        let metrics = http().get(format!("{}/metrics", replica.url())).send().await.ok()?.text().await.ok()?;
        // The request's own connection, and this one's.
        metrics.contains("moorline_connections 2").then_some(())
    })
    .await;
    replica.signal("-TERM");
    eventually("no new connections", || async { http().get(&url).send().await.err() }).await;
    send.send(Ok("1}")).await.expect("taken");
    drop(send);
    let answer = answer.await.expect("a task").expect("an answer");
    assert_eq!(answer.status(), 201);
    assert_eq!(replica.ended().await, Some(0));
}
