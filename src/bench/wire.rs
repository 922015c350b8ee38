//! HTTP/1.1 and server-sent events by hand, for load alone: it expects what a gateway sends and nothing else.

use std::time::{Duration, Instant};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::{BenchError, Dialect, Target, reading::Came, target::Socket};

/// How long a gateway may take to begin a stream, to take a piece of a body, or to answer one that has ended.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How long a history may pause while it is read.
const SILENCE: Duration = Duration::from_secs(20);

/// A kept-alive connection with one request at a time.
pub struct Connection {
    target: Target,
    socket: Socket,
    buffer: Vec<u8>,
    room: Room,
    out: Vec<u8>,
}

/// An answer.
pub struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
    /// Where the next page of a Durable Stream begins, if there is one.
    pub next: Option<String>,
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
    next: Option<String>,
}

impl Connection {
    pub async fn open(target: &Target) -> Result<Self, BenchError> {
        let socket = target.connect().await?;
        Ok(Connection { target: target.clone(), socket, buffer: Vec::new(), room: Room::default(), out: Vec::new() })
    }

    /// Offers the peer hardly any room for what nobody reads.
    pub fn shrink(&self) -> Result<(), BenchError> {
        self.socket.tcp().set_recv_buffer_size(4096)?;
        Ok(())
    }

    /// One request and its answer.
    pub async fn request(
        &mut self,
        method: &str,
        path: &str,
        content_type: &str,
        body: &[u8],
    ) -> Result<Answer, BenchError> {
        self.send_request(method, path, content_type, "", body).await
    }

    /// POSTs an event with its number, as an idempotent producer does.
    pub async fn numbered(
        &mut self,
        path: &str,
        content_type: &str,
        seq: u64,
        body: &[u8],
    ) -> Result<Answer, BenchError> {
        let producer = format!("producer-id: bench\r\nproducer-epoch: 0\r\nproducer-seq: {seq}\r\n");
        self.send_request("POST", path, content_type, &producer, body).await
    }

    async fn send_request(
        &mut self,
        method: &str,
        path: &str,
        content_type: &str,
        producer: &str,
        body: &[u8],
    ) -> Result<Answer, BenchError> {
        let length = body.len();
        let more = format!("content-type: {content_type}\r\n{producer}content-length: {length}\r\n\r\n");
        self.out.clear();
        self.out.extend_from_slice(self.target.head(method, path, &more).as_bytes());
        self.out.extend_from_slice(body);
        self.socket.write_all(&self.out).await?;
        self.socket.flush().await?;
        self.answer().await
    }

    /// Leaves the system little room for what nobody has read yet: two hundred senders that are faster than the gateway would
    /// else give it far more than it can take while they are measured.
    pub fn shorten(&self) -> Result<(), BenchError> {
        self.socket.tcp().set_send_buffer_size(64 * 1024)?;
        Ok(())
    }

    /// Begins a body without a known end. [`send`](Self::send) its pieces, then [`finish`](Self::finish).
    pub async fn begin(&mut self, method: &str, path: &str, content_type: &str) -> Result<(), BenchError> {
        let more = format!("content-type: {content_type}\r\ntransfer-encoding: chunked\r\n\r\n");
        self.socket.write_all(self.target.head(method, path, &more).as_bytes()).await?;
        Ok(())
    }

    /// Sends a piece of it, unless the gateway takes nothing for too long.
    pub async fn send(&mut self, piece: &[u8]) -> Result<(), BenchError> {
        self.out.clear();
        self.out.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        self.out.extend_from_slice(piece);
        self.out.extend_from_slice(b"\r\n");
        let late = |_| BenchError::Missing(format!("the gateway has taken nothing of a body for {PATIENCE:?}"));
        timeout(PATIENCE, self.socket.write_all(&self.out)).await.map_err(late)??;
        Ok(())
    }

    /// Ends a body, and waits for its answer.
    pub async fn finish(&mut self, patience: Duration) -> Result<Answer, BenchError> {
        let late = || {
            BenchError::Missing(format!("the gateway has not answered a body within {patience:.0?}: it may be frozen"))
        };
        let ended = async {
            self.socket.write_all(b"0\r\n\r\n").await?;
            self.socket.flush().await?;
            self.answer().await
        };
        timeout(patience, ended).await.map_err(|_| late())?
    }

