//! Clients that are not ours follow a gateway: npm `eventsource`, Python `httpx-sse`, `curl -N`.
//!
//! Each reads history and what is live through connections that are cut in the middle of a frame, comes back with its
//! last id, and must print every id once and in order. `tests/run` installs them; see `tests/clients/`.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use moorline::{
    client::{Client, Speaker},
    config::Config,
    http::Server,
    id::Name,
};
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines},
    net::{TcpListener, TcpStream},
    process::{Child, ChildStdout, Command},
};

use crate::support::unique;

/// Far more than any step takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
const HISTORY: u64 = 100;
const LIVE: u64 = 100;
/// What the first connections may bring, in bytes. History takes about 13,000, so two are cut in it and one while live
/// events arrive; an event takes about 130, so each ends within a frame.
const CUTS: [usize; 3] = [4_000, 4_000, 12_000];

#[tokio::test]
async fn npm_eventsource_reads_each_event_once() {
    let modules = installed("node/node_modules");
    let script = clients().join("follow.cjs");
    let node = move |url: &str| {
        let mut node = Command::new("node");
        node.env("NODE_PATH", &modules).arg(&script).arg(url);
        node
    };
    follows_through_cuts(node).await;
}

#[tokio::test]
async fn python_httpx_sse_reads_each_event_once() {
    let python = installed("python/bin/python");
    let script = clients().join("follow.py");
    let python = move |url: &str| {
        let mut command = Command::new(&python);
        command.arg(&script).arg(url);
        command
    };
    follows_through_cuts(python).await;
}

/// `curl` has no memory: the shell keeps the last id for it and calls it again.
#[tokio::test]
async fn curl_reads_each_event_once() {
    let script = clients().join("follow.sh");
    let shell = move |url: &str| {
        let mut shell = Command::new("bash");
        shell.arg(&script).arg(url);
        shell
    };
    follows_through_cuts(shell).await;
}

async fn follows_through_cuts(follower: impl Fn(&str) -> Command) {
    let gateway = Gateway::start().await;
    let mut ids = gateway.publish(0..HISTORY).await;
    let proxy = Proxy::start(gateway.server.addr).await;

    let mut running = Running::start(follower(&proxy.url(&gateway.session, "")));
    let mut seen = Vec::new();
    let mut caught_up = 0;
    loop {
        match running.line().await.as_deref() {
            Some("closed") => break,
            Some("caught-up") if caught_up == 0 => {
                caught_up = 1;
                for n in 0..LIVE {
                    ids.extend(gateway.publish(HISTORY + n..=HISTORY + n).await);
                }
                gateway.client.close(&gateway.session).await.expect("a closed session");
            }
            Some("caught-up") => caught_up += 1,
            Some(id) => seen.push(id.to_owned()),
            None => panic!("it ended before the session did, after {} events", seen.len()),
        }
    }
    assert_eq!(seen, ids);
    assert_eq!(proxy.connections(), CUTS.len() + 1, "each cut brings one reconnect");
    assert_eq!(caught_up, 2, "the last cut fell among live events");
    running.ends_well().await;

    // Whoever has everything is told so without a word, and stops.
    let last = ids.last().expect("events");
    let mut again = Running::start(follower(&proxy.url(&gateway.session, &format!("?after={last}"))));
    assert_eq!(again.line().await.as_deref(), Some("204"));
    again.ends_well().await;
}

/// A gateway of this process, with one session.
struct Gateway {
    server: Server,
    client: Client,
    session: Name,
}

impl Gateway {
    async fn start() -> Self {
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let server = moorline::serve(&Config { listen, ..Config::default() }).await.expect("a gateway");
        let client = Client::new(&format!("http://{}", server.addr), None).expect("a client");
        Gateway { server, client, session: unique("s").parse().expect("a name") }
    }

    /// Appends events, and gives their ids as clients print them.
    async fn publish(&self, numbers: impl IntoIterator<Item = u64>) -> Vec<String> {
        let event = |n| json!({"type": "text-delta", "agent": "writer", "data": {"n": n, "text": "forty bytes, more or less, of some text"}});
        let events: Vec<_> = numbers.into_iter().map(event).collect();
        let published = self.client.publish(&self.session, &Speaker::default(), &events).await.expect("an append");
        published.ids.iter().map(ToString::to_string).collect()
    }
}

/// Stands between client and gateway, and cuts the first connections after so many bytes of the answer.
struct Proxy {
    addr: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Proxy {
    async fn start(gateway: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("its address");
        let connections = Arc::new(AtomicUsize::new(0));
        let count = connections.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let limit = CUTS.get(count.fetch_add(1, Ordering::Relaxed)).copied().unwrap_or(usize::MAX);
                tokio::spawn(pass(client, gateway, limit));
            }
        });
        Proxy { addr, connections }
    }

    fn url(&self, session: &Name, query: &str) -> String {
        format!("http://{}/v1/sessions/{session}/events{query}", self.addr)
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

/// Passes everything on, both ways, until the client has had its share. Both sockets are then simply dropped.
async fn pass(client: TcpStream, gateway: SocketAddr, mut left: usize) {
    let gateway = TcpStream::connect(gateway).await.expect("the gateway");
    let ((mut from_client, mut to_client), (mut from_gateway, mut to_gateway)) =
        (client.into_split(), gateway.into_split());
    let requests = async move { tokio::io::copy(&mut from_client, &mut to_gateway).await.map(drop) };
    let answers = async move {
        let mut buffer = vec![0; 1024];
        while left > 0 {
            let size = from_gateway.read(&mut buffer).await?.min(left);
            if size == 0 {
                break;
            }
            to_client.write_all(&buffer[..size]).await?;
            left -= size;
        }
        std::io::Result::Ok(())
    };
    // A reset by either side is as good an end as any.
    tokio::select! {
        _ = requests => {}
        _ = answers => {}
    }
}

/// A follower's process. Killed when dropped.
struct Running {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Running {
    fn start(mut command: Command) -> Self {
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut process =
            command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}: run tests/run, which installs it"));
        let lines = BufReader::new(process.stdout.take().expect("its output")).lines();
        Running { process, lines }
    }

    /// The next line, or `None` at the end.
    async fn line(&mut self) -> Option<String> {
        tokio::time::timeout(PATIENCE, self.lines.next_line()).await.expect("a line in time").expect("UTF-8")
    }

    /// It says nothing more and ends by itself, content.
    async fn ends_well(mut self) {
        assert_eq!(self.line().await, None);
        let ended = tokio::time::timeout(PATIENCE, self.process.wait()).await.expect("an end in time");
        let status = ended.expect("its status");
        assert!(status.success(), "{status}");
    }
}

pub fn clients() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients")
}

/// What `tests/run` has put into the target directory.
pub fn installed(path: &str) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the target directory");
    let path = target.join("independent-clients").join(path);
    assert!(path.exists(), "{} is missing: run tests/run, which installs it", path.display());
    path
}
