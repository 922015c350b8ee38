//! Names and entry ids: the text that crosses the HTTP border, parsed once into types that cannot be wrong.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Milliseconds since the Unix epoch, on the store's clock.
pub type Ms = u64;

/// The longest name, in bytes.
pub const NAME_MAX: usize = 128;

/// The longest event type, in bytes.
pub const TYPE_MAX: usize = 128;

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    /// No characters at all.
    #[error("is empty; it takes 1 to {NAME_MAX} characters")]
    Empty,
    /// Longer than [`NAME_MAX`].
    #[error("has {0} bytes; it takes 1 to {NAME_MAX}")]
    TooLong(usize),
    /// A character outside of the alphabet.
    #[error("has a character outside of A-Z a-z 0-9 . _ ~ : -")]
    Alphabet,
    /// `.` and `..` vanish when a client or a proxy normalises the path.
    #[error("may not be '.' or '..': a proxy would take it out of the path")]
    Dots,
}

/// The name of a session, agent, run, command, approval or producer: 1–128 of `A-Z a-z 0-9 . _ ~ : -`.
///
/// The alphabet needs no escaping in a URL path, in JSON, in an SSE line or in a Redis key, so a name can be
/// written anywhere as it is.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Arc<str>);

impl Name {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        if text.is_empty() {
            return Err(BadName::Empty);
        }
        if text.len() > NAME_MAX {
            return Err(BadName::TooLong(text.len()));
        }
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'~' | b':' | b'-');
        if !text.bytes().all(allowed) {
            return Err(BadName::Alphabet);
        }
        if text == "." || text == ".." {
            return Err(BadName::Dots);
        }
        Ok(Name(text.into()))
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(|e| serde::de::Error::custom(format!("the name {text:?} {e}")))
    }
}

/// One of the two logs of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lane {
    /// What agents publish and clients follow.
    Events,
    /// What users ask and agents follow.
    Commands,
}

impl Lane {
    /// Both, in the order in which arrays indexed by [`Lane::index`] hold them.
    pub const ALL: [Lane; 2] = [Lane::Events, Lane::Commands];

    /// The place of this lane in a two-element array.
    pub fn index(self) -> usize {
        self as usize
    }

    /// `events` or `commands`: the last part of the Redis key and of the path.
    pub fn as_str(self) -> &'static str {
        match self {
            Lane::Events => "events",
            Lane::Commands => "commands",
        }
    }
}

/// The id of an entry, `<ms>-<n>`: the store's clock, and the entry's number in its lane.
///
/// Within a lane `n` counts 1, 2, 3, … without holes and `ms` never goes back, so ids are valid Redis Stream ids,
/// a missing entry shows as a hole in `n`, and a number handed out twice (after a failover) shows in `ms`.
/// `0-0` stands before the first entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct EntryId {
    /// Milliseconds since the Unix epoch.
    pub ms: Ms,
    /// The entry's number in its lane, from 1.
    pub n: u64,
}

impl EntryId {
    /// `0-0`: the place before the first entry.
    pub const ZERO: EntryId = EntryId { ms: 0, n: 0 };
}

/// A text that is not `<ms>-<n>`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an entry id: it takes the form <milliseconds>-<number>, as in 1795348816123-42")]
pub struct BadEntryId;

impl FromStr for EntryId {
    type Err = BadEntryId;

    fn from_str(text: &str) -> Result<Self, BadEntryId> {
        let (ms, n) = text.split_once('-').ok_or(BadEntryId)?;
        // One spelling an id, so that ids compare as text too: digits only, no leading zero.
        let number = |part: &str| {
            let canonical = part == "0" || (!part.starts_with('0') && part.bytes().all(|b| b.is_ascii_digit()));
            if canonical { part.parse().map_err(|_| BadEntryId) } else { Err(BadEntryId) }
        };
        Ok(EntryId { ms: number(ms)?, n: number(n)? })
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.n)
    }
}

impl Serialize for EntryId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for EntryId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_outside_the_alphabet_are_refused() {
        for bad in ["", ".", "..", "a b", "a/b", "a\0", "a\nb", "ä", "a{b", "a%20"] {
            assert!(bad.parse::<Name>().is_err(), "{bad:?}");
        }
        assert_eq!("x".repeat(129).parse::<Name>(), Err(BadName::TooLong(129)));
        for good in ["a", "...", "chat-42", "A.b_c~d:e-f", &"x".repeat(128)] {
            assert_eq!(good.parse::<Name>().unwrap().as_str(), good);
        }
    }

    #[test]
    fn an_id_has_one_spelling() {
        for bad in
            ["", "-", "1", "1-", "-1", "01-1", "1-01", "+1-1", "1-1 ", "1-1-1", "18446744073709551616-1", "a-b", "١-1"]
        {
            assert!(bad.parse::<EntryId>().is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn ids_print_and_parse(ms: u64, n: u64) {
            let id = EntryId { ms, n };
            prop_assert_eq!(id.to_string().parse::<EntryId>().unwrap(), id);
        }

        #[test]
        fn no_text_panics_and_what_parses_prints_as_it_was(text in "\\PC*|[0-9-]{0,24}") {
            if let Ok(id) = text.parse::<EntryId>() {
                prop_assert_eq!(id.to_string(), text.clone());
            }
            if let Ok(name) = text.parse::<Name>() {
                prop_assert_eq!(name.as_str(), text);
            }
        }
    }
}
