//! The client of the HTTP interface: what the command line, the demo's agents and Rust programs use.
//!
//! ```text
//! Client ── publish / publish_ndjson / command / session / close / delete   one request, one answer
//!   ├─ producer() ─▶ Producer    numbers its events and sends again what got no answer: each is stored once
//!   └─ follow() ───▶ Follow      a lane, history and live, that comes back with its cursor by itself
//! ```
//!
//! One request is tried once; only [`Producer`] and [`Follow`], which can tell what has arrived, try again.

mod approvals;
mod backoff;
mod error;
mod follow;
mod producer;
mod runs;
#[cfg(test)]
mod tests;
mod token;

use std::{net::IpAddr, time::Duration};

use bytes::Bytes;
use futures_util::Stream;
use reqwest::{
    Method, RequestBuilder, Response, StatusCode, Url,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE},
    redirect,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

pub use approvals::AskApproval;
pub(crate) use error::root_cause;
pub use error::{Error, Problem};
pub use follow::{Begin, Entry, Follow, FollowOptions, Update};
pub use producer::Producer;
pub(crate) use producer::random_name;
pub use runs::{Pending, Run, RunEnd, StartRun};
pub use token::Token;

use crate::{
    id::{EntryId, Lane, Name},
    trace::Traceparent,
};

/// Until a connection stands. A gateway is near its clients, or behind a load balancer that is.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Until the answer to an ordinary request is complete.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// One gateway (or a load balancer before several), and who speaks to it. Cheap to clone; clones share connections.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    token: Option<Token>,
}

/// What became of published events.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Published {
    /// The entries' ids, in the order of the events. Empty for a repetition that is older than the last request.
    pub ids: Vec<EntryId>,
    /// How many events the log had already and were left out (numbered events only).
    pub skipped: u64,
    /// The log had all of them already.
    pub duplicate: bool,
    /// What the gateway says about the run, `{"status":"stopping",…}`: how an agent without a command subscription
    /// learns of a stop.
    pub run: Option<Value>,
}

/// What became of an NDJSON body.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Appended {
    /// How many events were stored.
    pub appended: u64,
    /// The last one's id.
    pub last: Option<EntryId>,
}

/// A command to the agents of a session. [`Command::new`], then the fields that matter.
#[derive(Debug, Clone, Serialize)]
pub struct Command {
    /// `stop`, `steer`, `message`, or any other that the agents understand.
    #[serde(rename = "type")]
    pub kind: String,
    /// Only this run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<Name>,
    /// Only this agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<Name>,
    /// What the agents are to know.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<Value>,
    /// Chosen by the sender: the same id again is the same command, so a request without an answer can be repeated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<Name>,
    /// After this long without an outcome the command expires.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
    /// For `stop`: how long the run may take to end by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace_ms: Option<u64>,
    /// For `stop`: the run's children too.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub tree: bool,
    /// For `decide`: what is decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub approval: Option<Name>,
    /// The sender's place in a trace, which the agents' work is to continue. Sent as the header `traceparent`.
    #[serde(skip)]
    pub traceparent: Option<Traceparent>,
}

impl Command {
    /// A command to every agent of the session.
    pub fn new(kind: impl Into<String>) -> Command {
        Command {
            kind: kind.into(),
            run: None,
            agent: None,
            data: None,
            id: None,
            ttl_ms: None,
            grace_ms: None,
            tree: false,
            approval: None,
            traceparent: None,
        }
    }
}

/// The answer to a command.
#[derive(Debug, Clone, Deserialize)]
pub struct Issued {
    /// The command's id.
    pub command: Name,
    /// Its entry on the commands lane.
    pub entry: EntryId,
}

/// What an agent can say of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It did what the command asks.
    Consumed,
    /// It will not.
    Rejected,
}

/// Where an idempotent producer stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct ProducerState {
    /// Its epoch: which of its lives wrote last.
    pub epoch: u64,
    /// The number that its next event must have.
    pub next_seq: u64,
}

/// Names that a request gives to events that don't say them themselves.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Speaker {
    /// Whose events they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<Name>,
    /// The run they belong to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<Name>,
}

impl Client {
    /// A client for the gateway at `base_url` (`http` or `https`; a path before `/v1` is kept), with a bearer token
    /// where the gateway asks for one.
    pub fn new(base_url: &str, token: Option<String>) -> Result<Client, Error> {
        let token = token.map(|token| Token::fixed(&token)).transpose()?;
        Client::bearing(base_url, token)
    }

