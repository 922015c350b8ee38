//! Running the program, watched while it runs.

use std::{
    io::Write,
    process::{Child, Command, Stdio},
    sync::{Arc, LazyLock, Mutex},
    thread,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::{ChildStderr, ChildStdout},
    runtime::Runtime,
    task::JoinHandle,
};

/// How long anything may take that must happen at some time.
pub const PATIENCE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(5);

/// How a run ended.
#[derive(Debug)]
pub struct Ended {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// A running program. Killed when dropped.
pub struct Program {
    child: Child,
    stdout: Output,
    stderr: Output,
}

/// What came out so far.
struct Output {
    text: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

/// Where the reading tasks run: a task can be told to end while it waits for output, a thread can't.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().expect("a runtime"));

impl Program {
    pub fn start(arguments: &[&str]) -> Program {
        let mut child = Command::new(env!("CARGO_BIN_EXE_moorline"))
            .args(arguments)
            .env_remove("MOORLINE_URL")
            .env_remove("MOORLINE_TOKEN")
            .env_remove("MOORLINE_REDIS_URL")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the moorline program");
        let _context = RUNTIME.enter();
        let stdout = ChildStdout::from_std(child.stdout.take().expect("a pipe")).expect("a pipe");
        let stderr = ChildStderr::from_std(child.stderr.take().expect("a pipe")).expect("a pipe");
        let (stdout, stderr) = (Output::read(stdout), Output::read(stderr));
        Program { child, stdout, stderr }
    }

    pub fn write(&mut self, text: &str) {
        self.child.stdin.as_mut().expect("an open stdin").write_all(text.as_bytes()).expect("a reading program");
    }

    pub fn close_stdin(&mut self) {
        self.child.stdin = None;
    }

    /// Closes our end of its stdout.
    pub fn close_stdout(&mut self) {
        self.stdout.reader.abort();
        self.stdout.finish();
    }

    pub fn stdout(&self) -> String {
        self.stdout.so_far()
    }

    pub fn stderr(&self) -> String {
        self.stderr.so_far()
    }

    pub fn wait_for_stdout(&self, text: &str) {
        self.wait_for(text, &self.stdout);
    }

    pub fn wait_for_stderr(&self, text: &str) {
        self.wait_for(text, &self.stderr);
    }

    fn wait_for(&self, text: &str, output: &Output) {
        let deadline = Instant::now() + PATIENCE;
        while !output.so_far().contains(text) {
            let late = Instant::now() > deadline;
            assert!(!late, "{text:?} never came:\n{}\n{}", self.stdout(), self.stderr());
            thread::sleep(POLL);
        }
    }

    /// Ctrl-C.
    pub fn interrupt(&self) {
        self.signal("-INT");
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.child.id().to_string()]).status();
        assert!(status.expect("the kill program").success());
    }

    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits for its end and gives the exit code; all output is there then.
    pub fn wait(&mut self, limit: Duration) -> i32 {
        let deadline = Instant::now() + limit;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("the state of a child") {
                break status;
            }
            let late = Instant::now() > deadline;
            assert!(!late, "it runs on after {limit:?}:\n{}\n{}", self.stdout(), self.stderr());
            thread::sleep(POLL);
        };
        self.stdout.finish();
        self.stderr.finish();
        status.code().unwrap_or_else(|| panic!("ended by a signal: {status}"))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Output {
    fn read(mut pipe: impl AsyncRead + Unpin + Send + 'static) -> Output {
        let text = Arc::new(Mutex::new(Vec::new()));
        let filled = text.clone();
        let reader = RUNTIME.spawn(async move {
            let mut buffer = [0; 4096];
            while let Ok(read @ 1..) = pipe.read(&mut buffer).await {
                filled.lock().expect("no panic").extend_from_slice(&buffer[..read]);
            }
        });
        Output { text, reader }
    }

    /// Waits for the reading task's end, and with it the end of the pipe.
    fn finish(&self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.reader.is_finished() {
            assert!(Instant::now() < deadline, "the pipe has no end");
            thread::sleep(POLL);
        }
    }

    fn so_far(&self) -> String {
        String::from_utf8_lossy(&self.text.lock().expect("no panic")).into_owned()
    }
}

/// Runs the program to its end.
pub fn moorline(arguments: &[&str], stdin: &str) -> Ended {
    let mut program = Program::start(arguments);
    // A program that refuses its arguments or its input doesn't read to the end.
    let _ = program.child.stdin.as_mut().expect("a pipe").write_all(stdin.as_bytes());
    program.close_stdin();
    let code = program.wait(PATIENCE);
    Ended { code, stdout: program.stdout(), stderr: program.stderr() }
}

/// A gateway's process, and the subcommands that speak to it.
pub struct Gateway {
    process: Program,
    url: String,
    arguments: Vec<String>,
}

impl Gateway {
    /// One that keeps sessions in memory.
    pub fn start() -> Gateway {
        Gateway::start_with(&[])
    }

    /// One with further arguments.
    pub fn start_with(arguments: &[&str]) -> Gateway {
        let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        Gateway::listen("127.0.0.1:0", arguments).expect("a free port")
    }

    /// One that listens elsewhere.
    pub fn start_on(address: &str, arguments: &[&str]) -> Gateway {
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        Gateway::listen(address, arguments).expect("a free port")
    }

    /// Where it is.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.child.id()
    }

    /// Sends it a signal: `-STOP`, `-CONT`.
    pub fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.pid().to_string()]).status();
        assert!(status.expect("the kill program").success());
    }

    /// Whether it has not ended.
    pub fn is_running(&mut self) -> bool {
        matches!(self.process.child.try_wait(), Ok(None))
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        self.process.stderr()
    }

    /// The same after `kill -9`, on the same port.
    pub fn killed_and_restarted(mut self) -> Gateway {
        self.process.kill();
        let address = self.url.trim_start_matches("http://");
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(gateway) = Gateway::listen(address, self.arguments.clone()) {
                return gateway;
            }
            assert!(Instant::now() < deadline, "{address} does not come free");
        }
    }

    /// `None` if the address is taken.
    fn listen(address: &str, arguments: Vec<String>) -> Option<Gateway> {
        let mut all = vec!["serve", "--listen", address];
        all.extend(arguments.iter().map(String::as_str));
        let mut process = Program::start(&all);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let log = process.stderr();
            if let Some((_, rest)) = log.split_once("listens on ") {
                let url = rest.split(|c: char| c.is_whitespace() || c == '"').next().unwrap_or_default().to_owned();
                return Some(Gateway { process, url, arguments });
            }
            if process.child.try_wait().expect("the state of a child").is_some() {
                process.stderr.finish();
                assert!(process.stderr().contains("can't listen"), "{}", process.stderr());
                return None;
            }
            assert!(Instant::now() < deadline, "the gateway does not start:\n{log}");
            thread::sleep(POLL);
        }
    }

    /// Runs a subcommand to its end.
    pub fn run(&self, arguments: &[&str], stdin: &str) -> Ended {
        moorline(&[arguments, &["--url", &self.url]].concat(), stdin)
    }

    /// Starts a subcommand.
    pub fn spawn(&self, arguments: &[&str]) -> Program {
        Program::start(&[arguments, &["--url", &self.url]].concat())
    }
}