    /// Why a body was refused before its end, if the gateway has said so.
    pub async fn refusal(&mut self, what: &str) -> Option<BenchError> {
        timeout(Duration::from_secs(1), self.answer()).await.ok()?.ok()?.ok(what).err()
    }

    /// Follows a lane from a cursor, or from its start.
    pub async fn follow(self, path: &str, last: Option<&str>) -> Result<Frames, BenchError> {
        let late = |_| {
            let advice = "it may be frozen, or out of descriptors (ulimit -n): a client takes one";
            BenchError::Missing(format!("GET {path}: the gateway has not answered within {PATIENCE:?}; {advice}"))
        };
        timeout(PATIENCE, self.begin_stream(path, last)).await.map_err(late)?
    }

    async fn begin_stream(mut self, path: &str, last: Option<&str>) -> Result<Frames, BenchError> {
        let last = last.map(|id| format!("last-event-id: {id}\r\n")).unwrap_or_default();
        let more = format!("accept: text/event-stream\r\n{last}\r\n");
        self.socket.write_all(self.target.head("GET", path, &more).as_bytes()).await?;
        self.socket.flush().await?;
        let head = self.read_head().await?;
        if head.status != 200 || head.length.is_some() {
            let what = format!("GET {path}");
            let answer = self.rest(head).await?.ok(&what)?;
            return Err(BenchError::Unreadable(format!("{what}: {} and no stream", answer.status)));
        }
        let mut frames = Frames {
            dialect: self.target.dialect,
            socket: self.socket,
            raw: self.buffer,
            room: self.room,
            chunks: head.chunked.then(Chunks::default),
            text: Vec::new(),
            fresh: true,
        };
        // What came together with the head.
        frames.join()?;
        Ok(frames)
    }

    async fn answer(&mut self) -> Result<Answer, BenchError> {
        let head = self.read_head().await?;
        self.rest(head).await
    }

    async fn rest(&mut self, head: Head) -> Result<Answer, BenchError> {
        let body = if head.chunked {
            let (mut chunks, mut body) = (Chunks::default(), Vec::new());
            chunks.join(&mut self.buffer, &mut body)?;
            while !chunks.ended {
                self.fill().await?;
                chunks.join(&mut self.buffer, &mut body)?;
            }
            body
        } else {
            let length = head.length.unwrap_or(0);
            while self.buffer.len() < length {
                self.fill().await?;
            }
            self.buffer.drain(..length).collect()
        };
        Ok(Answer { status: head.status, body, next: head.next })
    }

    async fn fill(&mut self) -> Result<(), BenchError> {
        if self.room.read(&mut self.socket, &mut self.buffer).await? == 0 {
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
            let up_to_date = value("stream-up-to-date").is_some();
            let head = Head {
                status: response.code.unwrap_or(0),
                length: value("content-length").and_then(|v| v.parse().ok()),
                chunked: value("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked")),
                next: value("stream-next-offset").filter(|_| !up_to_date).map(str::to_owned),
            };
            self.buffer.drain(..size);
            return Ok(head);
        }
    }
}

/// What comes on a stream.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// An event of the session.
    Event(Came<'a>),
    /// History is done, what follows is live.
    Live,
}

/// A stream of server-sent events.
pub struct Frames {
    dialect: Dialect,
    socket: Socket,
    /// As it came, with chunk sizes between.
    raw: Vec<u8>,
    room: Room,
    /// Without, the body is as it comes, until the connection ends.
    chunks: Option<Chunks>,
    /// Without the chunk sizes.
    text: Vec<u8>,
    /// `text` has something that nobody has looked at.
    fresh: bool,
}

