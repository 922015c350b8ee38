//! Redis's replies (RESP2), read where they lie.
//!
//! A page is thousands of small strings. Making a value of each, as redis-rs does, took half of the time of a replay; here
//! payloads are slices of the bytes that came from the socket.

use std::ops::Range;

use bytes::Bytes;

use super::{script_error, unreadable};
use crate::{
    id::EntryId,
    store::{Entry, StoreError},
};

/// What is still to come of some replies.
#[derive(Debug)]
pub struct Awaited {
    values: u64,
    /// Where the next value begins.
    at: usize,
}

impl Awaited {
    pub fn replies(count: usize) -> Self {
        Awaited { values: count as u64, at: 0 }
    }

    /// How many bytes there were, when nothing is missing any more.
    pub fn size(&self) -> usize {
        self.at
    }

    /// Looks at all that has come so far: how many more bytes there must be, at least. 0: everything is there.
    pub fn missing(&mut self, bytes: &[u8]) -> Result<usize, StoreError> {
        while self.values > 0 {
            let rest = &bytes[self.at..];
            let Some(end) = memchr::memchr(b'\n', rest) else { return Ok(1) };
            let (mut size, line) = (end + 1, Line::of(&rest[..end])?);
            match line.kind {
                b'+' | b'-' | b':' => {}
                b'$' => size += line.length()?.map_or(0, |length| length + 2),
                b'*' => self.values = self.values.saturating_add(line.length()?.unwrap_or(0) as u64),
                _ => return Err(line.unreadable()),
            }
            if rest.len() < size {
                return Ok(size - rest.len());
            }
            self.at += size;
            self.values -= 1;
        }
        Ok(0)
    }
}

/// The line that a value begins with.
struct Line<'a> {
    kind: u8,
    rest: &'a [u8],
}

impl<'a> Line<'a> {
    fn of(line: &'a [u8]) -> Result<Self, StoreError> {
        match line {
            [kind, rest @ .., b'\r'] => Ok(Line { kind: *kind, rest }),
            _ => Err(unreadable("a reply", &Bytes::copy_from_slice(line))),
        }
    }

    /// `None`: there is no such value.
    fn length(&self) -> Result<Option<usize>, StoreError> {
        if self.rest == b"-1" {
            return Ok(None);
        }
        let digit = |length: usize, byte: &u8| {
            let digit = byte.is_ascii_digit().then(|| usize::from(byte - b'0'))?;
            length.checked_mul(10)?.checked_add(digit)
        };
        let length = self.rest.iter().try_fold(0, digit).filter(|length| *length <= isize::MAX as usize / 2);
        length.map(Some).ok_or_else(|| self.unreadable())
    }

    fn unreadable(&self) -> StoreError {
        unreadable("a reply", &(char::from(self.kind), Bytes::copy_from_slice(self.rest)))
    }
}

/// Replies that are all there, read one after the other.
#[derive(Debug)]
pub struct Replies {
    bytes: Bytes,
    at: usize,
}

impl Replies {
    pub fn new(bytes: Bytes) -> Self {
        Replies { bytes, at: 0 }
    }

    fn line(&mut self) -> Result<Line<'_>, StoreError> {
        let rest = &self.bytes[self.at..];
        let end = memchr::memchr(b'\n', rest).ok_or_else(|| unreadable("replies", &"too few"))?;
        self.at += end + 1;
        let line = Line::of(&rest[..end])?;
        match line.kind {
            b'-' => Err(script_error(&String::from_utf8_lossy(line.rest))),
            _ => Ok(line),
        }
    }

    /// A reply that says nothing but that all is well.
    pub fn status(&mut self) -> Result<(), StoreError> {
        let line = self.line()?;
        if line.kind == b'+' { Ok(()) } else { Err(line.unreadable()) }
    }

    /// Begins an array: how many values follow. None is as good as empty.
    pub fn array(&mut self) -> Result<usize, StoreError> {
        let line = self.line()?;
        if line.kind == b'*' { Ok(line.length()?.unwrap_or(0)) } else { Err(line.unreadable()) }
    }

    /// Begins an array that must have so many values.
    pub fn array_of(&mut self, count: usize) -> Result<(), StoreError> {
        match self.array()? {
            found if found == count => Ok(()),
            found => Err(unreadable("the length of an array", &found)),
        }
    }

    fn place(&mut self) -> Result<Option<Range<usize>>, StoreError> {
        let line = self.line()?;
        if line.kind != b'$' {
            return Err(line.unreadable());
        }
        let Some(length) = line.length()? else { return Ok(None) };
        let place = self.at..self.at + length;
        if self.bytes.len() < place.end + 2 {
            return Err(unreadable("replies", &"too few"));
        }
        self.at = place.end + 2;
        Ok(Some(place))
    }

    fn there(&mut self) -> Result<Range<usize>, StoreError> {
        self.place()?.ok_or_else(|| unreadable("a string", &"nil"))
    }

    /// A string.
    pub fn string(&mut self) -> Result<Bytes, StoreError> {
        let place = self.there()?;
        Ok(self.bytes.slice(place))
    }

    /// A string of which something is made, if it is there.
    pub fn optional<T: std::str::FromStr>(&mut self) -> Result<Option<T>, StoreError> {
        let Some(place) = self.place()? else { return Ok(None) };
        parse(&self.bytes[place]).map(Some)
    }

    /// A string of which something is made.
    pub fn parsed<T: std::str::FromStr>(&mut self) -> Result<T, StoreError> {
        let place = self.there()?;
        parse(&self.bytes[place])
    }

    /// A hash.
    pub fn pairs(&mut self) -> Result<Vec<(String, Bytes)>, StoreError> {
        let count = self.array()? / 2;
        (0..count).map(|_| Ok((self.parsed()?, self.string()?))).collect()
    }

    /// The entries of a range: `[[id, ["p", payload]], …]`.
    pub fn entries(&mut self) -> Result<Vec<Entry>, StoreError> {
        let count = self.array()?;
        (0..count).map(|_| self.entry()).collect()
    }

    fn entry(&mut self) -> Result<Entry, StoreError> {
        self.array_of(2)?;
        let id: EntryId = self.parsed()?;
        self.array_of(2)?;
        self.there()?;
        Ok(Entry { id, payload: self.string()? })
    }
}

