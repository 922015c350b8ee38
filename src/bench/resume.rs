//! Shapes about history: replay, idle clients, a storm of clients that resume.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::timeout;

use super::{
    BenchError, Cpu, Dialect, Names, Plan, Report, Target,
    dialect::read_array,
    meter::{Faults, Meter, Progress, count},
    process::resident,
    reading::Reading,
    wire::{Connection, Frame, Frames, PATIENCE},
    write_event,
};

/// Lines in one piece of the body that writes a history.
const PIECE: u64 = 200;

/// Writes a history.
async fn write_history(target: &Target, path: &str, plan: &Plan) -> Result<(), BenchError> {
    let session = 0;
    let events = plan.events as u64;
    let mut connection = Connection::open(target).await?;
    let mut body = Vec::new();
    match target.dialect {
        Dialect::Moorline => drop(write_lines(target, path, plan, session, 0..events).await?),
        Dialect::DurableStreams => {
            for range in pieces(0..events) {
                body.clear();
                body.push(b'[');
                write_events(&mut body, session, range, b',', plan.text);
                body.push(b']');
                connection.request("POST", path, "application/json", &body).await?.ok("POST a history")?;
            }
        }
        Dialect::Nchan => {
            for n in 0..events {
                body.clear();
                write_event(&mut body, session, n, 0, plan.text);
                connection.request("POST", path, "application/json", &body).await?.ok("POST a history")?;
            }
        }
    }
    Ok(())
}

/// Writes a part of a history as NDJSON, and gives the id of its last entry.
async fn write_lines(
    target: &Target,
    path: &str,
    plan: &Plan,
    session: usize,
    events: Range<u64>,
) -> Result<String, BenchError> {
    let mut connection = Connection::open(target).await?;
    connection.begin("POST", path, "application/x-ndjson").await?;
    let mut body = Vec::new();
    for range in pieces(events) {
        body.clear();
        write_events(&mut body, session, range, b'\n', plan.text);
        body.push(b'\n');
        connection.send(&body).await?;
    }
    let answer = connection.finish(PATIENCE).await?.ok("POST a history")?;
    let answer: serde_json::Value =
        serde_json::from_slice(&answer.body).map_err(|e| BenchError::Unreadable(e.to_string()))?;
    let last = answer["last"].as_str().map(str::to_owned);
    last.ok_or_else(|| BenchError::Missing("the answer tells no last id".into()))
}

fn pieces(events: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let end = events.end;
    events.step_by(PIECE as usize).map(move |start| start..end.min(start + PIECE))
}

fn write_events(out: &mut Vec<u8>, session: usize, events: Range<u64>, between: u8, text: usize) {
    let first = events.start;
    for n in events {
        if n > first {
            out.push(between);
        }
        write_event(out, session, n, 0, text);
    }
}

/// Reads until the server says that history ends, or until all is there where it does not say so.
async fn catch_up(frames: &mut Frames, reading: &mut Reading, faults: &Faults, all: u64) -> Result<(), BenchError> {
    if frames.dialect().says_live() {
        return frames
            .until_live(|came| {
                _ = reading.take(came, faults);
            })
            .await;
    }
    while reading.came() < all {
        frames
            .more(|frame| match frame {
                Frame::Event(came) => _ = reading.take(came, faults),
                Frame::Live => {}
            })
            .await?;
    }
    Ok(())
}

/// One client reads everything, again and again for as long as the plan says.
pub async fn replay(target: &Target, plan: &Plan, names: &Names) -> Result<Report, BenchError> {
    plan.prepare(write_history(target, &names.publish(0), plan)).await?;
    let (faults, meter) = (Faults::default(), Meter::new());
    let (read, all) = (Arc::new(AtomicU64::new(0)), plan.events as u64);
    let progress = {
        let read = read.clone();
        Progress::start(plan.progress, move || read.load(Ordering::Relaxed), "events read")
    };
    let (started, before) = (Instant::now(), Cpu::now(&plan.pids));
    while started.elapsed() < plan.duration && plan.stop.get().is_none() {
        let begun = Instant::now();
        let mut reading = Reading::new(0, plan.text, 0);
        let mut connection = Connection::open(target).await?;
        match target.dialect {
            // What the protocol's own clients do: pages until one says that there is no more, and only then a stream.
            Dialect::DurableStreams => {
                let mut offset = Some("-1".to_owned());
                while let Some(from) = offset {
                    let path = format!("{}?offset={from}", names.publish(0));
                    let answer = connection.request("GET", &path, "application/json", &[]).await?.ok("GET a page")?;
                    read_array(&answer.body, &mut |came| {
                        _ = reading.take(came, &faults);
                    });
                    offset = answer.next;
                }
            }
            Dialect::Moorline | Dialect::Nchan => {
                let mut frames = connection.follow(&names.follow(0), None).await?;
                catch_up(&mut frames, &mut reading, &faults, all).await?;
            }
        }
        count(&faults.lost, all.saturating_sub(reading.came()));
        count(&read, reading.came());
        meter.record(0, begun.elapsed().as_micros() as u64);
    }
    let title = format!("replay: {} events of {} bytes of text to one client", plan.events, plan.text);
    let report = Report::new(title, &faults).over(started.elapsed(), 0, read.load(Ordering::Relaxed));
    let cpu = Some(Cpu::now(&plan.pids).since(before));
    drop(progress);
    Ok(Report { caught_up: meter.latency(), cpu, ..report })
}

