//! HTTP/1.1 and server-sent events by hand, for load alone: it expects what a gateway sends and nothing else.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::BenchError;

/// A gateway to load.
#[derive(Debug, Clone)]
pub struct Target {
    addr: SocketAddr,
    host: String,
    token: Option<String>,
}

impl Target {
    /// From `http://host:port`.
    pub async fn resolve(url: &str, token: Option<String>) -> Result<Self, BenchError> {
        let unreadable = || BenchError::Unreadable(format!("{url:?} is no http://host:port"));
        let host = url.strip_prefix("http://").ok_or_else(unreadable)?.trim_end_matches('/');
        let with_port = if host.contains(':') { host.to_owned() } else { format!("{host}:80") };
        let addr = tokio::net::lookup_host(with_port).await?.next().ok_or_else(unreadable)?;
        Ok(Target { addr, host: host.to_owned(), token })
    }

    /// Whether it is on this machine.
    pub fn is_loopback(&self) -> bool {
        self.addr.ip().is_loopback()
    }

    fn head(&self, method: &str, path: &str, more: &str) -> String {
        let token = self.token.as_ref().map(|token| format!("authorization: Bearer {token}\r\n")).unwrap_or_default();
        format!("{method} {path} HTTP/1.1\r\nhost: {}\r\n{token}{more}", self.host)
    }
}

/// A kept-alive connection with one request at a time.
pub struct Connection {
    target: Target,
    socket: TcpStream,
    buffer: Vec<u8>,
    out: Vec<u8>,
}

/// An answer.
pub struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
}

impl Answer {
    /// The answer if it is a 2xx.
    pub fn ok(self, what: &str) -> Result<Self, BenchError> {
        if (200..300).contains(&self.status) {
            return Ok(self);
        }
        let body = String::from_utf8_lossy(&self.body).chars().take(300).collect();
        Err(BenchError::Status { what: what.into(), status: self.status, body })
    }
}

struct Head {
    status: u16,
    length: Option<usize>,
    chunked: bool,
}

impl Connection {
    pub async fn open(target: &Target) -> Result<Self, BenchError> {
        let socket = TcpStream::connect(target.addr).await?;
        socket.set_nodelay(true)?;
        Ok(Connection { target: target.clone(), socket, buffer: Vec::new(), out: Vec::new() })
    }

    /// One request and its answer.
    pub async fn request(
        &mut self,
        method: &str,
        path: &str,
        content_type: &str,
        body: &[u8],
    ) -> Result<Answer, BenchError> {
        let more = format!("content-type: {content_type}\r\ncontent-length: {}\r\n\r\n", body.len());
        self.out.clear();
        self.out.extend_from_slice(self.target.head(method, path, &more).as_bytes());
        self.out.extend_from_slice(body);
        self.socket.write_all(&self.out).await?;
        self.answer().await
    }

    /// Begins a body without a known end. [`send`](Self::send) its pieces, then [`finish`](Self::finish).
    pub async fn begin(&mut self, method: &str, path: &str, content_type: &str) -> Result<(), BenchError> {
        let more = format!("content-type: {content_type}\r\ntransfer-encoding: chunked\r\n\r\n");
        self.socket.write_all(self.target.head(method, path, &more).as_bytes()).await?;
        Ok(())
    }

    pub async fn send(&mut self, piece: &[u8]) -> Result<(), BenchError> {
        self.out.clear();
        self.out.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        self.out.extend_from_slice(piece);
        self.out.extend_from_slice(b"\r\n");
        self.socket.write_all(&self.out).await?;
        Ok(())
    }

    pub async fn finish(&mut self) -> Result<Answer, BenchError> {
        self.socket.write_all(b"0\r\n\r\n").await?;
        self.answer().await
    }

    /// Follows a lane from a cursor, or from its start.
    pub async fn follow(mut self, path: &str, last: Option<&str>) -> Result<Frames, BenchError> {
        let last = last.map(|id| format!("last-event-id: {id}\r\n")).unwrap_or_default();
        let more = format!("accept: text/event-stream\r\n{last}\r\n");
        self.socket.write_all(self.target.head("GET", path, &more).as_bytes()).await?;
        let head = self.read_head().await?;
        if head.status != 200 || !head.chunked {
            return Err(BenchError::Status { what: format!("GET {path}"), status: head.status, body: String::new() });
        }
        let mut frames = Frames {
            socket: self.socket,
            raw: self.buffer,
            chunk_left: 0,
            text: Vec::new(),
            fresh: false,
            ended: false,
        };
        // What came together with the head.
        frames.unchunk()?;
        frames.fresh = true;
        Ok(frames)
    }

