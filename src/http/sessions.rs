//! `…/sessions/{session}`: show, close, erase; and where a producer stands.

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value, json};

use super::{
    Gateway, Problem,
    extract::{Names, NoParams, Params},
};
use crate::{
    id::{Lane, Ms, Name},
    rules::{Action, ApprovalStatus, CommandStatus, Control, Refusal, run_view},
    store::{Extent, Stat, State as SessionState},
    writer::WriteError,
};

/// How often a session is looked at for one answer.
const LOOKS: usize = 8;

/// A session as it is now: what is due has been judged.
pub(super) struct Current {
    now: Ms,
    pub(super) lanes: [Extent; 2],
    pub(super) state: SessionState,
    pub(super) control: Control,
}

pub(super) async fn current(gateway: &Gateway, session: &Name) -> Result<Current, Problem> {
    let look = async || {
        let unknown = || Problem::unknown_session(session);
        let Stat { snapshot, lanes } = gateway.store.stat(session).await?.ok_or_else(unknown)?;
        let state = snapshot.state.ok_or_else(unknown)?;
        let control = Control::read(&state, Default::default())?;
        Ok::<_, Problem>(Current { now: snapshot.now, lanes, state, control })
    };
    // More comes due while what was due is judged; not without end.
    for _ in 0..LOOKS {
        let mut current = look().await?;
        if current.control.next_due().is_none_or(|(at, _)| at > current.now) {
            return Ok(current);
        }
        gateway.writers.act(session, Action::Tick).await?;
    }
    look().await
}

/// `GET /v1/sessions/{session}`
pub async fn show(
    State(gateway): State<Gateway>,
    Names([session]): Names<1>,
    Params(NoParams { .. }): Params<NoParams>,
) -> Result<Response, Problem> {
    let Current { now, lanes, state, control } = current(&gateway, &session).await?;
    let lanes: Map<String, Value> = Lane::ALL
        .into_iter()
        .map(|lane| {
            let extent = lanes[lane.index()];
            let count = extent.first.map_or(0, |first| extent.last.n + 1 - first.n);
            let last = extent.first.map(|_| extent.last);
            (lane.as_str().to_owned(), json!({"first": extent.first, "last": last, "count": count}))
        })
        .collect();
    let runs: Vec<_> = control.runs().map(|(name, _)| run_view(&control, name, now)).collect();
    let commands: Vec<_> = control
        .commands()
        .filter(|(_, command)| command.status == CommandStatus::Pending)
        .map(|(id, command)| {
            json!({
                "command": id, "type": command.kind, "agent": command.agent, "run": command.run,
                "entry": command.entry, "issued": command.at, "expires": command.expires,
            })
        })
        .collect();
    let approvals: Vec<_> = control
        .approvals()
        .filter(|(_, approval)| approval.status == ApprovalStatus::Pending)
        .map(|(id, approval)| {
            json!({
                "approval": id, "agent": approval.agent, "run": approval.run,
                "expires": approval.expires, "on_expiry": approval.on_expiry,
            })
        })
        .collect();
    let body = json!({
        "session": session, "created": state.created, "now": now, "closed": state.closed, "lanes": lanes,
        "runs": runs, "pending_commands": commands, "pending_approvals": approvals,
    });
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(body)).into_response())
}

/// `POST …/close`
pub async fn close(
    State(gateway): State<Gateway>,
    Names([session]): Names<1>,
    Params(NoParams { .. }): Params<NoParams>,
) -> Result<Response, Problem> {
    match gateway.writers.act(&session, Action::Close).await {
        Err(WriteError::Refused(Refusal::UnknownSession)) => return Err(Problem::unknown_session(&session)),
        closed => closed?,
    };
    Ok(Json(json!({"session": session, "closed": true})).into_response())
}

/// `DELETE /v1/sessions/{session}`
pub async fn delete(
    State(gateway): State<Gateway>,
    Names([session]): Names<1>,
    Params(NoParams { .. }): Params<NoParams>,
) -> Result<Response, Problem> {
    if !gateway.store.delete(&session).await? {
        return Err(Problem::unknown_session(&session));
    }
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// `GET …/producers/{producer}`
pub async fn producer(
    State(gateway): State<Gateway>,
    Names([session, producer]): Names<2>,
    Params(NoParams { .. }): Params<NoParams>,
) -> Result<Response, Problem> {
    let state = gateway.store.producer(&session, &producer).await?.ok_or_else(|| {
        let detail = format!("the session does not know the producer {producer:?}; its first event has the number 0");
        Problem::new(StatusCode::NOT_FOUND, "unknown_producer", detail)
    })?;
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(state)).into_response())
}
