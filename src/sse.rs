//! Server-sent events: what goes out to clients, and ([`decode`]) what comes in from agents and gateways.
//!
//! Out goes what every client in use reads alike: LF only, one `data:` line a frame, `id:` on log entries alone, and
//! the gateway's own frames under a name. See `docs/PROTOCOL.md`.

pub mod decode;

use std::{io::Write as _, sync::Arc};

use bytes::Bytes;
use serde_json::json;

use crate::{
    event::Head,
    hub::{Follower, Item, Outlet, Update},
    id::EntryId,
    metrics::{Cut, METRICS},
    store::{Lost, StoreError},
};

/// A comment that keeps idle connections open. One line and a single newline: a blank line after it makes some
/// clients dispatch an empty message.
const HEARTBEAT: &[u8] = b":\n";
/// Ends a chunked body.
const LAST_CHUNK: Bytes = Bytes::from_static(b"0\r\n\r\n");

/// What stands on the data line of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// The whole event.
    #[default]
    Event,
    /// Its `data` alone.
    Data,
}

/// Which entries a client wants. Empty lists want all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of these agents.
    pub agents: Vec<String>,
    /// Of these runs.
    pub runs: Vec<String>,
    /// Of these types.
    pub types: Vec<String>,
    /// What names no agent is for every agent, and what names no run for every run: so it is with commands.
    pub unaddressed: bool,
}

impl Filter {
    /// Whether there is anything to look at.
    pub fn wants_all(&self) -> bool {
        self.agents.is_empty() && self.runs.is_empty() && self.types.is_empty()
    }

    /// Whether an entry is wanted.
    pub fn wants(&self, payload: &[u8]) -> bool {
        if self.wants_all() {
            return true;
        }
        let Some(head) = Head::of(payload) else { return false };
        let among = |list: &[String], value: Option<&str>| {
            let wanted = |value| list.iter().any(|wanted| wanted == value);
            list.is_empty() || value.map_or(self.unaddressed, wanted)
        };
        among(&self.types, Some(head.kind)) && among(&self.agents, head.agent) && among(&self.runs, head.run)
    }
}

/// The frame of an entry as a chunk of an HTTP body, and where the data begins in it.
pub fn chunk(id: EntryId, payload: &[u8], format: Format) -> (Bytes, usize) {
    let mut chunk = Chunk::default();
    let begin = chunk.entry(id, payload, format);
    (chunk.end(Framing::Chunked), begin)
}

/// What stands in a chunk.
fn unframed(chunk: &Bytes) -> Bytes {
    let begin = memchr::memchr(b'\n', chunk).map_or(0, |at| at + 1);
    chunk.slice(begin..chunk.len() - 2)
}

/// How the pieces of a stream stand in the answer's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Framing {
    /// As chunks (RFC 9112, section 7.1).
    #[default]
    Chunked,
    /// As they are, for HTTP/1.0.
    Raw,
}

/// Frames on their way into one chunk.
#[derive(Debug, Default)]
struct Chunk(Vec<u8>);

impl Chunk {
    /// Room for the size of the chunk, which is known at its end: eight digits and a line break.
    const HEAD: usize = 10;

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn begun(&mut self) -> &mut Vec<u8> {
        if self.0.is_empty() {
            self.0.extend_from_slice(b"00000000\r\n");
        }
        &mut self.0
    }

    fn push(&mut self, frame: &[u8]) {
        self.begun().extend_from_slice(frame);
    }

    /// Gives where the data begins.
    fn entry(&mut self, id: EntryId, payload: &[u8], format: Format) -> usize {
        let data = match format {
            Format::Event => payload,
            Format::Data => Head::of(payload).and_then(|h| h.data).map_or("null", |d| d.get()).as_bytes(),
        };
        // A little more than the rest of a chunk of one entry takes.
        self.0.reserve(data.len() + 48);
        let chunk = self.begun();
        // Writing to memory does not fail.
        let _ = write!(chunk, "id: {id}\ndata: ");
        let begin = chunk.len();
        chunk.extend_from_slice(data);
        chunk.extend_from_slice(b"\n\n");
        begin
    }

    /// The bytes for the socket; nothing is left.
    fn end(&mut self, framing: Framing) -> Bytes {
        let mut chunk = std::mem::take(&mut self.0);
        if chunk.is_empty() {
            return Bytes::new();
        }
        if framing == Framing::Raw {
            return Bytes::from(chunk).slice(Self::HEAD..);
        }
        let mut size = chunk.len() - Self::HEAD;
        for digit in chunk[..8].iter_mut().rev() {
            *digit = b"0123456789abcdef"[size & 15];
            size >>= 4;
        }
        chunk.extend_from_slice(b"\r\n");
        chunk.into()
    }
}

