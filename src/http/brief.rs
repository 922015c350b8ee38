//! Requests that come whole: a POST whose head and body, both small, are there with the first read, as nearly every append
//! is. They are answered here, by the same routes as all others, in one write.
//!
//! hyper is made for every request that there can be: it keeps a buffer for what may follow, drives the body apart from its
//! handler, watches the peer meanwhile. For a request of a few hundred bytes that costs more than all that Moorline does
//! with it (docs/benchmarks/README.md). So a connection begins here, and goes over to hyper for good, with the bytes that
//! were read, as soon as anything else comes: another method, half a request, two at once, a body without a length, a head
//! that is not sound. Only what is certain to be understood as hyper understands it stays.

use std::{
    cell::RefCell,
    future::poll_fn,
    io::{self, Write as _},
    mem::MaybeUninit,
    pin::{Pin, pin},
    task::{Poll, ready},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, header, response::Parts},
    response::Response,
};
use bytes::{BufMut, Bytes};
use http_body_util::BodyExt;
use tokio::{
    io::{AsyncRead, ReadBuf},
    net::TcpStream,
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tower_service::Service as _;

use super::{auth::hide_token, observe::Observed, socket::reset_at_end};

/// Bytes of a request, head and body: what one read takes.
const REQUEST: usize = 4096;
/// Headers of a request.
const HEADERS: usize = 32;

/// The bounds of a connection.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// How long it may rest before its first request and between requests.
    pub idle: Duration,
    /// A client that takes nothing for so long is cut.
    pub stall: Duration,
    /// Headers in a request.
    pub headers: usize,
}

/// What becomes of a connection.
pub enum Next {
    /// It has ended.
    Ended,
    /// Something else has come, with these bytes of it.
    Other(Bytes),
}

/// What a connection was waited for.
enum Came {
    /// None: the client has closed.
    Bytes(Bytes),
    /// The gateway is to end.
    Stop,
    /// It has rested for too long.
    Nothing,
}

/// Answers the requests of a connection for as long as they come whole.
pub async fn serve(
    tcp: &mut TcpStream,
    routes: &mut Observed<Router>,
    bounds: Bounds,
    mut stop: watch::Receiver<bool>,
) -> io::Result<Next> {
    let mut stopped = pin!(async move { drop(stop.wait_for(|stop| *stop).await) });
    let mut idle = pin!(sleep(bounds.idle));
    let (mut rests_since, mut served) = (Instant::now(), false);
    loop {
        let came = poll_fn(|context| {
            if let Poll::Ready(read) = poll_read(tcp, context) {
                return Poll::Ready(read.map(Came::Bytes));
            }
            if stopped.as_mut().poll(context).is_ready() {
                return Poll::Ready(Ok(Came::Stop));
            }
            loop {
                ready!(idle.as_mut().poll(context));
                // It is set anew only when it is over, not at every request.
                let left = bounds.idle.saturating_sub(rests_since.elapsed());
                if left.is_zero() {
                    return Poll::Ready(Ok(Came::Nothing));
                }
                idle.set(sleep(left));
            }
        });
        let bytes = match came.await? {
            Came::Bytes(bytes) if !bytes.is_empty() => bytes,
            // hyper knows how long to wait for the first request of a connection that the kernel has accepted.
            Came::Stop if !served => return Ok(Next::Other(Bytes::new())),
            Came::Bytes(_) | Came::Stop | Came::Nothing => return Ok(Next::Ended),
        };
        let Some(request) = whole(&bytes, bounds.headers) else { return Ok(Next::Other(bytes)) };
        // The headers hold parts of it.
        drop(bytes);
        // Routes are always ready.
        let Ok(answer) = routes.call(hide_token(request)).await;
        let ends = closes(answer.headers());
        let answer = written(answer).await?;
        write_all(tcp, &answer, bounds.stall).await?;
        if ends {
            return Ok(Next::Ended);
        }
        (rests_since, served) = (Instant::now(), true);
    }
}

