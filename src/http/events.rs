//! `POST /v1/sessions/{session}/events`: append, from one event to an endless body.

use axum::{
    Json,
    body::Body,
    extract::{Request, State},
    http::{StatusCode, request::Parts},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    Gateway, Problem,
    auth::Caller,
    extract::{self, BodyKind, Names, Params},
    problem::producer_problem,
    watch::Watch,
};
use crate::{
    event::{Defaults, Event},
    hub::Start,
    id::{EntryId, Name},
    ingest::{self, BadBatch, BadStream, Ingest, Progress, Read, Reading, Splitter, Stopped},
    metrics::Cut,
    rules::{Action, Append, Refusal, Reply, RunView},
    store::{Producer, StoreError},
    writer::WriteError,
};

/// `?agent=&run=`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppendParams {
    agent: Option<String>,
    run: Option<String>,
    /// Looked at before; here only so that it is no unknown parameter.
    #[serde(rename = "access_token")]
    _access_token: Option<String>,
}

/// `POST …/events`
pub async fn append(
    State(gateway): State<Gateway>,
    Names([session]): Names<1>,
    Params(params): Params<AppendParams>,
    caller: Caller,
    request: Request,
) -> Result<Response, Problem> {
    let defaults = Defaults {
        agent: caller.speaks_as(extract::name("agent", params.agent.as_deref())?)?,
        run: extract::name("run", params.run.as_deref())?,
        bound: caller.agent().is_some(),
    };
    // Taken apart: as an extractor, the headers would be a clone.
    let (kind, producer, attempt, body) = {
        let (Parts { headers, .. }, body) = request.into_parts();
        (extract::body_kind(&headers)?, extract::producer(&headers)?, extract::attempt(&headers)?, body)
    };
    let publication =
        Publication { gateway: &gateway, session: &session, caller: &caller, defaults, attempt, producer };
    match kind {
        BodyKind::Json => {
            let events = events(&gateway, &extract::read_whole(body, &gateway.limits).await?, &publication.defaults)?;
            caller.appends(events.len());
            publication.append(events, &mut Progress::default()).await
        }
        BodyKind::Ndjson | BodyKind::Sse => {
            let mut progress = Progress::default();
            // In a box: a single event, which most requests are, need not make room for it (7 KB).
            let read = Box::pin(publication.stream(kind, body, Start::Now, &mut progress)).await;
            match read.map_err(|stopped| stream_problem(stopped, &progress))? {
                Read::Whole => answer_stream(&progress, publication.producer.is_some(), false),
                Read::Early => publication.answer_early(progress).await,
            }
        }
    }
}

/// The events of a JSON body.
pub(super) fn events(gateway: &Gateway, body: &[u8], defaults: &Defaults) -> Result<Vec<Event>, Problem> {
    let limits = &gateway.limits;
    Ok(ingest::events(extract::text(body)?, defaults, limits.event_bytes, limits.batch_events)?)
}

/// Where the events of a request go, and in whose name.
pub(super) struct Publication<'a> {
    pub gateway: &'a Gateway,
    pub session: &'a Name,
    pub caller: &'a Caller,
    pub defaults: Defaults,
    pub attempt: Option<u32>,
    pub producer: Option<Producer>,
}

impl Publication<'_> {
    /// Appends the events of a JSON body, all or none.
    pub async fn append(self, events: Vec<Event>, progress: &mut Progress) -> Result<Response, Problem> {
        let Publication { gateway, session, defaults, attempt, producer, .. } = self;
        let received = producer.as_ref().map(|producer| producer.seq);
        let action = Action::Append(Append { events, run: defaults.run, attempt, producer });
        let done = gateway.writers.act(session, action).await.map_err(|error| write_problem(error, received))?;
        (progress.appended, progress.last) = (done.ids.len(), done.ids.last().copied());
        let stopping = match &done.reply {
            Reply::Appended(stopping) => &stopping[..],
            _ => &[],
        };
        let more = More::new(done.skipped, done.duplicate, stopping);
        Ok(answer(Appended { ids: &done.ids, more }, done.duplicate))
    }

    /// Appends a streaming body as it comes, until it ends, is refused, or its run is asked to stop (after `since`, in the
    /// events lane) or the replica to end.
    pub async fn stream(
        &self,
        kind: BodyKind,
        mut body: Body,
        since: Start,
        progress: &mut Progress,
    ) -> Result<Read, Stopped> {
        let Publication { gateway, session, caller, defaults, attempt, producer } = self;
        let event_bytes = gateway.limits.event_bytes;
        let splitter = if kind == BodyKind::Sse { Splitter::sse(event_bytes) } else { Splitter::lines() };
        // Before anything is read: a stop that comes with the first line must not go unnoticed.
        let watch = match &defaults.run {
            Some(run) => Some(Watch::begin(gateway, session, run, *attempt, since).await),
            None => None,
        };
        let stopped = async {
            match watch {
                Some(watch) => watch.stopped().await,
                None => std::future::pending().await,
            }
        };
        let mut ingest = Ingest {
            writers: gateway.writers.clone(),
            session: (*session).clone(),
            reading: Reading { defaults: defaults.clone(), event_bytes },
            attempt: *attempt,
            producer: producer.clone(),
            timeout: gateway.limits.body_timeout,
            account: caller.account(),
            prepaid: 1,
        };
        let turn = gateway.ending.turn();
        let until = async {
            tokio::select! {
                stopped = stopped => stopped,
                // No success: the client has to send the rest elsewhere.
                why = turn => Err(match why {
                    // (A token's end breaks the body itself.)
                    Cut::Draining | Cut::Token => Stopped::Draining,
                    Cut::Store => {
                        WriteError::from(StoreError::Unavailable("it has been away for too long".into())).into()
                    }
                }),
            }
        };
        ingest.run(&mut body, splitter, until, progress).await
    }

    /// The answer to a streaming body before its end: the agent learns where its run stands.
    pub async fn answer_early(&self, mut progress: Progress) -> Result<Response, Problem> {
        let Publication { gateway, session, caller, defaults, attempt, producer } = self;
        if let Some(run) = defaults.run.clone() {
            let heartbeat = Action::Heartbeat { run, attempt: *attempt, speaker: caller.agent().cloned() };
            match gateway.writers.go_on(session, heartbeat, progress.wrote).await.map(|done| done.reply) {
                Ok(Reply::Run(view)) => progress.stopping = vec![view],
                // A label.
                Err(WriteError::Refused(Refusal::UnknownRun(_))) if attempt.is_none() => {}
                Err(error) => return Err(stream_problem(error.into(), &progress)),
                Ok(_) => {}
            }
        }
        answer_stream(&progress, producer.is_some(), true)
    }
}

