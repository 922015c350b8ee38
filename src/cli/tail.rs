//! `moorline tail`: a session's history and what comes, on a terminal or as JSON lines.

mod handout;
mod printer;

use std::{borrow::Cow, pin::pin, time::Duration};

use clap::{Args, ValueEnum};

pub(super) use self::printer::Printer;
use super::{Ending, Failure, Gateway, interrupted, is_no_gateways, output, parse_name};
use crate::{
    client::{Begin, Entry, Error, Follow, FollowOptions, Update},
    id::{EntryId, Lane, Name},
};

/// Text that waits for its agent's turn is shown when nothing came for this long.
const IDLE: Duration = Duration::from_millis(300);

/// Follow a session: its history, then live, across lost connections
///
/// Streamed text is shown as it comes, one agent a line; other events as one line each, long data shortened. Notices
/// go to standard error. Ends when the session is closed.
#[derive(Debug, Args)]
#[command(after_help = super::EXIT_CODES)]
pub(super) struct TailArgs {
    /// The session; it need not exist yet
    #[arg(value_parser = parse_name)]
    session: Name,
    /// Where to begin
    #[arg(long, value_enum, default_value = "start", conflicts_with = "after")]
    from: BeginArg,
    /// Begin after this entry
    #[arg(long, value_name = "ID")]
    after: Option<EntryId>,
    /// Only these agents (comma list)
    #[arg(long, value_delimiter = ',', value_parser = parse_name)]
    agent: Vec<Name>,
    /// Only these runs (comma list)
    #[arg(long, value_delimiter = ',', value_parser = parse_name)]
    run: Vec<Name>,
    /// Only these types (comma list)
    #[arg(long = "type", value_name = "TYPE", value_delimiter = ',')]
    kind: Vec<String>,
    /// The commands lane: what the agents are asked to do
    #[arg(long)]
    commands: bool,
    /// One JSON object a line: {"id":…,"type":…,"agent":…,"run":…,"data":…}
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    gateway: Gateway,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum BeginArg {
    /// With the first entry
    Start,
    /// With the next entry
    Now,
}

pub(super) async fn run(args: TailArgs) -> Result<Ending, Failure> {
    let lane = if args.commands { Lane::Commands } else { Lane::Events };
    let options = FollowOptions {
        cursor: args.after,
        begin: match args.from {
            BeginArg::Start => Begin::Start,
            BeginArg::Now => Begin::Now,
        },
        agents: args.agent,
        runs: args.run,
        types: args.kind,
        ..FollowOptions::default()
    };
    let follow = args.gateway.client()?.follow(&args.session, lane, options);
    let output = if args.json { Output::Json } else { Output::Readable(Printer::new(output::colours())) };
    Show::new(output).run(follow).await
}

/// How entries are shown.
enum Output {
    Json,
    Readable(Printer),
}

impl Output {
    fn entry(&mut self, entry: &Entry) -> String {
        match self {
            Output::Json => json_line(entry),
            Output::Readable(printer) => printer.entry(entry),
        }
    }

    /// What was held back.
    fn settle(&mut self) -> String {
        match self {
            Output::Json => String::new(),
            Output::Readable(printer) => printer.settle(),
        }
    }

    /// What was held back, and the end of an open line.
    fn end(&mut self) -> String {
        match self {
            Output::Json => String::new(),
            Output::Readable(printer) => printer.end(),
        }
    }

    fn holds(&self) -> bool {
        matches!(self, Output::Readable(printer) if printer.holds())
    }
}

type Aside = Box<dyn FnMut(&Entry) -> Option<String> + Send>;

/// Shows a followed lane.
pub(super) struct Show {
    output: Output,
    caught_up: bool,
    reconnecting: bool,
    /// A connection was closed without an answer.
    unanswered: bool,
    /// What to tell beside an entry, once it is shown.
    aside: Aside,
}

impl Show {
    fn new(output: Output) -> Show {
        Show { output, caught_up: false, reconnecting: false, unanswered: false, aside: Box::new(|_| None) }
    }

    /// For a person.
    pub fn readable(printer: Printer) -> Show {
        Show::new(Output::Readable(printer))
    }

    /// With notices on some entries.
    pub fn telling(self, aside: impl FnMut(&Entry) -> Option<String> + Send + 'static) -> Show {
        Show { aside: Box::new(aside), ..self }
    }

