//! A load tool: drives a gateway as many agents and clients would, checks all that comes back, and measures.
//!
//! Every event carries its number, the time at which it was due and a text that follows from both and from its session, so a
//! client knows of each whether it is the next one, how late it is, and whether it is what was sent. Under an open loop
//! (`rate`) events are due at fixed times whether or not the gateway keeps up: an event that had to wait for its turn
//! counts as late (no coordinated omission).
//!
//! The wire is driven by hand (`wire.rs`): on the two cores that the load shares with the gateway, a full HTTP client
//! would take most of the time that is to be measured.

mod dialect;
mod ingest;
mod live;
mod meter;
mod process;
mod reading;
mod resume;
mod target;
mod wire;

pub use dialect::Dialect;
pub use meter::{Latency, Report};
pub use process::{Cpu, is_readable};
pub use resume::Neighbour;
pub use target::Target;

use std::{
    collections::HashSet,
    future::Future,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::SetOnce;

/// Which load to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Many sessions, a few clients each, small events: an AI product at work.
    Tokens,
    /// One session, many clients.
    Broadcast,
    /// Agents that stream NDJSON bodies as fast as they can; nobody listens.
    Ingest,
    /// One client reads a long history.
    Replay,
    /// Many clients, no events.
    Idle,
    /// Many clients resume at once.
    ResumeStorm,
}

/// What to do.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Which load.
    pub shape: Shape,
    /// Sessions.
    pub sessions: usize,
    /// Clients of each session.
    pub clients: usize,
    /// Of a hundred clients, how many open their stream and then read nothing of it.
    pub stalled: usize,
    /// Events are numbered as an idempotent producer does it.
    pub numbered: bool,
    /// Connections that publish.
    pub publishers: usize,
    /// Events a second in all; `None`: each publisher sends as soon as it has its answer.
    pub rate: Option<f64>,
    /// How long to measure.
    pub duration: Duration,
    /// How long to run before.
    pub warmup: Duration,
    /// Events of a history.
    pub events: usize,
    /// Bytes of text in an event.
    pub text: usize,
    /// The gateway's processes, to read their memory and CPU time from.
    pub pids: Vec<u32>,
    /// Whose clients resume (in a resume storm).
    pub neighbour: Option<Neighbour>,
    /// Say on stderr how it goes.
    pub progress: bool,
    /// Set, it ends the run: what was measured by then is reported, if that is something.
    pub stop: Arc<SetOnce<Instant>>,
}

impl BenchError {
    /// Whether what was asked may have been done all the same.
    fn is_unsure(&self) -> bool {
        !matches!(self, BenchError::Status { status, .. } if *status < 500)
    }

    /// Whether asking again would be answered alike: a right that is missing, say, but not a limit of requests.
    fn is_final(&self) -> bool {
        matches!(self, BenchError::Status { status, .. } if (400..500).contains(status) && *status != 429)
    }
}

impl Plan {
    /// Does what nothing is measured in, unless the run is to end.
    async fn prepare<T>(&self, work: impl Future<Output = Result<T, BenchError>>) -> Result<T, BenchError> {
        tokio::select! {
            result = work => result,
            _ = self.stop.wait() => Err(BenchError::Interrupted),
        }
    }

    /// Client `n` of so many is there: that is said now and then.
    fn connected(&self, n: usize, of: usize) {
        if self.progress && (n % 500 == 499 || n + 1 == of && of >= 500) {
            eprint!("\r{} clients {}", n + 1, if n + 1 == of { "\n" } else { "" });
        }
    }

