//! Runs, stops and leases through HTTP, as agents and users see them. What the rules alone promise is tested beside
//! them, in `src/rules`; what many replicas do at once in `control_model` and `control_fire`.

use std::time::{Duration, Instant};

use bytes::Bytes;
use moorline::id::EntryId;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::{
    store_contract::Backend,
    support::{
        eventually,
        gateway::{Answer, Gateway, Session, Stream, answer, on_both_stores},
    },
};

on_both_stores!(
    a_run_that_is_a_body_starts_with_it_and_ends_with_it,
    a_body_that_breaks_leaves_its_run_to_the_lease,
    a_stop_answers_a_busy_body_early,
    a_stop_answers_a_silent_body_of_appends,
    a_stop_before_the_start_is_kept,
    a_second_stop_is_the_same_stop,
    a_stop_of_one_run_leaves_the_others_alone,
    a_stop_of_a_tree_reaches_children_and_those_that_start_later,
    a_stop_of_all_and_a_stop_by_agent_reach_whom_they_mean,
    an_agent_without_a_subscription_learns_of_a_stop_and_partial_output_stays,
    clients_that_leave_change_nothing,
    a_silent_run_is_seen_lost_within_a_second_of_its_lease,
    a_lease_that_nobody_watches_is_judged_at_the_next_touch,
    what_an_agent_sends_keeps_its_run_alive,
    what_is_refused_keeps_no_run_alive,
    a_zombie_is_refused_after_a_takeover,
    sub_agents_write_for_themselves_and_are_told_apart,
    a_retried_start_is_told_of_the_live_run,
    a_stop_of_a_tree_holds_for_a_top_that_has_failed,
    what_a_stop_says_stays_as_it_was_written,
    a_heartbeat_tells_the_lease_that_it_renewed,
    a_repetition_of_an_attempt_that_was_taken_over_is_refused,
    a_session_that_is_erased_is_not_closed_into_being,
);

/// A body that the test sends line by line.
struct Lines {
    lines: mpsc::Sender<Result<Bytes, std::io::Error>>,
    answer: tokio::task::JoinHandle<Option<Answer>>,
}

impl Lines {
    fn send(request: reqwest::RequestBuilder) -> Lines {
        let (lines, received) = mpsc::channel(16);
        let body = futures_util::stream::unfold(received, |mut received| async {
            received.recv().await.map(|line| (line, received))
        });
        let request = request.header("content-type", "application/x-ndjson").body(reqwest::Body::wrap_stream(body));
        let answer = tokio::spawn(async move {
            let response = request.send().await.ok()?;
            let (status, headers) = (response.status().as_u16(), response.headers().clone());
            Some(Answer { status, headers, text: response.text().await.ok()? })
        });
        Lines { lines, answer }
    }

    /// `false`: the gateway has had enough.
    async fn line(&self, data: Value) -> bool {
        self.lines.send(Ok(format!("{}\n", json!({"data": data})).into())).await.is_ok()
    }

    async fn end(self) -> Answer {
        drop(self.lines);
        self.answer.await.expect("no panic").expect("an answer")
    }

    /// The connection breaks in the middle of the body.
    async fn break_off(self) {
        let _ = self.lines.send(Err(std::io::Error::other("cut"))).await;
        let _ = self.answer.await;
    }

    async fn answer(self) -> Answer {
        self.answer.await.expect("no panic").expect("an answer")
    }
}

async fn start(session: &Session, run: Value) -> Value {
    session.post("/runs", run).await.is(201)
}

async fn stop(session: &Session, stop: Value) -> Answer {
    let mut command = json!({"type": "stop"});
    command.as_object_mut().expect("an object").extend(stop.as_object().expect("an object").clone());
    session.post("/commands", command).await
}

fn said(session: &Session, run: &str, attempt: Option<u32>, data: u64) -> impl Future<Output = Answer> {
    let request =
        session.http.post(session.url(&format!("/events?run={run}"))).json(&json!({"type": "said", "data": data}));
    answer(match attempt {
        Some(attempt) => request.header("run-attempt", attempt),
        None => request,
    })
}

