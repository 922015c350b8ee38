//! Events on their way in: what a publisher sends, checked, and written in the one form that the log keeps.
//!
//! The log's form (the *payload*) is compact JSON on one line with its keys in a fixed order, `data` last. It is the
//! SSE data line as it stands, so an event is encoded once, when it comes in.

use std::borrow::Cow;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::id::{Name, TYPE_MAX};

/// The type of an event that names none.
pub const DEFAULT_TYPE: &str = "message";

/// How deep arrays and objects may nest. Common JSON parsers stop at 128 or overflow; a client must be able to read
/// what the log holds.
const DEPTH_MAX: usize = 120;

/// Types that only the gateway writes.
const RESERVED: [&str; 4] = ["session.", "run.", "command.", "approval."];

/// Why an event is refused. Nothing of the request it came in with is stored, but for the lines of an endless body
/// that were stored before.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadEvent {
    /// Not JSON at all.
    #[error("not valid JSON: {0}")]
    Json(String),
    /// JSON, but not an event.
    #[error("not an event: {0}; an event is an object with the keys type, data, agent and run")]
    Shape(String),
    /// Neither type nor data.
    #[error("an event needs a type or data")]
    Empty,
    /// A type outside of what filters and SSE lines can carry.
    #[error(
        "the type {0:?} is not usable: it takes 1 to {TYPE_MAX} printable ASCII characters, without space, comma, quote or backslash"
    )]
    Type(String),
    /// A type that only the gateway writes.
    #[error(
        "types that begin with session., run., command. or approval. are written by the gateway; {0:?} is one of them"
    )]
    Reserved(String),
    /// An agent's or run's name outside of the alphabet.
    #[error("the {what} {name:?} {why}")]
    Name {
        /// `agent` or `run`.
        what: &'static str,
        /// The text that is no name.
        name: String,
        /// What is wrong with it.
        why: crate::id::BadName,
    },
    /// It names another agent than the only one that its sender may speak as.
    #[error("the token is for the agent {own:?}, and can't speak as {given:?}")]
    Agent {
        /// Who sends it.
        own: Name,
        /// Whose it says it is.
        given: Name,
    },
    /// Nested deeper than clients can be expected to read.
    #[error("data nests deeper than {DEPTH_MAX} levels")]
    Depth,
    /// More bytes than the limit.
    #[error("the event takes {size} bytes in the log; the limit is {limit}")]
    TooLarge {
        /// The size of the payload, or of what had been read of it.
        size: usize,
        /// The configured limit.
        limit: usize,
    },
}

/// What the request gives to events that do not say it themselves.
#[derive(Debug, Clone, Default)]
pub struct Defaults {
    /// `?agent=`
    pub agent: Option<Name>,
    /// `?run=`
    pub run: Option<Name>,
    /// The sender may speak as no other agent than that.
    pub bound: bool,
}

/// An accepted event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The run it belongs to; the rules look at it.
    pub run: Option<Name>,
    /// Whose it is.
    pub agent: Option<Name>,
    /// Its sender may speak only as that agent, and so only for that agent's runs.
    pub bound: bool,
    /// Its form in the log.
    pub payload: Bytes,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Incoming<'a> {
    #[serde(rename = "type", borrow)]
    kind: Option<Text<'a>>,
    #[serde(borrow)]
    agent: Option<Text<'a>>,
    #[serde(borrow)]
    run: Option<Text<'a>>,
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'a RawValue>,
}

/// Where it lies, if it has no escapes. (serde borrows a `Cow` of its own, but makes a `String` of one in an `Option`.)
#[derive(Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl Text<'_> {
    fn of<'t>(text: &'t Option<Text<'_>>) -> Option<&'t str> {
        text.as_ref().map(|text| &*text.0)
    }
}

/// `null` is data too: only an absent key is `None`.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

impl Event {
    /// One event from its JSON. `limit` is the largest payload, in bytes.
    pub fn from_json(json: &str, defaults: &Defaults, limit: usize) -> Result<Event, BadEvent> {
        if !json.trim_start_matches([' ', '\t', '\r', '\n']).starts_with('{') {
            // serde would read a struct from an array too; and the message is clearer from here.
            serde_json::from_str::<&RawValue>(json).map_err(|e| BadEvent::Json(e.to_string()))?;
            return Err(BadEvent::Shape("the value is not an object".into()));
        }
        let incoming: Incoming = serde_json::from_str(json).map_err(|e| match e.classify() {
            serde_json::error::Category::Data => BadEvent::Shape(e.to_string()),
            _ => BadEvent::Json(e.to_string()),
        })?;
        if incoming.kind.is_none() && incoming.data.is_none() {
            return Err(BadEvent::Empty);
        }
        let kind = Text::of(&incoming.kind).unwrap_or(DEFAULT_TYPE);
        check_type(kind)?;
        let agent = name("agent", Text::of(&incoming.agent), &defaults.agent)?;
        if let (true, Some(own)) = (defaults.bound, &defaults.agent)
            && let Some(given) = agent.as_ref().filter(|given| *given != own)
        {
            return Err(BadEvent::Agent { own: own.clone(), given: given.clone() });
        }
        let run = name("run", Text::of(&incoming.run), &defaults.run)?;
        let event = Event::build(kind, agent, run, incoming.data.map(RawValue::get), limit)?;
        Ok(Event { bound: defaults.bound, ..event })
    }

