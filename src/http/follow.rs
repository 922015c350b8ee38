//! `GET …/events` and `GET …/commands`: a lane as a stream of server-sent events, or a page of it as JSON.

use std::{
    collections::BTreeSet,
    ops::Bound::{Excluded, Unbounded},
};

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    Gateway, Problem,
    auth::Caller,
    extract::{self, Names, Params},
    sessions::{self, Current},
    stream::Handover,
};
use crate::{
    event::usable_type,
    hub::Start,
    id::{EntryId, Lane, Name},
    metrics::METRICS,
    rules::CommandStatus,
    sse::{Filter, Format, Stream},
    store::{self, Entry, Extent, ReadFrom},
};

const LIMIT_DEFAULT: usize = 100;
const LIMIT_MAX: usize = 1000;
/// Entries looked at for one page: a filter that matches little must not read the whole log in one request.
const SCAN_MAX: usize = 10_000;
/// … nor, where entries are large, all of Redis's time.
const SCAN_BYTES: usize = 16 * 1024 * 1024;
/// Names, or types, in one list of a filter: each entry is held against them, for each stream.
const FILTER_MAX: usize = 100;
/// Entries of one read of the store for a page: it holds them all in memory.
const SCAN_STEP: usize = 1000;
/// Payload bytes after which a page ends although it has fewer entries than were asked for. Reads of the store bring about
/// as many.
const PAGE_BYTES: usize = 4 * 1024 * 1024;

/// The query of a lane.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LaneParams {
    after: Option<String>,
    from: Option<String>,
    agent: Option<String>,
    run: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    format: Option<String>,
    limit: Option<String>,
    pending: Option<String>,
    #[serde(rename = "access_token")]
    _access_token: Option<String>,
}

/// `GET …/events`
pub async fn events(
    State(gateway): State<Gateway>,
    Names([session]): Names<1>,
    Params(params): Params<LaneParams>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    if params.pending.is_some() {
        return Err(Problem::bad_request("bad_query", "pending is for commands"));
    }
    lane(&gateway, session, Lane::Events, &params, &headers).await
}

/// `GET …/commands`
pub async fn commands(
    State(gateway): State<Gateway>,
    Names([session]): Names<1>,
    Params(mut params): Params<LaneParams>,
    headers: HeaderMap,
    caller: Caller,
) -> Result<Response, Problem> {
    params.only_for(&caller)?;
    match params.pending.as_deref() {
        Some("true") => pending(&gateway, session, &params).await,
        None | Some("false") => lane(&gateway, session, Lane::Commands, &params, &headers).await,
        Some(other) => Err(Problem::bad_request("bad_query", format!("pending is true or false, not {other:?}"))),
    }
}

async fn lane(
    gateway: &Gateway,
    session: Name,
    lane: Lane,
    params: &LaneParams,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let filter = params.filter(lane)?;
    match accepted(headers)? {
        Accepted::Sse => stream(gateway, session, lane, params, filter, headers).await,
        Accepted::Json => page(gateway, session, lane, params, &filter).await,
    }
}

enum Accepted {
    Sse,
    Json,
}

/// Whether a request is answered with a stream.
pub(super) fn wants_stream(headers: &HeaderMap) -> bool {
    matches!(accepted(headers), Ok(Accepted::Sse))
}

fn accepted(headers: &HeaderMap) -> Result<Accepted, Problem> {
    let asked = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let asked: Vec<_> = asked.flat_map(|list| list.split(',')).filter(|item| !item.trim().is_empty()).collect();
    let accept: Vec<_> = asked.iter().filter_map(|item| media_range(item)).collect();
    let any = |ranges: &[&str]| accept.iter().any(|range| ranges.contains(&range.as_str()));
    if any(&["text/event-stream", "text/*"]) {
        Ok(Accepted::Sse)
    } else if asked.is_empty() || any(&["application/json", "application/*", "*/*"]) {
        Ok(Accepted::Json)
    } else {
        let detail = "this resource is text/event-stream or application/json; ask for one of them in Accept";
        Err(Problem::new(StatusCode::NOT_ACCEPTABLE, "not_acceptable", detail))
    }
}

