//! Traces, as a collector gets them: a real gateway, and a collector that reads the protobuf of OTLP field by field.
//!
//! A target of its own, since the gateway is built with the feature: `cargo test --features otlp --test otlp`.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use axum::{Router, body::Bytes, extract::State, http::HeaderMap, routing::post};
use serde_json::{Value, json};

/// Far more than anything takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
const CALLER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// Keeps what gateways send to it.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<(HeaderMap, Bytes)>>>);

impl Collector {
    async fn start() -> (Self, String) {
        let collector = Collector::default();
        let take = async |State(Collector(taken)): State<Collector>, headers: HeaderMap, body: Bytes| {
            taken.lock().expect("no panic").push((headers, body));
        };
        let routes = Router::new().route("/v1/traces", post(take)).with_state(collector.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        tokio::spawn(async move { axum::serve(listener, routes).await });
        (collector, url)
    }

    fn taken(&self) -> Vec<(HeaderMap, Bytes)> {
        self.0.lock().expect("no panic").clone()
    }

    fn spans(&self) -> Vec<Span> {
        self.taken().iter().flat_map(|(_, body)| Span::all(body)).collect()
    }
}

/// A field of a protobuf message.
enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Field<'a> {
    fn bytes(&self) -> &'a [u8] {
        match self {
            Field::Bytes(bytes) => bytes,
            Field::Number(number) => panic!("bytes were expected, {number} came"),
        }
    }

    fn number(&self) -> u64 {
        match self {
            Field::Number(number) => *number,
            Field::Bytes(bytes) => panic!("a number was expected, {bytes:?} came"),
        }
    }

    fn text(&self) -> String {
        String::from_utf8(self.bytes().to_vec()).expect("text")
    }
}

/// The fields of a message, by their tags.
fn fields(mut message: &[u8]) -> Vec<(u64, Field<'_>)> {
    fn varint(message: &mut &[u8]) -> u64 {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = message.split_first().expect("a byte");
            *message = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        number
    }
    fn take<'a>(message: &mut &'a [u8], length: usize) -> &'a [u8] {
        let (taken, rest) = message.split_at(length);
        *message = rest;
        taken
    }
    let mut found = Vec::new();
    while !message.is_empty() {
        let key = varint(&mut message);
        let field = match key & 7 {
            0 => Field::Number(varint(&mut message)),
            1 => Field::Number(u64::from_le_bytes(take(&mut message, 8).try_into().expect("eight"))),
            2 => {
                let length = varint(&mut message) as usize;
                Field::Bytes(take(&mut message, length))
            }
            5 => Field::Number(u32::from_le_bytes(take(&mut message, 4).try_into().expect("four")).into()),
            other => panic!("no wire type: {other}"),
        };
        found.push((key >> 3, field));
    }
    found
}

/// The messages under a tag.
fn under(message: &[u8], tag: u64) -> Vec<&[u8]> {
    fields(message).iter().filter(|(at, _)| *at == tag).map(|(_, field)| field.bytes()).collect()
}

/// `KeyValue`s as an object. Only texts and whole numbers are read.
fn attributes(of: &[&[u8]]) -> Value {
    let pair = |pair: &&[u8]| {
        let key = under(pair, 1)[0].to_vec();
        let (kind, value) = fields(under(pair, 2)[0]).pop().expect("a value");
        let value = if kind == 1 { json!(value.text()) } else { json!(value.number()) };
        (String::from_utf8(key).expect("text"), value)
    };
    Value::Object(of.iter().map(pair).collect())
}

#[derive(Debug, Default, Clone)]
struct Span {
    trace: String,
    id: String,
    parent: String,
    name: String,
    /// 1 internal, 2 server.
    kind: u64,
    took_ns: u64,
    attributes: Value,
    /// 2: an error.
    status: u64,
    resource: Value,
}

impl Span {
    fn all(request: &[u8]) -> Vec<Span> {
        let mut spans = Vec::new();
        for of_resource in under(request, 1) {
            let resource = attributes(&under(under(of_resource, 1)[0], 1));
            for span in under(of_resource, 2).into_iter().flat_map(|of_scope| under(of_scope, 2)) {
                spans.push(Span { resource: resource.clone(), ..Span::read(span) });
            }
        }
        spans
    }

    fn read(message: &[u8]) -> Span {
        let hex = |field: &Field<'_>| field.bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        let mut span = Span { attributes: attributes(&under(message, 9)), ..Span::default() };
        let (mut start, mut end) = (0, 0);
        for (tag, field) in fields(message) {
            match tag {
                1 => span.trace = hex(&field),
                2 => span.id = hex(&field),
                4 => span.parent = hex(&field),
                5 => span.name = field.text(),
                6 => span.kind = field.number(),
                7 => start = field.number(),
                8 => end = field.number(),
                15 => span.status = fields(field.bytes()).iter().find(|(tag, _)| *tag == 3).map_or(0, |f| f.1.number()),
                _ => {}
            }
        }
        assert!(0 < start && start <= end, "{span:?}");
        span.took_ns = end - start;
        span
    }
}

