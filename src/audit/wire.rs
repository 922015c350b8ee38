//! Streams as the audit reads them: opened, watched by a task of their own, cut, and come back to.
//!
//! The only place of the audit that knows its HTTP client. HTTP/1.1 only: with HTTP/2 a cut would end one stream of a
//! connection, not the connection. A cut is what a closed tab does: the socket is closed while the answer is under way.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, MutexGuard, Once, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use reqwest::{Method, Response, header};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, timeout, timeout_at},
};

use crate::sse::decode::Decoder;

/// Until a connection stands.
const CONNECT: Duration = Duration::from_secs(10);

/// Until the head of an answer is there. Models think before the first token.
const HEAD: Duration = Duration::from_secs(30);

/// The most events that are kept of one stream. The comparison takes time and memory by the square of it.
pub(super) const UNITS_MAX: usize = 4_000;

/// The most bytes that are kept of one stream, and the largest event.
const BYTES_MAX: usize = 8 << 20;

/// The most of a refusal's body that is read.
const REFUSAL_MAX: usize = 2_000;

/// Why there is nothing to audit.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// No connection could be made, or it broke before an answer came.
    #[error("nothing answers at {url}: {why}")]
    Unreachable {
        /// Without what may be secret in it.
        url: String,
        /// The innermost cause.
        why: String,
    },
    /// The endpoint refused.
    #[error("{url} answers {status}{}", with_colon(.said))]
    Refused {
        /// Without what may be secret in it.
        url: String,
        /// The HTTP status.
        status: u16,
        /// What it says, shortened.
        said: String,
    },
    /// The answer is no stream.
    #[error("{url} answers with {kind}, not with a stream")]
    NoStream {
        /// Without what may be secret in it.
        url: String,
        /// The content type.
        kind: String,
    },
    /// The request can't be made.
    #[error("the request can't be sent: {0}")]
    BadRequest(String),
    /// There was no stream to look at.
    #[error("there is nothing to audit: {0}")]
    Nothing(String),
    /// The gateway did not do what a gateway does.
    #[error("{0}")]
    Gateway(#[from] crate::client::Error),
}

fn with_colon(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(": {text}") }
}

impl AuditError {
    /// What to do about it, where that is not plain.
    pub fn advice(&self) -> Option<&'static str> {
        match self {
            AuditError::Unreachable { .. } => Some("Is it running, and is the address right?"),
            AuditError::Refused { status: 401 | 403, .. } => {
                Some("It wants to know who asks: --token TOKEN, or --header 'Name: value'.")
            }
            AuditError::Refused { status: 404 | 405, .. } => {
                Some("Is it the address of the stream itself? A POST takes --data (or --method POST).")
            }
            AuditError::Refused { status: 301..=308, .. } => Some("Use the address that it names."),
            AuditError::Refused { status: 429, .. } => {
                Some("It is asked too often: try again later, with fewer --trials.")
            }
            AuditError::NoStream { .. } => Some(
                "Is it the address of the stream itself? Some endpoints stream only when asked, as with \"stream\":true.",
            ),
            _ => None,
        }
    }
}

/// A request, ready to be sent.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub method: String,
    pub url: String,
    pub headers: Vec<(String, String)>,
    pub body: Option<String>,
    pub last_id: Option<String>,
}

/// The HTTP client, and how often it was used.
pub(super) struct Wire {
    http: reqwest::Client,
    requests: AtomicUsize,
}

