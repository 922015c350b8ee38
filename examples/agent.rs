//! A small agent that works in a Moorline session: the loop to copy into your own.
//!
//! ```text
//! cargo run --example agent -- SESSION RUN [WORDS] [PAUSE_MS]     MOORLINE_URL, MOORLINE_TOKEN say where and as whom
//! moorline tail SESSION                                           watch it; turn it in another direction:
//! moorline command SESSION steer --run RUN --data '{"text":"the sea"}'
//! moorline command SESSION stop --run RUN                         stop it
//! ```
//!
//! What an agent owes its users:
//!
//! 1. **Start a run, with a lease.** A run has one end that everybody sees. If this process dies, the lease runs out
//!    and the run ends as `lost`, instead of streaming for ever.
//! 2. **Say which attempt it is** in all that it sends. After a takeover this process is refused, wherever it was stuck.
//! 3. **Ask how the run stands, and obey.** A stop may reach a run by its name, its agent, its parent, or with all others,
//!    so it is the run's status that tells, not the command: each answer to an append says `stopping`.
//! 4. **Report outcomes**, so that whoever asked for something learns what became of it. A stop needs no report: it is
//!    done when the run has ended.

use std::{env, error::Error, process::ExitCode, time::Duration};

use moorline::{
    client::{Client, Entry, Follow, FollowOptions, Outcome, Producer, RunEnd, Speaker, StartRun, Update},
    id::{Lane, Name},
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{interval, sleep};

/// The silence after which this agent counts as dead. Renewed by everything it sends, and by heartbeats in between.
const LEASE: Duration = Duration::from_secs(10);

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

/// A command, as it stands in the commands lane. It may also have a `traceparent`: the trace of whoever asked, to be
/// continued by what your agent does.
#[derive(Deserialize)]
struct Command {
    #[serde(rename = "type")]
    kind: String,
    command: Name,
    run: Option<Name>,
    agent: Option<Name>,
    #[serde(default)]
    data: Value,
}

struct Agent {
    client: Client,
    session: Name,
    name: Name,
    run: Name,
    attempt: u32,
    events: Producer,
    /// What the words are about; a steer changes it.
    topic: String,
    /// Deltas of one `id` are one message: what comes after a steer is another one, below it.
    messages: u32,
}

/// Whether to go on.
enum Stand {
    Running,
    Stopping,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("agent: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [session, run, options @ ..] = &arguments[..] else {
        return Err("usage: agent SESSION RUN [WORDS] [PAUSE_MS]".into());
    };
    let words = options.first().map_or(Ok(50), |text| text.parse::<u32>())?;
    let pause = Duration::from_millis(options.get(1).map_or(Ok(100), |text| text.parse())?);
    let url = env::var("MOORLINE_URL").unwrap_or("http://127.0.0.1:4770".into());
    let client = Client::new(&url, env::var("MOORLINE_TOKEN").ok())?;

    let name = |text: &String| text.parse::<Name>().map_err(|why| format!("{text:?} is no name: it {why}"));
    let (mut agent, mut commands) = match Agent::start(client, name(session)?, name(run)?).await? {
        Some(started) => started,
        None => {
            eprintln!("agent: the run was stopped before it started");
            return Ok(());
        }
    };
    eprintln!("agent: started attempt {} of {run}", agent.attempt);
    let (end, reason) = match agent.work(&mut commands, words, pause).await {
        Ok(Stand::Running) => (RunEnd::Completed, None),
        Ok(Stand::Stopping) => {
            // The grace is for this: the last word, and an end in our own name.
            // Too late is no failure.
            let _ = agent.delta("(stopped)").await;
            (RunEnd::Cancelled, Some("asked to stop".to_owned()))
        }
        Err(error) => (RunEnd::Failed, Some(error.to_string())),
    };
    eprintln!("agent: {end:?} {}", reason.as_deref().unwrap_or(""));
    // It may have ended without us: the grace was over, the lease was, another process took over; or the session is
    // closed, or gone. Then there is nothing left to say, and nothing that we send would be taken.
    let without_us =
        |code| matches!(code, "run_ended" | "stale_attempt" | "session_closed" | "unknown_run" | "unknown_session");
    match agent.client.end_run(&agent.session, &agent.run, agent.attempt, end, reason.as_deref()).await {
        Err(error) if error.code().is_some_and(without_us) => eprintln!("agent: {error}"),
        ended => drop(ended?),
    }
    Ok(())
}

impl Agent {
    /// Starts a run and listens for commands. `None`: it was stopped before it started.
    async fn start(client: Client, session: Name, run: Name) -> Result<Option<(Agent, Follow)>> {
        let name: Name = "writer".parse()?;
        // After a crash the same run is taken up again, and whoever still works on it is fenced off.
        let lease_ms = Some(LEASE.as_millis() as u64);
        let start = StartRun { agent: Some(name.clone()), lease_ms, takeover: true, ..StartRun::new(run.clone()) };
        let started = client.start_run(&session, &start).await?;
        if started.status == "cancelled" {
            return Ok(None);
        }
        let speaker = Speaker { agent: Some(name.clone()), run: Some(run.clone()) };
        let events = client.producer(&session, speaker).attempt(started.attempt);
        let attempt = started.attempt;
        let topic = "the harbour".into();
        let mut agent = Agent { client, session, name, run, attempt, events, topic, messages: 1 };

        // First what has been asked and not been done (by the attempt before us, say), then what comes after it.
        let pending = agent.client.pending_commands(&agent.session).await?;
        for command in &pending.commands {
            agent.obey(command).await?;
        }
        let behind = FollowOptions { cursor: Some(pending.next), ..FollowOptions::default() };
        let commands = agent.client.follow(&agent.session, Lane::Commands, behind);
        Ok(Some((agent, commands)))
    }

    /// The work itself: here a model that says a word now and then. Gives how the run stood at the end of it.
    async fn work(&mut self, commands: &mut Follow, words: u32, pause: Duration) -> Result<Stand> {
        let mut heartbeat = interval(LEASE / 3);
        let mut said = 0;
        while said < words {
            // All of this can be interrupted without loss, also the model's call in your own loop.
            let stand = tokio::select! {
                () = sleep(pause) => {
                    said += 1;
                    self.delta(&format!("{} {said}. ", self.topic)).await?
                }
                _ = heartbeat.tick() => self.ask().await?,
                update = commands.next() => match update.transpose()? {
                    Some(Update::Entry(entry)) => self.obey(&entry).await?,
                    // The connection comes back by itself, behind the last command we have seen.
                    Some(_) => Stand::Running,
                    None => return Err("the session was closed".into()),
                },
            };
            if let Stand::Stopping = stand {
                return Ok(stand);
            }
        }
        Ok(Stand::Running)
    }

    /// Says a part of the message that it is at.
    async fn delta(&mut self, text: &str) -> Result<Stand> {
        let id = format!("{}-{}", self.attempt, self.messages);
        self.say("text-delta", json!({"id": id, "delta": text})).await
    }

    /// Publishes an event, once, however often it must be sent. The answer tells an agent how its run stands.
    async fn say(&mut self, kind: &str, data: Value) -> Result<Stand> {
        let published = self.events.publish(&[json!({"type": kind, "data": data})]).await?;
        let stopping = published.run.is_some_and(|run| run["status"] == "stopping");
        Ok(if stopping { Stand::Stopping } else { Stand::Running })
    }

    /// Renews the lease while there is nothing to say, and asks how the run stands.
    async fn ask(&self) -> Result<Stand> {
        let run = self.client.heartbeat(&self.session, &self.run, self.attempt).await?;
        Ok(if run.status == "stopping" { Stand::Stopping } else { Stand::Running })
    }

    /// Does what a command asks, if it is for us, and reports what became of it.
    async fn obey(&mut self, entry: &Entry) -> Result<Stand> {
        let command: Command = serde_json::from_str(&entry.json)?;
        if command.kind == "stop" {
            // Whoever it is for: our run's own status says whether it reaches us.
            return self.ask().await;
        }
        // Without a run or an agent a command is for all of them.
        let ours =
            command.run.is_none_or(|run| run == self.run) && command.agent.is_none_or(|agent| agent == self.name);
        if !ours || command.kind == "decide" {
            return Ok(Stand::Running);
        }
        // `{"text": …}`, as the console sends it; a plain string will do, too.
        let text = command.data["text"].as_str().or(command.data.as_str());
        let (outcome, reason) = match (command.kind.as_str(), text) {
            ("steer" | "message", Some(topic)) => {
                (self.topic, self.messages) = (topic.to_owned(), self.messages + 1);
                (Outcome::Consumed, None)
            }
            _ => (Outcome::Rejected, Some(r#"this agent knows stop, and steer or message with {"text": …}"#)),
        };
        match self.client.outcome(&self.session, &command.command, outcome, reason, Some(self.attempt)).await {
            // Somebody else was quicker, or its time was over.
            Err(error) if error.code() == Some("command_ended") => {}
            reported => reported?,
        }
        Ok(Stand::Running)
    }
}
