//! `moorline publish`: events from the command line or from standard input, each stored once.
//!
//! ```text
//! stdin ─▶ reader task ─▶ channel (bounded) ─▶ batches of what is there ─▶ Producer ─▶ gateway
//! ```
//! While a request is under way lines gather in the channel, so a slow source has no delay and a fast one large
//! batches. A full channel holds the reader, and with it the program that writes to the pipe.

mod input;

use std::time::Duration;

use clap::Args;
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use self::input::{Input, Item};
use super::{Ending, Failure, Gateway, interrupted, output, parse_name, whole};
use crate::{
    client::{Error, Producer, Published, Speaker},
    event,
    id::{EntryId, Name},
};

/// The most events of a request, and so of the channel.
const BATCH_EVENTS: usize = 256;

/// A request takes no further event when it has this many bytes. Far below the gateways' limit for a body.
const BATCH_BYTES: usize = 128 * 1024;

/// Append events to a session
///
/// Without an argument each line of the standard input becomes an event's data: JSON if it is, else a string, with a
/// notice if it begins as JSON does. A request
/// that gets no answer is sent again, without doubling an event.
#[derive(Debug, Args)]
#[command(after_help = super::EXIT_CODES)]
pub(super) struct PublishArgs {
    /// The session; it begins with its first event
    #[arg(value_parser = parse_name)]
    session: Name,
    /// One event's data: JSON, or plain text [default: one event for each line of the standard input]
    #[arg(value_name = "JSON|TEXT", allow_negative_numbers = true)]
    data: Option<String>,
    /// The events' type [default: message]
    #[arg(long = "type", value_name = "TYPE", value_parser = parse_type, conflicts_with_all = ["raw", "sse"])]
    kind: Option<String>,
    /// Whose events they are
    #[arg(long, value_parser = parse_name)]
    agent: Option<Name>,
    /// The run they belong to
    #[arg(long, value_parser = parse_name)]
    run: Option<Name>,
    /// The standard input has whole events, one a line: {"type":…,"data":…,"agent":…,"run":…}
    #[arg(long, conflicts_with_all = ["data", "sse"])]
    raw: bool,
    /// The standard input is an event stream (text/event-stream), as models and agents send it
    #[arg(long, conflicts_with = "data")]
    sse: bool,
    /// Go on trying this long when the gateway is away
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = whole::<u64>(0))]
    retry_for: u64,
    #[command(flatten)]
    gateway: Gateway,
}

pub(super) async fn run(args: PublishArgs) -> Result<Ending, Failure> {
    let speaker = Speaker { agent: args.agent, run: args.run };
    let mut producer = args
        .gateway
        .client()?
        .producer(&args.session, speaker)
        .patience(Duration::from_secs(args.retry_for))
        .on_retry(|error, wait| output::notice(format_args!("{error}; again in {:.1} s", wait.as_secs_f32())));

    let (items, received) = mpsc::channel(BATCH_EVENTS);
    let input = match (args.data, args.raw, args.sse) {
        (Some(text), ..) => Input::Argument { text, kind: args.kind },
        (None, true, _) => Input::Events,
        (None, _, true) => Input::EventStream,
        (None, ..) => Input::Lines { kind: args.kind },
    };
    // It ends with the input, or when the channel's other end is gone; at the latest with the program.
    tokio::spawn(input.read(items));

    let mut last = None;
    let result = tokio::select! {
        result = publish_all(received, &mut producer, &mut last) => result.map(|()| Ending::Done),
        () = interrupted() => Ok(Ending::Interrupted),
    };
    let count = producer.published();
    let events = if count == 1 { "event" } else { "events" };
    match last {
        Some(id) => output::notice(format_args!("published {count} {events} to {}, up to {id}", args.session)),
        None => output::notice(format_args!("published {count} {events} to {}", args.session)),
    }
    result
}

/// Publishes until the input's end; the first refusal or unreadable line ends it.
async fn publish_all(
    mut items: mpsc::Receiver<Result<Item, String>>,
    producer: &mut Producer,
    last: &mut Option<EntryId>,
) -> Result<(), Failure> {
    let mut unreadable = None;
    while unreadable.is_none() {
        let Some(first) = items.recv().await else { break };
        let (mut batch, mut bytes, mut next) = (Vec::new(), 0, Some(first));
        while let Some(item) = next.take() {
            match item {
                Ok(item) => {
                    bytes += item.json.get().len();
                    batch.push(item);
                }
                Err(why) => unreadable = Some(why),
            }
            if unreadable.is_none() && batch.len() < BATCH_EVENTS && bytes < BATCH_BYTES {
                next = items.try_recv().ok();
            }
        }
        publish_batch(&batch, producer, last).await?;
    }
    unreadable.map_or(Ok(()), |why| Err(Failure::Other(why)))
}

/// A batch is stored as a whole or refused as a whole. If it is refused, its events go one by one, so that all before
/// the bad one are stored and the user learns which one it is.
async fn publish_batch(batch: &[Item], producer: &mut Producer, last: &mut Option<EntryId>) -> Result<(), Failure> {
    let mut note = |published: Published| *last = published.ids.last().copied().or(*last);
    let events: Vec<&RawValue> = batch.iter().map(|item| &*item.json).collect();
    match producer.publish(&events).await {
        Ok(published) => note(published),
        // It is none of the events that is wrong.
        Err(error) if error.is_denied() => return Err(error.into()),
        Err(Error::Problem(problem)) if !Error::Problem(problem.clone()).is_transient() && batch.len() > 1 => {
            for item in batch {
                let published = producer.publish(&[&item.json]).await;
                note(published.map_err(|error| Failure::Other(format!("{}: {error}", item.place)))?);
            }
        }
        Err(error @ Error::Problem(_)) => return Err(Failure::Other(format!("{}: {error}", batch[0].place))),
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

fn parse_type(text: &str) -> Result<String, String> {
    event::check_type(text).map(|()| text.to_owned()).map_err(|e| e.to_string())
}
