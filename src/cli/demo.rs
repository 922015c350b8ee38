//! `moorline demo`: the growth desk. A gateway in this process, and agents that work through it on a contractor's book.
//!
//! ```text
//! demo ── gateway ◀──HTTP── orchestrator r0 ┐
//!   │        ▲  ▲ ◀──HTTP── reactivation r1 ├ processes; each holds a lease on its run, writes to the session itself
//!   │  tail ─┘  └── curl, … … road-map   r6 ┘ and reads in it what the others have found
//!   └─ team: starts the processes, hands out the book, takes them along when it ends
//! ```
//!
//! The agents know only the gateway's address. The session is shown as `tail` would. What they reckon is in `desk`.

mod agent;
mod banner;
mod orchestrator;
mod process;
mod role;
mod specialists;
mod team;
mod watch;

use std::{
    fs::{self, File},
    io::Read,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use serde::{Deserialize, Serialize};

pub(super) use self::process::{AgentArgs, run as run_agent};
use self::{agent::Workplace, banner::banner, specialists::APPROVAL, team::Team};
use super::{
    Ending, Failure, output,
    tail::{Printer, Show},
};
use crate::{
    StartError,
    client::{Client, Entry, FollowOptions, Update, random_name},
    config::{Config, DEFAULT_PORT},
    desk::{
        book::{BadFile, Book, parse_date},
        sample,
    },
    http::Server,
    id::{Lane, Name},
};

/// Enough for 20,000 rows; more is a mistake.
const INPUT_MAX: u64 = 4 << 20;

/// How long a question waits where somebody watches, and where the demo is to end by itself.
const APPROVAL_WAIT: Duration = Duration::from_secs(180);
const APPROVAL_WAIT_ONCE: Duration = Duration::from_secs(10);

/// Watch a desk of agents work on a contractor's book, through a gateway of their own
///
/// An orchestrator plans; six agents look for growth in a roofer's customers, jobs and leads, and write to the session
/// themselves; each is a process of its own. While they do, follow the session from other terminals, cut the
/// connection, come back, approve, steer, stop and freeze them, with the lines that this prints. docs/DEMO.md has the
/// columns of the file and the meaning of each figure.
#[derive(Debug, Args)]
#[command(after_help = super::EXIT_CODES)]
pub(super) struct DemoArgs {
    /// A CSV of customers, jobs and leads [default: a made-up roofer's]
    file: Option<PathBuf>,
    /// The day that the figures are for [default: the latest in the file]
    #[arg(long, value_name = "YYYY-MM-DD", value_parser = parse_as_of)]
    as_of: Option<String>,
    /// Jobs a month that the crew can do [default: the most that the file shows for 30 days]
    #[arg(long, value_name = "JOBS", value_parser = clap::value_parser!(u16).range(1..=500))]
    capacity: Option<u16>,
    /// How long discovery waits for an approval before it drops no lead [default: 3m, with --once 10s]
    #[arg(long, value_name = "TIME", value_parser = parse_wait)]
    approval_wait: Option<Duration>,
    /// Save the report and the calendar in this directory when the agents are done
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print a made-up roofer's file, from a seed, and end
    #[arg(long, value_name = "SEED", exclusive = true)]
    generate_data: Option<Option<u64>>,
    /// Keep the session in this Redis instead of in memory
    #[arg(long, env = "MOORLINE_REDIS_URL", hide_env_values = true, value_name = "URL")]
    redis_url: Option<String>,
    /// Where to listen [default: 127.0.0.1:4770, or a free port if that is taken]
    #[arg(long, value_name = "ADDR:PORT", value_parser = parse_listen)]
    listen: Option<SocketAddr>,
    /// How fast the agents speak, in tokens a second
    #[arg(long, default_value_t = 30.0, value_parser = parse_speed, value_name = "TOKENS")]
    speed: f64,
    /// The silence after which an agent counts as lost, in seconds
    #[arg(long, default_value = "10", value_parser = parse_lease, value_name = "SECONDS")]
    lease: u32,
    /// Close the session and end when the agents are done
    #[arg(long)]
    once: bool,
}

/// What the agents work on, and how.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Input {
    name: String,
    csv: String,
    /// The day that the figures are for, if not the latest in the file.
    as_of: Option<String>,
    /// Jobs a month, if somebody said.
    capacity: Option<usize>,
    approval_wait_ms: u64,
}

