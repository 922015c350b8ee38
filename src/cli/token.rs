//! `moorline token`: a token for development.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};

use super::{Ending, Failure, duration, output, parse_name};
use crate::{
    auth::{Order, Pattern, Right, SUBJECT_MAX, mint},
    id::Name,
};

const EXAMPLES: &str = "\
Examples:
  openssl rand -hex 32 > secret
  moorline serve --auth-secret-file secret      # until Ctrl-C; in another terminal:
  export MOORLINE_AUTH_SECRET_FILE=secret

  A browser of ada's, that may also steer and stop:
    moorline token 'chat-*' --can read,command --sub ada
  An agent, which can only be the writer:
    moorline token chat-1 --can append --agent writer --ttl 8h
  For all that the command line does:
    export MOORLINE_TOKEN=$(moorline token '*' --can read,append,command,manage)

Exit codes: 0 done, 1 failed, 2 wrong usage.";

/// Make a token for development
///
/// Signed with HS256 and the secret that the gateway has (--auth-secret-file). In production the application that
/// knows its users issues them, with the same claims: sub, exp, and
/// moorline: {"sessions":["chat-42","team-*"],"can":["read","append","command","manage"],"agent":"writer"}.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct TokenArgs {
    /// The sessions that it is for: names, or the beginnings of names and a star, as in team-* (all: '*')
    #[arg(required = true, value_name = "SESSION|PATTERN")]
    sessions: Vec<Pattern>,
    /// What it allows there (comma list)
    #[arg(long, value_enum, value_delimiter = ',', default_value = "read", value_name = "RIGHTS")]
    can: Vec<RightArg>,
    /// The only agent that its bearer may speak as [default: any]
    #[arg(long, value_parser = parse_name, value_name = "NAME")]
    agent: Option<Name>,
    /// Whom it is for; limits count by it
    #[arg(long, default_value = "developer", value_parser = subject, value_name = "TEXT")]
    sub: String,
    /// How long it is good
    #[arg(long, value_parser = lifetime, default_value = "1h", value_name = "TIME")]
    ttl: Duration,
    /// The audience, where the gateway has --auth-audience
    #[arg(long, env = "MOORLINE_AUTH_AUDIENCE", value_name = "TEXT")]
    audience: Option<String>,
    /// The issuer, where the gateway has --auth-issuer
    #[arg(long, env = "MOORLINE_AUTH_ISSUER", value_name = "TEXT")]
    issuer: Option<String>,
    /// Holds the secret
    #[arg(long, env = "MOORLINE_AUTH_SECRET_FILE", value_name = "FILE")]
    secret_file: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum RightArg {
    /// Follow events, read pages, see what a session holds
    Read,
    /// Be an agent: events, runs, outcomes, asking for approvals, following commands
    Append,
    /// Ask something of the agents: commands, stops, decisions
    Command,
    /// Close and delete sessions
    Manage,
}

pub(super) fn run(args: TokenArgs) -> Result<Ending, Failure> {
    let can = args.can.iter().map(|right| match right {
        RightArg::Read => Right::Read,
        RightArg::Append => Right::Append,
        RightArg::Command => Right::Command,
        RightArg::Manage => Right::Manage,
    });
    let given = |text: Option<String>| text.filter(|text| !text.is_empty());
    let order = Order {
        subject: args.sub,
        sessions: args.sessions,
        can: can.collect(),
        agent: args.agent,
        audience: given(args.audience),
        issuer: given(args.issuer),
        ttl: args.ttl,
    };
    let token = mint(&args.secret_file, &order).map_err(|error| Failure::Other(error.to_string()))?;
    output::line(&token)?;
    Ok(Ending::Done)
}

/// Tokens end on whole seconds: one of less would have ended when it is made.
fn lifetime(text: &str) -> Result<Duration, String> {
    duration(text).and_then(|time| if time.as_secs() == 0 { Err("it takes at least 1s".to_owned()) } else { Ok(time) })
}

/// What a gateway takes as one.
fn subject(text: &str) -> Result<String, String> {
    if (1..=SUBJECT_MAX).contains(&text.len()) {
        Ok(text.to_owned())
    } else {
        Err(format!("it takes 1 to {SUBJECT_MAX} bytes"))
    }
}
