//! Who asks, and whether they may: the token of a request, the right that its route takes, and for how long.
//!
//! ```text
//! request ─▶ hide_token ─▶ route ─▶ guard: token, session, right ─▶ handler, which may ask for the Caller
//!                                     └─ what flows is cut when the token expires, in both directions
//! ```
//!
//! Without auth and limits of streams none of this is on the way of a request but [`hide_token`].

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, HttpBody},
    extract::{FromRequestParts, RawPathParams, Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header, request::Parts, uri::PathAndQuery},
    middleware::Next,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::time::{Instant, Sleep};

use super::{Gateway, Problem, quota, stream::Handover};
use crate::{
    auth::{self, Grant, Refused, Right, Verifier},
    id::Name,
    metrics::{Cut, METRICS},
    quota::Account,
};

/// What a route takes of a token. One of the rights is enough; none at all: the route is open to everybody.
pub type Needs = &'static [Right];

/// Who asks. Without auth configured: anybody.
#[derive(Debug, Clone, Default)]
pub struct Caller {
    grant: Option<Arc<Grant>>,
    account: Option<Arc<Account>>,
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get().cloned().unwrap_or_default())
    }
}

impl Caller {
    /// The only agent that the caller may speak as, if the token binds it to one.
    pub fn agent(&self) -> Option<&Name> {
        self.grant.as_ref()?.agent.as_ref()
    }

    /// Whom the caller's token is for.
    pub fn subject(&self) -> Option<Arc<str>> {
        self.grant.as_ref().map(|grant| grant.subject.clone())
    }

    /// The agent that a request speaks as: the one that it names, else the token's. Naming another one is refused.
    pub fn speaks_as(&self, named: Option<Name>) -> Result<Option<Name>, Problem> {
        match (self.agent(), named) {
            (Some(own), Some(named)) if *own != named => {
                Err(Problem::wrong_agent(format!("the token is for the agent {own:?}, and can't speak as {named:?}")))
            }
            (Some(own), _) => Ok(Some(own.clone())),
            (None, named) => Ok(named),
        }
    }

    /// Counts the events of a request that has been let through: one was counted then.
    pub fn appends(&self, events: usize) {
        if let Some(account) = &self.account {
            account.more(events.saturating_sub(1));
        }
    }

    /// Where what the caller does is counted, if it is.
    pub fn account(&self) -> Option<Arc<Account>> {
        self.account.clone()
    }

    /// Whose commands the caller may see: a token that can append but not read sees what is addressed to its agent.
    pub fn sees_only(&self) -> Option<&Name> {
        let grant = self.grant.as_ref()?;
        grant.agent.as_ref().filter(|_| !grant.can(Right::Read))
    }
}

/// The bearer token that came in the query, for clients that can't send headers (`EventSource`). `None`: several came.
#[derive(Clone)]
struct QueryToken(Option<Box<str>>);

/// Takes `access_token` out of the request's address before anything else looks at it, so that no log, no metric and no
/// error text can repeat it.
pub fn hide_token<B>(mut request: axum::http::Request<B>) -> axum::http::Request<B> {
    if let Some(query) = request.uri().query()
        && let Some((token, rest)) = without_token(query)
    {
        *request.uri_mut() = with_query(request.uri(), &rest);
        request.extensions_mut().insert(QueryToken(token));
    }
    request
}

const PARAMETER: &str = "access_token";

/// The token in a query (`None` if there are several), and the query without it.
fn without_token(query: &str) -> Option<(Option<Box<str>>, String)> {
    let is_token = |pair: &str| {
        let key = pair.split('=').next().unwrap_or_default();
        // A key may be written with escapes; then it is the same key.
        key == PARAMETER || key.contains('%') && decoded(key) == PARAMETER
    };
    let mut tokens = query.split('&').filter(|pair| is_token(pair));
    let token = decoded(tokens.next()?.split_once('=').map_or("", |(_, value)| value)).into();
    let token = tokens.next().is_none().then_some(token);
    let rest: Vec<&str> = query.split('&').filter(|pair| !is_token(pair)).collect();
    Some((token, rest.join("&")))
}

fn decoded(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned()
}

fn with_query(uri: &Uri, query: &str) -> Uri {
    let path = if query.is_empty() { uri.path().to_owned() } else { format!("{}?{query}", uri.path()) };
    let mut parts = uri.clone().into_parts();
    // A part of what was an address is one, too; if not, an address without a query still gives nothing away.
    parts.path_and_query = path.parse().ok().or_else(|| Some(PathAndQuery::from_static("/")));
    Uri::from_parts(parts).unwrap_or_default()
}

