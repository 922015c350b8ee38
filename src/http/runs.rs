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
    events::{Ended, answer_stream, append_all, events, stream},
    extract::{self, BodyKind, Names, Params},
};
use crate::{
    event::{Defaults, Head},
    hub::{Follower, Start, Update},
    id::{Lane, Name},
    ingest::Progress,
    rules::{Action, Control, EndStatus, Reply, RunRequest, RunView, run_view},
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
    let defaults = Defaults { agent: agent.clone(), run: Some(run.clone()) };
    // A body that comes whole is looked at first: a bad one starts nothing.
    let (body, whole) = match kind {
        BodyKind::Json => {
            let bytes = extract::read_whole(body, &gateway).await?;
            (Body::empty(), Some(events(&gateway, &bytes, &defaults)?))
        }
        BodyKind::Ndjson | BodyKind::Sse => (body, None),
    };
    let request = RunRequest { run: run.clone(), agent, parent, lease_ms: params.lease_ms, takeover: params.takeover };
    // From before the start, so that no stop falls in between.
    let watched = match whole {
        Some(_) => None,
        None => watch(&gateway, &session, Some(&run)).await,
    };
    let Reply::Run(view) = gateway.writers.act(&session, Action::Start(request)).await?.reply else {
        return Err(Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "a start answered with something else",
        ));
    };
    if view.ended.is_some() {
        return Ok((StatusCode::CREATED, Json(json!({"appended": 0, "last": null, "run": view}))).into_response());
    }
    let attempt = Some(view.attempt);
    let mut response = match whole {
        Some(events) => append_all(&gateway, &session, events, attempt, None).await?,
        None => {
            let mut progress = Progress::default();
            let ended = stream(&gateway, &session, kind, body, defaults, attempt, None, watched, &mut progress).await;
            let early = matches!(ended, Ok(Ended::Early)) || !progress.stopping.is_empty();
            let response = answer_stream(ended, &progress, false, true)?;
            if early {
                // Asked to stop: the agent has the grace to say a last word and end the run itself.
                return Ok(response);
            }
            response
        }
    };
    let end = Action::End { run, attempt, status: EndStatus::Completed, reason: None };
    gateway.writers.act(&session, end).await?;
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

/// A run as it is now, if it is known.
pub(super) async fn shown(gateway: &Gateway, session: &Name, run: Option<&Name>) -> Option<RunView> {
    let stat = super::sessions::stat(gateway, session).await.ok()?;
    let control = Control::read(stat.snapshot.state.as_ref()?, Default::default()).ok()?;
    run.filter(|run| control.run(run).is_some()).map(|run| run_view(&control, run, stat.snapshot.now))
}

/// A run that is followed while its agent sends.
pub(super) struct Watched {
    run: Name,
    follower: Follower,
}

/// Follows a run from now on: call it before the first append, or a stop in between would go unnoticed.
///
/// A stop may reach a run by its name, its agent, its parent or all at once, so it is the run's own events that tell.
pub(super) async fn watch(gateway: &Gateway, session: &Name, run: Option<&Name>) -> Option<Watched> {
    // Without the store there is nothing to be told; the body's own appends will find out.
    let run = run?.clone();
    let follower = gateway.hub.follow(session, Lane::Events, Start::Now).await.ok()?;
    Some(Watched { run, follower })
}

impl Watched {
    /// Resolves when the run (this attempt at it, if it is known) is asked to stop or has ended, or the session is
    /// closed.
    pub(super) async fn stopped(mut self, attempt: Option<u32>) {
        loop {
            match self.follower.next().await {
                Ok(Update::Entries(items)) if items.iter().any(|item| self.tells(&item.payload, attempt)) => return,
                Ok(Update::Closed) => return,
                Ok(_) => {}
                Err(_) => return std::future::pending().await,
            }
        }
    }

    fn tells(&self, payload: &[u8], attempt: Option<u32>) -> bool {
        #[derive(Deserialize)]
        struct Told {
            attempt: u32,
        }
        let Some(head) = Head::of(payload) else { return false };
        let about = || head.data.and_then(|data| serde_json::from_str::<Told>(data.get()).ok());
        head.run == Some(self.run.as_str())
            && matches!(head.kind, "run.stopping" | "run.ended")
            && attempt.is_none_or(|attempt| about().is_none_or(|told| told.attempt == attempt))
    }
}
