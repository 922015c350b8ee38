//! What requests carry, parsed once at the edge: names in the path, the query, JSON bodies, producers.

use std::{str::FromStr, time::Duration};

use axum::{
    body::{Body, HttpBody},
    extract::{FromRequest, FromRequestParts, Query, RawPathParams, Request},
    http::{HeaderMap, StatusCode, header, request::Parts},
};
use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use http_body_util::BodyExt;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::{Gateway, Problem, auth::TokenExpired};
use crate::{
    config::Limits,
    event::compacted,
    id::{BadName, Name},
    store::Producer,
};

/// The names in the path, in their order. A session's is always the first.
pub struct Names<const N: usize>(pub [Name; N]);

impl<const N: usize, S: Send + Sync> FromRequestParts<S> for Names<N> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = RawPathParams::from_request_parts(parts, state).await;
        let path = path.map_err(|e| Problem::bad_request("bad_name", format!("the path: {e}")))?;
        let mut names = Vec::with_capacity(N);
        for (what, text) in &path {
            names.push(text.parse().map_err(|why: BadName| Problem::bad_name(what, text, &why))?);
        }
        let names = names.try_into().map_err(|_| Problem::bad_request("bad_name", "the path has another form"))?;
        Ok(Names(names))
    }
}

/// The query, strictly: an unknown parameter is a mistake that would otherwise go unnoticed.
pub struct Params<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let query: Result<Query<T>, _> = Query::from_request_parts(parts, state).await;
        query.map(|Query(params)| Params(params)).map_err(|e| {
            let detail = std::error::Error::source(&e).map_or_else(|| e.to_string(), ToString::to_string);
            Problem::bad_request("bad_query", format!("the query: {detail}"))
        })
    }
}

/// Requests without parameters of their own.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoParams {
    #[serde(rename = "access_token")]
    _access_token: Option<String>,
}

/// An optional name of the query.
pub fn name(what: &str, text: Option<&str>) -> Result<Option<Name>, Problem> {
    text.map(|text| Name::from_str(text).map_err(|why| Problem::bad_name(what, text, &why))).transpose()
}

/// The kinds of body that carry events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyKind {
    /// One event or an array.
    Json,
    /// One event a line.
    Ndjson,
    /// Server-sent events.
    Sse,
}

/// The kind of a request's body.
pub fn body_kind(headers: &HeaderMap) -> Result<BodyKind, Problem> {
    if let Some(coding) = headers.get(header::CONTENT_ENCODING).filter(|coding| *coding != "identity") {
        let detail = format!("the body is encoded as {coding:?}; send it as it is, without Content-Encoding");
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail));
    }
    let given = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = given.split(';').next().unwrap_or_default().trim();
    let is = |kind: &str| essence.eq_ignore_ascii_case(kind);
    if is("application/json") {
        Ok(BodyKind::Json)
    } else if is("application/x-ndjson") || is("application/ndjson") {
        Ok(BodyKind::Ndjson)
    } else if is("text/event-stream") {
        Ok(BodyKind::Sse)
    } else {
        let detail = format!(
            "the content type is {given:?}; send application/json (one event or an array), application/x-ndjson \
             (one event a line) or text/event-stream"
        );
        Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail))
    }
}

/// A body as text.
pub fn text(bytes: &[u8]) -> Result<&str, Problem> {
    std::str::from_utf8(bytes).map_err(|_| Problem::bad_request("bad_utf8", "the body is not valid UTF-8"))
}

/// Bytes of a body for which it may take a second more: what comes more slowly only holds memory.
const BYTES_A_SECOND: usize = 64 * 1024;

/// Reads a bounded body, in bounded time.
pub async fn read_whole(mut body: Body, limits: &Limits) -> Result<Bytes, Problem> {
    let (mut come, mut began) = (BytesMut::new(), None);
    let whole = loop {
        // A small body has come with its head, and needs no timer.
        let frame = match body.frame().now_or_never() {
            Some(frame) => frame,
            None => {
                let began = *began.get_or_insert_with(Instant::now);
                let more = Duration::from_secs((come.len() / BYTES_A_SECOND) as u64);
                let until = began + limits.body_timeout + more;
                tokio::time::timeout_at(until, body.frame()).await.map_err(|_| timed_out())?
            }
        };
        let data = match frame {
            None => break come.freeze(),
            Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
            Some(Err(error)) => return Err(broken(&error)),
        };
        if come.len() + data.len() > limits.body_bytes {
            let detail = format!(
                "the body takes more than {} bytes; send fewer events a request, or a stream of application/x-ndjson",
                limits.body_bytes
            );
            let problem = Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail);
            return Err(problem.with("limit", limits.body_bytes));
        }
        // Most come in one piece, and need no copy.
        if come.is_empty() && body.is_end_stream() {
            break data;
        }
        come.extend_from_slice(&data);
    };
    if whole.iter().all(u8::is_ascii_whitespace) {
        return Err(Problem::bad_request("empty_body", "the body is empty"));
    }
    Ok(whole)
}

/// JSON in the user's own form, as the log keeps it.
pub fn free_json(what: &str, json: &RawValue, event_bytes: usize) -> Result<Box<RawValue>, Problem> {
    let json = compacted(json)?;
    let size = json.get().len();
    if size > event_bytes {
        let detail = format!("{what} takes {size} bytes; the limit is {event_bytes}");
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "event_too_large", detail).with("limit", event_bytes));
    }
    Ok(json)
}