    /// One event of an SSE body, as any model or agent server sends it: `data` is kept as JSON if it parses, else as
    /// a string; the type is the `event:` line, else the JSON's own `type` where that is usable, else `message`.
    pub fn from_sse(event: Option<&str>, data: &str, defaults: &Defaults, limit: usize) -> Result<Event, BadEvent> {
        #[derive(Deserialize)]
        struct Typed<'a> {
            #[serde(rename = "type", borrow)]
            kind: Cow<'a, str>,
        }
        let json = serde_json::from_str::<&RawValue>(data).ok().map(RawValue::get);
        let own = match (event, json) {
            (None, Some(json)) if json.starts_with('{') => serde_json::from_str::<Typed>(json).ok().map(|t| t.kind),
            _ => None,
        };
        let kind = match event {
            Some(kind) => {
                check_type(kind)?;
                kind
            }
            // The type stays readable inside of the data, so falling back loses nothing.
            None => own.as_deref().filter(|kind| check_type(kind).is_ok()).unwrap_or(DEFAULT_TYPE),
        };
        let quoted;
        let json = match json {
            Some(json) => json,
            None => {
                quoted = serde_json::to_string(data).map_err(|e| BadEvent::Json(e.to_string()))?;
                &quoted
            }
        };
        let event = Event::build(kind, defaults.agent.clone(), defaults.run.clone(), Some(json), limit)?;
        Ok(Event { bound: defaults.bound, ..event })
    }

    fn build(
        kind: &str,
        agent: Option<Name>,
        run: Option<Name>,
        data: Option<&str>,
        limit: usize,
    ) -> Result<Event, BadEvent> {
        let mut payload = Payload::new(kind);
        payload.name("agent", agent.as_ref());
        payload.name("run", run.as_ref());
        if let Some(data) = data {
            payload.data(data)?;
        }
        let payload = payload.finish();
        if payload.len() > limit {
            return Err(BadEvent::TooLarge { size: payload.len(), limit });
        }
        Ok(Event { run, agent, bound: false, payload })
    }
}

/// Refuses a type that filters, SSE lines or the reserved prefixes do not allow.
pub fn check_type(kind: &str) -> Result<(), BadEvent> {
    if !usable_type(kind) {
        return Err(BadEvent::Type(kind.chars().take(TYPE_MAX).collect()));
    }
    if RESERVED.iter().any(|prefix| kind.starts_with(prefix)) {
        return Err(BadEvent::Reserved(kind.into()));
    }
    Ok(())
}

/// Whether a type can stand in a payload unescaped and in a comma list of a filter.
pub fn usable_type(kind: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_graphic() && !matches!(b, b',' | b'"' | b'\\');
    !kind.is_empty() && kind.len() <= TYPE_MAX && kind.bytes().all(allowed)
}

fn name(what: &'static str, given: Option<&str>, default: &Option<Name>) -> Result<Option<Name>, BadEvent> {
    match given {
        None => Ok(default.clone()),
        // Most events of a request carry the request's own agent and run: no new allocation for those.
        Some(given) if default.as_ref().is_some_and(|d| d.as_str() == given) => Ok(default.clone()),
        Some(given) => match given.parse() {
            Ok(name) => Ok(Some(name)),
            Err(why) => Err(BadEvent::Name { what, name: given.chars().take(crate::id::NAME_MAX).collect(), why }),
        },
    }
}

/// Writes a payload: one JSON object on one line, its keys in the order of the calls.
///
/// Types and names need no escaping (their alphabets exclude what JSON escapes); `data` is taken over as it was
/// written, without the white space between its tokens, so numbers keep their digits and no line break survives.
pub struct Payload(Vec<u8>);

