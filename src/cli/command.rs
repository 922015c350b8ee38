//! `moorline command`: one command to a session's agents.

use clap::Args;

use super::{Ending, Failure, Gateway, broken_json, json_or_text, output, parse_name, whole};
use crate::{
    client::{Client, Command, random_name},
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
    /// What is to be done: stop, steer, message, decide, or a type of your own
    #[arg(value_name = "TYPE")]
    kind: String,
    /// Only this run
    #[arg(long, value_parser = parse_name)]
    run: Option<Name>,
    /// Only this agent
    #[arg(long, value_parser = parse_name)]
    agent: Option<Name>,
    /// What the agents are to know: JSON, or plain text. For steer and message {"text":"…"}, for decide
    /// {"decision":"approve"} or deny
    #[arg(long, value_name = "JSON|TEXT")]
    data: Option<String>,
    /// The command's id; the same id again is the same command [default: random]
    #[arg(long, value_parser = parse_name)]
    id: Option<Name>,
    /// The command expires after this long without an outcome
    #[arg(long, value_name = "MS", value_parser = whole::<u64>(1))]
    ttl_ms: Option<u64>,
    /// For stop: how long a run may take to end by itself
    #[arg(long, value_name = "MS", value_parser = whole::<u64>(0))]
    grace_ms: Option<u64>,
    /// For stop: the run's children too
    #[arg(long)]
    tree: bool,
    /// For decide: the approval that is asked for
    #[arg(long, value_parser = parse_name, value_name = "NAME")]
    approval: Option<Name>,
    /// The trace that the agents' work is to continue, as W3C Trace Context writes it [env: TRACEPARENT=]
    #[arg(long, value_name = "TEXT")]
    traceparent: Option<Traceparent>,
    #[command(flatten)]
    gateway: Gateway,
}

pub(super) async fn run(args: CommandArgs) -> Result<Ending, Failure> {
    if let Some(why) = args.data.as_deref().and_then(broken_json) {
        output::notice(format_args!("--data is sent as a text, for it is no JSON: {why}"));
    }
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
        approval: args.approval,
        // What is around us may set the variable to anything; only what was typed here is worth an error.
        traceparent: args.traceparent.or_else(|| std::env::var("TRACEPARENT").ok()?.parse().ok()),
    };
    let client = args.gateway.client()?;
    let issued = client.command(&args.session, &command).await?;
    output::line(&issued.command.to_string())?;
    if let (Some(run), "stop") = (&command.run, command.kind.as_str())
        && is_expected(&client, &args.session, run).await
    {
        output::notice(format_args!(
            "nobody has started the run {run} in {} yet: the stop waits for it, and ends it as it starts",
            args.session
        ));
    }
    Ok(Ending::Done)
}

/// Whether a run is only waited for. Not, where that can't be known: the token may not read.
async fn is_expected(client: &Client, session: &Name, run: &Name) -> bool {
    let Ok(session) = client.session(session).await else { return false };
    let mut runs = session["runs"].as_array().into_iter().flatten();
    runs.any(|found| found["run"] == run.as_str() && found["status"] == "expected")
}
