//! `moorline serve` as processes of their own, to be killed.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
};

use super::eventually;

/// A gateway process on a free port of 127.0.0.1. Killed when dropped.
pub struct Replica {
    url: String,
    child: Mutex<Child>,
    log: Arc<Mutex<String>>,
}

impl Replica {
    /// Starts a gateway on this Redis, under this key prefix, and waits until it listens.
    pub fn start(redis_url: &str, prefix: &str) -> Self {
        Self::start_with(&["--redis-url", redis_url, "--redis-prefix", prefix])
    }

    /// Starts a gateway with these arguments.
    pub fn start_with(arguments: &[&str]) -> Self {
        Self::try_start(arguments).unwrap_or_else(|said| panic!("the gateway ended before it listened:\n{said}"))
    }

    /// The same, or what it said before it ended.
    pub fn try_start(arguments: &[&str]) -> Result<Self, String> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_moorline"));
        command.args(["serve", "--listen", "127.0.0.1:0"]).args(arguments);
        Self::try_run(&mut command)
    }

    /// The same for a command that starts a gateway.
    pub fn try_run(command: &mut Command) -> Result<Self, String> {
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the moorline program");
        let mut log = BufReader::new(child.stderr.take().expect("a piped stderr"));
        let mut seen = String::new();
        let url = loop {
            let mut line = String::new();
            let read = log.read_line(&mut line).expect("the gateway's log");
            if read == 0 {
                let _ = child.wait();
                return Err(seen);
            }
            // As text or as JSON.
            if let Some((_, url)) = line.trim_end().split_once("listens on ") {
                break url.trim_end_matches("\"}").to_owned();
            }
            seen.push_str(&line);
        };
        // Read on to the end, or the gateway would stop at a full pipe. What it says is shown with a failed test.
        let said = Arc::new(Mutex::new(seen));
        let saying = said.clone();
        std::thread::spawn(move || {
            let mut line = String::new();
            while log.read_line(&mut line).is_ok_and(|read| read > 0) {
                saying.lock().unwrap_or_else(PoisonError::into_inner).push_str(&std::mem::take(&mut line));
            }
            eprint!("{}", saying.lock().unwrap_or_else(PoisonError::into_inner));
        });
        Ok(Replica { url, child: Mutex::new(child), log: said })
    }

    /// What it has said so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// `http://127.0.0.1:<port>`
    pub fn url(&self) -> &str {
        &self.url
    }

    /// `<address>:<port>`
    pub fn addr(&self) -> SocketAddr {
        self.url.strip_prefix("http://").and_then(|addr| addr.parse().ok()).expect("an address")
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.lock().unwrap_or_else(PoisonError::into_inner).id()
    }

    /// Sends it a signal: `-TERM`, `-STOP`, `-CONT`.
    pub fn signal(&self, signal: &str) {
        let id = self.pid().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().expect("the kill program").success());
    }

    /// Waits for its end, and gives its exit code; `None` if a signal ended it.
    pub async fn ended(&self) -> Option<i32> {
        let ended = || async { self.child.lock().unwrap_or_else(PoisonError::into_inner).try_wait().expect("a child") };
        eventually("the gateway's end", ended).await.code()
    }

    /// Ends it at once.
    pub fn kill9(&self) {
        let mut child = self.child.lock().unwrap_or_else(|e| e.into_inner());
        let _ = child.kill();
        let _ = child.wait();
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.kill9();
    }
}