/// What stands before a route.
#[derive(Clone)]
pub struct Guard {
    gateway: Gateway,
    needs: Needs,
}

impl Guard {
    /// `None`: nothing is asked of a request here, and nothing counted.
    pub fn new(gateway: &Gateway, needs: Needs) -> Option<Self> {
        let asks = gateway.auth.is_some() || gateway.quota.limits().counts_streams();
        (asks && !needs.is_empty()).then(|| Guard { gateway: gateway.clone(), needs })
    }
}

/// Lets a request through to its route if its token has one of the rights there, and not too much has been done under
/// it.
pub async fn guard(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let (caller, open) = match admit(&guard, &mut parts).await {
        Ok(admitted) => admitted,
        Err(problem) => {
            // The body is dropped with the request, and drained.
            drop(body);
            return problem.into_response();
        }
    };
    let until = caller.grant.as_ref().map(|grant| deadline(grant.until));
    parts.extensions.insert(caller);
    // Nothing that flows outlives its token, in either direction.
    let body = match until {
        Some(until) if !body.is_end_stream() => Body::new(Expiring::new(body, until)),
        _ => body,
    };
    let response = next.run(Request::from_parts(parts, body)).await;
    if let Some(stream) = response.extensions().get::<Handover>() {
        stream.also_cut_by(async move {
            let _open = open;
            match until {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
            METRICS.cut(Cut::Token);
        });
    }
    response
}

/// Who asks, and the room for the stream that they ask for.
async fn admit(guard: &Guard, parts: &mut Parts) -> Result<(Caller, Option<quota::Open>), Problem> {
    let Guard { gateway, needs } = guard;
    let path = RawPathParams::from_request_parts(parts, &()).await;
    let session = path.ok().and_then(|path| path.iter().find(|(key, _)| *key == "session").map(|it| it.1.to_owned()));
    // A path that can't be read names no session that a token could be for.
    let session = session.unwrap_or_default();
    let grant = match &gateway.auth {
        Some(verifier) => Some(granted(verifier, needs, &session, parts)?),
        None => None,
    };
    let account = grant.as_ref().and_then(|grant| gateway.quota.account(&grant.subject));
    // What has no proper name is refused by its handler.
    let open = match session.parse::<Name>() {
        Ok(session) => quota::admit(gateway, &session, account.as_ref(), parts).await?,
        Err(_) => None,
    };
    Ok((Caller { grant, account }, open))
}

fn granted(verifier: &Verifier, needs: Needs, session: &str, parts: &mut Parts) -> Result<Arc<Grant>, Problem> {
    let grant = match bearer(&parts.headers).map_err(Problem::bad_token)? {
        Some(token) => verifier.verify(token),
        None => match parts.extensions.remove::<QueryToken>() {
            Some(QueryToken(Some(token))) => verifier.verify(&token),
            Some(QueryToken(None)) => Err(Refused::Several),
            None => return Err(Problem::unauthenticated()),
        },
    };
    let grant = grant.map_err(Problem::bad_token)?;
    if !grant.reaches(session) {
        return Err(Problem::forbidden(needs, "the token is not for this session"));
    }
    if !needs.iter().any(|right| grant.can(*right)) {
        let needed: Vec<_> = needs.iter().map(|right| right.as_str()).collect();
        return Err(Problem::forbidden(needs, format!("the token does not give the right to {}", needed.join(" or "))));
    }
    Ok(grant)
}

/// The token of an `Authorization: Bearer` header. Another scheme is somebody else's affair (a proxy's, mostly). Two tokens
/// are refused: a proxy may have checked the other one.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Refused> {
    let credentials = headers.get_all(header::AUTHORIZATION).iter();
    let credentials = credentials.filter_map(|value| value.to_str().ok()?.split_once(' '));
    let mut tokens = credentials.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    match (tokens.next(), tokens.next()) {
        (_, Some(_)) => Err(Refused::Several),
        (token, None) => Ok(token.map(|(_, token)| token.trim_start())),
    }
}

/// An instant for a time in seconds since the Unix epoch. A token that outlives the year is looked at again only when the
/// client comes back: no connection lives so long.
fn deadline(until: f64) -> Instant {
    const FAR: f64 = 365.0 * 86_400.0;
    Instant::now() + Duration::from_secs_f64((until - auth::now()).clamp(0.0, FAR))
}

/// A request's body that breaks when the token under which it flows expires. (An answer that has no end of its own is a
/// stream, and cut.)
struct Expiring {
    body: Body,
    sleep: Pin<Box<Sleep>>,
}

/// Why such a body broke.
#[derive(Debug, thiserror::Error)]
#[error("the token has expired")]
pub struct TokenExpired;

