//! The one shape of every error answer: `application/problem+json` (RFC 9457) with a stable `code`.

use std::sync::Arc;

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value, json};

use super::{auth::challenge, seldom::Seldom};
use crate::{
    event::BadEvent,
    id::{BadName, Name},
    metrics::METRICS,
    rules::{Refusal, Verdict},
    sse::decode::DecodeError,
    store::{Lost, Parted, StoreError},
    writer::WriteError,
};

/// Seconds after which a client may try again what failed for now.
const RETRY_AFTER: &str = "1";

/// An error answer.
#[derive(Debug, Clone)]
pub struct Problem {
    /// The HTTP status.
    pub status: StatusCode,
    /// Stable: programs may rely on it.
    pub code: &'static str,
    /// What is wrong and what to do, for people.
    pub detail: String,
    /// More members, each documented with its code. Boxed: results that may be a problem are passed by value everywhere.
    pub members: Box<Map<String, Value>>,
    /// Seconds after which to try again, if another time than soon.
    pub retry_after: Option<u16>,
    /// What happened, where that is for the log and not for the client.
    pub cause: Option<Arc<str>>,
}

/// The cause of a problem, on its answer: for the one line that the log gets, with all that is known of the request.
#[derive(Debug, Clone)]
pub struct Cause(pub Arc<str>);

impl Problem {
    /// An answer without further members.
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Problem { status, code, detail: detail.into(), members: Box::default(), retry_after: None, cause: None }
    }

    /// 400.
    pub fn bad_request(code: &'static str, detail: impl Into<String>) -> Self {
        Problem::new(StatusCode::BAD_REQUEST, code, detail)
    }

    /// Adds a member.
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.members.insert(key.into(), value.into());
        self
    }

    /// A name in the path, the query or a body is none.
    pub fn bad_name(what: &str, given: &str, why: &BadName) -> Self {
        let shown: String = given.chars().take(64).collect();
        Problem::bad_request("bad_name", format!("the {what} {shown:?} {why}"))
    }

    /// There is no such session.
    pub fn unknown_session(session: &Name) -> Self {
        let detail = format!("there is no session {session:?}; the first append creates it");
        Problem::new(StatusCode::NOT_FOUND, "unknown_session", detail)
    }

    /// This replica is on its way out.
    pub fn draining() -> Self {
        let detail = "this replica is going down; another one serves the session";
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "draining", detail)
    }

    /// A page can't begin after this cursor.
    pub fn cursor_lost(reason: Lost, first: Option<crate::id::EntryId>) -> Self {
        let detail = "the log does not hold the entry to read after; read again from the start";
        Problem::new(StatusCode::GONE, "cursor_lost", detail).with("reason", json!(reason)).with("first", json!(first))
    }

    /// The body of the answer.
    pub fn body(&self) -> String {
        let title = self.status.canonical_reason().unwrap_or("Error");
        let mut body = json!({
            "type": format!("urn:moorline:problem:{}", self.code),
            "title": title,
            "status": self.status.as_u16(),
            "code": self.code,
            "detail": self.detail,
        });
        if let Value::Object(object) = &mut body {
            object.extend((*self.members).clone());
        }
        body.to_string()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        METRICS.problems.add(self.code);
        let mut response = Response::new(Body::from(self.body()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        match self.retry_after {
            Some(seconds) => drop(headers.insert(header::RETRY_AFTER, seconds.into())),
            None if self.status == StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER));
            }
            None => {}
        }
        if let Some(challenge) = challenge(self.code) {
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        if let Some(cause) = self.cause {
            response.extensions_mut().insert(Cause(cause));
        }
        response
    }
}

impl From<BadEvent> for Problem {
    fn from(bad: BadEvent) -> Self {
        let detail = bad.to_string();
        match bad {
            BadEvent::Json(_) => Problem::bad_request("bad_json", detail),
            BadEvent::Shape(_) | BadEvent::Depth => Problem::bad_request("bad_event", detail),
            BadEvent::Empty => Problem::bad_request("empty_event", detail),
            BadEvent::Type(_) => Problem::bad_request("bad_type", detail),
            BadEvent::Reserved(_) => Problem::bad_request("reserved_type", detail),
            BadEvent::Name { .. } => Problem::bad_request("bad_name", detail),
            BadEvent::Agent { .. } => Problem::wrong_agent(detail),
            BadEvent::TooLarge { limit, .. } => {
                Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "event_too_large", detail).with("limit", limit)
            }
        }
    }
}

