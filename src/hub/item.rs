//! An entry as a ring keeps it.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::{
    id::EntryId,
    sse::{self, Format},
};

/// An entry in the form in which it goes to clients, encoded once however many take it. Its payload lies in there.
#[derive(Debug)]
pub struct Item {
    /// Its place.
    pub id: EntryId,
    /// The frame with the whole event, as a chunk of an HTTP body.
    event: Bytes,
    /// Where the payload lies in it.
    payload: (usize, usize),
    /// The frame with its data alone, when a client has wanted that.
    data: OnceLock<Bytes>,
}

impl Item {
    /// An entry with this payload, its JSON on one line.
    pub fn new(id: EntryId, payload: &[u8]) -> Arc<Self> {
        let (event, begin) = sse::chunk(id, payload, Format::Event);
        Arc::new(Item { id, event, payload: (begin, begin + payload.len()), data: OnceLock::new() })
    }

    /// Its JSON, on one line.
    pub fn payload(&self) -> &[u8] {
        &self.event[self.payload.0..self.payload.1]
    }

    /// Its frame, as a chunk of an HTTP body.
    pub fn chunk(&self, format: Format) -> &Bytes {
        match format {
            Format::Event => &self.event,
            Format::Data => self.data.get_or_init(|| sse::chunk(self.id, self.payload(), format).0),
        }
    }
}
