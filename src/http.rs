//! The HTTP interface: the route table, and the server under it.
//!
//! | path | methods | file |
//! |---|---|---|
//! | `/v1/sessions/{session}/events` | POST, GET | `events.rs`, `follow.rs` |
//! | `/v1/sessions/{session}/commands` … | POST, GET | `commands.rs`, `follow.rs` |
//! | `/v1/sessions/{session}/runs` … | POST, PUT | `runs.rs` |
//! | `/v1/sessions/{session}/approvals` | POST | `approvals.rs` |
//! | `/v1/sessions/{session}` …  | GET, POST, DELETE | `sessions.rs` |
//! | `/livez`, `/readyz` | GET | `health.rs` |
//! | `/metrics` | GET | `metrics.rs` |
//!
//! The interface itself is described in `docs/PROTOCOL.md`.

mod approvals;
mod commands;
mod drain;
mod ending;
mod events;
mod extract;
mod follow;
mod health;
mod metrics;
mod observe;
mod problem;
mod runs;
mod server;
mod sessions;
mod socket;
mod stream;

pub use ending::Ending;
pub use problem::Problem;
pub use server::Server;

use std::sync::Arc;

use axum::{
    Router,
    http::{StatusCode, Uri},
    middleware,
    routing::{get, post, put},
};
use tower_http::catch_panic::CatchPanicLayer;

use crate::{config::Limits, hub::Hub, store::Store, writer::Writers};

/// What every request can reach.
pub struct Shared {
    /// Where sessions live.
    pub store: Arc<dyn Store>,
    /// What is written goes through here.
    pub writers: Arc<Writers>,
    /// What is followed comes from here.
    pub hub: Arc<Hub>,
    /// Bounds of requests and connections.
    pub limits: Limits,
    /// Whether, and how far, the replica is going down.
    pub ending: Ending,
}

/// The state that handlers take.
pub type Gateway = Arc<Shared>;

/// The route table.
pub fn router(gateway: Gateway) -> Router {
    let session = Router::new()
        .route("/", get(sessions::show).delete(sessions::delete))
        .route("/close", post(sessions::close))
        .route("/events", post(events::append).get(follow::events))
        .route("/commands", post(commands::issue).get(follow::commands))
        .route("/commands/{command}/outcome", post(commands::outcome))
        .route("/runs", post(runs::start))
        .route("/runs/{run}", put(runs::body))
        .route("/runs/{run}/end", post(runs::end))
        .route("/runs/{run}/heartbeat", post(runs::heartbeat))
        .route("/approvals", post(approvals::request))
        .route("/producers/{producer}", get(sessions::producer));
    Router::new()
        .nest("/v1/sessions/{session}", session)
        .route("/livez", get(health::live))
        .route("/readyz", get(health::ready))
        .route("/metrics", get(metrics::show))
        .fallback(unknown_path)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(CatchPanicLayer::custom(panicked))
        .layer(middleware::map_request(drain::drained))
        .with_state(gateway)
}

async fn unknown_path(uri: Uri) -> Problem {
    let path: String = uri.path().chars().take(200).collect();
    Problem::new(StatusCode::NOT_FOUND, "unknown_path", format!("there is nothing at {path}; see docs/PROTOCOL.md"))
}

async fn method_not_allowed() -> Problem {
    let detail = "this path takes other methods; see the Allow header and docs/PROTOCOL.md";
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
}

fn panicked(_: Box<dyn std::any::Any + Send>) -> axum::response::Response {
    // The panic itself has been logged by the hook.
    let detail = "the gateway hit a defect of its own; the operator finds it in the log";
    axum::response::IntoResponse::into_response(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail))
}
