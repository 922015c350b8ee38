//! What is told of a request, in the words of OpenTelemetry's conventions for HTTP.

use opentelemetry::{
    Context, ContextGuard, KeyValue,
    trace::{SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId, TraceState},
};
use opentelemetry_sdk::trace::Span;

use super::export::tracer;
use crate::trace::Traceparent;

/// Bytes of a path that are told: enough for the longest names there are.
const PATH_MAX: usize = 512;

/// A request under way. `None`: nobody asked for traces, or not for this one.
pub struct Request(Option<Context>);

impl Request {
    /// Begins a span for a request to the interface, as its caller's child. Probes and scrapes have none, nor has what
    /// leads nowhere: whoever tries paths at random must not fill the collector.
    pub fn begin(
        method: &str,
        path: &str,
        route: fn(&str) -> Option<&'static str>,
        caller: Option<Traceparent>,
    ) -> Self {
        let Some(tracer) = tracer().filter(|_| path.starts_with("/v1/")) else { return Request(None) };
        let Some(route) = route(path) else { return Request(None) };
        let method = match method {
            "GET" | "HEAD" | "POST" | "PUT" | "DELETE" | "OPTIONS" | "PATCH" => method,
            _ => "_OTHER",
        };
        let span = SpanBuilder::from_name(format!("{method} {route}"))
            .with_kind(SpanKind::Server)
            .with_attributes([
                KeyValue::new("http.request.method", method.to_owned()),
                KeyValue::new("http.route", route),
                KeyValue::new("url.path", shortened(path).to_owned()),
                KeyValue::new("url.scheme", "http"),
            ])
            .start_with_context(tracer, &caller.map_or_else(Context::new, remote));
        Request(Some(Context::new().with_span(span)))
    }

    /// The request's own step in its trace.
    pub fn place(&self) -> Option<Traceparent> {
        self.0.as_ref().and_then(place)
    }

    /// Makes it the request that [`step`] and [`here`] speak of, on this thread, while the guard lives.
    pub fn enter(&self) -> Option<ContextGuard> {
        self.0.clone().map(Context::attach)
    }

    /// It ends with this status; what its connection goes on to do is not its own.
    pub fn answered(&self, status: u16) {
        let Some(context) = &self.0 else { return };
        let span = context.span();
        span.set_attribute(KeyValue::new("http.response.status_code", i64::from(status)));
        if status >= 500 {
            span.set_attribute(KeyValue::new("error.type", status.to_string()));
            span.set_status(Status::error(""));
        }
        span.end();
    }
}

/// A part of a request, which ends when this is dropped.
pub struct Step(#[expect(dead_code, reason = "it ends when it is dropped")] Option<Span>);

/// Begins a part of the request that is entered on this thread.
pub fn step(name: &'static str) -> Step {
    Step(tracer().and_then(|tracer| {
        Context::map_current(|context| {
            let within = context.span().is_recording();
            within.then(|| SpanBuilder::from_name(name).start_with_context(tracer, context))
        })
    }))
}

/// The step of the request that is entered on this thread.
pub fn here() -> Option<Traceparent> {
    Context::map_current(place)
}

fn shortened(path: &str) -> &str {
    // In the middle of a character there is no cutting; such a path is no path of ours.
    if path.len() <= PATH_MAX { path } else { path.get(..PATH_MAX).unwrap_or_default() }
}

fn place(context: &Context) -> Option<Traceparent> {
    let span = context.span();
    let span = Some(span.span_context()).filter(|span| span.is_valid())?;
    let (trace, parent) = (span.trace_id().to_bytes(), span.span_id().to_bytes());
    let (trace, parent) = (u128::from_be_bytes(trace), u64::from_be_bytes(parent));
    Some(Traceparent { trace, parent, sampled: span.is_sampled() })
}

fn remote(caller: Traceparent) -> Context {
    let flags = if caller.sampled { TraceFlags::SAMPLED } else { TraceFlags::default() };
    let (trace, parent) = (TraceId::from(caller.trace), SpanId::from(caller.parent));
    Context::new().with_remote_span_context(SpanContext::new(trace, parent, flags, true, TraceState::default()))
}
