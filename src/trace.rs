//! A place in a trace, as `traceparent` of [W3C Trace Context](https://www.w3.org/TR/trace-context/) writes it: text that
//! crosses the border, parsed once.
//!
//! It comes with a request and goes on with a command, so that what an agent does continues the trace in which it was
//! asked for.

use std::{fmt, str::FromStr};

use serde::{Serialize, Serializer};

/// Somebody's step in a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traceparent {
    /// Shared by all that belongs to one cause.
    pub trace: u128,
    /// The step itself.
    pub parent: u64,
    /// Whether whoever took it records the trace.
    pub sampled: bool,
}

/// A text that is no `traceparent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it takes the form 00-<32 hexadecimal digits>-<16>-<2>, as W3C Trace Context has it")]
pub struct BadTraceparent;

impl FromStr for Traceparent {
    type Err = BadTraceparent;

    fn from_str(text: &str) -> Result<Self, BadTraceparent> {
        let mut parts = text.split('-');
        let mut hex = |length| {
            let part = parts.next().filter(|part| part.len() == length)?;
            // Upper case is none: `from_str_radix` would take it, and a sign.
            let digits = part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
            u128::from_str_radix(part, 16).ok().filter(|_| digits)
        };
        let [Some(version), Some(trace), Some(parent), Some(flags)] = [hex(2), hex(32), hex(16), hex(2)] else {
            return Err(BadTraceparent);
        };
        // Later versions may have more parts; they begin like this one.
        if version == 0xff || version == 0 && parts.next().is_some() || trace == 0 || parent == 0 {
            return Err(BadTraceparent);
        }
        Ok(Traceparent { trace, parent: parent as u64, sampled: flags & 1 == 1 })
    }
}

/// In version 00, with no other flag than the one that is known.
impl fmt::Display for Traceparent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace, self.parent, u8::from(self.sampled))
    }
}

impl Serialize for Traceparent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn what_is_read_is_written_as_it_was() {
        let read: Traceparent = GOOD.parse().unwrap();
        assert_eq!((read.parent, read.sampled, read.to_string().as_str()), (0x00f0_67aa_0ba9_02b7, true, GOOD));
        let later =
            "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-fe-what-comes".parse::<Traceparent>().unwrap();
        assert_eq!(later.to_string(), GOOD.replace("-01", "-00"));
    }

    #[test]
    fn what_is_no_traceparent_is_refused() {
        for bad in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473é-00f067aa0ba902b7-01",
        ] {
            assert_eq!(bad.parse::<Traceparent>(), Err(BadTraceparent), "{bad}");
        }
    }
}
