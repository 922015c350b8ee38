//! A stream on a socket of its own. hyper reads the request and the routes answer it; then the socket is taken from hyper,
//! and what the session has goes straight onto it.
//!
//! A stream is most of its life idle, and there are many: hyper's buffers and the routes' futures, kept for as long as the
//! connection, were 11 of 14 KB an idle client. A live one is mostly woken for a single frame, whose bytes are the same for
//! every client: they are written as they are, with one system call, and nothing in between looks at them again.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use axum::{
    body::Body,
    http::{HeaderValue, Response, Version, header, request, response},
};
use bytes::Bytes;
use tokio::{
    net::TcpStream,
    time::{Instant, sleep_until, timeout},
};

use crate::{
    metrics::METRICS,
    sse::{Framing, Stream},
};

/// Comes true when the stream is to be cut, whatever it has to say.
pub type Cut = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What a handler answers a stream with: it travels as an extension of an otherwise empty answer.
#[derive(Clone)]
pub struct Handover(Arc<Mutex<Option<Streaming>>>);

/// A stream without its socket.
pub struct Streaming {
    stream: Stream,
    cut: Cut,
}

impl Handover {
    /// An answer that carries a stream.
    pub fn answer(stream: Stream, cut: Cut) -> Response<Body> {
        // Of unknown length, or the answer would get one.
        let mut answer = Response::new(Body::from_stream(futures_util::stream::empty::<io::Result<Bytes>>()));
        let headers = answer.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
        headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
        answer.extensions_mut().insert(Handover(Arc::new(Mutex::new(Some(Streaming { stream, cut })))));
        answer
    }

    /// Has the stream cut by this, too. What it holds is dropped when the stream ends, however it does.
    pub fn also_cut_by(&self, other: impl Future<Output = ()> + Send + 'static) {
        if let Some(streaming) = self.0.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            let cut = std::mem::replace(&mut streaming.cut, Box::pin(std::future::pending()));
            streaming.cut = Box::pin(async move {
                tokio::select! {
                    () = cut => {}
                    () = other => {}
                }
            });
        }
    }

    /// Takes the stream out; it is there once.
    pub fn take(self) -> Option<Streaming> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A stream and the head of its answer, ready for the socket.
pub struct Taken {
    head: Vec<u8>,
    streaming: Streaming,
}

impl Taken {
    pub fn new(asked: &Asked, answer: &response::Parts, mut streaming: Streaming) -> Self {
        // HTTP/1.0 knows no chunks: there the end of the connection ends the answer.
        let framing = if asked.version == Version::HTTP_10 { Framing::Raw } else { Framing::Chunked };
        streaming.stream.frame_as(framing);
        let mut head = Vec::with_capacity(512);
        head.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
        let mut line = |name: &str, value: &[u8]| {
            head.extend_from_slice(name.as_bytes());
            head.extend_from_slice(b": ");
            head.extend_from_slice(value);
            head.extend_from_slice(b"\r\n");
        };
        for (name, value) in answer.headers.iter().filter(|(name, _)| *name != header::CONNECTION) {
            line(name.as_str(), value.as_bytes());
        }
        if framing == Framing::Chunked {
            line("transfer-encoding", b"chunked");
        }
        line("connection", b"close");
        line("date", httpdate::fmt_http_date(SystemTime::now()).as_bytes());
        head.extend_from_slice(b"\r\n");
        Taken { head, streaming }
    }
}

/// What matters of the request.
pub struct Asked {
    version: Version,
    /// GET, not HEAD.
    pub wants_body: bool,
}

impl Asked {
    pub fn of<B>(request: &request::Request<B>) -> Self {
        Asked { version: request.version(), wants_body: request.method() != axum::http::Method::HEAD }
    }
}

/// How long things may take.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// The pause between heartbeat comments.
    pub heartbeat: Duration,
    /// A client that takes nothing for so long is cut.
    pub stall: Duration,
}

/// Why a stream is over.
enum End {
    /// Everything was said.
    Done,
    /// The client is gone.
    Gone,
    /// The client must not take it for the end.
    Cut,
}

/// Writes a stream to its socket until one of them ends.
pub async fn run(socket: TcpStream, taken: Taken, pace: Pace) {
    let end = match write(&socket, taken, pace).await {
        Ok(end) => end,
        Err(error) => {
            METRICS.slow_cuts.add(u64::from(error.kind() == io::ErrorKind::TimedOut));
            tracing::trace!(%error, "a stream's client is gone");
            End::Gone
        }
    };
    if let End::Cut = end {
        // Chunked, the missing last chunk shows it; a reset shows it to everyone.
        let _ = socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO));
    }
}

async fn write(socket: &TcpStream, taken: Taken, pace: Pace) -> io::Result<End> {
    let Taken { head, streaming: Streaming { mut stream, mut cut } } = taken;
    // An open stream has something to say at once: its head goes out with that.
    let mut head = Some(head);
    let mut wrote = Instant::now();
    let beat = sleep_until(wrote + pace.heartbeat);
    tokio::pin!(beat);
    loop {
        let piece = tokio::select! {
            biased;
            () = &mut cut => return Ok(End::Cut),
            piece = stream.next() => match piece {
                Some(Ok(piece)) => piece,
                Some(Err(_)) => return Ok(End::Cut),
                None => return Ok(End::Done),
            },
            () = gone(socket) => return Ok(End::Gone),
            // Counted from the last write: entries that the filter drops must not put the heartbeat off.
            () = &mut beat => {
                let due = wrote + pace.heartbeat;
                if due > Instant::now() {
                    beat.as_mut().reset(due);
                    continue;
                }
                beat.as_mut().reset(Instant::now() + pace.heartbeat);
                stream.heartbeat()
            }
        };
        let piece = match head.take() {
            Some(head) => [head, piece.to_vec()].concat().into(),
            None => piece,
        };
        if !write_all(socket, &piece, pace.stall, &mut cut).await? {
            return Ok(End::Cut);
        }
        wrote = Instant::now();
    }
}

/// Writes it all. `false`: the stream was cut meanwhile.
pub async fn write_all(
    socket: &TcpStream,
    mut bytes: &[u8],
    stall: Duration,
    cut: &mut (impl Future<Output = ()> + Unpin),
) -> io::Result<bool> {
    loop {
        match socket.try_write(bytes) {
            Ok(count) if count == bytes.len() => return Ok(true),
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let stalled = || io::Error::from(io::ErrorKind::TimedOut);
                tokio::select! {
                    () = &mut *cut => return Ok(false),
                    writable = timeout(stall, socket.writable()) => writable.map_err(|_| stalled())??,
                }
            }
            Err(error) => return Err(error),
        }
    }
}

/// Returns when the client has closed its side. What it sends is thrown away: there is nothing to ask for on a stream.
async fn gone(socket: &TcpStream) {
    let mut nothing = [0; 256];
    loop {
        if poll_fn(|context| socket.poll_read_ready(context)).await.is_err() {
            return;
        }
        match socket.try_read(&mut nothing) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}
