//! Hostile clients, against a gateway that is a process of its own. Whatever they do, a well-behaved client beside them is
//! served all along: each of its writes is answered, its stream is complete and in order. Nothing panics, and when they
//! are gone no descriptor is left behind.
//!
//! How much slower the well-behaved client gets is printed, not judged: `cargo test --test it hostile -- --nocapture`.

mod bodies;
mod connections;
mod heads;
mod paths;
mod tokens;

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
};

use crate::{
    cli::program,
    support::{PATIENCE, eventually, gateway::Session, unique},
};

/// A gateway under attack, and the client that must not notice.
struct Victim {
    process: program::Gateway,
    /// How many descriptors it had before the attack, with the well-behaved client connected.
    descriptors: usize,
    steady: Option<Steady>,
}

/// A client that appends and follows, one event after the other.
struct Steady {
    stop: Arc<AtomicBool>,
    at_work: JoinHandle<Vec<Duration>>,
    quiet: Vec<Duration>,
}

impl Victim {
    async fn start(arguments: &[&str]) -> Self {
        // Starting waits for the process: not on a worker.
        let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let start = move || program::Gateway::start_with(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        let process = tokio::task::spawn_blocking(start).await.expect("a gateway");
        let session = Session::at(process.url(), &unique("steady"));
        let mut stream = session.follow("").await;
        stream.caught_up().await;
        let mut number = 0;
        let mut quiet = Vec::new();
        for _ in 0..50 {
            quiet.push(round(&session, &mut stream, &mut number).await);
        }
        let descriptors = descriptors(process.pid());
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let at_work = tokio::spawn(async move {
            let mut took = Vec::new();
            while !stopped.load(Relaxed) {
                took.push(round(&session, &mut stream, &mut number).await);
            }
            let log: Vec<_> = session.data().await;
            assert_eq!(log, (0..number).map(serde_json::Value::from).collect::<Vec<_>>());
            took
        });
        Victim { process, descriptors, steady: Some(Steady { stop, at_work, quiet }) }
    }

    fn addr(&self) -> &str {
        self.process.url().trim_start_matches("http://")
    }

    /// The attack is over: the well-behaved client was served, and nothing is left of the others.
    async fn unharmed(mut self, what: &str) {
        let Steady { stop, at_work, mut quiet } = self.steady.take().expect("once");
        // It has got on beside the attack, and does so after it.
        tokio::time::sleep(Duration::from_millis(50)).await;
        stop.store(true, Relaxed);
        let mut took = tokio::time::timeout(PATIENCE, at_work).await.expect("it is served").expect("all it wrote");
        assert!(!took.is_empty());
        let (median, p99) = (percentile(&mut quiet, 0.5), percentile(&mut quiet, 0.99));
        let (median_now, p99_now) = (percentile(&mut took, 0.5), percentile(&mut took, 0.99));
        eprintln!(
            "{what}: {} rounds beside it; median {median_now:.2?} (alone {median:.2?}), p99 {p99_now:.2?} ({p99:.2?})",
            took.len()
        );
        let (pid, before) = (self.process.pid(), self.descriptors);
        // Its own two connections may be gone by now.
        eventually("no descriptor is left", || async { (descriptors(pid) <= before).then_some(()) }).await;
        let log = self.process.log();
        assert!(!log.contains("panicked") && !log.contains("ERROR"), "{what}: {log}");
        assert!(self.process.is_running(), "{what}");
    }
}

/// Appends an event and waits for it on the stream.
async fn round(session: &Session, stream: &mut crate::support::gateway::Stream, number: &mut u64) -> Duration {
    let begun = Instant::now();
    session.append(json!({"data": number})).await;
    assert_eq!(stream.data(1).await, [*number]);
    *number += 1;
    begun.elapsed()
}

fn percentile(times: &mut [Duration], part: f64) -> Duration {
    times.sort_unstable();
    times[((times.len() - 1) as f64 * part) as usize]
}

fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// As many sockets as were asked for, or what the machine's limits leave room for beside other tests.
fn sockets(wanted: usize) -> usize {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let files = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let files = files.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(1024);
    wanted.min(files / 4)
}

async fn connect(addr: &str) -> TcpStream {
    let stream = TcpStream::connect(addr).await.expect("a connection");
    stream.set_nodelay(true).expect("nodelay");
    stream
}

/// Sends bytes, whatever the gateway makes of them, and gives the status of its answer, if there is one before the end.
async fn send(addr: &str, bytes: &[u8]) -> Option<u16> {
    let mut stream = connect(addr).await;
    let (mut from, mut to) = stream.split();
    let sent = async {
        // It need not read it all.
        let _ = to.write_all(bytes).await;
        let _ = to.shutdown().await;
    };
    let mut answer = Vec::new();
    let read = async {
        let _ = from.read_to_end(&mut answer).await;
    };
    tokio::time::timeout(PATIENCE, async { tokio::join!(sent, read) }).await.expect("an end");
    String::from_utf8_lossy(&answer).split(' ').nth(1).and_then(|status| status.parse().ok())
}