/// Many clients that wait, and what each costs in memory.
pub async fn idle(target: &Target, plan: &Plan, names: &Names) -> Result<Report, BenchError> {
    let total = plan.sessions * plan.clients;
    // The first ones pay for what a server sets up once.
    let first = total / 10;
    let mut before = None;
    let (faults, meter) = (Faults::default(), Meter::new());
    let mut open = Vec::with_capacity(total);
    let connect = async {
        for n in 0..total {
            if n == first && !plan.pids.is_empty() {
                before = resident(&plan.pids);
            }
            let begun = Instant::now();
            let mut frames = Connection::open(target).await?.follow(&names.follow(n % plan.sessions), None).await?;
            catch_up(&mut frames, &mut Reading::new(n % plan.sessions, plan.text, 0), &faults, 0).await?;
            meter.record(0, begun.elapsed().as_micros() as u64);
            open.push(frames);
            plan.connected(n, total);
        }
        Ok(())
    };
    plan.prepare(connect).await?;
    plan.pause(plan.duration).await;
    let after = resident(&plan.pids);
    // Nobody has read of them: heartbeats have come, and nothing else.
    for frames in &mut open {
        let mut events = 0;
        while let Some(read) = frames.read(|_| events += 1).now_or_never() {
            if !read.unwrap_or(false) {
                count(&faults.failed, 1);
                break;
            }
        }
        count(&faults.corrupt, events);
    }
    let bytes = before.zip(after).map(|(before, after)| (after as f64 - before as f64) / (total - first) as f64);
    let title = format!("idle: {} sessions × {} clients", plan.sessions, plan.clients);
    Ok(Report { caught_up: meter.latency(), bytes_per_client: bytes, ..Report::new(title, &faults) })
}

/// A replica that is killed for its clients to resume elsewhere.
#[derive(Debug, Clone)]
pub struct Neighbour {
    /// Where it is.
    pub target: Target,
    /// Its process.
    pub pid: u32,
}

/// All clients come at once with the cursor of the middle, as after the death of a replica; if there is one to be killed,
/// they are its clients before, and come as they notice that it is dead.
pub async fn storm(
    target: &Target,
    plan: &Plan,
    names: &Names,
    neighbour: Option<&Neighbour>,
) -> Result<Report, BenchError> {
    if target.dialect != Dialect::Moorline {
        return Err(BenchError::Unsupported("a resume storm"));
    }
    let writes = neighbour.map_or(target, |neighbour| &neighbour.target);
    let (middle, events) = (plan.events as u64 / 2, plan.events as u64);
    let mut middles = Vec::new();
    for session in 0..plan.sessions {
        middles.push(write_lines(writes, &names.publish(session), plan, session, 0..middle).await?);
    }
    let (faults, meter) = (Arc::new(Faults::default()), Arc::new(Meter::new()));
    let mut before = Vec::new();
    for n in 0..if neighbour.is_some() { plan.sessions * plan.clients } else { 0 } {
        let mut frames = Connection::open(writes).await?.follow(&names.follow(n % plan.sessions), None).await?;
        let mut reading = Reading::new(n % plan.sessions, plan.text, 0);
        catch_up(&mut frames, &mut reading, &faults, middle).await?;
        before.push(frames);
        plan.connected(n, plan.sessions * plan.clients);
    }
    for session in 0..plan.sessions {
        write_lines(writes, &names.publish(session), plan, session, middle..events).await?;
    }
    let begun = Instant::now();
    if let Some(neighbour) = neighbour {
        kill(neighbour.pid)?;
    }
    let mut before = before.into_iter();
    let clients: Vec<_> = (0..plan.sessions * plan.clients)
        .map(|n| {
            let session = n % plan.sessions;
            let (target, path, last) = (target.clone(), names.follow(session), middles[session].clone());
            let (faults, meter, text, before) = (faults.clone(), meter.clone(), plan.text, before.next());
            tokio::spawn(async move {
                if let Some(mut before) = before {
                    // What came before the end it has not looked at, like a phone in a pocket.
                    let ended = async { while before.read(|_| ()).await.unwrap_or(false) {} };
                    let alive = |_| {
                        BenchError::Missing(format!(
                            "the streams of the replica that was killed have not ended within {PATIENCE:?}: is --kill its \
                             process?"
                        ))
                    };
                    timeout(PATIENCE, ended).await.map_err(alive)?;
                }
                let mut frames = Connection::open(&target).await?.follow(&path, Some(&last)).await?;
                let mut reading = Reading::new(session, text, middle);
                catch_up(&mut frames, &mut reading, &faults, events - middle).await?;
                count(&faults.lost, (events - middle).saturating_sub(reading.came()));
                meter.record(n, begun.elapsed().as_micros() as u64);
                // Stays until all are served.
                Ok::<_, BenchError>((reading.came(), frames))
            })
        })
        .collect();
    let (mut read, mut open) = (0, Vec::new());
    for client in clients {
        let (came, frames) = client.await.unwrap_or_else(|e| Err(BenchError::Missing(e.to_string())))?;
        read += came;
        open.push(frames);
    }
    let time = begun.elapsed().max(Duration::from_micros(1));
    let title = format!(
        "resume-storm: {} sessions × {} clients {}, {} events to catch up with",
        plan.sessions,
        plan.clients,
        if neighbour.is_some() { "of a replica that was killed" } else { "at once" },
        events - middle
    );
    let report = Report::new(title, &faults).over(time, 0, read);
    Ok(Report { caught_up: meter.latency(), ..report })
}

/// With SIGKILL: it has no time to say anything.
fn kill(pid: u32) -> Result<(), BenchError> {
    let process = i32::try_from(pid).ok().and_then(Pid::from_raw);
    process
        .and_then(|process| kill_process(process, Signal::KILL).ok())
        .ok_or_else(|| BenchError::Missing(format!("process {pid} could not be killed")))
}
