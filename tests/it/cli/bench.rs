//! `moorline bench`: what it finds, what it says of it, and how it ends.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    path::PathBuf,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use serde_json::{Value, json};
use tokio_rustls::TlsAcceptor;

use super::{
    AT_ONCE,
    program::{Gateway, PATIENCE, moorline},
};
use crate::support::{authority::Authority, process::Replica, redis::RedisServer, tokens::KeyFiles, unique};

fn words(text: &str) -> Vec<&str> {
    text.split(' ').collect()
}

#[test]
fn every_load_comes_back_as_it_was_sent() {
    let gateway = Gateway::start();
    for load in [
        "tokens --sessions 5 --clients 2 --publishers 3 --warmup 0.1",
        "tokens --sessions 5 --rate 200 --warmup 0.1",
        "tokens --sessions 5 --numbered --warmup 0.1",
        "broadcast --clients 20 --rate 50 --warmup 0.1",
        "ingest --sessions 20",
        "replay --events 3000",
        "idle --sessions 3 --clients 4",
        "resume-storm --sessions 2 --clients 5",
    ] {
        let mut arguments = vec!["bench", "--json", "--seconds", "0.3"];
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
}

/// What a load has no use for is refused, or its figures would be taken for others; so is what can't be.
#[test]
fn arguments_that_make_no_sense_are_refused() {
    for (arguments, said) in [
        ("tokens --neighbour http://127.0.0.1:1 --kill 1", "--neighbour is only for resume-storm"),
        ("ingest --rate 10", "--rate is only for tokens, broadcast"),
        ("replay --sessions 2", "--sessions is only for"),
        ("idle --events 5", "--events is only for replay, resume-storm"),
        ("tokens --sessions 0", "from 1 to 1000000"),
        ("tokens --sessions 99999999999999", "from 1 to 1000000"),
        ("idle --sessions 10000 --clients 10000", "100000000 clients in all are too many"),
        ("replay --events 1", "from 2"),
        ("tokens --seconds 0", "from 0.05"),
        ("idle --pid 4294967295", "no such process"),
        ("tokens --url ftp://127.0.0.1", "http://host:port"),
        ("tokens --url http://nowhere.invalid:1", "nowhere.invalid"),
        ("tokens --url http://192.0.2.1:1", "--remote"),
    ] {
        let bench = moorline(&[&["bench"], &words(arguments)[..]].concat(), "");
        assert_eq!((bench.code, bench.stdout.as_str()), (2, ""), "{arguments}: {bench:?}");
        assert!(bench.stderr.contains(said), "{arguments}: {bench:?}");
    }
    let nobody = moorline(&["bench", "tokens", "--url", "http://127.0.0.1:9"], "");
    assert!(nobody.code == 1 && nobody.stderr.contains("can't connect to 127.0.0.1:9"), "{nobody:?}");
}

/// Through something that speaks TLS before the gateway, trusted as everywhere else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_behind_tls_is_loaded() {
    let (authority, gateway) = (Authority::new(), Gateway::start());
    authority.sign("proxy");
    let certificates = CertificateDer::pem_file_iter(authority.path("proxy.crt")).expect("certificates");
    let certificates = certificates.map(|certificate| certificate.expect("a certificate")).collect();
    let key = PrivateKeyDer::from_pem_file(authority.path("proxy.key")).expect("a key");
    let _ = rustls::crypto::ring::default_provider().install_default();
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(certificates, key).expect("TLS");
    let (acceptor, behind) = (TlsAcceptor::from(Arc::new(config)), gateway.url().replace("http://", ""));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("https://localhost:{}", listener.local_addr().expect("an address").port());
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (acceptor, behind) = (acceptor.clone(), behind.clone());
            tokio::spawn(async move {
                let mut client = acceptor.accept(client).await.ok()?;
                let mut gateway = tokio::net::TcpStream::connect(behind).await.expect("the gateway");
                tokio::io::copy_bidirectional(&mut client, &mut gateway).await.ok()
            });
        }
    });
    for load in
        ["tokens --sessions 3 --seconds 0.3 --warmup 0", "ingest --sessions 3 --seconds 0.1", "replay --events 3000"]
    {
        let bench = |trusted: PathBuf| {
            let mut bench = tokio::process::Command::new(env!("CARGO_BIN_EXE_moorline"));
            bench.arg("bench").args(load.split(' ')).args(["--json", "--url", &url]).env("SSL_CERT_FILE", trusted);
            async move { bench.output().await.expect("the moorline program") }
        };
        let done = bench(authority.path("ca.crt")).await;
        assert!(done.status.success(), "{load}: {}", String::from_utf8_lossy(&done.stderr));
        let other = bench(Authority::new().path("ca.crt")).await;
        assert!(
            !other.status.success() && String::from_utf8_lossy(&other.stderr).contains("invalid peer certificate"),
            "{other:?}"
        );
    }
}

