//! `/livez` and `/readyz`: for load balancers and supervisors.

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use serde_json::json;

use super::{Gateway, Problem};

/// The process answers.
pub async fn live() -> &'static str {
    "ok\n"
}

/// The store can be reached, its subscription is alive, and the replica is not going down.
pub async fn ready(State(gateway): State<Gateway>) -> Result<Response, Problem> {
    if gateway.ending.has_begun() {
        return Err(Problem::draining());
    }
    gateway.store.health().await?;
    Ok(Json(json!({"ready": true, "store": gateway.store.kind()})).into_response())
}