/// Texts that people write, in bytes.
const REASON_MAX: usize = 1000;

/// A reason within its bounds.
pub fn reason(reason: Option<String>) -> Result<Option<String>, Problem> {
    match reason {
        Some(reason) if reason.len() > REASON_MAX => {
            let detail = format!("the reason takes {} bytes; the limit is {REASON_MAX}", reason.len());
            Err(Problem::bad_request("bad_request", detail))
        }
        reason => Ok(reason),
    }
}

/// The body stopped coming.
pub fn timed_out() -> Problem {
    Problem::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", "the rest of the body did not come in time")
}

/// The body ended before its end. The client will hardly read this, unless it was its token that ended.
pub fn broken(error: &axum::Error) -> Problem {
    // Each layer around a body wraps its errors once more.
    let mut causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    if causes.any(|cause| cause.is::<TokenExpired>()) {
        return Problem::token_expired();
    }
    Problem::bad_request("body_broken", format!("the body broke off: {error}"))
}

/// JSON of a known shape.
pub struct Json<T>(pub T);

impl<T: DeserializeOwned> FromRequest<Gateway> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, gateway: &Gateway) -> Result<Self, Problem> {
        if body_kind(request.headers())? != BodyKind::Json {
            let detail = "this resource takes application/json";
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail));
        }
        let whole = read_whole(request.into_body(), &gateway.limits).await?;
        let text = text(&whole)?;
        let bad = |why: String| match serde_json::from_str::<&RawValue>(text) {
            Ok(_) => Problem::bad_request("bad_request", why),
            Err(error) => Problem::bad_request("bad_json", format!("not valid JSON: {error}")),
        };
        // serde would read an object's values from an array too, in the order of a struct that nobody has promised.
        if text.trim_start().starts_with('[') {
            return Err(bad("the body is an array, not an object".into()));
        }
        serde_json::from_str(text).map(Json).map_err(|error| bad(error.to_string()))
    }
}

/// A number in decimal digits and nothing else: Rust's own parser takes a plus sign too.
pub fn whole<T: FromStr>(text: &str) -> Option<T> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// The largest epoch and seq: what a JSON number holds exactly everywhere.
const PRODUCER_MAX: u64 = (1 << 53) - 1;

/// The producer headers: all three or none.
pub fn producer(headers: &HeaderMap) -> Result<Option<Producer>, Problem> {
    const NAMES: [&str; 3] = ["producer-id", "producer-epoch", "producer-seq"];
    let given = NAMES.map(|name| headers.get(name));
    let [Some(id), Some(epoch), Some(seq)] = given else {
        if given.iter().all(Option::is_none) {
            return Ok(None);
        }
        let detail = "Producer-Id, Producer-Epoch and Producer-Seq go together: send all three or none";
        return Err(Problem::bad_request("bad_producer", detail));
    };
    if NAMES.iter().any(|name| headers.get_all(*name).iter().count() > 1) {
        return Err(Problem::bad_request("bad_producer", "send each of the producer headers once"));
    }
    let id = id.to_str().unwrap_or_default();
    let number = |name: &str, value: &axum::http::HeaderValue| {
        let number = value.to_str().ok().and_then(whole).filter(|number| *number <= PRODUCER_MAX);
        number.ok_or_else(|| {
            Problem::bad_request("bad_producer", format!("{name} is a whole number from 0 to {PRODUCER_MAX}"))
        })
    };
    Ok(Some(Producer {
        id: id.parse().map_err(|why| Problem::bad_name("Producer-Id", id, &why))?,
        epoch: number("Producer-Epoch", epoch)?,
        seq: number("Producer-Seq", seq)?,
    }))
}

/// `Run-Attempt`: which attempt the agent believes it is.
pub fn attempt(headers: &HeaderMap) -> Result<Option<u32>, Problem> {
    let Some(value) = headers.get("run-attempt") else { return Ok(None) };
    let attempt = value.to_str().ok().and_then(whole).filter(|attempt| *attempt > 0);
    attempt.map(Some).ok_or_else(|| Problem::bad_request("bad_attempt", "Run-Attempt is a whole number from 1"))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    /// Whether a body is read whole that comes in such pieces at such a pause, and how long that takes.
    async fn read(piece: usize, pieces: usize, pause: Duration) -> (bool, Duration) {
        let comes = futures_util::stream::unfold(pieces, move |left| async move {
            tokio::time::sleep(pause).await;
            (left > 0).then(|| (Ok::<_, Infallible>(Bytes::from(vec![b'1'; piece])), left - 1))
        });
        let began = Instant::now();
        let whole = read_whole(Body::from_stream(comes), &Limits::default()).await;
        (whole.is_ok_and(|bytes| bytes.len() == piece * pieces), began.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_comes_slowly_has_its_time_and_no_more() {
        let second = Duration::from_secs(1);
        assert_eq!(read(1, 1_000, 20 * second).await, (false, 30 * second));
        assert_eq!(read(1, 28, second).await, (true, 29 * second));
        assert_eq!(read(BYTES_A_SECOND, 50, second).await, (true, 51 * second));
        assert_eq!(read(BYTES_A_SECOND, 50, 2 * second).await, (false, 59 * second));
    }
}
