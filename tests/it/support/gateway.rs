//! A gateway in the test's own process, and what its clients do: requests, streams, and sockets that misbehave.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use axum::http::HeaderMap;
use moorline::{
    config::{Config, Drain},
    http::Server,
    sse::decode::{Decoder, Frame},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{PATIENCE, http, redis::RedisServer, unique};
use crate::store_contract::Backend;

/// Makes the tests `memory::<promise>` and `redis::<promise>` of each function named.
macro_rules! on_both_stores {
    ($($promise:ident),* $(,)?) => {
        mod memory {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                super::$promise(crate::store_contract::Backend::Memory).await;
            })*
        }
        mod redis {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                super::$promise(crate::store_contract::Backend::Redis).await;
            })*
        }
    };
}
pub(crate) use on_both_stores;

/// A gateway on a free port of 127.0.0.1. It ends with the test.
pub struct Gateway {
    server: Server,
    config: Config,
    http: reqwest::Client,
}

impl Gateway {
    pub async fn start(backend: Backend) -> Self {
        Self::start_with(backend, |_| {}).await
    }

    pub async fn start_with(backend: Backend, configure: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config { listen: SocketAddr::from(([127, 0, 0, 1], 0)), ..Config::default() };
        if backend == Backend::Redis {
            config.redis_url = Some(RedisServer::shared().url());
            config.redis_prefix = unique("gateway") + ":";
            // The machine that runs the tests may be busy with others.
            config.redis_timeout = PATIENCE;
        }
        // It also ends connections that rest between requests, and a client may take one just then.
        config.limits.idle_timeout = NEVER;
        configure(&mut config);
        Self::serve(config).await
    }

    /// Another gateway on the same Redis.
    pub async fn replica(&self) -> Self {
        assert!(self.config.redis_url.is_some(), "the embedded store has no replicas");
        Self::serve(self.config.clone()).await
    }

    async fn serve(config: Config) -> Self {
        let server = moorline::serve(&config).await.expect("a gateway");
        let mut client = http();
        if config.limits.idle_timeout != NEVER {
            client = reqwest::Client::builder().pool_max_idle_per_host(0).build().expect("a client");
        }
        Gateway { server, config, http: client }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.server.addr)
    }

    /// Ends it as a supervisor would.
    pub async fn shutdown(self) {
        self.server.shutdown(Drain { finish: PATIENCE, ..Drain::default().at_once() }).await;
    }

    /// A session that is not there yet.
    pub fn session(&self) -> Session {
        self.session_named(&unique("s"))
    }

    pub fn session_named(&self, name: &str) -> Session {
        Session {
            name: name.into(),
            url: self.url(&format!("/v1/sessions/{name}")),
            http: self.http.clone(),
            addr: self.server.addr,
        }
    }

    /// A connection that can send anything.
    pub async fn socket(&self) -> Socket {
        Socket::connect(self.server.addr).await
    }
}

/// An answer, read to its end.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// The JSON of an answer with this status.
    #[track_caller]
    pub fn is(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        self.json()
    }

    /// The body of a problem answer, which must have all that makes it one.
    #[track_caller]
    pub fn problem(self, status: u16, code: &str) -> Value {
        assert_eq!(self.status, status, "wanted {code}: {self:?}");
        assert_eq!(self.headers["content-type"], "application/problem+json", "{self:?}");
        let body = self.json();
        assert_eq!(body["code"], code, "{self:?}");
        assert_eq!(body["status"], status, "{self:?}");
        assert_eq!(body["type"], format!("urn:moorline:problem:{code}"), "{self:?}");
        let told = |key: &str| body[key].as_str().is_some_and(|text| !text.is_empty());
        assert!(told("title") && told("detail"), "{self:?}");
        body
    }
}

/// Sends a request and reads its answer.
pub async fn answer(request: reqwest::RequestBuilder) -> Answer {
    let whole = async {
        let response = request.send().await.expect("an answer");
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Answer { status, headers, text: response.text().await.expect("the whole answer") }
    };
    tokio::time::timeout(PATIENCE, whole).await.expect("an answer in time")
}

