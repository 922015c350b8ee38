//! A Moorline gateway under audit: sessions of the audit's own, fed by an agent of its own, erased at the end.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::future::join_all;
use serde_json::json;
use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::wire::AuditError;
use crate::{
    client::{Client, Command, Error, RunEnd, Speaker, StartRun, random_name},
    id::Name,
    lock::lock,
};

/// How long the end may take, in all.
const TIDYING: Duration = Duration::from_secs(5);

/// A gateway, and how it is fed.
#[derive(Debug, Clone)]
pub struct Gateway {
    /// Its address.
    pub url: String,
    /// The same gateway by other addresses: replicas.
    pub surfaces: Vec<String>,
    /// Who we are.
    pub token: Option<String>,
    /// Events of one stream.
    pub events: usize,
    /// Between two events.
    pub pace: Duration,
    sessions: Arc<Mutex<Vec<Name>>>,
}

/// An agent of the audit's own: it streams numbered events as a run and ends it, or obeys a stop.
pub(super) struct Feeder {
    pub session: Name,
    run: Name,
    task: JoinHandle<()>,
}

impl Drop for Feeder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Gateway {
    /// The gateway at this address.
    pub fn new(url: String, surfaces: Vec<String>, token: Option<String>, events: usize, pace: Duration) -> Gateway {
        Gateway { url, surfaces, token, events, pace, sessions: Arc::default() }
    }

    fn client(&self) -> Result<Client, Error> {
        Client::new(&self.url, self.token.clone())
    }

    fn sessions(&self) -> std::sync::MutexGuard<'_, Vec<Name>> {
        lock(&self.sessions)
    }

    /// A new session, and an agent that streams to it.
    pub(super) async fn feed(&self) -> Result<Feeder, AuditError> {
        let client = self.client()?;
        let (session, run) = (random_name("audit"), random_name("run"));
        self.sessions().push(session.clone());
        let start = StartRun { agent: "auditor".parse().ok(), ..StartRun::new(run.clone()) };
        let attempt = client.start_run(&session, &start).await?.attempt;
        let task = tokio::spawn(stream(client, session.clone(), run.clone(), attempt, self.events, self.pace));
        Ok(Feeder { session, run, task })
    }

    /// Stops the run.
    pub(super) async fn stop(&self, feeder: &Feeder) -> Result<(u16, String), AuditError> {
        let command = Command { run: Some(feeder.run.clone()), id: Some(random_name("stop")), ..Command::new("stop") };
        self.client()?.command(&feeder.session, &command).await?;
        Ok((202, String::new()))
    }

    /// What becomes of an append to the run now.
    pub(super) async fn append_after_stop(&self, feeder: &Feeder) -> Option<String> {
        let speaker = Speaker { agent: "auditor".parse().ok(), run: Some(feeder.run.clone()) };
        let event = json!({"type": "audit-number", "data": "after the stop"});
        let result = self.client().ok()?.publish(&feeder.session, &speaker, &event).await;
        Some(match result {
            Ok(_) => "accepted".into(),
            Err(error) => error.code().unwrap_or("failed").to_owned(),
        })
    }

    /// Erases the sessions of the audit.
    pub(super) async fn delete_sessions(&self) {
        let sessions = std::mem::take(&mut *self.sessions());
        let Ok(client) = self.client() else { return };
        let all = join_all(sessions.iter().map(|session| client.delete(session)));
        // Nobody can do more about it; what is left goes with its time to live.
        let _ = timeout(TIDYING, all).await;
    }
}

/// Streams as an agent does: it learns of a stop from the answers to its appends.
async fn stream(client: Client, session: Name, run: Name, attempt: u32, events: usize, pace: Duration) {
    let speaker = Speaker { agent: "auditor".parse().ok(), run: Some(run.clone()) };
    for n in 1..=events {
        let event = json!({"type": "audit-number", "data": {"n": n}});
        let stopping = match client.publish(&session, &speaker, &event).await {
            Ok(published) => published.run.is_some_and(|run| run["status"] == "stopping"),
            Err(_) => return,
        };
        if stopping {
            // With that the stop counts as consumed.
            let _ = client.end_run(&session, &run, attempt, RunEnd::Cancelled, Some("stopped")).await;
            return;
        }
        sleep(pace).await;
    }
    let _ = client.end_run(&session, &run, attempt, RunEnd::Completed, None).await;
    // What is read to its end, ends.
    let _ = client.close(&session).await;
}
