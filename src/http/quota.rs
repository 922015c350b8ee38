//! What is counted before a request gets to its route: writes and new sessions of a token, open streams.

use axum::http::{Method, StatusCode, request::Parts};
use std::sync::Arc;

use super::{Gateway, Problem, follow::wants_stream};
pub use crate::quota::Open;
use crate::{
    id::Name,
    quota::{Account, TooMany, Wait},
};

/// Seconds after which a client may ask again for a stream: others end when they end.
const STREAM_AGAIN: u16 = 5;

/// Counts a request, and makes room for the stream that it asks for.
pub async fn admit(
    gateway: &Gateway,
    session: &Name,
    account: Option<&Arc<Account>>,
    parts: &Parts,
) -> Result<Option<Open>, Problem> {
    if matches!(parts.method, Method::GET | Method::HEAD) {
        let counted = gateway.quota.limits().counts_streams() && wants_stream(&parts.headers);
        return counted.then(|| gateway.quota.open(session, account).map_err(Problem::from)).transpose();
    }
    let Some(account) = account else { return Ok(None) };
    account.begin().map_err(|wait| Problem::too_fast("too_many_events", "events and other writes", wait))?;
    if parts.method == Method::DELETE {
        gateway.quota.forget(session);
    }
    let limited = gateway.quota.limits().new_sessions_per_minute > 0;
    if limited && may_make(parts) && !gateway.quota.knows(session) {
        if gateway.store.stat(session).await?.is_none() {
            account.create().map_err(|wait| Problem::too_fast("too_many_sessions", "new sessions", wait))?;
        }
        gateway.quota.learn(session);
    }
    Ok(None)
}

/// Whether a write may bring its session into being: one about what must be there already can't.
fn may_make(parts: &Parts) -> bool {
    let about = ["/close", "/end", "/heartbeat", "/outcome"];
    let about = parts.method == Method::POST && about.iter().any(|last| parts.uri.path().ends_with(last));
    parts.method != Method::DELETE && !about
}

impl Problem {
    fn too_fast(code: &'static str, what: &str, Wait(wait): Wait) -> Self {
        // Whole seconds, at least one: less can't be said.
        let seconds = wait.as_secs_f64().ceil().max(1.0) as u16;
        let detail = format!("the token has made too many {what} for now; come back in {seconds} s");
        Problem { retry_after: Some(seconds), ..Problem::new(StatusCode::TOO_MANY_REQUESTS, code, detail) }
    }
}

impl From<TooMany> for Problem {
    fn from(too_many: TooMany) -> Self {
        let (status, of, limit) = match too_many {
            TooMany::InAll(limit) => (StatusCode::SERVICE_UNAVAILABLE, "replica", limit),
            TooMany::OfSession(limit) => (StatusCode::TOO_MANY_REQUESTS, "session", limit),
            TooMany::OfToken(limit) => (StatusCode::TOO_MANY_REQUESTS, "token", limit),
        };
        let detail = format!("this {of} has {limit} open streams, which is the limit; come back later");
        let problem = Problem::new(status, "too_many_streams", detail).with("of", of).with("limit", limit);
        Problem { retry_after: Some(STREAM_AGAIN), ..problem }
    }
}
