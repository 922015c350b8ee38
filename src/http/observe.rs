//! What is noted of every request, whatever becomes of it: its id, the trace that it belongs to, the kind of its
//! answer.
//!
//! A request has an id: the client's `X-Request-Id`, or a new one; the answer carries it. With a `traceparent` (W3C
//! Trace Context) the request belongs to its caller's trace. Both stand in a span around whatever is logged on the way;
//! the span exists where `debug` is logged (or traces are exported), so that by default it costs nothing. A 500, which is
//! a defect of the gateway or of what it stands on, is logged in any case.
//!
//! Of a request's address only the path is ever looked at: the query may carry a token.

use std::{
    fmt,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll},
    time::Instant,
};

use axum::{
    http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, header},
    response::{IntoResponse, Response as Answer},
};
use pin_project_lite::pin_project;
use tower_service::Service;
use tracing::Span;

use super::{Gateway, Problem, problem::Cause, seldom::Seldom};
use crate::{metrics::METRICS, otlp, trace::Traceparent};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// A request's id longer than this is not taken over: it is repeated in every line about the request.
const ID_MAX: usize = 128;

/// The routes, observed.
#[derive(Clone)]
pub struct Observed<S> {
    gateway: Gateway,
    routes: S,
    /// Strangers are refused here, if the gateway refuses any.
    guarded: bool,
}

impl<S> Observed<S> {
    /// Observes these routes of this gateway. `guarded`: they are not for strangers.
    pub fn new(gateway: Gateway, routes: S, guarded: bool) -> Self {
        Observed { gateway, routes, guarded }
    }
}

impl<S, B> Service<Request<B>> for Observed<S>
where
    S: Service<Request<B>, Response = Answer>,
{
    type Response = Answer;
    type Error = S::Error;
    type Future = Observing<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.routes.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let id = RequestId::of(request.headers());
        let trace = traceparent(request.headers());
        let (method, path) = (request.method().clone(), request.uri().path());
        let traced = otlp::Request::begin(method.as_str(), path, super::route_of, trace);
        let trace = traced.place().or(trace);
        let span = tracing::debug_span!(
            "request",
            request_id = %id,
            trace_id = trace.map(|place| tracing::field::display(TraceId(place.trace))),
            %method,
            path,
        );
        // Kept for the one line that a failure is worth; a clone of shared bytes.
        let uri = request.uri().clone();
        let local = self.gateway.local.as_ref().filter(|_| self.guarded);
        if let Some(stranger) = local.and_then(|local| local.judge(&request)) {
            *request.uri_mut() = Uri::from_static(super::NOWHERE);
            request.extensions_mut().insert(stranger);
        }
        let answer = {
            let _traced = traced.enter();
            span.in_scope(|| self.routes.call(request))
        };
        let about = About { traced, gateway: self.gateway.clone(), id, trace, method, uri, since: Instant::now() };
        Observing { answer, span, about: Some(about) }
    }
}

struct About {
    traced: otlp::Request,
    gateway: Gateway,
    id: RequestId,
    trace: Option<Traceparent>,
    method: Method,
    uri: Uri,
    since: Instant,
}

pin_project! {
    /// A request under way.
    pub struct Observing<F> {
        #[pin]
        answer: F,
        span: Span,
        about: Option<About>,
    }
}

impl<F, E> Future for Observing<F>
where
    F: Future<Output = Result<Answer, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let _traced = this.about.as_ref().map(|about| about.traced.enter());
        let _entered = this.span.enter();
        let polled = catch_unwind(AssertUnwindSafe(|| this.answer.poll(context)));
        let mut polled = polled.unwrap_or_else(|_| Poll::Ready(Ok(panicked())));
        if let Poll::Ready(Ok(answer)) = &mut polled
            && let Some(about) = this.about.take()
        {
            about.answered(answer);
            // See `ending.rs`.
            if about.gateway.ending.has_begun() {
                answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            answer.headers_mut().insert(REQUEST_ID, about.id.0);
        }
        polled
    }
}

/// The panic itself has been logged by the hook.
fn panicked() -> Answer {
    let detail = "the gateway hit a defect of its own; the operator finds it in the log";
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail).into_response()
}

impl About {
    fn answered(&self, answer: &Answer) {
        let status = answer.status();
        let class = usize::from(status.as_u16() / 100).clamp(1, 5);
        METRICS.answers[class - 1].add(1);
        self.traced.answered(status.as_u16());
        let (status, took_ms) = (status.as_u16(), self.since.elapsed().as_millis() as u64);
        match status {
            // Not 503: while Redis is away every request gets one. That it is away is logged once in ten seconds (`problem.rs`).
            500 => {
                static LAST: Seldom = Seldom::new();
                let cause = answer.extensions().get::<Cause>().map(|Cause(cause)| &**cause);
                // Of a fault of the store others tell the same. A defect is worth a line each time.
                if cause.is_none() || LAST.now() {
                    tracing::error!(
                        cause,
                        request_id = %self.id,
                        trace_id = self.trace.map(|place| tracing::field::display(TraceId(place.trace))),
                        method = %self.method,
                        path = self.uri.path(),
                        status,
                        took_ms,
                        "failed to serve a request"
                    );
                }
            }
            _ => tracing::debug!(status, took_ms, "answered a request"),
        }
    }
}

/// What a request is called in logs, here and on its way.
#[derive(Debug, Clone)]
struct RequestId(HeaderValue);

impl RequestId {
    fn of(headers: &HeaderMap) -> Self {
        let given =
            headers.get(REQUEST_ID).filter(|id| (1..=ID_MAX).contains(&id.len()) && id.as_bytes().iter().all(usable));
        RequestId(given.cloned().unwrap_or_else(|| {
            let mut id = [0; 16];
            let number = fastrand::u64(..);
            for (at, digit) in id.iter_mut().enumerate() {
                *digit = b"0123456789abcdef"[(number >> (4 * at) & 15) as usize];
            }
            HeaderValue::from_bytes(&id).unwrap_or_else(|_| HeaderValue::from_static("-"))
        }))
    }
}

/// What ids are made of; nothing that could pass for another field or another line of a log.
fn usable(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.:/+=".contains(byte)
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.to_str().unwrap_or("-"))
    }
}

/// The caller's place in a trace. `None`: it names none, or none that can be understood; then the request begins its own.
fn traceparent(headers: &HeaderMap) -> Option<Traceparent> {
    headers.get("traceparent")?.to_str().ok()?.parse().ok()
}

/// The place in a trace that goes on with what a request asks of others: the request's own step, where steps are exported,
/// else its caller's.
pub fn passed_on(headers: &HeaderMap) -> Option<Traceparent> {
    otlp::here().or_else(|| traceparent(headers))
}

/// The trace alone, as logs name it.
struct TraceId(u128);

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())])
    }

    #[tokio::test]
    async fn a_handler_that_panics_is_answered_for() {
        let answer = async { panic!("a defect, on purpose") as Result<Answer, std::convert::Infallible> };
        let answer = Observing { answer, span: Span::none(), about: None }.await.unwrap();
        assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
    }

    #[test]
    fn an_id_is_taken_over_only_if_it_can_do_no_harm() {
        let id = |text: &str| RequestId::of(&headers("x-request-id", text)).to_string();
        assert_eq!(id("6f1c-42_a.b:c"), "6f1c-42_a.b:c");
        for bad in ["", "a b", "a\"b", &"x".repeat(ID_MAX + 1)] {
            assert_ne!(id(bad), bad);
        }
        assert_ne!(RequestId::of(&HeaderMap::new()).to_string(), RequestId::of(&HeaderMap::new()).to_string());
    }
}