/// Makes something of a string.
pub fn parse<T: std::str::FromStr>(bytes: &[u8]) -> Result<T, StoreError> {
    let value = std::str::from_utf8(bytes).ok().and_then(|text| text.parse().ok());
    value.ok_or_else(|| unreadable("a string", &Bytes::copy_from_slice(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Reads replies that come in pieces of this size.
    fn replies(text: &str, count: usize, piece: usize) -> Replies {
        let (mut awaited, mut come) = (Awaited::replies(count), 0);
        loop {
            match awaited.missing(&text.as_bytes()[..come]).unwrap() {
                0 => break,
                missing => assert!(come + missing <= text.len(), "waits for more than there is"),
            }
            come = (come + piece).min(text.len());
        }
        assert_eq!(awaited.at, text.len());
        Replies::new(Bytes::copy_from_slice(text.as_bytes()))
    }

    const PAGE: &str = "+OK\r\n*2\r\n*2\r\n$3\r\n5-1\r\n*2\r\n$1\r\np\r\n$4\r\na\r\nb\r\n*2\r\n$3\r\n5-2\r\n*2\r\n$1\r\np\r\n$0\r\n\r\n*-1\r\n$-1\r\n:7\r\n";

    #[test]
    fn a_page_is_read_however_it_comes() {
        for piece in 1..=PAGE.len() {
            let mut page = replies(PAGE, 5, piece);
            page.status().unwrap();
            let entries = page.entries().unwrap();
            let (first, second) = (EntryId { ms: 5, n: 1 }, EntryId { ms: 5, n: 2 });
            let (payload, nothing) = (Bytes::from("a\r\nb"), Bytes::new());
            assert_eq!(entries, [Entry { id: first, payload }, Entry { id: second, payload: nothing }]);
            assert_eq!(page.entries().unwrap(), []);
            assert_eq!(page.optional::<EntryId>().unwrap(), None);
        }
    }

    #[test]
    fn an_error_is_an_error_wherever_it_stands() {
        let mut answer = replies("*2\r\n-OOM command not allowed\r\n-WRONGTYPE it is a list\r\n", 1, 1);
        answer.array_of(2).unwrap();
        assert!(matches!(answer.status(), Err(StoreError::Unavailable(why)) if why.starts_with("OOM")));
        assert!(matches!(answer.entries(), Err(StoreError::Fault(why)) if why.starts_with("WRONGTYPE")));
    }

    #[test]
    fn what_is_no_reply_is_refused() {
        for bad in ["hello\r\n", "$x\r\n", "*-2\r\n", "$99999999999999999999\r\n", "+OK\n", "\r\n", "%1\r\n"] {
            assert!(Awaited::replies(1).missing(bad.as_bytes()).is_err(), "{bad:?}");
        }
        let mut other = replies("$1\r\nx\r\n:3\r\n*1\r\n$-1\r\n", 3, 99);
        assert!(other.parsed::<EntryId>().is_err());
        assert!(other.string().is_err());
        other.array_of(1).unwrap();
        assert!(other.string().is_err());
        assert!(other.string().is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>, kind in "[-+:$*]", number in "-?[0-9]{1,20}") {
            let bytes = [format!("{kind}{number}\r\n").as_bytes(), &bytes].concat();
            let _ = Awaited::replies(2).missing(&bytes);
            let _ = Replies::new(bytes.clone().into()).entries();
            let _ = Replies::new(bytes.into()).pairs();
        }
    }
}