/// The opening of a stream: how long a client should wait before it comes back. The jitter spreads out a crowd that
/// was cut at the same time. A part of the frame that follows: a blank line here would be an empty message to
/// fetch-event-source and httpx-sse.
pub fn retry() -> Bytes {
    format!("retry: {}\n", fastrand::u64(500..1500)).into()
}

/// History is done. `id` only for a client that began at `now`: a cut before its first entry loses nothing then.
pub fn caught_up(id: Option<EntryId>) -> Bytes {
    match id {
        Some(id) => format!("event: caught-up\nid: {id}\ndata: {{}}\n\n").into(),
        None => Bytes::from_static(b"event: caught-up\ndata: {}\n\n"),
    }
}

/// What the client holds is not what the log continues.
pub fn reset(reason: Lost, first: Option<EntryId>) -> Bytes {
    format!("event: reset\ndata: {}\n\n", json!({"reason": reason, "first": first})).into()
}

/// The session is closed and has been read to its end.
pub fn closed() -> Bytes {
    Bytes::from_static(b"event: closed\ndata: {}\n\n")
}

/// What a client wants to see of a lane, and how.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// `None`: everything, as nearly all do.
    filter: Option<Arc<Filter>>,
    format: Format,
    framing: Framing,
}

impl View {
    fn wants(&self, payload: &[u8]) -> bool {
        self.filter.as_ref().is_none_or(|filter| filter.wants(payload))
    }

    /// A heartbeat.
    pub fn heartbeat(&self) -> Bytes {
        let mut chunk = Chunk::default();
        chunk.push(HEARTBEAT);
        chunk.end(self.framing)
    }

    /// Entries as bytes of the body: none if the client wants none of them.
    pub fn show(&self, items: &[Arc<Item>], live: bool) -> Bytes {
        // The common case, a single entry: its shared bytes go out as they are.
        if let [item] = items {
            if !self.wants(item.payload()) {
                return Bytes::new();
            }
            METRICS.delivered(std::iter::once(item.id), live);
            let chunk = item.chunk(self.format);
            return match self.framing {
                Framing::Chunked => chunk.clone(),
                Framing::Raw => unframed(chunk),
            };
        }
        let mut chunk = Chunk::default();
        self.add(items, live, &mut chunk);
        chunk.end(self.framing)
    }

    fn add(&self, items: &[Arc<Item>], live: bool, chunk: &mut Chunk) {
        let wanted = items.iter().filter(|item| self.wants(item.payload()));
        let written = wanted.map(|item| {
            chunk.push(&unframed(item.chunk(self.format)));
            item.id
        });
        METRICS.delivered(written, live);
    }
}

/// A stream of one client, as bytes of an answer's body.
pub struct Stream {
    follower: Follower,
    view: View,
    /// The client began at `now`: the first `caught-up` carries its id.
    from_now: bool,
    pending: Chunk,
    /// History is done: what comes is news.
    live: bool,
    state: State,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Open,
    /// The session is closed, and that was said.
    Closed,
    Ended,
}

impl Stream {
    /// Reads up to the first update that the client is to see. `None`: the session is closed, and a client that
    /// resumed has all that it wants of it. An error means that the store could not be asked.
    pub async fn open(
        follower: Follower,
        filter: Filter,
        format: Format,
        from_now: bool,
        resumed: bool,
    ) -> Result<Option<Self>, StoreError> {
        let mut pending = Chunk::default();
        pending.push(&retry());
        let head = pending.0.len();
        let filter = (!filter.wants_all()).then(|| Arc::new(filter));
        let view = View { filter, format, framing: Framing::default() };
        let mut stream = Stream { follower, view, from_now, pending, live: false, state: State::Open };
        // Entries that the filter drops say nothing to the client: a closed session may have nothing but those left.
        let mut caught_up = false;
        while !caught_up && stream.pending.0.len() == head {
            let update = stream.follower.next().await?;
            caught_up = matches!(update, Update::CaughtUp(_));
            stream.say(update);
        }
        let nothing_left = caught_up && resumed && stream.follower.at_end();
        Ok((!nothing_left).then_some(stream))
    }

    /// How the body is framed: chunked unless said otherwise.
    pub fn frame_as(&mut self, framing: Framing) {
        self.view.framing = framing;
    }

    /// How the client sees the lane.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// From now on this takes the entries that come while there is nothing else to say.
    pub fn deliver_to(&mut self, outlet: Arc<dyn Outlet>) {
        self.follower.deliver_to(outlet);
    }

