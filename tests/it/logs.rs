//! What the log says of requests, and what it must never say.

use serde_json::{Value, json};

use crate::support::{
    eventually, http,
    process::Replica,
    redis::{APPEND_ONLY, RedisServer},
    unique,
};

fn start(more: &[&str]) -> Replica {
    let (redis, prefix) = (RedisServer::shared().url(), unique("logs"));
    Replica::start_with(&[&["--redis-url", &redis, "--redis-prefix", &prefix, "--log-format", "json"], more].concat())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_is_logged_under_its_id_and_trace() {
    let replica = start(&["--log", "moorline=debug"]);
    let request = http().post(format!("{}/v1/sessions/s/events", replica.url())).json(&json!({"data": 1}));
    let request = request.header("x-request-id", "ask-7");
    let request = request.header("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    let response = request.send().await.expect("an answer");
    assert_eq!(response.headers()["x-request-id"], "ask-7");
    let line = eventually("the request is logged", || async {
        let log = replica.log();
        log.lines().find(|line| line.contains("answered a request")).map(str::to_owned)
    });
    let line: Value = serde_json::from_str(&line.await).expect("a line of JSON");
    let span = &line["span"];
    assert_eq!((&span["request_id"], &line["status"]), (&json!("ask-7"), &json!(201)), "{line}");
    assert_eq!((&span["method"], &span["path"]), (&json!("POST"), &json!("/v1/sessions/s/events")), "{line}");
    assert_eq!(span["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736", "{line}");
}

#[cfg(not(feature = "otlp"))]
#[test]
fn a_program_that_can_t_export_traces_says_so_where_it_is_to() {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_moorline"));
    // It ends by itself: there is no Redis at this port.
    command.args(["serve", "--listen", "127.0.0.1:0", "--redis-url", "redis://127.0.0.1:1", "--redis-wait", "0"]);
    let mut said = |endpoint: &str| {
        let output = command.env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint).output().expect("the moorline program");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let told = said("http://127.0.0.1:4318");
    assert!(told.contains("OTEL_EXPORTER_OTLP_ENDPOINT") && told.contains("without the feature otlp"), "{told}");
    assert!(!said("").contains("otlp"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_has_an_id_of_its_own() {
    let replica = start(&[]);
    let mut ids = std::collections::HashSet::new();
    for path in ["/livez", "/readyz", "/metrics", "/nothing", "/v1/sessions/s", "/v1/sessions/s/events?limit=x"] {
        let response = http().get(format!("{}{path}", replica.url())).send().await.expect("an answer");
        let id = response.headers()["x-request-id"].to_str().expect("text").to_owned();
        assert!(id.len() == 16 && ids.insert(id), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_payload_and_no_token_is_logged_at_any_level() {
    let replica = start(&["--log", "trace"]);
    let (http, session) = (http(), format!("{}/v1/sessions/s", replica.url()));
    let good = http.post(format!("{session}/events?access_token=secret-in-query"));
    let good = good.bearer_auth("secret-in-header").json(&json!({"data": "secret-payload"}));
    assert_eq!(good.send().await.expect("an answer").status(), 201);
    let bad =
        http.post(format!("{session}/events?access_token=secret-in-query&other=1")).bearer_auth("secret-in-header");
    let bad = bad.json(&json!({"type": "run.ended", "data": "secret-payload"})).send().await.expect("an answer");
    assert_eq!(bad.status(), 400);
    let follow = http.get(format!("{session}/events?access_token=secret-in-query")).bearer_auth("secret-in-header");
    let mut stream = follow.header("accept", "text/event-stream").send().await.expect("an answer");
    let mut seen = String::new();
    while !seen.contains("caught-up") {
        seen += &String::from_utf8_lossy(&stream.chunk().await.expect("more").expect("more"));
    }
    assert!(seen.contains("secret-payload"));
    let answered = || async { (replica.log().matches("answered a request").count() == 3).then_some(()) };
    eventually("the requests are logged", answered).await;
    let log = replica.log();
    let leaks: Vec<&str> = log.lines().filter(|line| line.contains("secret")).collect();
    assert_eq!(leaks, [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fault_of_the_store_is_one_line_with_all_that_is_known() {
    let redis = RedisServer::start();
    let replica = Replica::start_with(&["--redis-url", &redis.url(), "--log-format", "json"]);
    let events = format!("{}/v1/sessions/s/events", replica.url());
    let append = async |id: &str| {
        let request = http().post(&events).header("x-request-id", id).json(&json!({"data": 1}));
        request.send().await.expect("an answer").status().as_u16()
    };
    assert_eq!(append("first").await, 201);
    redis.cli(&["SET", "moorline:{s}:events", "foreign"]);
    for id in ["second", "third", "fourth"] {
        assert_eq!(append(id).await, 500);
    }
    let said = eventually("it is said", || async { replica.log().contains("failed to serve").then(|| replica.log()) });
    let said = said.await;
    let lines: Vec<Value> = said.lines().filter(|line| line.contains("ERROR")).map(json_of).collect();
    assert_eq!(lines.len(), 1, "{said}");
    let line = &lines[0];
    assert_eq!((&line["request_id"], &line["path"]), (&json!("second"), &json!("/v1/sessions/s/events")), "{line}");
    assert!(line["cause"].as_str().is_some_and(|cause| cause.contains("the store is at fault: WRONGTYPE")), "{line}");
}

fn json_of(line: &str) -> Value {
    serde_json::from_str(line).expect("a line of JSON")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn that_redis_stays_away_is_said_once_an_outage() {
    let redis = RedisServer::start_with(&APPEND_ONLY);
    let patience = ["--redis-patience", "300ms", "--log", "moorline=debug"];
    let replica = Replica::start_with(&[&["--redis-url", &redis.url()], &patience[..]].concat());
    let count = |what: &str| replica.log().matches(what).count();
    for outage in 1..=2 {
        redis.kill9();
        // Said once, and then its patience has run out twice again.
        let still = || async {
            let log = replica.log();
            let since = log.split("away for too long").nth(outage)?;
            (since.matches("the store is still away").count() >= 2).then_some(())
        };
        eventually("it has long been away", still).await;
        assert_eq!(count("away for too long"), outage, "{}", replica.log());
        redis.restart();
        let again = || async { (count("the store is there again") == outage).then_some(()) };
        eventually("it is there again", again).await;
    }
    assert_eq!(count("away for too long"), 2, "{}", replica.log());
}