/// A session, as its clients reach it.
#[derive(Clone)]
pub struct Session {
    pub name: String,
    pub http: reqwest::Client,
    url: String,
    addr: SocketAddr,
}

impl Session {
    /// A session of a gateway that is a process of its own.
    pub fn at(gateway: &str, name: &str) -> Session {
        let addr = gateway.trim_start_matches("http://").parse().expect("an address");
        Session { name: name.into(), url: format!("{gateway}/v1/sessions/{name}"), http: http(), addr }
    }

    /// The same session, for who bears this token.
    pub fn bearing(&self, token: &str) -> Session {
        let mut headers = HeaderMap::new();
        headers.insert("authorization", format!("Bearer {token}").parse().expect("a header's value"));
        let http = reqwest::Client::builder().default_headers(headers).build().expect("a client");
        Session { http, ..self.clone() }
    }

    /// `path` begins with a slash, or with a question mark, or is empty.
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    pub async fn get(&self, path: &str) -> Answer {
        answer(self.http.get(self.url(path)).header("accept", "application/json")).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        answer(self.http.post(self.url(path)).json(&body)).await
    }

    pub async fn post_as(&self, path: &str, content_type: &str, body: impl Into<reqwest::Body>) -> Answer {
        answer(self.http.post(self.url(path)).header("content-type", content_type).body(body)).await
    }

    /// Sends events (a body of JSON, or else of lines) as a producer.
    pub async fn produce(&self, (id, epoch, seq): (&str, u64, u64), json: bool, body: &str) -> Answer {
        let kind = if json { "application/json" } else { "application/x-ndjson" };
        let request = self.http.post(self.url("/events")).header("content-type", kind).body(body.to_owned());
        answer(request.header("producer-id", id).header("producer-epoch", epoch).header("producer-seq", seq)).await
    }

    /// Appends an event or an array of them, and gives their ids.
    #[track_caller]
    pub fn append(&self, events: Value) -> impl Future<Output = Vec<String>> {
        let session = self.clone();
        async move {
            let ids = session.post("/events", events).await.is(201)["ids"].take();
            serde_json::from_value(ids).expect("ids")
        }
    }

    /// Appends events whose data are these numbers.
    pub async fn append_numbers(&self, numbers: std::ops::Range<u64>) -> Vec<String> {
        self.append(numbers.map(|n| json!({"type": "n", "data": n})).collect()).await
    }

    /// All entries of a lane (`events` or `commands`), by pages. Empty if there is no such session.
    pub async fn lane(&self, lane: &str) -> Vec<Value> {
        let (mut after, mut entries) = (String::new(), Vec::new());
        loop {
            let page = self.get(&format!("/{lane}?limit=1000{after}")).await;
            if page.status == 404 {
                return entries;
            }
            let mut page = page.is(200);
            entries.append(page["events"].as_array_mut().expect("events"));
            if page["up_to_date"] == true {
                return entries;
            }
            after = format!("&after={}", page["next"].as_str().expect("next"));
        }
    }

    /// The data of the session's events.
    pub async fn data(&self) -> Vec<Value> {
        self.lane("events").await.into_iter().map(|mut event| event["data"].take()).collect()
    }

    /// Everything that can be seen of a session, without what changes as time goes by.
    pub async fn state(&self) -> Value {
        let mut view = self.get("").await.json();
        if let Some(view) = view.as_object_mut() {
            view.remove("now");
            for run in view.get_mut("runs").and_then(Value::as_array_mut).into_iter().flatten() {
                run.as_object_mut().expect("a run").remove("grace_ms");
            }
        }
        json!({"view": view, "events": self.lane("events").await, "commands": self.lane("commands").await})
    }

    /// Follows the events.
    pub async fn follow(&self, query: &str) -> Stream {
        self.follow_lane("events", query, None).await
    }

    /// Follows the events on from what a client had seen.
    pub async fn resume(&self, query: &str, last: &str) -> Stream {
        self.follow_lane("events", query, Some(last)).await
    }

    pub async fn follow_lane(&self, lane: &str, query: &str, last: Option<&str>) -> Stream {
        let response = self.try_follow(lane, query, last).await;
        assert_eq!(response.status(), 200, "{response:?}");
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Stream { response, decoder: Decoder::new(1 << 22), raw: Vec::new() }
    }

