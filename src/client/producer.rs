//! A publisher whose events are stored once.
//!
//! Each event has a number. A request whose answer was lost is sent again with the same numbers, and the gateway leaves
//! out what it has. So a producer outlives a gateway's restart in the middle of an answer without losing or doubling
//! an event, as far as the log itself outlives it. What a call has left unanswered is sent again before anything else:
//! other events under its numbers would be taken for it, and left out.

use std::time::Duration;

use bytes::Bytes;
use reqwest::{Method, header::CONTENT_TYPE};
use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::{ANSWER_TIMEOUT, Client, Error, Published, Speaker, backoff::Backoff};
use crate::id::{BadName, Name};

/// How long a producer tries again by default: a restart or a failover takes seconds.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long an attempt may take, however little patience there is.
const ATTEMPT_LEAST: Duration = Duration::from_secs(2);

type RetryHook = dyn Fn(&Error, Duration) + Send + Sync;

/// Events of one request.
#[derive(Clone, PartialEq)]
struct Batch {
    json: Bytes,
    events: u64,
}

impl Batch {
    fn new<T: Serialize>(events: &[T]) -> Result<Self, Error> {
        // One event goes as it is: a refusal then speaks of it, not of an array's element.
        let json = if let [event] = events { serde_json::to_vec(event) } else { serde_json::to_vec(events) };
        let json = json.map_err(|error| Error::Unwritable(error.to_string()))?.into();
        Ok(Batch { json, events: events.len() as u64 })
    }
}

/// Publishes to one session under numbers of its own. Made by [`Client::producer`].
pub struct Producer {
    client: Client,
    session: Name,
    speaker: Speaker,
    id: Name,
    /// The number of the next event.
    next: u64,
    /// What may be in the log under that number, for no answer came.
    unsure: Option<Batch>,
    attempt: Option<u32>,
    patience: Duration,
    /// Whether a gateway was ever there.
    reached: bool,
    on_retry: Box<RetryHook>,
}

impl Producer {
    pub(super) fn new(client: Client, session: Name, speaker: Speaker) -> Producer {
        Producer {
            client,
            session,
            speaker,
            id: random_name("p"),
            next: 0,
            unsure: None,
            attempt: None,
            patience: PATIENCE,
            reached: false,
            on_retry: Box::new(|_, _| {}),
        }
    }

    /// Says with every request which attempt of its run it comes from: once another attempt has taken over, it is refused
    /// (`stale_attempt`).
    pub fn attempt(mut self, attempt: u32) -> Producer {
        self.attempt = Some(attempt);
        self
    }

    /// How long to go on trying after a failure that may pass, counted from that failure.
    pub fn patience(mut self, patience: Duration) -> Producer {
        self.patience = patience;
        self
    }

    /// What to do before each further attempt: it gets the last one's error and the wait.
    pub fn on_retry(mut self, hook: impl Fn(&Error, Duration) + Send + Sync + 'static) -> Producer {
        self.on_retry = Box::new(hook);
        self
    }

    /// How many events the log has taken from this producer.
    pub fn published(&self) -> u64 {
        self.next
    }

    /// Appends events, all or none, in order; tries again until there is an answer. After an error that is not
    /// transient none of them is stored. After one that is, or if the future was dropped, they may be; then the next call
    /// sends them first, unless it hands in the same ones again: either way they are stored once.
    ///
    /// As long as none was ever there, a producer doesn't wait for a gateway: the address may be wrong.
    pub async fn publish<T: Serialize>(&mut self, events: &[T]) -> Result<Published, Error> {
        if events.is_empty() {
            return Ok(Published::default());
        }
        let batch = Batch::new(events)?;
        if let Some(unsure) = self.unsure.clone().filter(|unsure| *unsure != batch) {
            match self.send(unsure).await {
                Err(error) if self.unsure.is_some() => return Err(error),
                // Refused for good, it is not in the log.
                _ => {}
            }
        }
        self.send(batch).await
    }

    async fn send(&mut self, batch: Batch) -> Result<Published, Error> {
        let mut backoff = Backoff::default();
        let mut failing_since = None;
        loop {
            let sent_before = self.unsure.replace(batch.clone()).is_some();
            let error = match self.try_once(&batch).await {
                Ok(published) => {
                    self.reached = true;
                    self.unsure = None;
                    self.next += batch.events;
                    return Ok(published);
                }
                Err(error) => error,
            };
            let unreachable = matches!(error, Error::Unreachable { .. });
            let may_have_come = matches!(error, Error::Protocol(_)) || self.client.may_pass(&error);
            if !may_have_come || (unreachable && !sent_before) {
                self.unsure = None;
            }
            let wait = backoff.next(error.retry_after());
            let since = *failing_since.get_or_insert_with(Instant::now);
            self.reached |= !unreachable;
            if !self.reached || !self.client.may_pass(&error) || since.elapsed() + wait > self.patience {
                return Err(error);
            }
            (self.on_retry)(&error, wait);
            sleep(wait).await;
        }
    }

    async fn try_once(&self, batch: &Batch) -> Result<Published, Error> {
        let request = self
            .client
            .request(Method::POST, &[self.session.as_str(), "events"])
            .query(&self.speaker)
            .header("producer-id", self.id.as_str())
            .header("producer-epoch", 0)
            .header("producer-seq", self.next)
            .header(CONTENT_TYPE, "application/json")
            .body(batch.json.clone());
        let request = match self.attempt {
            Some(attempt) => request.header("run-attempt", attempt),
            None => request,
        };
        // An attempt takes no longer than all of them may.
        let timeout = ANSWER_TIMEOUT.min(self.patience.max(ATTEMPT_LEAST));
        self.client.answer(request.timeout(timeout)).await
    }
}

/// A name nobody else has: 64 random bits.
pub(crate) fn random_name(prefix: &str) -> Name {
    let name: Result<Name, BadName> = format!("{prefix}-{:016x}", fastrand::u64(..)).parse();
    name.expect("a prefix of the alphabet, a hyphen and hexadecimal digits make a name")
}
