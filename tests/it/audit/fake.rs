//! An endpoint with faults to order: each stream is a log that a producer of its own fills, a numbered event at a time.
//!
//! | | |
//! |---|---|
//! | `GET /stream/{id}` | begins the stream, or comes back to it, as any SSE endpoint with ids |
//! | `POST /chat/{id}` | begins it; `GET /chat/{id}[?events=|?chars=]` comes back to it |
//! | `POST /chat/{id}/stop` | |
//! | `POST /bare` | begins one that nobody can come back to |

use std::{
    collections::HashMap,
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Path, Query, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use futures_util::stream;
use tokio::{
    net::TcpListener,
    runtime::Runtime,
    sync::watch,
    time::{Instant, interval_at, sleep},
};

/// What goes wrong for a client that comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Return {
    #[default]
    Right,
    /// Events whose number is a multiple are left out.
    Loses(usize),
    /// Those are sent twice.
    Doubles(usize),
    /// Each two change places.
    Swaps,
    /// The head of an answer, and nothing else.
    IsSilent,
    /// A clean end at once.
    EndsAtOnce,
    /// All from the start, whatever the client has.
    FromTheStart,
    /// 410.
    IsRefused,
}

/// What a stop does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Stop {
    #[default]
    Obeys,
    /// It says yes.
    Ignores,
    /// The output goes on for so long.
    EndsAfter(Duration),
}

/// What streams look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Form {
    #[default]
    Sse,
    /// As OpenAI's: equal tokens, no ids.
    EqualTokens,
    /// NDJSON.
    Lines,
    /// Plain text.
    Words,
    /// Server-sent events of which each third has no id.
    SomeIds,
}

/// An endpoint, to order.
#[derive(Debug, Clone)]
pub struct Fake {
    pub events: usize,
    pub pace: Duration,
    pub form: Form,
    pub comes_back: Return,
    pub stop: Stop,
    /// The producer ends with the connection that began it.
    pub dies_with_client: bool,
    /// Connections look at the log only so often, for the first time a third of that after they were opened.
    pub polls: Option<Duration>,
    /// Connections from the second to the same stream on, unless they come back, break after so many events.
    pub breaks: Option<usize>,
    /// What events say, after their number and that of the answer.
    pub text: &'static str,
}

impl Default for Fake {
    fn default() -> Self {
        Fake {
            events: 61,
            pace: Duration::from_millis(20),
            form: Form::Sse,
            comes_back: Return::Right,
            stop: Stop::Obeys,
            dies_with_client: false,
            polls: None,
            breaks: None,
            text: "word",
        }
    }
}

/// The endpoint while it runs. It ends with the test.
pub struct Running {
    pub url: String,
    pub desk: Arc<Desk>,
    _runtime: Runtime,
}

pub struct Desk {
    fake: Fake,
    streams: Mutex<HashMap<String, Arc<Log>>>,
    /// How many generations were begun.
    pub begun: AtomicUsize,
    /// How many came to their own end.
    pub completed: AtomicUsize,
}

struct Log {
    lines: Mutex<Vec<String>>,
    turn: watch::Sender<()>,
    done: AtomicBool,
    stop: AtomicBool,
    opened: AtomicUsize,
}

impl Fake {
    pub fn start(self) -> Running {
        let runtime = Runtime::new().expect("a runtime");
        let desk = Arc::new(Desk { fake: self, streams: Mutex::default(), begun: 0.into(), completed: 0.into() });
        let routes = Router::new()
            .route("/stream/{id}", get(follow_or_begin))
            .route("/chat/{id}", post(begin).get(come_back))
            .route("/chat/{id}/stop", post(stop))
            .route("/bare", post(begin_bare))
            .route("/private", get(begin_bare))
            .route("/page", get(|| async { ([(header::CONTENT_TYPE, "text/html")], "<p>hello</p>") }))
            .route(
                "/squeezed",
                get(|| async {
                    ([(header::CONTENT_TYPE, "text/event-stream"), (header::CONTENT_ENCODING, "gzip")], "x")
                }),
            )
            .route("/locked", get(|| async { (StatusCode::UNAUTHORIZED, "no token came") }))
            .route("/silent", get(|| async { sse(Body::from_stream(stream::pending::<Result<Bytes, Infallible>>())) }))
            .with_state(desk.clone());
        let listener = runtime.block_on(TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))).expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("its address"));
        runtime.spawn(async move { axum::serve(listener, routes).await });
        Running { url, desk, _runtime: runtime }
    }
}