impl Expiring {
    fn new(body: Body, until: Instant) -> Self {
        Expiring { body, sleep: Box::pin(tokio::time::sleep_until(until)) }
    }
}

impl http_body::Body for Expiring {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.sleep.as_mut().poll(context).is_ready() {
            return Poll::Ready(Some(Err(axum::Error::new(TokenExpired))));
        }
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Caller {
    /// Refuses one whose token does not give this right, for something within a route that takes another.
    pub fn may(&self, right: &'static [Right; 1], what: &str) -> Result<(), Problem> {
        match &self.grant {
            Some(grant) if !grant.can(right[0]) => {
                Err(Problem::forbidden(right, format!("{what} takes the right to {}", right[0])))
            }
            _ => Ok(()),
        }
    }
}

impl Problem {
    /// No token came.
    pub fn unauthenticated() -> Self {
        let detail = "this gateway asks for a token: Authorization: Bearer <JWT>, or ?access_token= where a client can't \
                      send headers";
        Problem::new(StatusCode::UNAUTHORIZED, "unauthenticated", detail)
    }

    /// The token is no good.
    pub fn bad_token(refused: Refused) -> Self {
        let code = if refused == Refused::Expired { "token_expired" } else { "bad_token" };
        Problem::new(StatusCode::UNAUTHORIZED, code, format!("the token is refused: {refused}"))
    }

    /// The token expired while its request was under way.
    pub fn token_expired() -> Self {
        Problem::bad_token(Refused::Expired)
    }

    /// The token is good, but not for this.
    fn forbidden(needs: Needs, detail: impl Into<String>) -> Self {
        let needs: Vec<_> = needs.iter().map(|right| right.as_str()).collect();
        Problem::new(StatusCode::FORBIDDEN, "forbidden", detail).with("needs", needs)
    }

    /// The token is bound to an agent, and this would be said by another.
    pub fn wrong_agent(detail: impl Into<String>) -> Self {
        Problem::new(StatusCode::FORBIDDEN, "wrong_agent", detail)
    }
}

/// What a client is told by header of how to authenticate (RFC 6750, section 3).
pub fn challenge(code: &str) -> Option<HeaderValue> {
    Some(HeaderValue::from_static(match code {
        "unauthenticated" => "Bearer realm=\"moorline\"",
        "bad_token" => "Bearer realm=\"moorline\", error=\"invalid_token\"",
        "token_expired" => {
            "Bearer realm=\"moorline\", error=\"invalid_token\", error_description=\"the token has expired\""
        }
        "forbidden" => "Bearer realm=\"moorline\", error=\"insufficient_scope\"",
        _ => return None,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_leaves_the_query_however_it_is_written() {
        for (query, token, rest) in [
            ("access_token=a.b-c_d", Some("a.b-c_d"), ""),
            ("agent=x&access_token=t&run=y", Some("t"), "agent=x&run=y"),
            ("access%5Ftoken=t&a=1&%61ccess_token=u", None, "a=1"),
            ("access_token&a=1", Some(""), "a=1"),
            ("access_token=a%2Eb", Some("a.b"), ""),
        ] {
            let (found, left) = without_token(query).expect(query);
            assert_eq!((found.as_deref(), left.as_str()), (token, rest), "{query}");
        }
        for query in ["", "agent=x", "token=access_token", "xaccess_token=1", "access_tokens=1"] {
            assert_eq!(without_token(query), None, "{query}");
        }
        let uri: Uri = "/v1/sessions/s/events?access_token=t".parse().unwrap();
        assert_eq!(with_query(&uri, ""), "/v1/sessions/s/events");
        assert_eq!(with_query(&uri, "a=1"), "/v1/sessions/s/events?a=1");
    }

    #[test]
    fn only_bearers_count() {
        let of = |values: &[&'static str]| {
            let values = values.iter().map(|value| (header::AUTHORIZATION, HeaderValue::from_static(value)));
            let mut headers = HeaderMap::new();
            values.for_each(|(name, value)| {
                headers.append(name, value);
            });
            bearer(&headers).map(|token| token.map(str::to_owned))
        };
        let token = || Ok(Some("a.b.c".to_owned()));
        assert_eq!(of(&["Bearer a.b.c"]), token());
        assert_eq!(of(&["bearer  a.b.c"]), token());
        assert_eq!(of(&["Basic YTpi"]), Ok(None));
        assert_eq!(of(&["a.b.c"]), Ok(None));
        assert_eq!(of(&["Basic YTpi", "Bearer a.b.c"]), token());
        assert_eq!(of(&["Bearer a.b.c", "Bearer d.e.f"]), Err(Refused::Several));
    }
}
