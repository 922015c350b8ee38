//! The pattern of npm `resumable-stream`, on a real Redis: what is wrong with it, and what is not.
//!
//! - Other surfaces follow, and a disconnect does not end the output: that is right.
//! - A return without a position gets everything again from the start; by characters (`resumeAt`) it fits.
//! - Once the stream is over there is nothing to come back to: 422. A client that was away at the end never gets it.
//! - There is no stop: a client can only disconnect, which ends nothing.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
};

use super::{Card, audit};
use crate::{
    independent_clients::{clients, installed},
    support::{redis::RedisServer, unique},
};

const EVENTS: usize = 100;

struct Server {
    url: String,
    node: Child,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.node.kill();
        let _ = self.node.wait();
    }
}

impl Server {
    fn start() -> Server {
        let mut node = Command::new("node")
            .env("NODE_PATH", installed("node/node_modules"))
            .arg(clients().join("resumable.cjs"))
            .args([&RedisServer::shared().url(), &unique("npm"), &EVENTS.to_string(), "40"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("node: run tests/run, which installs it");
        let mut port = String::new();
        BufReader::new(node.stdout.take().expect("a pipe")).read_line(&mut port).expect("its port");
        Server { url: format!("http://127.0.0.1:{}", port.trim()), node }
    }

    fn audited(&self, back: &str, more: &[&str]) -> Card {
        let chat = format!("{}/chat/{{new_id}}", self.url);
        let back = format!("{chat}{back}");
        let mut arguments = vec![chat.as_str(), "--data", "{}", "--resume-url", &back, "--trials", "4"];
        arguments.extend(more);
        let found = audit(&arguments);
        assert_eq!(found.code, 1, "{}\n{}", found.stderr, found.stdout);
        found.card()
    }
}

/// Of the cuts that were survived, how many events were seen before them.
fn seen_before(card: &Card) -> usize {
    let checks = card.measure("resilience")["checks"].as_array().expect("checks");
    let survived = checks.iter().map(|check| check["status"] == "pass");
    card.cuts().into_iter().zip(survived).filter(|(_, survived)| *survived).map(|(cut, _)| cut).sum()
}

#[test]
fn a_return_to_the_start_doubles_and_the_end_is_not_kept() {
    let server = Server::start();
    let stop = format!("{}/chat/{{new_id}}/stop", server.url);
    let card = server.audited("", &["--stop-url", &stop]);
    card.is("resilience", "partial");
    assert_eq!(card.check("resilience", "cut early").0, "pass");
    assert_eq!(card.check("resilience", "cut in the middle, after").0, "pass");
    let (status, evidence) = card.check("resilience", "cut in the middle, back after the end");
    assert!(status == "fail" && evidence.contains("422: Stream is already done"), "{evidence}");
    let advice = card.measure("resilience")["advice"].to_string();
    assert!(advice.contains("for some time after its end"), "{advice}");

    card.is("fidelity", "fail");
    card.figures("fidelity", &[("lost", 0), ("out_of_order", 0), ("doubled", seen_before(&card))]);
    card.is("sync", "pass");
    assert_eq!(card.check("control", "a disconnect is no stop").0, "pass");
    let (status, evidence) = card.check("control", "a stop ends the output");
    assert!(status == "fail" && evidence.contains("404"), "{evidence}");
    card.verdict("partly");
}

#[test]
fn a_return_by_characters_fits_and_the_end_is_still_not_kept() {
    let card = Server::start().audited("?resumeAt={chars}", &[]);
    card.is("resilience", "partial");
    card.is("fidelity", "pass");
    card.figures("fidelity", &[("lost", 0), ("doubled", 0)]);
    assert_eq!(card.check("control", "a stop ends the output").0, "not_tested");
    card.verdict("partly");
}
