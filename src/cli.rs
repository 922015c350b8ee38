//! The command line: one file a subcommand. Those that speak to a gateway know only the client.

mod audit;
mod bench;
mod command;
mod demo;
mod health;
mod output;
mod publish;
mod runs;
mod serve;
mod sessions;
mod signals;
mod tail;
mod token;

use std::{
    future::Future,
    net::{SocketAddr, ToSocketAddrs},
    num::IntErrorKind,
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use clap::{Arg, Args, CommandFactory, FromArgMatches, Parser, Subcommand, builder::Resettable};
use serde::de::IgnoredAny;
use serde_json::Value;

use crate::{
    client::{Client, Error, Token},
    id::Name,
};

/// Ctrl-C, as shells report it.
const INTERRUPTED: u8 = 130;

/// Wrong usage, as clap reports it.
const WRONG_USAGE: u8 = 2;

/// An audit that could not be made: to be told from one that found faults.
const UNAUDITED: u8 = 3;

const EXIT_CODES: &str =
    "Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted by Ctrl-C (`serve` ends with 0).";

/// Durable sessions for AI agents, on the Redis you already run.
#[derive(Debug, Parser)]
#[command(name = "moorline", version, after_help = EXIT_CODES, propagate_version = true, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Run a gateway
    Serve(Box<serve::ServeArgs>),
    Demo(demo::DemoArgs),
    #[command(hide = true)]
    DemoAgent(demo::AgentArgs),
    Publish(publish::PublishArgs),
    Tail(tail::TailArgs),
    Command(command::CommandArgs),
    Runs(runs::RunsArgs),
    Audit(Box<audit::AuditArgs>),
    Bench(bench::BenchArgs),
    /// Look at sessions, close them, delete them
    #[command(subcommand)]
    Sessions(sessions::SessionsAction),
    Token(token::TokenArgs),
    /// Ask a gateway whether it can serve
    Health(health::HealthArgs),
}

/// The heading of its options: said with each, for a heading of all would go on behind them.
const GATEWAY: &str = "Gateway";

/// Which gateway, and as whom.
#[derive(Debug, Args)]
struct Gateway {
    /// The gateway's address
    #[arg(long, env = "MOORLINE_URL", default_value = "http://127.0.0.1:4770", value_parser = gateway_url, value_name = "URL", help_heading = GATEWAY)]
    url: String,
    /// The bearer token (a JWT), where the gateway asks for one
    #[arg(long, env = "MOORLINE_TOKEN", hide_env_values = true, value_name = "JWT", help_heading = GATEWAY)]
    token: Option<String>,
    /// A file with the bearer token, read again when a stream is opened and when the token is refused: put a fresh one there
    /// before it ends. Goes before --token
    #[arg(long, env = "MOORLINE_TOKEN_FILE", value_name = "FILE", help_heading = GATEWAY)]
    token_file: Option<PathBuf>,
}

impl Gateway {
    /// The token as it is now, for what does not outlive one.
    fn token_now(&self) -> Result<Option<String>, String> {
        match &self.token_file {
            Some(path) => match std::fs::read_to_string(path) {
                Ok(token) => Ok(Some(token.trim().to_owned())),
                Err(error) => Err(format!("{}: {error}", path.display())),
            },
            None => Ok(self.token.clone().filter(|token| !token.is_empty())),
        }
    }

    fn client(&self) -> Result<Client, Error> {
        match &self.token_file {
            Some(path) => Client::bearing(&self.url, Some(Token::file(path))),
            None => Client::new(&self.url, self.token.clone().filter(|token| !token.is_empty())),
        }
    }
}

/// How a subcommand ended, where it did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Done,
    /// It did what it is for, and what it found is not good.
    Faulty,
    Interrupted,
}

/// Why a subcommand failed; said once, on stderr, by [`main`].
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Client(#[from] Error),
    /// Something else listens there.
    #[error("{0}")]
    NoGateway(Error),
    #[error("cannot write to the standard output: {0}")]
    Output(std::io::Error),
    #[error("{0}")]
    Other(String),
    /// What the user gave can't be used; nothing was done.
    #[error("{0}")]
    Usage(String),
    /// An audit that has nothing to say.
    #[error("{0}")]
    Unaudited(String),
}