impl Frames {
    /// Waits for bytes and gives all complete frames among them to `each`. `false`: the stream has ended.
    pub async fn read(&mut self, mut each: impl FnMut(Frame<'_>)) -> Result<bool, BenchError> {
        if !std::mem::take(&mut self.fresh) {
            let ended = self.chunks.as_ref().is_some_and(|chunks| chunks.ended);
            if ended || self.room.read(&mut self.socket, &mut self.raw).await? == 0 {
                return Ok(false);
            }
            self.join()?;
        }
        let mut taken = 0;
        while let Some(length) = memchr::memmem::find(&self.text[taken..], b"\n\n") {
            let frame = &self.text[taken..taken + length];
            taken += length + 2;
            if self.dialect.read(frame, &mut |event| each(Frame::Event(event))) {
                each(Frame::Live);
            }
        }
        self.text.drain(..taken);
        Ok(true)
    }

    /// Reads until history is over, and gives its events to `each`.
    pub async fn until_live(&mut self, mut each: impl FnMut(Came<'_>)) -> Result<(), BenchError> {
        let (mut live, mut heard) = (false, Instant::now());
        while !live {
            // Heartbeats are no history.
            let mut some = false;
            self.more(|frame| match frame {
                Frame::Event(came) => {
                    some = true;
                    each(came);
                }
                Frame::Live => live = true,
            })
            .await?;
            if some {
                heard = Instant::now();
            } else if !live && heard.elapsed() > SILENCE {
                let why = format!("a stream has neither gone on nor caught up for {SILENCE:?}");
                return Err(BenchError::Missing(why));
            }
        }
        Ok(())
    }

    /// As [`read`](Self::read), of a history that must go on.
    pub async fn more(&mut self, each: impl FnMut(Frame<'_>)) -> Result<(), BenchError> {
        let missing = |what: &str| BenchError::Missing(format!("a stream {what} before it had caught up"));
        let open = timeout(SILENCE, self.read(each)).await.map_err(|_| missing("fell silent"))??;
        open.then_some(()).ok_or_else(|| missing("ended"))
    }

    fn join(&mut self) -> Result<(), BenchError> {
        match &mut self.chunks {
            Some(chunks) => chunks.join(&mut self.raw, &mut self.text),
            None => {
                self.text.append(&mut self.raw);
                Ok(())
            }
        }
    }

    /// What the stream speaks.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }
}

/// How much room a connection's next read gets: little, for there are thousands of them, until one has filled it.
struct Room(usize);

impl Default for Room {
    fn default() -> Self {
        Room(1024)
    }
}

impl Room {
    async fn read(&mut self, socket: &mut Socket, buffer: &mut Vec<u8>) -> std::io::Result<usize> {
        buffer.reserve(self.0);
        let count = socket.read_buf(buffer).await?;
        if count >= self.0 {
            self.0 = (self.0 * 4).min(256 * 1024);
        }
        Ok(count)
    }
}

/// Where one is in a chunked body.
#[derive(Default)]
struct Chunks {
    /// What is still to come of the chunk under way, with the line break behind it.
    left: usize,
    /// The chunk under way is the last one, which is empty.
    last: bool,
    /// All has come.
    ended: bool,
}

impl Chunks {
    /// Moves what is there of chunks from `raw` to `text`.
    fn join(&mut self, raw: &mut Vec<u8>, text: &mut Vec<u8>) -> Result<(), BenchError> {
        let mut at = 0;
        loop {
            if self.left > 2 {
                let piece = (self.left - 2).min(raw.len() - at);
                text.extend_from_slice(&raw[at..at + piece]);
                (at, self.left) = (at + piece, self.left - piece);
                if self.left > 2 {
                    break;
                }
            }
            // The line break behind a chunk, then the size of the next.
            let skip = self.left.min(raw.len() - at);
            (at, self.left) = (at + skip, self.left - skip);
            self.ended = self.last && self.left == 0;
            if self.left > 0 || self.ended {
                break;
            }
            let Some(end) = memchr::memmem::find(&raw[at..], b"\r\n") else { break };
            let size = std::str::from_utf8(&raw[at..at + end]).ok().and_then(|s| usize::from_str_radix(s, 16).ok());
            let size = size.ok_or_else(|| BenchError::Unreadable("a chunk without a size".into()))?;
            at += end + 2;
            self.left = size + 2;
            self.last = size == 0;
        }
        raw.drain(..at);
        Ok(())
    }
}