    /// The same, with a token that may come from a file or a function, and be another one tomorrow.
    pub fn bearing(base_url: &str, token: Option<Token>) -> Result<Client, Error> {
        let refused = |why: String| Error::Url { url: base_url.to_owned(), why };
        let base = Url::parse(base_url).map_err(|e| refused(e.to_string()))?;
        if !matches!(base.scheme(), "http" | "https") || base.cannot_be_a_base() {
            return Err(refused("it takes the form http://host:port".into()));
        }

        let http = http(base.scheme() == "https", is_loopback(&base))
            .user_agent(concat!("moorline/", env!("CARGO_PKG_VERSION")));
        let http = http.build().map_err(|e| Error::Setup(root_cause(&e)))?;
        Ok(Client { http, base, token })
    }

    /// The address that the client was made with.
    pub fn base_url(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    /// Appends one event (an object) or several (an array), all or none, in order. `events` is anything that
    /// serialises to that.
    pub async fn publish(
        &self,
        session: &Name,
        speaker: &Speaker,
        events: &impl Serialize,
    ) -> Result<Published, Error> {
        let request = self.request(Method::POST, &[session.as_str(), "events"]).query(speaker).json(events);
        self.answer(request.timeout(ANSWER_TIMEOUT)).await
    }

    /// Appends a body of one event a line, which may be endless: each line is stored as it arrives. The answer comes
    /// at the body's end. After a failure nobody knows how much was stored; number the events ([`Producer`]) where that
    /// matters.
    pub async fn publish_ndjson<S, E>(&self, session: &Name, speaker: &Speaker, body: S) -> Result<Appended, Error>
    where
        S: Stream<Item = Result<Bytes, E>> + Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
    {
        let request = self
            .request(Method::POST, &[session.as_str(), "events"])
            .query(speaker)
            .header(CONTENT_TYPE, "application/x-ndjson")
            .body(reqwest::Body::wrap_stream(body));
        self.answer(request).await
    }

    /// Issues a command. It can be repeated safely if it has an id.
    pub async fn command(&self, session: &Name, command: &Command) -> Result<Issued, Error> {
        let mut request = self.request(Method::POST, &[session.as_str(), "commands"]).json(command);
        if let Some(traceparent) = command.traceparent {
            request = request.header("traceparent", traceparent.to_string());
        }
        self.answer(request.timeout(ANSWER_TIMEOUT)).await
    }

    /// Says, as the agent, what became of a command: done, or not and why. Each command ends once; a second outcome is
    /// a [`Problem`] with the code `command_ended`, and one from an `attempt` that has been taken over `stale_attempt`.
    pub async fn outcome(
        &self,
        session: &Name,
        command: &Name,
        outcome: Outcome,
        reason: Option<&str>,
        attempt: Option<u32>,
    ) -> Result<(), Error> {
        let mut request = self.request(Method::POST, &[session.as_str(), "commands", command.as_str(), "outcome"]);
        if let Some(attempt) = attempt {
            request = request.header("run-attempt", attempt);
        }
        let request = request.json(&json!({"outcome": outcome, "reason": reason}));
        self.send(request.timeout(ANSWER_TIMEOUT)).await.map(drop)
    }

    /// What the gateway says about a session: lanes, runs, pending commands and approvals.
    pub async fn session(&self, session: &Name) -> Result<Value, Error> {
        self.answer(self.request(Method::GET, &[session.as_str()]).timeout(ANSWER_TIMEOUT)).await
    }

    /// Ends a session: what runs is cancelled, nothing is appended any more, followers end.
    pub async fn close(&self, session: &Name) -> Result<(), Error> {
        let request = self.request(Method::POST, &[session.as_str(), "close"]);
        self.send(request.timeout(ANSWER_TIMEOUT)).await.map(drop)
    }

    /// Erases a session and all that it holds.
    pub async fn delete(&self, session: &Name) -> Result<(), Error> {
        let request = self.request(Method::DELETE, &[session.as_str()]);
        self.send(request.timeout(ANSWER_TIMEOUT)).await.map(drop)
    }

    /// Whether the gateway can serve: it runs, reaches its store, and is not going down.
    pub async fn ready(&self, patience: Duration) -> Result<(), Error> {
        self.probe("readyz", patience).await
    }

    /// Whether the gateway answers at all. To restart one that is without its store, or going down, helps nobody.
    pub async fn live(&self, patience: Duration) -> Result<(), Error> {
        self.probe("livez", patience).await
    }

    async fn probe(&self, path: &str, patience: Duration) -> Result<(), Error> {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().push(path);
        }
        self.send(self.http.get(url).timeout(patience)).await.map(drop)
    }

