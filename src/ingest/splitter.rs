//! A streaming body, cut into events: lines, or server-sent events, however the pieces come.

use std::collections::VecDeque;

use crate::{
    event::{BadEvent, Defaults, Event},
    sse::decode::{DecodeError, Decoder},
};

/// Cuts a streaming body into events.
pub enum Splitter {
    /// One JSON event a line.
    Lines {
        /// What came of the line that has not ended.
        line: Vec<u8>,
        /// Complete events.
        ready: VecDeque<Event>,
        /// Lines that have ended.
        count: usize,
    },
    /// Server-sent events.
    Sse(Box<Decoder>),
}

/// Why a streaming body ends early.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadStream {
    /// A line that is no event.
    #[error("line {line}: {bad}")]
    Line {
        /// Its number, from 1.
        line: usize,
        /// What is wrong with it.
        bad: BadEvent,
    },
    /// A line that is no UTF-8.
    #[error("line {line} is not valid UTF-8")]
    Utf8 {
        /// Its number, from 1.
        line: usize,
    },
    /// A server-sent event that is no event.
    #[error(transparent)]
    Event(#[from] BadEvent),
    /// No server-sent events at all.
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

/// How a body's events are read.
#[derive(Debug, Clone)]
pub struct Reading {
    /// What the request gives to events that do not say it themselves.
    pub defaults: Defaults,
    /// The largest payload.
    pub event_bytes: usize,
}

impl Splitter {
    /// For `application/x-ndjson`.
    pub fn lines() -> Self {
        Splitter::Lines { line: Vec::new(), ready: VecDeque::new(), count: 0 }
    }

    /// For `text/event-stream`. An event may be as large as what it becomes, and a little more for its field names.
    pub fn sse(event_bytes: usize) -> Self {
        Splitter::Sse(Box::new(Decoder::new(event_bytes.saturating_add(1024))))
    }

    /// Takes a piece of the body.
    pub fn push(&mut self, bytes: &[u8], reading: &Reading) -> Result<(), BadStream> {
        match self {
            Splitter::Sse(decoder) => decoder.push(bytes),
            Splitter::Lines { line, ready, count } => {
                // White space does not reach the log, but a line may not consist of it without end. Asked of every line,
                // finished or not, for the pieces to make no difference.
                let limit = reading.event_bytes.saturating_mul(2);
                let bounded = |size: usize, number: usize| {
                    let bad = BadEvent::TooLarge { size, limit: reading.event_bytes };
                    if size > limit { Err(BadStream::Line { line: number, bad }) } else { Ok(()) }
                };
                let mut at = 0;
                for end in memchr::memchr_iter(b'\n', bytes) {
                    *count += 1;
                    bounded(line.len() + end - at, *count)?;
                    // A line that came in one piece, the common case, is parsed where it lies.
                    let event = if line.is_empty() {
                        parse_line(&bytes[at..end], *count, reading)
                    } else {
                        line.extend_from_slice(&bytes[at..end]);
                        parse_line(&std::mem::take(line), *count, reading)
                    };
                    ready.extend(event?);
                    at = end + 1;
                }
                line.extend_from_slice(&bytes[at..]);
                bounded(line.len(), *count + 1)?;
            }
        }
        Ok(())
    }

    /// The next complete event.
    pub fn next_event(&mut self, reading: &Reading) -> Result<Option<Event>, BadStream> {
        match self {
            Splitter::Lines { ready, .. } => Ok(ready.pop_front()),
            Splitter::Sse(decoder) => loop {
                let Some(frame) = decoder.next_frame()? else { return Ok(None) };
                if frame.is_done() {
                    continue;
                }
                let event = frame.event.as_deref();
                return Ok(Some(Event::from_sse(event, &frame.data, &reading.defaults, reading.event_bytes)?));
            },
        }
    }

    /// The body has ended: a last line needs no line break. An unfinished server-sent event is none, by its rules.
    pub fn finish(&mut self, reading: &Reading) -> Result<(), BadStream> {
        if let Splitter::Lines { line, ready, count } = self {
            *count += 1;
            ready.extend(parse_line(&std::mem::take(line), *count, reading)?);
        }
        Ok(())
    }

    /// Whether the body has stopped in the middle of an event.
    pub fn mid_event(&self) -> bool {
        match self {
            Splitter::Lines { line, .. } => !line.is_empty(),
            Splitter::Sse(decoder) => decoder.mid_event(),
        }
    }
}

fn parse_line(line: &[u8], number: usize, reading: &Reading) -> Result<Option<Event>, BadStream> {
    let text = std::str::from_utf8(line).map_err(|_| BadStream::Utf8 { line: number })?;
    if text.trim().is_empty() {
        return Ok(None);
    }
    let event = Event::from_json(text, &reading.defaults, reading.event_bytes);
    event.map(Some).map_err(|bad| BadStream::Line { line: number, bad })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn reading() -> Reading {
        Reading { defaults: Defaults::default(), event_bytes: 1000 }
    }

    fn split(mut splitter: Splitter, pieces: &[&[u8]]) -> (Vec<String>, Option<BadStream>) {
        let mut events = Vec::new();
        let mut drain = |splitter: &mut Splitter| loop {
            match splitter.next_event(&reading()) {
                Ok(Some(event)) => events.push(String::from_utf8(event.payload.to_vec()).unwrap()),
                Ok(None) => return None,
                Err(bad) => return Some(bad),
            }
        };
        for piece in pieces {
            let pushed = splitter.push(piece, &reading()).err();
            if let Some(bad) = drain(&mut splitter).or(pushed) {
                return (events, Some(bad));
            }
        }
        let finished = splitter.finish(&reading()).err();
        let bad = drain(&mut splitter).or(finished);
        (events, bad)
    }

    #[test]
    fn lines_are_events_and_the_last_needs_no_break() {
        let (events, bad) = split(Splitter::lines(), &[b"{\"data\":1}\n\n{\"da", b"ta\":2}\r\n{\"data\":3}"]);
        assert_eq!(events.len(), 3);
        assert_eq!(bad, None);
    }

    #[test]
    fn a_bad_line_ends_the_body_and_tells_its_number() {
        let (events, bad) = split(Splitter::lines(), &[b"{\"data\":1}\n\nnonsense\n{\"data\":2}\n"]);
        assert_eq!(events.len(), 1);
        assert!(matches!(bad, Some(BadStream::Line { line: 3, .. })), "{bad:?}");
        let (_, bad) = split(Splitter::lines(), &[b"{\"data\":\"\xff\"}\n"]);
        assert_eq!(bad, Some(BadStream::Utf8 { line: 1 }));
        let (_, bad) = split(Splitter::lines(), &[&[b' '; 3000]]);
        assert!(matches!(bad, Some(BadStream::Line { line: 1, bad: BadEvent::TooLarge { .. } })), "{bad:?}");
    }

    #[test]
    fn done_marks_of_model_servers_are_not_stored() {
        let (events, bad) =
            split(Splitter::sse(1000), &[b"\xef\xbb\xbfdata: {\"a\":\r\ndata: 1}\r\n\r\ndata: [DONE]\r\n\r\n"]);
        assert_eq!(events, [r#"{"type":"message","data":{"a":1}}"#]);
        assert_eq!(bad, None);
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(
            lines in prop::collection::vec("\\{\"data\":[0-9]{1,4}\\}|x|", 0..20),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..10),
            sse: bool,
        ) {
            let body = if sse {
                lines.iter().map(|line| format!("data: {line}\n\n")).collect::<String>()
            } else {
                lines.join("\n")
            };
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(body.len() + 1)).chain([0, body.len()]).collect();
            cuts.sort_unstable();
            let pieces: Vec<_> = cuts.windows(2).map(|cut| &body.as_bytes()[cut[0]..cut[1]]).collect();
            let new = || if sse { Splitter::sse(1000) } else { Splitter::lines() };
            prop_assert_eq!(split(new(), &pieces), split(new(), &[body.as_bytes()]));
        }

        #[test]
        fn no_bytes_panic(pieces in prop::collection::vec(any::<Vec<u8>>(), 0..8), sse: bool) {
            let pieces: Vec<_> = pieces.iter().map(Vec::as_slice).collect();
            split(if sse { Splitter::sse(100) } else { Splitter::lines() }, &pieces);
        }
    }
}
