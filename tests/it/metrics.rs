//! `/metrics`: what happened is counted, and what is counted is what the documentation and the dashboard speak of.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use serde_json::{Value, json};

use crate::support::{eventually, http, process::Replica, redis::RedisServer, unique};

/// A replica of its own: the numbers are the process's.
struct Scene {
    replica: Replica,
    http: reqwest::Client,
}

impl Scene {
    fn start() -> Self {
        Scene { replica: Replica::start(&RedisServer::shared().url(), &unique("metrics")), http: http() }
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.replica.url())
    }

    async fn post(&self, path: &str, body: Value, producer: Option<(&str, u64)>) -> u16 {
        let mut request = self.http.post(self.url(path)).json(&body);
        if let Some((id, seq)) = producer {
            request = request.header("producer-id", id).header("producer-epoch", 0).header("producer-seq", seq);
        }
        request.send().await.expect("an answer").status().as_u16()
    }

    async fn follow(&self, path: &str, last: Option<&str>) -> reqwest::Response {
        let request = self.http.get(self.url(path)).header("accept", "text/event-stream");
        request.header("last-event-id", last.unwrap_or_default()).send().await.expect("an answer")
    }

    async fn metrics(&self) -> Metrics {
        let response = self.http.get(self.url("/metrics")).send().await.expect("an answer");
        assert_eq!(response.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
        Metrics::read(&response.text().await.expect("a text"))
    }
}

/// Samples by their name and labels as written, and the families that were announced.
struct Metrics {
    samples: BTreeMap<String, f64>,
    families: BTreeMap<String, String>,
}

impl Metrics {
    fn read(text: &str) -> Self {
        let (mut samples, mut families) = (BTreeMap::new(), BTreeMap::new());
        for line in text.lines() {
            if let Some(family) = line.strip_prefix("# TYPE ") {
                let (name, kind) = family.split_once(' ').expect("a kind");
                assert!(families.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} stands there twice");
            } else if !line.starts_with("# HELP ") {
                let (name, value) = line.rsplit_once(' ').expect("a value");
                let value = value.parse().unwrap_or_else(|_| panic!("{line}"));
                assert!(samples.insert(name.to_owned(), value).is_none(), "{name} stands there twice");
            }
        }
        Metrics { samples, families }
    }

    #[track_caller]
    fn get(&self, sample: &str) -> f64 {
        *self.samples.get(sample).unwrap_or_else(|| panic!("no {sample} among {:#?}", self.samples.keys()))
    }

