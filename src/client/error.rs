//! What can go wrong between a client and a gateway, and what of it may pass.

use std::{error, time::Duration};

use reqwest::{
    Response,
    header::{LOCATION, RETRY_AFTER},
};
use serde::Deserialize;
use serde_json::{Map, Value};

/// The longest `Retry-After` that is obeyed; a longer one is more likely a mistake than a plan.
pub(super) const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);

/// The most of an error answer's body that is read.
const BODY_MAX: usize = 64 * 1024;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is none.
    #[error("{url:?} is not the address of a gateway: {why}")]
    Url {
        /// As given.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// The token can't be sent.
    #[error("the token is not usable: {0}")]
    Token(String),
    /// The HTTP client could not be made (TLS set-up).
    #[error("cannot set up the HTTP client: {0}")]
    Setup(String),
    /// No connection could be made: nothing was sent.
    #[error("no gateway answers at {url}: {why}")]
    Unreachable {
        /// The base URL.
        url: String,
        /// The innermost cause.
        why: String,
    },
    /// A connection was lost, or no answer came in time: what was sent may have arrived.
    #[error("the connection to {url} was lost: {why}")]
    Lost {
        /// The base URL.
        url: String,
        /// The innermost cause.
        why: String,
    },
    /// What was to be sent can't be written as JSON: nothing was sent.
    #[error("this can't be written as JSON: {0}")]
    Unwritable(String),
    /// The gateway (or a proxy before it) refused.
    #[error("{0}")]
    Problem(Box<Problem>),
    /// An answer that no Moorline gateway gives.
    #[error("this is no answer of a Moorline gateway: {0}")]
    Protocol(String),
}

/// A refusal, as `application/problem+json` says it (RFC 9457).
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Problem {
    /// The HTTP status.
    pub status: u16,
    /// The stable code, as `session_closed`; empty if the answer came from something else than a gateway.
    pub code: String,
    /// What the code means.
    pub title: String,
    /// What it is this time, and what to do.
    pub detail: String,
    /// How long to wait before trying again.
    #[serde(skip)]
    pub retry_after: Option<Duration>,
    /// What else the answer says, as `expected` and `received`.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = if self.detail.is_empty() { &self.title } else { &self.detail };
        match self.code.as_str() {
            "" => write!(f, "{} {text}", self.status),
            code => write!(f, "{text} ({code})"),
        }
    }
}

impl Error {
    /// Whether the same request may succeed later: the network, an overload or a restart stood in the way.
    pub fn is_transient(&self) -> bool {
        match self {
            Error::Unreachable { .. } | Error::Lost { .. } => true,
            Error::Problem(problem) => problem.status >= 500 || matches!(problem.status, 408 | 425 | 429),
            _ => false,
        }
    }

    /// Whether it was the token that did not do: none came, it is no good, or it does not allow this.
    pub fn is_denied(&self) -> bool {
        match self {
            Error::Problem(problem) => problem.status == 401 || problem.code == "forbidden",
            _ => false,
        }
    }

    /// The problem's stable code, if there is one.
    pub fn code(&self) -> Option<&str> {
        match self {
            Error::Problem(problem) if !problem.code.is_empty() => Some(&problem.code),
            _ => None,
        }
    }

    /// How long the gateway asks to wait.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Error::Problem(problem) => problem.retry_after,
            _ => None,
        }
    }

    pub(super) fn transport(base: &str, error: reqwest::Error) -> Error {
        let (url, why) = (base.to_owned(), root_cause(&error));
        if error.is_builder() {
            return Error::Setup(why);
        }
        if error.is_connect() { Error::Unreachable { url, why } } else { Error::Lost { url, why } }
    }

    /// The error that a response other than 2xx stands for.
    pub(super) async fn of_response(mut response: Response) -> Error {
        let status = response.status();
        let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        let retry_after = header(RETRY_AFTER)
            .and_then(|text| text.parse().ok())
            .map(|seconds| Duration::from_secs(seconds).min(RETRY_AFTER_MAX));
        let location = header(LOCATION).map(str::to_owned);

        let mut body = Vec::new();
        while let Ok(Some(chunk)) = response.chunk().await {
            body.extend_from_slice(&chunk[..chunk.len().min(BODY_MAX - body.len())]);
            if body.len() == BODY_MAX {
                break;
            }
        }
        let mut problem: Problem = serde_json::from_slice(&body).unwrap_or_default();
        if problem.title.is_empty() {
            problem.title = status.canonical_reason().unwrap_or("refused").to_owned();
        }
        if let Some(location) = location.filter(|_| status.is_redirection()) {
            problem.detail = format!("the address has moved; use {location}");
        }
        Error::Problem(Box::new(Problem { status: status.as_u16(), retry_after, ..problem }))
    }
}

/// The innermost cause says what happened (`Connection refused`); the layers around it only where it passed by.
pub(crate) fn root_cause(error: &(dyn error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
