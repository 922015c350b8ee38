//! `moorline sessions`: look at a session, close it, delete it.

use clap::{Args, Subcommand};
use serde_json::Value;
use time::OffsetDateTime;

use super::{Ending, Failure, Gateway, output, parse_name};
use crate::id::Name;

#[derive(Debug, Subcommand)]
#[command(after_help = super::EXIT_CODES)]
pub(super) enum SessionsAction {
    /// What a session holds: its lanes, runs, pending commands and approvals. Times are in UTC
    #[command(after_help = super::EXIT_CODES)]
    Show {
        #[command(flatten)]
        target: Target,
        /// The gateway's answer as it is, with its times in milliseconds
        #[arg(long)]
        json: bool,
    },
    /// End a session: what runs is cancelled, nothing can be appended any more, followers end
    #[command(after_help = super::EXIT_CODES)]
    Close(Target),
    /// Erase a session and all that it holds
    #[command(after_help = super::EXIT_CODES)]
    Delete(Target),
}

#[derive(Debug, Args)]
pub(super) struct Target {
    /// The session
    #[arg(value_parser = parse_name)]
    session: Name,
    #[command(flatten)]
    gateway: Gateway,
}

pub(super) async fn run(action: SessionsAction) -> Result<Ending, Failure> {
    match action {
        SessionsAction::Show { target, json } => {
            let session = target.gateway.client()?.session(&target.session).await?;
            let text = if json { session.to_string() } else { describe(&session) };
            output::line(text.trim_end())?;
        }
        SessionsAction::Close(target) => {
            target.gateway.client()?.close(&target.session).await?;
            output::notice(format_args!("{} is closed", target.session));
        }
        SessionsAction::Delete(target) => {
            target.gateway.client()?.delete(&target.session).await?;
            output::notice(format_args!("{} is deleted", target.session));
        }
    }
    Ok(Ending::Done)
}

/// What a gateway gives in milliseconds since 1970. What another one calls otherwise is shown as a number.
const MOMENTS: [&str; 8] = ["created", "now", "closed", "started", "ended", "lease_until", "issued", "expires"];

/// A moment in UTC, as ISO 8601 writes it.
fn moment(ms: u64) -> Option<String> {
    let at = OffsetDateTime::from_unix_timestamp(i64::try_from(ms / 1000).ok()?).ok()?;
    let (date, (hour, minute, second)) = (at.date(), at.to_hms());
    Some(format!("{date}T{hour:02}:{minute:02}:{second:02}.{:03}Z", ms % 1000))
}

/// The answer as an indented outline: whatever a gateway says is shown, so a newer one needs no newer program.
fn describe(session: &Value) -> String {
    let mut out = String::new();
    outline(session, 0, &mut out);
    out
}

fn outline(value: &Value, depth: usize, out: &mut String) {
    let pairs: Vec<(String, &Value)> = match value {
        Value::Object(map) => map.iter().map(|(key, value)| (key.clone(), value)).collect(),
        Value::Array(items) => items.iter().enumerate().map(|(i, item)| (format!("{}", i + 1), item)).collect(),
        _ => return,
    };
    for (key, value) in pairs {
        let indent = "  ".repeat(depth);
        match value {
            Value::Object(map) if map.is_empty() => out.push_str(&format!("{indent}{key}: none\n")),
            Value::Array(items) if items.is_empty() => out.push_str(&format!("{indent}{key}: none\n")),
            Value::Object(_) | Value::Array(_) => {
                out.push_str(&format!("{indent}{key}:\n"));
                outline(value, depth + 1, out);
            }
            Value::Number(ms) if MOMENTS.contains(&key.as_str()) => {
                let text = ms.as_u64().and_then(moment).unwrap_or_else(|| ms.to_string());
                out.push_str(&format!("{indent}{key}: {text}\n"));
            }
            Value::String(text) => out.push_str(&format!("{indent}{key}: {}\n", output::printable(text))),
            other => out.push_str(&format!("{indent}{key}: {other}\n")),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn times_are_shown_as_dates_and_durations_as_numbers() {
        let session = json!({"created": 1_795_766_940_129_u64, "closed": null, "lanes": {"events": {"count": 3}},
            "runs": [{"run": "r1", "lease_ms": 30_000, "lease_until": u64::MAX}]});
        assert_eq!(
            describe(&session),
            "created: 2026-11-27T08:09:00.129Z\nclosed: null\nlanes:\n  events:\n    count: 3\n\
             runs:\n  1:\n    run: r1\n    lease_ms: 30000\n    lease_until: 18446744073709551615\n"
        );
    }
}