/// A range of media types that an item of `Accept` wants; `None` if it rejects it.
fn media_range(item: &str) -> Option<String> {
    let mut parts = item.split(';').map(|part| part.trim().to_ascii_lowercase());
    let range = parts.next()?;
    let rejected = |part: String| part.strip_prefix("q=").is_some_and(|weight| weight.parse() == Ok(0.0));
    (!parts.any(rejected)).then_some(range)
}

impl LaneParams {
    /// Keeps a caller to what it may see of the commands: those for its agent.
    fn only_for(&mut self, caller: &Caller) -> Result<(), Problem> {
        let Some(own) = caller.sees_only() else { return Ok(()) };
        match self.agent.as_deref() {
            Some(asked) if asked != own.as_str() => {
                let detail =
                    format!("the token is for the agent {own:?} and can't read; it sees that agent's commands only");
                Err(Problem::wrong_agent(detail))
            }
            _ => {
                self.agent = Some(own.as_str().to_owned());
                Ok(())
            }
        }
    }

    fn filter(&self, lane: Lane) -> Result<Filter, Problem> {
        for (what, list) in [("agent", &self.agent), ("run", &self.run), ("type", &self.kind)] {
            let items = list.as_ref().map_or(0, |list| list.split(',').count());
            if items > FILTER_MAX {
                let detail = format!("{what} lists {items}; a filter takes at most {FILTER_MAX} of each");
                return Err(Problem::bad_request("bad_query", detail));
            }
        }
        let names = |what: &str, list: &Option<String>| -> Result<Vec<String>, Problem> {
            let list = list.iter().flat_map(|list| list.split(','));
            list.map(|text| match text.parse::<Name>() {
                Ok(name) => Ok(name.as_str().to_owned()),
                Err(why) => Err(Problem::bad_name(what, text, &why)),
            })
            .collect()
        };
        let types = self.kind.iter().flat_map(|list| list.split(','));
        let types = types.map(|text| {
            let usable = usable_type(text).then(|| text.to_owned());
            usable.ok_or_else(|| Problem::bad_request("bad_type", format!("{text:?} is no usable type to filter by")))
        });
        Ok(Filter {
            agents: names("agent", &self.agent)?,
            runs: names("run", &self.run)?,
            types: types.collect::<Result<_, _>>()?,
            unaddressed: lane == Lane::Commands,
        })
    }

    fn format(&self) -> Result<Format, Problem> {
        match self.format.as_deref() {
            None | Some("event") => Ok(Format::Event),
            Some("data") => Ok(Format::Data),
            Some(other) => Err(Problem::bad_request("bad_query", format!("format is event or data, not {other:?}"))),
        }
    }

    fn after(&self) -> Result<Option<EntryId>, Problem> {
        let parse = |text: &String| {
            let bad = |e: crate::id::BadEntryId| Problem::bad_request("bad_cursor", format!("after={text:?}: {e}"));
            text.parse().map_err(bad)
        };
        self.after.as_ref().map(parse).transpose()
    }

    fn begins_now(&self) -> Result<bool, Problem> {
        match self.from.as_deref() {
            None | Some("start") => Ok(false),
            Some("now") => Ok(true),
            Some(other) => Err(Problem::bad_request("bad_query", format!("from is start or now, not {other:?}"))),
        }
    }