impl Payload {
    /// Begins with the type, which must be [usable](usable_type).
    pub fn new(kind: &str) -> Payload {
        debug_assert!(usable_type(kind));
        let mut out = Vec::with_capacity(128);
        out.extend_from_slice(b"{\"type\":\"");
        out.extend_from_slice(kind.as_bytes());
        out.push(b'"');
        Payload(out)
    }

    /// Adds a key with a name, if there is one.
    pub fn name(&mut self, key: &str, name: Option<&Name>) {
        if let Some(name) = name {
            self.key(key);
            self.0.push(b'"');
            self.0.extend_from_slice(name.as_str().as_bytes());
            self.0.push(b'"');
        }
    }

    /// Adds `data` from JSON text that has been parsed before.
    pub fn data(&mut self, json: &str) -> Result<(), BadEvent> {
        self.key("data");
        compact(json.as_bytes(), &mut self.0)
    }

    /// Adds a key with a value of the gateway's own, which serialises to compact JSON without fail.
    pub fn value(&mut self, key: &str, value: &impl Serialize) {
        self.key(key);
        let begin = self.0.len();
        if serde_json::to_writer(&mut self.0, value).is_err() {
            self.0.truncate(begin);
            self.0.extend_from_slice(b"null");
        }
    }

    /// The payload.
    pub fn finish(mut self) -> Bytes {
        self.0.push(b'}');
        self.0.into()
    }

    fn key(&mut self, key: &str) {
        self.0.extend_from_slice(b",\"");
        self.0.extend_from_slice(key.as_bytes());
        self.0.extend_from_slice(b"\":");
    }
}

/// The same JSON without the white space between its tokens, as it may stand in a payload: its numbers keep their digits.
pub fn compacted(json: &RawValue) -> Result<Box<RawValue>, BadEvent> {
    let mut out = Vec::new();
    compact(json.get().as_bytes(), &mut out)?;
    let text = String::from_utf8(out).map_err(|e| BadEvent::Json(e.to_string()))?;
    RawValue::from_string(text).map_err(|e| BadEvent::Json(e.to_string()))
}

/// Copies valid JSON without the white space between its tokens.
fn compact(json: &[u8], out: &mut Vec<u8>) -> Result<(), BadEvent> {
    out.reserve(json.len());
    let (mut depth, mut at) = (0usize, 0);
    while at < json.len() {
        match json[at] {
            b'"' => {
                let end = string_end(json, at);
                out.extend_from_slice(&json[at..end]);
                at = end;
                continue;
            }
            b' ' | b'\t' | b'\n' | b'\r' => {}
            byte => {
                match byte {
                    b'{' | b'[' => depth += 1,
                    b'}' | b']' => depth = depth.saturating_sub(1),
                    _ => {}
                }
                if depth > DEPTH_MAX {
                    return Err(BadEvent::Depth);
                }
                out.push(byte);
            }
        }
        at += 1;
    }
    Ok(())
}

/// The index after the closing quote of the string that opens at `open`.
fn string_end(json: &[u8], open: usize) -> usize {
    let mut at = open + 1;
    while let Some(step) = memchr::memchr2(b'"', b'\\', &json[at.min(json.len())..]) {
        at += step;
        if json[at] == b'"' {
            return at + 1;
        }
        at += 2;
    }
    json.len()
}

/// The keys of a payload that filters look at, and the data. Borrows from the payload.
#[derive(Debug, Deserialize)]
pub struct Head<'a> {
    /// The event's or command's type.
    #[serde(rename = "type", borrow)]
    pub kind: &'a str,
    /// Whose it is, or whom it is for.
    #[serde(borrow)]
    pub agent: Option<&'a str>,
    /// The run it belongs to.
    #[serde(borrow)]
    pub run: Option<&'a str>,
    /// The event's own JSON.
    #[serde(borrow)]
    pub data: Option<&'a RawValue>,
}