/// When a run's lease runs out.
async fn lease_until(session: &Session, run: &str) -> u64 {
    let view = session.get("").await.is(200);
    let run = view["runs"].as_array().expect("runs").iter().find(|view| view["run"] == run).cloned();
    run.expect("the run")["lease_until"].as_u64().unwrap_or_else(|| panic!("it has ended: {view}"))
}

/// How a run stands.
async fn status(session: &Session, run: &str) -> String {
    let view = session.get("").await.is(200);
    let run = view["runs"].as_array().expect("runs").iter().find(|view| view["run"] == run).cloned();
    run.map_or_else(String::new, |run| run["status"].as_str().expect("a status").to_owned())
}

/// The gateway's events about a run, in short.
async fn about(session: &Session, run: &str) -> Vec<String> {
    let about = session.lane("events").await.into_iter().filter(|event| event["run"] == run);
    let short = about.filter_map(|event| {
        let kind = event["type"].as_str()?.strip_prefix("run.")?;
        Some(format!("{kind} {}", event["data"]["status"].as_str().unwrap_or("")).trim_end().to_owned())
    });
    short.collect()
}

async fn ended(session: &Session, run: &str) -> String {
    eventually("the run has ended", || async {
        let status = status(session, run).await;
        ["completed", "failed", "cancelled", "lost"].contains(&status.as_str()).then_some(status)
    })
    .await
}

async fn a_run_that_is_a_body_starts_with_it_and_ends_with_it(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    let body = Lines::send(session.http.put(session.url("/runs/r?agent=writer")));
    body.line(json!(1)).await;
    let mut stream = session.follow("").await;
    assert_eq!(stream.until("run.started").await.json["agent"], "writer");
    let first = stream.until("message").await.json;
    assert_eq!(first, json!({"type": "message", "agent": "writer", "run": "r", "data": 1}));
    body.line(json!(2)).await;
    let answer = body.end().await.is(201);
    assert_eq!(answer["appended"], 2);
    assert_eq!(stream.until("run.ended").await.json["data"], json!({"attempt": 1, "status": "completed"}));
    // It is a run like any other: over is over.
    let again = Lines::send(session.http.put(session.url("/runs/r")));
    again.answer().await.problem(409, "run_ended");
    assert_eq!(about(&session, "r").await, ["started", "ended completed"]);
}

async fn a_body_that_breaks_leaves_its_run_to_the_lease(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    let body = Lines::send(session.http.put(session.url("/runs/r?lease_ms=600")));
    body.line(json!(1)).await;
    let mut stream = session.follow("").await;
    stream.until("message").await;
    body.break_off().await;
    assert_eq!(status(&session, "r").await, "running");
    assert_eq!(stream.until("run.ended").await.json["data"]["status"], "lost");
    // The next attempt goes on.
    let body = Lines::send(session.http.put(session.url("/runs/r?takeover=true")));
    body.line(json!(2)).await;
    body.end().await.is(201);
    assert_eq!(about(&session, "r").await, ["started", "ended lost", "started", "ended completed"]);
}

async fn a_stop_answers_a_busy_body_early(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    let body = Lines::send(session.http.put(session.url("/runs/r")));
    body.line(json!(0)).await;
    session.follow("").await.until("message").await;
    let mut sent = 1;
    let stopper = session.clone();
    let stopped = tokio::spawn(async move { stop(&stopper, json!({"run": "r", "grace_ms": 60_000})).await.is(202) });
    // Busy to the last moment: what follows the answer is dropped by the client's library.
    while !body.answer.is_finished() && sent < 100_000 {
        if !body.line(json!(sent)).await {
            break;
        }
        sent += 1;
    }
    stopped.await.expect("a stop");
    let answer = body.answer().await.is(201);
    assert_eq!(answer["run"]["status"], "stopping", "{answer}");
    let kept = session.lane("events").await.iter().filter(|event| event["type"] == "message").count();
    assert_eq!(answer["appended"], kept, "partial output stays, and the agent knows how much");
    // The agent has the last word.
    said(&session, "r", Some(1), 7).await.is(201);
    session.post("/runs/r/end", json!({"status": "cancelled"})).await.is(200);
    assert_eq!(about(&session, "r").await, ["started", "stopping", "ended cancelled"]);
}