    /// Where a stream begins: the header of a client that reconnects goes before the query it first came with.
    fn start(&self, headers: &HeaderMap) -> Result<Start, Problem> {
        let (after, from_now) = (self.after()?, self.begins_now()?);
        // EventSource sends no header, or an empty one, while it has no id.
        let last = headers.get("last-event-id").filter(|value| !value.is_empty());
        Ok(match (last, after) {
            // An error would end an EventSource for good; a reset tells it where it stands.
            (Some(last), _) => last.to_str().ok().and_then(|t| t.parse().ok()).map_or(Start::Lost, Start::After),
            (None, Some(after)) => Start::After(after),
            (None, None) if from_now => Start::Now,
            (None, None) => Start::Beginning,
        })
    }
}

async fn stream(
    gateway: &Gateway,
    session: Name,
    lane: Lane,
    params: &LaneParams,
    filter: Filter,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let (start, format) = (params.start(headers)?, params.format()?);
    if params.limit.is_some() {
        return Err(Problem::bad_request("bad_query", "limit is for JSON pages; a stream has no end of its own"));
    }
    // Before the question, or an order to drain could fall in between.
    let turn = gateway.ending.turn();
    if gateway.ending.is_draining() {
        return Err(Problem::draining());
    }
    let follower = gateway.hub.follow(&session, lane, start).await?;
    let resumed = matches!(start, Start::After(_));
    let stream = Stream::open(follower, filter, format, start == Start::Now, resumed).await?;
    let Some(stream) = stream else { return Ok(StatusCode::NO_CONTENT.into_response()) };
    // Cut, not ended: a clean end would tell clients that the session is over.
    let open = METRICS.streams.hold();
    let cut = async move {
        let _open = open;
        METRICS.cut(turn.await);
    };
    Ok(Handover::answer(stream, Box::pin(cut)))
}

async fn page(
    gateway: &Gateway,
    session: Name,
    lane: Lane,
    params: &LaneParams,
    filter: &Filter,
) -> Result<Response, Problem> {
    let limit = match params.limit.as_deref() {
        None => LIMIT_DEFAULT,
        Some(text) => extract::whole(text).filter(|limit| (1..=LIMIT_MAX).contains(limit)).ok_or_else(|| {
            Problem::bad_request("bad_query", format!("limit is a whole number from 1 to {LIMIT_MAX}, not {text:?}"))
        })?,
    };
    if params.format()? != Format::Event {
        return Err(Problem::bad_request("bad_query", "format=data is for streams; a page carries whole events"));
    }
    let mut from = match (params.after()?, params.begins_now()?) {
        (Some(after), _) => ReadFrom::After(after),
        (None, true) => {
            let page = gateway.store.read(&session, lane, ReadFrom::Latest, 1).await?;
            if !page.exists {
                return Err(Problem::unknown_session(&session));
            }
            let Extent { last, .. } = page.extent;
            return Ok(Page { events: Vec::new(), next: last, up_to_date: true, closed: page.closed }.into_response());
        }
        (None, false) => ReadFrom::Start,
    };
    let (mut events, mut scanned, mut looked_at, mut bytes, mut size) = (Vec::new(), 0, 0, 0, None);
    let (next, up_to_date, closed) = loop {
        let most = if filter.wants_all() { limit - events.len() } else { SCAN_STEP };
        let page = gateway.store.read(&session, lane, from, store::limit(size, PAGE_BYTES, most)).await?;
        if !page.exists && page.lost.is_none() {
            return Err(Problem::unknown_session(&session));
        }
        if let Some(reason) = page.lost {
            return Err(Problem::cursor_lost(reason, page.extent.first));
        }
        let (mut next, mut up_to_date) = (page.next(from), page.up_to_date(from));
        size = page.entry_size().or(size);
        scanned += page.entries.len();
        looked_at += page.entries.iter().map(|entry| entry.payload.len()).sum::<usize>();
        for (at, entry) in page.entries.iter().enumerate() {
            if filter.wants(&entry.payload) {
                events.push(with_id(entry)?);
                bytes += entry.payload.len();
            }
            if (events.len() == limit || bytes >= PAGE_BYTES) && at + 1 < page.entries.len() {
                (next, up_to_date) = (entry.id, false);
                break;
            }
        }
        let full = events.len() == limit || bytes >= PAGE_BYTES;
        if up_to_date || full || scanned >= SCAN_MAX || looked_at >= SCAN_BYTES {
            break (next, up_to_date, page.closed);
        }
        from = ReadFrom::After(next);
    };
    Ok(Page { events, next, up_to_date, closed }.into_response())
}

