//! What differs between the servers that can be loaded: paths, and how they say an event and the end of history.
//!
//! Moorline is what this tool is for. The others are its peers, so that one and the same driver, with the same checks,
//! measures them all (`benches/compare`).

use super::reading::Came;

/// Which server's language to speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dialect {
    /// Moorline, `/v1`.
    #[default]
    Moorline,
    /// Nchan, configured as in `benches/compare/nchan.conf`: `/publish/{session}` and `/follow/{session}`.
    Nchan,
    /// The Durable Streams protocol, streams of JSON.
    DurableStreams,
}

impl Dialect {
    /// The path of a session, to create and delete it.
    pub fn session(self, name: &str) -> String {
        match self {
            Dialect::Moorline => format!("/v1/sessions/{name}"),
            Dialect::Nchan => format!("/publish/{name}"),
            Dialect::DurableStreams => format!("/{name}"),
        }
    }

    /// Where to POST its events.
    pub fn publish(self, name: &str) -> String {
        match self {
            Dialect::Moorline => format!("/v1/sessions/{name}/events"),
            Dialect::Nchan | Dialect::DurableStreams => self.session(name),
        }
    }

    /// Where to follow its events from the first one on.
    pub fn follow(self, name: &str) -> String {
        match self {
            Dialect::Moorline => self.publish(name),
            Dialect::Nchan => format!("/follow/{name}"),
            Dialect::DurableStreams => format!("/{name}?offset=-1&live=sse"),
        }
    }

    /// Whether a session has to be created before it is used.
    pub fn creates(self) -> bool {
        self == Dialect::DurableStreams
    }

    /// Whether a stream says where history ends. Nchan's goes on without a word.
    pub fn says_live(self) -> bool {
        self != Dialect::Nchan
    }

    /// Reads one server-sent event: gives each event of a session in it to `each`, and tells whether it ends history.
    pub fn read(self, frame: &[u8], each: &mut impl FnMut(Came<'_>)) -> bool {
        let (mut id, mut name, mut data) = (None, None, &b""[..]);
        for line in frame.split(|b| *b == b'\n') {
            if let Some(value) = line.strip_prefix(b"data:") {
                data = value.strip_prefix(b" ").unwrap_or(value);
            } else if let Some(value) = line.strip_prefix(b"id:") {
                id = Some(value.strip_prefix(b" ").unwrap_or(value));
            } else if let Some(value) = line.strip_prefix(b"event: ") {
                name = Some(value);
            }
        }
        match (self, name) {
            (Dialect::Moorline, None) if let Some(id) = id => {
                let id = std::str::from_utf8(id).ok().and_then(|id| id.parse().ok());
                // Without one that can be read it is none, and found to be corrupt.
                each(Came { payload: if id.is_some() { data } else { b"" }, id });
            }
            (Dialect::Nchan, None) if id.is_some() => each(Came { payload: data, id: None }),
            (Dialect::Moorline, Some(name)) => return name == b"caught-up",
            (Dialect::DurableStreams, Some(b"data")) => read_array(data, each),
            (Dialect::DurableStreams, Some(b"control")) => {
                return memchr::memmem::find(data, b"\"upToDate\":true").is_some();
            }
            _ => {}
        }
        false
    }
}

/// Gives the events of a JSON array to `each`. All events end in `"]}`, which their text can't contain; what does not
/// look like that goes to `each` as it is, and is found to be corrupt there.
pub fn read_array(array: &[u8], each: &mut impl FnMut(Came<'_>)) {
    let mut each = |payload| each(Came { payload, id: None });
    let Some(mut rest) = array.strip_prefix(b"[").and_then(|array| array.strip_suffix(b"]")) else {
        return each(array);
    };
    while let Some(at) = memchr::memmem::find(rest, b"\"]},") {
        each(&rest[..at + 3]);
        rest = &rest[at + 4..];
    }
    if !rest.is_empty() {
        each(rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(dialect: Dialect, frame: &str) -> (Vec<String>, bool) {
        let mut events = Vec::new();
        let live =
            dialect.read(frame.as_bytes(), &mut |came| events.push(String::from_utf8_lossy(came.payload).into_owned()));
        (events, live)
    }

    #[test]
    fn each_dialect_reads_its_events_and_the_end_of_history() {
        let event = r#"{"type":"b","data":[0,1,"abc"]}"#;
        let one = (vec![event.to_owned()], false);
        assert_eq!(read(Dialect::Moorline, &format!("id: 1-1\ndata: {event}")), one);
        assert_eq!(read(Dialect::Moorline, "event: caught-up\ndata: {}"), (vec![], true));
        assert_eq!(read(Dialect::Nchan, &format!("id: 1700000000:0\ndata: {event}")), one);
        assert_eq!(read(Dialect::Nchan, ": hi"), (vec![], false));
        assert_eq!(read(Dialect::DurableStreams, &format!("event: data\ndata:[{event}]")), one);
        let two = format!("event: data\ndata: [{event},{event}]");
        assert_eq!(read(Dialect::DurableStreams, &two).0.len(), 2);
        let control = r#"event: control
data:{"streamNextOffset":"0_1","streamCursor":"1"}"#;
        assert_eq!(read(Dialect::DurableStreams, control), (vec![], false));
        let up_to_date = control.replace('}', r#","upToDate":true}"#);
        assert_eq!(read(Dialect::DurableStreams, &up_to_date), (vec![], true));
    }

    #[test]
    fn what_is_no_array_of_events_is_passed_on_to_be_found_corrupt() {
        for data in ["", "{}", "[1,2]", r#"[{"type":"b","data":[0,1,"abc"]},x]"#] {
            let (events, _) = read(Dialect::DurableStreams, &format!("event: data\ndata:{data}"));
            assert!(events.iter().any(|event| crate::bench::read_event(event.as_bytes(), 0, 3).is_none()), "{data}");
        }
    }
}