/// A gateway, with these variables in its environment.
struct Gateway {
    child: Child,
    url: String,
    log: Arc<Mutex<String>>,
    /// Ends when all of the log has been read.
    logging: Option<JoinHandle<()>>,
}

impl Gateway {
    fn start(arguments: &[&str], environment: &[(&str, &str)]) -> Gateway {
        let mut command = Command::new(env!("CARGO_BIN_EXE_moorline"));
        command.args(["serve", "--listen", "127.0.0.1:0"]).args(arguments);
        command.env("NO_PROXY", "127.0.0.1").envs(environment.iter().copied());
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the moorline program");
        let mut lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
        let log = Arc::new(Mutex::new(String::new()));
        let url = lines.by_ref().map(|line| line.expect("the log")).find_map(|line| {
            log.lock().expect("no panic").push_str(&format!("{line}\n"));
            Some(line.split_once("listens on ")?.1.to_owned())
        });
        let url = url.unwrap_or_else(|| panic!("it ended:\n{}", log.lock().expect("no panic")));
        let said = log.clone();
        let logging = std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                said.lock().expect("no panic").push_str(&format!("{line}\n"));
            }
        });
        Gateway { child, url, log, logging: Some(logging) }
    }

    async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Value) -> (u16, Value) {
        let mut request = client().request(method.parse().expect("a method"), format!("{}{path}", self.url));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if !body.is_null() {
            request = request.json(&body);
        }
        let answer = request.send().await.expect("an answer");
        let status = answer.status().as_u16();
        (status, serde_json::from_slice(&answer.bytes().await.expect("a body")).unwrap_or_default())
    }

    /// SIGINT: it ends without waiting for load balancers.
    async fn end(mut self) -> String {
        assert!(Command::new("kill").args(["-INT", &self.child.id().to_string()]).status().expect("kill").success());
        let deadline = Instant::now() + PATIENCE;
        while self.child.try_wait().expect("a child").is_none() {
            assert!(Instant::now() < deadline, "it does not end");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(self.child.wait().expect("a child").success());
        self.logging.take().expect("a log").join().expect("no panic");
        self.log.lock().expect("no panic").clone()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn client() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().expect("a client")
}

#[tokio::test]
async fn a_request_is_a_step_in_its_callers_trace_and_the_command_goes_on_from_it() {
    let (collector, url) = Collector::start().await;
    let gateway = Gateway::start(
        &["--log", "moorline=debug"],
        &[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", url.as_str()),
            ("OTEL_SERVICE_NAME", "sessions"),
            ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=t-1"),
        ],
    );
    let events = "/v1/sessions/s/events?access_token=secret-in-query";
    let traced = [("traceparent", CALLER), ("authorization", "Bearer secret-in-header")];
    assert_eq!(gateway.ask("POST", events, &traced, json!({"data": "secret-payload"})).await.0, 201);
    let command = json!({"type": "steer", "data": "secret-payload"});
    assert_eq!(gateway.ask("POST", "/v1/sessions/s/commands", &traced, command.clone()).await.0, 202);
    // Without a caller it begins a trace.
    assert_eq!(gateway.ask("POST", "/v1/sessions/s/commands", &[], command).await.0, 202);
    let (_, lane) = gateway.ask("GET", "/v1/sessions/s/commands", &[], Value::Null).await;
    assert_eq!(gateway.ask("GET", "/v1/sessions/none", &[], Value::Null).await.0, 404);
    for nothing in ["/readyz", "/metrics", "/v1/nowhere", "/x"] {
        gateway.ask("GET", nothing, &traced, Value::Null).await;
    }
    let log = gateway.end().await;

    // All of it is there once the gateway has ended.
    let spans = collector.spans();
    let server: Vec<_> = spans.iter().filter(|span| span.kind == 2).collect();
    let names: Vec<_> = server.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "POST /v1/sessions/{session}/events",
            "POST /v1/sessions/{session}/commands",
            "POST /v1/sessions/{session}/commands",
            "GET /v1/sessions/{session}/commands",
            "GET /v1/sessions/{session}",
        ]
    );
    for span in &server[..2] {
        assert_eq!((span.trace.as_str(), span.parent.as_str()), (&CALLER[3..35], &CALLER[36..52]));
    }
    assert!(server[2].trace != server[0].trace && server[2].parent.is_empty(), "{:?}", server[2]);
    let told = json!({
        "http.request.method": "POST", "http.route": "/v1/sessions/{session}/events", "url.path": "/v1/sessions/s/events",
        "url.scheme": "http", "http.response.status_code": 201,
    });
    assert_eq!((&server[0].attributes, server[0].status), (&told, 0));
    assert_eq!(server[4].attributes["http.response.status_code"], 404);
    let resource = &server[0].resource;
    assert_eq!(
        (&resource["service.name"], &resource["deployment.environment.name"]),
        (&json!("sessions"), &json!("test"))
    );

    // The commit is a part of it.
    let commit = spans.iter().find(|span| span.name == "commit").expect("a commit");
    assert_eq!((&commit.trace, &commit.parent, commit.kind), (&server[0].trace, &server[0].id, 1));
    assert!(commit.took_ns <= server[0].took_ns, "{commit:?}");
    // What the agent gets continues the gateway's own step, and so does what the log says.
    for (entry, span) in [(&lane["events"][0], server[1]), (&lane["events"][1], server[2])] {
        assert_eq!(entry["traceparent"], format!("00-{}-{}-01", span.trace, span.id), "{entry}");
        assert!(log.contains(&span.trace), "{log}");
    }

    for (headers, body) in collector.taken() {
        assert!(headers["content-type"] == "application/x-protobuf" && headers["x-tenant"] == "t-1", "{headers:?}");
        assert!(!String::from_utf8_lossy(&body).contains("secret"), "{body:?}");
    }
    assert!(!log.contains("secret"), "{log}");
}