async fn a_stop_answers_a_silent_body_of_appends(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    start(&session, json!({"run": "r"})).await;
    let body = Lines::send(session.http.post(session.url("/events?run=r")).header("run-attempt", 1));
    body.line(json!(1)).await;
    session.follow("").await.until("message").await;
    stop(&session, json!({"run": "r", "grace_ms": 0})).await.is(202);
    let problem = body.answer().await.problem(409, "run_ended");
    assert_eq!((&problem["appended"], &problem["run"]["status"]), (&json!(1), &json!("cancelled")));
}

async fn a_stop_before_the_start_is_kept(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    let command = stop(&session, json!({"run": "r"})).await.is(202)["command"].clone();
    assert_eq!(status(&session, "r").await, "expected");
    let view = start(&session, json!({"run": "r"})).await;
    assert_eq!((&view["status"], &view["attempt"]), (&json!("cancelled"), &json!(1)));
    said(&session, "r", None, 1).await.problem(409, "run_ended");
    session.post("/runs", json!({"run": "r", "takeover": true})).await.problem(409, "run_ended");
    assert_eq!(about(&session, "r").await, ["started", "ended cancelled"]);
    let outcome = session.lane("events").await.into_iter().find(|event| event["type"] == "command.consumed");
    assert_eq!(outcome.expect("an outcome")["data"]["command"], command);
    // A run that would be a body is over before its first line.
    stop(&session, json!({"run": "body"})).await.is(202);
    let body = Lines::send(session.http.put(session.url("/runs/body")));
    body.line(json!(1)).await;
    let answer = body.answer().await.is(201);
    assert_eq!((&answer["appended"], &answer["run"]["status"]), (&json!(0), &json!("cancelled")));
}

async fn a_second_stop_is_the_same_stop(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    start(&session, json!({"run": "r"})).await;
    for grace in [60_000, 60_000, 300] {
        stop(&session, json!({"run": "r", "grace_ms": grace})).await.is(202);
    }
    assert_eq!(ended(&session, "r").await, "cancelled");
    assert_eq!(about(&session, "r").await, ["started", "stopping", "ended cancelled"]);
    let consumed = session.lane("events").await.into_iter().filter(|event| event["type"] == "command.consumed");
    assert_eq!(consumed.count(), 3);
    stop(&session, json!({"run": "r"})).await.problem(409, "run_ended");
}

async fn a_stop_of_one_run_leaves_the_others_alone(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    for run in ["a", "b", "c"] {
        start(&session, json!({"run": run, "agent": run})).await;
    }
    for n in 0..30 {
        if n == 10 {
            stop(&session, json!({"run": "b", "grace_ms": 0})).await.is(202);
        }
        for run in ["a", "b", "c"] {
            let answer = said(&session, run, None, n).await;
            assert_eq!(answer.status, if run == "b" && n >= 10 { 409 } else { 201 }, "{run} {n}");
        }
    }
    assert_eq!(about(&session, "a").await, ["started"]);
    assert_eq!(about(&session, "b").await, ["started", "stopping", "ended cancelled"]);
    let by = |run: &str| format!("/events?type=said&limit=1000&run={run}");
    for (run, count) in [("a", 30), ("b", 10), ("c", 30)] {
        assert_eq!(session.get(&by(run)).await.is(200)["events"].as_array().map(Vec::len), Some(count), "{run}");
    }
}

