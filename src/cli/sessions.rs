//! `moorline sessions`: look at a session, close it, delete it.

use clap::{Args, Subcommand};
use serde_json::Value;

use super::{Ending, Failure, Gateway, output, parse_name};
use crate::id::Name;

#[derive(Debug, Subcommand)]
#[command(after_help = super::EXIT_CODES)]
pub(super) enum SessionsAction {
    /// What a session holds: its lanes, runs, pending commands and approvals
    #[command(after_help = super::EXIT_CODES)]
    Show {
        #[command(flatten)]
        target: Target,
        /// The gateway's answer as it is
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
            Value::String(text) => out.push_str(&format!("{indent}{key}: {}\n", output::printable(text))),
            other => out.push_str(&format!("{indent}{key}: {other}\n")),
        }
    }
}