    async fn answer(&mut self) -> Result<Answer, BenchError> {
        let head = self.read_head().await?;
        let length = head.length.unwrap_or(0);
        while self.buffer.len() < length {
            self.fill().await?;
        }
        let body = self.buffer.drain(..length).collect();
        Ok(Answer { status: head.status, body })
    }

    async fn fill(&mut self) -> Result<(), BenchError> {
        if self.socket.read_buf(&mut self.buffer).await? == 0 {
            return Err(BenchError::Missing("the gateway closed the connection".into()));
        }
        Ok(())
    }

    async fn read_head(&mut self) -> Result<Head, BenchError> {
        loop {
            let mut headers = [httparse::EMPTY_HEADER; 32];
            let mut response = httparse::Response::new(&mut headers);
            let parsed = response.parse(&self.buffer).map_err(|e| BenchError::Unreadable(e.to_string()))?;
            let httparse::Status::Complete(size) = parsed else {
                self.fill().await?;
                continue;
            };
            let value = |name: &str| {
                let header = response.headers.iter().find(|h| h.name.eq_ignore_ascii_case(name))?;
                std::str::from_utf8(header.value).ok()
            };
            let head = Head {
                status: response.code.unwrap_or(0),
                length: value("content-length").and_then(|v| v.parse().ok()),
                chunked: value("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked")),
            };
            self.buffer.drain(..size);
            return Ok(head);
        }
    }
}

/// What comes on a stream.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// An entry of the log: its id and its payload.
    Entry(&'a [u8], &'a [u8]),
    /// A frame of the gateway's own: its name.
    Named(&'a [u8]),
}

/// A stream of server-sent events.
pub struct Frames {
    socket: TcpStream,
    /// As it came, with chunk sizes between.
    raw: Vec<u8>,
    /// What is still to come of the chunk under way.
    chunk_left: usize,
    /// Without the chunk sizes.
    text: Vec<u8>,
    /// `text` has something that nobody has looked at.
    fresh: bool,
    /// The last chunk has come.
    ended: bool,
}

impl Frames {
    /// Waits for bytes and gives all complete frames among them to `each`. `false`: the stream has ended.
    pub async fn read(&mut self, mut each: impl FnMut(Frame<'_>)) -> Result<bool, BenchError> {
        if !std::mem::take(&mut self.fresh) {
            if self.ended || self.socket.read_buf(&mut self.raw).await? == 0 {
                return Ok(false);
            }
            self.unchunk()?;
        }
        let mut taken = 0;
        while let Some(length) = memchr::memmem::find(&self.text[taken..], b"\n\n") {
            let frame = &self.text[taken..taken + length];
            taken += length + 2;
            let (mut id, mut event, mut data) = (None, None, &b""[..]);
            for line in frame.split(|b| *b == b'\n') {
                if let Some(value) = line.strip_prefix(b"data: ") {
                    data = value;
                } else if let Some(value) = line.strip_prefix(b"id: ") {
                    id = Some(value);
                } else if let Some(value) = line.strip_prefix(b"event: ") {
                    event = Some(value);
                }
            }
            match (event, id) {
                (Some(name), _) => each(Frame::Named(name)),
                (None, Some(id)) => each(Frame::Entry(id, data)),
                (None, None) => {}
            }
        }
        self.text.drain(..taken);
        Ok(true)
    }

    /// Moves what is there of chunks from `raw` to `text`.
    fn unchunk(&mut self) -> Result<(), BenchError> {
        let mut at = 0;
        loop {
            if self.chunk_left > 2 {
                let piece = (self.chunk_left - 2).min(self.raw.len() - at);
                self.text.extend_from_slice(&self.raw[at..at + piece]);
                (at, self.chunk_left) = (at + piece, self.chunk_left - piece);
                if self.chunk_left > 2 {
                    break;
                }
            }
            // The line break behind a chunk, then the size of the next.
            let skip = self.chunk_left.min(self.raw.len() - at);
            (at, self.chunk_left) = (at + skip, self.chunk_left - skip);
            if self.chunk_left > 0 {
                break;
            }
            let Some(end) = memchr::memmem::find(&self.raw[at..], b"\r\n") else { break };
            let size =
                std::str::from_utf8(&self.raw[at..at + end]).ok().and_then(|s| usize::from_str_radix(s, 16).ok());
            let size = size.ok_or_else(|| BenchError::Unreadable("a chunk without a size".into()))?;
            at += end + 2;
            self.chunk_left = size + 2;
            if size == 0 {
                self.ended = true;
                break;
            }
        }
        self.raw.drain(..at);
        Ok(())
    }
}
