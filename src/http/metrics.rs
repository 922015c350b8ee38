//! `/metrics`: for Prometheus.

use axum::{
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};

use super::Gateway;
use crate::metrics::exposition::{self, About};

/// `GET /metrics`
pub async fn show(State(gateway): State<Gateway>) -> Response {
    let about = About { store: gateway.store.kind(), draining: gateway.ending.has_begun() };
    ([(header::CONTENT_TYPE, exposition::CONTENT_TYPE)], exposition::text(about)).into_response()
}
