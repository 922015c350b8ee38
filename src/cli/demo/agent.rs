//! What the demo's agents have in common: a run, a voice on the events lane, an ear on the commands lane.
//!
//! An agent knows the session's address and nothing else: what it says goes out by HTTP, what it is told comes in by
//! HTTP. It could run on another machine.

use std::{
    future::Future,
    pin::{Pin, pin},
    time::Duration,
};

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, sleep_until};

use super::role::Role;
use crate::{
    client::{
        AskApproval, Client, Entry, Error, Follow, FollowOptions, Outcome, Producer, Published, Run, RunEnd, Speaker,
        StartRun, Update,
    },
    desk::finding::{Finding, Part},
    id::{Lane, Name},
};

/// An error's text in the reason of a failed run: enough to know what happened, far below the gateway's limit.
const REASON_MAX_CHARS: usize = 200;

/// How long a row of a table takes to read, in tokens.
const TOKENS_PER_ROW: f64 = 8.0;

/// How long a question is asked again that got no answer, and how often.
const ASK_PATIENCE: Duration = Duration::from_secs(60);
const ASK_PAUSE: Duration = Duration::from_millis(500);

/// One agent at work in one run.
pub(super) struct Agent {
    place: Workplace,
    role: Role,
    run: Name,
    attempt: u32,
    events: Producer,
    commands: Follow,
    /// The run was asked to stop.
    stopping: bool,
    /// The last steer that nothing was made of yet.
    steer: Option<Steer>,
    /// When the next token may be said.
    due: Instant,
    blocks: u32,
}

/// Where the agents work, and how.
#[derive(Debug, Clone)]
pub(super) struct Workplace {
    pub client: Client,
    pub session: Name,
    /// Tokens a second.
    pub speed: f64,
    /// The silence after which an agent counts as lost.
    pub lease: Duration,
}

/// A request to turn the work in another direction.
#[derive(Debug)]
pub(super) struct Steer {
    pub command: Name,
    pub text: String,
}

/// How a question was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Approved,
    Denied,
    /// By time: nobody said anything, and it counts as denied.
    Expired,
}

/// Why an agent ends before its work is done.
#[derive(Debug)]
pub(super) enum Halt {
    /// Its run was asked to stop; a last word and an end are up to the agent.
    Stopped,
    /// Its run has ended without it, or the session has: nothing that it sends would be taken.
    Over(String),
    /// It can't go on.
    Failed(String),
}

/// A command, as it stands in the commands lane.
#[derive(Debug, Deserialize)]
struct Command {
    #[serde(rename = "type")]
    kind: String,
    command: Name,
    agent: Option<Name>,
    run: Option<Name>,
    #[serde(default)]
    data: Value,
}

impl From<Error> for Halt {
    fn from(error: Error) -> Halt {
        match error.code() {
            // The unknown ones: the session was deleted, and maybe another has its name by now.
            Some("run_ended" | "stale_attempt" | "session_closed" | "unknown_run" | "unknown_session") => {
                Halt::Over(error.to_string())
            }
            _ => Halt::Failed(error.to_string()),
        }
    }
}

impl Agent {
    /// Starts the role's run, takes up what it has been told already, and listens from there on.
    pub async fn start(place: &Workplace, role: Role) -> Result<Agent, Halt> {
        let (client, session) = (&place.client, &place.session);
        let start = StartRun {
            agent: Some(role.agent()),
            parent: role.parent(),
            lease_ms: Some(place.lease.as_millis() as u64),
            ..StartRun::new(role.run())
        };
        let Run { run, attempt, status, .. } = client.start_run(session, &start).await?;
        if status == "cancelled" {
            return Err(Halt::Over(format!("{run} was stopped before it started")));
        }
        let speaker = Speaker { agent: Some(role.agent()), run: Some(run.clone()) };
        let events = client.producer(session, speaker).attempt(attempt);
        let pending = client.pending_commands(session).await?;
        let behind = FollowOptions { cursor: Some(pending.next), ..FollowOptions::default() };
        let commands = client.follow(session, Lane::Commands, behind);
        let (stopping, due) = (status == "stopping", Instant::now());
        let mut agent =
            Agent { place: place.clone(), role, run, attempt, events, commands, stopping, steer: None, due, blocks: 0 };
        for command in &pending.commands {
            agent.obey(command).await?;
        }
        Ok(agent)
    }

    /// Publishes one event. The answer also tells how the run stands.
    pub async fn event(&mut self, kind: &str, data: Value) -> Result<Published, Error> {
        let published = self.events.publish(&[json!({"type": kind, "data": data})]).await?;
        self.stopping |= published.run.as_ref().is_some_and(|run| run["status"] == "stopping");
        Ok(published)
    }