impl From<DecodeError> for Problem {
    fn from(error: DecodeError) -> Self {
        let detail = error.to_string();
        match error {
            DecodeError::Utf8 => Problem::bad_request("bad_utf8", detail),
            DecodeError::TooLarge { limit } => {
                Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "event_too_large", detail).with("limit", limit)
            }
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(_) => {
                static LAST: Seldom = Seldom::new();
                if LAST.now() {
                    tracing::warn!(%error, "requests get 503");
                }
                Problem::new(StatusCode::SERVICE_UNAVAILABLE, "store_unavailable", error.to_string())
            }
            StoreError::Unconfirmed { confirmed, wanted } => {
                static LAST: Seldom = Seldom::new();
                if LAST.now() {
                    tracing::warn!(%error, "requests get 503; look at the replicas of Redis");
                }
                let detail = format!(
                    "{error}: it may be lost with a failover, or stay; send it again (events with the same producer \
                     headers, a command with the same id), and it is done once"
                );
                Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not_replicated", detail)
                    .with("confirmed", confirmed)
                    .with("wanted", wanted)
            }
            StoreError::Denied(_) => {
                static LAST: Seldom = Seldom::new();
                if LAST.now() {
                    tracing::error!(%error, "requests get 503; look at the user, the password and the ACL");
                }
                let detail = "the store is not available: its operator has to mend something";
                Problem::new(StatusCode::SERVICE_UNAVAILABLE, "store_unavailable", detail)
            }
            // What is wrong inside is for the operator, not for the client.
            StoreError::Fault(_) => {
                let detail = "the store is at fault; the operator finds the cause in the gateway's log";
                let problem = Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "store_fault", detail);
                Problem { cause: Some(error.to_string().into()), ..problem }
            }
        }
    }
}

impl From<WriteError> for Problem {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Refused(refusal) => refusal.into(),
            WriteError::Producer(refused) => producer_problem(&refused, None),
            WriteError::Store(error) => error.into(),
            WriteError::Overloaded => Problem::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", error.to_string()),
        }
    }
}

/// Why a producer's numbering does not fit. `received`: the number of the first event sent.
pub fn producer_problem(refused: &Parted, received: Option<u64>) -> Problem {
    match refused {
        Parted::StaleEpoch { current } => {
            let detail = format!("epoch {current} of this producer has written; an earlier one may not write any more");
            Problem::new(StatusCode::FORBIDDEN, "stale_epoch", detail).with("current_epoch", *current)
        }
        Parted::ProducerGap { expected } => {
            let detail = format!("the producer's next event has the number {expected}; send from there on");
            let problem = Problem::new(StatusCode::CONFLICT, "producer_gap", detail).with("expected", *expected);
            match received {
                Some(received) => problem.with("received", received),
                None => problem,
            }
        }
        Parted::EpochNotAtZero => {
            Problem::bad_request("epoch_not_at_zero", "the first event of a new epoch has the number 0")
        }
        Parted::TooManyProducers => Problem::new(
            StatusCode::CONFLICT,
            "too_many_producers",
            format!("the session remembers {} producers, which is the limit", crate::store::PRODUCERS_MAX),
        ),
        Parted::Appended { .. } | Parted::Duplicate(_) => Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "an accepted request was taken for a refused one",
        ),
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let detail = refusal.to_string();
        let conflict = |code| Problem::new(StatusCode::CONFLICT, code, detail.clone());
        let unknown = |code| Problem::new(StatusCode::NOT_FOUND, code, detail.clone());
        match refusal {
            Refusal::SessionClosed => conflict("session_closed"),
            Refusal::UnknownSession | Refusal::SessionGone => unknown("unknown_session"),
            Refusal::UnknownRun(run) => unknown("unknown_run").with("run", run.as_str()),
            Refusal::RunEnded { run, attempt, status } => {
                conflict("run_ended").with("run", json!({"run": run, "attempt": attempt, "status": status}))
            }
            Refusal::RunExists { run, attempt } => {
                conflict("run_exists").with("run", json!({"run": run, "attempt": attempt}))
            }
            Refusal::StaleAttempt { run, given, current } => {
                conflict("stale_attempt").with("run", json!({"run": run, "attempt": current})).with("received", given)
            }
            Refusal::ParentCircle { .. } => conflict("parent_circle"),
            Refusal::TooManyRuns(limit) => conflict("too_many_runs").with("limit", limit),
            Refusal::ControlFull(limit) => conflict("control_full").with("limit", limit),
            Refusal::TooManyCommands(limit) => conflict("too_many_commands").with("limit", limit),
            Refusal::AnotherAgents { .. } => Problem::wrong_agent(detail),
            Refusal::UnknownCommand(_) => unknown("unknown_command"),
            Refusal::CommandEnded { command, status } => {
                conflict("command_ended").with("command", command.as_str()).with("outcome", json!(status))
            }
            Refusal::UnknownApproval(_) => unknown("unknown_approval"),
            Refusal::ApprovalExists(_) => conflict("approval_exists"),
            Refusal::ApprovalEnded { approval, decision, command } => conflict("approval_ended")
                .with("approval", approval.as_str())
                .with("decision", decision.map_or("superseded", Verdict::as_str))
                .with("command", json!(command)),
            Refusal::OutOfRange { what, min, max, .. } => {
                Problem::bad_request("out_of_range", detail).with("field", what).with("min", min).with("max", max)
            }
        }
    }
}
