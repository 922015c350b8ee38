//! Real `redis-server` processes, to be used, frozen, killed and restarted.
//!
//! None outlives the test process, however that ends: each has a watchdog, a shell that reads a pipe whose other end
//! we hold. When we are gone the pipe ends, and the shell kills the server and removes its directory. (Statics are not
//! dropped, and a killed process drops nothing.)

use std::{
    net::TcpListener,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use redis::{Client, Connection, RedisResult, Value};
use tempfile::TempDir;

/// How long a server may take to come up, or to answer a command.
const PATIENCE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(5);

/// Durable: an answered write survives `kill -9`.
pub const APPEND_ONLY: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "always"];

/// A `redis-server` of our own on 127.0.0.1. Killed when dropped.
pub struct RedisServer {
    port: u16,
    arguments: Vec<String>,
    dir: TempDir,
    process: Mutex<Option<Process>>,
}

/// A running server and who kills it if we cannot. `None` while the server is down.
struct Process {
    server: Child,
    watchdog: Child,
}

impl RedisServer {
    /// The one that all tests share which do it no harm. They keep apart by their key prefixes.
    pub fn shared() -> &'static RedisServer {
        static SHARED: OnceLock<RedisServer> = OnceLock::new();
        SHARED.get_or_init(RedisServer::start)
    }

    /// A server of the caller's own, which keeps nothing on disk.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same with further arguments, [`APPEND_ONLY`] for instance.
    pub fn start_with(arguments: &[&str]) -> Self {
        let dir = tempfile::Builder::new().prefix("moorline-redis-").tempdir().expect("a temporary directory");
        let arguments: Vec<String> = arguments.iter().map(|a| (*a).to_owned()).collect();
        // Between our probe of a port and the server's bind somebody else may take it: then another port.
        for _ in 0..20 {
            let probe = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port");
            if let Some(process) = launch(probe.port(), &arguments, &dir) {
                return RedisServer { port: probe.port(), arguments, dir, process: Mutex::new(Some(process)) };
            }
        }
        panic!("redis-server does not start with {arguments:?}; its log is above");
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port())
    }

    /// Ends the server at once, with whatever it had not written.
    pub fn kill9(&self) {
        *self.process() = None;
    }

    /// Starts the server again after [`kill9`](Self::kill9), on the same port and directory.
    pub fn restart(&self) {
        let mut process = self.process();
        *process = None;
        let deadline = Instant::now() + PATIENCE;
        while process.is_none() {
            assert!(Instant::now() < deadline, "redis-server does not come back on port {}", self.port);
            *process = launch(self.port, &self.arguments, &self.dir);
        }
    }

    /// Stops the server from running: connections stay open, and nothing answers.
    pub fn freeze(&self) {
        self.signal("-STOP");
    }

    /// Ends a [`freeze`](Self::freeze).
    pub fn thaw(&self) {
        self.signal("-CONT");
    }

    /// Runs a command and gives its reply as `redis-cli` would print it, a line an element. Panics at an error.
    pub fn cli(&self, command: &[&str]) -> String {
        let reply = connect(self.port).and_then(|mut connection| run(&mut connection, command));
        printed(&reply.unwrap_or_else(|error| panic!("{command:?}: {error}")))
    }

    /// The same with a password.
    pub fn cli_as(&self, password: &str, command: &[&str]) -> String {
        let url = format!("redis://:{password}@127.0.0.1:{}/", self.port);
        let connection = Client::open(url).and_then(|client| client.get_connection_with_timeout(PATIENCE));
        let reply = connection.and_then(|mut connection| run(&mut connection, command));
        printed(&reply.unwrap_or_else(|error| panic!("{command:?}: {error}")))
    }

    fn signal(&self, signal: &str) {
        let process = self.process();
        let server = &process.as_ref().expect("a running server").server;
        assert!(kill(signal, server.id()).success(), "kill {signal}");
    }

    fn process(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The watchdog first: it must not kill whoever gets the number of a process that we have reaped.
        for child in [&mut self.watchdog, &mut self.server] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// `None` if the port is taken.
fn launch(port: u16, arguments: &[String], dir: &TempDir) -> Option<Process> {
    let log = dir.path().join("redis.log");
    let mut server = Command::new("redis-server")
        .args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", "", "--daemonize", "no"])
        .arg("--dir")
        .arg(dir.path())
        .arg("--logfile")
        .arg(&log)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap_or_else(|e| panic!("redis-server cannot be run ({e}): run tests/run, which installs it"));
    let watchdog = Command::new("sh")
        .args(["-c", "trap '' HUP INT TERM; read _; kill -9 $1; rm -rf \"$2\"", "watchdog"])
        .arg(server.id().to_string())
        .arg(dir.path())
        .stdin(Stdio::piped())
        .spawn();
    let watchdog = watchdog.inspect_err(|_| drop(server.kill())).expect("a shell");
    let mut process = Process { server, watchdog };

    let pid = process.server.id().to_string();
    let deadline = Instant::now() + PATIENCE;
    loop {
        if process.server.try_wait().expect("the state of a child").is_some() {
            let log = std::fs::read_to_string(&log).unwrap_or_default();
            if !log.contains("Address already in use") {
                eprintln!("redis-server ended as it started:\n{log}");
            }
            return None;
        }
        // Whoever else has the port may be a redis too: ask who answers. While it loads its data it answers no PING.
        let ready = connect(port).and_then(|mut connection| {
            run(&mut connection, &["PING"])?;
            run(&mut connection, &["INFO", "server"])
        });
        if ready.is_ok_and(|info| printed(&info).lines().any(|line| line.strip_prefix("process_id:") == Some(&pid))) {
            return Some(process);
        }
        assert!(Instant::now() < deadline, "redis-server answers no PING on port {port}");
        std::thread::sleep(POLL);
    }
}

fn connect(port: u16) -> RedisResult<Connection> {
    let connection = Client::open(("127.0.0.1", port))?.get_connection_with_timeout(PATIENCE)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    Ok(connection)
}

fn run(connection: &mut Connection, command: &[&str]) -> RedisResult<Value> {
    let (name, arguments) = command.split_first().expect("a command");
    redis::cmd(name).arg(arguments).query(connection)
}

fn printed(reply: &Value) -> String {
    match reply {
        Value::Nil => String::new(),
        Value::Int(number) => number.to_string(),
        Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::SimpleString(text) => text.clone(),
        Value::Okay => "OK".into(),
        Value::Array(values) => values.iter().map(printed).collect::<Vec<_>>().join("\n"),
        other => format!("{other:?}"),
    }
}

fn kill(signal: &str, pid: u32) -> ExitStatus {
    Command::new("kill").args([signal, &pid.to_string()]).status().expect("the kill program")
}
