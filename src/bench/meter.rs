//! What was measured, and how it is told.

use std::{
    fmt,
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use serde::Serialize;

use super::{BenchError, Cpu};
use crate::lock::lock;

/// Latencies of one kind, in microseconds, from many tasks.
pub struct Meter {
    shards: Vec<Mutex<Histogram<u64>>>,
}

impl Meter {
    pub fn new() -> Self {
        Meter { shards: (0..16).map(|_| Mutex::new(histogram())).collect() }
    }

    pub fn record(&self, shard: usize, micros: u64) {
        let mut shard = lock(&self.shards[shard % self.shards.len()]);
        shard.saturating_record(micros);
    }

    /// `None`: nothing was recorded.
    pub fn latency(&self) -> Option<Latency> {
        let mut all = histogram();
        for shard in &self.shards {
            let shard = lock(shard);
            // All have the same bounds.
            let _ = all.add(&*shard);
        }
        let at = |quantile: f64| all.value_at_quantile(quantile) as f64 / 1000.0;
        (!all.is_empty()).then(|| Latency {
            count: all.len(),
            p50_ms: at(0.5),
            p90_ms: at(0.9),
            p99_ms: at(0.99),
            p999_ms: at(0.999),
            max_ms: all.max() as f64 / 1000.0,
        })
    }
}

/// Two days at three digits, longer than any run: the bounds are constants, and right.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 2 * 86_400_000_000, 3).unwrap_or_else(|_| unreachable!())
}

/// Counts so many more.
pub fn count(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}

/// The distribution of a latency, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
#[allow(missing_docs)]
pub struct Latency {
    pub count: u64,
    pub p50_ms: f64,
    pub p90_ms: f64,
    pub p99_ms: f64,
    pub p999_ms: f64,
    pub max_ms: f64,
}

/// What went wrong with deliveries, over all clients.
#[derive(Debug, Default)]
pub struct Faults {
    pub lost: AtomicU64,
    pub duplicated: AtomicU64,
    pub reordered: AtomicU64,
    pub corrupt: AtomicU64,
    pub failed: AtomicU64,
    pub first_refusal: OnceLock<String>,
}

impl Faults {
    /// Counts a refusal. What the first one said is kept.
    pub fn refused(&self, refusal: &BenchError) {
        count(&self.failed, 1);
        self.first_refusal.get_or_init(|| refusal.to_string());
    }
}

/// The result of a run.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// What was run.
    pub title: String,
    /// How long was measured.
    pub seconds: f64,
    /// Events appended in that time.
    pub events: u64,
    /// Events that reached clients in that time.
    pub deliveries: u64,
    /// Events appended a second.
    pub events_per_second: f64,
    /// Deliveries a second.
    pub deliveries_per_second: f64,
    /// From the due time of an event to its arrival at a client.
    pub delivery: Option<Latency>,
    /// From the sending of an append to its answer.
    pub append: Option<Latency>,
    /// Until a client had caught up.
    pub caught_up: Option<Latency>,
    /// Bytes of the gateway's memory for each client.
    pub bytes_per_client: Option<f64>,
    /// CPU time of the load and of the gateway while it was measured.
    pub cpu: Option<Cpu>,
    /// The rate that was asked for (an open loop).
    pub asked_per_second: Option<f64>,
    /// Events that were due, and not sent: the gateway, or this load, is too slow for the rate.
    pub unsent: u64,
    /// Events that were read back after an ingest.
    pub read_back: Option<u64>,
    /// Events that never came.
    pub lost: u64,
    /// Events that came twice.
    pub duplicated: u64,
    /// Events that came before an earlier one.
    pub reordered: u64,
    /// Events that were not what was sent.
    pub corrupt: u64,
    /// Requests that were refused or broke.
    pub failed: u64,
    /// What the first refusal said.
    pub first_refusal: Option<String>,
}

impl Report {
    /// A report on these faults.
    pub fn new(title: String, faults: &Faults) -> Self {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Report {
            title,
            lost: get(&faults.lost),
            duplicated: get(&faults.duplicated),
            reordered: get(&faults.reordered),
            corrupt: get(&faults.corrupt),
            failed: get(&faults.failed),
            first_refusal: faults.first_refusal.get().cloned(),
            ..Default::default()
        }
    }

    /// The rates, from counts and time.
    pub fn over(self, time: Duration, events: u64, deliveries: u64) -> Self {
        let seconds = time.as_secs_f64();
        Report {
            seconds,
            events,
            deliveries,
            events_per_second: events as f64 / seconds,
            deliveries_per_second: deliveries as f64 / seconds,
            ..self
        }
    }

