//! Requests as the audit sends them, and why there may be nothing to audit. With `stream.rs` the only place of the audit
//! that knows its HTTP client.
//!
//! HTTP/1.1 only: with HTTP/2 a cut would end one stream of a
//! connection, not the connection. A cut is what a closed tab does: the socket is closed while the answer is under way.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use reqwest::{Method, Response, header};
use tokio::time::timeout;

use super::stream::{Form, Watching};
use crate::client::{self, Error, root_cause};

/// Until a connection stands.
const CONNECT: Duration = Duration::from_secs(10);

/// Until the head of an answer is there. Models think before the first token.
const HEAD: Duration = Duration::from_secs(30);

/// The most of a refusal's body that is read.
const REFUSAL_MAX: usize = 2_000;

/// Why there is nothing to audit.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// No connection could be made, or it broke before an answer came.
    #[error("nothing answers at {url}: {why}")]
    Unreachable {
        /// Without what may be secret in it.
        url: String,
        /// The innermost cause.
        why: String,
    },
    /// The endpoint refused.
    #[error("{url} answers {status}{}", with_colon(.said))]
    Refused {
        /// Without what may be secret in it.
        url: String,
        /// The HTTP status.
        status: u16,
        /// What it says, shortened.
        said: String,
    },
    /// The answer is no stream.
    #[error("{url} answers with {kind}, not with a stream")]
    NoStream {
        /// Without what may be secret in it.
        url: String,
        /// The content type.
        kind: String,
    },
    /// The answer is compressed, which was not asked for.
    #[error("{url} answers with content encoded as {encoding}, though nothing but plain content was asked for")]
    Encoded {
        /// Without what may be secret in it.
        url: String,
        /// The content encoding.
        encoding: String,
    },
    /// The request can't be made.
    #[error("the request can't be sent: {0}")]
    BadRequest(String),
    /// There was no stream to look at.
    #[error("there is nothing to audit: {0}")]
    Nothing(String),
    /// The gateway did not do what a gateway does.
    #[error("{0}")]
    Gateway(#[from] Error),
}

fn with_colon(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(": {text}") }
}

impl AuditError {
    /// What to do about it, where that is not plain.
    pub fn advice(&self) -> Option<&'static str> {
        match self {
            AuditError::Unreachable { .. } => Some("Is it running, and is the address right?"),
            AuditError::Refused { status: 401 | 403, .. } => {
                Some("It wants to know who asks: --header 'Name: value', or --token TOKEN at a gateway.")
            }
            AuditError::Refused { status: 204, .. } => Some("There is nothing to stream, or it is over already."),
            AuditError::Refused { status: 404 | 405, .. } => {
                Some("Is it the address of the stream itself? A POST takes --data (or --method POST).")
            }
            AuditError::Refused { status: 301..=308, .. } => Some("Use the address that it names."),
            AuditError::Refused { status: 429, .. } => {
                Some("It is asked too often: try again later, with fewer --trials.")
            }
            AuditError::NoStream { .. } => Some(
                "Is it the address of the stream itself? Some endpoints stream only when asked, as with \"stream\":true.",
            ),
            AuditError::Encoded { .. } => Some(
                "A client that did not ask for it can't read it: let the server, or the proxy before it, obey Accept-Encoding.",
            ),
            AuditError::Gateway(Error::Problem(problem)) if !problem.code.is_empty() => None,
            AuditError::Gateway(Error::Problem(_) | Error::Protocol(_)) => Some(
                "An address without a path is taken for a Moorline gateway; if it is a stream itself, say --plain.",
            ),
            _ => None,
        }
    }
}

/// A request, ready to be sent.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub method: String,
    pub url: String,
    pub headers: Vec<(String, String)>,
    pub body: Option<String>,
    pub last_id: Option<String>,
}

/// The HTTP client, and how often it was used.
pub(super) struct Wire {
    http: reqwest::Client,
    requests: AtomicUsize,
}

impl Wire {
    /// `local`: on this machine, where no proxy leads; `secure`: with TLS.
    pub fn new(local: bool, secure: bool) -> Result<Wire, AuditError> {
        let http =
            client::http(secure, local).user_agent(concat!("moorline-audit/", env!("CARGO_PKG_VERSION"))).http1_only();
        // A connection that was used before may be closed just then; and a surface is a connection of its own.
        let http = http.pool_max_idle_per_host(0).connect_timeout(CONNECT);
        let http = http.build().map_err(|e| AuditError::BadRequest(root_cause(&e)))?;
        Ok(Wire { http, requests: AtomicUsize::new(0) })
    }

