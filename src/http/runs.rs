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
    commands::{NoParams, reason},
    events::{answer_early, answer_stream, append_json, stream, stream_problem},
    extract::{self, BodyKind, Names, Params},
};
use crate::{
    event::Defaults,
    hub::{Start, Update},
    id::{Lane, Name},
    ingest::{Progress, Read, Stopped},
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
    extract::Json(body): extract::Json<StartBody>,
) -> Result<Response, Problem> {
    let StartBody { run, agent, parent, lease_ms, takeover } = body;
    let request = RunRequest { run, agent, parent, lease_ms, takeover };
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
    body: Body,
) -> Result<Response, Problem> {
    let kind = extract::body_kind(&headers)?;
    if extract::producer(&headers)?.is_some() {
        let detail = "a run that is a body can't be sent twice; start it with POST …/runs and append with a producer";
        return Err(Problem::bad_request("bad_producer", detail));
    }
    let agent = extract::name("agent", params.agent.as_deref())?;
    let parent = extract::name("parent", params.parent.as_deref())?;
    let request = RunRequest {
        run: run.clone(),
        agent: agent.clone(),
        parent,
        lease_ms: params.lease_ms,
        takeover: params.takeover,
    };
    let started = gateway.writers.act(&session, Action::Start(request)).await?;
    let Reply::Run(view) = started.reply else {
        let detail = "a start answered with something else";
        return Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail));
    };
    if view.ended.is_some() {
        extract::drain(body);
        return Ok((StatusCode::CREATED, Json(json!({"appended": 0, "last": null, "run": view}))).into_response());
    }
    let defaults = Defaults { agent, run: Some(run.clone()) };
    let attempt = Some(view.attempt);
    let mut progress = Progress::default();
    let mut response = match kind {
        BodyKind::Json => {
            let whole = extract::read_whole(body, &gateway).await?;
            append_json(&gateway, session.clone(), &whole, &defaults, attempt, None).await?
        }
        BodyKind::Ndjson | BodyKind::Sse => {
            // From the first entry of the start on, or a stop right behind it would be missed.
            let since = started.ids.first().map_or(Start::Now, |first| Start::After(*first));
            let read = stream(&gateway, &session, kind, body, defaults, attempt, None, since, &mut progress).await;
            match read.map_err(|stopped| stream_problem(stopped, &progress))? {
                Read::Whole => answer_stream(&progress, false, true)?,
                // Asked to stop, or the replica ends: the run goes on. Its agent may say a last word, and ends it.
                Read::Early => return answer_early(&gateway, &session, Some(run), attempt, progress, false).await,
            }
        }
    };
    let end = Action::End { run, attempt, status: EndStatus::Completed, reason: None };
    let ended = gateway.writers.act(&session, end).await;
    ended.map_err(|error| stream_problem(Stopped::Write(error), &progress))?;
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
    extract::Json(body): extract::Json<EndBody>,
) -> Result<Response, Problem> {
    let status = match body.status {
        EndWord::Completed => EndStatus::Completed,
        EndWord::Failed => EndStatus::Failed,
        EndWord::Cancelled => EndStatus::Cancelled,
    };
    let attempt = body.attempt.or(extract::attempt(&headers)?);
    let end = Action::End { run, attempt, status, reason: reason(body.reason)? };
    answer(StatusCode::OK, gateway.writers.act(&session, end).await?.reply)
}

/// `POST …/runs/{run}/heartbeat`
pub async fn heartbeat(
    State(gateway): State<Gateway>,
    Names([session, run]): Names<2>,
    Params(NoParams { .. }): Params<NoParams>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let heartbeat = Action::Heartbeat { run, attempt: extract::attempt(&headers)? };
    answer(StatusCode::OK, gateway.writers.act(&session, heartbeat).await?.reply)
}

fn answer(status: StatusCode, reply: Reply) -> Result<Response, Problem> {
    match reply {
        Reply::Run(view) => Ok((status, Json(view)).into_response()),
        _ => Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "a run answered with something else")),
    }
}

/// Resolves when the run of an endless body is asked to stop or has ended, after `since`; never for a body without one.
///
/// A stop may reach a run by its name, its agent, its parent or all at once, so it is the run's own events that tell.
pub(super) async fn stopped(gateway: Gateway, session: Name, run: Option<Name>, since: Start) {
    let Some(run) = run else { return std::future::pending().await };
    let wanted = crate::sse::Filter {
        runs: vec![run.as_str().to_owned()],
        types: vec!["run.stopping".into(), "run.ended".into()],
        ..Default::default()
    };
    // Without the store there is nothing to be told; the body's own appends will find out.
    let Ok(mut follower) = gateway.hub.follow(&session, Lane::Events, since).await else {
        return std::future::pending().await;
    };
    loop {
        match follower.next().await {
            Ok(Update::Entries(items)) if items.iter().any(|item| wanted.wants(&item.payload)) => return,
            Ok(Update::Closed) => return,
            Ok(_) => {}
            Err(_) => return std::future::pending().await,
        }
    }
}
