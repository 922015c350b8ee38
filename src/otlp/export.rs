//! The way to the collector.

use std::{
    env, fmt,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use opentelemetry::{InstrumentationScope, trace::TracerProvider};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{
    Resource,
    trace::{SdkTracer, SdkTracerProvider},
};
use tokio::runtime::Handle;

use super::{BadExport, ENDPOINTS, wanted};

/// How long what is still queued may take to leave when the process ends.
const FLUSH: Duration = Duration::from_secs(2);
/// A collector that has not answered by then has not got it. OpenTelemetry's default.
const TIMEOUT: Duration = Duration::from_secs(10);
/// A collector that is away is worth a line, and not one for every batch.
const SAY_EVERY: Duration = Duration::from_secs(60);

static TRACER: OnceLock<SdkTracer> = OnceLock::new();

/// Where spans come from; `None`: nobody asked for any.
pub(super) fn tracer() -> Option<&'static SdkTracer> {
    TRACER.get()
}

/// An export that goes on in the background.
pub struct Exporting(SdkTracerProvider);

/// Begins to export, if the environment names a collector. Called once, within the runtime that carries the requests.
pub fn start() -> Result<Option<Exporting>, BadExport> {
    if !wanted() {
        return Ok(None);
    }
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(Collector::new()?)
        .with_protocol(Protocol::HttpBinary)
        .build()
        .map_err(|e| BadExport(format!("{e} (see {})", ENDPOINTS.join(", "))))?;
    // A thread of its own, which waits for the collector; its queue is bounded (OTEL_BSP_MAX_QUEUE_SIZE, 2,048 spans).
    let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource()).build();
    let scope = InstrumentationScope::builder("moorline").with_version(env!("CARGO_PKG_VERSION")).build();
    let _ = TRACER.set(provider.tracer_with_scope(scope));
    if let Some(other) = ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"]
        .iter()
        .find_map(|name| env::var(name).ok().filter(|value| !value.is_empty() && value != "http/protobuf"))
    {
        tracing::warn!("traces are exported as http/protobuf, although {other:?} was asked for");
    }
    Ok(Some(Exporting(provider)))
}

impl Exporting {
    /// Sends what is queued, and ends. Takes no longer than two seconds, whatever the collector does.
    pub async fn finish(self) {
        let ended = tokio::task::spawn_blocking(move || self.0.shutdown_with_timeout(FLUSH));
        if let Ok(Ok(Ok(()))) = tokio::time::timeout(FLUSH, ended).await {
            return;
        }
        tracing::warn!("the last traces did not reach the collector");
    }
}

/// Who we are: as OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say, and else by our own name.
fn resource() -> Resource {
    let set = |name: &str| env::var(name).unwrap_or_default();
    let named = !set("OTEL_SERVICE_NAME").is_empty() || set("OTEL_RESOURCE_ATTRIBUTES").contains("service.name=");
    let resource = Resource::builder();
    if named { resource.build() } else { resource.with_service_name("moorline").build() }
}

/// Sends batches with the program's own HTTP client, on its own runtime: the SDK's thread only waits.
struct Collector {
    http: reqwest::Client,
    runtime: Handle,
    began: Instant,
    /// When it last said that the collector is away, in milliseconds since it began; 0: it has not.
    said: AtomicU64,
}

impl Collector {
    fn new() -> Result<Self, BadExport> {
        crate::tls::provide();
        let timeout = ["OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"]
            .iter()
            .find_map(|name| env::var(name).ok()?.parse().ok().map(Duration::from_millis));
        let mut http = reqwest::Client::builder().timeout(timeout.unwrap_or(TIMEOUT));
        let endpoint = ENDPOINTS.iter().find_map(|name| env::var(name).ok().filter(|value| !value.is_empty()));
        if !endpoint.is_some_and(|endpoint| endpoint.starts_with("https")) {
            // No certificate will be asked for; and reading the system's fails where there are none (slim images).
            http = http.tls_certs_only([]);
        }
        let http = http.build().map_err(|e| BadExport(e.to_string()))?;
        Ok(Collector { http, runtime: Handle::current(), began: Instant::now(), said: AtomicU64::new(0) })
    }

    fn failed(&self, why: &dyn fmt::Display) {
        let (now, said) = (self.began.elapsed().as_millis() as u64 + 1, self.said.load(Relaxed));
        if said == 0 || now - said > SAY_EVERY.as_millis() as u64 {
            self.said.store(now, Relaxed);
            tracing::warn!(%why, "traces do not reach the collector; those that find no room are dropped");
        }
    }
}

#[async_trait]
impl HttpClient for Collector {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let http = self.http.clone();
        let sent = self.runtime.spawn(async move {
            let (parts, body) = request.into_parts();
            let request = http.request(parts.method, parts.uri.to_string()).headers(parts.headers).body(body);
            // An address may hold a password.
            let response = request.send().await.map_err(reqwest::Error::without_url)?;
            let mut answer = Response::builder().status(response.status());
            if let Some(headers) = answer.headers_mut() {
                headers.extend(response.headers().clone());
            }
            let body = response.bytes().await.map_err(reqwest::Error::without_url)?;
            Ok::<_, HttpError>(answer.body(body)?)
        });
        let answer = sent.await.map_err(HttpError::from).and_then(|answer| answer);
        match &answer {
            Ok(answer) if answer.status().is_success() => {}
            Ok(answer) => self.failed(&answer.status()),
            Err(error) => {
                let mut cause: &dyn std::error::Error = error.as_ref();
                while let Some(inner) = cause.source() {
                    cause = inner;
                }
                self.failed(&cause);
            }
        }
        answer
    }
}

impl fmt::Debug for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collector").finish_non_exhaustive()
    }
}
