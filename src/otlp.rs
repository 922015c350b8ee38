//! Traces for a collector: OpenTelemetry's protocol over HTTP (OTLP, protobuf), behind the cargo feature `otlp`.
//!
//! ```text
//! traceparent ─▶ Request: a span of the kind server, child of the caller's
//!                  ├─ Step "commit": from the writer's queue to Redis's answer
//!                  ├─ Step "read": a page from Redis
//!                  └─ place() ─▶ traceparent of the command that an agent gets
//!                     on end ─▶ bounded queue ─▶ a thread of its own ─▶ POST /v1/traces
//! ```
//!
//! Spans that find the queue full are dropped: no request ever waits for the collector. A stream's span ends when the
//! stream begins; what then flows for hours is what the metrics are for. Nothing here knows a query or a payload.
//!
//! It is on if the environment names an endpoint, with the variables that all of OpenTelemetry uses. Without the feature
//! all of this compiles to nothing.

#[cfg(feature = "otlp")]
mod export;
#[cfg(feature = "otlp")]
mod span;
#[cfg(feature = "otlp")]
pub use self::{
    export::{Exporting, start},
    span::{Request, Step, here, step},
};

#[cfg(not(feature = "otlp"))]
mod absent;
#[cfg(not(feature = "otlp"))]
pub use absent::{Exporting, Request, Step, here, start, step};

/// The variables that name the collector; the first is for traces alone.
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];

/// Whether the environment asks for traces.
fn wanted() -> bool {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
    let disabled = set("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let none = set("OTEL_TRACES_EXPORTER").is_some_and(|value| value == "none");
    !disabled && !none && ENDPOINTS.iter().any(|name| set(name).is_some())
}

/// Why traces can't be exported as asked.
#[derive(Debug, thiserror::Error)]
#[error("traces can't be exported: {0}")]
pub struct BadExport(String);