/// A page of a lane. Its entries stand in it as they stand in the log.
#[derive(Serialize)]
struct Page {
    events: Vec<Box<RawValue>>,
    next: EntryId,
    up_to_date: bool,
    closed: bool,
}

impl IntoResponse for Page {
    fn into_response(self) -> Response {
        ([(header::CACHE_CONTROL, "no-store")], axum::Json(self)).into_response()
    }
}

/// An entry as pages show it: its payload, with its id first.
fn with_id(entry: &Entry) -> Result<Box<RawValue>, Problem> {
    let payload = std::str::from_utf8(&entry.payload).unwrap_or_default();
    let raw = format!("{{\"id\":\"{}\",{}", entry.id, payload.strip_prefix('{').unwrap_or("}"));
    RawValue::from_string(raw).map_err(|_| {
        let detail = format!("the entry {} was not written by a gateway and can't be shown", entry.id);
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "store_fault", detail)
    })
}

/// `GET …/commands?pending=true`: the commands without an outcome, as they stand in the lane.
async fn pending(gateway: &Gateway, session: Name, params: &LaneParams) -> Result<Response, Problem> {
    let filter = params.filter(Lane::Commands)?;
    let after = params.after()?.unwrap_or(EntryId::ZERO);
    let Current { lanes, state, control, .. } = sessions::current(gateway, &session).await?;
    let pending = control.commands().filter(|(_, command)| command.status == CommandStatus::Pending);
    let entries: BTreeSet<EntryId> =
        pending.filter_map(|(_, command)| command.entry).filter(|entry| *entry > after).collect();
    let (mut events, mut bytes, mut size, mut next) = (Vec::new(), 0, None, after);
    // As mostly at an agent's start, there are none: then the lane need not be read.
    while let Some(first) = entries.range((Excluded(next), Unbounded)).next().filter(|_| bytes < PAGE_BYTES) {
        let (from, step) = (ReadFrom::At(*first), store::limit(size, PAGE_BYTES, SCAN_STEP));
        let page = gateway.store.read(&session, Lane::Commands, from, step).await?;
        size = page.entry_size().or(size);
        // Nothing is left of them: trimmed, or lost with a failover.
        let Some(last) = page.entries.last() else { break };
        next = last.id;
        for entry in page.entries.iter().filter(|entry| entries.contains(&entry.id) && filter.wants(&entry.payload)) {
            events.push(with_id(entry)?);
            bytes += entry.payload.len();
            if bytes >= PAGE_BYTES {
                next = entry.id;
                break;
            }
        }
    }
    let up_to_date = bytes < PAGE_BYTES || entries.last().is_none_or(|last| *last <= next);
    let next = if up_to_date { lanes[Lane::Commands.index()].last } else { next };
    Ok(Page { events, next, up_to_date, closed: state.closed.is_some() }.into_response())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn a_stream_is_for_those_that_ask_for_one() {
        for (accept, sse) in [
            ("text/event-stream", true),
            ("application/json, Text/Event-Stream; q=0.5", true),
            ("text/*", true),
            ("text/event-stream;q=0, application/json", false),
            ("text/event-stream; Q=0.000, */*", false),
            ("text/event-streamx, */*;q=0.1", false),
            ("", false),
        ] {
            let headers = HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(accept))]);
            let accepted = accepted(&headers).unwrap_or_else(|_| panic!("{accept}"));
            assert_eq!(matches!(accepted, Accepted::Sse), sse, "{accept}");
        }
    }
}