/// What a [`liar`] does to the tenth event that it passes on to a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lie {
    Dropped,
    Repeated,
    RepeatedLate,
    RepeatedAtTheEnd,
    Swapped,
    Altered,
    Ended,
}

/// Passes everything on between clients and a gateway, but for a lie to the first stream of server-sent events.
fn liar(lie: Lie, gateway: &str) -> String {
    let gateway = gateway.trim_start_matches("http://").to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    thread::spawn(move || {
        for client in listener.incoming() {
            let (client, server) = (client.expect("a client"), TcpStream::connect(&gateway).expect("the gateway"));
            let (mut up, mut down) = (client.try_clone().expect("a socket"), server.try_clone().expect("a socket"));
            thread::spawn(move || {
                let _ = std::io::copy(&mut up, &mut down);
                down.shutdown(Shutdown::Write)
            });
            thread::spawn(move || {
                let _ = tell(lie, BufReader::new(server), &client);
                client.shutdown(Shutdown::Both)
            });
        }
    });
    url
}

/// One connection's answers; those that are a stream come as chunks, an event each.
fn tell(lie: Lie, mut from: BufReader<TcpStream>, mut to: &TcpStream) -> std::io::Result<()> {
    let (mut head, mut line) = (String::new(), String::new());
    while from.read_line(&mut line)? > 2 {
        head += &std::mem::take(&mut line);
    }
    to.write_all((head.clone() + "\r\n").as_bytes())?;
    if !head.contains("text/event-stream") {
        return std::io::copy(&mut from, &mut to).map(drop);
    }
    let (mut events, mut held) = (0, Vec::new());
    loop {
        let mut size = String::new();
        if from.read_line(&mut size)? == 0 {
            return Ok(());
        }
        let length = usize::from_str_radix(size.trim_end(), 16).expect("the size of a chunk");
        let mut chunk = vec![0; length + 2];
        from.read_exact(&mut chunk)?;
        let mut whole = [size.as_bytes(), &chunk].concat();
        events += usize::from(chunk.starts_with(b"id: "));
        match (lie, events) {
            (Lie::Dropped, 10) => continue,
            (Lie::Ended, 10) => return Ok(()),
            (Lie::Repeated, 10) => whole = whole.repeat(2),
            (Lie::Altered, 10) => {
                let at = whole.len() - 10;
                whole[at] ^= 1;
            }
            (Lie::RepeatedLate | Lie::Swapped, 10) => held = whole.clone(),
            _ => {}
        }
        match (lie, events) {
            (Lie::Swapped, 10) => continue,
            (Lie::Swapped, 11) | (Lie::RepeatedLate, 15) => whole.append(&mut held),
            _ => {}
        }
        to.write_all(&whole)?;
        if (lie, events) == (Lie::RepeatedAtTheEnd, EVENTS) {
            thread::sleep(Duration::from_millis(50));
            to.write_all(&whole)?;
        }
    }
}

/// Events of a load that a liar stands in.
const EVENTS: usize = 50;

