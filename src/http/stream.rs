//! A stream on a socket of its own. hyper reads the request and the routes answer it; then the socket is taken from hyper,
//! and what the session has goes straight onto it.
//!
//! A stream is most of its life idle, and there are many: hyper's buffers and the routes' futures, kept for as long as the
//! connection, were 11 of 14 KB an idle client. What comes to a live one is mostly a single frame, whose bytes are the same
//! for every client: whoever brings it writes them as they are, with one system call, and the stream's own task sleeps on.

use std::{
    future::poll_fn,
    io,
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, ready},
    time::{Duration, SystemTime},
};

use axum::{
    body::Body,
    http::{HeaderValue, Response, Version, header, request, response},
};
use bytes::{Buf, Bytes};
use tokio::{
    net::TcpStream,
    time::{Instant, sleep_until, timeout},
};

use super::socket::reset_at_end;
use crate::{
    hub::{Item, Outlet},
    lock::lock,
    metrics::METRICS,
    sse::{Framing, Stream, View},
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
        if let Some(streaming) = lock(&self.0).as_mut() {
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
        lock(&self.0).take()
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
    /// The client must not take it for the end, or has taken nothing for too long.
    Cut,
}

/// A client's end: its socket, and what has not gone out yet. Entries come to it from whoever has them first.
struct Client {
    socket: TcpStream,
    view: View,
    out: Mutex<Out>,
}

struct Out {
    /// What has not gone out, at first the head of the answer. Until it has, everything else goes behind it.
    rest: Bytes,
    wrote: Instant,
}

impl Outlet for Client {
    fn take(&self, items: &[Arc<Item>]) -> bool {
        self.write(self.view.show(items, true))
    }
}

impl Client {
    fn out(&self) -> MutexGuard<'_, Out> {
        lock(&self.out)
    }

    fn wrote(&self) -> Instant {
        self.out().wrote
    }

    /// Writes what the socket takes and keeps the rest. `false`: there is something to flush.
    fn write(&self, bytes: Bytes) -> bool {
        let mut out = self.out();
        if bytes.is_empty() {
            // Nothing to add to what there is.
        } else if !out.rest.is_empty() {
            out.rest = [&out.rest[..], &bytes].concat().into();
        } else {
            // An error is met again by whoever flushes.
            let sent = self.socket.try_write(&bytes).unwrap_or(0);
            out.wrote = Instant::now();
            if sent < bytes.len() {
                out.rest = bytes.slice(sent..);
            }
        }
        out.rest.is_empty()
    }

    /// Writes what is left, unless the stream is to be cut: then `true`.
    ///
    /// In a box: it is rare, and every client that waits would keep room for its timer.
    fn flush_unless<'a>(
        &'a self,
        cut: &'a mut Cut,
        stall: Duration,
    ) -> Pin<Box<impl Future<Output = io::Result<bool>> + Send + 'a>> {
        Box::pin(async move {
            tokio::select! {
                biased;
                () = cut => Ok(true),
                flushed = self.flush(stall) => flushed.map(|()| false),
            }
        })
    }

    /// Writes what is left. Dropping the future loses nothing.
    async fn flush(&self, stall: Duration) -> io::Result<()> {
        while !self.write_rest()? {
            let stalled = |_| io::Error::from(io::ErrorKind::TimedOut);
            timeout(stall, self.socket.writable()).await.map_err(stalled)??;
        }
        Ok(())
    }

    fn write_rest(&self) -> io::Result<bool> {
        let mut out = self.out();
        while !out.rest.is_empty() {
            match self.socket.try_write(&out.rest) {
                Ok(sent) => out.rest.advance(sent),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
            out.wrote = Instant::now();
        }
        // Empty, it would still hold its memory.
        out.rest = Bytes::new();
        Ok(true)
    }
}

/// Writes a stream to its socket until one of them ends; `held` is dropped then.
///
/// Not an `async fn`, which would keep its arguments twice: a client that waits is this future and little else.
pub fn run<H: Send>(socket: TcpStream, taken: Taken, pace: Pace, held: H) -> impl Future<Output = ()> + Send + use<H> {
    let Taken { head, streaming: Streaming { mut stream, mut cut } } = taken;
    // An open stream has something to say at once: its head goes out with that.
    let out = Mutex::new(Out { rest: head.into(), wrote: Instant::now() });
    let client = Arc::new(Client { socket, view: stream.view().clone(), out });
    stream.deliver_to(client.clone());
    async move {
        let _held = held;
        let end = match write(&client, &mut stream, &mut cut, &pace).await {
            Ok(end) => end,
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                METRICS.slow_cuts.add(1);
                End::Cut
            }
            Err(error) => {
                tracing::trace!(%error, "a stream's client is gone");
                End::Gone
            }
        };
        if let End::Cut = end {
            // Chunked, the missing last chunk shows it; a reset shows it to everyone.
            reset_at_end(&client.socket);
        }
    }
}

