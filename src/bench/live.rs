//! Shapes with events under way: tokens, broadcast.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    sync::{SetOnce, mpsc},
    task::JoinSet,
    time::sleep,
};

use super::{
    BenchError, Cpu, Names, Plan, Report, Shape, Target,
    meter::{Faults, Meter, Progress, count},
    reading::Reading,
    wire::{Connection, Frame, Frames, PATIENCE},
    write_event,
};

/// How long a client may take, after the last event was published, to have them all.
const LAST_WAIT: Duration = Duration::from_secs(20);
/// How long clients are read on after that, for what should not come: an event that comes again.
const EXTRA: Duration = Duration::from_millis(250);
/// How long a publisher waits after a refusal if nothing else says when the next event is due, and before it connects again.
const AFTER_REFUSAL: Duration = Duration::from_millis(100);

pub struct Load {
    pub start: Instant,
    /// Measured from here, in microseconds after the start …
    from_us: u64,
    /// … to here, or to where it was told to end.
    until_us: u64,
    stop: Arc<SetOnce<Instant>>,
    pub text: usize,
    /// The number of the next event of each session.
    published: Vec<AtomicU64>,
    /// Of those before it, how many may not be in the log: they were sent, and not answered with success.
    unsure: Vec<AtomicU64>,
    /// How many events have come to each client …
    came: Vec<AtomicU64>,
    /// … which number it has got to …
    reached: Vec<AtomicU64>,
    /// … and whether its stream is over.
    ended: Vec<AtomicBool>,
    /// Since when each publisher waits for an answer, in microseconds after the start; 0 if it does not.
    waiting: Vec<AtomicU64>,
    pub appended: AtomicU64,
    delivered: AtomicU64,
    /// Events that were due, and not sent.
    unsent: AtomicU64,
    delivery: Meter,
    append: Meter,
    pub faults: Faults,
}

impl Load {
    pub fn new(plan: &Plan, warmup: Duration) -> Self {
        Load {
            start: Instant::now(),
            from_us: warmup.as_micros() as u64,
            until_us: (warmup + plan.duration).as_micros() as u64,
            stop: plan.stop.clone(),
            text: plan.text,
            published: zeros(plan.sessions),
            unsure: zeros(plan.sessions),
            came: zeros(plan.sessions * plan.clients),
            reached: zeros(plan.sessions * plan.clients),
            ended: (0..plan.sessions * plan.clients).map(|_| AtomicBool::new(false)).collect(),
            waiting: zeros(plan.publishers),
            appended: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            unsent: AtomicU64::new(0),
            delivery: Meter::new(),
            append: Meter::new(),
            faults: Faults::default(),
        }
    }

    pub fn now_us(&self) -> u64 {
        self.start.elapsed().as_micros() as u64
    }

    pub fn to_us(&self) -> u64 {
        let told = self.stop.get().map(|at| at.saturating_duration_since(self.start).as_micros() as u64);
        told.unwrap_or(u64::MAX).min(self.until_us)
    }

    fn measured(&self, at_us: u64) -> bool {
        (self.from_us..self.to_us()).contains(&at_us)
    }

    /// Events that should have come to a client, and have not.
    fn missing(&self, client: usize) -> u64 {
        let session = client % self.published.len();
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        get(&self.published[session]).saturating_sub(get(&self.unsure[session]) + get(&self.came[client]))
    }

    /// Whether what is missing there may still come. What is passed over in the middle will not.
    fn may_go_on(&self, client: usize) -> bool {
        let published = self.published[client % self.published.len()].load(Ordering::Relaxed);
        let reached = self.reached[client].load(Ordering::Relaxed);
        reached < published && self.missing(client) > 0 && !self.ended[client].load(Ordering::Relaxed)
    }

    /// How long is waited, after the end, for what is late.
    fn last_wait(&self) -> Duration {
        if self.stop.get().is_some() { Duration::from_secs(1) } else { LAST_WAIT }
    }

    /// So long after the end that what was due by then and is still not sent would say nothing new.
    fn is_hopeless(&self) -> bool {
        self.now_us() > self.to_us() + self.last_wait().as_micros() as u64
    }

    /// How long was measured.
    fn measured_for(&self) -> Result<Duration, BenchError> {
        let time = self.to_us().checked_sub(self.from_us).filter(|us| *us > 0).map(Duration::from_micros);
        time.ok_or(BenchError::Interrupted)
    }

    /// An event has come to a client.
    fn arrived(&self, client: usize, due: u64) {
        let now = self.now_us();
        if self.measured(now) {
            count(&self.delivered, 1);
        }
        // By the time at which it was due: what was held up until after the end is late, not missing.
        if self.measured(due) {
            self.delivery.record(client, now.saturating_sub(due));
        }
    }

