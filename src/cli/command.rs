//! `moorline command`: one command to a session's agents.

use clap::Args;

use super::{Ending, Failure, Gateway, json_or_text, output, parse_name};
use crate::{
    client::{Command, random_name},
    id::Name,
    trace::Traceparent,
};

/// Send a command to a session's agents
///
/// Every surface that follows the session sees the command, and what became of it. The command's id is printed.
#[derive(Debug, Args)]
#[command(after_help = super::EXIT_CODES)]
pub(super) struct CommandArgs {
    /// The session
    #[arg(value_parser = parse_name)]
    session: Name,
    /// What is to be done: stop, steer, message, or a type of your own
    #[arg(value_name = "TYPE")]
    kind: String,
    /// Only this run
    #[arg(long, value_parser = parse_name)]
    run: Option<Name>,
    /// Only this agent
    #[arg(long, value_parser = parse_name)]
    agent: Option<Name>,
    /// What the agents are to know: JSON, or plain text
    #[arg(long, value_name = "JSON|TEXT")]
    data: Option<String>,
    /// The command's id; the same id again is the same command [default: random]
    #[arg(long, value_parser = parse_name)]
    id: Option<Name>,
    /// The command expires after this long without an outcome
    #[arg(long, value_name = "MS")]
    ttl_ms: Option<u64>,
    /// For stop: how long a run may take to end by itself
    #[arg(long, value_name = "MS")]
    grace_ms: Option<u64>,
    /// For stop: the run's children too
    #[arg(long)]
    tree: bool,
    /// The trace that the agents' work is to continue, as W3C Trace Context writes it [env: TRACEPARENT=]
    #[arg(long, value_name = "TEXT")]
    traceparent: Option<Traceparent>,
    #[command(flatten)]
    gateway: Gateway,
}

pub(super) async fn run(args: CommandArgs) -> Result<Ending, Failure> {
    let command = Command {
        kind: args.kind,
        run: args.run,
        agent: args.agent,
        data: args.data.as_deref().map(json_or_text),
        // With an id of its own the request can be sent again, by hand or by a proxy, and is still one command.
        id: Some(args.id.unwrap_or_else(|| random_name("c"))),
        ttl_ms: args.ttl_ms,
        grace_ms: args.grace_ms,
        tree: args.tree,
        // What is around us may set the variable to anything; only what was typed here is worth an error.
        traceparent: args.traceparent.or_else(|| std::env::var("TRACEPARENT").ok()?.parse().ok()),
    };
    let issued = args.gateway.client()?.command(&args.session, &command).await?;
    output::line(&issued.command.to_string())?;
    Ok(Ending::Done)
}
