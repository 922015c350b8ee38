//! Nginx and HAProxy before two replicas, with the configurations of `docs/deploy/`: streams and bodies flow unbuffered,
//! survive silence, and resume over a reload.

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use serde_json::json;
use tempfile::TempDir;

use crate::support::{
    PATIENCE,
    crowd::{Crowd, Plan},
    eventually,
    gateway::{Entry, Session, Socket},
    http,
    process::Replica,
    redis::RedisServer,
    unique,
};

/// What stands for an hour in the configurations: how long a proxy lets a connection be silent.
const SILENCE: &str = "6s";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Nginx,
    Haproxy,
}

/// A proxy on a free port of 127.0.0.1. Ended when dropped.
struct Proxy {
    kind: Kind,
    addr: SocketAddr,
    child: Child,
    _directory: TempDir,
}

impl Proxy {
    fn start(kind: Kind, replicas: &[Replica; 2]) -> Self {
        for _ in 0..10 {
            if let Some(proxy) = Self::try_start(kind, replicas) {
                return proxy;
            }
        }
        panic!("{kind:?} does not start; see above");
    }

    /// `None`: somebody else has taken the port.
    fn try_start(kind: Kind, replicas: &[Replica; 2]) -> Option<Self> {
        let ports: Vec<TcpListener> = (0..2).map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
        let [addr, health] = [0, 1].map(|at: usize| ports[at].local_addr().expect("an address"));
        drop(ports);
        let directory = tempfile::tempdir().expect("a directory");
        let (file, program) = match kind {
            Kind::Nginx => ("nginx.conf", "nginx"),
            Kind::Haproxy => ("haproxy.cfg", "haproxy"),
        };
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/deploy").join(file);
        let mut config = std::fs::read_to_string(shipped).expect("the shipped configuration");
        let mut put = |what: &str, by: &str| {
            assert!(config.contains(what), "{file} says no more {what:?}");
            config = config.replace(what, by);
        };
        put("gateway-1:4770", &replicas[0].addr().to_string());
        put("gateway-2:4770", &replicas[1].addr().to_string());
        put(" 1h", &format!(" {SILENCE}"));
        match kind {
            Kind::Nginx => {
                put("listen 4770", &format!("listen {addr}"));
                put("worker_shutdown_timeout 10s", "worker_shutdown_timeout 1s");
                // Where it may write, whoever runs it.
                let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
                let temporary =
                    temporary.map(|what| format!("{what}_temp_path {}/{what};\n", directory.path().display()));
                put("http {\n", &format!("http {{\n{}", temporary.concat()));
            }
            Kind::Haproxy => {
                put("bind :4770", &format!("bind {addr}"));
                put("bind :4771", &format!("bind {health}"));
                put("hard-stop-after 10s", "hard-stop-after 1s");
            }
        }
        let path = directory.path().join(file);
        std::fs::write(&path, config).expect("written");
        let mut command = Command::new(program);
        match kind {
            Kind::Nginx => {
                let global = format!("daemon off; pid {}/pid;", directory.path().display());
                command.args(["-e", "stderr", "-g", &global, "-p"]).arg(directory.path()).arg("-c").arg(&path)
            }
            Kind::Haproxy => command.args(["-W", "-db", "-f"]).arg(&path),
        };
        let spawned = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let child =
            spawned.unwrap_or_else(|e| panic!("{program} cannot be run ({e}): run tests/run, which installs it"));
        let mut proxy = Proxy { kind, addr, child, _directory: directory };
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(addr).is_err() {
            if proxy.child.try_wait().expect("the state of a child").is_some() {
                eprintln!("{kind:?} ended as it started");
                return None;
            }
            assert!(Instant::now() < deadline, "{kind:?} does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
        Some(proxy)
    }

    fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    fn session(&self) -> Session {
        Session::at(&self.url(), &unique("s"))
    }

    /// Reads its configuration again, with new workers; the old ones keep what they have for a while.
    async fn reload(&self) {
        let (signal, number) = match self.kind {
            Kind::Nginx => ("-HUP", 1),
            Kind::Haproxy => ("-USR2", 12),
        };
        // The workers serve before their master listens to signals: one that comes too early is lost.
        let status = format!("/proc/{}/status", self.child.id());
        eventually("the proxy listens to signals", || async {
            let status = std::fs::read_to_string(&status).ok()?;
            let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"))?;
            let caught = u64::from_str_radix(caught.trim(), 16).ok()?;
            (caught >> (number - 1) & 1 == 1).then_some(())
        })
        .await;
        self.signal(signal);
    }

    fn signal(&self, signal: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().expect("the kill program").success());
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Its workers go with it.
        self.signal("-TERM");
        let _ = self.child.wait();
    }
}

fn replicas(heartbeat: &str) -> [Replica; 2] {
    replicas_with(&["--heartbeat", heartbeat])
}

fn replicas_with(arguments: &[&str]) -> [Replica; 2] {
    let (redis, prefix) = (RedisServer::shared().url(), unique("proxies"));
    // The proxy passes the client's `Host` on.
    let store = ["--redis-url", &redis, "--redis-prefix", &prefix, "--insecure-no-auth"];
    [(); 2].map(|()| Replica::start_with(&[&store, arguments].concat()))
}

/// Makes the tests `nginx::<promise>` and `haproxy::<promise>`.
macro_rules! before_both {
    ($($promise:ident),* $(,)?) => {
        mod nginx {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                super::$promise(super::Kind::Nginx).await;
            })*
        }
        mod haproxy {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                super::$promise(super::Kind::Haproxy).await;
            })*
        }
    };
}

