//! `moorline demo`: a gateway in this process, and agents that stream through it for real.
//!
//! The agents know only the gateway's address. This file starts both and shows the session as `tail` would.

mod agent;
mod orchestrator;
mod reader;
mod summarizer;
mod text;

use std::{
    fs::File,
    io::Read,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use clap::Args;

use self::agent::Workplace;
use super::{
    Ending, Failure, output,
    tail::{Printer, Show},
};
use crate::{
    StartError,
    client::{Client, FollowOptions, random_name},
    config::{Config, DEFAULT_PORT},
    http::Server,
    id::{Lane, Name},
};

/// What the agents work on unless a file is named.
const README: &str = include_str!("../../README.md");

/// Enough for any text that somebody wants read aloud; more is a mistake.
const INPUT_MAX: u64 = 2 << 20;

/// Watch real agents stream through a gateway of their own
///
/// An orchestrator plans and starts two agents that work on a text at the same time and write to the session
/// themselves. While they do, follow the session from other terminals, cut the connection, come back, steer and stop
/// them, with the lines that this prints.
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
    /// Close the session and end when the agents are done
    #[arg(long)]
    once: bool,
}

/// The text that the agents work on.
#[derive(Debug, Clone)]
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
    let client = Client::new(&format!("http://{}", server.addr), None)?;
    let session = random_name("demo");
    output::write(&banner(&client, &session, &input, &args))?;

    let place = Workplace { client: client.clone(), session: session.clone(), speed: args.speed };
    let agents = async {
        orchestrator::run(place, input).await?;
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
    server.shutdown(Config::default().drain).await;
    result
}

async fn start_gateway(args: &DemoArgs) -> Result<Server, StartError> {
    let mut config = Config { redis_url: args.redis_url.clone().filter(|url| !url.is_empty()), ..Config::default() };
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

/// Nobody has to show a token here, so nobody else may come in.
fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    let addr: SocketAddr = text.parse().map_err(|_| "it takes the form 127.0.0.1:4770".to_owned())?;
    if addr.ip().is_loopback() { Ok(addr) } else { Err("the demo listens on loopback addresses only".into()) }
}

/// What to try, ready to be pasted.
fn banner(client: &Client, session: &Name, input: &Input, args: &DemoArgs) -> String {
    let url = format!("{}/v1/sessions/{session}", client.base_url());
    let sse = "-H 'Accept: text/event-stream'";
    let json = "-H 'Content-Type: application/json'";
    // Words that the text has, but not the ones that the summary begins with anyway.
    let terms = text::Document::parse(&input.text).terms();
    let focus: Vec<&str> = terms.iter().skip(4).take(2).map(|(term, _)| term.as_str()).collect();
    let focus = if focus.is_empty() { input.name.clone() } else { focus.join(" ") };
    let store = match args.redis_url {
        Some(_) => "Redis",
        None => "memory (--redis-url keeps it in Redis)",
    };
    format!(
        "\
moorline demo: agents at work on {name}, in the session {session}. Its log is in {store}.
In other terminals:

  # follow it: the whole history, then live
  curl -N {sse} {url}/events

  # cut the connection after 3 seconds, come back with the last id: nothing is missing, nothing comes twice
  LAST=$(curl -sN -m 3 {sse} {url}/events | tee /dev/stderr | sed -n 's/^id: //p' | tail -1); echo \"--- cut after $LAST ---\"; curl -N {sse} -H \"Last-Event-ID: $LAST\" {url}/events

  # while they speak (--speed 5 gives you more time): steer the summarizer; stop one agent, leave the others at work; stop all
  curl {json} -d '{{\"type\":\"steer\",\"agent\":\"summarizer\",\"data\":\"{focus}\"}}' {url}/commands
  curl {json} -d '{{\"type\":\"stop\",\"agent\":\"reader\"}}' {url}/commands
  curl {json} -d '{{\"type\":\"stop\"}}' {url}/commands

  # the same with the command line
  moorline tail {session} --url {base}
  moorline command {session} stop --agent summarizer --url {base}

",
        name = input.name,
        base = client.base_url(),
    )
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