    /// Ends when a publisher has waited too long for an answer.
    async fn frozen(&self) -> BenchError {
        loop {
            sleep(Duration::from_secs(1)).await;
            let long_ago = self.now_us().saturating_sub(PATIENCE.as_micros() as u64);
            let since = self.waiting.iter().map(|since| since.load(Ordering::Relaxed));
            if since.filter(|since| *since > 0).any(|since| since < long_ago) {
                let why = format!("a POST was not answered within {PATIENCE:?}: the gateway may be frozen");
                return BenchError::Missing(why);
            }
        }
    }
}

fn zeros(count: usize) -> Vec<AtomicU64> {
    (0..count).map(|_| AtomicU64::new(0)).collect()
}

pub async fn run(target: &Target, plan: &Plan, names: &Names) -> Result<Report, BenchError> {
    let total = plan.sessions * plan.clients;
    // Clients first, so that the clock starts with all of them live.
    // Spread over the sessions, and within each.
    let stalled = |n: usize| (n % plan.sessions + n / plan.sessions * 37) % 100 >= 100 - plan.stalled;
    let (mut streams, mut unread) = (Vec::with_capacity(total), Vec::new());
    let connect = async {
        for n in 0..total {
            let session = n % plan.sessions;
            let connection = Connection::open(target).await?;
            if stalled(n) {
                connection.shrink()?;
                unread.push(connection.follow(&names.follow(session), None).await?);
                continue;
            }
            let mut frames = connection.follow(&names.follow(session), None).await?;
            if target.dialect.says_live() {
                frames.until_live(|_| ()).await?;
            }
            streams.push((n, frames));
            plan.connected(n, total);
        }
        Ok(())
    };
    plan.prepare(connect).await?;
    let load = Arc::new(Load::new(plan, plan.warmup));
    // What was begun ends with this function, also if that is dropped.
    let (mut readers, mut publishing, mut cpu) = (JoinSet::new(), JoinSet::new(), JoinSet::new());
    streams.into_iter().for_each(|(n, frames)| drop(readers.spawn(follow(load.clone(), n, frames))));
    cpu.spawn(measure_cpu(plan.clone()));
    let progress = {
        let load = load.clone();
        let came = move || load.came.iter().map(|came| came.load(Ordering::Relaxed)).sum();
        Progress::start(plan.progress, came, "deliveries")
    };
    // No more publishers than sessions: each session's events must come in their order.
    let publishers = plan.publishers.min(plan.sessions);
    let mut dues = Vec::new();
    for p in 0..publishers {
        let paths = (0..plan.sessions).filter(|s| s % publishers == p).map(|s| (s, names.publish(s))).collect();
        let due = plan.rate.map(|_| {
            // As long as the gateway is behind: that is what an open loop measures.
            let (due, turn) = mpsc::unbounded_channel();
            dues.push(due);
            turn
        });
        publishing.spawn(publish(target.clone(), load.clone(), p, plan.numbered, due, paths));
    }
    if let Some(rate) = plan.rate {
        let load = load.clone();
        std::thread::spawn(move || pace(&load, rate, &dues));
    }
    let all_published = async {
        while let Some(publisher) = publishing.join_next().await {
            publisher.unwrap_or_else(|e| Err(BenchError::Missing(e.to_string())))?;
        }
        Ok::<_, BenchError>(())
    };
    tokio::select! {
        result = all_published => result?,
        error = load.frozen() => return Err(error),
    }
    let clients = || (0..total).filter(|n| !stalled(*n));
    let awaited = || clients().any(|n| load.may_go_on(n));
    let waiting = Instant::now();
    while awaited() && waiting.elapsed() < load.last_wait() {
        sleep(Duration::from_millis(20)).await;
    }
    plan.pause(EXTRA).await;
    count(&load.faults.lost, clients().map(|n| load.missing(n)).sum());
    readers.abort_all();
    while let Some(reader) = readers.join_next().await {
        // It reads until it is told to end; else its stream ended or could not be read, or it panicked.
        if !reader.is_err_and(|ended| ended.is_cancelled()) {
            count(&load.faults.failed, 1);
        }
    }
    let not_read = unread.len();
    drop((progress, unread));
    let cpu = cpu.join_next().await.and_then(Result::ok);
    let name = if plan.shape == Shape::Broadcast { "broadcast" } else { "tokens" };
    let pace = plan.rate.map_or_else(|| "closed loop".to_owned(), |rate| format!("{rate:.0} events/s"));
    let stalled = if not_read > 0 { format!(" ({not_read} of them stalled)") } else { String::new() };
    let numbered = if plan.numbered { "numbered " } else { "" };
    let title = format!(
        "{name}: {} sessions × {} clients{stalled}, {} publishers, {pace}, {numbered}events of {} bytes of text",
        plan.sessions, plan.clients, publishers, plan.text
    );
    let report = Report::new(title, &load.faults).over(
        load.measured_for()?,
        load.appended.load(Ordering::Relaxed),
        load.delivered.load(Ordering::Relaxed),
    );
    Ok(Report {
        delivery: load.delivery.latency(),
        append: load.append.latency(),
        cpu,
        asked_per_second: plan.rate,
        unsent: load.unsent.load(Ordering::Relaxed),
        ..report
    })
}

