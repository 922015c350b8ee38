//! What a token says: who, until when, and what they may do in which sessions.

use std::{fmt, str::FromStr, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::Refused;
use crate::id::Name;

/// The longest subject, in bytes.
pub const SUBJECT_MAX: usize = 256;

/// Something that a token can allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Right {
    /// To follow and look.
    Read,
    /// To be an agent: events, runs, outcomes, asking for approvals.
    Append,
    /// To ask something of the agents, and to decide.
    Command,
    /// To close and erase.
    Manage,
}

impl Right {
    /// All of them.
    pub const ALL: [Right; 4] = [Right::Read, Right::Append, Right::Command, Right::Manage];

    /// As claims and answers say it.
    pub fn as_str(self) -> &'static str {
        match self {
            Right::Read => "read",
            Right::Append => "append",
            Right::Command => "command",
            Right::Manage => "manage",
        }
    }
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which sessions: `chat-42` is that one, `team-*` all that begin so, `*` all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pattern {
    /// This session.
    Exactly(Name),
    /// All whose names begin so.
    Prefix(Box<str>),
}

/// A text that is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no pattern of sessions: it is a session's name, or the beginning of one and a star, as in team-*")]
pub struct BadPattern;

impl FromStr for Pattern {
    type Err = BadPattern;

    fn from_str(text: &str) -> Result<Self, BadPattern> {
        let Some(prefix) = text.strip_suffix('*') else {
            return text.parse().map(Pattern::Exactly).map_err(|_| BadPattern);
        };
        // Any beginning of a name is a name itself, or `.` or `..`, or nothing.
        let begins_a_name = prefix.is_empty() || format!("{prefix}x").parse::<Name>().is_ok();
        begins_a_name.then(|| Pattern::Prefix(prefix.into())).ok_or(BadPattern)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Pattern::Exactly(name) => write!(f, "{name}"),
            Pattern::Prefix(prefix) => write!(f, "{prefix}*"),
        }
    }
}

impl Pattern {
    fn matches(&self, session: &str) -> bool {
        match self {
            Pattern::Exactly(name) => name.as_str() == session,
            Pattern::Prefix(prefix) => session.starts_with(&**prefix),
        }
    }
}

/// The claims as a token carries them. Others are passed over.
#[derive(Debug, Deserialize)]
pub struct Claims {
    sub: String,
    exp: f64,
    /// Whom it is for, whatever form that has.
    aud: Option<serde_json::Value>,
    moorline: Option<Access>,
}

#[derive(Debug, Default, Deserialize)]
struct Access {
    #[serde(default)]
    sessions: Vec<String>,
    #[serde(default)]
    can: Vec<String>,
    #[serde(default)]
    agent: Option<Name>,
}

/// What a verified token allows.
#[derive(Debug, Clone, Default)]
pub struct Grant {
    /// Who it was given to: `sub`. Limits count by it.
    pub subject: Arc<str>,
    /// The only agent that its bearer may speak as; `None`: any.
    pub agent: Option<Name>,
    /// When it ends, leeway included, in seconds since the Unix epoch.
    pub until: f64,
    sessions: Box<[Pattern]>,
    can: Box<[Right]>,
}

impl Claims {
    /// Whether it is meant for somebody.
    pub fn names_an_audience(&self) -> bool {
        self.aud.is_some()
    }
}

impl Grant {
    /// Reads verified claims. A right that this version does not know allows nothing; a pattern that is none makes the
    /// token a bad one, or a typing mistake would show only as sessions that can't be reached.
    pub fn new(claims: Claims, leeway: Duration) -> Result<Self, Refused> {
        if claims.sub.is_empty() || claims.sub.len() > SUBJECT_MAX {
            return Err(Refused::Claim("sub"));
        }
        let access = claims.moorline.unwrap_or_default();
        let patterns: Result<_, BadPattern> = access.sessions.iter().map(|text| text.parse()).collect();
        let said = |right: &Right| access.can.iter().any(|word| word == right.as_str());
        Ok(Grant {
            subject: claims.sub.into(),
            agent: access.agent,
            until: claims.exp + leeway.as_secs_f64(),
            sessions: patterns.map_err(|_| Refused::Claim("moorline.sessions"))?,
            can: Right::ALL.into_iter().filter(said).collect(),
        })
    }

    /// Whether it is for this session at all.
    pub fn reaches(&self, session: &str) -> bool {
        self.sessions.iter().any(|pattern| pattern.matches(session))
    }

    /// Whether it gives this right, in the sessions that it [reaches](Grant::reaches).
    pub fn can(&self, right: Right) -> bool {
        self.can.contains(&right)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn grant(sessions: &[&str], can: &[&str]) -> Result<Grant, Refused> {
        let json = serde_json::json!({"sub": "s", "exp": 10, "other": 1,
                                      "moorline": {"sessions": sessions, "can": can, "new": true}});
        Grant::new(serde_json::from_value(json).unwrap(), Duration::from_secs(5))
    }

    #[test]
    fn a_pattern_is_a_name_or_its_beginning() {
        let grant = grant(&["chat-42", "team-*"], &["read"]).unwrap();
        for (session, reached) in [
            ("chat-42", true),
            ("chat-421", false),
            ("chat-4", false),
            ("team-", true),
            ("team-a", true),
            ("tea", false),
        ] {
            assert_eq!(grant.reaches(session), reached, "{session}");
        }
        for bad in ["", "a b", "a*b", "**", "*a", "a/*", "..", "ä*"] {
            assert_eq!(bad.parse::<Pattern>(), Err(BadPattern), "{bad}");
            assert!(self::grant(&[bad], &[]).is_err(), "{bad}");
        }
        for good in ["*", ".*", "..*", "a", "a:b~*"] {
            assert_eq!(good.parse::<Pattern>().unwrap().to_string(), good);
        }
    }

    #[test]
    fn what_is_not_said_is_not_allowed() {
        let all = |grant: &Grant| Right::ALL.map(|right| grant.can(right));
        assert_eq!(all(&grant(&["*"], &[]).unwrap()), [false; 4]);
        assert_eq!(all(&grant(&["*"], &["append", "fly", "Read", "manage "]).unwrap()), [false, true, false, false]);
        let empty = serde_json::json!({"sub": "s", "exp": 1.5});
        let empty = Grant::new(serde_json::from_value(empty).unwrap(), Duration::ZERO).unwrap();
        assert!(!empty.reaches("s") && empty.until == 1.5);
    }

    proptest! {
        #[test]
        fn no_session_is_reached_but_by_its_beginning(pattern in "[a-c]{0,3}\\*?", session in "[a-c]{1,4}") {
            let Ok(parsed) = pattern.parse::<Pattern>() else { return Ok(()) };
            let expected = match pattern.strip_suffix('*') {
                Some(prefix) => session.starts_with(prefix),
                None => session == pattern,
            };
            prop_assert_eq!(parsed.matches(&session), expected);
        }
    }
}