    /// Says one paragraph, word by word, as a model would.
    pub async fn say(&mut self, text: &str) -> Result<(), Halt> {
        self.blocks += 1;
        let id = format!("{}-{}", self.run, self.blocks);
        for token in format!("{}\n", text.trim_end()).split_inclusive(' ') {
            self.wait_for(sleep_until(self.due)).await?;
            self.due = Instant::now() + Duration::from_secs_f64(1.0 / self.place.speed);
            self.event("text-delta", json!({"id": id, "delta": token})).await?;
        }
        Ok(())
    }

    /// Shows a table, and leaves the time to read it.
    async fn table(&mut self, data: Value, rows: usize) -> Result<(), Halt> {
        self.wait_for(sleep_until(self.due)).await?;
        self.event("table", data).await?;
        self.due = Instant::now() + Duration::from_secs_f64(TOKENS_PER_ROW * rows as f64 / self.place.speed);
        Ok(())
    }

    /// Says and shows a finding's parts from one on, until the end or a steer. Gives the part to go on with.
    pub async fn present(&mut self, finding: &Finding, from: usize) -> Result<usize, Halt> {
        for (i, part) in finding.parts.iter().enumerate().skip(from) {
            if self.is_steered() {
                return Ok(i);
            }
            match part {
                Part::Text(text) => self.say(text).await?,
                Part::Table(table) => {
                    self.blocks += 1;
                    let id = format!("{}-{}", self.run, self.blocks);
                    self.table(table.event(&id), table.rows.len()).await?;
                }
            }
        }
        // The last table is to be read, too, before the next is said.
        self.wait_for(sleep_until(self.due)).await?;
        Ok(finding.parts.len())
    }

    /// Publishes a finding for the others to build on.
    pub async fn publish_finding(&mut self, finding: &Finding) -> Result<(), Halt> {
        self.event("finding", json!(finding)).await?;
        self.unless_stopping()
    }

    /// Hands out a file.
    pub async fn file(&mut self, name: &str, media_type: &str, content: &str) -> Result<(), Halt> {
        self.unless_stopping()?;
        self.event("file", json!({"name": name, "media_type": media_type, "content": content})).await?;
        Ok(())
    }