    /// Lets time go by, unless the run is to end.
    async fn pause(&self, time: Duration) {
        let _ = tokio::time::timeout(time, self.stop.wait()).await;
    }
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The connection failed.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    /// The gateway answered something else than hoped for.
    #[error("{what}: the gateway answered {status}: {body}")]
    Status {
        /// What was asked.
        what: String,
        /// The HTTP status.
        status: u16,
        /// The answer's beginning.
        body: String,
    },
    /// No gateway can be there.
    #[error("{0}")]
    Address(String),
    /// There is none now.
    #[error("can't connect to {0}: {1}")]
    Unreachable(String, io::Error),
    /// The answer is no HTTP.
    #[error("the answer can't be read: {0}")]
    Unreadable(String),
    /// The server has no such thing.
    #[error("only Moorline can be loaded with {0}")]
    Unsupported(&'static str),
    /// Something that should have come did not.
    #[error("{0}")]
    Missing(String),
    /// It was told to end.
    #[error("interrupted before anything was measured")]
    Interrupted,
}

/// How a run ended.
#[derive(Debug)]
pub struct Ended {
    /// What was measured.
    pub result: Result<Report, BenchError>,
    /// Sessions that could not be deleted, and why; they expire by themselves.
    pub left: Option<String>,
}

/// Runs a plan against a gateway.
pub async fn run(target: &Target, plan: &Plan) -> Ended {
    let names = Names::new(target.dialect, plan.sessions);
    let work = async {
        names.create(target).await?;
        match plan.shape {
            Shape::Tokens | Shape::Broadcast => live::run(target, plan, &names).await,
            Shape::Ingest => ingest::run(target, plan, &names).await,
            Shape::Replay => resume::replay(target, plan, &names).await,
            Shape::Idle => resume::idle(target, plan, &names).await,
            Shape::ResumeStorm => plan.prepare(resume::storm(target, plan, &names, plan.neighbour.as_ref())).await,
        }
    };
    let too_late = async {
        plan.stop.wait().await;
        tokio::time::sleep(GRACE).await;
    };
    let result = tokio::select! {
        result = work => result,
        () = too_late => Err(BenchError::Interrupted),
    };
    let result = match plan.stop.get() {
        Some(_) => result.map(|report| Report { title: format!("{}, interrupted", report.title), ..report }),
        None => result,
    };
    // Nothing was written, or nothing can be done about it.
    if let Err(BenchError::Unreachable(..)) = result {
        return Ended { result, left: None };
    }
    // A body that was broken off is still read by the gateway, which would make its session anew.
    let again = result.is_err() || plan.stop.get().is_some();
    Ended { result, left: names.delete(target, again).await }
}

/// How long a run may take to come to its end once it was told to.
const GRACE: Duration = Duration::from_secs(5);

/// How long it may take to delete the sessions of a run.
const TIDYING: Duration = Duration::from_secs(10);

/// The sessions of a run: new ones, deleted at its end.
struct Names {
    dialect: Dialect,
    names: Vec<String>,
}

impl Names {
    fn new(dialect: Dialect, count: usize) -> Self {
        let run = fastrand::u64(..);
        Names { dialect, names: (0..count).map(|n| format!("bench-{run:016x}-{n}")).collect() }
    }

    fn publish(&self, session: usize) -> String {
        self.dialect.publish(&self.names[session])
    }

    fn follow(&self, session: usize) -> String {
        self.dialect.follow(&self.names[session])
    }

    fn session(&self, session: usize) -> String {
        self.dialect.session(&self.names[session])
    }

    /// Where that has to be done first.
    async fn create(&self, target: &Target) -> Result<(), BenchError> {
        if self.dialect.creates() {
            let mut connection = wire::Connection::open(target).await?;
            for name in &self.names {
                let path = self.dialect.session(name);
                connection.request("PUT", &path, "application/json", &[]).await?.ok("PUT a stream")?;
            }
        }
        Ok(())
    }