async fn write(client: &Client, stream: &mut Stream, cut: &mut Cut, pace: &Pace) -> io::Result<End> {
    let mut beat = pin!(sleep_until(client.wrote() + pace.heartbeat));
    loop {
        // One for all heartbeats that fall into it: begun anew, a read of the store that takes longer than the pause
        // between two would never end, and nobody would count for how long there has been none.
        let mut next = pin!(stream.next());
        let piece = loop {
            tokio::select! {
                biased;
                () = &mut *cut => return Ok(End::Cut),
                piece = &mut next => break piece,
                () = poll_fn(|context| poll_gone(&client.socket, context)) => return Ok(End::Gone),
                () = &mut beat => {}
            }
            // Counted from the last write: entries that the filter drops must not put the heartbeat off.
            let due = client.wrote() + pace.heartbeat;
            if due > Instant::now() {
                beat.as_mut().reset(due);
                continue;
            }
            beat.as_mut().reset(Instant::now() + pace.heartbeat);
            if !client.write(client.view.heartbeat()) && client.flush_unless(cut, pace.stall).await? {
                return Ok(End::Cut);
            }
        };
        let piece = match piece {
            Some(Ok(piece)) => piece,
            Some(Err(_)) => return Ok(End::Cut),
            None => return Ok(End::Done),
        };
        if !client.write(piece) && client.flush_unless(cut, pace.stall).await? {
            return Ok(End::Cut);
        }
    }
}

/// Ready when the client has closed its side. What it sends is thrown away: there is nothing to ask for on a stream.
fn poll_gone(socket: &TcpStream, context: &mut Context<'_>) -> Poll<()> {
    let mut nothing = [0; 256];
    loop {
        if ready!(socket.poll_read_ready(context)).is_err() {
            return Poll::Ready(());
        }
        match socket.try_read(&mut nothing) {
            Ok(0) => return Poll::Ready(()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return Poll::Ready(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncReadExt, net::TcpListener};

    use super::*;
    use crate::{
        hub::{
            Hub, Start,
            scripted::{Script, Scripted},
        },
        id::Lane,
        sse::{Filter, Format},
    };

    async fn sockets() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (listener.accept().await.unwrap().0, peer)
    }

    /// A stream of this hub's session, on its way to a peer.
    async fn streaming(
        hub: &Arc<Hub>,
        start: Start,
        heartbeat: Duration,
    ) -> (impl Future<Output = ()> + Send + use<>, TcpStream) {
        let follower = hub.follow(&"s".parse().unwrap(), Lane::Events, start).await.unwrap();
        let stream = Stream::open(follower, Filter::default(), Format::Event, start == Start::Now, false)
            .await
            .unwrap()
            .unwrap();
        let streaming = Streaming { stream, cut: Box::pin(std::future::pending()) };
        let asked = Asked { version: Version::HTTP_11, wants_body: true };
        let taken = Taken::new(&asked, &Response::new(()).into_parts().0, streaming);
        let pace = Pace { heartbeat, stall: Duration::from_secs(60) };
        let (socket, peer) = sockets().await;
        (run(socket, taken, pace, ()), peer)
    }

    /// What an idle client takes is mostly this. On 64 bits it was 1.5 KB, with no more to keep.
    #[tokio::test]
    async fn a_client_that_waits_is_small() {
        let (_store, hub) = Scripted::new();
        let (run, _peer) = streaming(&hub, Start::Now, Duration::from_secs(9)).await;
        let size = size_of_val(&run);
        assert!(size <= 640, "{size} bytes");
    }

    /// More than a ring and the first page hold.
    fn history(script: &mut Script) {
        script.append(5, 600, 100);
    }

    #[tokio::test(start_paused = true)]
    async fn heartbeats_put_no_end_off_that_is_due_for_want_of_a_store() {
        let (store, hub) = Scripted::new();
        store.set(history);
        let (run, mut peer) = streaming(&hub, Start::Beginning, Duration::from_secs(15)).await;
        store.set(|script| script.is_away = true);
        timeout(Duration::from_secs(45), run).await.expect("a stream that is given up");
        let mut come = Vec::new();
        let cut = peer.read_to_end(&mut come).await.expect_err("no end");
        assert_eq!(cut.kind(), io::ErrorKind::ConnectionReset);
        assert!(come.ends_with(b":\n\r\n"), "{}", String::from_utf8_lossy(&come));
    }

    #[tokio::test(start_paused = true)]
    async fn a_page_may_take_longer_than_the_pause_between_heartbeats() {
        let (store, hub) = Scripted::new();
        store.set(history);
        let (run, mut peer) = streaming(&hub, Start::Beginning, Duration::from_secs(1)).await;
        store.set(|script| script.takes = Duration::from_secs(5));
        let running = tokio::spawn(run);
        let mut come = Vec::new();
        let all = async {
            while !String::from_utf8_lossy(&come).contains("caught-up") {
                assert_ne!(peer.read_buf(&mut come).await.unwrap(), 0);
            }
        };
        timeout(Duration::from_secs(600), all).await.expect("all in time");
        running.abort();
        let come = String::from_utf8_lossy(&come);
        assert_eq!(come.matches("\nid: ").count(), 600);
        assert!(come.contains(":\n\r\n"));
    }

    #[tokio::test]
    async fn what_has_gone_out_is_let_go() {
        let (socket, mut peer) = sockets().await;
        let out = Mutex::new(Out { rest: Bytes::from(b"head".to_vec()), wrote: Instant::now() });
        let client = Client { socket, view: View::default(), out };
        assert!(!client.write(Bytes::from_static(b"news")), "the head comes first");
        client.flush(Duration::from_secs(9)).await.unwrap();
        let mut come = [0; 8];
        peer.read_exact(&mut come).await.unwrap();
        assert_eq!(&come, b"headnews");
        // Whoever is the only owner of memory has some.
        assert!(!client.out().rest.is_unique());
    }
}