impl Running {
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    pub fn begun(&self) -> usize {
        self.desk.begun.load(Ordering::Relaxed)
    }
}

impl Desk {
    fn begin(self: &Arc<Self>, id: &str) -> Arc<Log> {
        let log = Arc::new(Log {
            lines: Mutex::default(),
            turn: watch::channel(()).0,
            done: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            opened: AtomicUsize::new(0),
        });
        self.streams.lock().expect("no panic").insert(id.to_owned(), log.clone());
        let generation = self.begun.fetch_add(1, Ordering::Relaxed);
        let (desk, produced) = (self.clone(), log.clone());
        tokio::spawn(async move { desk.produce(&produced, generation).await });
        log
    }

    async fn produce(&self, log: &Log, generation: usize) {
        let mut given_up = None;
        for n in 1..=self.fake.events {
            let now = tokio::time::Instant::now();
            let grace = match self.fake.stop {
                Stop::EndsAfter(grace) => grace,
                _ => Duration::ZERO,
            };
            if log.stop.load(Ordering::Relaxed) {
                let until = *given_up.get_or_insert(now + grace);
                if now >= until {
                    break;
                }
            }
            let text = self.fake.text;
            let data =
                serde_json::json!({"type": "text-delta", "delta": format!("{n} of answer {generation}: {text}")});
            let line = match self.fake.form {
                Form::Sse => format!("id: {n}\ndata: {data}\n\n"),
                Form::EqualTokens => "data: {\"choices\":[{\"delta\":{\"content\":\"the\"}}]}\n\n".into(),
                Form::Lines => format!("{data}\n"),
                Form::Words => format!("word{n} "),
                Form::SomeIds if n % 3 == 0 => format!("data: {data}\n\n"),
                Form::SomeIds => format!("id: {n}\ndata: {data}\n\n"),
            };
            log.lines.lock().expect("no panic").push(line);
            log.turn.send_replace(());
            sleep(self.fake.pace).await;
        }
        if !log.stop.load(Ordering::Relaxed) {
            self.completed.fetch_add(1, Ordering::Relaxed);
        }
        log.done.store(true, Ordering::Relaxed);
        log.turn.send_replace(());
    }

    fn find(&self, id: &str) -> Option<Arc<Log>> {
        self.streams.lock().expect("no panic").get(id).cloned()
    }
}

async fn follow_or_begin(State(desk): State<Arc<Desk>>, Path(id): Path<String>, headers: HeaderMap) -> Response {
    let log = desk.find(&id);
    let log = log.unwrap_or_else(|| desk.begin(&id));
    serve(&desk, log, after(&headers), None)
}

async fn begin(State(desk): State<Arc<Desk>>, Path(id): Path<String>) -> Response {
    let log = desk.begin(&id);
    serve(&desk, log.clone(), None, desk.fake.dies_with_client.then(|| Life(log)))
}

async fn begin_bare(State(desk): State<Arc<Desk>>) -> Response {
    let log = desk.begin(&crate::support::unique("bare"));
    serve(&desk, log.clone(), None, desk.fake.dies_with_client.then(|| Life(log)))
}

async fn come_back(
    State(desk): State<Arc<Desk>>,
    Path(id): Path<String>,
    Query(query): Query<HashMap<String, usize>>,
    headers: HeaderMap,
) -> Response {
    let Some(log) = desk.find(&id) else { return StatusCode::NOT_FOUND.into_response() };
    let events = query.get("events").copied();
    let chars = query.get("chars").map(|chars| {
        let mut left = *chars;
        let lines = log.lines.lock().expect("no panic");
        lines.iter().take_while(|line| left.checked_sub(line.len()).map(|rest| left = rest).is_some()).count()
    });
    serve(&desk, log, after(&headers).or(events).or(chars).filter(|after| *after > 0), None)
}