    /// Shows all there is, until the session is closed, Ctrl-C, or nobody reads any more.
    pub async fn run(&mut self, follow: Follow) -> Result<Ending, Failure> {
        let result = self.all(follow).await;
        // Whatever ended it, the text received so far is shown, and the shell's prompt begins its own line.
        let rest = output::write(&self.output.end());
        result.and_then(|ending| rest.map(|()| ending))
    }

    async fn all(&mut self, mut follow: Follow) -> Result<Ending, Failure> {
        // Made once: a signal that comes while an entry is printed must not be missed.
        let (mut interrupted, mut reader_gone) = (pin!(interrupted()), pin!(output::reader_gone()));
        loop {
            let update = tokio::select! {
                biased;
                () = &mut interrupted => return Ok(Ending::Interrupted),
                () = &mut reader_gone => return Ok(Ending::Done),
                update = follow.next() => update,
                () = tokio::time::sleep(IDLE), if self.output.holds() => {
                    output::write(&self.output.settle())?;
                    continue;
                }
            };
            match update {
                None => return Ok(Ending::Done),
                Some(update) => self.update(update?)?,
            }
        }
    }

    fn update(&mut self, update: Update) -> Result<(), Failure> {
        match update {
            Update::Entry(entry) => {
                output::write(&self.output.entry(&entry))?;
                if let Some(text) = (self.aside)(&entry) {
                    self.notice(&text)?;
                }
            }
            Update::CaughtUp => {
                let (first, again) = (!self.caught_up, self.reconnecting);
                (self.caught_up, self.reconnecting) = (true, false);
                match (first, again) {
                    (_, true) => self.notice("connected again, nothing missed")?,
                    (true, _) => self.notice("caught up; live from here")?,
                    _ => {}
                }
            }
            Update::Reset { reason, first } => {
                // Something may be missed this time.
                self.reconnecting = false;
                let on = first
                    .map_or("showing what comes".to_owned(), |id| format!("showing it from its first entry, {id}"));
                self.notice(&format!("{}; {on}", lost(&reason)))?;
            }
            Update::Reconnecting { error: error @ Error::Unreachable { .. }, connected_before: false, .. } => {
                return Err(error.into());
            }
            Update::Reconnecting { error, connected_before: false, .. } if self.is_no_gateways(&error) => {
                return Err(Failure::NoGateway(error));
            }
            Update::Reconnecting { error, delay, .. } => {
                self.reconnecting = true;
                self.notice(&format!("{error}; again in {:.1} s", delay.as_secs_f32()))?;
            }
            Update::Closed => self.notice("the session is closed")?,
        }
        Ok(())
    }

    /// Whether what came instead of a stream tells that there is no gateway. One connection that is closed without an answer,
    /// as by a Redis, may be a gateway that goes down just then; two are not.
    fn is_no_gateways(&mut self, error: &Error) -> bool {
        let unanswered = matches!(error, Error::Lost { why, .. } if !why.starts_with("nothing came"));
        is_no_gateways(error) || unanswered && std::mem::replace(&mut self.unanswered, true)
    }

    fn notice(&mut self, text: &str) -> Result<(), Failure> {
        output::write(&self.output.end())?;
        output::notice(format_args!("{text}"));
        Ok(())
    }
}

/// Why a log does not go on where it was left.
fn lost(reason: &str) -> Cow<'_, str> {
    Cow::Borrowed(match reason {
        "trimmed" => "what comes next was trimmed from the log",
        "deleted" => "the session was deleted or has expired",
        "unknown" => "the log has no entry of that id, or no longer: its Redis may have lost the newest",
        other => return Cow::Owned(format!("the log no longer continues from here ({})", output::printable(other))),
    })
}

/// The entry's JSON with its id as the first key.
fn json_line(entry: &Entry) -> String {
    let rest = entry.json.strip_prefix('{').unwrap_or("}");
    let comma = if rest.starts_with('}') { "" } else { "," };
    format!("{{\"id\":\"{}\"{comma}{rest}\n", entry.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_one_json_line() {
        let line = |json: &str| json_line(&Entry { id: "5-1".parse().unwrap(), json: json.into() });
        assert_eq!(line(r#"{"type":"t","data":1}"#), "{\"id\":\"5-1\",\"type\":\"t\",\"data\":1}\n");
        assert_eq!(line("{}"), "{\"id\":\"5-1\"}\n");
    }
}
