//! The shape of agents that stream NDJSON: what they wrote is read back.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::{StreamExt, TryStreamExt, stream};
use serde::Deserialize;
use tokio::task::JoinSet;

use super::{
    BenchError, Cpu, Dialect, Names, Plan, Report, Target,
    live::Load,
    meter::{Progress, count},
    reading::Reading,
    wire::{Connection, PATIENCE},
    write_event,
};
use crate::id::EntryId;

/// Lines in one piece of a body.
const PIECE: u64 = 64;
/// Sessions that are read back at once.
const CHECKERS: usize = 8;

#[derive(Deserialize)]
struct Appended {
    appended: u64,
}

/// Agents that stream as fast as they can.
pub async fn run(target: &Target, plan: &Plan, names: &Names) -> Result<Report, BenchError> {
    if target.dialect != Dialect::Moorline {
        return Err(BenchError::Unsupported("bodies of NDJSON"));
    }
    let before = Cpu::now(&plan.pids);
    // Its rate is that of whole bodies, from the first byte to the answer: there is nothing to warm up.
    let load = Arc::new(Load::new(plan, Duration::ZERO));
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
            connection.shorten()?;
            connection.begin("POST", &path, "application/x-ndjson").await?;
            let (mut piece, mut n) = (Vec::new(), 0);
            // Whoever comes late has at least one to send.
            while n == 0 || load.now_us() < load.to_us() {
                piece.clear();
                for _ in 0..PIECE {
                    write_event(&mut piece, session, n, load.now_us(), load.text);
                    piece.push(b'\n');
                    n += 1;
                }
                if let Err(error) = connection.send(&piece).await {
                    // It may have been refused, and why is there to be read.
                    return Err(connection.refusal("POST a body of NDJSON").await.unwrap_or(error));
                }
                count(&load.appended, PIECE);
            }
            // What the system holds for who writes faster than the gateway reads is to be done first.
            let patience = PATIENCE + load.start.elapsed() * 10;
            let answer = connection.finish(patience).await?.ok("POST a body of NDJSON")?;
            let answer: Appended =
                serde_json::from_slice(&answer.body).map_err(|e| BenchError::Unreadable(e.to_string()))?;
            // What was lost or doubled is seen as it is read back; this alone would be no fault of the log.
            if answer.appended != n {
                let why = format!("the gateway says that it appended {} events of a body of {n}", answer.appended);
                load.faults.refused(&BenchError::Missing(why));
            }
            Ok::<_, BenchError>((session, n))
        });
    }
    let mut sent = vec![0; plan.sessions];
    while let Some(agent) = agents.join_next().await {
        let (session, n) = agent.unwrap_or_else(|e| Err(BenchError::Missing(e.to_string())))?;
        sent[session] = n;
    }
    let time = load.start.elapsed();
    let cpu = Some(Cpu::now(&plan.pids).since(before));
    drop(progress);
    if plan.progress {
        eprint!("reading them back ");
    }
    let reads = sent.iter().enumerate().map(|(session, sent)| read_back(target, names, &load, session, *sent));
    let read = stream::iter(reads).buffer_unordered(CHECKERS).try_fold(0, |sum, n| async move { Ok(sum + n) });
    let read_back = Some(read.await?);
    if plan.progress {
        eprintln!();
    }
    let title = format!("ingest: {} agents stream NDJSON, events of {} bytes of text", plan.sessions, plan.text);
    let appended = sent.iter().sum();
    Ok(Report { cpu, read_back, ..Report::new(title, &load.faults).over(time, appended, 0) })
}

/// Reads a session that `sent` events were sent to, and checks each. How many were there.
async fn read_back(target: &Target, names: &Names, load: &Load, session: usize, sent: u64) -> Result<u64, BenchError> {
    // The oldest may be trimmed, as the gateway says.
    let mut connection = Connection::open(target).await?;
    let state = connection.request("GET", &names.session(session), "", &[]).await?.ok("GET a session")?;
    let state: SessionState = serde_json::from_slice(&state.body).map_err(|e| BenchError::Unreadable(e.to_string()))?;
    let trimmed = state.lanes.events.first.map_or(0, |first| first.n.saturating_sub(1));
    let mut frames = connection.follow(&names.follow(session), None).await?;
    let mut reading = Reading::new(session, load.text, trimmed);
    frames
        .until_live(|came| {
            _ = reading.take(came, &load.faults);
        })
        .await?;
    count(&load.faults.lost, sent.saturating_sub(trimmed + reading.came()));
    Ok(reading.came())
}

#[derive(Deserialize)]
struct SessionState {
    lanes: Lanes,
}

#[derive(Deserialize)]
struct Lanes {
    events: Extent,
}

#[derive(Deserialize)]
struct Extent {
    first: Option<EntryId>,
}