    /// Every name that a query may use.
    fn names(&self) -> BTreeSet<String> {
        let histograms = self.families.iter().filter(|(_, kind)| *kind == "histogram");
        let parts = histograms.flat_map(|(name, _)| ["bucket", "sum", "count"].map(|part| format!("{name}_{part}")));
        let others = self.families.iter().filter(|(_, kind)| *kind != "histogram").map(|(name, _)| name.clone());
        parts.chain(others).collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_happens_is_counted() {
    let scene = Scene::start();
    let events = "/v1/sessions/s/events";
    assert_eq!(scene.post(events, json!([{"data": 1}, {"data": 2}]), Some(("p", 0))).await, 201);
    assert_eq!(scene.post(events, json!([{"data": 1}, {"data": 2}]), Some(("p", 0))).await, 200);
    assert_eq!(scene.post(events, json!({"data": 9}), Some(("p", 9))).await, 409);
    assert_eq!(scene.post(events, json!({"type": "run.ended"}), None).await, 400);
    assert_eq!(scene.post("/v1/sessions/s/commands", json!({"type": "steer", "id": "c"}), None).await, 202);
    let mut stream = scene.follow(events, Some("1-1")).await;
    let mut seen = String::new();
    while !seen.contains("caught-up") {
        seen += &String::from_utf8_lossy(&stream.chunk().await.expect("more").expect("more"));
    }
    assert_eq!(scene.post(events, json!({"data": 3}), None).await, 201);
    while !seen.contains("\"data\":3") {
        seen += &String::from_utf8_lossy(&stream.chunk().await.expect("more").expect("more"));
    }

    let metrics = scene.metrics().await;
    let counts = [
        ("moorline_appends_total{result=\"stored\"}", 2.0),
        ("moorline_appends_total{result=\"duplicate\"}", 1.0),
        ("moorline_appends_total{result=\"refused\"}", 1.0),
        ("moorline_appends_total{result=\"failed\"}", 0.0),
        ("moorline_append_duration_seconds_count", 4.0),
        // The mirror of the command is one.
        ("moorline_entries_total{lane=\"events\"}", 4.0),
        ("moorline_entries_total{lane=\"commands\"}", 1.0),
        ("moorline_deliveries_total", 4.0),
        ("moorline_delivery_duration_seconds_count", 1.0),
        ("moorline_live_sessions", 1.0),
        ("moorline_streams", 1.0),
        ("moorline_resets_total{reason=\"deleted\"}", 1.0),
        ("moorline_problems_total{code=\"producer_gap\"}", 1.0),
        ("moorline_problems_total{code=\"reserved_type\"}", 1.0),
        ("moorline_http_answers_total{status=\"2xx\"}", 5.0),
        ("moorline_http_answers_total{status=\"4xx\"}", 2.0),
        ("moorline_subscribed", 1.0),
        ("moorline_draining", 0.0),
        ("moorline_store_errors_total{kind=\"fault\"}", 0.0),
        // Before the first, or an alert by rate would miss it.
        ("moorline_problems_total{code=\"internal\"}", 0.0),
        ("moorline_problems_total{code=\"store_fault\"}", 0.0),
    ];
    for (sample, value) in counts {
        assert_eq!(metrics.get(sample), value, "{sample}");
    }
    for at_least_one in [
        "moorline_store_duration_seconds_count{op=\"commit\"}",
        "moorline_store_duration_seconds_count{op=\"read\"}",
        "moorline_catch_up_pages_total",
        "moorline_connections",
    ] {
        assert!(metrics.get(at_least_one) >= 1.0, "{at_least_one}");
    }
    // On one machine clocks agree, and so must the reckoning.
    assert!(metrics.get("moorline_clock_ahead_seconds").abs() < 0.5);

    drop(stream);
    eventually("no open stream", || async { (scene.metrics().await.get("moorline_streams") == 0.0).then_some(()) })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_with_an_address_of_their_own_are_nowhere_else() {
    let replica = Replica::start_with(&["--metrics-listen", "127.0.0.1:0"]);
    let log = replica.log();
    let metrics = log.lines().find_map(|line| line.split_once("metrics are at ")?.1.split(',').next());
    let metrics = metrics.expect("the address of the metrics");
    let get = async |url: String| {
        let answer = http().get(url).send().await.expect("an answer");
        (answer.status().as_u16(), answer.text().await.expect("a text"))
    };
    let (status, text) = get(metrics.to_owned()).await;
    assert_eq!((status, Metrics::read(&text).get("moorline_draining")), (200, 0.0));
    let (status, text) = get(format!("{}/metrics", replica.url())).await;
    assert!(status == 404 && text.contains("unknown_path"), "{status}: {text}");
    // And nothing else is there.
    let there = metrics.strip_suffix("/metrics").expect("a path");
    for path in ["/livez", "/readyz", "/v1/sessions/s", "/v1/sessions/s/events"] {
        assert_eq!(get(format!("{there}{path}")).await.0, 404, "{path}");
    }
    assert_eq!(get(format!("{}/readyz", replica.url())).await.0, 200);
    replica.signal("-INT");
    assert_eq!(replica.ended().await, Some(0));
}

/// The metrics that a text names.
fn named(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("moorline_") || word.starts_with("process_")).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_dashboard_asks_for_metrics_that_are_there() {
    let metrics = Scene::start().metrics().await;
    let root = env!("CARGO_MANIFEST_DIR");
    let text = fs::read_to_string(format!("{root}/docs/grafana/moorline.json")).expect("the dashboard");
    let dashboard: Value = serde_json::from_str(&text).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let (mut queries, mut asked) = (0, BTreeSet::new());
    for target in panels.iter().flat_map(|panel| panel["targets"].as_array().into_iter().flatten()) {
        let query = target["expr"].as_str().expect("a query");
        assert!(!named(query).is_empty(), "{query}");
        asked.extend(named(query));
        queries += 1;
    }
    assert!(queries > 10, "the dashboard has its queries elsewhere");
    let unknown: Vec<_> = asked.difference(&metrics.names()).cloned().collect();
    assert_eq!(unknown, [""; 0], "the dashboard asks for what is not there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_alerts_ask_for_metrics_that_are_there() {
    let metrics = Scene::start().metrics().await;
    let root = env!("CARGO_MANIFEST_DIR");
    let text = fs::read_to_string(format!("{root}/docs/deploy/alerts.yml")).expect("the alerts");
    let queries: Vec<&str> = text.lines().filter_map(|line| line.trim().strip_prefix("expr: ")).collect();
    assert!(queries.len() > 4 && queries.len() == text.matches("- alert: ").count(), "{queries:?}");
    for query in queries {
        let asked = named(query);
        assert!(!asked.is_empty() && asked.is_subset(&metrics.names()), "{query}");
        // A kind, code or reason that no series has would never be seen.
        for values in query.split("=~\"").skip(1).filter_map(|rest| rest.split('"').next()) {
            for value in values.split('|') {
                let there =
                    |series: &String| asked.iter().any(|name| series.starts_with(name)) && series.contains(value);
                assert!(metrics.samples.keys().any(there), "{query}: {value}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_metric_is_documented_and_no_other() {
    let metrics = Scene::start().metrics().await;
    let root = env!("CARGO_MANIFEST_DIR");
    let text = fs::read_to_string(format!("{root}/docs/OPERATIONS.md")).expect("the operator's page");
    let known: BTreeSet<String> = metrics.families.keys().cloned().chain(metrics.names()).collect();
    let (documented, families) = (named(&text), metrics.families.keys().cloned().collect());
    assert_eq!(documented.difference(&known).collect::<Vec<_>>(), [""; 0], "documented, but not there");
    assert_eq!(BTreeSet::difference(&families, &documented).collect::<Vec<_>>(), [""; 0], "there, but not documented");
}