impl Wire {
    /// `local`: on this machine, where no proxy leads; `secure`: with TLS.
    pub fn new(local: bool, secure: bool) -> Result<Wire, AuditError> {
        static TLS: Once = Once::new();
        // An error means that the program chose a provider before: that one serves as well.
        TLS.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
        let mut http = reqwest::Client::builder()
            .user_agent(concat!("moorline-audit/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .http1_only()
            // A connection that was used before may be closed just then; and a surface is a connection of its own.
            .pool_max_idle_per_host(0)
            .connect_timeout(CONNECT)
            .tcp_nodelay(true);
        if !secure {
            // No certificate will be asked for; and reading the system's fails where there are none (slim images).
            http = http.tls_certs_only([]);
        }
        if local {
            http = http.no_proxy();
        }
        let http = http.build().map_err(|e| AuditError::BadRequest(root_cause(&e)))?;
        Ok(Wire { http, requests: AtomicUsize::new(0) })
    }

    /// How many requests were sent.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    /// Sends a request and watches the stream that answers.
    pub async fn open(&self, request: &Request) -> Result<Watching, AuditError> {
        let response = self.send(request).await?;
        let status = response.status();
        let url = super::shown_url(&request.url);
        let header = |name: header::HeaderName| {
            let value = response.headers().get(name).and_then(|value| value.to_str().ok());
            value.unwrap_or_default().trim().to_owned()
        };
        if !status.is_success() || status.as_u16() == 204 {
            let location = header(header::LOCATION);
            let said = if location.is_empty() { refusal(response).await } else { format!("moved to {location}") };
            return Err(AuditError::Refused { url, status: status.as_u16(), said });
        }
        let kind = header(header::CONTENT_TYPE);
        let Some(form) = Form::of(&kind) else { return Err(AuditError::NoStream { url, kind }) };
        let headers = response.headers().iter();
        let headers = headers.filter_map(|(k, v)| Some((k.as_str().to_owned(), v.to_str().ok()?.to_owned()))).collect();
        Ok(Watching::start(response, form, headers))
    }

    /// Sends a request that is answered at once: the status, and what it says if it is a refusal.
    pub async fn call(&self, request: &Request) -> Result<(u16, String), AuditError> {
        let response = self.send(request).await?;
        Ok((response.status().as_u16(), refusal(response).await))
    }

    async fn send(&self, request: &Request) -> Result<Response, AuditError> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let bad = |what: String| AuditError::BadRequest(what);
        let method = Method::from_bytes(request.method.as_bytes()).map_err(|_| bad("the method is none".into()))?;
        let accept = match method {
            Method::GET => "text/event-stream",
            _ => "text/event-stream, application/x-ndjson, text/plain;q=0.9, */*;q=0.8",
        };
        let mut headers = header::HeaderMap::new();
        headers.insert(header::ACCEPT, header::HeaderValue::from_static(accept));
        headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
        for (name, value) in &request.headers {
            let name = name.parse::<header::HeaderName>().map_err(|_| bad(format!("{name:?} is no header's name")))?;
            let mut value = header::HeaderValue::try_from(value)
                .map_err(|_| bad(format!("the header {name} has a value that no header can carry")))?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        if let Some(id) = &request.last_id {
            let id = header::HeaderValue::try_from(id).map_err(|_| bad("an id that no header can carry".into()))?;
            headers.insert("last-event-id", id);
        }
        let mut builder = self.http.request(method, &request.url).headers(headers);
        if let Some(body) = &request.body {
            builder = builder.body(body.clone());
        }
        let url = || super::shown_url(&request.url);
        match timeout(HEAD, builder.send()).await {
            Err(_) => Err(AuditError::Unreachable { url: url(), why: format!("no answer within {HEAD:?}") }),
            Ok(Err(error)) if error.is_builder() => Err(bad(root_cause(&error))),
            Ok(Err(error)) => Err(AuditError::Unreachable { url: url(), why: root_cause(&error) }),
            Ok(Ok(response)) => Ok(response),
        }
    }
}

/// What a refusal says, on one line.
async fn refusal(mut response: Response) -> String {
    let mut body = Vec::new();
    let read = async {
        while let Ok(Some(chunk)) = response.chunk().await {
            body.extend_from_slice(&chunk[..chunk.len().min(REFUSAL_MAX - body.len())]);
            if body.len() == REFUSAL_MAX {
                break;
            }
        }
    };
    let _ = timeout(Duration::from_secs(2), read).await;
    let text = String::from_utf8_lossy(&body);
    // Of a problem or the like, the sentence; of a page, nothing.
    let json: Option<serde_json::Value> = serde_json::from_str(&text).ok();
    let sentence = |v: &serde_json::Value| {
        ["detail", "message", "error", "title"].iter().find_map(|k| v[k].as_str().map(str::to_owned))
    };
    let text = match &json {
        Some(value) => sentence(value).or_else(|| sentence(&value["error"])).unwrap_or_default(),
        None if text.trim_start().starts_with('<') => String::new(),
        None => text.into_owned(),
    };
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(200).collect()
}

/// What a stream is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Server-sent events.
    Sse,
    /// A line an event.
    Lines,
    /// Text: each word counts.
    Text,
}

impl Form {
    /// `None` for what is no stream.
    fn of(content_type: &str) -> Option<Form> {
        let kind = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match kind.as_str() {
            "text/event-stream" => Some(Form::Sse),
            "application/x-ndjson"
            | "application/ndjson"
            | "application/jsonl"
            | "application/json-seq"
            | "application/jsonlines"
            | "application/x-json-stream" => Some(Form::Lines),
            "text/plain" | "application/octet-stream" | "" => Some(Form::Text),
            _ => None,
        }
    }
}

/// One event (or line, or word) of a stream.
#[derive(Debug, Clone)]
pub(super) struct Unit {
    /// All that makes it what it is. Two units are the same if this is.
    pub key: String,
    pub id: Option<String>,
    pub data: String,
    pub at: Instant,
}

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// The answer was complete.
    Clean,
    /// The connection broke, or what came could not be read.
    Broken(String),
    /// We have enough.
    Enough,
}