    /// Deletes them all; `again`: until none is made anew. What could not be deleted, if anything.
    async fn delete(&self, target: &Target, again: bool) -> Option<String> {
        let mut left = self.names.clone();
        let mut why = format!("it took more than {TIDYING:?}");
        let all = async {
            while !left.is_empty() {
                let (names, mut done, mut refused) =
                    (left.chunks(left.len().div_ceil(DELETERS)), HashSet::new(), false);
                let rounds = names.map(|names| delete_some(target, self.dialect, names, again));
                for (gone, refusal) in futures_util::future::join_all(rounds).await {
                    done.extend(gone);
                    if let Some(refusal) = refusal {
                        refused |= refusal.is_final();
                        why = refusal.to_string();
                    }
                }
                left.retain(|name| !done.contains(name));
                if refused {
                    return;
                }
                if !left.is_empty() {
                    tokio::time::sleep(DELETE_AGAIN).await;
                }
            }
        };
        // What was done by then counts.
        let _ = tokio::time::timeout(TIDYING, all).await;
        let some = !left.is_empty();
        some.then(|| format!("{} sessions could not be deleted: {why}; they expire by themselves", left.len()))
    }
}

/// Connections that delete.
const DELETERS: usize = 8;
/// The pause before what could not be deleted, or may be made anew, is deleted again.
const DELETE_AGAIN: Duration = Duration::from_millis(100);

/// Deletes sessions, one after the other. Those that are gone, and what stands against the rest.
async fn delete_some(
    target: &Target,
    dialect: Dialect,
    names: &[String],
    again: bool,
) -> (Vec<String>, Option<BenchError>) {
    let mut gone = Vec::new();
    let each = async {
        let mut connection = wire::Connection::open(target).await?;
        for name in names {
            let answer = connection.request("DELETE", &dialect.session(name), "", &[]).await?;
            // Whoever deleted nothing may be sure that there is nothing any more.
            if answer.status == 404 || !again && (200..300).contains(&answer.status) {
                gone.push(name.clone());
            } else {
                answer.ok("DELETE a session")?;
            }
        }
        Ok(())
    };
    let refusal: Result<(), BenchError> = each.await;
    (gone, refusal.err())
}

/// The JSON of an event, and of its payload in the log: `{"type":"b","data":[n,due,"text"]}`.
fn write_event(out: &mut Vec<u8>, session: usize, n: u64, due_us: u64, text: usize) {
    use std::io::Write as _;
    // Writing to memory does not fail.
    let _ = write!(out, "{{\"type\":\"b\",\"data\":[{n},{due_us},\"");
    out.extend(letters(session, n, due_us).take(text));
    out.extend_from_slice(b"\"]}");
}

/// Number and due time of a payload, if it is exactly what [`write_event`] writes for this session.
fn read_event(payload: &[u8], session: usize, text: usize) -> Option<(u64, u64)> {
    let rest = payload.strip_prefix(b"{\"type\":\"b\",\"data\":[")?;
    let (n, rest) = number(rest)?;
    let (due, rest) = number(rest.strip_prefix(b",")?)?;
    let said = rest.strip_prefix(b",\"")?.strip_suffix(b"\"]}")?;
    let right = said.len() == text && letters(session, n, due).zip(said).all(|(letter, said)| letter == *said);
    right.then_some((n, due))
}

/// The text of an event, as long as one likes: another one for another session, number or time.
fn letters(session: usize, n: u64, due_us: u64) -> impl Iterator<Item = u8> {
    let mixed = (session as u64).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ n;
    let mixed = mixed.wrapping_mul(0xbf58_476d_1ce4_e5b9) ^ due_us;
    let mixed = mixed.wrapping_mul(0x94d0_49bb_1331_11eb);
    (0u32..).map(move |i| {
        let bits = (mixed.rotate_left(i.wrapping_mul(11) % 64) >> 40) as u32;
        b'a' + (bits.wrapping_add(i) % 26) as u8
    })
}

fn number(text: &[u8]) -> Option<(u64, &[u8])> {
    let end = text.iter().position(|b| !b.is_ascii_digit()).unwrap_or(text.len());
    let digits = std::str::from_utf8(&text[..end]).ok()?;
    Some((digits.parse().ok()?, &text[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_read_only_if_it_is_what_was_written() {
        let mut event = Vec::new();
        write_event(&mut event, 3, 42, 123_456, 20);
        assert_eq!(read_event(&event, 3, 20), Some((42, 123_456)));
        assert_eq!(read_event(&event, 3, 19), None);
        let at = event.len() - 5;
        event[at] ^= 1;
        assert_eq!(read_event(&event, 3, 20), None);
    }
}
