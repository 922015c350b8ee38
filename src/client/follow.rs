//! Following a lane: one stream of updates over as many connections as it takes.
//!
//! The cursor is the id of the last entry handed out. Whatever ends a connection (the network, a gateway that
//! restarts, a proxy that cuts, silence), the next one asks for what comes after the cursor, so the caller sees each
//! entry once and in order, or a [`Update::Reset`] that says why it can't be so.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{Stream, StreamExt, stream};
use reqwest::{
    Method, Response, StatusCode,
    header::{ACCEPT, CONTENT_TYPE, HeaderValue},
};
use serde::Deserialize;
use tokio::time::{Instant, sleep, timeout};

use super::{Client, Error, backoff::Backoff};
use crate::{
    event::Head,
    id::{EntryId, Lane, Name},
    sse::decode::{Decoder, Frame},
};

/// Gateways send a heartbeat every 15 s unless they are told otherwise. Three missed ones mean that nobody is there any
/// more, although TCP has not noticed.
const SILENCE: Duration = Duration::from_secs(45);

/// How long a follower whose token has expired waits for another one, where there may be one: whoever renews it is late.
const TOKEN_PATIENCE: Duration = Duration::from_secs(60);

/// The largest entry that is read. Gateways refuse events far below this.
const ENTRY_MAX: usize = 64 << 20;

/// Where a follower without a cursor begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Begin {
    /// With the first entry that the log holds.
    #[default]
    Start,
    /// With what comes after this moment.
    Now,
}

/// What to follow. The default: everything, from the start.
#[derive(Debug, Clone)]
pub struct FollowOptions {
    /// Continue after this entry.
    pub cursor: Option<EntryId>,
    /// Where to begin without a cursor.
    pub begin: Begin,
    /// Only these agents' entries; empty for all.
    pub agents: Vec<Name>,
    /// Only these runs' entries; empty for all.
    pub runs: Vec<Name>,
    /// Only entries of these types; empty for all.
    pub types: Vec<String>,
    /// A connection on which nothing came for this long, not even a heartbeat, is given up for another.
    pub silence: Duration,
}

impl Default for FollowOptions {
    fn default() -> Self {
        FollowOptions {
            cursor: None,
            begin: Begin::default(),
            agents: Vec::new(),
            runs: Vec::new(),
            types: Vec::new(),
            silence: SILENCE,
        }
    }
}

/// One entry of a lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its id, and the cursor to continue after it.
    pub id: EntryId,
    /// The event or command, JSON on one line: `{"type":…,"agent":…,"run":…,"data":…}`.
    pub json: String,
}

impl Entry {
    /// The entry's fields. `None` if something else than a gateway wrote it.
    pub fn head(&self) -> Option<Head<'_>> {
        Head::of(self.json.as_bytes())
    }
}

/// What happened on a followed lane.
#[derive(Debug)]
pub enum Update {
    /// The next entry.
    Entry(Entry),
    /// History is done: what follows is live. Comes again after each reconnection.
    CaughtUp,
    /// The log no longer continues where this follower was; it goes on with the first entry there is.
    Reset {
        /// `trimmed`, `unknown` or `deleted`.
        reason: String,
        /// That first entry.
        first: Option<EntryId>,
    },
    /// The connection is gone; the next attempt begins after `delay`.
    Reconnecting {
        /// Why.
        error: Error,
        /// The wait before the attempt.
        delay: Duration,
        /// Whether any connection of this follower ever stood. If not, the address may be wrong.
        connected_before: bool,
    },
    /// The session is closed and this was all of it. The stream ends.
    Closed,
}

/// A followed lane: a stream of [`Update`]s that ends after [`Update::Closed`] or after an error that waiting does not
/// heal (a refused token, a malformed filter). Dropping it ends the connection. [`Follow::next`] is cancel-safe.
pub struct Follow(Pin<Box<dyn Stream<Item = Result<Update, Error>> + Send>>);

impl Follow {
    pub(super) fn new(client: Client, session: Name, lane: Lane, options: FollowOptions) -> Follow {
        let follower = Follower {
            client,
            session,
            lane,
            options,
            backoff: Backoff::default(),
            connected_before: false,
            expired_since: None,
            state: State::Waiting(Duration::ZERO),
        };
        Follow(Box::pin(stream::unfold(follower, |mut follower| async {
            follower.next().await.map(|update| (update, follower))
        })))
    }

    /// The next update.
    pub async fn next(&mut self) -> Option<Result<Update, Error>> {
        self.0.next().await
    }
}

impl Stream for Follow {
    type Item = Result<Update, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_next_unpin(cx)
    }
}

struct Follower {
    client: Client,
    session: Name,
    lane: Lane,
    /// `options.cursor` moves on with each entry.
    options: FollowOptions,
    backoff: Backoff,
    connected_before: bool,
    /// Since when the token has been refused as expired.
    expired_since: Option<Instant>,
    state: State,
}

enum State {
    /// A connection is to be made after this long.
    Waiting(Duration),
    Reading(Box<Body>),
    Ended,
}

/// A response being read.
struct Body {
    response: Response,
    decoder: Decoder,
}

/// The gateway's word on a reset. More keys may come.
#[derive(Deserialize)]
struct ResetData {
    #[serde(default)]
    reason: String,
    #[serde(default)]
    first: Option<EntryId>,
}

