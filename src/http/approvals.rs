//! `POST …/approvals`: an agent asks for a decision.

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::{json, value::RawValue};

use super::{
    Gateway, Problem,
    auth::Caller,
    extract::{self, Names, NoParams, Params, free_json},
};
use crate::{
    auth::Right,
    id::Name,
    rules::{Action, ApprovalRequest, Verdict},
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApprovalBody {
    approval: Name,
    run: Option<Name>,
    agent: Option<Name>,
    prompt: Box<RawValue>,
    expires_ms: Option<i64>,
    on_expiry: Option<Verdict>,
}

/// `POST …/approvals`
pub async fn request(
    State(gateway): State<Gateway>,
    Names([session]): Names<1>,
    Params(NoParams { .. }): Params<NoParams>,
    headers: HeaderMap,
    caller: Caller,
    extract::Json(body): extract::Json<ApprovalBody>,
) -> Result<Response, Problem> {
    if body.on_expiry == Some(Verdict::Approve) {
        // Else an agent would only have to wait to approve what it asked for.
        caller.may(&[Right::Command], "an approval that is approved when nobody decides")?;
    }
    let request = ApprovalRequest {
        approval: body.approval.clone(),
        agent: caller.speaks_as(body.agent)?,
        run: body.run,
        attempt: extract::attempt(&headers)?,
        prompt: free_json("the prompt", &body.prompt, gateway.limits.event_bytes)?,
        expires_ms: body.expires_ms,
        on_expiry: body.on_expiry.unwrap_or(Verdict::Deny),
        speaker: caller.agent().cloned(),
    };
    let done = gateway.writers.act(&session, Action::Approval(request)).await?;
    let answer = json!({"approval": body.approval, "entry": done.ids.first()});
    Ok((StatusCode::CREATED, Json(answer)).into_response())
}
