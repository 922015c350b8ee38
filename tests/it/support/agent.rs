//! The examples' agents as processes of their own, to be commanded, frozen and killed.

use std::{
    io::Read,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{LazyLock, Mutex},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use super::PATIENCE;

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    Python,
    Rust,
}

/// A running agent. Killed when dropped.
pub struct Agent {
    child: Mutex<Child>,
    said: Mutex<Option<JoinHandle<String>>>,
}

impl Agent {
    /// Starts an agent that says so many words in this run, with a pause before each.
    pub fn start(language: Language, gateway: &str, session: &str, run: &str, words: u32, pause: Duration) -> Agent {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let mut command = match language {
            Language::Python => {
                let mut command = Command::new("python3");
                command.arg(root.join("examples/agent.py")).args([session, run]);
                command.args(["--words", &words.to_string(), "--pause", &pause.as_secs_f64().to_string()]);
                command.args(["--lease-ms", "1500"]);
                command
            }
            Language::Rust => {
                let mut command = Command::new(&*EXAMPLE);
                command.args([session, run, &words.to_string(), &pause.as_millis().to_string()]);
                command
            }
        };
        let command = command.env("MOORLINE_URL", gateway).env_remove("MOORLINE_TOKEN");
        let spawned = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        let mut child = spawned.unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let mut stderr = child.stderr.take().expect("a pipe");
        let said = std::thread::spawn(move || {
            let mut said = String::new();
            let _ = stderr.read_to_string(&mut said);
            said
        });
        Agent { child: Mutex::new(child), said: Mutex::new(Some(said)) }
    }

    /// Ends it at once, with whatever it had not said.
    pub fn kill9(&self) {
        let mut child = self.child.lock().expect("a child");
        let _ = child.kill();
        let _ = child.wait();
    }

    /// `-STOP` or `-CONT`.
    pub fn signal(&self, signal: &str) {
        let id = self.child.lock().expect("a child").id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().expect("the kill program").success());
    }

    /// Waits for its end, and gives its exit code and what it said on stderr.
    pub async fn ended(&self) -> (i32, String) {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.lock().expect("a child").try_wait().expect("the state of a child") {
                break status;
            }
            assert!(Instant::now() < deadline, "the agent does not end");
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        let said = self.said.lock().expect("a thread").take().map(|said| said.join().expect("no panic"));
        (status.code().unwrap_or(-1), said.unwrap_or_default())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.kill9();
    }
}

/// The Rust example, built as this test was.
static EXAMPLE: LazyLock<PathBuf> = LazyLock::new(|| {
    let program = PathBuf::from(env!("CARGO_BIN_EXE_moorline"));
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "--example", "agent"]).current_dir(env!("CARGO_MANIFEST_DIR"));
    if !cfg!(debug_assertions) {
        build.arg("--release");
    }
    assert!(build.status().expect("cargo").success(), "examples/agent.rs does not build");
    program.parent().expect("a directory").join("examples/agent")
});