async fn a_stop_of_a_tree_reaches_children_and_those_that_start_later(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    start(&session, json!({"run": "top"})).await;
    start(&session, json!({"run": "child", "parent": "top"})).await;
    start(&session, json!({"run": "below", "parent": "child"})).await;
    start(&session, json!({"run": "other"})).await;
    stop(&session, json!({"run": "top", "tree": true, "grace_ms": 300})).await.is(202);
    for run in ["top", "child", "below"] {
        assert_eq!(said(&session, run, None, 1).await.is(201)["run"]["status"], "stopping");
    }
    assert_eq!(start(&session, json!({"run": "late", "parent": "below"})).await["status"], "cancelled");
    for run in ["top", "child", "below"] {
        assert_eq!(ended(&session, run).await, "cancelled");
    }
    assert_eq!(start(&session, json!({"run": "later", "parent": "top"})).await["status"], "cancelled");
    assert_eq!(said(&session, "other", None, 1).await.is(201)["run"], Value::Null);
}

async fn a_stop_of_all_and_a_stop_by_agent_reach_whom_they_mean(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    for (run, agent) in [("a1", "a"), ("a2", "a"), ("b1", "b")] {
        start(&session, json!({"run": run, "agent": agent})).await;
    }
    stop(&session, json!({"agent": "a", "grace_ms": 0})).await.is(202);
    assert_eq!(status(&session, "a1").await, "cancelled");
    assert_eq!(status(&session, "a2").await, "cancelled");
    assert_eq!(status(&session, "b1").await, "running");
    start(&session, json!({"run": "a3", "agent": "a"})).await;
    stop(&session, json!({"grace_ms": 0})).await.is(202);
    assert_eq!(status(&session, "a3").await, "cancelled");
    assert_eq!(status(&session, "b1").await, "cancelled");
    start(&session, json!({"run": "new", "agent": "a"})).await;
    assert_eq!(status(&session, "new").await, "running", "a stop is for what runs, or was named");
}

async fn an_agent_without_a_subscription_learns_of_a_stop_and_partial_output_stays(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    start(&session, json!({"run": "r"})).await;
    assert_eq!(said(&session, "r", Some(1), 1).await.is(201)["run"], Value::Null);
    stop(&session, json!({"run": "r", "grace_ms": 400})).await.is(202);
    let told = said(&session, "r", Some(1), 2).await.is(201)["run"].clone();
    assert_eq!((&told["run"], &told["status"]), (&json!("r"), &json!("stopping")));
    assert!(told["grace_ms"].as_u64().is_some_and(|left| left <= 400), "{told}");
    assert_eq!(ended(&session, "r").await, "cancelled");
    let problem = said(&session, "r", Some(1), 3).await.problem(409, "run_ended");
    assert_eq!(problem["run"], json!({"run": "r", "attempt": 1, "status": "cancelled"}));
    let kept: Vec<_> = session.lane("events").await.into_iter().filter(|event| event["type"] == "said").collect();
    assert_eq!(kept.len(), 2);
}

async fn clients_that_leave_change_nothing(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    start(&session, json!({"run": "r"})).await;
    let mut streams: Vec<Stream> = Vec::new();
    for _ in 0..5 {
        let mut stream = session.follow("").await;
        stream.until("run.started").await;
        streams.push(stream);
    }
    drop(streams);
    for n in 0..20 {
        assert_eq!(said(&session, "r", None, n).await.is(201)["run"], Value::Null);
    }
    assert_eq!(about(&session, "r").await, ["started"]);
}

async fn a_silent_run_is_seen_lost_within_a_second_of_its_lease(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    let mut stream = session.follow("").await;
    let lease = Duration::from_millis(500);
    start(&session, json!({"run": "r", "lease_ms": 500})).await;
    said(&session, "r", None, 1).await.is(201);
    let spoke = Instant::now();
    let lost = stream.until("run.ended").await.json;
    assert_eq!(lost["data"]["status"], "lost");
    let seen = spoke.elapsed();
    println!("lost after {seen:?} of silence, with a lease of {lease:?}");
    // A fifth of a lease may pass before a touch is written down.
    assert!(seen >= lease.mul_f64(0.79), "{seen:?}");
    assert!(seen < lease + Duration::from_secs(1), "{seen:?}");
}