impl Input {
    fn book(&self) -> Result<Book, BadFile> {
        Book::parse(self.csv.as_bytes(), self.as_of.as_deref().and_then(|day| parse_date(day).ok()))
    }
}

pub(super) async fn run(args: DemoArgs) -> Result<Ending, Failure> {
    if let Some(seed) = args.generate_data {
        return output::write(&sample::csv(seed.unwrap_or(sample::SEED))).map(|()| Ending::Done);
    }
    let (name, csv) = match &args.file {
        Some(path) => read(path).map_err(|why| Failure::Usage(format!("{}: {why}", path.display())))?,
        None => ("roofer.csv".into(), sample::CSV.into()),
    };
    let wait = args.approval_wait.unwrap_or(if args.once { APPROVAL_WAIT_ONCE } else { APPROVAL_WAIT });
    let capacity = args.capacity.map(usize::from);
    let input = Input { name, csv, as_of: args.as_of.clone(), capacity, approval_wait_ms: wait.as_millis() as u64 };
    input.book().map_err(|why| Failure::Usage(format!("{}: {why}", input.name)))?;
    if let Some(dir) = &args.out {
        fs::create_dir_all(dir).map_err(|why| Failure::Usage(format!("--out {}: {why}", dir.display())))?;
    }
    let server = start_gateway(&args).await.map_err(|error| Failure::Other(error.to_string()))?;
    let result = watch_agents(&args, &server, input).await;
    server.shutdown(Config::default().drain.at_once()).await;
    result
}

async fn watch_agents(args: &DemoArgs, server: &Server, input: Input) -> Result<Ending, Failure> {
    let client = Client::new(&format!("http://{}", server.addr), None)?;
    let session = random_name("demo");
    let lease = Duration::from_secs(args.lease.into());
    let place = Workplace { client: client.clone(), session: session.clone(), speed: args.speed, lease };
    let mut team = Team::start(&place)?;
    let store = match args.redis_url.as_deref() {
        Some(url) if !url.is_empty() => "Redis",
        _ => "memory (--redis-url keeps it in Redis)",
    };
    output::write(&banner(&place, &input, store, &team))?;

    let agents = async {
        team.work(&input).await;
        if let Some(dir) = &args.out {
            save_files(&client, &session, dir).await?;
        }
        if args.once {
            // The viewer reads to the end, sees `closed`, and ends the demo.
            client.close(&session).await?
        } else {
            output::notice(format_args!("the agents are done; the gateway stays up until Ctrl-C"))
        }
        std::future::pending::<Result<Ending, Failure>>().await
    };
    // The banner has scrolled away by then.
    let decide =
        format!("discovery waits for an answer; from another terminal, or in the console:\n{}", banner::decide(&place));
    let mut show = Show::readable(Printer::new(output::colours()))
        .telling(move |entry| is_question(entry).then(|| decide.clone()));
    let viewer = show.run(client.follow(&session, Lane::Events, FollowOptions::default()));
    let result = tokio::select! {
        result = viewer => result,
        result = agents => result,
    };
    // Before the gateway goes: they would complain.
    team.dismiss().await;
    result
}

/// Whether discovery has just asked what it asks.
fn is_question(entry: &Entry) -> bool {
    #[derive(Deserialize)]
    struct Question {
        approval: String,
    }
    let head = entry.head().filter(|head| head.kind == "approval.requested");
    let question = head.and_then(|head| serde_json::from_str::<Question>(head.data?.get()).ok());
    question.is_some_and(|question| question.approval == APPROVAL)
}

