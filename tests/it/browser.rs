//! Pages in real Chromium, before a real gateway.
//!
//! Each test is a script of `tests/browser/`; what fails any page is in `harness.mjs` there. `tests/run` installs Chromium and
//! its driver.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{process::Command, sync::Semaphore};

use crate::{
    store_contract::Backend,
    support::gateway::{Gateway, Session},
};

/// Far more than any script takes on a busy machine. A script's own steps have less, and say what did not come.
const PATIENCE: Duration = Duration::from_secs(240);

/// Browsers at the same time: each is a handful of processes, and they would only wait for each other.
static BROWSERS: Semaphore = Semaphore::const_new(2);

/// Runs a script of `tests/browser/` with these arguments: the gateway's address and a session, mostly. It must end well.
pub async fn browser(script: &str, arguments: &[&str]) {
    let _turn = BROWSERS.acquire().await.expect("never closed");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser").join(script);
    let mut node = Command::new("node");
    node.arg(&script).args(arguments).env("BROWSER_MODULES", installed());
    node.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let process = node.spawn().unwrap_or_else(|e| panic!("{node:?}: {e}: run tests/run, which installs it"));
    let output = tokio::time::timeout(PATIENCE, process.wait_with_output()).await;
    let output = output.unwrap_or_else(|_| panic!("{} did not end", script.display())).expect("its output");
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}: {}\n{}", script.display(), output.status, String::from_utf8_lossy(&said));
}

/// Where `tests/run` has put the driver.
fn installed() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the target directory");
    let path = target.join("browser");
    assert!(path.join("node_modules").exists(), "{} is missing: run tests/run, which installs it", path.display());
    path
}

/// A gateway with a console, and a session of it.
async fn with_console(backend: Backend) -> (Gateway, Session) {
    let gateway = Gateway::start_with(backend, |config| config.console = true).await;
    let session = gateway.session();
    (gateway, session)
}

async fn shows(script: &str, backend: Backend) {
    let (gateway, session) = with_console(backend).await;
    browser(script, &[&gateway.url(""), &session.name]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_watched_from_three_places() {
    shows("open_and_watch.mjs", Backend::Redis).await;
}
