//! Pages in real Chromium, before a real gateway.
//!
//! Each test is a script of `tests/browser/`; what fails any page is in `harness.mjs` there. `tests/run` installs Chromium and
//! its driver.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use axum::http::HeaderValue;
use serde_json::json;
use tokio::{process::Command, sync::Semaphore};

use crate::{
    cli::program::Gateway as Program,
    store_contract::Backend,
    support::{
        gateway::{Gateway, Session, answer},
        http,
        tokens::{KeyFiles, claims, hs256, now, token},
        unique,
    },
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_connection_resumes_without_a_gap_while_events_flow() {
    shows("cut_and_resume.mjs", Backend::Redis).await;
}

/// A gateway that keeps few entries.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_lost_is_told_for_good() {
    let gateway = Gateway::start_with(Backend::Memory, |config| {
        config.console = true;
        config.retention.cap = 50;
    })
    .await;
    browser("loss_is_told.mjs", &[&gateway.url(""), &gateway.session().name]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_in_one_tab_is_seen_in_the_other() {
    shows("stop_from_another_tab.mjs", Backend::Redis).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_decision_and_a_word_to_agents_are_seen_in_all_tabs() {
    shows("decide_and_steer.mjs", Backend::Redis).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_keyboard_stays_in_its_place_and_all_that_waits_is_heard() {
    shows("keyboard_and_ear.mjs", Backend::Memory).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_there_is_said_and_what_is_there_is_found() {
    shows("nobody_there.mjs", Backend::Memory).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn models_streams_are_messages() {
    shows("models_streams.mjs", Backend::Memory).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_said_is_said_once() {
    shows("say_it_once.mjs", Backend::Memory).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_an_erased_session_stays() {
    shows("another_session_of_the_name.mjs", Backend::Redis).await;
}

/// Between two gateways' processes: each is of another origin for the pages of the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_another_origin_changes_nothing_on_a_gateway_of_this_machine() {
    let [gateway, other] = [(); 2].map(|()| Program::start());
    browser("page_of_another.mjs", &[gateway.url(), &unique("s"), other.url()]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_events_are_shown_as_text() {
    shows("hostile_events.mjs", Backend::Memory).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_thousand_events_take_few_elements() {
    shows("fifty_thousand.mjs", Backend::Memory).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_comes_all_can_be_stopped() {
    shows("flood.mjs", Backend::Memory).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everybody_can_use_it() {
    shows("looks.mjs", Backend::Memory).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_page_reckons_is_right() {
    shows("logic.mjs", Backend::Memory).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_asked_for_where_one_is_needed() {
    let files = KeyFiles::new();
    let (auth, secret) = files.secret();
    let gateway = Gateway::start_with(Backend::Memory, |config| {
        config.console = true;
        config.auth = Some(auth);
    })
    .await;
    let session = gateway.session();
    let token = |change| token(&json!({"alg": "HS256", "typ": "JWT"}), &claims(change), hs256(&secret));
    let owner = token(json!({}));
    let reader = token(json!({"moorline": {"can": ["read"]}}));
    let stranger = token(json!({"moorline": {"sessions": ["another"]}}));
    let expired = token(json!({"exp": now() - 3600}));
    browser("login.mjs", &[&gateway.url(""), &session.name, &owner, &reader, &stranger, &expired]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_is_a_console_only_where_it_is_wanted() {
    let without = Gateway::start(Backend::Memory).await;
    for path in ["/", "/console", "/console/main.js"] {
        answer(http().get(without.url(path))).await.problem(404, "unknown_path");
    }
    let (gateway, _) = with_console(Backend::Memory).await;
    let page = answer(http().get(gateway.url("/"))).await;
    assert_eq!(
        (page.status, &page.headers["content-type"]),
        (200, &HeaderValue::from_static("text/html; charset=utf-8"))
    );
    answer(http().get(gateway.url("/console/secret"))).await.problem(404, "unknown_path");
    answer(http().post(gateway.url("/console"))).await.problem(405, "method_not_allowed");
}

/// What the browser is told to hold the page to, and what makes that possible.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_but_the_consoles_own_files_runs_in_it() {
    let (gateway, _) = with_console(Backend::Memory).await;
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/console");
    let files = fs::read_dir(dir).expect("the console").map(|file| file.expect("a file"));
    for (name, path) in files.map(|file| (file.file_name().into_string().expect("a name"), file.path())) {
        let text = fs::read_to_string(path).expect("text");
        let at = if name == "index.html" { "/console".into() } else { format!("/console/{name}") };
        let served = answer(http().get(gateway.url(&at))).await;
        assert_eq!(served.status, 200, "{name} is not served");
        assert!(served.text == text, "{name} is another one: the program was built before it changed");
        let headers = &served.headers;
        let policy = headers["content-security-policy"].to_str().expect("text");
        assert!(policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"));
        for rule in
            ["base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'", "require-trusted-types-for 'script'"]
        {
            assert!(policy.contains(rule), "{rule}");
        }
        assert!(!policy.contains("unsafe") && !policy.contains("http"), "{policy}");
        assert_eq!(headers["x-content-type-options"], "nosniff");
        assert_eq!(headers["referrer-policy"], "no-referrer");
        assert_eq!(headers["cache-control"], "no-cache");
        let known = http().get(gateway.url(&at)).header("if-none-match", headers["etag"].clone());
        assert_eq!(answer(known).await.status, 304, "{name}");

        // Text becomes HTML or a script in none of these ways, and nothing comes from elsewhere.
        for way in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "Function(",
            "DOMParser",
            "createContextualFragment",
            "srcdoc",
            "style=",
            "setAttribute(\"style",
            "javascript:",
            "onclick=\"",
            "<style",
        ] {
            assert!(!text.contains(way), "{name} has {way}");
        }
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        let elsewhere = code.filter(|line| line.contains("://") && !line.contains("http://www.w3.org/2000/svg"));
        assert_eq!(elsewhere.collect::<Vec<_>>(), Vec::<&str>::new(), "{name}");
        let inline = text
            .match_indices("<script")
            .filter(|(at, _)| !text[*at..].split('>').next().unwrap_or("").contains("src="));
        assert_eq!(inline.count(), 0, "{name}");
    }
}
