//! Reads `text/event-stream` as it arrives, by the WHATWG rules, whatever the pieces it arrives in.
//!
//! Pure: bytes in, frames out. What the bytes mean (an entry, an agent's event) is for the caller to say.
//! Source: <https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation>, with two
//! differences: bytes that are no UTF-8 are an error instead of U+FFFD (a log must not keep what nobody sent), and an
//! event has a largest size.

use std::{mem, str, time::Duration};

use memchr::memchr2;

const BOM: &[u8] = b"\xEF\xBB\xBF";

/// One dispatched event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The last event id as of this frame, if an `id` line occurred in it (or in a frame without data before it, which
    /// is not dispatched but counts).
    pub id: Option<String>,
    /// The `event` line; `None` stands for the default, `message`.
    pub event: Option<String>,
    /// The `data` lines, joined by `\n`.
    pub data: String,
}

impl Frame {
    /// Whether it only says that the stream is complete, as APIs of models do.
    pub fn is_done(&self) -> bool {
        self.data == "[DONE]"
    }
}

/// Why a body can't be read further. Final: the decoder gives the same answer from then on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// One event takes more than the decoder may hold.
    #[error("one event of the stream takes more than {limit} bytes")]
    TooLarge {
        /// The limit, in bytes.
        limit: usize,
    },
    /// A field's value is no UTF-8.
    #[error("the stream is not valid UTF-8")]
    Utf8,
}

/// An incremental decoder: [`push`](Decoder::push) what came, then take frames until there is none.
///
/// Each byte is looked at once and moved at most twice, so a body costs linear time in any chunking. What is held is
/// the chunk last pushed and at most `limit` bytes of the event before it, provided the caller takes all frames
/// between pushes.
#[derive(Debug)]
pub struct Decoder {
    limit: usize,
    /// Bytes not yet consumed begin at `start`; before `scanned` there is no line end.
    buffer: Vec<u8>,
    start: usize,
    scanned: usize,
    /// The last line ended with CR: an LF that comes next belongs to it.
    after_cr: bool,
    first_line: bool,
    /// A field of the event was seen, and no blank line yet.
    in_event: bool,
    /// The event being read. `data` is `None` until the first `data` line: an event without one is not dispatched.
    id: Option<String>,
    event: Option<String>,
    data: Option<String>,
    retry: Option<Duration>,
    failed: Option<DecodeError>,
}

impl Decoder {
    /// A decoder at the start of a body. `limit` is the most bytes held for one event, its unfinished line included.
    pub fn new(limit: usize) -> Decoder {
        Decoder {
            limit,
            buffer: Vec::new(),
            start: 0,
            scanned: 0,
            after_cr: false,
            first_line: true,
            in_event: false,
            id: None,
            event: None,
            data: None,
            retry: None,
            failed: None,
        }
    }