async fn a_lease_that_nobody_watches_is_judged_at_the_next_touch(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    start(&session, json!({"run": "r", "lease_ms": 100})).await;
    start(&session, json!({"run": "s", "lease_ms": 60_000})).await;
    tokio::time::sleep(Duration::from_millis(150)).await;
    // Judged before the append is, and in the log before it.
    said(&session, "s", None, 1).await.is(201);
    let events = session.lane("events").await;
    let kinds: Vec<_> = events.iter().filter_map(|event| event["type"].as_str()).collect();
    assert_eq!(kinds, ["run.started", "run.started", "run.ended", "said"]);
    said(&session, "r", None, 1).await.problem(409, "run_ended");
}

async fn what_an_agent_sends_keeps_its_run_alive(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    start(&session, json!({"run": "r", "lease_ms": 10_000})).await;
    let first = lease_until(&session, "r").await;
    let by_append = eventually("an append renews the lease", || async {
        said(&session, "r", None, 1).await.is(201);
        Some(lease_until(&session, "r").await).filter(|until| *until > first)
    })
    .await;
    // An append that comes sooner finds it fresh.
    assert!(by_append >= first + 1_000, "{first} {by_append}");
    eventually("a heartbeat renews the lease", || async {
        let beat = session.http.post(session.url("/runs/r/heartbeat")).header("run-attempt", 1);
        assert_eq!(answer(beat).await.is(200)["status"], "running");
        (lease_until(&session, "r").await > by_append).then_some(())
    })
    .await;
    assert_eq!(about(&session, "r").await, ["started"]);
}

async fn what_is_refused_keeps_no_run_alive(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    let numbered = |epoch: u32, seq: u32| {
        let request = session.http.post(session.url("/events?run=r")).json(&json!({"data": 1}));
        answer(request.header("producer-id", "p").header("producer-epoch", epoch).header("producer-seq", seq))
    };
    start(&session, json!({"run": "r", "lease_ms": 500})).await;
    numbered(1, 0).await.is(201);
    // The old life of the producer goes on and on; so does one that has lost count.
    eventually("the run is lost", || async {
        assert_eq!(numbered(1, 7).await.status, 409);
        let refused = numbered(0, 1).await;
        assert!(matches!(refused.status, 403 | 409), "{refused:?}");
        (refused.json()["code"] == "run_ended").then_some(())
    })
    .await;
    assert_eq!(ended(&session, "r").await, "lost");
}

async fn a_zombie_is_refused_after_a_takeover(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    start(&session, json!({"run": "r", "agent": "writer"})).await;
    said(&session, "r", Some(1), 1).await.is(201);
    session.post("/approvals", json!({"approval": "a", "run": "r", "prompt": "?"})).await.is(201);
    let second = start(&session, json!({"run": "r", "takeover": true})).await;
    assert_eq!((&second["attempt"], &second["agent"]), (&json!(2), &json!("writer")));
    let zombie = |path: &str, body: Value| {
        let request = session.http.post(session.url(path)).header("run-attempt", 1);
        answer(request.json(&body))
    };
    for (path, body) in [
        ("/events?run=r", json!({"data": 2})),
        ("/events", json!({"data": 2, "run": "r"})),
        ("/runs/r/heartbeat", json!({})),
        ("/runs/r/end", json!({"status": "completed"})),
        ("/approvals", json!({"approval": "b", "run": "r", "prompt": "?"})),
    ] {
        let problem = zombie(path, body).await.problem(409, "stale_attempt");
        assert_eq!((&problem["run"], &problem["received"]), (&json!({"run": "r", "attempt": 2}), &json!(1)), "{path}");
    }
    let body = Lines::send(session.http.post(session.url("/events?run=r")).header("run-attempt", 1));
    body.line(json!(2)).await;
    body.answer().await.problem(409, "stale_attempt");
    said(&session, "r", Some(2), 3).await.is(201);
    assert_eq!(about(&session, "r").await, ["started", "ended lost", "started"]);
    // What the run waits for outlives the attempt that asked.
    let pending = session.get("").await.is(200)["pending_approvals"].clone();
    assert_eq!(pending.as_array().map(Vec::len), Some(1), "{pending}");
}

