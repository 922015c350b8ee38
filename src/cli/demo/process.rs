//! One agent's process: `moorline demo-agent`, started by the demo, hidden from the help.
//!
//! Its standard input carries one line, the book to work on, and is then only held open. When it ends, the demo is gone,
//! however it went (`kill -9` too), and the agent goes as well.

use std::time::Duration;

use clap::Args;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Stdin, sink};

use super::{
    INPUT_MAX, Input,
    agent::{Agent, Halt, Workplace},
    orchestrator, parse_lease, parse_speed,
    role::Role,
    specialists,
};
use crate::{
    cli::{Ending, Failure, output, parse_name},
    client::Client,
    desk::{lifetime, pipeline, reactivation},
    id::Name,
};

/// A character of the file takes at most six bytes in JSON (`\u001f`); its name is short.
const LINE_MAX: u64 = 6 * INPUT_MAX + 64 * 1024;

/// Work as one of the demo's agents
#[derive(Debug, Args)]
pub(in crate::cli) struct AgentArgs {
    /// Which of them
    #[arg(long, value_enum)]
    role: Role,
    /// The gateway's address
    #[arg(long)]
    url: String,
    /// Where to work
    #[arg(long, value_parser = parse_name)]
    session: Name,
    /// Tokens a second
    #[arg(long, value_parser = parse_speed)]
    speed: f64,
    /// The silence after which the agent counts as lost, in seconds
    #[arg(long, value_parser = parse_lease)]
    lease: u32,
}

impl AgentArgs {
    /// The arguments that say the same.
    pub(super) fn to_command_line(role: Role, place: &Workplace) -> [String; 11] {
        let (url, session) = (place.client.base_url(), &place.session);
        let (speed, lease) = (place.speed, place.lease.as_secs());
        [
            "demo-agent".into(),
            "--role".into(),
            role.to_string(),
            "--url".into(),
            url.into(),
            "--session".into(),
            session.to_string(),
            "--speed".into(),
            speed.to_string(),
            "--lease".into(),
            lease.to_string(),
        ]
    }
}

pub(in crate::cli) async fn run(args: AgentArgs) -> Result<Ending, Failure> {
    let AgentArgs { role, url, session, speed, lease } = args;
    let client = Client::new(&url, None)?;
    let place = Workplace { client, session, speed, lease: Duration::from_secs(lease.into()) };
    let mut stdin = BufReader::new(tokio::io::stdin());
    let Some(input) = assignment(&mut stdin).await? else { return Ok(Ending::Done) };
    let work = tokio::select! {
        work = work(role, &place, &input) => work,
        () = demo_gone(stdin) => return Ok(Ending::Done),
    };
    match work {
        Err(Halt::Failed(why)) => Err(Failure::Other(format!("the {role} gave up: {why}"))),
        Err(Halt::Over(why)) => {
            output::notice(format_args!("the {role} leaves: {why}"));
            Ok(Ending::Done)
        }
        // A sub-agent that was stopped while it waited for the plan has no run to end.
        Ok(()) | Err(Halt::Stopped) => Ok(Ending::Done),
    }
}

/// Takes the book to work on; `None` if there will be none.
async fn assignment(stdin: &mut BufReader<Stdin>) -> Result<Option<Input>, Failure> {
    let mut line = String::new();
    let read = stdin.take(LINE_MAX).read_line(&mut line).await;
    match read.map_err(|e| Failure::Other(format!("the standard input: {e}")))? {
        0 => Ok(None),
        _ => serde_json::from_str(&line).map(Some).map_err(|e| Failure::Other(format!("no book to work on: {e}"))),
    }
}

/// Ready when nobody holds the other end of the standard input any more.
async fn demo_gone(mut stdin: BufReader<Stdin>) {
    // A pipe that can't be read is as much the end as one that has ended.
    drop(tokio::io::copy(&mut stdin, &mut sink()).await);
}

async fn work(role: Role, place: &Workplace, input: &Input) -> Result<(), Halt> {
    if role != Role::Orchestrator && !orchestrator::planned(place).await? {
        return Err(Halt::Over("there is no plan".into()));
    }
    let book = input.book().map_err(|why| Halt::Failed(why.to_string()))?;
    let mut agent = Agent::start(place, role).await?;
    let desk = &mut agent;
    let work = match role {
        Role::Orchestrator => orchestrator::work(desk, place, input, &book).await,
        Role::Reactivation => specialists::tell(desk, &reactivation::finding(&book)).await,
        Role::LifetimeValue => specialists::tell(desk, &lifetime::finding(&book)).await,
        Role::Pipeline => specialists::tell(desk, &pipeline::finding(&book)).await,
        Role::Discovery => specialists::discovery(desk, place, input, &book).await,
        Role::Cadence => specialists::cadence(desk, place, &book).await,
        Role::RoadMap => specialists::road_map(desk, place, input, &book).await,
    };
    agent.finish(work).await
}
