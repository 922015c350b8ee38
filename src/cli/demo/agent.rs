//! What the demo's agents have in common: a name, a voice on the events lane, an ear on the commands lane.
//!
//! An agent knows the session's address and nothing else: what it says goes out by HTTP, what it is told comes in by
//! HTTP. It could run on another machine.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    task::AbortHandle,
    time::{Interval, MissedTickBehavior, interval},
};

use crate::{
    client::{Begin, Client, Error, Follow, FollowOptions, Outcome, Producer, Published, Speaker, Update},
    id::{Lane, Name},
};

/// One agent at work in one run.
pub(super) struct Agent {
    place: Workplace,
    run: Name,
    producer: Producer,
    orders: watch::Receiver<Orders>,
    listener: AbortHandle,
    pace: Interval,
    blocks: u32,
}

/// A command, as it stands in the commands lane.
#[derive(Debug, Clone, Deserialize)]
struct Command {
    #[serde(rename = "type")]
    kind: String,
    command: Name,
    agent: Option<Name>,
    run: Option<Name>,
    #[serde(default)]
    data: Value,
}

/// What an agent has been told. Only the last steer counts, so nothing queues up.
#[derive(Debug, Default)]
struct Orders {
    stop: Option<Command>,
    steer: Option<Command>,
    /// The commands lane can't be read any more.
    lost: Option<String>,
}

/// A request to turn the work in another direction.
#[derive(Debug)]
pub(super) struct Steer {
    pub command: Name,
    pub text: String,
}

/// Why an agent ends before its work is done.
#[derive(Debug)]
pub(super) enum Halt {
    /// It was told to stop.
    Stopped,
    /// It can't go on.
    Failed(String),
}

impl From<Error> for Halt {
    fn from(error: Error) -> Halt {
        Halt::Failed(error.to_string())
    }
}

/// Where the agents work, and how fast they speak.
#[derive(Debug, Clone)]
pub(super) struct Workplace {
    pub client: Client,
    pub session: Name,
    /// Tokens a second.
    pub speed: f64,
}

impl Agent {
    /// Listens for commands from now on, then says that it has started: whoever reads that can command it.
    pub async fn start(place: &Workplace, name: Name, run: Name) -> Result<Agent, Error> {
        let options = FollowOptions { begin: Begin::Now, ..FollowOptions::default() };
        let mut commands = place.client.follow(&place.session, Lane::Commands, options);
        while let Some(update) = commands.next().await {
            if let Update::CaughtUp = update? {
                break;
            }
        }
        let (told, orders) = watch::channel(Orders::default());
        let listener = tokio::spawn(listen(commands, told, name.clone(), run.clone())).abort_handle();
        let speaker = Speaker { agent: Some(name), run: Some(run.clone()) };
        let producer = place.client.producer(&place.session, speaker);
        let mut pace = interval(Duration::from_secs_f64(1.0 / place.speed));
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut agent = Agent { place: place.clone(), run, producer, orders, listener, pace, blocks: 0 };
        agent.event("agent.started", Value::Null).await?;
        Ok(agent)
    }

    /// Publishes one event; null stands for no data.
    pub async fn event(&mut self, kind: &str, data: Value) -> Result<Published, Error> {
        let event = if data.is_null() { json!({"type": kind}) } else { json!({"type": kind, "data": data}) };
        self.producer.publish(&[event]).await
    }

    /// Says one paragraph, word by word, as a model would.
    pub async fn say(&mut self, text: &str) -> Result<(), Halt> {
        self.blocks += 1;
        let id = format!("{}-{}", self.run, self.blocks);
        for token in format!("{}\n", text.trim_end()).split_inclusive(' ') {
            self.pace.tick().await;
            self.check()?;
            self.event("text-delta", json!({"id": id, "delta": token})).await?;
        }
        Ok(())
    }

    /// Ends the work if the agent was told to.
    pub fn check(&self) -> Result<(), Halt> {
        let orders = self.orders.borrow();
        match &orders.lost {
            _ if orders.stop.is_some() => Err(Halt::Stopped),
            Some(why) => Err(Halt::Failed(format!("the commands lane is lost: {why}"))),
            None => Ok(()),
        }
    }

    /// Waits for a stop.
    pub async fn halted(&mut self) -> Halt {
        loop {
            if let Err(halt) = self.check() {
                return halt;
            }
            if self.orders.changed().await.is_err() {
                return Halt::Failed("the session was closed".into());
            }
        }
    }

    /// What the agent was steered to since the last call, if it was. It owes the command an [answer](Agent::answer).
    pub fn steered(&mut self) -> Option<Steer> {
        if !self.orders.has_changed().unwrap_or(false) {
            return None;
        }
        let Command { command, data, .. } = self.orders.borrow_and_update().steer.clone()?;
        let text = data.as_str().map_or_else(|| data.to_string(), str::to_owned);
        Some(Steer { command, text })
    }

    /// The last event: how the work ended, and what came of it.
    pub async fn finish(mut self, work: Result<Value, Halt>) -> Result<(), Error> {
        let data = match work {
            Ok(result) => json!({"status": "completed", "result": result}),
            Err(Halt::Stopped) => json!({"status": "stopped"}),
            Err(Halt::Failed(why)) => json!({"status": "failed", "reason": why}),
        };
        self.event("agent.finished", data).await?;
        let stop = self.orders.borrow().stop.as_ref().map(|stop| stop.command.clone());
        if let Some(stop) = stop {
            self.answer(&stop, Outcome::Consumed, None).await;
        }
        Ok(())
    }

    /// Reports a command's outcome. A colleague that was told the same may have been faster: that is as good.
    pub async fn answer(&self, command: &Name, outcome: Outcome, reason: Option<&str>) {
        if let Err(error) = self.place.client.outcome(&self.place.session, command, outcome, reason).await {
            tracing::debug!(%command, %error, "the outcome was not taken");
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

/// Passes on the commands for one agent, until the session is closed.
async fn listen(mut commands: Follow, told: watch::Sender<Orders>, name: Name, run: Name) {
    while let Some(update) = commands.next().await {
        match update {
            Ok(Update::Entry(entry)) => {
                let Ok(command) = serde_json::from_str::<Command>(&entry.json) else { continue };
                let for_me = command.agent.as_ref().is_none_or(|agent| *agent == name)
                    && command.run.as_ref().is_none_or(|r| *r == run);
                if for_me {
                    told.send_if_modified(|orders| orders.take(command));
                }
            }
            Ok(_) => {}
            Err(error) => {
                told.send_modify(|orders| orders.lost = Some(error.to_string()));
                return;
            }
        }
    }
}

impl Orders {
    /// Takes a command; `false` if the demo's agents don't know its type.
    fn take(&mut self, command: Command) -> bool {
        match command.kind.as_str() {
            "stop" => self.stop = Some(command),
            "steer" => self.steer = Some(command),
            _ => return false,
        }
        true
    }
}
