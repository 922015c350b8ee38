//! `…/runs`: start, stream, end and keep alive a piece of work.

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::json;

use super::{
    Gateway, Problem,
    auth::Caller,
    events::{Publication, answer_stream, events, stream_problem},
    extract::{self, BodyKind, Names, NoParams, Params, reason},
};
use crate::{
    event::Defaults,
    hub::Start,
    id::Name,
    ingest::{Progress, Read},
    rules::{Action, EndStatus, Reply, RunRequest},
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartBody {
    run: Name,
    agent: Option<Name>,
    parent: Option<Name>,
    lease_ms: Option<i64>,
    #[serde(default)]
    takeover: bool,
}

/// `POST …/runs`
pub async fn start(
    State(gateway): State<Gateway>,
    Names([session]): Names<1>,
    Params(NoParams { .. }): Params<NoParams>,
    caller: Caller,
    extract::Json(body): extract::Json<StartBody>,
) -> Result<Response, Problem> {
    let StartBody { run, agent, parent, lease_ms, takeover } = body;
    let agent = caller.speaks_as(agent)?;
    let request = RunRequest { run, agent, parent, lease_ms, takeover, speaker: caller.agent().cloned() };
    let done = gateway.writers.act(&session, Action::Start(request)).await?;
    answer(StatusCode::CREATED, done.reply)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BodyParams {
    agent: Option<String>,
    parent: Option<String>,
    lease_ms: Option<i64>,
    #[serde(default)]
    takeover: bool,
    #[serde(rename = "access_token")]
    _access_token: Option<String>,
}

/// `PUT …/runs/{run}`: the run *is* this body.
pub async fn body(
    State(gateway): State<Gateway>,
    Names([session, run]): Names<2>,
    Params(params): Params<BodyParams>,
    headers: HeaderMap,
    caller: Caller,
    body: Body,
) -> Result<Response, Problem> {
    let kind = extract::body_kind(&headers)?;
    if extract::producer(&headers)?.is_some() {
        let detail = "a run that is a body can't be sent twice; start it with POST …/runs and append with a producer";
        return Err(Problem::bad_request("bad_producer", detail));
    }
    let agent = caller.speaks_as(extract::name("agent", params.agent.as_deref())?)?;
    let speaker = caller.agent().cloned();
    let parent = extract::name("parent", params.parent.as_deref())?;
    let defaults = Defaults { agent: agent.clone(), run: Some(run.clone()), bound: speaker.is_some() };
    // A body that comes whole is looked at first: a bad one starts nothing.
    let (body, whole) = match kind {
        BodyKind::Json => {
            let bytes = extract::read_whole(body, &gateway.limits).await?;
            let events = events(&gateway, &bytes, &defaults)?;
            caller.appends(events.len());
            (Body::empty(), Some(events))
        }
        BodyKind::Ndjson | BodyKind::Sse => (body, None),
    };
    let request = RunRequest {
        run: run.clone(),
        agent,
        parent,
        lease_ms: params.lease_ms,
        takeover: params.takeover,
        speaker: speaker.clone(),
    };
    let started = gateway.writers.act(&session, Action::Start(request)).await?;
    let Reply::Run(view) = started.reply else {
        let detail = "a start answered with something else";
        return Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail));
    };
    if view.ended.is_some() {
        return Ok((StatusCode::CREATED, Json(json!({"appended": 0, "last": null, "run": view}))).into_response());
    }
    let attempt = Some(view.attempt);
    let publication =
        Publication { gateway: &gateway, session: &session, caller: &caller, defaults, attempt, producer: None };
    let mut progress = Progress { wrote: started.ids.first().map(|id| id.ms), ..Progress::default() };
    let mut response = match whole {
        Some(events) => publication.append(events, &mut progress).await?,
        None => {
            // From the first entry of the start on, or a stop right behind it would be missed.
            let since = started.ids.first().map_or(Start::Now, |first| Start::After(*first));
            let read = publication.stream(kind, body, since, &mut progress).await;
            match read.map_err(|stopped| stream_problem(stopped, &progress))? {
                Read::Whole => answer_stream(&progress, false, true)?,
                // Asked to stop: the run goes on. Its agent may say a last word, and ends it.
                Read::Early => return publication.answer_early(progress).await,
            }
        }
    };
    let end = Action::End { run, attempt, status: EndStatus::Completed, reason: None, speaker };
    let ended = gateway.writers.go_on(&session, end, progress.wrote).await;
    ended.map_err(|error| stream_problem(error.into(), &progress))?;
    *response.status_mut() = StatusCode::CREATED;
    Ok(response)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndBody {
    status: EndWord,
    reason: Option<String>,
    attempt: Option<u32>,
}

/// How an agent may say that a run ended; only the gateway calls one lost.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum EndWord {
    Completed,
    Failed,
    Cancelled,
}

/// `POST …/runs/{run}/end`
pub async fn end(
    State(gateway): State<Gateway>,
    Names([session, run]): Names<2>,
    Params(NoParams { .. }): Params<NoParams>,
    headers: HeaderMap,
    caller: Caller,
    extract::Json(body): extract::Json<EndBody>,
) -> Result<Response, Problem> {
    let status = match body.status {
        EndWord::Completed => EndStatus::Completed,
        EndWord::Failed => EndStatus::Failed,
        EndWord::Cancelled => EndStatus::Cancelled,
    };
    let attempt = body.attempt.or(extract::attempt(&headers)?);
    let end = Action::End { run, attempt, status, reason: reason(body.reason)?, speaker: caller.agent().cloned() };
    answer(StatusCode::OK, gateway.writers.act(&session, end).await?.reply)
}

/// `POST …/runs/{run}/heartbeat`
pub async fn heartbeat(
    State(gateway): State<Gateway>,
    Names([session, run]): Names<2>,
    Params(NoParams { .. }): Params<NoParams>,
    headers: HeaderMap,
    caller: Caller,
) -> Result<Response, Problem> {
    let (attempt, speaker) = (extract::attempt(&headers)?, caller.agent().cloned());
    let heartbeat = Action::Heartbeat { run, attempt, speaker };
    answer(StatusCode::OK, gateway.writers.act(&session, heartbeat).await?.reply)
}

fn answer(status: StatusCode, reply: Reply) -> Result<Response, Problem> {
    match reply {
        Reply::Run(view) => Ok((status, Json(view)).into_response()),
        _ => Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "a run answered with something else")),
    }
}