    /// Where a producer stands; `None` if the session doesn't know it.
    pub async fn producer_state(&self, session: &Name, producer: &Name) -> Result<Option<ProducerState>, Error> {
        let request = self.request(Method::GET, &[session.as_str(), "producers", producer.as_str()]);
        match self.answer(request.timeout(ANSWER_TIMEOUT)).await {
            Ok(state) => Ok(Some(state)),
            Err(Error::Problem(problem)) if problem.status == 404 => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A publisher whose events are stored once, whatever happens to its requests.
    pub fn producer(&self, session: &Name, speaker: Speaker) -> Producer {
        Producer::new(self.clone(), session.clone(), speaker)
    }

    /// Follows a lane from a cursor, through history and live.
    pub fn follow(&self, session: &Name, lane: Lane, options: FollowOptions) -> Follow {
        Follow::new(self.clone(), session.clone(), lane, options)
    }

    fn request(&self, method: Method, path: &[&str]) -> RequestBuilder {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(["v1", "sessions"]).extend(path);
        }
        self.http.request(method, url).header(ACCEPT, "application/json")
    }

    /// Sends a request; an answer other than 2xx becomes an error. Where the token is refused and there is another one
    /// by now, the request is sent again with that, unless its body was a stream.
    async fn send(&self, request: RequestBuilder) -> Result<Response, Error> {
        let Some(token) = &self.token else { return self.send_once(request).await };
        let again = if token.renews() { request.try_clone() } else { None };
        let bearer = token.current().await?;
        let answer = self.send_once(request.header(AUTHORIZATION, &bearer)).await;
        if let (Err(Error::Problem(problem)), Some(again)) = (&answer, again)
            && problem.status == StatusCode::UNAUTHORIZED
        {
            let fresh = token.renew().await?;
            if fresh != bearer {
                return self.send_once(again.header(AUTHORIZATION, fresh)).await;
            }
        }
        answer
    }

    async fn send_once(&self, request: RequestBuilder) -> Result<Response, Error> {
        let response = request.send().await.map_err(|e| Error::transport(self.base_url(), e))?;
        if response.status().is_success() { Ok(response) } else { Err(Error::of_response(response).await) }
    }

    /// Whether the same request may succeed later; also since somebody puts a fresh token where this client gets its own.
    fn may_pass(&self, error: &Error) -> bool {
        let renews = self.token.as_ref().is_some_and(Token::renews);
        error.is_transient() || renews && error.code() == Some("token_expired")
    }

    async fn answer<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, Error> {
        let body = self.send(request).await?.bytes().await.map_err(|e| Error::transport(self.base_url(), e))?;
        serde_json::from_slice(&body).map_err(|e| Error::Protocol(format!("an answer that can't be read: {e}")))
    }
}

/// An HTTP client as it has to be here: `secure`, with TLS; `local`, on this machine.
pub(crate) fn http(secure: bool, local: bool) -> reqwest::ClientBuilder {
    crate::tls::provide();
    // A redirected POST would lose its body or be sent twice: the caller gets the address to use instead.
    let http = reqwest::Client::builder().redirect(redirect::Policy::none());
    let mut http = http.connect_timeout(CONNECT_TIMEOUT).tcp_nodelay(true);
    if !secure {
        // No certificate will be asked for; and reading the system's fails where there are none (slim images).
        http = http.tls_certs_only([]);
    }
    if local {
        http = http.no_proxy();
    }
    http
}

/// Whether an address can be a gateway's; else what is wrong with it.
pub fn check_address(text: &str) -> Result<(), String> {
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    let url = url.ok_or("it takes the form http://host:port or https://host")?;
    if url.username().is_empty() && url.password().is_none() {
        Ok(())
    } else {
        Err("it has a user or a password, and a gateway asks for neither but for a token".to_owned())
    }
}

/// A proxy for the outside world doesn't lead to this machine.
fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}
