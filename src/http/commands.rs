//! `POST …/commands`: ask something of the agents; `POST …/commands/{command}/outcome`: say what became of it.

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
    extract::{self, Names, Params},
};
use crate::{
    event::usable_type,
    id::Name,
    rules::{Action, CommandRequest, Decision, OutcomeRequest, Verdict},
};

/// Texts that people write, in bytes.
pub(super) const REASON_MAX: usize = 1000;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommandBody {
    #[serde(rename = "type")]
    kind: String,
    id: Option<Name>,
    run: Option<Name>,
    agent: Option<Name>,
    data: Option<Value>,
    ttl_ms: Option<i64>,
    grace_ms: Option<i64>,
    #[serde(default)]
    tree: bool,
    approval: Option<Name>,
}

/// Requests without parameters of their own.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoParams {
    #[serde(rename = "access_token")]
    _access_token: Option<String>,
}

/// `POST …/commands`
pub async fn issue(
    State(gateway): State<Gateway>,
    Names([session]): Names<1>,
    Params(NoParams { .. }): Params<NoParams>,
    extract::Json(body): extract::Json<CommandBody>,
) -> Result<Response, Problem> {
    let request = body.into_request(gateway.limits.event_bytes)?;
    let done = gateway.writers.act(&session, Action::Command(request.clone())).await?;
    let answer = json!({"command": request.id, "entry": done.ids.first()});
    Ok((StatusCode::ACCEPTED, Json(answer)).into_response())
}

impl CommandBody {
    fn into_request(self, event_bytes: usize) -> Result<CommandRequest, Problem> {
        if !usable_type(&self.kind) {
            let detail =
                "a command's type takes 1 to 128 printable ASCII characters, without space, comma, quote or backslash";
            return Err(Problem::bad_request("bad_type", detail));
        }
        let stops = self.kind == "stop";
        if !stops && (self.grace_ms.is_some() || self.tree) {
            return Err(Problem::bad_request("bad_request", "grace_ms and tree are for commands of the type stop"));
        }
        if self.tree && self.run.is_none() {
            return Err(Problem::bad_request(
                "bad_request",
                "tree needs a run; without a run a stop is for all of them",
            ));
        }
        if let Some(data) = &self.data {
            extract::check_data("data", data, event_bytes)?;
        }
        let decision = match (self.kind == "decide", &self.approval) {
            (true, Some(approval)) => Some(decision(approval, self.data.as_ref())?),
            (false, None) => None,
            (true, None) => {
                return Err(Problem::bad_request("bad_request", "decide needs the approval that it decides"));
            }
            (false, Some(_)) => {
                return Err(Problem::bad_request("bad_request", "approval is for commands of the type decide"));
            }
        };
        Ok(CommandRequest {
            id: self.id.unwrap_or_else(random_id),
            kind: self.kind,
            agent: self.agent,
            run: self.run,
            data: self.data,
            ttl_ms: self.ttl_ms,
            grace_ms: self.grace_ms,
            tree: self.tree,
            decision,
        })
    }
}

fn decision(approval: &Name, data: Option<&Value>) -> Result<Decision, Problem> {
    let verdict = match data.and_then(|data| data.get("decision")).and_then(Value::as_str) {
        Some("approve") => Verdict::Approve,
        Some("deny") => Verdict::Deny,
        _ => return Err(Problem::bad_request("bad_request", "decide needs data.decision, either approve or deny")),
    };
    Ok(Decision { approval: approval.clone(), verdict, data: data.cloned().unwrap_or_default() })
}

/// An id for a command that brings none.
fn random_id() -> Name {
    let id = format!("c-{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
    // Hexadecimal digits are within the alphabet.
    id.parse().unwrap_or_else(|_| unreachable!())
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutcomeBody {
    outcome: OutcomeWord,
    reason: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum OutcomeWord {
    Consumed,
    Rejected,
}

/// `POST …/commands/{command}/outcome`
pub async fn outcome(
    State(gateway): State<Gateway>,
    Names([session, command]): Names<2>,
    Params(NoParams { .. }): Params<NoParams>,
    extract::Json(body): extract::Json<OutcomeBody>,
) -> Result<Response, Problem> {
    let request = OutcomeRequest {
        command,
        consumed: matches!(body.outcome, OutcomeWord::Consumed),
        reason: reason(body.reason)?,
    };
    let done = gateway.writers.act(&session, Action::Outcome(request)).await?;
    Ok((StatusCode::CREATED, Json(json!({"ids": done.ids}))).into_response())
}

/// A reason within its bounds.
pub(super) fn reason(reason: Option<String>) -> Result<Option<String>, Problem> {
    match reason {
        Some(reason) if reason.len() > REASON_MAX => {
            let detail = format!("the reason takes {} bytes; the limit is {REASON_MAX}", reason.len());
            Err(Problem::bad_request("bad_request", detail))
        }
        reason => Ok(reason),
    }
}
