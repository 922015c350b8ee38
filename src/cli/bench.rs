//! `moorline bench`: load on a gateway, checked and measured.

use std::{
    io::IsTerminal,
    ops::RangeInclusive,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use clap::{Args, ValueEnum};

use super::{Ending, Failure, Gateway, output};
use crate::bench::{self, Dialect, Neighbour, Plan, Shape, Target};

/// Load a gateway, check everything that comes back, and measure
///
/// Sessions are new and deleted at the end. The gateway, its Redis and this program share the machine: compare runs,
/// not machines. A delivery counts from when its event was due, an append from when it was sent to its answer. A token is read
/// once, at the start.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub struct BenchArgs {
    /// Which load
    #[arg(value_enum)]
    shape: ShapeArg,
    #[command(flatten)]
    gateway: Gateway,
    /// Sessions [default: tokens and idle 100, broadcast and replay 1, ingest 50, resume-storm 10]
    #[arg(long, value_name = "N", value_parser = many)]
    sessions: Option<usize>,
    /// Clients of each session [default: tokens 1, broadcast and resume-storm 100, idle 10]
    #[arg(long, value_name = "N", value_parser = many)]
    clients: Option<usize>,
    /// Of a hundred clients, how many open their stream and then read nothing of it (tokens, broadcast)
    #[arg(long, value_name = "PERCENT", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..100))]
    stalled: u8,
    /// Number the events as an idempotent producer does, so that each could be sent again (tokens, broadcast)
    #[arg(long)]
    numbered: bool,
    /// Connections that publish, but no more than sessions, whose events keep their order (tokens, broadcast) [default: 16]
    #[arg(long, value_name = "N", value_parser = many)]
    publishers: Option<usize>,
    /// Events a second in all, due at fixed times; without it each publisher sends as soon as it has its answer (tokens,
    /// broadcast)
    #[arg(long, value_name = "N", value_parser = rate)]
    rate: Option<f64>,
    /// How many seconds to measure
    #[arg(long, value_name = "N", default_value_t = 10.0, value_parser = measured)]
    seconds: f64,
    /// How many seconds to run before that (tokens, broadcast) [default: 1]
    #[arg(long, value_name = "N", value_parser = seconds)]
    warmup: Option<f64>,
    /// Events of a history (replay, resume-storm) [default: replay 20000, resume-storm 100]
    #[arg(long, value_name = "N", value_parser = history)]
    events: Option<usize>,
    /// Let the clients be live at this replica first, which is then killed (resume-storm); needs --kill
    #[arg(long, value_name = "URL", requires = "kill")]
    neighbour: Option<String>,
    /// The process id of that replica
    #[arg(long, value_name = "PID", requires = "neighbour")]
    kill: Option<u32>,
    /// Bytes of text in an event
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = text_bytes)]
    text: usize,
    /// The gateway's process id (or several, with commas), to tell its memory (idle), or its CPU time (all others but
    /// resume-storm)
    #[arg(long, value_name = "PID", value_delimiter = ',')]
    pid: Vec<u32>,
    /// What the server speaks: for comparisons with others (see benches/compare)
    #[arg(long, value_enum, default_value = "moorline", hide = true)]
    dialect: DialectArg,
    /// Load a gateway that is not on this machine
    #[arg(long)]
    remote: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ShapeArg {
    /// Many sessions, one client each, small events
    Tokens,
    /// One session, many clients
    Broadcast,
    /// Agents that stream NDJSON as fast as they can
    Ingest,
    /// One client reads a long history
    Replay,
    /// Many clients, no events
    Idle,
    /// Many clients resume at once
    ResumeStorm,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum DialectArg {
    Moorline,
    Nchan,
    DurableStreams,
}

const EXIT_CODES: &str = "Exit codes: 0 all came as it was sent; 1 something was lost, doubled, out of order, corrupt or refused, or \
                          there is no result; 2 wrong arguments; 130 Ctrl-C";

/// Sessions, clients of one, or publishers.
fn many(text: &str) -> Result<usize, String> {
    within(text, 1..=MOST)
}

fn history(text: &str) -> Result<usize, String> {
    within(text, 2..=100_000_000)
}

fn text_bytes(text: &str) -> Result<usize, String> {
    within(text, 0..=16 * 1024 * 1024)
}

/// More connections than one machine makes to another.
const MOST: usize = 1_000_000;

fn within(text: &str, range: RangeInclusive<usize>) -> Result<usize, String> {
    let number = text.parse().ok().filter(|n| range.contains(n));
    number.ok_or_else(|| format!("takes a whole number from {} to {}", range.start(), range.end()))
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.0..=86_400.0).contains(seconds));
    seconds.ok_or_else(|| "takes a number of seconds, up to a day".to_owned())
}

fn measured(text: &str) -> Result<f64, String> {
    let seconds = seconds(text).ok().filter(|seconds| *seconds >= 0.05);
    seconds.ok_or_else(|| "takes a number of seconds, from 0.05 up to a day".to_owned())
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate| *rate > 0.0 && *rate <= 1e7);
    rate.ok_or_else(|| "takes a number above 0, up to ten million".to_owned())
}

