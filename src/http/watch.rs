//! The run of an endless body, watched: the body is answered early when its run is asked to stop, or has ended.
//!
//! A stop may reach a run by its name, its agent, its parent or all at once, so it is the run's own events that tell. Where they may
//! not tell all, the run itself is asked: after the log was lost, or could not be followed.

use std::time::Duration;

use super::Gateway;
use crate::{
    hub::{Follower, Start, Update},
    id::{Lane, Name},
    ingest::{Read, Stopped},
    pause::Pause,
    rules::{Control, Refusal, RunStatus},
    sse::Filter,
    store::{Lost, StoreError},
    writer::WriteError,
};

/// Pauses between attempts to follow the log.
const AGAIN_MIN: Duration = Duration::from_millis(100);
const AGAIN_MAX: Duration = Duration::from_secs(2);

/// Follows a run for one body.
pub(super) struct Watch<'a> {
    gateway: &'a Gateway,
    session: &'a Name,
    run: &'a Name,
    /// The attempt that the body belongs to, if it says so.
    attempt: Option<u32>,
    told: Filter,
    /// `None` while the log can't be followed.
    follower: Option<Follower>,
}

/// What a follower has told.
enum Told {
    /// The run is asked to stop, or has ended.
    Stop,
    /// The session is gone.
    Gone,
    /// Nothing, and something may have been missed.
    Unsure,
}

impl<'a> Watch<'a> {
    /// Begins after `since`.
    pub async fn begin(
        gateway: &'a Gateway,
        session: &'a Name,
        run: &'a Name,
        attempt: Option<u32>,
        since: Start,
    ) -> Watch<'a> {
        let told = Filter {
            runs: vec![run.as_str().to_owned()],
            types: vec!["run.stopping".into(), "run.ended".into()],
            ..Default::default()
        };
        let follower = gateway.hub.follow(session, Lane::Events, since).await.ok();
        Watch { gateway, session, run, attempt, told, follower }
    }

    /// Resolves when the body is to be answered early, or refused.
    pub async fn stopped(mut self) -> Result<Read, Stopped> {
        let mut pause = Pause::new(AGAIN_MIN, AGAIN_MAX);
        loop {
            if let Some(follower) = self.follower.take() {
                match self.follow(follower).await {
                    Told::Stop => return Ok(Read::Early),
                    Told::Gone => return Err(WriteError::from(Refusal::SessionGone).into()),
                    Told::Unsure => {}
                }
            }
            // First this, then the question: what happens after the answer is told.
            self.follower = self.gateway.hub.follow(self.session, Lane::Events, Start::Now).await.ok();
            match self.ask().await {
                Ok(true) => return Ok(Read::Early),
                Ok(false) if self.follower.is_some() => pause.begin_anew(),
                _ => {
                    self.follower = None;
                    pause.wait().await;
                }
            }
        }
    }

    async fn follow(&self, mut follower: Follower) -> Told {
        loop {
            match follower.next().await {
                Ok(Update::Entries(items)) if items.iter().any(|item| self.told.wants(item.payload())) => {
                    return Told::Stop;
                }
                Ok(Update::History(page)) if page.iter().any(|entry| self.told.wants(&entry.payload)) => {
                    return Told::Stop;
                }
                // Closed before the body came: its own appends are told, or that they are stored already.
                Ok(Update::CaughtUp(_)) if follower.at_end() => return std::future::pending().await,
                Ok(Update::Closed) => return Told::Stop,
                Ok(Update::Reset { reason: Lost::Deleted, .. }) => return Told::Gone,
                // What the log now begins with is long past.
                Ok(Update::Reset { .. }) | Err(_) => return Told::Unsure,
                Ok(_) => {}
            }
        }
    }

    /// Whether the run, as it stands, is to stop or has ended. One that nobody has started is a label, unless the body is an
    /// attempt at it.
    async fn ask(&self) -> Result<bool, StoreError> {
        let state = self.gateway.store.stat(self.session).await?.and_then(|stat| stat.snapshot.state);
        let Some(state) = state else { return Ok(false) };
        let control = Control::read(&state, Default::default())?;
        Ok(match control.run(self.run) {
            Some(run) => {
                let over = matches!(run.status, RunStatus::Stopping { .. } | RunStatus::Ended { .. });
                over || self.attempt.is_some_and(|own| own != run.attempt)
            }
            None => self.attempt.is_some(),
        })
    }
}
