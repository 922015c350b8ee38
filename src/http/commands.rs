//! `POST …/commands`: ask something of the agents; `POST …/commands/{command}/outcome`: say what became of it.

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
    extract::{self, Names, NoParams, Params, free_json, reason},
    observe,
};
use crate::{
    event::usable_type,
    id::Name,
    rules::{Action, CommandRequest, Decision, OutcomeRequest, Reported, Verdict},
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommandBody {
    #[serde(rename = "type")]
    kind: String,
    id: Option<Name>,
    run: Option<Name>,
    agent: Option<Name>,
    data: Option<Box<RawValue>>,
    ttl_ms: Option<i64>,
    grace_ms: Option<i64>,
    #[serde(default)]
    tree: bool,
    approval: Option<Name>,
}

/// `POST …/commands`
pub async fn issue(
    State(gateway): State<Gateway>,
    Names([session]): Names<1>,
    Params(NoParams { .. }): Params<NoParams>,
    headers: HeaderMap,
    caller: Caller,
    extract::Json(body): extract::Json<CommandBody>,
) -> Result<Response, Problem> {
    let request = body.into_request(gateway.limits.event_bytes)?;
    let request = CommandRequest { by: caller.subject(), traceparent: observe::passed_on(&headers), ..request };
    let id = request.id.clone();
    let done = gateway.writers.act(&session, Action::Command(request)).await?;
    let answer = json!({"command": id, "entry": done.ids.first()});
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
        let data = self.data.map(|data| free_json("data", &data, event_bytes)).transpose()?;
        let decision = match (self.kind == "decide", &self.approval) {
            (true, Some(approval)) => Some(decision(approval, data.as_deref())?),
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
            data,
            ttl_ms: self.ttl_ms,
            grace_ms: self.grace_ms,
            tree: self.tree,
            decision,
            by: None,
            traceparent: None,
        })
    }
}

fn decision(approval: &Name, data: Option<&RawValue>) -> Result<Decision, Problem> {
    #[derive(Deserialize)]
    struct Decided {
        decision: Verdict,
    }
    // serde would read it from an array, too.
    let data = data.filter(|data| data.get().starts_with('{'));
    let decided = data.and_then(|data| Some((data, serde_json::from_str::<Decided>(data.get()).ok()?)));
    let Some((data, Decided { decision })) = decided else {
        return Err(Problem::bad_request("bad_request", "decide needs data.decision, either approve or deny"));
    };
    Ok(Decision { approval: approval.clone(), verdict: decision, data: data.to_owned() })
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
    outcome: Reported,
    reason: Option<String>,
}

/// `POST …/commands/{command}/outcome`
pub async fn outcome(
    State(gateway): State<Gateway>,
    Names([session, command]): Names<2>,
    Params(NoParams { .. }): Params<NoParams>,
    headers: HeaderMap,
    caller: Caller,
    extract::Json(body): extract::Json<OutcomeBody>,
) -> Result<Response, Problem> {
    let request = OutcomeRequest {
        command,
        outcome: body.outcome,
        reason: reason(body.reason)?,
        attempt: extract::attempt(&headers)?,
        speaker: caller.agent().cloned(),
    };
    let done = gateway.writers.act(&session, Action::Outcome(request)).await?;
    Ok((StatusCode::CREATED, Json(json!({"ids": done.ids}))).into_response())
}
