//! `moorline bench`: what it finds, what it says of it, and how it ends.

use std::{
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{
    AT_ONCE,
    program::{Gateway, PATIENCE, moorline},
};
use crate::support::{process::Replica, redis::RedisServer, tokens::KeyFiles, unique};

#[test]
fn every_load_comes_back_as_it_was_sent() {
    let gateway = Gateway::start();
    for load in [
        "tokens --sessions 5 --clients 2 --publishers 3",
        "tokens --sessions 5 --rate 200",
        "tokens --sessions 5 --numbered",
        "broadcast --clients 20 --rate 50",
        "ingest --sessions 20",
        "replay --events 3000",
        "idle --sessions 3 --clients 4",
        "resume-storm --sessions 2 --clients 5",
    ] {
        let mut arguments = vec!["bench", "--json", "--seconds", "0.3", "--warmup", "0.1"];
        arguments.extend(load.split(' '));
        let bench = gateway.run(&arguments, "");
        assert_eq!(bench.code, 0, "{load}: {bench:?}");
        let report: Value = serde_json::from_str(&bench.stdout).expect("a report");
        let counted = report["events"].as_u64().max(report["deliveries"].as_u64());
        assert!(load.starts_with("idle") || counted > Some(0), "{load}: {report}");
        // What an ingest wrote is read, too.
        let read_back = if load.starts_with("ingest") { &report["events"] } else { &Value::Null };
        assert_eq!(&report["read_back"], read_back, "{load}: {report}");
        for fault in ["lost", "duplicated", "reordered", "corrupt", "failed"] {
            assert_eq!(report[fault], 0, "{load}: {report}");
        }
    }
}

#[test]
fn a_storm_of_a_killed_replica_s_clients_is_served_by_its_neighbour() {
    let (redis, prefix) = (RedisServer::shared(), format!("{}:", unique("storm")));
    let [survivor, doomed] = [(); 2].map(|()| Replica::start(&redis.url(), &prefix));
    let kill = doomed.pid().to_string();
    let storm = ["bench", "resume-storm", "--json", "--sessions", "3", "--clients", "20", "--url", survivor.url()];
    let bench = moorline(&[&storm[..], &["--neighbour", doomed.url(), "--kill", &kill]].concat(), "");
    assert_eq!(bench.code, 0, "{bench:?}");
    let report: Value = serde_json::from_str(&bench.stdout).expect("a report");
    assert_eq!((&report["deliveries"], &report["lost"]), (&json!(3 * 20 * 50), &json!(0)), "{report}");
    assert!(TcpStream::connect(doomed.addr()).is_err(), "it is not killed");
    // Where nothing is to be killed, nothing is.
    let tokens =
        moorline(&["bench", "tokens", "--url", survivor.url(), "--neighbour", survivor.url(), "--kill", "1"], "");
    assert!(tokens.code != 0 && tokens.stderr.contains("only a resume-storm"), "{tokens:?}");
}

/// An ingest that a session has no room for: the last of it is there.
#[test]
fn what_retention_took_of_an_ingest_is_told_and_is_no_loss() {
    let gateway = Gateway::start_with(&["--max-entries", "100"]);
    let bench = gateway.run(&["bench", "ingest", "--json", "--seconds", "0.3", "--sessions", "2"], "");
    assert_eq!(bench.code, 0, "{bench:?}");
    let report: Value = serde_json::from_str(&bench.stdout).expect("a report");
    let (events, read) = (report["events"].as_u64().expect("a count"), report["read_back"].as_u64().expect("a count"));
    assert!(200 <= read && read < events, "{report}");
    let table = gateway.run(&["bench", "ingest", "--seconds", "0.3", "--sessions", "2"], "").stdout;
    assert!(table.contains("older ones were trimmed"), "{table}");
}

/// A gateway that stands still for a second: in an open loop all that was due meanwhile is late, not only what was under way.
#[test]
fn an_open_loop_counts_from_when_an_event_was_due() {
    let (redis, prefix) = (RedisServer::shared(), format!("{}:", unique("bench")));
    let gateway = Gateway::start_with(&["--redis-url", &redis.url(), "--redis-prefix", &prefix]);
    let load = "bench tokens --json --sessions 1 --publishers 1 --warmup 0 --seconds 3 --rate 100";
    let mut bench = gateway.spawn(&load.split(' ').collect::<Vec<_>>());
    wrote(20, redis, &prefix);
    gateway.signal("-STOP");
    thread::sleep(Duration::from_secs(1));
    gateway.signal("-CONT");
    assert_eq!(bench.wait(PATIENCE), 0, "{}", bench.stderr());
    let report: Value = serde_json::from_str(&bench.stdout()).expect("a report");
    let delivery = |quantile: &str| report["delivery"][quantile].as_f64().expect("milliseconds");
    assert_eq!((&report["delivery"]["count"], &report["lost"], &report["unsent"]), (&json!(300), &json!(0), &json!(0)));
    // A third of the events was due while it stood still; one of them was under way.
    assert!(delivery("max_ms") > 950.0 && delivery("p90_ms") > 600.0, "{report}");
}

/// Refusals on the way are counted, and the rest is measured all the same; who is never let in is told why.
#[test]
fn refusals_are_counted_and_told() {
    let files = KeyFiles::new();
    let secret = files.secret().0.secret_file.expect("a file").to_string_lossy().into_owned();
    let gateway = Gateway::start_with(&["--auth-secret-file", &secret, "--max-events-per-second", "20"]);
    let made = moorline(&["token", "*", "--can", "read,append,command,manage", "--secret-file", &secret], "");
    let load = ["bench", "tokens", "--sessions", "1", "--seconds", "1", "--warmup", "0", "--token"];
    let bench = gateway.run(&[&load[..], &[made.stdout.trim_end()]].concat(), "");
    assert_eq!(bench.code, 1, "{bench:?}");
    for said in
        ["events  ", "first of them: POST an event: the gateway answered 429", "lost 0, duplicated 0, out of order 0"]
    {
        assert!(bench.stdout.contains(said), "{said}: {bench:?}");
    }
    let nobody = Gateway::start_with(&["--max-event-bytes", "10"]).run(&["bench", "tokens", "--seconds", "60"], "");
    assert!(nobody.code == 1 && nobody.stdout.is_empty() && nobody.stderr.contains("413"), "{nobody:?}");
}

/// Ctrl-C in the middle: what was measured is told, what was behind as well, and no session stays.
#[test]
fn a_load_that_is_interrupted_tells_what_it_has_and_deletes_its_sessions() {
    let (redis, prefix) = (RedisServer::shared(), format!("{}:", unique("bench")));
    let gateway = Gateway::start_with(&["--redis-url", &redis.url(), "--redis-prefix", &prefix]);
    let load = "bench tokens --json --sessions 1 --seconds 600 --warmup 0 --rate 1000000";
    let mut bench = gateway.spawn(&load.split(' ').collect::<Vec<_>>());
    // By then far more is due than goes out while it ends.
    wrote(1000, redis, &prefix);
    bench.interrupt();
    assert_eq!(bench.wait(PATIENCE), 130, "{}", bench.stderr());
    let report: Value = serde_json::from_str(&bench.stdout()).unwrap_or_else(|e| panic!("{e}: {}", bench.stderr()));
    assert!(report["title"].as_str().is_some_and(|title| title.ends_with(", interrupted")), "{report}");
    assert!(report["seconds"].as_f64() < Some(600.0) && report["lost"] == 0, "{report}");
    assert_eq!(report["asked_per_second"], 1e6);
    assert!(report["unsent"].as_u64() > Some(0), "{report}");
    assert_eq!(redis.cli(&["KEYS", &format!("{prefix}*")]), "", "its sessions stay");
}

/// Waits until a load has written so many events to one of its sessions.
fn wrote(events: u64, redis: &RedisServer, prefix: &str) {
    let deadline = Instant::now() + PATIENCE;
    let count = |key: &str| redis.cli(&["XLEN", key]).trim().parse().unwrap_or(0);
    while redis.cli(&["KEYS", &format!("{prefix}*:events")]).lines().next().map_or(0, count) < events {
        assert!(Instant::now() < deadline, "it does not get so far");
    }
}

/// A gateway that froze can neither answer nor delete; Ctrl-C ends the load all the same, once more at once.
#[test]
fn control_c_ends_a_load_on_a_frozen_gateway() {
    let (redis, prefix) = (RedisServer::shared(), format!("{}:", unique("bench")));
    let gateway = Gateway::start_with(&["--redis-url", &redis.url(), "--redis-prefix", &prefix]);
    let mut bench = gateway.spawn(&["bench", "tokens", "--seconds", "600"]);
    wrote(1, redis, &prefix);
    gateway.signal("-STOP");
    bench.interrupt();
    bench.wait_for_stderr("comes to its end");
    bench.interrupt();
    let code = bench.wait(AT_ONCE);
    gateway.signal("-CONT");
    assert_eq!((code, bench.stdout().as_str()), (130, ""), "{}", bench.stderr());
}