async fn sub_agents_write_for_themselves_and_are_told_apart(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    start(&session, json!({"run": "top", "agent": "orchestrator"})).await;
    for agent in ["x", "y", "z"] {
        start(&session, json!({"run": format!("run-{agent}"), "agent": agent, "parent": "top"})).await;
    }
    let mut one = session.follow("?agent=y&type=said").await;
    let mut two = session.follow("?run=run-x,run-z&type=said").await;
    let agents = ["x", "y", "z"].map(|agent| {
        let session = session.clone();
        tokio::spawn(async move {
            for n in 0..40 {
                let url = session.url(&format!("/events?agent={agent}&run=run-{agent}"));
                answer(session.http.post(url).json(&json!({"type": "said", "data": n}))).await.is(201);
            }
        })
    });
    let seen = one.entries(40).await;
    assert!(seen.iter().enumerate().all(|(n, entry)| entry.json["agent"] == "y" && entry.json["data"] == n));
    let mut next = std::collections::BTreeMap::from([("x", 0), ("z", 0)]);
    for entry in two.entries(80).await {
        let next = next.get_mut(entry.json["agent"].as_str().expect("an agent")).expect("x or z");
        assert_eq!(
            (&entry.json["data"], &entry.json["run"]),
            (&json!(*next), &json!(format!("run-{}", entry.json["agent"].as_str().unwrap())))
        );
        *next += 1;
    }
    for agent in agents {
        agent.await.expect("an agent");
    }
    let runs = session.get("").await.is(200)["runs"].clone();
    let parents: Vec<_> = runs.as_array().expect("runs").iter().map(|run| run["parent"].as_str()).collect();
    assert_eq!(parents, [Some("top"), Some("top"), Some("top"), None]);
}

