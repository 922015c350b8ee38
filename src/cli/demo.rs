//! `moorline demo`: a gateway in this process, and agents that stream through it for real.
//!
//! ```text
//! demo ── gateway ◀──HTTP── orchestrator r0 ┐
//!   │        ▲  ▲ ◀──HTTP── reader       r1 ├ processes; each holds a lease on its run
//!   │  tail ─┘  └── curl, … summarizer   r2 ┘
//!   └─ team: starts the agents, hands out the text, takes them along when it ends
//! ```
//!
//! The agents know only the gateway's address. The session is shown as `tail` would.

mod agent;
mod banner;
mod orchestrator;
mod process;
mod reader;
mod role;
mod summarizer;
mod team;
mod text;

use std::{
    fs::File,
    io::Read,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use serde::{Deserialize, Serialize};

pub(super) use self::process::{AgentArgs, run as run_agent};
use self::{agent::Workplace, banner::banner, team::Team};
use super::{
    Ending, Failure, output,
    tail::{Printer, Show},
};
use crate::{
    StartError,
    client::{Client, FollowOptions, random_name},
    config::{Config, DEFAULT_PORT},
    http::Server,
    id::Lane,
};

/// What the agents work on unless a file is named.
const README: &str = include_str!("../../README.md");

/// Enough for any text that somebody wants read aloud; more is a mistake.
const INPUT_MAX: u64 = 2 << 20;

/// Watch real agents stream through a gateway of their own
///
/// An orchestrator plans, and two agents work on a text at the same time and write to the session themselves; each is
/// a process of its own. While they do, follow the session from other terminals, cut the connection, come back, steer,
/// stop and freeze them, with the lines that this prints.
#[derive(Debug, Args)]
#[command(after_help = super::EXIT_CODES)]
pub(super) struct DemoArgs {
    /// A text to work on, Markdown or plain [default: Moorline's README]
    file: Option<PathBuf>,
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

/// The text that the agents work on.
#[derive(Debug, Serialize, Deserialize)]
struct Input {
    name: String,
    text: String,
}

pub(super) async fn run(args: DemoArgs) -> Result<Ending, Failure> {
    let input = match &args.file {
        Some(path) => read(path).map_err(|why| Failure::Other(format!("{}: {why}", path.display())))?,
        None => Input { name: "README.md".into(), text: README.into() },
    };
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
        match args.once {
            // The viewer reads to the end, sees `closed`, and ends the demo.
            true => client.close(&session).await?,
            false => output::notice(format_args!("the agents are done; the gateway stays up until Ctrl-C")),
        }
        std::future::pending::<Result<Ending, Failure>>().await
    };
    let mut show = Show::readable(Printer::new(output::colours()));
    let viewer = show.run(client.follow(&session, Lane::Events, FollowOptions::default()));
    let result = tokio::select! {
        result = viewer => result,
        result = agents => result,
    };
    // Before the gateway goes: they would complain.
    team.dismiss().await;
    result
}

async fn start_gateway(args: &DemoArgs) -> Result<Server, StartError> {
    let redis_url = args.redis_url.clone().filter(|url| !url.is_empty());
    // Somebody sits before it, and would wonder.
    let mut config = Config { redis_url, redis_wait: Duration::ZERO, console: true, ..Config::default() };
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

/// Reads a text; says what is wrong with what is none.
fn read(path: &Path) -> Result<Input, String> {
    let file = File::open(path).map_err(|e| e.to_string())?;
    if file.metadata().is_ok_and(|metadata| metadata.is_dir()) {
        return Err("it is a directory; the demo takes a text file".into());
    }
    let mut bytes = Vec::new();
    // Counted while reading: a device or a pipe has no size to ask for.
    file.take(INPUT_MAX + 1).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    if bytes.len() as u64 > INPUT_MAX {
        return Err(format!("it has more than {} MiB; the demo takes a text to be read aloud", INPUT_MAX >> 20));
    }
    let text = String::from_utf8(bytes).map_err(|_| "it is not UTF-8 text")?;
    if text.contains('\0') {
        return Err("it looks like a binary file; the demo takes text".into());
    }
    if !text.contains(char::is_alphanumeric) {
        return Err("there are no words in it".into());
    }
    let name = path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned());
    Ok(Input { name, text })
}

fn parse_speed(text: &str) -> Result<f64, String> {
    let speed: f64 = text.parse().map_err(|_| "it takes a number".to_owned())?;
    if (0.1..=10_000.0).contains(&speed) { Ok(speed) } else { Err("it takes 0.1 to 10000".into()) }
}

fn parse_lease(text: &str) -> Result<u32, String> {
    let seconds: u32 = text.parse().map_err(|_| "it takes whole seconds".to_owned())?;
    if (1..=3600).contains(&seconds) { Ok(seconds) } else { Err("it takes 1 to 3600 seconds".into()) }
}

/// Nobody has to show a token here, so nobody else may come in.
fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    let addr: SocketAddr = text.parse().map_err(|_| "it takes the form 127.0.0.1:4770".to_owned())?;
    if addr.ip().is_loopback() { Ok(addr) } else { Err("the demo listens on loopback addresses only".into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_text_is_refused_with_a_reason() {
        let dir = tempfile::tempdir().unwrap();
        let refused = |name: &str, bytes: &[u8]| {
            let path = dir.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            read(&path).unwrap_err()
        };
        assert!(refused("empty", b"").contains("no words"));
        assert!(refused("blank", b" \n\t.").contains("no words"));
        assert!(refused("binary", b"a\0b").contains("binary"));
        assert!(refused("latin1", b"caf\xe9").contains("UTF-8"));
        assert!(refused("huge", &vec![b'a'; (INPUT_MAX + 1) as usize]).contains("2 MiB"));
        assert!(read(dir.path()).unwrap_err().contains("directory"));
        assert!(read(&dir.path().join("missing")).unwrap_err().contains("No such file"));
    }
}