    /// Takes the next bytes of the body.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.failed.is_some() {
            return;
        }
        // Moving only when at least as much was consumed keeps the sum of all moves below the body's length.
        if self.start >= self.buffer.len() - self.start {
            self.buffer.drain(..self.start);
            self.scanned -= self.start;
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next complete event; `None` when more bytes are needed. An event that is unfinished at the end of the body
    /// never comes out: so the rules want it, since it may have been cut.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, DecodeError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let result = self.read();
        if let Err(error) = result {
            self.failed = Some(error);
            self.buffer = Vec::new();
            (self.start, self.scanned) = (0, 0);
        }
        result
    }

    /// The reconnection time that the stream asked for last.
    pub fn retry(&self) -> Option<Duration> {
        self.retry
    }

    /// Whether bytes of an unfinished event are pending: a body that ends now was cut. Comments don't count.
    pub fn mid_event(&self) -> bool {
        let mut line = &self.buffer[self.start..];
        if self.after_cr && line.first() == Some(&b'\n') {
            line = &line[1..];
        }
        if self.first_line {
            line = line.strip_prefix(BOM).unwrap_or(line);
        }
        self.in_event || !(line.is_empty() || line[0] == b':')
    }

    fn read(&mut self) -> Result<Option<Frame>, DecodeError> {
        while let Some((from, to)) = self.next_line()? {
            if from == to {
                if let Some(frame) = self.dispatch() {
                    return Ok(Some(frame));
                }
            } else {
                self.field(from, to)?;
            }
        }
        Ok(None)
    }

    /// Consumes one complete line and gives its place in the buffer, without its end.
    fn next_line(&mut self) -> Result<Option<(usize, usize)>, DecodeError> {
        if self.after_cr && self.start < self.buffer.len() {
            self.after_cr = false;
            if self.buffer[self.start] == b'\n' {
                self.start += 1;
                self.scanned = self.start;
            }
        }
        let end = memchr2(b'\n', b'\r', &self.buffer[self.scanned..]).map(|step| self.scanned + step);
        let line = (self.start, end.unwrap_or(self.buffer.len()));
        // A longer prefix of a line never fits where a shorter one did not, so how the body was cut makes no
        // difference to which event is refused.
        if self.held() + (line.1 - line.0) > self.limit {
            return Err(DecodeError::TooLarge { limit: self.limit });
        }
        let Some(end) = end else {
            self.scanned = self.buffer.len();
            return Ok(None);
        };
        self.after_cr = self.buffer[end] == b'\r';
        self.start = end + 1;
        self.scanned = self.start;
        if mem::take(&mut self.first_line) && self.buffer[line.0..line.1].starts_with(BOM) {
            return Ok(Some((line.0 + BOM.len(), line.1)));
        }
        Ok(Some(line))
    }

    /// Bytes kept of the complete lines of the current event.
    fn held(&self) -> usize {
        let len = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        len(&self.id) + len(&self.event) + len(&self.data)
    }

    /// Applies the line at `from..to`, which is not empty. Comments and unknown fields are ignored.
    fn field(&mut self, from: usize, to: usize) -> Result<(), DecodeError> {
        let line = &self.buffer[from..to];
        let colon = memchr::memchr(b':', line);
        let (name, value) = match colon {
            Some(at) => (&line[..at], &line[at + 1..]),
            None => (line, &line[line.len()..]),
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        let text = || str::from_utf8(value).map_err(|_| DecodeError::Utf8);
        match name {
            b"data" => match &mut self.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(text()?);
                }
                None => self.data = Some(text()?.to_owned()),
            },
            b"event" => self.event = Some(text()?.to_owned()),
            b"id" if !value.contains(&0) => self.id = Some(text()?.to_owned()),
            b"retry" if !value.is_empty() && value.iter().all(u8::is_ascii_digit) => {
                if let Ok(ms) = text()?.parse() {
                    self.retry = Some(Duration::from_millis(ms));
                }
            }
            _ => {}
        }
        self.in_event |= matches!(name, b"data" | b"event" | b"id");
        Ok(())
    }

    /// A blank line: the event is complete. Without data it is dropped, but its id stays for the next.
    fn dispatch(&mut self) -> Option<Frame> {
        self.in_event = false;
        let event = self.event.take().filter(|event| !event.is_empty());
        let data = self.data.take()?;
        Some(Frame { id: self.id.take(), event, data })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(id: Option<&str>, event: Option<&str>, data: &str) -> Frame {
        Frame { id: id.map(Into::into), event: event.map(Into::into), data: data.into() }
    }

    /// All frames of a body that comes in pieces of the given sizes (the last one repeats), and how it ended.
    fn decode(body: &[u8], sizes: &[usize], limit: usize) -> (Vec<Frame>, Option<DecodeError>, Decoder) {
        let (mut decoder, mut frames, mut rest, mut turn) = (Decoder::new(limit), Vec::new(), body, 0);
        while !rest.is_empty() {
            let size = sizes[turn.min(sizes.len() - 1)].clamp(1, rest.len());
            decoder.push(&rest[..size]);
            (rest, turn) = (&rest[size..], turn + 1);
            loop {
                match decoder.next_frame() {
                    Ok(Some(frame)) => frames.push(frame),
                    Ok(None) => break,
                    Err(error) => return (frames, Some(error), decoder),
                }
            }
        }
        (frames, None, decoder)
    }

    fn frames(body: &str) -> Vec<Frame> {
        let (frames, error, _) = decode(body.as_bytes(), &[usize::MAX], 1 << 20);
        assert_eq!(error, None);
        frames
    }

    #[test]
    fn the_examples_of_the_specification() {
        assert_eq!(frames("data: YHOO\ndata: +2\ndata: 10\n\n"), [frame(None, None, "YHOO\n+2\n10")]);
        assert_eq!(
            frames(": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n"),
            [frame(Some("1"), None, "first event"), frame(Some(""), None, "second event")]
        );
        assert_eq!(frames("data\n\ndata\ndata\n\ndata:"), [frame(None, None, ""), frame(None, None, "\n")]);
        assert_eq!(frames("data:test\n\ndata: test\n\n"), [frame(None, None, "test"), frame(None, None, "test")]);
    }

    #[test]
    fn every_line_end_ends_a_line_and_crlf_is_one() {
        let expected = [frame(None, Some("e"), "a\nb"), frame(None, None, "c")];
        for end in ["\n", "\r", "\r\n"] {
            let body = "event: e\ndata: a\ndata: b\n\ndata: c\n\n".replace('\n', end);
            for size in 1..=body.len() {
                assert_eq!(decode(body.as_bytes(), &[size], 100).0, expected, "{end:?} {size}");
            }
        }
        assert_eq!(frames("data: a\r\n\rdata: b\n\r"), [frame(None, None, "a"), frame(None, None, "b")]);
    }

    #[test]
    fn a_carriage_return_dispatches_at_once() {
        let mut decoder = Decoder::new(100);
        decoder.push(b"data: a\r\r");
        assert_eq!(decoder.next_frame(), Ok(Some(frame(None, None, "a"))));
        decoder.push(b"\n");
        assert!(!decoder.mid_event());
        assert_eq!(decoder.next_frame(), Ok(None));
    }

    #[test]
    fn a_byte_order_mark_counts_only_at_the_start() {
        assert_eq!(frames("\u{feff}data: a\n\n"), [frame(None, None, "a")]);
        assert_eq!(frames("\u{feff}\ndata: a\n\n"), [frame(None, None, "a")]);
        assert_eq!(frames("data: a\n\n\u{feff}data: b\n\n"), [frame(None, None, "a")]);
        assert_eq!(decode("\u{feff}data: a\n\n".as_bytes(), &[1], 100).0, [frame(None, None, "a")]);
    }

    #[test]
    fn ids_stay_until_a_frame_carries_them() {
        assert_eq!(frames("id: 7\n\ndata: a\n\ndata: b\n\n"), [frame(Some("7"), None, "a"), frame(None, None, "b")]);
        assert_eq!(frames("id: 7\nid: 8\0\ndata: a\n\n"), [frame(Some("7"), None, "a")]);
    }

    #[test]
    fn an_event_name_does_not_outlive_its_frame() {
        assert_eq!(frames("event: x\n\ndata: a\n\n"), [frame(None, None, "a")]);
        assert_eq!(frames("event: x\nevent:\ndata: a\n\n"), [frame(None, None, "a")]);
    }

    #[test]
    fn only_digits_set_the_reconnection_time() {
        let retry = |body: &str| decode(body.as_bytes(), &[3], 100).2.retry();
        assert_eq!(retry("retry: 1500\n"), Some(Duration::from_millis(1500)));
        for body in ["retry: +5\n", "retry: 5s\n", "retry:\n", "retry\n", "retry: 99999999999999999999\n", "retry: 5"] {
            assert_eq!(retry(body), None, "{body:?}");
        }
    }

    #[test]
    fn an_event_over_the_limit_is_refused_however_it_comes() {
        for body in ["data: 0123456789\n\n", "data: 0123\ndata: 4567\n\n", ": 01234567890123456789", "data: 0123456789"]
        {
            for size in 1..=body.len() {
                let (frames, error, mut decoder) = decode(body.as_bytes(), &[size], 13);
                assert_eq!((frames.len(), error), (0, Some(DecodeError::TooLarge { limit: 13 })), "{body:?} {size}");
                decoder.push(b"\n\ndata: x\n\n");
                assert!(decoder.next_frame().is_err());
            }
        }
        let many = "data: 0123\n\n".repeat(1000);
        assert_eq!(decode(many.as_bytes(), &[usize::MAX], 13).0.len(), 1000);
    }

    #[test]
    fn bytes_that_are_no_text_are_refused() {
        assert_eq!(decode(b"data: a\n\ndata: \xff\n\n", &[1], 100).1, Some(DecodeError::Utf8));
        assert_eq!(decode(b": \xff\nx\xff: y\ndata: a\n\n", &[1], 100).0, [frame(None, None, "a")]);
    }

    #[test]
    fn a_cut_in_an_event_shows() {
        let cut = |body: &str| decode(body.as_bytes(), &[1], 100).2.mid_event();
        for body in ["d", "data: a", "data: a\n", "data: a\r\n", "event: x\r", "data: a\n\ndata", "data: a\n\nid: 1\n"]
        {
            assert!(cut(body), "{body:?}");
        }
        for body in [
            "",
            ":",
            ": beat\n",
            "data: a\n\n",
            "data: a\r\n\r\n",
            "data: a\r\r",
            "\u{feff}",
            "retry: 5\n",
            "id: 1\n\n",
        ] {
            assert!(!cut(body), "{body:?}");
        }
    }

    /// A caller that does not take its frames between pushes still pays once for each byte.
    #[test]
    fn undrained_pushes_stay_linear() {
        let mut decoder = Decoder::new(1 << 20);
        decoder.push("data: a\n\n".repeat(200_000).as_bytes());
        for _ in 0..200_000 {
            assert!(decoder.next_frame().unwrap().is_some());
            decoder.push(b"\n");
        }
        assert_eq!(decoder.next_frame(), Ok(None));
    }

    fn encode(frame: &Frame, end: &str) -> String {
        let mut out = String::new();
        let mut line = |name: &str, value: &str| out.push_str(&format!("{name}: {value}{end}"));
        frame.id.iter().for_each(|id| line("id", id));
        frame.event.iter().for_each(|event| line("event", event));
        frame.data.split('\n').for_each(|data| line("data", data));
        out + end
    }

    fn any_frame() -> impl Strategy<Value = Frame> {
        let value = "[^\\r\\n\\x00]{0,12}";
        let data = proptest::collection::vec(value, 1..4).prop_map(|lines| lines.join("\n"));
        let event = proptest::option::of("[^\\r\\n\\x00]{1,12}");
        (proptest::option::of(value), event, data).prop_map(|(id, event, data)| Frame { id, event, data })
    }

    /// Bodies made mostly of what the grammar gives meaning to.
    fn any_body() -> impl Strategy<Value = Vec<u8>> {
        let token = prop_oneof![
            4 => proptest::sample::select(vec!["\n", "\r", "\r\n", "\n\n", "data", "id", "event", "retry", ":", " ", "12"])
                .prop_map(|token| token.as_bytes().to_vec()),
            1 => Just(BOM.to_vec()),
            1 => proptest::collection::vec(any::<u8>(), 0..6),
        ];
        proptest::collection::vec(token, 0..60).prop_map(|tokens| tokens.concat())
    }

    proptest! {
        #[test]
        fn what_is_encoded_comes_back(
            sent in proptest::collection::vec(any_frame(), 0..8),
            end in proptest::sample::select(vec!["\n", "\r", "\r\n"]),
            sizes in proptest::collection::vec(1usize..40, 1..20),
        ) {
            let body: String = sent.iter().map(|frame| encode(frame, end)).collect();
            let (got, error, decoder) = decode(body.as_bytes(), &sizes, 1 << 20);
            prop_assert_eq!(error, None);
            prop_assert_eq!(got, sent);
            prop_assert!(!decoder.mid_event());
        }

        #[test]
        fn chunking_makes_no_difference(
            body in any_body(),
            sizes in proptest::collection::vec(1usize..20, 1..20),
            limit in prop_oneof![0usize..40, Just(1 << 20)],
        ) {
            let whole = decode(&body, &[usize::MAX], limit);
            let pieces = decode(&body, &sizes, limit);
            prop_assert_eq!(&whole.0, &pieces.0);
            prop_assert_eq!(whole.1, pieces.1);
            prop_assert_eq!(whole.2.retry(), pieces.2.retry());
            prop_assert_eq!(whole.2.mid_event(), pieces.2.mid_event());
        }

        #[test]
        fn no_bytes_panic(body in proptest::collection::vec(any::<u8>(), 0..400), sizes in proptest::collection::vec(1usize..50, 1..9)) {
            decode(&body, &sizes, 64);
        }
    }
}
