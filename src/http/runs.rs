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
    commands::{NoParams, reason},
    events::{answer_early, answer_stream, append_all, events, stream, stream_problem},
    extract::{self, BodyKind, Names, Params},
};
use crate::{
    event::Defaults,
    hub::{Follower, Start, Update},
    id::{Lane, Name},
    ingest::{Progress, Read},
    rules::{Action, EndStatus, Reply, RunRequest},
    sse::Filter,
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
            let bytes = extract::read_whole(body, &gateway).await?;
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
    let mut progress = Progress::default();
    let mut response = match whole {
        Some(events) => append_all(&gateway, &session, events, defaults.run, attempt, None, &mut progress).await?,
        None => {
            // From the first entry of the start on, or a stop right behind it would be missed.
            let since = started.ids.first().map_or(Start::Now, |first| Start::After(*first));
            let read =
                stream(&gateway, &session, &caller, kind, body, defaults, attempt, None, since, &mut progress).await;
            match read.map_err(|stopped| stream_problem(stopped, &progress))? {
                Read::Whole => answer_stream(&progress, false, true)?,
                // Asked to stop: the run goes on. Its agent may say a last word, and ends it.
                Read::Early => {
                    return answer_early(&gateway, &session, &caller, Some(run), attempt, progress, false).await;
                }
            }
        }
    };
    let end = Action::End { run, attempt, status: EndStatus::Completed, reason: None, speaker };
    let ended = gateway.writers.act(&session, end).await;
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

/// Follows the run of an endless body, from `since` on. Nothing for a body without one.
pub(super) async fn watch(
    gateway: &Gateway,
    session: &Name,
    run: Option<&Name>,
    since: Start,
) -> Option<(Follower, Filter)> {
    // A stop may reach a run by its name, its agent, its parent or all at once, so it is the run's own events that tell.
    let told = Filter {
        runs: vec![run?.as_str().to_owned()],
        types: vec!["run.stopping".into(), "run.ended".into()],
        ..Default::default()
    };
    // Without the store there is nothing to be told; the body's own appends will find out.
    let follower = gateway.hub.follow(session, Lane::Events, since).await.ok()?;
    Some((follower, told))
}

/// Resolves when a run that is watched is asked to stop or has ended.
pub(super) async fn stopped(watched: Option<(Follower, Filter)>) {
    let Some((mut follower, told)) = watched else { return std::future::pending().await };
    loop {
        match follower.next().await {
            Ok(Update::Entries(items)) if items.iter().any(|item| told.wants(item.payload())) => return,
            Ok(Update::History(page)) if page.iter().any(|entry| told.wants(&entry.payload)) => return,
            // Closed before the body came: its own appends are told, or that they are stored already.
            Ok(Update::CaughtUp(_)) if follower.at_end() => return std::future::pending().await,
            Ok(Update::Closed) => return,
            Ok(_) => {}
            Err(_) => return std::future::pending().await,
        }
    }
}
