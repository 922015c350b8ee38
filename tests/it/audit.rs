//! `moorline audit`, as a process, on endpoints whose faults are known: it must find them, and claim nothing else.

mod endings;
mod fake;
mod forms;
mod npm;
mod posts;
mod returns;
mod surfaces;

use std::time::Duration;

use serde_json::Value;

use crate::cli::program::{Gateway, Program};

/// Far more than any audit of these tests takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// What an audit said.
pub struct Audit {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Audit {
    /// The scorecard of an audit that was printed as JSON.
    #[track_caller]
    fn card(&self) -> Card {
        let json =
            serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {}\n{}", self.stdout, self.stderr));
        Card(json)
    }
}

/// A scorecard.
pub struct Card(Value);

impl Card {
    fn measure(&self, id: &str) -> &Value {
        let measures = self.0["measures"].as_array().expect("measures");
        measures.iter().find(|measure| measure["id"] == id).expect("the measure")
    }

    #[track_caller]
    fn is(&self, id: &str, status: &str) -> &Value {
        let measure = self.measure(id);
        assert_eq!(measure["status"], status, "{id}: {:#}", self.0);
        measure
    }

    fn figure(&self, id: &str, figure: &str) -> usize {
        self.measure(id)["figures"][figure].as_f64().unwrap_or_else(|| panic!("{figure}: {:#}", self.0)) as usize
    }

    /// A check that begins with these words: its status and its evidence.
    #[track_caller]
    fn check(&self, id: &str, what: &str) -> (&str, &str) {
        let checks = self.measure(id)["checks"].as_array().expect("checks");
        let check = checks.iter().find(|check| check["what"].as_str().is_some_and(|text| text.starts_with(what)));
        let check = check.unwrap_or_else(|| panic!("{what}: {:#}", self.0));
        (check["status"].as_str().expect("a status"), check["evidence"].as_str().expect("evidence"))
    }

    /// After how many events each cut was made.
    fn cuts(&self) -> Vec<usize> {
        let checks = self.measure("resilience")["checks"].as_array().expect("checks");
        let number = |check: &Value| {
            let what = check["what"].as_str().expect("what");
            what.rsplit("after ").next().and_then(|rest| rest.split(' ').next()?.parse().ok()).expect("a number")
        };
        checks.iter().map(number).collect()
    }

    #[track_caller]
    fn verdict(&self, trap: &str) {
        assert_eq!(self.0["verdict"]["trap"], trap, "{:#}", self.0);
    }

    #[track_caller]
    fn figures(&self, id: &str, wanted: &[(&str, usize)]) {
        let got: Vec<_> = wanted.iter().map(|(figure, _)| (*figure, self.figure(id, figure))).collect();
        assert_eq!(got, wanted, "{id}: {:#}", self.0);
    }
}

/// Audits with short trials.
pub fn audit(arguments: &[&str]) -> Audit {
    let mut all = vec!["audit", "--json"];
    all.extend(arguments);
    run(&all)
}

/// Runs the program to its end.
pub fn run(arguments: &[&str]) -> Audit {
    let mut program = Program::start(arguments);
    program.close_stdin();
    let code = program.wait(PATIENCE);
    Audit { code, stdout: program.stdout(), stderr: program.stderr() }
}

fn all_pass(card: &Card) {
    for id in ["resilience", "fidelity", "sync", "control"] {
        card.is(id, "pass");
    }
    card.verdict("free");
}

#[test]
fn a_gateway_passes_in_all_and_keeps_nothing() {
    let gateway = Gateway::start();
    let found = audit(&[gateway.url(), "--trials", "4", "--events", "60"]);
    let card = found.card();
    all_pass(&card);
    assert_eq!(found.code, 0, "{}", found.stderr);
    card.figures("resilience", &[("cuts", 4), ("survived", 4)]);
    assert_eq!(card.figure("fidelity", "right"), card.figure("fidelity", "events"));
    assert_eq!(card.check("control", "what the agent still sends is refused").0, "pass");
    assert_eq!(card.0["complete"], true);
}

#[test]
fn two_replicas_on_redis_pass_in_all() {
    let redis = crate::support::redis::RedisServer::shared();
    let prefix = format!("{}:", crate::support::unique("audit"));
    let store = ["--redis-url", &redis.url(), "--redis-prefix", &prefix];
    let (one, two) = (Gateway::start_with(&store), Gateway::start_with(&store));
    let events = format!("{}/v1/sessions/any/events", one.url());
    let found = audit(&[&events, "--surface-url", two.url(), "--trials", "3", "--events", "60"]);
    all_pass(&found.card());
    assert_eq!(found.code, 0);
    assert_eq!(redis.cli(&["KEYS", &format!("{prefix}*")]), "", "its sessions are erased");
}

/// A session that others write to is watched, and nothing is written to it.
#[test]
fn a_session_that_is_there_is_only_watched() {
    let gateway = Gateway::start();
    let session = crate::support::unique("s");
    let mut agent = gateway.spawn(&["publish", &session, "--type", "token"]);
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let writer = std::thread::spawn(move || {
        for n in 0.. {
            agent.write(&format!("\"word {n}\"\n"));
            if stopped.recv_timeout(Duration::from_millis(20)) != Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                break;
            }
        }
    });
    let found = audit(&[gateway.url(), "--session", &session, "--trials", "2", "--watch", "3s"]);
    drop(stop);
    writer.join().expect("the writer");
    let card = found.card();
    assert_eq!(card.0["target"]["kind"], "sse");
    card.is("resilience", "pass");
    card.is("fidelity", "pass");
    card.is("sync", "pass");
    assert_eq!(card.check("control", "a stop ends the output").0, "not_tested");
    card.verdict("free");
    let shown = gateway.run(&["sessions", "show", &session], "");
    assert!(shown.stdout.contains("runs: none") && !shown.stdout.contains("audit"), "{shown:?}");
}

/// What it has is no news, and nothing else comes.
#[test]
fn a_quiet_session_is_not_passed() {
    let gateway = Gateway::start();
    for events in [1, 30] {
        let session = crate::support::unique("s");
        let lines: String = (0..events).map(|n| format!("\"word {n}\"\n")).collect();
        let published = gateway.run(&["publish", &session, "--type", "token"], &lines);
        assert_eq!(published.code, 0, "{published:?}");
        let found = audit(&[gateway.url(), "--session", &session, "--trials", "1", "--watch", "2s"]);
        assert_eq!(found.code, 3, "{}\n{}", found.stdout, found.stderr);
        for id in ["resilience", "fidelity", "sync", "control"] {
            found.card().is(id, "not_tested");
        }
    }
}
