//! What control costs a plain append: the throughput of appends of a registered run, against appends that carry the name
//! of a run that nobody registered, in the same process on the same Redis, in turns.
//!
//! `cargo bench --bench control` needs `redis-server` on the path, or MOORLINE_REDIS_URL.
//!
//! Three kinds of session: no run is registered (the measure of 1.00); one is; a thousand are. Two ways in: straight to
//! the writers, which is the most that control can cost, and through HTTP over connections that are kept. Each round
//! measures every kind once, in a changing order; the ratio is taken within a round, and its median is reported, with the
//! lowest and the highest.

use std::{
    net::SocketAddr,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use moorline::{
    config::Config,
    event::{Defaults, Event},
    id::Name,
    rules::{Action, Append, Limits, RunRequest},
    store::redis::{RedisConfig, RedisStore},
    writer::Writers,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

/// Many and short: what else the machine does then hits all kinds alike.
const ROUNDS: usize = 60;
const ROUND: Duration = Duration::from_millis(250);
/// Agents that append at the same time, each as soon as it has its answer.
const AGENTS: usize = 16;
/// Sessions that they write to.
const SESSIONS: usize = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Label,
    OneRun,
    ThousandRuns,
}

const KINDS: [Kind; 3] = [Kind::Label, Kind::OneRun, Kind::ThousandRuns];

impl Kind {
    fn runs(self) -> usize {
        match self {
            Kind::Label => 0,
            Kind::OneRun => 1,
            Kind::ThousandRuns => 1_000,
        }
    }

    fn session(self, n: usize) -> Name {
        name(&format!("{self:?}-{n}"))
    }
}

fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

/// A Redis of our own, killed at the end.
struct Redis(Child);

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn redis() -> (String, Option<Redis>) {
    if let Ok(url) = std::env::var("MOORLINE_REDIS_URL") {
        return (url, None);
    }
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
    let child = Command::new("redis-server")
        .args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", "", "--appendonly", "no"])
        .stdout(Stdio::null())
        .spawn()
        .expect("redis-server");
    let redis = Redis(child);
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        std::thread::sleep(Duration::from_millis(10));
    }
    (format!("redis://127.0.0.1:{port}/"), Some(redis))
}

#[tokio::main]
async fn main() {
    let (url, _redis) = redis();
    let prefix = format!("bench-{:x}:", std::process::id());
    let store = RedisStore::connect(RedisConfig { prefix: prefix.clone(), ..RedisConfig::new(url.clone()) });
    let store = Arc::new(store.await.expect("a connection to Redis"));
    let writers = Writers::new(store, Limits::default());
    let config = Config {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        redis_url: Some(url),
        redis_prefix: prefix,
        ..Config::default()
    };
    let server = moorline::serve(&config).await.expect("a gateway");

    for kind in KINDS {
        for n in 0..SESSIONS {
            for run in 0..kind.runs() {
                let start = RunRequest {
                    run: name(&format!("r{run}")),
                    agent: Some(name("writer")),
                    parent: None,
                    lease_ms: Some(3_600_000),
                    takeover: false,
                    speaker: None,
                };
                writers.act(&kind.session(n), Action::Start(start)).await.expect("a start");
            }
            if kind != Kind::Label {
                // The lease under load is a usual one, renewed every three seconds.
                let start = RunRequest {
                    run: name("r0"),
                    agent: None,
                    parent: None,
                    lease_ms: Some(30_000),
                    takeover: true,
                    speaker: None,
                };
                writers.act(&kind.session(n), Action::Start(start)).await.expect("a start");
            }
        }
    }

    println!("{AGENTS} agents, {SESSIONS} sessions, {ROUNDS} rounds of {ROUND:?} each; appends a second");
    for way in ["writers", "http"] {
        let mut rates: [Vec<f64>; 3] = Default::default();
        for round in 0..=ROUNDS {
            for k in 0..KINDS.len() {
                let at = (k + round) % KINDS.len();
                let rate = match way {
                    "writers" => straight(&writers, KINDS[at]).await,
                    _ => through_http(server.addr, KINDS[at]).await,
                };
                // The first round warms up.
                if round > 0 {
                    rates[at].push(rate);
                }
            }
        }
        for (at, kind) in KINDS.into_iter().enumerate() {
            let mut ratios: Vec<f64> = rates[at].iter().zip(&rates[0]).map(|(rate, label)| rate / label).collect();
            let mut sorted = rates[at].clone();
            ratios.sort_by(f64::total_cmp);
            sorted.sort_by(f64::total_cmp);
            println!(
                "{way:8} {:13} median {:7.0}/s   ratio {:.3} ({:.3} to {:.3})",
                format!("{kind:?}"),
                sorted[sorted.len() / 2],
                ratios[ratios.len() / 2],
                ratios[0],
                ratios[ratios.len() - 1],
            );
        }
    }
}

/// Lets agents append until the round is over, and gives their appends a second.
async fn measure<F: Future<Output = ()> + Send + 'static>(agent: impl Fn(usize, Arc<Round>) -> F) -> f64 {
    let round = Arc::new(Round::default());
    let mut agents = JoinSet::new();
    let began = Instant::now();
    for n in 0..AGENTS {
        agents.spawn(agent(n, round.clone()));
    }
    tokio::time::sleep(ROUND).await;
    let (appends, took) = (round.appends.load(Ordering::Relaxed), began.elapsed());
    round.over.store(true, Ordering::Relaxed);
    agents.join_all().await;
    appends as f64 / took.as_secs_f64()
}

#[derive(Default)]
struct Round {
    appends: AtomicU64,
    over: AtomicBool,
}

impl Round {
    fn goes_on(&self) -> bool {
        self.appends.fetch_add(1, Ordering::Relaxed);
        !self.over.load(Ordering::Relaxed)
    }
}

const EVENT: &str = r#"{"type":"text-delta","agent":"writer","run":"r0","data":{"id":"t1","delta":"Hello, world "}}"#;

async fn straight(writers: &Arc<Writers>, kind: Kind) -> f64 {
    measure(|n, round| {
        let (writers, session) = (writers.clone(), kind.session(n % SESSIONS));
        async move {
            let event = Event::from_json(EVENT, &Defaults::default(), 1_000).expect("an event");
            while round.goes_on() {
                let append = Append { events: vec![event.clone()], ..Append::default() };
                writers.act(&session, Action::Append(append)).await.expect("an append");
            }
        }
    })
    .await
}

async fn through_http(addr: SocketAddr, kind: Kind) -> f64 {
    measure(|n, round| {
        let session = kind.session(n % SESSIONS);
        async move {
            let request = format!(
                "POST /v1/sessions/{session}/events HTTP/1.1\r\nhost: b\r\ncontent-type: application/json\r\n\
                 content-length: {}\r\n\r\n{EVENT}",
                EVENT.len()
            );
            let mut stream = TcpStream::connect(addr).await.expect("a connection");
            stream.set_nodelay(true).expect("nodelay");
            let mut answer = vec![0; 4096];
            while round.goes_on() {
                stream.write_all(request.as_bytes()).await.expect("sent");
                let mut read = 0;
                // The answer is one small JSON object.
                while !answer[..read].ends_with(b"}") {
                    read += stream.read(&mut answer[read..]).await.expect("an answer");
                }
                assert!(answer.starts_with(b"HTTP/1.1 201"), "{}", String::from_utf8_lossy(&answer[..read]));
            }
        }
    })
    .await
}