    /// How many requests were sent.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    /// Sends a request and watches the stream that answers.
    pub async fn open(&self, request: &Request) -> Result<Watching, AuditError> {
        let response = self.send(request).await?;
        let status = response.status();
        let url = super::shown_url(&request.url);
        let header = |name: header::HeaderName| {
            let value = response.headers().get(name).and_then(|value| value.to_str().ok());
            value.unwrap_or_default().trim().to_owned()
        };
        if !status.is_success() || status.as_u16() == 204 {
            let location = header(header::LOCATION);
            let said = if location.is_empty() {
                refusal(response).await
            } else {
                format!("moved to {}", super::shown_url(&location))
            };
            return Err(AuditError::Refused { url, status: status.as_u16(), said });
        }
        let kind = header(header::CONTENT_TYPE);
        let Some(form) = Form::of(&kind) else { return Err(AuditError::NoStream { url, kind }) };
        let encoding = header(header::CONTENT_ENCODING);
        if !encoding.is_empty() && !encoding.eq_ignore_ascii_case("identity") {
            return Err(AuditError::Encoded { url, encoding });
        }
        let headers = response.headers().iter();
        let headers = headers.filter_map(|(k, v)| Some((k.as_str().to_owned(), v.to_str().ok()?.to_owned()))).collect();
        Ok(Watching::start(response, form, headers))
    }

    /// Sends a request that is answered at once: the status, and what it says if it is a refusal.
    pub async fn call(&self, request: &Request) -> Result<(u16, String), AuditError> {
        let response = self.send(request).await?;
        Ok((response.status().as_u16(), refusal(response).await))
    }

    async fn send(&self, request: &Request) -> Result<Response, AuditError> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let bad = |what: String| AuditError::BadRequest(what);
        let method = Method::from_bytes(request.method.as_bytes()).map_err(|_| bad("the method is none".into()))?;
        let accept = match method {
            Method::GET => "text/event-stream",
            _ => "text/event-stream, application/x-ndjson, text/plain;q=0.9, */*;q=0.8",
        };
        let mut headers = header::HeaderMap::new();
        headers.insert(header::ACCEPT, header::HeaderValue::from_static(accept));
        headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
        let mut given = header::HeaderMap::new();
        for (name, value) in &request.headers {
            let name = name.parse::<header::HeaderName>().map_err(|_| bad(format!("{name:?} is no header's name")))?;
            let mut value = header::HeaderValue::try_from(value)
                .map_err(|_| bad(format!("the header {name} has a value that no header can carry")))?;
            value.set_sensitive(true);
            given.append(name, value);
        }
        headers.extend(given);
        if let Some(id) = &request.last_id {
            let id = header::HeaderValue::try_from(id).map_err(|_| bad("an id that no header can carry".into()))?;
            headers.insert("last-event-id", id);
        }
        let mut builder = self.http.request(method, &request.url).headers(headers);
        if let Some(body) = &request.body {
            builder = builder.body(body.clone());
        }
        let url = || super::shown_url(&request.url);
        match timeout(HEAD, builder.send()).await {
            Err(_) => Err(AuditError::Unreachable { url: url(), why: format!("no answer within {HEAD:?}") }),
            Ok(Err(error)) if error.is_builder() => Err(bad(root_cause(&error))),
            Ok(Err(error)) => Err(AuditError::Unreachable { url: url(), why: root_cause(&error) }),
            Ok(Ok(response)) => Ok(response),
        }
    }
}

/// What a refusal says, on one line.
async fn refusal(mut response: Response) -> String {
    let mut body = Vec::new();
    let read = async {
        while let Ok(Some(chunk)) = response.chunk().await {
            body.extend_from_slice(&chunk[..chunk.len().min(REFUSAL_MAX - body.len())]);
            if body.len() == REFUSAL_MAX {
                break;
            }
        }
    };
    let _ = timeout(Duration::from_secs(2), read).await;
    let text = String::from_utf8_lossy(&body);
    // Of a problem or the like, the sentence; of a page, nothing.
    let json: Option<serde_json::Value> = serde_json::from_str(&text).ok();
    let sentence = |v: &serde_json::Value| {
        ["detail", "message", "error", "title"].iter().find_map(|k| v[k].as_str().map(str::to_owned))
    };
    let text = match &json {
        Some(value) => sentence(value).or_else(|| sentence(&value["error"])).unwrap_or_default(),
        None if text.trim_start().starts_with('<') => String::new(),
        None => text.into_owned(),
    };
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(200).collect()
}
