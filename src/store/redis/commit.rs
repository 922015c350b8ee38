//! The one write: a [`Commit`] as arguments of `commit.lua`, and the script's reply as an [`Outcome`].

use bytes::Bytes;
use redis::{Cmd, Value};

use super::{Keys, RedisConfig, array, link::Link, pairs, script::Script, store_error, text, unreadable};
use crate::{
    id::{EntryId, Lane, Ms, Name},
    store::{Commit, Outcome, PRODUCERS_MAX, Part, Parted, Snapshot, State, StoreError},
};

/// Everything that the arguments are made of.
pub struct Arguments<'a> {
    pub keys: &'a Keys,
    pub session: &'a Name,
    pub config: &'a RedisConfig,
    pub commit: &'a Commit,
}

/// `commit.lua`.
pub fn script(config: &RedisConfig) -> Script {
    let body = include_str!("commit.lua").replace("PRODUCERS_MAX", &PRODUCERS_MAX.to_string());
    Script::new(body, config.durability, config.timeout)
}

/// Commits.
pub async fn run(script: &Script, link: &mut Link, arguments: &Arguments<'_>) -> Result<Outcome, StoreError> {
    let reply = script.run(link, |cmd| arguments.write(cmd), committed).await.map_err(store_error)?;
    match reply.unconfirmed {
        Some(unconfirmed) => Err(unconfirmed),
        None => outcome(reply.value, arguments.commit),
    }
}

/// Not a conflict. That has written nothing, and the state that it comes with must not grow old.
fn committed(reply: &Value) -> bool {
    matches!(reply, Value::Array(parts) if matches!(parts.first(), Some(Value::BulkString(kind)) if kind == b"ok"))
}

impl Arguments<'_> {
    fn write(&self, cmd: &mut Cmd) {
        let Arguments { keys, session, config, commit } = self;
        cmd.arg(3).arg(keys.meta(session));
        for lane in Lane::ALL {
            cmd.arg(keys.lane(session, lane));
        }
        cmd.arg(keys.channel(session));
        cmd.arg(commit.expect.as_deref().unwrap_or_default());
        cmd.arg(commit.version.as_deref().unwrap_or_default());
        cmd.arg(commit.window.not_before);
        match commit.window.before {
            Ms::MAX => cmd.arg(""),
            before => cmd.arg(before),
        };
        cmd.arg(config.retention.ttl.as_millis() as u64).arg(config.retention.cap).arg(config.push_max);
        cmd.arg(u8::from(commit.closes));
        cmd.arg(commit.untouched.len());
        for (run, seen) in &commit.untouched {
            cmd.arg(run.as_str()).arg(*seen);
        }
        cmd.arg(commit.issued.len()).arg(&commit.issued);
        cmd.arg(commit.changes.len());
        for (key, value) in &commit.changes {
            cmd.arg(key).arg(value.as_deref().unwrap_or_default());
        }
        cmd.arg(commit.parts.len());
        for part in &commit.parts {
            let (id, epoch, seq) = part.producer.as_ref().map_or(("", 0, 0), |p| (p.id.as_str(), p.epoch, p.seq));
            cmd.arg(id).arg(epoch).arg(seq).arg(part.events.len()).arg(part.commands.len()).arg(part.touch.len());
            for run in &part.touch {
                cmd.arg(run.as_str());
            }
            for payload in part.events.iter().chain(&part.commands) {
                cmd.arg(&payload[..]);
            }
        }
    }
}

fn outcome(reply: Value, commit: &Commit) -> Result<Outcome, StoreError> {
    let mut reply = array(reply)?.into_iter();
    let kind = reply.next().map(word).transpose()?;
    let Some(Value::Int(now)) = reply.next() else { return Err(unreadable("a commit's answer", &kind)) };
    let now = now as Ms;
    match kind.as_deref() {
        Some("ok") => {
            let parts = reply.zip(&commit.parts).map(|(reply, part)| parted(array(reply)?, part));
            let parts = parts.collect::<Result<Vec<_>, _>>()?;
            if parts.len() != commit.parts.len() {
                return Err(unreadable("a commit's answer", &parts));
            }
            Ok(Outcome::Committed { now, parts })
        }
        Some("conflict") => snapshot(now, pairs(reply.next().unwrap_or(Value::Nil))?).map(Outcome::Conflict),
        _ => Err(unreadable("a commit's answer", &kind)),
    }
}

fn parted(reply: Vec<Value>, part: &Part) -> Result<Parted, StoreError> {
    match &reply[..] {
        [Value::Int(events), Value::Int(commands), Value::Int(skipped)] => Ok(Parted::Appended {
            events_from: *events as u64,
            commands_from: if part.commands.is_empty() { 0 } else { *commands as u64 },
            skipped: *skipped as usize,
        }),
        [refusal, numbers @ ..] => match (word(refusal.clone())?.as_str(), numbers) {
            ("duplicate", []) => Ok(Parted::Duplicate(None)),
            ("duplicate", [Value::Int(ms), Value::Int(n)]) => {
                let (ms, first) = (*ms as Ms, *n as u64);
                Ok(Parted::Duplicate(Some(
                    (first..first + part.events.len() as u64).map(|n| EntryId { ms, n }).collect(),
                )))
            }
            ("stale", [Value::Int(epoch)]) => Ok(Parted::StaleEpoch { current: *epoch as u64 }),
            ("gap", [Value::Int(expected)]) => Ok(Parted::ProducerGap { expected: *expected as u64 }),
            ("epoch", []) => Ok(Parted::EpochNotAtZero),
            ("producers", []) => Ok(Parted::TooManyProducers),
            _ => Err(unreadable("a part's answer", &reply)),
        },
        [] => Err(unreadable("a part's answer", &reply)),
    }
}

fn word(value: Value) -> Result<String, StoreError> {
    match value {
        Value::SimpleString(word) => Ok(word),
        other => text(other),
    }
}

/// The control state from the fields of meta; other fields are passed over.
pub fn snapshot(now: Ms, fields: Vec<(String, Bytes)>) -> Result<Snapshot, StoreError> {
    let mut state = State { version: "".into(), created: 0, closed: None, records: Vec::new(), touched: Vec::new() };
    let number = |value: &Bytes| -> Result<Ms, StoreError> {
        let text = std::str::from_utf8(value).ok().and_then(|t| t.parse().ok());
        text.ok_or_else(|| unreadable("a number of meta", value))
    };
    for (key, value) in fields {
        match key.split_at_checked(2) {
            Some(("r.", record)) => state.records.push((record.to_owned(), value)),
            Some(("u.", run)) => {
                let run = run.parse().map_err(|_| unreadable("a run of meta", &key))?;
                state.touched.push((run, number(&value)?));
            }
            Some(("at", "")) => state.created = number(&value)?,
            _ if key == "v" => state.version = std::str::from_utf8(&value).unwrap_or_default().into(),
            _ if key == "x" => state.closed = Some(number(&value)?),
            _ => {}
        }
    }
    Ok(Snapshot { now, state: (!state.version.is_empty()).then_some(state) })
}