impl<'a> Head<'a> {
    /// Reads a payload of the log. `None` if something else than a gateway wrote it.
    pub fn of(payload: &'a [u8]) -> Option<Head<'a>> {
        serde_json::from_slice(payload).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    const LIMIT: usize = 256 * 1024;

    fn parse(json: &str) -> Result<Event, BadEvent> {
        Event::from_json(json, &Defaults::default(), LIMIT)
    }

    fn text(event: &Event) -> &str {
        std::str::from_utf8(&event.payload).unwrap()
    }

    #[test]
    fn names_are_read_where_they_lie() {
        let event: Incoming = serde_json::from_str(r#"{"type":"t","agent":"a","run":"\u0072"}"#).unwrap();
        assert!(matches!((event.kind, event.agent), (Some(Text(Cow::Borrowed("t"))), Some(Text(Cow::Borrowed("a"))))));
        assert!(matches!(event.run, Some(Text(Cow::Owned(run))) if run == "r"));
    }

    #[test]
    fn an_event_is_stored_compact_and_in_key_order() {
        let event =
            parse("{\"data\": {\"a\" : [1, 2.50,\n\"x \\\" y\"]},\r\n \"agent\":\"w\", \"type\":\"text-delta\"}")
                .unwrap();
        assert_eq!(text(&event), r#"{"type":"text-delta","agent":"w","data":{"a":[1,2.50,"x \" y"]}}"#);
    }

    #[test]
    fn the_request_gives_defaults_and_the_event_overrides_them() {
        let defaults = Defaults { agent: Some("a".parse().unwrap()), run: Some("r".parse().unwrap()), bound: false };
        let event = Event::from_json(r#"{"data":1,"run":"q"}"#, &defaults, LIMIT).unwrap();
        assert_eq!(text(&event), r#"{"type":"message","agent":"a","run":"q","data":1}"#);
    }

    #[test]
    fn what_is_no_event_is_refused() {
        let refused = |json: &str| parse(json).unwrap_err();
        assert!(matches!(refused("{\"data\":"), BadEvent::Json(_)));
        assert!(matches!(refused("nonsense"), BadEvent::Json(_)));
        for json in [
            "1",
            "\"x\"",
            "null",
            "[\"a\",\"b\",\"c\",1]",
            "{\"type\":1}",
            "{\"data\":1,\"colour\":2}",
            "{\"data\":1,\"data\":2}",
        ] {
            assert!(matches!(refused(json), BadEvent::Shape(_)), "{json}");
        }
        assert_eq!(refused("{}"), BadEvent::Empty);
        for kind in ["", "a b", "a,b", "a\\nb", "\\u0000", "ä"] {
            assert!(matches!(refused(&format!("{{\"type\":\"{kind}\"}}")), BadEvent::Type(_)), "{kind}");
        }
        assert!(matches!(refused(r#"{"type":"run.ended"}"#), BadEvent::Reserved(_)));
        assert!(matches!(refused(r#"{"data":1,"agent":"a\u0000"}"#), BadEvent::Name { what: "agent", .. }));
        let deep = format!("{{\"data\":{}1{}}}", "[".repeat(200), "]".repeat(200));
        assert_eq!(refused(&deep), BadEvent::Depth);
        let large = format!("{{\"data\":\"{}\"}}", "x".repeat(LIMIT));
        assert!(matches!(refused(&large), BadEvent::TooLarge { .. }));
    }

    #[test]
    fn an_sse_event_takes_its_type_from_the_line_then_the_json_then_the_default() {
        let sse = |event, data| Event::from_sse(event, data, &Defaults::default(), LIMIT);
        let payload = |event, data| text(&sse(event, data).unwrap()).to_owned();
        assert_eq!(payload(Some("delta"), r#"{"type":"x"}"#), r#"{"type":"delta","data":{"type":"x"}}"#);
        assert_eq!(payload(None, r#"{"type":"x"}"#), r#"{"type":"x","data":{"type":"x"}}"#);
        assert_eq!(
            payload(None, r#"{"type":"session.created"}"#),
            r#"{"type":"message","data":{"type":"session.created"}}"#
        );
        assert_eq!(payload(None, "Hel\"lo\nthere"), r#"{"type":"message","data":"Hel\"lo\nthere"}"#);
        assert!(matches!(sse(Some("run.ended"), "1"), Err(BadEvent::Reserved(_))));
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".*".prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 40, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::vec((".*", inner), 0..6).prop_map(|kv| Value::Object(kv.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn the_log_keeps_the_value_on_one_line(data in any_json(), pretty: bool) {
            let event = json!({"type": "t", "data": data});
            let sent = if pretty { serde_json::to_string_pretty(&event) } else { serde_json::to_string(&event) }.unwrap();
            let stored = parse(&sent).unwrap();
            prop_assert!(!stored.payload.iter().any(|b| matches!(b, b'\n' | b'\r')));
            prop_assert_eq!(serde_json::from_slice::<Value>(&stored.payload).unwrap(), serde_json::from_str::<Value>(&sent).unwrap());
            prop_assert_eq!(Head::of(&stored.payload).unwrap().kind, "t");
        }

        #[test]
        fn no_text_panics(text in "\\PC*|[\\[\\]{}\",:\\\\a-z0-9 \\n]{0,60}", event in proptest::option::of(".*")) {
            let _ = parse(&text);
            let _ = Event::from_sse(event.as_deref(), &text, &Defaults::default(), 100);
        }
    }
}