async fn start_gateway(args: &DemoArgs) -> Result<Server, StartError> {
    let redis_url = args.redis_url.clone().filter(|url| !url.is_empty());
    // Somebody sits before it, and would wonder.
    let mut config =
        Config { redis_url, redis_wait: Duration::ZERO, console: true, local_only: true, ..Config::default() };
    if let Some(listen) = args.listen {
        config.listen = listen;
        return crate::serve(&config).await;
    }
    config.listen = SocketAddr::from((Ipv4Addr::LOCALHOST, DEFAULT_PORT));
    match crate::serve(&config).await {
        Err(StartError::Listen { .. }) => {
            config.listen.set_port(0);
            crate::serve(&config).await
        }
        result => result,
    }
}

/// Saves the files that the agents have handed out in the session, under the names that they gave.
async fn save_files(client: &Client, session: &Name, dir: &Path) -> Result<(), Failure> {
    #[derive(Deserialize)]
    struct Event {
        data: Handout,
    }
    #[derive(Deserialize)]
    struct Handout {
        name: String,
        content: String,
    }
    let options = FollowOptions { types: vec!["file".into()], ..FollowOptions::default() };
    let mut files = client.follow(session, Lane::Events, options);
    while let Some(update) = files.next().await {
        match update? {
            Update::CaughtUp => break,
            Update::Entry(entry) => {
                // Anybody can write to the session: what is no plain name stays there.
                let Ok(Event { data }) = serde_json::from_str::<Event>(&entry.json) else { continue };
                let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
                if !data.name.chars().all(plain) || data.name.starts_with('.') || data.name.is_empty() {
                    continue;
                }
                let path = dir.join(&data.name);
                let saved = fs::write(&path, data.content);
                saved.map_err(|why| Failure::Other(format!("cannot save {}: {why}", path.display())))?;
                output::notice(format_args!("saved {}", path.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Reads a file and gives its name and text; says what is wrong with what is none.
fn read(path: &Path) -> Result<(String, String), String> {
    let file = File::open(path).map_err(|e| e.to_string())?;
    if file.metadata().is_ok_and(|metadata| metadata.is_dir()) {
        return Err("it is a directory; the demo takes a CSV file".into());
    }
    let mut bytes = Vec::new();
    // Counted while reading: a device or a pipe has no size to ask for.
    file.take(INPUT_MAX + 1).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    if bytes.len() as u64 > INPUT_MAX {
        return Err(format!("it has more than {} MiB; the demo takes a smaller CSV file", INPUT_MAX >> 20));
    }
    let name = path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned());
    // What is wrong in it is said with its row and column, so it is parsed before it is known to be text.
    Book::parse(&bytes, None).map_err(|why| why.to_string())?;
    // Columns that nobody knows may hold anything.
    Ok((name, String::from_utf8_lossy(&bytes).into_owned()))
}

fn parse_speed(text: &str) -> Result<f64, String> {
    let speed: f64 = text.parse().map_err(|_| "it takes a number".to_owned())?;
    if (0.1..=10_000.0).contains(&speed) { Ok(speed) } else { Err("it takes 0.1 to 10000".into()) }
}

fn parse_lease(text: &str) -> Result<u32, String> {
    let seconds: u32 = text.parse().map_err(|_| "it takes whole seconds".to_owned())?;
    if (1..=3600).contains(&seconds) { Ok(seconds) } else { Err("it takes 1 to 3600 seconds".into()) }
}

fn parse_as_of(text: &str) -> Result<String, String> {
    parse_date(text).map(|date| date.to_string())
}

fn parse_wait(text: &str) -> Result<Duration, String> {
    let wait = super::duration(text)?;
    let most = Duration::from_secs(24 * 60 * 60);
    if (Duration::from_millis(1)..=most).contains(&wait) { Ok(wait) } else { Err("it takes 1ms to 24h".into()) }
}

/// Nobody has to show a token here, so nobody else may come in.
fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    let addr = super::address(text)?;
    if addr.ip().is_loopback() { Ok(addr) } else { Err("the demo listens on loopback addresses only".into()) }
}
