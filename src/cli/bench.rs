//! `moorline bench`: load on a gateway, checked and measured.

use std::{
    io::IsTerminal,
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
/// not machines.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Which load
    #[arg(value_enum)]
    shape: ShapeArg,
    #[command(flatten)]
    gateway: Gateway,
    /// Sessions [default: tokens and idle 100, broadcast and replay 1, ingest 50, resume-storm 10]
    #[arg(long, value_name = "N")]
    sessions: Option<usize>,
    /// Clients of each session [default: tokens 1, broadcast and resume-storm 100, idle 10]
    #[arg(long, value_name = "N")]
    clients: Option<usize>,
    /// Of a hundred clients, how many open their stream and then read nothing of it (tokens, broadcast)
    #[arg(long, value_name = "PERCENT", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..100))]
    stalled: u8,
    /// Number the events as an idempotent producer does, so that each could be sent again (tokens, broadcast)
    #[arg(long)]
    numbered: bool,
    /// Connections that publish
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = positive)]
    publishers: usize,
    /// Events a second in all, due at fixed times; without it each publisher sends as soon as it has its answer
    #[arg(long, value_name = "N", value_parser = rate)]
    rate: Option<f64>,
    /// How many seconds to measure
    #[arg(long, value_name = "N", default_value_t = 10.0, value_parser = seconds)]
    seconds: f64,
    /// How many seconds to run before that (tokens, broadcast)
    #[arg(long, value_name = "N", default_value_t = 1.0, value_parser = seconds)]
    warmup: f64,
    /// Events of a history (replay, resume-storm) [default: replay 20000, resume-storm 100]
    #[arg(long, value_name = "N")]
    events: Option<usize>,
    /// Let the clients be live at this replica first, which is then killed (resume-storm); needs --kill
    #[arg(long, value_name = "URL", requires = "kill")]
    neighbour: Option<String>,
    /// The process id of that replica
    #[arg(long, value_name = "PID", requires = "neighbour")]
    kill: Option<u32>,
    /// Bytes of text in an event
    #[arg(long, value_name = "N", default_value_t = 20)]
    text: usize,
    /// The gateway's process id (or several, with commas), to tell its memory (idle) and its CPU time
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

fn positive(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| "takes a whole number from 1".to_owned())
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.0..=86_400.0).contains(seconds));
    seconds.ok_or_else(|| "takes a number of seconds, up to a day".to_owned())
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
    if args.neighbour.is_some() && shape != Shape::ResumeStorm {
        return Err(Failure::Usage("only a resume-storm takes --neighbour and --kill".into()));
    }
    let failed = |error: bench::BenchError| Failure::Other(error.to_string());
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
        sessions: args.sessions.unwrap_or(sessions).max(1),
        clients: args.clients.unwrap_or(clients).max(1),
        stalled: args.stalled.into(),
        numbered: args.numbered,
        publishers: args.publishers,
        rate: args.rate,
        duration: Duration::from_secs_f64(args.seconds.max(0.1)),
        warmup: Duration::from_secs_f64(args.warmup),
        events: args.events.unwrap_or(events).max(2),
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
    let report = tokio::select! {
        report = &mut run => report,
        () = super::interrupted() => {
            // Nothing else sets it.
            let _ = plan.stop.set(Instant::now());
            // What listens for the next Ctrl-C does so before it is spoken of.
            tokio::task::yield_now().await;
            output::notice(format_args!("it comes to its end, and deletes its sessions; Ctrl-C again leaves them"));
            run.await
        }
    };
    let report = match report {
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
    output::line(&text)?;
    if plan.stop.get().is_some() {
        return Ok(Ending::Interrupted);
    }
    if report.is_clean() { Ok(Ending::Done) } else { Err(Failure::Other("not everything came as it was sent".into())) }
}