/// The program: reads the arguments, runs the subcommand, gives the exit code.
pub fn main() -> ExitCode {
    let cli = arguments();
    // A load shares the machine with what it loads: one thread wakes and switches less often than several.
    let mut builder = match cli.action {
        Action::Bench(_) => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    let runtime = match builder.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return report(Err(Failure::Other(format!("cannot start: {error}")))),
    };
    let code = runtime.block_on(async {
        if !matches!(cli.action, Action::Serve(_)) {
            // These two have sessions to delete, on a gateway that may be slow.
            let patience = match cli.action {
                Action::Bench(_) | Action::Audit(_) => Duration::from_secs(20),
                _ => Duration::from_secs(1),
            };
            tokio::spawn(end_anyway(patience));
        }
        match cli.action {
            Action::Serve(args) => serve::run(*args).await,
            Action::Demo(args) => report(demo::run(args).await),
            Action::DemoAgent(args) => report(demo::run_agent(args).await),
            Action::Publish(args) => report(publish::run(args).await),
            Action::Tail(args) => report(tail::run(args).await),
            Action::Command(args) => report(unless_interrupted(command::run(args)).await),
            Action::Runs(args) => report(unless_interrupted(runs::run(args)).await),
            Action::Audit(args) => report(audit::run(*args).await),
            Action::Bench(args) => report(bench::run(args).await),
            Action::Sessions(action) => report(unless_interrupted(sessions::run(action)).await),
            Action::Token(args) => report(token::run(args)),
            Action::Health(args) => report(unless_interrupted(health::run(args)).await),
        }
    });
    // A read of stdin that waits for the terminal can't be cancelled; waiting for it would hold up the exit.
    runtime.shutdown_background();
    code
}

fn arguments() -> Cli {
    let matches = without_empty_variables(Cli::command()).get_matches();
    Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.format(&mut Cli::command()).exit())
}

/// A variable of the environment that is set but empty is none, as `NAME: ${NAME:-}` in a file for Docker Compose means it. clap
/// would take it for a value.
fn without_empty_variables(command: clap::Command) -> clap::Command {
    let filled = |arg: Arg| match arg.get_env().and_then(std::env::var_os) {
        Some(value) if value.is_empty() => arg.env(Resettable::Reset),
        _ => arg,
    };
    command.mut_args(filled).mut_subcommands(without_empty_variables)
}

fn report(result: Result<Ending, Failure>) -> ExitCode {
    match result {
        Ok(Ending::Done) => ExitCode::SUCCESS,
        Ok(Ending::Faulty) => ExitCode::FAILURE,
        Ok(Ending::Interrupted) => ExitCode::from(INTERRUPTED),
        // The reader has what it wanted (`moorline tail … | head`).
        Err(Failure::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(failure) => {
            output::notice(format_args!("error: {failure}"));
            let advice = match &failure {
                Failure::Client(error) => advice(error),
                Failure::NoGateway(_) => Some(NO_GATEWAY),
                _ => None,
            };
            if let Some(advice) = advice {
                output::notice(format_args!("{advice}"));
            }
            match failure {
                Failure::Usage(_) => ExitCode::from(WRONG_USAGE),
                Failure::Unaudited(_) => ExitCode::from(UNAUDITED),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

const NO_GATEWAY: &str = "This does not look like a Moorline gateway; --url or MOORLINE_URL names another address.";

/// What to do about a failure that is not one of the request itself.
fn advice(error: &Error) -> Option<&'static str> {
    match error {
        Error::Unreachable { .. } => {
            Some("Is it running? `moorline serve` starts one; --url or MOORLINE_URL names another.")
        }
        error if is_no_gateways(error) => Some(NO_GATEWAY),
        error if error.is_denied() => Some(
            "Tokens are given with --token, --token-file or MOORLINE_TOKEN; `moorline token --help` says what they carry.",
        ),
        _ => None,
    }
}

/// Whether an answer is one that neither a gateway gives nor a proxy before it: something else listens there.
fn is_no_gateways(error: &Error) -> bool {
    match error {
        Error::Protocol(_) => true,
        // hyper's words for what is no HTTP.
        Error::Lost { why, .. } => why.starts_with("invalid HTTP"),
        // A gateway's have a code. A proxy's have none, but are about who may come in, how much, and gateways that are away.
        Error::Problem(problem) => {
            problem.code.is_empty() && matches!(problem.status, 400 | 404 | 405 | 406 | 426 | 500 | 501 | 505)
        }
        _ => false,
    }
}

/// Ends at Ctrl-C, for subcommands that have nothing to tidy up.
async fn unless_interrupted(action: impl Future<Output = Result<Ending, Failure>>) -> Result<Ending, Failure> {
    tokio::select! {
        result = action => result,
        () = interrupted() => Ok(Ending::Interrupted),
    }
}

/// Ready at Ctrl-C. Where the signal can't be had, the system's own handling stays in force.
async fn interrupted() {
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending().await
    }
}

/// A subcommand that sees Ctrl-C tidies up and ends. One that is stuck in a write, because nobody takes what it prints,
/// can't see it. Nor does it get more time than this, or than until the next Ctrl-C.
async fn end_anyway(patience: Duration) {
    interrupted().await;
    tokio::select! {
        () = tokio::time::sleep(patience) => {}
        () = interrupted() => {}
    }
    std::process::exit(i32::from(INTERRUPTED));
}

/// What a user typed as data: JSON if it is, else the text itself.
fn json_or_text(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| Value::from(text))
}

/// What is wrong with a text that was meant to be JSON, by its first character, and is none.
fn broken_json(text: &str) -> Option<serde_json::Error> {
    let meant = text.trim_start().starts_with(['{', '[']);
    meant.then(|| serde_json::from_str::<IgnoredAny>(text).err()).flatten()
}

fn parse_name(text: &str) -> Result<Name, String> {
    text.parse().map_err(|e: crate::id::BadName| format!("it {e}"))
}

/// `250ms`, `30s`, `5m`, `24h`, `7d`, or a bare `0`.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let wrong = || "a time takes the form 250ms, 30s, 5m, 24h or 7d".to_owned();
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "" if number == 0 => 0,
        _ => return Err(wrong()),
    };
    number.checked_mul(ms).map(Duration::from_millis).ok_or_else(wrong)
}