    /// The next bytes of the body, and `None` at its end; no bytes when entries have gone to the outlet. After an error
    /// the client must not take it for the end. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Result<Bytes, StoreError>> {
        loop {
            if !self.pending.is_empty() {
                return Some(Ok(self.pending.end(self.view.framing)));
            }
            match self.state {
                State::Open => {}
                State::Closed if self.view.framing == Framing::Chunked => {
                    self.state = State::Ended;
                    return Some(Ok(LAST_CHUNK));
                }
                State::Closed | State::Ended => return None,
            }
            match self.follower.next().await {
                Err(error) => {
                    METRICS.cut(Cut::Store);
                    self.state = State::Ended;
                    return Some(Err(error));
                }
                Ok(Update::Entries(items)) => {
                    let bytes = self.view.show(&items, self.live);
                    if !bytes.is_empty() {
                        return Some(Ok(bytes));
                    }
                }
                Ok(Update::Delivered) => return Some(Ok(Bytes::new())),
                Ok(update) => self.say(update),
            }
        }
    }

    fn say(&mut self, update: Update) {
        let pending = &mut self.pending;
        match update {
            Update::Entries(items) => self.view.add(&items, self.live, pending),
            Update::Delivered => {}
            Update::History(page) => {
                let wanted = page.iter().filter(|entry| self.view.wants(&entry.payload));
                let written = wanted.map(|entry| {
                    pending.entry(entry.id, &entry.payload, self.view.format);
                    entry.id
                });
                // Read for this client, which has fallen behind: no news, however long it has been live.
                METRICS.delivered(written, false);
            }
            Update::CaughtUp(id) => {
                self.live = true;
                pending.push(&caught_up(std::mem::take(&mut self.from_now).then_some(id)));
            }
            Update::Reset { reason, first } => {
                METRICS.reset(reason);
                self.live = false;
                pending.push(&reset(reason, first));
            }
            Update::Closed => {
                pending.push(&closed());
                self.state = State::Closed;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn item(payload: &str) -> Arc<Item> {
        Item::new(EntryId { ms: 7, n: 3 }, payload.as_bytes())
    }

    #[test]
    fn an_entry_is_one_frame_with_its_id() {
        let item = item(r#"{"type":"t","agent":"a","data":{"x":1}}"#);
        let frame = "id: 7-3\ndata: {\"type\":\"t\",\"agent\":\"a\",\"data\":{\"x\":1}}\n\n";
        assert_eq!(item.payload(), br#"{"type":"t","agent":"a","data":{"x":1}}"#);
        assert_eq!(item.chunk(Format::Event), &format!("{:08x}\r\n{frame}\r\n", frame.len()));
        assert_eq!(unframed(item.chunk(Format::Event)), frame);
        assert_eq!(unframed(item.chunk(Format::Data)), "id: 7-3\ndata: {\"x\":1}\n\n");
        assert_eq!(unframed(super::tests::item(r#"{"type":"t"}"#).chunk(Format::Data)), "id: 7-3\ndata: null\n\n");
    }

    #[test]
    fn filters_are_lists_of_alternatives() {
        let filter = Filter { agents: vec!["a".into(), "b".into()], types: vec!["t".into()], ..Default::default() };
        assert!(filter.wants(br#"{"type":"t","agent":"b"}"#));
        assert!(!filter.wants(br#"{"type":"t"}"#));
        assert!(!filter.wants(br#"{"type":"u","agent":"a"}"#));
        assert!(!filter.wants(b"no json"));
        let commands =
            Filter { agents: vec!["a".into()], runs: vec!["r".into()], unaddressed: true, ..Default::default() };
        assert!(commands.wants(br#"{"type":"stop"}"#));
        assert!(commands.wants(br#"{"type":"stop","run":"r"}"#));
        assert!(!commands.wants(br#"{"type":"stop","run":"q"}"#));
        assert!(!commands.wants(br#"{"type":"stop","agent":"b","run":"r"}"#));
        assert!(Filter::default().wants(b"no json"));
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(text in "\\PC*", ms in 1u64..1 << 50, n in 1u64..1 << 50) {
            let payload = serde_json::to_string(&json!({"type": "t", "data": text})).unwrap();
            let id = EntryId { ms, n };
            let item = Item::new(id, payload.as_bytes());
            let mut decoder = decode::Decoder::new(1 << 20);
            decoder.push(&unframed(item.chunk(Format::Event)));
            let frame = decoder.next_frame().unwrap().unwrap();
            prop_assert_eq!((frame.id, frame.event, frame.data), (Some(id.to_string()), None, payload));
        }
    }
}