    /// Asks whoever watches for a decision, and waits for it. Nobody's is a denial.
    pub async fn decision(&mut self, name: &str, prompt: Value, wait: Duration) -> Result<Verdict, Halt> {
        let approval: Name = name.parse().map_err(|_| Halt::Failed(format!("{name:?} is no name")))?;
        let ask = AskApproval::new(approval, self.run.clone(), prompt, wait);
        let asked_at = Instant::now();
        loop {
            match self.place.client.ask_approval(&self.place.session, self.attempt, &ask).await {
                Ok(()) => break,
                // An earlier try got through, and its answer did not.
                Err(error) if error.code() == Some("approval_exists") => break,
                Err(error) if error.is_transient() && asked_at.elapsed() < ASK_PATIENCE => {
                    self.wait_for(sleep(ASK_PAUSE)).await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        let options = FollowOptions {
            runs: vec![self.run.clone()],
            types: ["approval.decided", "approval.superseded"].map(str::to_owned).to_vec(),
            ..FollowOptions::default()
        };
        let mut session = self.place.client.follow(&self.place.session, Lane::Events, options);
        let decided = async {
            while let Some(update) = session.next().await {
                let Update::Entry(entry) = update? else { continue };
                let Ok(decided) = serde_json::from_str::<Value>(&entry.json) else { continue };
                let data = &decided["data"];
                if data["approval"] == name {
                    return match (decided["type"].as_str(), data["decision"].as_str()) {
                        (Some("approval.decided"), Some("approve")) => Ok(Verdict::Approved),
                        (Some("approval.decided"), _) if data["expired"] == true => Ok(Verdict::Expired),
                        (Some("approval.decided"), _) => Ok(Verdict::Denied),
                        _ => Err(Halt::Over("the question was withdrawn".into())),
                    };
                }
            }
            Err(Halt::Over("the session was closed".into()))
        };
        self.wait_for(decided).await?
    }

    /// Waits for something else than the session, keeps the run alive meanwhile, and gives up when the run is to stop.
    pub async fn wait_for<T>(&mut self, what: impl Future<Output = T>) -> Result<T, Halt> {
        let mut what = pin!(what);
        loop {
            // Never `None` here: a steer waits for its turn.
            if let Some(done) = self.wait(what.as_mut(), false).await? {
                return Ok(done);
            }
        }
    }

    /// The same, but gives up (`None`) when the agent is steered.
    pub async fn wait_for_unless_steered<T>(&mut self, what: impl Future<Output = T>) -> Result<Option<T>, Halt> {
        self.wait(pin!(what), true).await
    }

    async fn wait<T>(
        &mut self,
        mut what: Pin<&mut impl Future<Output = T>>,
        wake_when_steered: bool,
    ) -> Result<Option<T>, Halt> {
        let pause = self.place.lease / 3;
        let mut heartbeat = interval_at(Instant::now() + pause, pause);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.unless_stopping()?;
            if wake_when_steered && self.is_steered() {
                return Ok(None);
            }
            tokio::select! {
                done = &mut what => return Ok(Some(done)),
                _ = heartbeat.tick() => self.ask().await?,
                update = self.commands.next() => match update.transpose()? {
                    Some(Update::Entry(entry)) => self.obey(&entry).await?,
                    // A lost connection comes back by itself, behind the last command that was seen.
                    Some(_) => {}
                    None => return Err(Halt::Over("the session was closed".into())),
                },
            }
        }
    }

    fn unless_stopping(&self) -> Result<(), Halt> {
        if self.stopping { Err(Halt::Stopped) } else { Ok(()) }
    }

    /// Whether there is a steer to take.
    pub fn is_steered(&self) -> bool {
        self.steer.is_some()
    }

    /// What the agent was steered to since the last call, if it was. It owes the command an [answer](Agent::answer).
    pub fn steered(&mut self) -> Option<Steer> {
        self.steer.take()
    }

    /// Ends the run as the work ended.
    pub async fn finish(mut self, work: Result<(), Halt>) -> Result<(), Halt> {
        let (end, reason) = match work {
            Ok(()) => (RunEnd::Completed, None),
            Err(Halt::Stopped) => (RunEnd::Cancelled, Some("asked to stop".to_owned())),
            Err(Halt::Over(why)) => return Err(Halt::Over(why)),
            Err(Halt::Failed(why)) => (RunEnd::Failed, Some(why.chars().take(REASON_MAX_CHARS).collect())),
        };
        if let Some(steer) = self.steered() {
            self.answer(&steer.command, Outcome::Rejected, Some("it came too late")).await;
        }
        let Workplace { client, session, .. } = &self.place;
        client.end_run(session, &self.run, self.attempt, end, reason.as_deref()).await?;
        match reason {
            Some(why) if end == RunEnd::Failed => Err(Halt::Failed(why)),
            _ => Ok(()),
        }
    }

    /// Reports a command's outcome. It may have one already: its time was over, or somebody else was faster. That is as
    /// good.
    pub async fn answer(&self, command: &Name, outcome: Outcome, reason: Option<&str>) {
        if let Err(error) =
            self.place.client.outcome(&self.place.session, command, outcome, reason, Some(self.attempt)).await
        {
            tracing::debug!(%command, %error, "the outcome was not taken");
        }
    }

    /// Renews the lease, and asks how the run stands.
    async fn ask(&mut self) -> Result<(), Halt> {
        match self.place.client.heartbeat(&self.place.session, &self.run, self.attempt).await {
            Ok(run) => self.stopping |= run.status == "stopping",
            // The next one may get through.
            Err(error) if error.is_transient() => tracing::debug!(%error, "a heartbeat got no answer"),
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    async fn obey(&mut self, entry: &Entry) -> Result<(), Halt> {
        let Ok(command) = serde_json::from_str::<Command>(&entry.json) else { return Ok(()) };
        let named = command.agent.is_some() || command.run.is_some();
        let ours = command.agent.as_ref().is_none_or(|agent| *agent == self.role.agent())
            && command.run.as_ref().is_none_or(|run| *run == self.run);
        match command.kind.as_str() {
            // Whomever it names: it may reach this run by its parent. The run's own status tells.
            "stop" => self.ask().await?,
            "decide" => {}
            // A message to all is for the one that can do something about it.
            "steer" | "message" if ours && self.role.takes_steers() => {
                let text = command.data.as_str().or_else(|| command.data["text"].as_str());
                let text = text.map_or_else(|| command.data.to_string(), str::to_owned);
                if let Some(older) = self.steer.replace(Steer { command: command.command, text }) {
                    self.answer(&older.command, Outcome::Rejected, Some("a later steer came first")).await;
                }
            }
            // What is for nobody by name is left to those that can do it.
            _ if ours && named => {
                let why = format!("the {} does not know what to do with this", self.role);
                self.answer(&command.command, Outcome::Rejected, Some(&why)).await;
            }
            _ => {}
        }
        Ok(())
    }
}
