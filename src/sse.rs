//! Server-sent events: what goes out to clients, and ([`decode`]) what comes in from agents and gateways.
//!
//! Out goes what every client in use reads alike: LF only, one `data:` line a frame, `id:` on log entries alone, and
//! the gateway's own frames under a name. See `docs/PROTOCOL.md`.

pub mod decode;

use std::{fmt::Write as _, time::Duration};

use bytes::{Bytes, BytesMut};
use serde_json::json;
use tokio::time::Instant;

use crate::{
    event::Head,
    hub::{Follower, Item, Update},
    id::EntryId,
    metrics::{Cut, METRICS},
    store::{Lost, StoreError},
};

/// A comment that keeps idle connections open. One line and a single newline: a blank line after it makes some
/// clients dispatch an empty message.
const HEARTBEAT: Bytes = Bytes::from_static(b":\n");

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

/// The frame of an entry, encoded once however many clients take it.
pub fn entry(item: &Item, format: Format) -> &Bytes {
    item.frames[format as usize].get_or_init(|| {
        let data = match format {
            Format::Event => &item.payload[..],
            Format::Data => Head::of(&item.payload).and_then(|h| h.data).map_or("null", |d| d.get()).as_bytes(),
        };
        let mut frame = String::with_capacity(40);
        // Writing to a string does not fail.
        let _ = write!(frame, "id: {}\ndata: ", item.id);
        [frame.as_bytes(), data, b"\n\n"].concat().into()
    })
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

/// A stream of one client, as bytes.
pub struct Stream {
    follower: Follower,
    filter: Filter,
    format: Format,
    heartbeat: Duration,
    /// The client began at `now`: the first `caught-up` carries its id.
    from_now: bool,
    pending: BytesMut,
    /// History is done: what comes is news.
    live: bool,
    ended: bool,
}

impl Stream {
    /// Reads up to the first update that the client is to see. `None`: the session is closed, and a client that
    /// resumed has all that it wants of it. An error means that the store could not be asked.
    pub async fn open(
        follower: Follower,
        filter: Filter,
        format: Format,
        heartbeat: Duration,
        from_now: bool,
        resumed: bool,
    ) -> Result<Option<Self>, StoreError> {
        let pending = BytesMut::from(&retry()[..]);
        let mut stream = Stream { follower, filter, format, heartbeat, from_now, pending, live: false, ended: false };
        let head = stream.pending.len();
        // Entries that the filter drops say nothing to the client: a closed session may have nothing but those left.
        let mut caught_up = false;
        while !caught_up && stream.pending.len() == head {
            let update = stream.follower.next().await?;
            caught_up = matches!(update, Update::CaughtUp(_));
            stream.say(update);
        }
        let nothing_left = caught_up && resumed && stream.follower.at_end();
        Ok((!nothing_left).then_some(stream))
    }

    /// The stream as a response body. An error in it cuts the connection, so that no client takes it for the end.
    pub fn into_chunks(self) -> impl futures_util::Stream<Item = Result<Bytes, StoreError>> {
        futures_util::stream::unfold(self, |mut stream| async move {
            let chunk = stream.chunk().await?;
            Some((chunk, stream))
        })
    }

    async fn chunk(&mut self) -> Option<Result<Bytes, StoreError>> {
        // Set once: entries that the filter drops must not put the heartbeat off.
        let beat = Instant::now() + self.heartbeat;
        loop {
            if !self.pending.is_empty() {
                return Some(Ok(self.pending.split().freeze()));
            }
            if self.ended {
                return None;
            }
            match tokio::time::timeout_at(beat, self.follower.next()).await {
                Err(_) => return Some(Ok(HEARTBEAT)),
                Ok(Err(error)) => {
                    METRICS.cut(Cut::Store);
                    self.ended = true;
                    return Some(Err(error));
                }
                // The common case, a single entry: its shared frame goes out as it is.
                Ok(Ok(Update::Entries(items))) if items.len() == 1 && self.filter.wants(&items[0].payload) => {
                    METRICS.delivered(std::iter::once(items[0].id), self.live);
                    return Some(Ok(entry(&items[0], self.format).clone()));
                }
                Ok(Ok(update)) => self.say(update),
            }
        }
    }

    fn say(&mut self, update: Update) {
        match update {
            Update::Entries(items) => {
                let wanted = items.iter().filter(|item| self.filter.wants(&item.payload));
                let pending = &mut self.pending;
                let written = wanted.map(|item| {
                    pending.extend_from_slice(entry(item, self.format));
                    item.id
                });
                METRICS.delivered(written, self.live);
            }
            Update::CaughtUp(id) => {
                self.live = true;
                self.pending.extend_from_slice(&caught_up(std::mem::take(&mut self.from_now).then_some(id)));
            }
            Update::Reset { reason, first } => {
                METRICS.reset(reason);
                self.live = false;
                self.pending.extend_from_slice(&reset(reason, first));
            }
            Update::Closed => {
                self.pending.extend_from_slice(&closed());
                self.ended = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn item(payload: &str) -> std::sync::Arc<Item> {
        Item::new(EntryId { ms: 7, n: 3 }, Bytes::copy_from_slice(payload.as_bytes()))
    }

    #[test]
    fn an_entry_is_one_frame_with_its_id() {
        let item = item(r#"{"type":"t","agent":"a","data":{"x":1}}"#);
        assert_eq!(
            entry(&item, Format::Event),
            "id: 7-3\ndata: {\"type\":\"t\",\"agent\":\"a\",\"data\":{\"x\":1}}\n\n"
        );
        assert_eq!(entry(&item, Format::Data), "id: 7-3\ndata: {\"x\":1}\n\n");
        assert_eq!(entry(&super::tests::item(r#"{"type":"t"}"#), Format::Data), "id: 7-3\ndata: null\n\n");
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
            let item = Item::new(id, payload.clone().into());
            let mut decoder = decode::Decoder::new(1 << 20);
            decoder.push(entry(&item, Format::Event));
            let frame = decoder.next_frame().unwrap().unwrap();
            prop_assert_eq!((frame.id, frame.event, frame.data), (Some(id.to_string()), None, payload));
        }
    }
}