/// The answer to an append.
#[derive(Serialize)]
struct Appended<'a> {
    ids: &'a [EntryId],
    #[serde(flatten)]
    more: More<'a>,
}

/// The answer to a streaming body.
#[derive(Serialize)]
struct Streamed<'a> {
    appended: usize,
    last: Option<EntryId>,
    #[serde(flatten)]
    more: More<'a>,
}

/// What either answer says where there is something to say. An agent without a command subscription learns here that it is to
/// stop.
#[derive(Serialize)]
struct More<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    skipped: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    duplicate: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    run: Option<&'a RunView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    runs: Option<&'a [RunView]>,
}

impl<'a> More<'a> {
    fn new(skipped: usize, duplicate: bool, stopping: &'a [RunView]) -> Self {
        More {
            skipped: Some(skipped).filter(|skipped| *skipped > 0),
            duplicate: Some(true).filter(|_| duplicate),
            run: stopping.first(),
            runs: Some(stopping).filter(|stopping| stopping.len() > 1),
        }
    }
}

/// Nothing is new where all of it was there before.
fn answer(answer: impl Serialize, duplicate: bool) -> Response {
    let status = if duplicate { StatusCode::OK } else { StatusCode::CREATED };
    (status, Json(answer)).into_response()
}

/// The answer to a streaming body that was read to where it should be.
pub(super) fn answer_stream(progress: &Progress, numbered: bool, may_be_empty: bool) -> Result<Response, Problem> {
    if progress.appended == 0 && progress.skipped == 0 && !may_be_empty {
        return Err(Problem::bad_request("empty_batch", "the body carries no events"));
    }
    let duplicate = progress.appended == 0 && progress.skipped > 0;
    let more = More::new(if numbered { progress.skipped } else { 0 }, duplicate, &progress.stopping);
    Ok(answer(Streamed { appended: progress.appended, last: progress.last, more }, duplicate))
}

/// Why a streaming body was given up, and how far it had come.
pub(super) fn stream_problem(stopped: Stopped, progress: &Progress) -> Problem {
    let problem = match stopped {
        Stopped::Bad(BadStream::Line { line, bad }) => {
            let problem = Problem::from(bad);
            Problem { detail: format!("line {line}: {}", problem.detail), ..problem }.with("line", line)
        }
        Stopped::Bad(BadStream::Utf8 { line }) => {
            Problem::bad_request("bad_utf8", format!("line {line} is not valid UTF-8")).with("line", line)
        }
        Stopped::Bad(BadStream::Event(bad)) => bad.into(),
        Stopped::Bad(BadStream::Decode(error)) => error.into(),
        Stopped::Write { error, received } => write_problem(error, received),
        Stopped::Broken(error) => extract::broken(&error),
        Stopped::TimedOut => extract::timed_out(),
        Stopped::Draining => Problem::draining(),
    };
    // What came before is in the log: the client can go on from there.
    problem.with("appended", progress.appended).with("last", json!(progress.last))
}

/// The answer to a refused append. `received`: the number of its first event, if it has a producer.
fn write_problem(error: WriteError, received: Option<u64>) -> Problem {
    match error {
        WriteError::Producer(refused) => producer_problem(&refused, received),
        other => other.into(),
    }
}

impl From<BadBatch> for Problem {
    fn from(bad: BadBatch) -> Self {
        let detail = bad.to_string();
        match bad {
            BadBatch::Empty => Problem::bad_request("empty_batch", detail),
            BadBatch::TooMany { most, .. } => {
                Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "batch_too_large", detail).with("limit", most)
            }
            BadBatch::Event(bad) => bad.into(),
            BadBatch::InArray { at, bad } => {
                let problem = Problem::from(bad);
                Problem { detail: format!("element {at}: {}", problem.detail), ..problem }.with("element", at)
            }
        }
    }
}
