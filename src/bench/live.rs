//! Shapes with events under way: tokens, broadcast, ingest.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use serde::Deserialize;
use tokio::{sync::mpsc, task::JoinSet};

use super::{
    BenchError, Cpu, Dialect, Names, Plan, Report, Shape, Target,
    meter::{Faults, Meter, Progress},
    read_event,
    wire::{Connection, Frame, Frames},
    write_event,
};

/// How long a client may take, after the last event was published, to have them all.
const LAST_WAIT: Duration = Duration::from_secs(20);
/// Lines in one piece of an ingest body.
const PIECE: u64 = 64;

struct Load {
    start: Instant,
    /// Measured from here, in microseconds after the start …
    from_us: u64,
    /// … to here.
    to_us: u64,
    text: usize,
    /// Events published in each session.
    published: Vec<AtomicU64>,
    /// The number of the event that each client reads next.
    read: Vec<AtomicU64>,
    appended: AtomicU64,
    delivered: AtomicU64,
    delivery: Meter,
    append: Meter,
    faults: Faults,
}

impl Load {
    fn new(plan: &Plan) -> Self {
        Load {
            start: Instant::now(),
            from_us: plan.warmup.as_micros() as u64,
            to_us: (plan.warmup + plan.duration).as_micros() as u64,
            text: plan.text,
            published: (0..plan.sessions).map(|_| AtomicU64::new(0)).collect(),
            read: (0..plan.sessions * plan.clients).map(|_| AtomicU64::new(0)).collect(),
            appended: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            delivery: Meter::new(),
            append: Meter::new(),
            faults: Faults::default(),
        }
    }

    fn now_us(&self) -> u64 {
        self.start.elapsed().as_micros() as u64
    }

    fn measured(&self, at_us: u64) -> bool {
        (self.from_us..self.to_us).contains(&at_us)
    }
}