#[test]
fn a_lie_is_found_and_called_by_its_name() {
    let gateway = Gateway::start();
    let load = "tokens --json --sessions 1 --warmup 0 --rate 50 --seconds 1";
    for (lie, fault, others) in [
        (Lie::Dropped, "lost", json!({})),
        (Lie::Repeated, "duplicated", json!({})),
        (Lie::RepeatedLate, "duplicated", json!({})),
        (Lie::RepeatedAtTheEnd, "duplicated", json!({})),
        (Lie::Swapped, "reordered", json!({})),
        // What should have come instead did not.
        (Lie::Altered, "corrupt", json!({"lost": 1})),
        (Lie::Ended, "failed", json!({"lost": EVENTS - 9})),
    ] {
        let url = liar(lie, gateway.url());
        let bench = moorline(&[&["bench", "--url", &url], &words(load)[..]].concat(), "");
        assert_eq!(bench.code, 1, "{lie:?}: {bench:?}");
        let report: Value = serde_json::from_str(&bench.stdout).expect("a report");
        for name in ["lost", "duplicated", "reordered", "corrupt", "failed"] {
            let expected = if name == fault { json!(1) } else { others.get(name).cloned().unwrap_or(json!(0)) };
            assert_eq!(report[name], expected, "{lie:?}, {name}: {report}");
        }
    }
}

/// A gateway that is killed and comes back: what was refused is counted, and the rest is measured all the same.
#[test]
fn a_gateway_that_goes_and_comes_back_is_measured_on() {
    let (redis, prefix) = (RedisServer::shared(), format!("{}:", unique("bench")));
    let gateway = Gateway::start_with(&["--redis-url", &redis.url(), "--redis-prefix", &prefix]);
    let load = "bench tokens --json --sessions 1 --warmup 0 --seconds 3 --rate 100";
    let mut bench = gateway.spawn(&words(load));
    wrote(20, redis, &prefix);
    let _gateway = gateway.killed_and_restarted();
    let code = bench.wait(PATIENCE);
    let report: Value = serde_json::from_str(&bench.stdout()).unwrap_or_else(|e| panic!("{e}: {}", bench.stderr()));
    assert_eq!(code, 1, "{report}");
    // The stream, and what was sent before the gateway was back; what came after that, nobody followed.
    let [failed, events, lost] = ["failed", "events", "lost"].map(|count| report[count].as_u64());
    assert!(failed >= Some(1) && events > Some(100) && lost > Some(0), "{report}");
    assert_eq!((&report["duplicated"], &report["corrupt"]), (&json!(0), &json!(0)), "{report}");
    assert_eq!(redis.cli(&["KEYS", &format!("{prefix}*")]), "", "its sessions stay");
}

/// What was still under way in a body that was broken off makes its session anew; that is deleted, too.
#[test]
fn an_ingest_that_is_interrupted_leaves_no_session() {
    let (redis, prefix) = (RedisServer::shared(), format!("{}:", unique("bench")));
    let gateway = Gateway::start_with(&["--redis-url", &redis.url(), "--redis-prefix", &prefix]);
    for load in ["ingest --sessions 10 --seconds 600", "replay --events 10000000"] {
        let mut bench = gateway.spawn(&[&["bench"], &words(load)[..]].concat());
        wrote(1000, redis, &prefix);
        bench.interrupt();
        assert_eq!(bench.wait(PATIENCE), 130, "{}", bench.stderr());
        assert!(!bench.stderr().contains("could not be deleted"), "{}", bench.stderr());
        assert_eq!(redis.cli(&["KEYS", &format!("{prefix}*")]), "", "{load}: its sessions stay");
    }
}

/// Whoever may not delete is told that sessions stay.
#[test]
fn sessions_that_stay_are_told() {
    let files = KeyFiles::new();
    let secret = files.secret().0.secret_file.expect("a file").to_string_lossy().into_owned();
    let gateway = Gateway::start_with(&["--auth-secret-file", &secret]);
    let made = moorline(&["token", "*", "--can", "read,append", "--secret-file", &secret], "");
    let load = ["bench", "tokens", "--sessions", "3", "--seconds", "0.2", "--warmup", "0", "--token"];
    let bench = gateway.run(&[&load[..], &[made.stdout.trim_end()]].concat(), "");
    assert_eq!(bench.code, 0, "{bench:?}");
    assert!(
        bench.stderr.contains("3 sessions could not be deleted: DELETE a session: the gateway answered 403"),
        "{bench:?}"
    );
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
    let mut bench = gateway.spawn(&words(load));
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
    let mut bench = gateway.spawn(&words(load));
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