/// Where a client was when its connection was cut.
#[derive(Debug, Clone, Default)]
pub(super) struct Place {
    pub last_id: Option<String>,
    pub events: usize,
    pub chars: usize,
}

#[derive(Debug, Default)]
struct Seen {
    units: Vec<Unit>,
    raw: Vec<u8>,
    last_id: Option<String>,
    done: bool,
    end: Option<(End, Instant)>,
}

/// A stream that is being watched. Dropping it cuts it.
pub(super) struct Watching {
    pub opened: Instant,
    pub headers: Vec<(String, String)>,
    pub form: Form,
    seen: Arc<Mutex<Seen>>,
    turned: watch::Receiver<()>,
    task: JoinHandle<()>,
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Watching {
    fn start(response: Response, form: Form, headers: Vec<(String, String)>) -> Watching {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (turn, turned) = watch::channel(());
        let task = tokio::spawn(read(response, form, seen.clone(), turn));
        Watching { opened: Instant::now(), headers, form, seen, turned, task }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What came so far. Where events carry ids, those without one are the connection's own and don't count.
    pub fn units(&self) -> Vec<Unit> {
        let seen = self.seen();
        let ids = seen.units.iter().any(|unit| unit.id.is_some());
        seen.units.iter().filter(|unit| !ids || unit.id.is_some()).cloned().collect()
    }

    /// How many units came so far.
    pub fn count(&self) -> usize {
        self.units().len()
    }

    /// How and when it ended, if it has.
    pub fn end(&self) -> Option<(End, Instant)> {
        self.seen().end.clone()
    }

    /// Whether it said that it is complete (`[DONE]`).
    pub fn done(&self) -> bool {
        self.seen().done
    }

    /// Waits until `is` holds, the stream has ended, or it is too late. Tells whether it holds.
    pub async fn until(&self, deadline: Instant, is: impl Fn(&Watching) -> bool) -> bool {
        let mut turned = self.turned.clone();
        loop {
            turned.borrow_and_update();
            if is(self) {
                return true;
            }
            if self.end().is_some() {
                return false;
            }
            match timeout_at(deadline, turned.changed()).await {
                Ok(Ok(())) => {}
                // The reader has ended: its last word was said before.
                Ok(Err(_)) => return is(self),
                Err(_) => return is(self),
            }
        }
    }

    /// Waits for the end, or until it is too late. Tells whether it has ended.
    pub async fn ended(&self, deadline: Instant) -> bool {
        self.until(deadline, |watching| watching.end().is_some()).await || self.end().is_some()
    }

    /// Waits until nothing came for `quiet`, it has ended, or it is too late.
    pub async fn quiet(&self, quiet: Duration, deadline: Instant) {
        loop {
            let count = self.seen().units.len();
            let pause = (Instant::now() + quiet).min(deadline);
            let more = self.until(pause, |watching| watching.seen().units.len() > count).await;
            if !more {
                return;
            }
        }
    }

    /// Cuts the connection. What came, and where the client is.
    pub fn cut(self) -> (Vec<Unit>, Place) {
        self.task.abort();
        let units = self.units();
        let seen = self.seen();
        let chars = settled(&seen.raw, self.form);
        let place = Place { last_id: seen.last_id.clone(), events: units.len(), chars };
        drop(seen);
        (units, place)
    }
}

/// How many characters the complete events take, from the beginning.
fn settled(raw: &[u8], form: Form) -> usize {
    let text = String::from_utf8_lossy(raw);
    let end = match form {
        Form::Sse => ["\n\n", "\r\n\r\n"].iter().filter_map(|mark| Some(text.rfind(mark)? + mark.len())).max(),
        Form::Lines => text.rfind('\n').map(|at| at + 1),
        Form::Text => text.rfind(char::is_whitespace).map(|at| at + 1),
    };
    // A character of white space may be longer than a byte: to the next boundary.
    let end = (end.unwrap_or(0)..=text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text[..end].chars().count()
}

async fn read(mut response: Response, form: Form, seen: Arc<Mutex<Seen>>, turn: watch::Sender<()>) {
    let mut splitter = Splitter::new(form);
    let lock = || seen.lock().unwrap_or_else(PoisonError::into_inner);
    let end = loop {
        let chunk = match response.chunk().await {
            Ok(Some(chunk)) => chunk,
            Ok(None) => break End::Clean,
            Err(error) => break End::Broken(root_cause(&error)),
        };
        let mut seen = lock();
        if seen.raw.len() + chunk.len() <= BYTES_MAX {
            seen.raw.extend_from_slice(&chunk);
        }
        let split = splitter.push(&chunk, &mut seen);
        let enough = seen.units.len() >= UNITS_MAX;
        drop(seen);
        turn.send_replace(());
        if let Err(why) = split {
            break End::Broken(why);
        }
        if enough {
            break End::Enough;
        }
    };
    let mut seen = lock();
    if end == End::Clean {
        splitter.finish(&mut seen);
    }
    seen.end = Some((end, Instant::now()));
    drop(seen);
    turn.send_replace(());
}

/// Bytes into units.
enum Splitter {
    Sse(Box<Decoder>),
    Plain { form: Form, rest: Vec<u8> },
}

impl Splitter {
    fn new(form: Form) -> Splitter {
        match form {
            Form::Sse => Splitter::Sse(Box::new(Decoder::new(BYTES_MAX))),
            _ => Splitter::Plain { form, rest: Vec::new() },
        }
    }

    fn push(&mut self, chunk: &[u8], seen: &mut Seen) -> Result<(), String> {
        match self {
            Splitter::Sse(decoder) => {
                decoder.push(chunk);
                while let Some(frame) = decoder.next_frame().map_err(|e| e.to_string())? {
                    if frame.data.trim() == "[DONE]" {
                        seen.done = true;
                        continue;
                    }
                    let id = frame.id.filter(|id| !id.is_empty());
                    if id.is_some() {
                        seen.last_id = id.clone();
                    }
                    let event = frame.event.unwrap_or_default();
                    let key = format!("{}\u{1f}{event}\u{1f}{}", id.as_deref().unwrap_or_default(), frame.data);
                    let data = if event.is_empty() { frame.data } else { format!("{event} {}", frame.data) };
                    seen.units.push(Unit { key, id, data, at: Instant::now() });
                }
            }
            Splitter::Plain { form, rest } => {
                rest.extend_from_slice(chunk);
                let ends = |byte: &u8| match form {
                    Form::Text => byte.is_ascii_whitespace(),
                    _ => *byte == b'\n',
                };
                while let Some(at) = rest.iter().position(ends) {
                    let piece: Vec<u8> = rest.drain(..=at).collect();
                    plain(&piece, seen);
                }
                if rest.len() > BYTES_MAX {
                    return Err(format!("there is no end of a line in {BYTES_MAX} bytes"));
                }
            }
        }
        Ok(())
    }

    fn finish(&mut self, seen: &mut Seen) {
        if let Splitter::Plain { rest, .. } = self {
            plain(rest, seen);
        }
    }
}

fn plain(piece: &[u8], seen: &mut Seen) {
    let text = String::from_utf8_lossy(piece).trim().to_owned();
    if !text.is_empty() {
        seen.units.push(Unit { key: text.clone(), id: None, data: text, at: Instant::now() });
    }
}

/// The innermost cause says what happened; the layers around it only where it passed by, and they name addresses.
fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// Whether all ids of these units differ. A stream whose ids repeat has none to come back to.
pub(super) fn distinct_ids(units: &[Unit]) -> bool {
    let mut ids = HashSet::new();
    units.iter().all(|unit| unit.id.as_ref().is_some_and(|id| ids.insert(id)))
}