    pub async fn try_follow(&self, lane: &str, query: &str, last: Option<&str>) -> reqwest::Response {
        let mut request = self.http.get(self.url(&format!("/{lane}{query}"))).header("accept", "text/event-stream");
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        tokio::time::timeout(PATIENCE, request.send()).await.expect("an answer in time").expect("an answer")
    }

    /// A request of lines that the test sends bit by bit.
    pub async fn open_body(&self, path: &str, headers: &str) -> Socket {
        let mut socket = Socket::connect(self.addr).await;
        let path = self.url(path);
        let path = path.splitn(4, '/').nth(3).expect("a path");
        socket
            .send(format!("POST /{path} HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n{headers}\r\n\r\n"))
            .await;
        socket
    }
}

/// A stream that is being followed.
pub struct Stream {
    response: reqwest::Response,
    decoder: Decoder,
    /// Every byte so far.
    pub raw: Vec<u8>,
}

/// An entry of the log, as a stream gives it.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    pub id: String,
    pub json: Value,
}

impl Stream {
    pub fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// Reads what comes next. `false`: the response has ended as it should.
    pub async fn read(&mut self) -> bool {
        let chunk = tokio::time::timeout(PATIENCE, self.response.chunk()).await;
        let raw = String::from_utf8_lossy(&self.raw[self.raw.len().saturating_sub(500)..]);
        let chunk = chunk.unwrap_or_else(|_| panic!("nothing comes any more after {raw:?}"));
        match chunk.unwrap_or_else(|e| panic!("{e:?} after {raw:?}")) {
            Some(chunk) => {
                self.raw.extend_from_slice(&chunk);
                self.decoder.push(&chunk);
                true
            }
            None => false,
        }
    }

    /// The next frame. `None`: the response has ended as it should.
    pub async fn next(&mut self) -> Option<Frame> {
        // For the frame as a whole: heartbeats must not put the deadline off.
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(frame) = self.decoder.next_frame().expect("server-sent events") {
                return Some(frame);
            }
            assert!(Instant::now() < deadline, "no frame after {:?}", String::from_utf8_lossy(&self.raw));
            if !self.read().await {
                return None;
            }
        }
    }

    /// The next frame, which is one of the gateway's own and carries no id.
    pub async fn named(&mut self, event: &str) -> Value {
        let frame = self.next().await.unwrap_or_else(|| panic!("an end instead of {event}"));
        assert_eq!((frame.event.as_deref(), &frame.id), (Some(event), &None), "{frame:?}");
        serde_json::from_str(&frame.data).expect("JSON")
    }

    pub async fn caught_up(&mut self) {
        assert_eq!(self.named("caught-up").await, json!({}));
    }

    /// The next frame, which is an entry.
    pub async fn entry(&mut self) -> Entry {
        let frame = self.next().await.expect("an entry, not the end");
        assert_eq!(frame.event, None, "{frame:?}");
        let id = frame.id.clone().unwrap_or_else(|| panic!("no id: {frame:?}"));
        Entry { id, json: serde_json::from_str(&frame.data).unwrap_or_else(|e| panic!("{e}: {frame:?}")) }
    }

    /// The next so many entries, with nothing between them but `caught-up`.
    pub async fn entries(&mut self, count: usize) -> Vec<Entry> {
        let mut entries = Vec::with_capacity(count);
        while entries.len() < count {
            let frame = self.next().await.expect("an entry, not the end");
            match (frame.event.as_deref(), frame.id) {
                (None, Some(id)) => {
                    entries.push(Entry { id, json: serde_json::from_str(&frame.data).expect("JSON") });
                }
                (Some("caught-up"), _) => {}
                other => panic!("{other:?} instead of an entry"),
            }
        }
        entries
    }

    /// The data of the next so many entries.
    pub async fn data(&mut self, count: usize) -> Vec<Value> {
        self.entries(count).await.into_iter().map(|mut entry| entry.json["data"].take()).collect()
    }

    /// Waits for an entry of this type.
    pub async fn until(&mut self, kind: &str) -> Entry {
        loop {
            let [entry] = <[Entry; 1]>::try_from(self.entries(1).await).expect("one");
            if entry.json["type"] == kind {
                return entry;
            }
        }
    }

    /// Reads on until the connection breaks; an end that looks like success is none.
    pub async fn cut(&mut self) {
        loop {
            match tokio::time::timeout(PATIENCE, self.response.chunk()).await.expect("a cut in time") {
                Ok(Some(_)) => {}
                Ok(None) => panic!("a clean end after {:?}", String::from_utf8_lossy(&self.raw)),
                Err(_) => return,
            }
        }
    }

    /// What must come now is the end.
    pub async fn ended(&mut self) {
        assert_eq!(self.next().await, None);
    }
}