/// Reads a stream until it ends.
async fn follow(load: Arc<Load>, client: usize, mut frames: Frames) {
    let mut reading = Reading::new(client % load.published.len(), load.text, 0);
    let mut open = true;
    while open {
        let read = frames.read(|frame| {
            if let Frame::Event(came) = frame
                && let Some(due) = reading.take(came, &load.faults)
            {
                load.arrived(client, due);
            }
        });
        open = read.await.unwrap_or(false);
        load.came[client].store(reading.came(), Ordering::Relaxed);
        load.reached[client].store(reading.reached(), Ordering::Relaxed);
    }
    load.ended[client].store(true, Ordering::Relaxed);
}

/// The CPU time that goes by while a plan is measured.
async fn measure_cpu(plan: Plan) -> Cpu {
    plan.pause(plan.warmup).await;
    let before = Cpu::now(&plan.pids);
    plan.pause(plan.duration).await;
    Cpu::now(&plan.pids).since(before)
}

/// Tells the publishers in turn when an event is due. A thread of its own, for the runtime's timers count whole
/// milliseconds.
fn pace(load: &Load, rate: f64, publishers: &[mpsc::UnboundedSender<u64>]) {
    for turn in 0u64.. {
        let due = (turn as f64 * 1e6 / rate) as u64;
        if due >= load.to_us() {
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
    let mut accepted = false;
    for (session, path) in paths.iter().cycle() {
        let due = match &mut dues {
            Some(dues) => match dues.recv().await {
                Some(_) if load.is_hopeless() => {
                    count(&load.unsent, 1 + rest_of(dues));
                    None
                }
                due => due,
            },
            None => Some(load.now_us()).filter(|now| *now < load.to_us()),
        };
        let Some(due) = due else { break };
        let sent = load.now_us();
        let n = load.published[*session].load(Ordering::Relaxed);
        body.clear();
        write_event(&mut body, *session, n, due, load.text);
        load.waiting[publisher].store(sent.max(1), Ordering::Relaxed);
        let answer = if numbered {
            connection.numbered(path, "application/json", n, &body).await
        } else {
            connection.request("POST", path, "application/json", &body).await
        };
        load.waiting[publisher].store(0, Ordering::Relaxed);
        match answer.and_then(|answer| answer.ok("POST an event")) {
            Ok(_) => accepted = true,
            // Nothing was ever accepted: it is wrong, not busy.
            Err(error) if !accepted => return Err(error),
            Err(error) => {
                load.faults.refused(&error);
                // It may be in the log. With its number it can be sent again; without, the next one takes its place.
                if error.is_unsure() && !numbered {
                    load.unsure[*session].fetch_add(1, Ordering::Relaxed);
                    load.published[*session].store(n + 1, Ordering::Relaxed);
                }
                if !matches!(error, BenchError::Status { .. }) {
                    match reconnect(&target, &load).await {
                        Some(again) => connection = again,
                        None => {
                            count(&load.unsent, dues.as_mut().map_or(0, rest_of));
                            break;
                        }
                    }
                } else if dues.is_none() {
                    sleep(AFTER_REFUSAL).await;
                }
                continue;
            }
        }
        load.published[*session].store(n + 1, Ordering::Relaxed);
        let now = load.now_us();
        if load.measured(now) {
            count(&load.appended, 1);
        }
        if load.measured(due) {
            load.append.record(publisher, now - sent);
        }
    }
    Ok(())
}

/// How many more are due already.
fn rest_of(dues: &mut mpsc::UnboundedReceiver<u64>) -> u64 {
    std::iter::from_fn(|| dues.try_recv().ok()).count() as u64
}

/// A connection in place of one that broke, if there is one before the end.
async fn reconnect(target: &Target, load: &Load) -> Option<Connection> {
    while load.now_us() < load.to_us() {
        if let Ok(connection) = Connection::open(target).await {
            return Some(connection);
        }
        sleep(AFTER_REFUSAL).await;
    }
    None
}