async fn stop(State(desk): State<Arc<Desk>>, Path(id): Path<String>) -> StatusCode {
    let Some(log) = desk.find(&id) else { return StatusCode::NOT_FOUND };
    if desk.fake.stop != Stop::Ignores {
        log.stop.store(true, Ordering::Relaxed);
    }
    StatusCode::ACCEPTED
}

fn after(headers: &HeaderMap) -> Option<usize> {
    headers.get("last-event-id").and_then(|value| value.to_str().ok()?.parse().ok())
}

/// Ends the producer when the connection that began it goes.
struct Life(Arc<Log>);

impl Drop for Life {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

fn serve(desk: &Desk, log: Arc<Log>, after: Option<usize>, life: Option<Life>) -> Response {
    let fault = if after.is_some() { desk.fake.comes_back } else { Return::Right };
    let form = desk.fake.form;
    let kind = match form {
        Form::Sse | Form::EqualTokens | Form::SomeIds => "text/event-stream",
        Form::Lines => "application/x-ndjson",
        Form::Words => "text/plain; charset=utf-8",
    };
    let mut next = after.unwrap_or(0);
    match fault {
        Return::EndsAtOnce => return sse(Body::empty()),
        Return::IsSilent => return sse(Body::from_stream(stream::pending::<Result<Bytes, Infallible>>())),
        Return::IsRefused => return StatusCode::GONE.into_response(),
        Return::FromTheStart => next = 0,
        _ => {}
    }
    let turned = log.turn.subscribe();
    let is_first = log.opened.fetch_add(1, Ordering::Relaxed) == 0;
    let breaks = desk.fake.breaks.filter(|_| !is_first && after.is_none());
    let polls = desk.fake.polls;
    let poll = polls.map(|every| interval_at(Instant::now() + every / 3, every));
    let body = stream::unfold(
        (log, next, turned, poll, life, false),
        move |(log, mut next, mut turned, mut poll, life, over)| async move {
            if over {
                return None;
            }
            if breaks.is_some_and(|events| next >= events) {
                return Some((Err(io::Error::other("it breaks")), (log, next, turned, poll, life, true)));
            }
            loop {
                if let Some(poll) = &mut poll {
                    poll.tick().await;
                }
                turned.borrow_and_update();
                let done = log.done.load(Ordering::Relaxed);
                let lines = log.lines.lock().expect("no panic").clone();
                // A pair is complete with its second, or with the end.
                let ready = lines.len() - if fault == Return::Swaps && !done { (lines.len() - next) % 2 } else { 0 };
                if next < ready {
                    let text = passed(fault, &lines[next..ready], next);
                    next = ready;
                    if text.is_empty() {
                        continue;
                    }
                    return Some((Ok(Bytes::from(text)), (log, next, turned, poll, life, false)));
                }
                if done {
                    let last: &[u8] = if kind == "text/event-stream" { b"data: [DONE]\n\n" } else { b"" };
                    return Some((Ok(Bytes::from_static(last)), (log, next, turned, poll, life, true)));
                }
                turned.changed().await.expect("the log");
            }
        },
    );
    ([(header::CONTENT_TYPE, kind)], Body::from_stream(body)).into_response()
}

/// What comes through of these events, the first of which has the number `before + 1`.
fn passed(fault: Return, lines: &[String], before: usize) -> String {
    let times = |n: usize| match fault {
        Return::Loses(k) if n.is_multiple_of(k) => 0,
        Return::Doubles(k) if n.is_multiple_of(k) => 2,
        _ => 1,
    };
    if fault == Return::Swaps {
        return lines.chunks(2).flat_map(|pair| pair.iter().rev()).map(String::as_str).collect();
    }
    lines.iter().enumerate().map(|(i, line)| line.repeat(times(before + i + 1))).collect()
}

fn sse(body: Body) -> Response {
    ([(header::CONTENT_TYPE, "text/event-stream")], body).into_response()
}