async fn write_all(socket: &TcpStream, mut bytes: &[u8], stall: Duration) -> io::Result<()> {
    while !bytes.is_empty() {
        match socket.try_write(bytes) {
            Ok(sent) => bytes = &bytes[sent..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let stalled = |_| {
                    reset_at_end(socket);
                    io::Error::from(io::ErrorKind::TimedOut)
                };
                timeout(stall, socket.writable()).await.map_err(stalled)??;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads what is there, up to a request's worth.
fn poll_read(tcp: &mut TcpStream, context: &mut std::task::Context<'_>) -> Poll<io::Result<Bytes>> {
    // On the stack: connections at rest hold no buffer.
    let mut room = [const { MaybeUninit::uninit() }; REQUEST];
    let mut room = ReadBuf::uninit(&mut room);
    ready!(Pin::new(tcp).poll_read(context, &mut room))?;
    Poll::Ready(Ok(Bytes::copy_from_slice(room.filled())))
}

/// The request, if it is all of these bytes, and nothing about it is unusual.
fn whole(bytes: &Bytes, headers_max: usize) -> Option<Request<Body>> {
    let mut space = [httparse::EMPTY_HEADER; HEADERS];
    let mut head = httparse::Request::new(&mut space);
    let Ok(httparse::Status::Complete(body_at)) = head.parse(bytes) else { return None };
    if head.method != Some("POST") || head.version != Some(1) || head.headers.len() > headers_max {
        return None;
    }
    let path = head.path.filter(|path| path.starts_with('/'))?;
    let uri = Uri::from_maybe_shared(bytes.slice_ref(path.as_bytes())).ok()?;
    let mut headers = HeaderMap::with_capacity(head.headers.len());
    let mut length = None;
    for given in head.headers.iter() {
        let name = HeaderName::from_bytes(given.name.as_bytes()).ok()?;
        match name {
            header::CONTENT_LENGTH if length.is_some() => return None,
            header::CONTENT_LENGTH => length = Some(number(given.value)?),
            header::CONNECTION if given.value.eq_ignore_ascii_case(b"keep-alive") => {}
            header::CONNECTION | header::TRANSFER_ENCODING | header::EXPECT | header::UPGRADE | header::TE => {
                return None;
            }
            _ => {}
        }
        headers.append(name, HeaderValue::from_maybe_shared(bytes.slice_ref(given.value)).ok()?);
    }
    if bytes.len() - body_at != length? {
        return None;
    }
    let mut request = Request::new(Body::from(bytes.slice(body_at..)));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    Some(request)
}

/// A number in decimal digits and nothing else, small enough to matter here.
fn number(text: &[u8]) -> Option<usize> {
    let digits = (1..=5).contains(&text.len()) && text.iter().all(u8::is_ascii_digit);
    digits.then(|| text.iter().fold(0, |number, digit| 10 * number + usize::from(digit - b'0')))
}

fn closes(headers: &HeaderMap) -> bool {
    headers.get(header::CONNECTION).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"close"))
}

/// An answer as it goes over the wire.
async fn written(answer: Response) -> io::Result<Vec<u8>> {
    let (Parts { status, headers, .. }, body) = answer.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let mut wire = Vec::with_capacity(512 + body.len());
    // Writing to memory does not fail.
    let _ = write!(wire, "HTTP/1.1 {} {}\r\n", status.as_str(), status.canonical_reason().unwrap_or("-"));
    let mut line = |name: &str, value: &[u8]| {
        for piece in [name.as_bytes(), b": ", value, b"\r\n"] {
            wire.put_slice(piece);
        }
    };
    for (name, value) in &headers {
        line(name.as_str(), value.as_bytes());
    }
    if !headers.contains_key(header::CONTENT_LENGTH) && status != StatusCode::NO_CONTENT {
        line("content-length", body.len().to_string().as_bytes());
    }
    with_date(|date| line("date", date.as_bytes()));
    wire.put_slice(b"\r\n");
    wire.put_slice(&body);
    Ok(wire)
}

/// The time as answers tell it, made once a second.
fn with_date(tell: impl FnOnce(&str)) {
    thread_local! {
        static DATE: RefCell<(u64, String)> = const { RefCell::new((0, String::new())) };
    }
    let now = SystemTime::now();
    let second = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    DATE.with_borrow_mut(|(of, date)| {
        if *of != second || date.is_empty() {
            (*of, *date) = (second, httpdate::fmt_http_date(now));
        }
        tell(date);
    });
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WHOLE: &str = "POST /v1/sessions/s/events?agent=a HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\n\
                         Connection: Keep-Alive\r\nX-A: 1\r\nx-a: 2\r\nContent-Length: 10\r\n\r\n{\"data\":1}";

    fn parsed(text: &str) -> Option<Request<Body>> {
        whole(&Bytes::copy_from_slice(text.as_bytes()), HEADERS)
    }

    #[tokio::test]
    async fn a_whole_request_is_taken_as_it_is() {
        let (parts, body) = parsed(WHOLE).expect("a request").into_parts();
        assert_eq!((parts.method, parts.uri.to_string()), (Method::POST, "/v1/sessions/s/events?agent=a".into()));
        assert_eq!(parts.headers.get_all("x-a").iter().collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(parts.headers["content-type"], "application/json");
        assert_eq!(body.collect().await.expect("a body").to_bytes(), r#"{"data":1}"#);
    }

    #[test]
    fn whatever_is_unusual_is_left_to_hyper() {
        let with = |header: &str| WHOLE.replace("X-A: 1", header);
        for (what, text) in [
            ("another method", WHOLE.replace("POST", "GET")),
            ("an older version", WHOLE.replace("HTTP/1.1", "HTTP/1.0")),
            ("no length", WHOLE.replace("Content-Length: 10\r\n", "")),
            ("two lengths", with("Content-Length: 10")),
            ("a signed length", WHOLE.replace("Length: 10", "Length: +10")),
            ("a list of lengths", WHOLE.replace("Length: 10", "Length: 10, 10")),
            ("an endless length", WHOLE.replace("Length: 10", "Length: 18446744073709551626")),
            ("a body that is longer", WHOLE.replace("Length: 10", "Length: 11")),
            ("a body that is shorter", WHOLE.replace("Length: 10", "Length: 9")),
            ("chunks", with("Transfer-Encoding: chunked")),
            ("a question first", with("Expect: 100-continue")),
            ("another protocol", with("Upgrade: websocket")),
            ("trailers", with("TE: trailers")),
            ("the last request", WHOLE.replace("Keep-Alive", "close")),
            ("several orders", WHOLE.replace("Keep-Alive", "keep-alive, x-a")),
            ("an address", WHOLE.replace(" /v1", " http://t/v1")),
            ("a space before a colon", with("Transfer-Encoding : chunked")),
            ("a folded line", with("X-B: 1\r\n Transfer-Encoding: chunked")),
            ("a bare line break", WHOLE.replacen("t\r\n", "t\n\r", 1)),
            ("two at once", WHOLE.repeat(2)),
            ("too many headers", with(&"X-B: 1\r\n".repeat(HEADERS))),
        ] {
            assert!(parsed(&text).is_none(), "{what}");
        }
        assert!(whole(&Bytes::from_static(WHOLE.as_bytes()), 5).is_none(), "more headers than are allowed");
    }

    #[test]
    fn half_a_request_is_left_to_hyper() {
        for end in 0..WHOLE.len() {
            assert!(parsed(&WHOLE[..end]).is_none(), "{end} bytes");
        }
    }

    #[tokio::test]
    async fn a_client_that_takes_nothing_of_its_answer_is_cut_not_closed() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (socket, _) = listener.accept().await.unwrap();
        // More than all buffers on the way hold.
        let answer = vec![b'x'; 64 << 20];
        let written = write_all(&socket, &answer, Duration::from_millis(100)).await;
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::TimedOut);
        drop(socket);
        let cut = tokio::io::copy(&mut peer, &mut tokio::io::sink()).await;
        assert_eq!(cut.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }

    proptest! {
        /// Whatever the bytes are: none or the request that they are, and no panic.
        #[test]
        fn a_body_is_never_cut_or_stretched(change in 0..WHOLE.len(), to in any::<u8>()) {
            let mut bytes = WHOLE.as_bytes().to_vec();
            bytes[change] = to;
            let bytes = Bytes::from(bytes);
            if let Some(request) = whole(&bytes, HEADERS) {
                let length = request.headers()["content-length"].to_str().unwrap().parse::<usize>().unwrap();
                prop_assert_eq!(http_body::Body::size_hint(request.body()).exact(), Some(length as u64));
                // A line may also end with a line feed alone, after a blank say: hyper understands that alike.
                prop_assert_eq!(&bytes[bytes.len() - length - 3..][..3], b"\n\r\n");
            }
        }
    }
}
