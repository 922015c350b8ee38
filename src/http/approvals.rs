//! `POST …/approvals`: an agent asks for a decision.

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Gateway, Problem,
    commands::NoParams,
    extract::{self, Names, Params},
};
use crate::{
    id::Name,
    rules::{Action, ApprovalRequest, Verdict},
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApprovalBody {
    approval: Name,
    run: Option<Name>,
    agent: Option<Name>,
    prompt: Value,
    expires_ms: Option<i64>,
    on_expiry: Option<Verdict>,
}

/// `POST …/approvals`
pub async fn request(
    State(gateway): State<Gateway>,
    Names([session]): Names<1>,
    Params(NoParams { .. }): Params<NoParams>,
    extract::Json(body): extract::Json<ApprovalBody>,
) -> Result<Response, Problem> {
    extract::check_data("the prompt", &body.prompt, gateway.limits.event_bytes)?;
    let request = ApprovalRequest {
        approval: body.approval.clone(),
        agent: body.agent,
        run: body.run,
        prompt: body.prompt,
        expires_ms: body.expires_ms,
        on_expiry: body.on_expiry.unwrap_or(Verdict::Deny),
    };
    let done = gateway.writers.act(&session, Action::Approval(request)).await?;
    let answer = json!({"approval": body.approval, "entry": done.ids.first()});
    Ok((StatusCode::CREATED, Json(answer)).into_response())
}