    /// Whether nothing was measured, although nothing went wrong.
    pub fn says_nothing(&self) -> bool {
        self.delivery.is_none() && self.caught_up.is_none() && self.events == 0
    }

    /// Whether every event came once, in order, as it was sent.
    pub fn is_clean(&self) -> bool {
        self.lost + self.duplicated + self.reordered + self.corrupt + self.failed == 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.title)?;
        if self.events > 0 {
            writeln!(
                f,
                "  events      {:>12}   {:>12}/s",
                grouped(self.events as f64),
                grouped(self.events_per_second)
            )?;
        }
        // By when they were due: with a long way to the gateway the first answers come late, and as many after the end.
        let sent = self.append.map_or(0, |append| append.count) as f64;
        if let Some(asked) = self.asked_per_second.filter(|asked| sent < asked * self.seconds * 0.99 - 1.0) {
            write!(f, "  behind      {:>12}   {:>12}/s were due", "", grouped(asked))?;
            match self.unsent {
                0 => writeln!(f)?,
                n => writeln!(f, "; {} events were never sent, and are in no latency", grouped(n as f64))?,
            }
        }
        if let Some(count) = self.read_back {
            write!(f, "  read back   {:>12}", grouped(count as f64))?;
            let trimmed = self.events.saturating_sub(count + self.lost);
            match trimmed {
                0 => writeln!(f)?,
                n => writeln!(f, "   ({} older ones were trimmed by then)", grouped(n as f64))?,
            }
        }
        if self.deliveries > 0 {
            let rate = grouped(self.deliveries_per_second);
            writeln!(
                f,
                "  deliveries  {:>12}   {rate:>12}/s   in {:.1} s",
                grouped(self.deliveries as f64),
                self.seconds
            )?;
        }
        let latencies = [("delivery", self.delivery), ("append", self.append), ("caught up", self.caught_up)];
        if latencies.iter().any(|(_, latency)| latency.is_some()) {
            writeln!(f, "  ms          {:>9} {:>9} {:>9} {:>9} {:>9}", "p50", "p90", "p99", "p99.9", "max")?;
        }
        for (name, latency) in latencies {
            if let Some(l) = latency {
                let row = [l.p50_ms, l.p90_ms, l.p99_ms, l.p999_ms, l.max_ms].map(|ms| format!("{ms:>9.2}"));
                writeln!(f, "  {name:<11} {}", row.join(" "))?;
            }
        }
        if self.asked_per_second.is_some() && self.append.is_some() {
            writeln!(
                f,
                "              a delivery counts from when its event was due, an append from when it was sent"
            )?;
        }
        if let Some(bytes) = self.bytes_per_client {
            writeln!(f, "  memory      {:>12} bytes a client", grouped(bytes))?;
        }
        if let Some(Cpu { load, loaded, .. }) = &self.cpu {
            let what = if self.deliveries > 0 { "a delivery" } else { "an event" };
            let count = if self.deliveries > 0 { self.deliveries } else { self.events };
            let each = |cpu: &f64| cpu * 1e6 / count.max(1) as f64;
            write!(f, "  CPU         {load:>12.2} s of the load ({:.1} µs {what})", each(load))?;
            if *loaded > 0.0 {
                write!(f, ", {loaded:.2} s of the gateway ({:.1} µs)", each(loaded))?;
            }
            writeln!(f)?;
        }
        let Report { lost, duplicated, reordered, corrupt, failed, .. } = self;
        write!(
            f,
            "  lost {lost}, duplicated {duplicated}, out of order {reordered}, corrupt {corrupt}, failed requests {failed}"
        )?;
        match &self.first_refusal {
            Some(first) => write!(f, "\n  first of them: {first}"),
            None => Ok(()),
        }
    }
}

/// `12,345`
fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Says on stderr once a second how it goes, until dropped.
pub struct Progress(Option<tokio::task::JoinHandle<()>>);

impl Progress {
    pub fn start(on: bool, count: impl Fn() -> u64 + Send + 'static, what: &'static str) -> Self {
        Progress(on.then(|| {
            tokio::spawn(async move {
                let (started, mut before) = (Instant::now(), count());
                loop {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    let now = count();
                    eprint!(
                        "\r{:>4.0} s  {:>12} {what}/s ",
                        started.elapsed().as_secs_f64(),
                        grouped((now - before) as f64)
                    );
                    before = now;
                }
            })
        }))
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(task) = self.0.take() {
            task.abort();
            eprintln!();
        }
    }
}