impl Follower {
    async fn next(&mut self) -> Option<Result<Update, Error>> {
        loop {
            let step = match &mut self.state {
                State::Ended => return None,
                State::Waiting(delay) => {
                    sleep(*delay).await;
                    self.connect().await
                }
                State::Reading(body) => {
                    body.next_frame(self.client.base_url(), self.options.silence).await.and_then(|f| self.take(f))
                }
            };
            match step {
                Ok(None) => {}
                Ok(Some(update)) => {
                    if matches!(update, Update::Closed) {
                        self.state = State::Ended;
                    }
                    return Some(Ok(update));
                }
                Err(error) if self.may_pass(&error) => {
                    let delay = self.backoff.next(error.retry_after());
                    self.state = State::Waiting(delay);
                    let connected_before = self.connected_before;
                    return Some(Ok(Update::Reconnecting { error, delay, connected_before }));
                }
                Err(error) => {
                    self.state = State::Ended;
                    return Some(Err(error));
                }
            }
        }
    }

    fn may_pass(&mut self, error: &Error) -> bool {
        let expired = error.code() == Some("token_expired");
        let since = expired.then(|| *self.expired_since.get_or_insert_with(Instant::now));
        self.client.may_pass(error) && since.is_none_or(|since| since.elapsed() < TOKEN_PATIENCE)
    }

    /// Opens the stream behind the cursor.
    async fn connect(&mut self) -> Result<Option<Update>, Error> {
        if let Some(token) = self.client.token.as_ref().filter(|token| token.renews()) {
            // A stream lives as long as its token: it begins with the newest.
            token.renew().await?;
        }
        let mut query = Vec::new();
        let mut list = |key: &'static str, values: Vec<&str>| {
            if !values.is_empty() {
                query.push((key, values.join(",")));
            }
        };
        list("agent", self.options.agents.iter().map(Name::as_str).collect());
        list("run", self.options.runs.iter().map(Name::as_str).collect());
        list("type", self.options.types.iter().map(String::as_str).collect());
        if self.options.begin == Begin::Now {
            list("from", vec!["now"]);
        }
        let path = [self.session.as_str(), self.lane.as_str()];
        let mut request = self.client.request(Method::GET, &path).query(&query);
        if let Some(cursor) = self.options.cursor {
            request = request.header("last-event-id", cursor.to_string());
        }
        // `headers` replaces what `request` set; `header` would add a second Accept.
        let accept = [(ACCEPT, HeaderValue::from_static("text/event-stream"))];
        let silence = self.options.silence;
        let answer = timeout(silence, self.client.send(request.headers(accept.into_iter().collect()))).await;
        let response = answer.unwrap_or_else(|_| Err(silent(self.client.base_url(), silence)))?;

        if response.status() == StatusCode::NO_CONTENT {
            return Ok(Some(Update::Closed));
        }
        let kind = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if !kind.starts_with("text/event-stream") {
            return Err(Error::Protocol(format!("an event stream was expected, {kind:?} came")));
        }
        (self.connected_before, self.expired_since) = (true, None);
        self.state = State::Reading(Box::new(Body { response, decoder: Decoder::new(ENTRY_MAX) }));
        Ok(None)
    }

    /// What a frame says. Frames with an unknown name are left to later versions.
    fn take(&mut self, (frame, retry): (Frame, Option<Duration>)) -> Result<Option<Update>, Error> {
        self.backoff.reset();
        if let Some(retry) = retry {
            self.backoff.set_floor(retry);
        }
        let id = frame.id.as_deref().map(str::parse::<EntryId>).transpose();
        let id = id.map_err(|e| Error::Protocol(format!("the id {:?} is {e}", frame.id.as_deref().unwrap_or(""))))?;
        if id.is_some() {
            self.options.cursor = id;
        }
        Ok(match frame.event.as_deref() {
            None => {
                let id = id.ok_or_else(|| Error::Protocol("an entry without an id".into()))?;
                Some(Update::Entry(Entry { id, json: frame.data }))
            }
            Some("caught-up") => Some(Update::CaughtUp),
            Some("reset") => {
                let data = serde_json::from_str::<ResetData>(&frame.data);
                let ResetData { reason, first } =
                    data.map_err(|e| Error::Protocol(format!("a reset that can't be read: {e}")))?;
                // The old cursor means nothing any more: a cut before the next entry begins with what there is.
                (self.options.cursor, self.options.begin) = (None, Begin::Start);
                Some(Update::Reset { reason, first })
            }
            Some("closed") => Some(Update::Closed),
            Some(_) => None,
        })
    }
}

impl Body {
    /// The next frame, and the reconnection time asked for so far. A stream has no end but `closed`: any other is a
    /// lost connection.
    async fn next_frame(&mut self, base: &str, silence: Duration) -> Result<(Frame, Option<Duration>), Error> {
        loop {
            let frame = self.decoder.next_frame().map_err(|e| Error::Protocol(e.to_string()))?;
            if let Some(frame) = frame {
                return Ok((frame, self.decoder.retry()));
            }
            let chunk = timeout(silence, self.response.chunk()).await.map_err(|_| silent(base, silence))?;
            match chunk.map_err(|e| Error::transport(base, e))? {
                Some(bytes) => self.decoder.push(&bytes),
                None => return Err(Error::Lost { url: base.to_owned(), why: "the stream ended".into() }),
            }
        }
    }
}

fn silent(base: &str, silence: Duration) -> Error {
    Error::Lost { url: base.to_owned(), why: format!("nothing came for {:.1} s", silence.as_secs_f32()) }
}