#[tokio::test]
async fn what_the_caller_does_not_record_is_not_exported_but_goes_on() {
    let (collector, url) = Collector::start().await;
    let gateway = Gateway::start(&[], &[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &format!("{url}/v1/traces"))]);
    let quiet = CALLER.replace("-01", "-00");
    let (status, _) =
        gateway.ask("POST", "/v1/sessions/s/commands", &[("traceparent", &quiet)], json!({"type": "x"})).await;
    assert_eq!(status, 202);
    let (_, lane) = gateway.ask("GET", "/v1/sessions/s/commands", &[], Value::Null).await;
    let place = lane["events"][0]["traceparent"].as_str().expect("a place");
    assert!(place.starts_with(&CALLER[..35]) && place.ends_with("-00"), "{place}");
    gateway.end().await;
    let names: Vec<_> = collector.spans().iter().map(|span| span.name.clone()).collect();
    assert_eq!(names, ["GET /v1/sessions/{session}/commands"]);
    assert_eq!(collector.spans()[0].resource["service.name"], "moorline");
}

#[tokio::test]
async fn the_sampler_of_the_environment_is_obeyed() {
    let (collector, url) = Collector::start().await;
    let gateway = Gateway::start(&[], &[("OTEL_EXPORTER_OTLP_ENDPOINT", &url), ("OTEL_TRACES_SAMPLER", "always_off")]);
    assert_eq!(gateway.ask("POST", "/v1/sessions/s/events", &[], json!({"data": 1})).await.0, 201);
    gateway.end().await;
    assert!(collector.taken().is_empty());
}

#[tokio::test]
async fn a_collector_that_never_answers_delays_no_request_and_no_end() {
    // It takes connections, and that is all.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let gateway = Gateway::start(
        &[],
        &[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", url.as_str()),
            // Whoever waits for it waits for longer than the test.
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "3600000"),
            ("OTEL_BSP_SCHEDULE_DELAY", "10"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "16"),
            ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "8"),
        ],
    );
    let (http, url) = (client(), format!("{}/v1/sessions/s/events", gateway.url));
    for number in 0..500 {
        let answer = http.post(&url).json(&json!({"data": number})).send().await.expect("an answer");
        assert_eq!(answer.status(), 201);
        if number == 20 {
            let (_held, _) =
                tokio::time::timeout(PATIENCE, listener.accept()).await.expect("in time").expect("it comes");
            std::mem::forget(_held);
        }
    }
    let log = gateway.end().await;
    assert!(log.contains("the last traces did not reach the collector"), "{log}");
}

#[tokio::test]
async fn a_collector_that_is_away_is_worth_one_line() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    drop(listener);
    let gateway = Gateway::start(&[], &[("OTEL_EXPORTER_OTLP_ENDPOINT", &url), ("OTEL_BSP_SCHEDULE_DELAY", "10")]);
    for number in 0..5 {
        assert_eq!(gateway.ask("POST", "/v1/sessions/s/events", &[], json!({"data": number})).await.0, 201);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let log = gateway.end().await;
    assert_eq!(log.matches("traces do not reach the collector").count(), 1, "{log}");
}

#[test]
fn an_address_that_is_none_is_said_at_the_start() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_moorline"));
    command.args(["serve", "--listen", "127.0.0.1:0"]).env("OTEL_EXPORTER_OTLP_ENDPOINT", "not an address");
    let output = command.output().expect("the moorline program");
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("traces can't be exported") && said.contains("OTEL_EXPORTER_OTLP_ENDPOINT"), "{said}");
}