async fn a_retried_start_is_told_of_the_live_run(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    start(&session, json!({"run": "r"})).await;
    let problem = session.post("/runs", json!({"run": "r"})).await.problem(409, "run_exists");
    assert_eq!(problem["run"], json!({"run": "r", "attempt": 1}));
    // Whoever lost the answer takes over, from itself at worst.
    assert_eq!(start(&session, json!({"run": "r", "takeover": true})).await["attempt"], 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_holds_on_every_replica() {
    let here = Gateway::start(Backend::Redis).await;
    let there = here.replica().await;
    let session = here.session();
    let other = there.session_named(&session.name);
    let mut watcher = other.follow("").await;
    start(&session, json!({"run": "r"})).await;
    // Both replicas have a copy of the control state.
    said(&session, "r", None, 1).await.is(201);
    said(&other, "r", None, 2).await.is(201);
    stop(&other, json!({"run": "r", "grace_ms": 300})).await.is(202);
    for replica in [&session, &other] {
        assert_eq!(said(replica, "r", None, 3).await.is(201)["run"]["status"], "stopping");
    }
    assert_eq!(watcher.until("run.ended").await.json["data"]["status"], "cancelled");
    for replica in [&session, &other] {
        said(replica, "r", None, 4).await.problem(409, "run_ended");
        said(replica, "r", Some(1), 4).await.problem(409, "run_ended");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_renewed_on_one_replica_is_not_lost_on_another() {
    let here = Gateway::start(Backend::Redis).await;
    let there = here.replica().await;
    let session = here.session();
    let other = there.session_named(&session.name);
    // The watcher's replica has a timer for the lease, and never sees the touches.
    let mut watcher = other.follow("").await;
    start(&other, json!({"run": "r", "lease_ms": 3_000})).await;
    let first = lease_until(&session, "r").await;
    // And a little longer, for the timer to go off.
    eventually("the first lease is over", || async {
        said(&session, "r", None, 1).await.is(201);
        (session.get("").await.is(200)["now"].as_u64() > Some(first + 200)).then_some(())
    })
    .await;
    let last = lease_until(&session, "r").await;
    assert!(last > first);
    assert_eq!(about(&session, "r").await, ["started"]);
    let lost = watcher.until("run.ended").await;
    assert_eq!(lost.json["data"]["status"], "lost");
    let at: EntryId = lost.id.parse().expect("an id");
    assert!(at.ms >= last, "{at} before {last}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_comes_back_on_another_replica_gets_what_it_has_not_seen() {
    let here = Gateway::start(Backend::Redis).await;
    let there = here.replica().await;
    let session = here.session();
    let other = there.session_named(&session.name);
    start(&session, json!({"run": "r"})).await;
    let mut lane = session.follow_lane("commands", "", None).await;
    let steer = |id: &str| json!({"type": "steer", "run": "r", "id": id, "data": "go"});
    session.post("/commands", steer("one")).await.is(202);
    let one = lane.until("steer").await;
    session.post("/commands/one/outcome", json!({"outcome": "consumed"})).await.is(201);
    drop(lane);
    session.post("/commands", steer("two")).await.is(202);
    session.post("/commands", steer("three")).await.is(202);
    let mut lane = other.follow_lane("commands", "", Some(&one.id)).await;
    let missed = lane.entries(2).await;
    assert_eq!(missed.iter().map(|entry| &entry.json["command"]).collect::<Vec<_>>(), ["two", "three"]);
    other.post("/commands/three/outcome", json!({"outcome": "rejected", "reason": "no"})).await.is(201);
    // An agent that has lost its cursor asks what is still open.
    let pending = other.get("/commands?pending=true").await.is(200);
    assert_eq!(pending["events"].as_array().map(Vec::len), Some(1));
    assert_eq!(pending["events"][0]["command"], "two");
    session.post("/runs/r/end", json!({"status": "completed"})).await.is(200);
    let outcomes: Vec<_> = session
        .lane("events")
        .await
        .iter()
        .filter_map(|event| {
            let how = event["type"].as_str()?.strip_prefix("command.")?;
            (how != "issued").then(|| format!("{} {how}", event["data"]["command"].as_str().unwrap_or("")))
        })
        .collect();
    assert_eq!(outcomes, ["one consumed", "three rejected", "two superseded"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_are_shown_and_stopped_from_the_command_line() {
    let gateway = Gateway::start(Backend::Memory).await;
    let session = gateway.session();
    let moorline = async |arguments: &[&str]| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_moorline"));
        let command = command.args(arguments).env("MOORLINE_URL", gateway.url("")).env_remove("MOORLINE_TOKEN");
        let output = command.output().await.expect("the moorline program");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    };
    start(&session, json!({"run": "top", "agent": "orchestrator"})).await;
    start(&session, json!({"run": "child", "agent": "writer", "parent": "top"})).await;
    start(&session, json!({"run": "other"})).await;
    let shown = moorline(&["runs", &session.name]).await;
    let lines: Vec<Vec<&str>> = shown.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["RUN", "AGENT", "ATTEMPT", "STATUS", "LEFT"]);
    assert_eq!(lines[1][..4], ["other", "-", "1", "running"]);
    assert_eq!(lines[2][..4], ["top", "orchestrator", "1", "running"]);
    assert_eq!(lines[3][..4], ["child", "writer", "1", "running"]);
    assert!(shown.lines().nth(3).is_some_and(|line| line.starts_with("  child")), "{shown}");

    let stop = ["command", &session.name, "stop", "--run", "top", "--tree", "--grace-ms", "0", "--id", "halt"];
    assert_eq!(moorline(&stop).await, "halt\n");
    let runs: Value = serde_json::from_str(&moorline(&["runs", &session.name, "--json"]).await).expect("JSON");
    let statuses: Vec<_> = runs.as_array().expect("runs").iter().map(|run| &run["status"]).collect();
    assert_eq!(statuses, ["cancelled", "running", "cancelled"]);
    moorline(&["command", &session.name, "steer", "--run", "other", "--id", "go"]).await;
    let session_shown = moorline(&["sessions", "show", &session.name]).await;
    for part in ["runs:", "pending_commands:", "command: go", "status: cancelled"] {
        assert!(session_shown.contains(part), "{part}: {session_shown}");
    }
}

async fn a_stop_of_a_tree_holds_for_a_top_that_has_failed(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    start(&session, json!({"run": "top"})).await;
    start(&session, json!({"run": "child", "parent": "top"})).await;
    session.post("/runs/top/end", json!({"status": "failed"})).await.is(200);
    stop(&session, json!({"run": "top", "tree": true, "grace_ms": 0})).await.is(202);
    assert_eq!(status(&session, "child").await, "cancelled");
    assert_eq!(start(&session, json!({"run": "top", "takeover": true})).await["status"], "cancelled");
}

async fn a_heartbeat_tells_the_lease_that_it_renewed(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    start(&session, json!({"run": "r", "lease_ms": 60_000})).await;
    // A later millisecond than that of the start.
    tokio::time::sleep(Duration::from_millis(5)).await;
    let [id] = <[String; 1]>::try_from(session.append(json!({"data": 1})).await).expect("one");
    let now: u64 = id.split('-').next().and_then(|ms| ms.parse().ok()).expect("a time");
    let beat = session.post("/runs/r/heartbeat", json!({})).await.is(200);
    assert!(beat["lease_until"].as_u64().is_some_and(|until| until >= now + 60_000), "{now}: {beat}");
}

async fn a_repetition_of_an_attempt_that_was_taken_over_is_refused(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    start(&session, json!({"run": "r"})).await;
    let append = async || {
        let request = session.http.post(session.url("/events?run=r")).json(&json!({"data": 1}));
        let request = request.header("producer-id", "p").header("producer-epoch", 0).header("producer-seq", 0);
        answer(request.header("run-attempt", 1)).await
    };
    append().await.is(201);
    append().await.is(200);
    start(&session, json!({"run": "r", "takeover": true})).await;
    append().await.problem(409, "stale_attempt");
}

async fn a_session_that_is_erased_is_not_closed_into_being(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let replica = if backend == Backend::Redis { Some(gateway.replica().await) } else { None };
    for _ in 0..50 {
        let session = gateway.session();
        let elsewhere = replica.as_ref().unwrap_or(&gateway).session_named(&session.name);
        session.append(json!({"data": 1})).await;
        let close = || session.post("/close", json!({}));
        let erase = answer(session.http.delete(session.url("")));
        let (erased, ..) = tokio::join!(erase, close(), elsewhere.post("/close", json!({})), close());
        assert_eq!(erased.status, 204);
        session.get("").await.problem(404, "unknown_session");
        close().await.problem(404, "unknown_session");
    }
}

async fn what_a_stop_says_stays_as_it_was_written(backend: Backend) {
    let gateway = Gateway::start(backend).await;
    let session = gateway.session();
    start(&session, json!({"run": "r"})).await;
    let stop = r#"{"type":"stop","run":"r","data":{"id": 12345678901234567890123, "n": 1.00, "tree": 7}}"#;
    session.post_as("/commands", "application/json", stop).await.is(202);
    let page = session.get("/commands").await;
    let data = r#""data":{"grace_ms":5000,"id":12345678901234567890123,"n":1.00,"tree":false}"#;
    assert!(page.text.contains(data), "{}", page.text);
}