/// A connection that can send anything.
pub struct Socket {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Socket {
    pub async fn connect(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).await.expect("a connection");
        stream.set_nodelay(true).expect("nodelay");
        Socket { stream, read: Vec::new() }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).await.expect("sent");
    }

    /// The gateway may have had enough.
    pub async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        let sent = tokio::time::timeout(PATIENCE, self.stream.write_all(bytes.as_ref()));
        sent.await.unwrap_or_else(|_| panic!("the gateway reads nothing for {PATIENCE:?}"))
    }

    /// Sends a piece of a chunked body. No bytes end it.
    pub async fn chunk(&mut self, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        let chunk = [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat();
        self.send(chunk).await;
    }

    /// Sends no more, but still reads. The gateway may have closed already.
    pub async fn half_close(&mut self) {
        let _ = self.stream.shutdown().await;
    }

    /// The answer to what was sent; one with a known length.
    pub async fn answer(&mut self) -> Answer {
        loop {
            if let Some(answer) = self.take_answer() {
                return answer;
            }
            assert!(self.fill().await, "the connection ended after {:?}", String::from_utf8_lossy(&self.read));
        }
    }

    /// Waits for the end of the connection, and gives the status of what came before, if anything did.
    pub async fn ended(&mut self) -> Option<u16> {
        while self.fill().await {}
        let text = String::from_utf8_lossy(&self.read);
        text.split(' ').nth(1).and_then(|status| status.parse().ok())
    }

    /// Reads on until the connection breaks; an end that looks like success is none.
    pub async fn cut(&mut self) {
        loop {
            let read = tokio::time::timeout(PATIENCE, self.stream.read_buf(&mut self.read));
            match read.await.unwrap_or_else(|_| panic!("nothing comes for {PATIENCE:?}")) {
                Ok(0) => panic!("a clean end"),
                Ok(_) => {}
                Err(_) => return,
            }
        }
    }

    /// All that comes until the connection ends.
    pub async fn rest(&mut self) -> String {
        while self.fill().await {}
        String::from_utf8(std::mem::take(&mut self.read)).expect("text")
    }

    /// `false`: the connection has ended, one way or the other.
    async fn fill(&mut self) -> bool {
        let read = tokio::time::timeout(PATIENCE, self.stream.read_buf(&mut self.read));
        read.await.unwrap_or_else(|_| panic!("nothing comes for {PATIENCE:?}")).is_ok_and(|count| count > 0)
    }

    fn take_answer(&mut self) -> Option<Answer> {
        let end = self.read.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
        let head = String::from_utf8(self.read[..end].to_vec()).expect("a head");
        let mut lines = head.lines();
        let status = lines.next()?.split(' ').nth(1)?.parse().expect("a status");
        let mut headers = HeaderMap::new();
        for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
            let name: axum::http::HeaderName = name.parse().expect("a header's name");
            headers.append(name, value.parse().expect("a header's value"));
        }
        let length = headers.get("content-length").map_or(0, |v| v.to_str().unwrap_or("").parse().expect("a length"));
        let body = self.read.get(end..end + length)?.to_vec();
        self.read.drain(..end + length);
        Some(Answer { status, headers, text: String::from_utf8(body).expect("text") })
    }
}

/// A limit that no test reaches by being slow.
pub const NEVER: Duration = Duration::from_secs(3600);
