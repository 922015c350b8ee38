//! Shapes about history: replay, idle clients, a storm of clients that resume.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    BenchError, Names, Plan, Report, Target,
    meter::{Faults, Meter},
    read_event,
    wire::{Connection, Frame, Frames},
    write_event,
};

/// Lines in one piece of the body that writes a history.
const PIECE: usize = 200;

/// Writes a history and gives the id of its middle entry.
async fn write_history(target: &Target, path: &str, events: usize, text: usize) -> Result<String, BenchError> {
    let mut connection = Connection::open(target).await?;
    let mut numbers = 0..events as u64;
    let mut middle = None;
    while !numbers.is_empty() {
        connection.begin("POST", path, "application/x-ndjson").await?;
        let mut half = numbers.end / 2;
        if numbers.start >= half {
            half = numbers.end;
        }
        while numbers.start < half {
            let mut piece = Vec::new();
            let count = PIECE.min((half - numbers.start) as usize);
            for n in numbers.by_ref().take(count) {
                write_event(&mut piece, n, 0, text);
                piece.push(b'\n');
            }
            connection.send(&piece).await?;
        }
        let answer = connection.finish().await?.ok("POST a history")?;
        let answer: serde_json::Value =
            serde_json::from_slice(&answer.body).map_err(|e| BenchError::Unreadable(e.to_string()))?;
        middle = middle.or_else(|| answer["last"].as_str().map(str::to_owned));
    }
    middle.ok_or_else(|| BenchError::Missing("the history has no middle".into()))
}

/// Reads until caught up, checking every event; gives how many there were.
async fn catch_up(frames: &mut Frames, first: u64, text: usize, faults: &Faults) -> Result<u64, BenchError> {
    use std::sync::atomic::Ordering;
    let (mut next, mut live) = (first, false);
    while !live {
        let open = frames
            .read(|frame| match frame {
                Frame::Entry(_, payload) => match read_event(payload, text) {
                    Some((n, _)) if n == next => next += 1,
                    Some((n, _)) if n > next => {
                        faults.lost.fetch_add(n - next, Ordering::Relaxed);
                        next = n + 1;
                    }
                    Some(_) => drop(faults.duplicated.fetch_add(1, Ordering::Relaxed)),
                    None => drop(faults.corrupt.fetch_add(1, Ordering::Relaxed)),
                },
                Frame::Named(name) => live |= name == b"caught-up",
            })
            .await?;
        if !open && !live {
            return Err(BenchError::Missing("a stream ended before it had caught up".into()));
        }
    }
    Ok(next - first)
}

/// One client reads everything, again and again for as long as the plan says.
pub async fn replay(target: &Target, plan: &Plan, names: &Names) -> Result<Report, BenchError> {
    let path = names.events(0);
    write_history(target, &path, plan.events, plan.text).await?;
    let (faults, meter) = (Faults::default(), Meter::new());
    let (mut read, started) = (0, Instant::now());
    while started.elapsed() < plan.duration {
        let begun = Instant::now();
        let mut frames = Connection::open(target).await?.follow(&path, None).await?;
        let count = catch_up(&mut frames, 0, plan.text, &faults).await?;
        if count < plan.events as u64 {
            faults.lost.fetch_add(plan.events as u64 - count, std::sync::atomic::Ordering::Relaxed);
        }
        read += count;
        meter.record(0, begun.elapsed().as_micros() as u64);
    }
    let title = format!("replay: {} events of {} bytes of text to one client", plan.events, plan.text);
    let report = Report::new(title, &faults).over(started.elapsed(), 0, read);
    Ok(Report { caught_up: Some(meter.latency()), ..report })
}

/// Many clients that wait, and what each costs in memory.
pub async fn idle(target: &Target, plan: &Plan, names: &Names) -> Result<Report, BenchError> {
    let total = plan.sessions * plan.clients;
    let before = plan.pid.and_then(resident);
    let (faults, meter) = (Faults::default(), Meter::new());
    let mut open = Vec::with_capacity(total);
    for n in 0..total {
        let begun = Instant::now();
        let mut frames = Connection::open(target).await?.follow(&names.events(n % plan.sessions), None).await?;
        catch_up(&mut frames, 0, plan.text, &faults).await?;
        meter.record(0, begun.elapsed().as_micros() as u64);
        open.push(frames);
        if plan.progress && n % 500 == 499 {
            eprint!("\r{} clients ", n + 1);
        }
    }
    tokio::time::sleep(plan.duration).await;
    let after = plan.pid.and_then(resident);
    let bytes = before.zip(after).map(|(before, after)| (after as f64 - before as f64) / total as f64);
    let title = format!("idle: {} sessions × {} clients", plan.sessions, plan.clients);
    Ok(Report { caught_up: Some(meter.latency()), bytes_per_client: bytes, ..Report::new(title, &faults) })
}

/// Resident bytes of a process.
fn resident(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().trim_end_matches(" kB").parse::<u64>().ok().map(|kib| kib * 1024)
}

/// All clients come at once with the cursor of the middle, as after the death of a replica.
pub async fn storm(target: &Target, plan: &Plan, names: &Names) -> Result<Report, BenchError> {
    let mut middles = Vec::new();
    for session in 0..plan.sessions {
        middles.push(write_history(target, &names.events(session), plan.events, plan.text).await?);
    }
    let (faults, meter) = (Arc::new(Faults::default()), Arc::new(Meter::new()));
    let begun = Instant::now();
    let clients: Vec<_> = (0..plan.sessions * plan.clients)
        .map(|n| {
            let session = n % plan.sessions;
            let (target, path, middle) = (target.clone(), names.events(session), middles[session].clone());
            let (faults, meter, text, events) = (faults.clone(), meter.clone(), plan.text, plan.events as u64);
            tokio::spawn(async move {
                let mut frames = Connection::open(&target).await?.follow(&path, Some(&middle)).await?;
                let count = catch_up(&mut frames, events / 2, text, &faults).await?;
                meter.record(n, begun.elapsed().as_micros() as u64);
                // Stays until all are served.
                Ok::<_, BenchError>((count, frames))
            })
        })
        .collect();
    let (mut read, mut open) = (0, Vec::new());
    for client in clients {
        let (count, frames) = client.await.unwrap_or_else(|e| Err(BenchError::Missing(e.to_string())))?;
        read += count;
        open.push(frames);
    }
    let time = begun.elapsed().max(Duration::from_micros(1));
    let title = format!(
        "resume-storm: {} sessions × {} clients at once, {} events to catch up with",
        plan.sessions,
        plan.clients,
        plan.events - plan.events / 2
    );
    let report = Report::new(title, &faults).over(time, 0, read);
    Ok(Report { caught_up: Some(meter.latency()), ..report })
}
