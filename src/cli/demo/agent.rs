//! What the demo's agents have in common: a name, a voice on the events lane, an ear on the commands lane.
//!
//! An agent knows the session's address and nothing else: what it says goes out by HTTP, what it is told comes in by
//! HTTP. It could run on another machine.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::{
    sync::watch,
    task::AbortHandle,
    time::{Interval, MissedTickBehavior, interval},
};

use crate::{
    client::{Begin, Client, Error, FollowOptions, Producer, Published, Speaker, Update},
    id::{Lane, Name},
};

/// One agent at work in one run.
pub(super) struct Agent {
    pub name: Name,
    pub run: Name,
    producer: Producer,
    orders: watch::Receiver<Orders>,
    listener: AbortHandle,
    pace: Interval,
    blocks: u32,
}

/// What an agent has been told. Only the last steer counts, so nothing queues up.
#[derive(Debug, Default, Clone)]
struct Orders {
    stop: bool,
    steer: Option<String>,
    /// The commands lane can't be read any more.
    lost: Option<String>,
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
        let speaker = Speaker { agent: Some(name.clone()), run: Some(run.clone()) };
        let (told, orders) = watch::channel(Orders::default());
        let options = FollowOptions { begin: Begin::Now, ..FollowOptions::default() };
        let mut commands = place.client.follow(&place.session, Lane::Commands, options);
        loop {
            match commands.next().await {
                Some(Ok(Update::CaughtUp)) => break,
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error),
                None => break,
            }
        }
        let me = (name.clone(), run.clone());
        let listener = tokio::spawn(async move {
            while let Some(update) = commands.next().await {
                match update {
                    Ok(Update::Entry(entry)) => {
                        if let Some(command) = entry.head().filter(|command| {
                            command.agent.is_none_or(|agent| agent == me.0.as_str())
                                && command.run.is_none_or(|run| run == me.1.as_str())
                        }) {
                            told.send_modify(|orders| orders.take(command.kind, command.data.map(|data| data.get())));
                        }
                    }
                    Ok(_) => {}
                    Err(error) => {
                        told.send_modify(|orders| orders.lost = Some(error.to_string()));
                        return;
                    }
                }
            }
        });
        let mut pace = interval(Duration::from_secs_f64(1.0 / place.speed));
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let producer = place.client.producer(&place.session, speaker);
        let listener = listener.abort_handle();
        let mut agent = Agent { name, run, producer, orders, listener, pace, blocks: 0 };
        agent.event("agent.started", json!({})).await?;
        Ok(agent)
    }

    /// Publishes one event.
    pub async fn event(&mut self, kind: &str, data: Value) -> Result<Published, Error> {
        self.producer.publish(&[json!({"type": kind, "data": data})]).await
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
            Some(why) => Err(Halt::Failed(format!("the commands lane is lost: {why}"))),
            None if orders.stop => Err(Halt::Stopped),
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
                // The session is closed: nobody can say anything any more.
                return Halt::Failed("the commands lane has ended".into());
            }
        }
    }

    /// What the agent was steered to since the last call.
    pub fn steered(&mut self) -> Option<String> {
        if self.orders.has_changed().unwrap_or(false) { self.orders.borrow_and_update().steer.clone() } else { None }
    }

    /// The last event: how the work ended, and what came of it.
    pub async fn finish(mut self, work: Result<Value, Halt>) -> Result<(), Error> {
        let data = match work {
            Ok(result) => json!({"status": "completed", "result": result}),
            Err(Halt::Stopped) => json!({"status": "stopped"}),
            Err(Halt::Failed(why)) => json!({"status": "failed", "reason": why}),
        };
        self.event("agent.finished", data).await.map(drop)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

impl Orders {
    fn take(&mut self, kind: &str, data: Option<&str>) {
        match kind {
            "stop" => self.stop = true,
            "steer" => {
                let data = data.and_then(|data| serde_json::from_str::<Value>(data).ok()).unwrap_or_default();
                let text = data.as_str().map(str::to_owned);
                self.steer = Some(text.unwrap_or_else(|| data.to_string()));
            }
            _ => {}
        }
    }
}