/// Runs the load. Fails if anything was lost, doubled, out of order or not what was sent.
pub async fn run(args: BenchArgs) -> Result<Ending, Failure> {
    let (shape, sessions, clients, events) = match args.shape {
        ShapeArg::Tokens => (Shape::Tokens, 100, 1, 0),
        ShapeArg::Broadcast => (Shape::Broadcast, 1, 100, 0),
        ShapeArg::Ingest => (Shape::Ingest, 50, 1, 0),
        ShapeArg::Replay => (Shape::Replay, 1, 1, 20_000),
        ShapeArg::Idle => (Shape::Idle, 100, 10, 0),
        ShapeArg::ResumeStorm => (Shape::ResumeStorm, 10, 100, 100),
    };
    let (sessions, clients) = (args.sessions.unwrap_or(sessions), args.clients.unwrap_or(clients));
    args.check(sessions.saturating_mul(clients)).map_err(Failure::Usage)?;
    let failed = |error: bench::BenchError| match error {
        bench::BenchError::Address(why) => Failure::Usage(why),
        error => Failure::Other(error.to_string()),
    };
    let dialect = match args.dialect {
        DialectArg::Moorline => Dialect::Moorline,
        DialectArg::Nchan => Dialect::Nchan,
        DialectArg::DurableStreams => Dialect::DurableStreams,
    };
    let token = args.gateway.token_now().map_err(Failure::Usage)?;
    let resolve = |url| Target::resolve(url, token.clone(), dialect);
    let target = resolve(&args.gateway.url).await.map_err(failed)?;
    let neighbour = match (&args.neighbour, args.kill) {
        (Some(url), Some(pid)) => Some(Neighbour { target: resolve(url).await.map_err(failed)?, pid }),
        _ => None,
    };
    let plan = Plan {
        shape,
        sessions,
        clients,
        stalled: args.stalled.into(),
        numbered: args.numbered,
        publishers: args.publishers.unwrap_or(16),
        rate: args.rate,
        duration: Duration::from_secs_f64(args.seconds),
        warmup: Duration::from_secs_f64(args.warmup.unwrap_or(1.0)),
        events: args.events.unwrap_or(events),
        text: args.text,
        pids: args.pid,
        neighbour,
        progress: std::io::stderr().is_terminal(),
        stop: Arc::default(),
    };
    let away = |target: &Target| !target.is_loopback();
    if (away(&target) || plan.neighbour.iter().any(|neighbour| away(&neighbour.target))) && !args.remote {
        let detail = "the gateway is not on this machine; --remote loads it all the same";
        return Err(Failure::Usage(detail.into()));
    }
    let mut run = pin!(bench::run(&target, &plan));
    let bench::Ended { result, left } = tokio::select! {
        ended = &mut run => ended,
        () = super::interrupted() => {
            // Nothing else sets it.
            let _ = plan.stop.set(Instant::now());
            // What listens for the next Ctrl-C does so before it is spoken of.
            tokio::task::yield_now().await;
            output::notice(format_args!("it comes to its end, and deletes its sessions; Ctrl-C again leaves them"));
            run.await
        }
    };
    if let Some(left) = left {
        output::notice(format_args!("{left}"));
    }
    let report = match result {
        Err(bench::BenchError::Interrupted) => {
            output::notice(format_args!("{}", bench::BenchError::Interrupted));
            return Ok(Ending::Interrupted);
        }
        report => report.map_err(failed)?,
    };
    let text = if args.json {
        serde_json::to_string(&report).map_err(|e| Failure::Other(e.to_string()))?
    } else {
        report.to_string()
    };
    // Whether anybody reads it or not.
    let told = output::line(&text);
    if plan.stop.get().is_some() {
        return Ok(Ending::Interrupted);
    }
    if !report.is_clean() {
        return Err(Failure::Other("not everything came as it was sent".into()));
    }
    if report.says_nothing() {
        return Err(Failure::Other(
            "no event was due in the time that was measured, or none came: give it more --seconds".into(),
        ));
    }
    told?;
    Ok(Ending::Done)
}

impl BenchArgs {
    /// Refuses what this shape has no use for: whoever asked for it would take the figures for something else.
    fn check(&self, clients: usize) -> Result<(), String> {
        use ShapeArg::{Broadcast, Idle, Ingest, Replay, ResumeStorm, Tokens};
        let live = &[Tokens, Broadcast][..];
        let taken_by = [
            ("--sessions", self.sessions.is_some(), &[Tokens, Broadcast, Ingest, Idle, ResumeStorm][..]),
            ("--clients", self.clients.is_some(), &[Tokens, Broadcast, Idle, ResumeStorm]),
            ("--stalled", self.stalled > 0, live),
            ("--numbered", self.numbered, live),
            ("--publishers", self.publishers.is_some(), live),
            ("--rate", self.rate.is_some(), live),
            ("--warmup", self.warmup.is_some(), live),
            ("--events", self.events.is_some(), &[Replay, ResumeStorm]),
            ("--neighbour", self.neighbour.is_some(), &[ResumeStorm]),
        ];
        for (option, given, shapes) in taken_by {
            if given && !shapes.contains(&self.shape) {
                let name = |shape: &ShapeArg| shape.to_possible_value().map(|value| value.get_name().to_owned());
                let shapes: Vec<_> = shapes.iter().filter_map(name).collect();
                return Err(format!("{option} is only for {}", shapes.join(", ")));
            }
        }
        if clients > MOST {
            return Err(format!("{clients} clients in all are too many; take at most {MOST}"));
        }
        match self.pid.iter().find(|pid| !bench::is_readable(**pid)) {
            Some(pid) => Err(format!("--pid {pid}: there is no such process here, or it can't be looked at")),
            None => Ok(()),
        }
    }
}