before_both!(
    streams_and_bodies_flow_piece_by_piece,
    streams_survive_silences,
    reloads_cost_no_event,
    a_replica_that_goes_down_ends_what_it_has_itself,
    only_sessions_are_for_the_world,
);

async fn streams_and_bodies_flow_piece_by_piece(kind: Kind) {
    let replicas = replicas("15s");
    let proxy = Proxy::start(kind, &replicas);
    let session = proxy.session();
    session.append_numbers(0..1).await;
    let mut stream = session.follow("").await;
    assert_eq!(stream.data(1).await, [0]);
    stream.caught_up().await;
    // None is sent before the one before it has come out.
    for n in 1..20 {
        session.append_numbers(n..n + 1).await;
        assert_eq!(stream.data(1).await, [n]);
    }
    // In, too: the body never ends before its lines have come out.
    let mut body = Socket::connect(proxy.addr).await;
    let path = format!("/v1/sessions/{}/events", session.name);
    body.send(format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n"
    ))
    .await;
    for n in 20..30 {
        body.chunk(format!("{{\"data\":{n}}}\n")).await;
        let Entry { mut json, .. } = stream.entry().await;
        assert_eq!(json["data"].take(), n);
    }
    body.chunk("").await;
    assert_eq!(body.answer().await.is(201)["appended"], 10);
}

async fn streams_survive_silences(kind: Kind) {
    // The proxy cuts what is silent for six seconds; a stream is never silent for more than half of one, or what a busy
    // machine makes of that: two seconds were too few for it.
    let replicas = replicas("500ms");
    let proxy = Proxy::start(kind, &replicas);
    let session = proxy.session();
    let mut stream = session.follow("").await;
    stream.caught_up().await;
    let (silent, since) = (stream.raw.len(), Instant::now());
    // Half a second apart, and nothing else.
    while stream.raw.len() < silent + 2 * ":\n".len() * 7 {
        assert!(stream.read().await, "an end");
    }
    assert!(since.elapsed() > Duration::from_secs(6), "{:?}", since.elapsed());
    assert!(stream.raw[silent..].chunks(2).all(|beat| beat == b":\n"));
    session.append_numbers(1..2).await;
    assert_eq!(stream.data(1).await, [1]);
}

async fn reloads_cost_no_event(kind: Kind) {
    let replicas = replicas("500ms");
    let proxy = Proxy::start(kind, &replicas);
    let crowd = Crowd::start(Plan {
        urls: vec![proxy.url()],
        sessions: 4,
        agents: 8,
        clients: 24,
        pause: Duration::from_millis(20),
        retries: 3,
        patience: PATIENCE,
    });
    let streams = async |count: usize| {
        let open = || async { (crowd.tally().streams.load(Relaxed) >= count).then_some(()) };
        eventually("all streams are open", open).await;
    };
    streams(24).await;
    for round in 2..4 {
        let acknowledged = crowd.tally().acknowledged.load(Relaxed);
        proxy.reload().await;
        // The old worker cuts its streams after its time; appends go on over the new one.
        streams(24 * round).await;
        let goes_on = || async { (crowd.tally().acknowledged.load(Relaxed) > acknowledged + 100).then_some(()) };
        eventually("appends go on", goes_on).await;
    }
    crowd.settle().await;
}

/// Its proxy has noticed by then, and sends it nothing new; but what is under way is answered.
async fn a_replica_that_goes_down_ends_what_it_has_itself(kind: Kind) {
    let replicas = replicas_with(&["--heartbeat", "500ms", "--drain-wait", "5s", "--drain-spread", "100ms"]);
    let proxy = Proxy::start(kind, &replicas);
    let session = proxy.session();
    session.append_numbers(0..1).await;
    let mut stream = session.follow("").await;
    assert_eq!(stream.data(1).await, [0]);
    let mut body = session.open_body("/events", "content-type: application/x-ndjson").await;
    body.chunk("{\"data\":1}\n").await;
    assert_eq!(stream.data(1).await, [1]);
    replicas.iter().for_each(|replica| replica.signal("-TERM"));
    let problem = body.answer().await.problem(503, "draining");
    assert_eq!(problem["appended"], 1, "{problem}");
    stream.cut().await;
}

async fn only_sessions_are_for_the_world(kind: Kind) {
    let replicas = replicas("15s");
    let proxy = Proxy::start(kind, &replicas);
    for path in ["/metrics", "/livez", "/readyz"] {
        let answer = http().get(format!("{}{path}", proxy.url())).send().await.expect("an answer");
        assert_eq!(answer.status(), 404, "{path}");
    }
    let answer = proxy.session().post("/events", json!({"data": 1})).await;
    assert_eq!(answer.status, 201);
}