pub async fn run(target: &Target, plan: &Plan, names: &Names) -> Result<Report, BenchError> {
    let total = plan.sessions * plan.clients;
    // Clients first, so that the clock starts with all of them live.
    // Spread over the sessions, and within each.
    let stalled = |n: usize| (n % plan.sessions + n / plan.sessions * 37) % 100 < plan.stalled;
    let (mut readers, mut unread) = (Vec::with_capacity(total), Vec::new());
    for n in 0..total {
        let session = n % plan.sessions;
        let connection = Connection::open(target).await?;
        if stalled(n) {
            connection.shrink()?;
            unread.push(connection.follow(&names.follow(session), None).await?);
            continue;
        }
        let mut frames = connection.follow(&names.follow(session), None).await?;
        let mut live = !target.dialect.says_live();
        while !live {
            let open = frames.read(|frame| live |= frame == Frame::Live).await?;
            if !open && !live {
                return Err(BenchError::Missing("a stream ended before it had caught up".into()));
            }
        }
        readers.push((n, frames));
        if plan.progress && n % 500 == 499 {
            eprint!("\r{} clients ", n + 1);
        }
    }
    let load = Arc::new(Load::new(plan));
    let readers: Vec<_> =
        readers.into_iter().map(|(n, frames)| tokio::spawn(follow(load.clone(), n, frames))).collect();
    let cpu = tokio::spawn(measure_cpu(plan.clone()));
    let progress = {
        let load = load.clone();
        Progress::start(plan.progress, move || load.delivered.load(Ordering::Relaxed), "deliveries")
    };
    // No more publishers than sessions: each session's events must come in their order.
    let publishers = plan.publishers.min(plan.sessions);
    let mut dues = Vec::new();
    let tasks: Vec<_> = (0..publishers)
        .map(|p| {
            let paths = (0..plan.sessions).filter(|s| s % publishers == p).map(|s| (s, names.publish(s))).collect();
            let due = plan.rate.map(|_| {
                // As long as the gateway is behind: that is what an open loop measures.
                let (due, turn) = mpsc::unbounded_channel();
                dues.push(due);
                turn
            });
            tokio::spawn(publish(target.clone(), load.clone(), p, plan.numbered, due, paths))
        })
        .collect();
    if let Some(rate) = plan.rate {
        let load = load.clone();
        std::thread::spawn(move || pace(&load, rate, &dues));
    }
    let mut failure = None;
    for publisher in tasks {
        failure = publisher.await.unwrap_or_else(|e| Err(BenchError::Missing(e.to_string()))).err().or(failure);
    }
    let missing = || {
        let read = load.read.iter().enumerate().filter(|(n, _)| !stalled(*n));
        let read = read.map(|(n, read)| (n % plan.sessions, read.load(Ordering::Relaxed)));
        read.map(|(session, read)| load.published[session].load(Ordering::Relaxed).saturating_sub(read)).sum::<u64>()
    };
    let waiting = Instant::now();
    while failure.is_none() && missing() > 0 && waiting.elapsed() < LAST_WAIT {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    load.faults.lost.fetch_add(missing(), Ordering::Relaxed);
    for reader in readers {
        reader.abort();
        // It reads until it is told to end; else its stream ended or could not be read, or it panicked.
        if !reader.await.is_err_and(|ended| ended.is_cancelled()) {
            load.faults.failed.fetch_add(1, Ordering::Relaxed);
        }
    }
    drop((progress, unread));
    if let Some(failure) = failure {
        cpu.abort();
        return Err(failure);
    }
    let cpu = cpu.await.ok();
    let name = if plan.shape == Shape::Broadcast { "broadcast" } else { "tokens" };
    let pace = plan.rate.map_or_else(|| "closed loop".to_owned(), |rate| format!("{rate:.0} events/s"));
    let stalled = if plan.stalled > 0 { format!(" ({} % of them stalled)", plan.stalled) } else { String::new() };
    let numbered = if plan.numbered { "numbered " } else { "" };
    let title = format!(
        "{name}: {} sessions × {} clients{stalled}, {} publishers, {pace}, {numbered}events of {} bytes of text",
        plan.sessions, plan.clients, publishers, plan.text
    );
    let report = Report::new(title, &load.faults).over(
        plan.duration,
        load.appended.load(Ordering::Relaxed),
        load.delivered.load(Ordering::Relaxed),
    );
    Ok(Report { delivery: Some(load.delivery.latency()), append: Some(load.append.latency()), cpu, ..report })
}

/// Reads a stream until it ends.
async fn follow(load: Arc<Load>, client: usize, mut frames: Frames) {
    let mut next = 0;
    let mut open = true;
    while open {
        let read = frames.read(|frame| {
            if let Frame::Event(event) = frame {
                check(&load, client, event, &mut next);
            }
        });
        open = read.await.unwrap_or(false);
        load.read[client].store(next, Ordering::Relaxed);
    }
}

/// The CPU time that goes by while a plan is measured.
async fn measure_cpu(plan: Plan) -> Cpu {
    tokio::time::sleep(plan.warmup).await;
    let before = Cpu::now(&plan.pids);
    tokio::time::sleep(plan.duration).await;
    Cpu::now(&plan.pids).since(before)
}

/// One event at one client.
fn check(load: &Load, shard: usize, event: &[u8], next: &mut u64) {
    let count = |counter: &AtomicU64, by| {
        counter.fetch_add(by, Ordering::Relaxed);
    };
    let Some((n, due)) = read_event(event, load.text) else {
        return count(&load.faults.corrupt, 1);
    };
    if n + 1 == *next {
        return count(&load.faults.duplicated, 1);
    }
    if n < *next {
        return count(&load.faults.reordered, 1);
    }
    count(&load.faults.lost, n - *next);
    *next = n + 1;
    let now = load.now_us();
    if load.measured(now) {
        count(&load.delivered, 1);
    }
    // By the time at which it was due: what was held up until after the end is late, not missing.
    if load.measured(due) {
        load.delivery.record(shard, now.saturating_sub(due));
    }
}

/// Tells the publishers in turn when an event is due. A thread of its own, for the runtime's timers count whole
/// milliseconds.
fn pace(load: &Load, rate: f64, publishers: &[mpsc::UnboundedSender<u64>]) {
    for turn in 0u64.. {
        let due = (turn as f64 * 1e6 / rate) as u64;
        if due >= load.to_us {
            return;
        }
        let early = due.saturating_sub(load.now_us());
        if early > 0 {
            std::thread::sleep(Duration::from_micros(early));
        }
        if publishers[turn as usize % publishers.len()].send(due).is_err() {
            return;
        }
    }
}

/// Publishes to its sessions in turn: as soon as it has its answer, or when an event is due.
async fn publish(
    target: Target,
    load: Arc<Load>,
    publisher: usize,
    numbered: bool,
    mut dues: Option<mpsc::UnboundedReceiver<u64>>,
    paths: Vec<(usize, String)>,
) -> Result<(), BenchError> {
    let mut connection = Connection::open(&target).await?;
    let mut body = Vec::new();
    for (session, path) in paths.iter().cycle() {
        let due = match &mut dues {
            Some(dues) => dues.recv().await,
            None => Some(load.now_us()).filter(|now| *now < load.to_us),
        };
        let Some(due) = due else { break };
        let n = load.published[*session].load(Ordering::Relaxed);
        body.clear();
        write_event(&mut body, n, due, load.text);
        let sent = load.now_us();
        let answer = match numbered {
            true => connection.numbered(path, "application/json", n, &body).await?,
            false => connection.request("POST", path, "application/json", &body).await?,
        };
        answer.ok("POST an event")?;
        load.published[*session].store(n + 1, Ordering::Relaxed);
        let now = load.now_us();
        if load.measured(now) {
            load.appended.fetch_add(1, Ordering::Relaxed);
        }
        if load.measured(due) {
            load.append.record(publisher, now - sent);
        }
    }
    Ok(())
}

#[derive(Deserialize)]
struct Appended {
    appended: u64,
}

/// Agents that stream as fast as they can.
pub async fn ingest(target: &Target, plan: &Plan, names: &Names) -> Result<Report, BenchError> {
    if target.dialect != Dialect::Moorline {
        return Err(BenchError::Unsupported("bodies of NDJSON"));
    }
    let before = Cpu::now(&plan.pids);
    let load = Arc::new(Load::new(plan));
    let progress = {
        let load = load.clone();
        Progress::start(plan.progress, move || load.appended.load(Ordering::Relaxed), "events sent")
    };
    // The first that fails ends them all.
    let mut agents = JoinSet::new();
    for session in 0..plan.sessions {
        let (target, load, path) = (target.clone(), load.clone(), names.publish(session));
        agents.spawn(async move {
            let mut connection = Connection::open(&target).await?;
            connection.begin("POST", &path, "application/x-ndjson").await?;
            let (mut piece, mut n) = (Vec::new(), 0);
            while load.now_us() < load.to_us {
                piece.clear();
                for _ in 0..PIECE {
                    write_event(&mut piece, n, load.now_us(), load.text);
                    piece.push(b'\n');
                    n += 1;
                }
                if let Err(error) = connection.send(&piece).await {
                    // It may have been refused, and why is there to be read.
                    return Err(connection.refusal("POST a body of NDJSON").await.unwrap_or(error));
                }
                load.appended.fetch_add(PIECE, Ordering::Relaxed);
            }
            let answer = connection.finish().await?.ok("POST a body of NDJSON")?;
            let answer: Appended =
                serde_json::from_slice(&answer.body).map_err(|e| BenchError::Unreadable(e.to_string()))?;
            load.faults.lost.fetch_add(n.saturating_sub(answer.appended), Ordering::Relaxed);
            load.faults.duplicated.fetch_add(answer.appended.saturating_sub(n), Ordering::Relaxed);
            Ok::<u64, BenchError>(answer.appended)
        });
    }
    let mut appended = 0;
    while let Some(agent) = agents.join_next().await {
        appended += agent.unwrap_or_else(|e| Err(BenchError::Missing(e.to_string())))?;
    }
    let time = load.start.elapsed();
    drop(progress);
    let title = format!("ingest: {} agents stream NDJSON, events of {} bytes of text", plan.sessions, plan.text);
    let cpu = Some(Cpu::now(&plan.pids).since(before));
    Ok(Report { cpu, ..Report::new(title, &load.faults).over(time, appended, 0) })
}