/// The address of a gateway.
fn gateway_url(text: &str) -> Result<String, String> {
    crate::client::check_address(text).map(|()| text.to_owned())
}

/// Where to listen. The name of a host counts as what it leads to at the start, and as an IPv4 address if it leads to one,
/// since that is where `localhost` is looked for.
fn address(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {}
        _ => return Err("it takes a host and a port, as 127.0.0.1:4770, 0.0.0.0:4770 or localhost:4770".to_owned()),
    }
    let found: Vec<_> = text.to_socket_addrs().map_err(|why| why.to_string())?.collect();
    let best = found.iter().find(|address| address.is_ipv4()).or(found.first());
    best.copied().ok_or_else(|| "that host has no address".to_owned())
}

/// What a variable says of a switch.
fn switch(text: &str) -> Result<bool, String> {
    match &*text.to_ascii_lowercase() {
        "true" | "yes" | "on" | "1" => Ok(true),
        "false" | "no" | "off" | "0" => Ok(false),
        _ => Err("it takes true, yes, on or 1, or else false, no, off or 0".to_owned()),
    }
}

/// A whole number from `least` on.
fn whole<T: TryFrom<u64>>(least: u64) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static {
    move |text| {
        let number = match text.parse::<u64>() {
            Ok(number) if number >= least => T::try_from(number).ok(),
            Err(why) if *why.kind() == IntErrorKind::PosOverflow => None,
            _ => return Err(format!("it takes a whole number, {least} or more")),
        };
        number.ok_or_else(|| "that is too large".to_owned())
    }
}

/// A time that must not be none: what has so little patience ends everything at once.
fn at_least_100ms(text: &str) -> Result<Duration, String> {
    const LEAST: Duration = Duration::from_millis(100);
    duration(text).and_then(|time| if time < LEAST { Err("it takes at least 100ms".to_owned()) } else { Ok(time) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn whole_numbers_say_what_they_are() {
        assert_eq!((whole::<u32>(0)("0"), whole::<usize>(5)("5")), (Ok(0), Ok(5)));
        for wrong in ["", "abc", "-1", "1.5", "4", "1e3", "5 "] {
            assert_eq!(whole::<u32>(5)(wrong), Err("it takes a whole number, 5 or more".to_owned()), "{wrong:?}");
        }
        for large in ["4294967296", "99999999999999999999"] {
            assert_eq!(whole::<u32>(5)(large), Err("that is too large".to_owned()));
        }
    }

    #[test]
    fn a_host_to_listen_on_is_looked_up() {
        assert_eq!(address("[::1]:5"), Ok(SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], 5))));
        assert!(address("localhost:4770").is_ok_and(|found| found.ip().is_loopback() && found.port() == 4770));
        for wrong in ["", "localhost", ":4770", "localhost:", "localhost:x", "127.0.0.1", "127.0.0.1:99999", "[::1]"] {
            assert!(address(wrong).is_err_and(|why| why.contains("localhost:4770")), "{wrong:?}");
        }
    }

    #[test]
    fn a_text_that_begins_as_json_and_is_none_is_told() {
        for (text, broken) in [
            (r#"{"text":"#, true),
            (" [1,", true),
            (r#"{"a":1} x"#, true),
            (r#"{"a":1}"#, false),
            ("[1]", false),
            ("a {", false),
            ("", false),
        ] {
            assert_eq!(broken_json(text).is_some(), broken, "{text:?}");
        }
    }

    #[test]
    fn times_are_read_with_their_unit() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("24h"), Ok(Duration::from_secs(86_400)));
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        for wrong in ["", "5", "s", "-1s", "1.5s", "99999999999999999999s", "9999999999999999999d", "5 s"] {
            assert!(duration(wrong).is_err(), "{wrong:?}");
        }
        assert_eq!(at_least_100ms("100ms"), Ok(Duration::from_millis(100)));
        assert!(at_least_100ms("99ms").is_err() && at_least_100ms("0").is_err() && at_least_100ms("x").is_err());
    }
}
