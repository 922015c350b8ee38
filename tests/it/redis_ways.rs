//! The ways to Redis: TLS, users and their rights, databases, sockets; and how durable a write is before it is answered.

use std::{net::TcpListener, path::Path, time::Duration};

use moorline::{config::Config, store::Durability};
use serde_json::json;

use crate::{
    store_contract::Backend,
    support::{
        PATIENCE,
        authority::Authority,
        eventually,
        gateway::{Gateway, NEVER, answer},
        process::Replica,
        redis::RedisServer,
        unique,
    },
};

async fn gateway(url: String, configure: impl FnOnce(&mut Config)) -> Gateway {
    Gateway::start_with(Backend::Redis, |config| {
        config.redis_url = Some(url);
        configure(config);
    })
    .await
}

/// Every kind of connection is used: commits, pages, pushes, deletions.
async fn works(gateway: &Gateway) {
    let session = gateway.session();
    let mut stream = session.follow("").await;
    stream.caught_up().await;
    session.append_numbers(1..4).await;
    assert_eq!(stream.data(3).await, [1, 2, 3]);
    assert_eq!(session.data().await, [1, 2, 3]);
    session.post("/runs", json!({"run": "r", "agent": "a"})).await.is(201);
    session.post("/commands", json!({"type": "stop", "run": "r", "grace_ms": 0})).await.is(202);
    assert_eq!(session.produce(("p", 0, 0), true, r#"{"data":4}"#).await.status, 201);
    let ready = session.http.get(gateway.url("/readyz")).send().await.expect("an answer");
    assert_eq!(ready.status(), 200);
    assert_eq!(session.http.delete(session.url("")).send().await.expect("an answer").status(), 204);
}

/// A Redis with a TLS port, and its URL.
fn with_tls(authority: &Authority, asks_for_certificates: bool) -> (RedisServer, String) {
    let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
    let file = |name: &str| authority.path(name).to_string_lossy().into_owned();
    let redis = RedisServer::start_with(&[
        "--tls-port",
        &port.to_string(),
        "--tls-cert-file",
        &file("redis.crt"),
        "--tls-key-file",
        &file("redis.key"),
        "--tls-ca-cert-file",
        &file("ca.crt"),
        "--tls-auth-clients",
        if asks_for_certificates { "yes" } else { "no" },
    ]);
    (redis, format!("rediss://localhost:{port}/"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_is_reached_over_tls_if_its_certificate_is_good() {
    let authority = Authority::new();
    authority.sign("redis");
    let (_redis, url) = with_tls(&authority, false);
    let trusting = gateway(url.clone(), |config| config.redis_tls.ca = Some(authority.path("ca.crt"))).await;
    works(&trusting).await;

    // Signed by somebody else, or for another name. No waiting mends that.
    let other = Authority::new();
    let elsewhere = Authority::new();
    elsewhere.sign_for("redis", "DNS:elsewhere");
    let (_redis, named_otherwise) = with_tls(&elsewhere, false);
    for (url, ca) in
        [(&url, None), (&url, Some(other.path("ca.crt"))), (&named_otherwise, Some(elsewhere.path("ca.crt")))]
    {
        let mut config = Config { redis_url: Some(url.clone()), redis_wait: NEVER, ..Config::default() };
        config.listen.set_port(0);
        config.redis_tls.ca = ca;
        let start = tokio::time::timeout(PATIENCE, moorline::serve(&config)).await.expect("an end without waiting");
        let error = start.err().expect("no gateway").to_string();
        assert!(error.contains("certificate") && error.contains("look at --redis-ca"), "{error}");
    }
}

/// What a gateway says that does not come up.
async fn refused(url: &str, arguments: &[&str]) -> String {
    let arguments: Vec<String> =
        ["--redis-url", url].iter().chain(arguments).map(|argument| (*argument).to_owned()).collect();
    let started = tokio::task::spawn_blocking(move || {
        Replica::try_start(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    });
    started.await.expect("no panic").err().expect("no gateway")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_for_tls_that_is_none_is_named() {
    let authority = Authority::new();
    authority.sign("gateway");
    authority.sign("other");
    std::fs::write(authority.path("empty"), "").expect("written");
    let file = |name: &str| authority.path(name).to_string_lossy().into_owned();
    let (crt, key) = (file("gateway.crt"), file("gateway.key"));
    for (arguments, flag, path) in [
        (vec!["--redis-ca", "/nowhere"], "--redis-ca", "/nowhere"),
        (vec!["--redis-ca", &file("empty")], "--redis-ca", &file("empty")),
        (vec!["--redis-ca", &key], "--redis-ca", &key),
        (vec!["--redis-cert", &file("empty"), "--redis-key", &key], "--redis-cert", &file("empty")),
        (vec!["--redis-cert", &crt, "--redis-key", &crt], "--redis-key", &crt),
        (vec!["--redis-cert", &crt, "--redis-key", &file("other.key")], "--redis-key", &file("other.key")),
    ] {
        let said = refused("rediss://localhost:1/", &arguments).await;
        assert!(said.contains(&format!("error: {flag} {path}: ")), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_wrong_scheme_and_a_certificate_that_is_missing_are_told() {
    let authority = Authority::new();
    authority.sign("redis");
    let (redis, secured) = with_tls(&authority, true);
    let ca = authority.path("ca.crt").to_string_lossy().into_owned();
    let said = refused(&secured, &["--redis-ca", &ca, "--redis-wait", "1h"]).await;
    assert!(said.contains("look at --redis-cert"), "{said}");
    let plain = secured.replace("rediss://", "redis://");
    let said = refused(&plain, &["--redis-wait", "200ms"]).await;
    // In the line of the first attempt, and in the end.
    assert_eq!(said.matches("--redis-url begins with rediss://").count(), 2, "{said}");
    let wrong = redis.url().replace("redis://", "rediss://");
    let said = refused(&wrong, &["--redis-ca", &ca, "--redis-timeout", "300ms", "--redis-wait", "500ms"]).await;
    assert_eq!(said.matches("--redis-url begins with redis://").count(), 2, "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_that_asks_for_a_certificate_gets_one() {
    let authority = Authority::new();
    authority.sign("redis");
    authority.sign("gateway");
    let (_redis, url) = with_tls(&authority, true);
    let gateway = gateway(url, |config| {
        config.redis_tls.ca = Some(authority.path("ca.crt"));
        config.redis_tls.client = Some((authority.path("gateway.crt"), authority.path("gateway.key")));
    });
    works(&gateway.await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_is_reached_over_a_unix_socket_as_a_user_in_a_database() {
    let directory = tempfile::tempdir().expect("a directory");
    let socket = directory.path().join("redis.sock");
    let redis = RedisServer::start_with(&["--unixsocket", &socket.to_string_lossy()]);
    redis.cli(&["ACL", "SETUSER", "ada", "on", ">secret", "~*", "&*", "+@all"]);
    works(&gateway(format!("unix://{}?db=3&user=ada&pass=secret", socket.display()), |_| {}).await).await;
    let gateway = gateway(format!("redis://ada:secret@127.0.0.1:{}/3", redis.port()), |_| {}).await;
    works(&gateway).await;
    gateway.session().append_numbers(0..1).await;
    let keyspace = redis.cli(&["INFO", "keyspace"]);
    assert!(keyspace.contains("db3:") && !keyspace.contains("db0:"), "{keyspace}");
}

/// What `docs/OPERATIONS.md` says a user for the gateway needs.
fn least_rights() -> Vec<String> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/OPERATIONS.md");
    let page = std::fs::read_to_string(page).expect("the operator's page");
    let line = page.lines().find_map(|line| line.strip_prefix("ACL SETUSER moorline on >secret "));
    line.expect("the rights of a user").split_whitespace().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_with_the_least_rights_that_are_documented_is_enough() {
    let redis = RedisServer::start();
    let rights = least_rights();
    let rights: Vec<&str> = rights.iter().map(String::as_str).collect();
    redis.cli(&[&["ACL", "SETUSER", "moorline", "on", ">secret"], &rights[..]].concat());
    for durability in [Durability::Redis, Durability::Replicated(0)] {
        let gateway = gateway(format!("redis://moorline:secret@127.0.0.1:{}/", redis.port()), |config| {
            config.redis_prefix = "moorline:".into();
            config.durability = durability;
        });
        works(&gateway.await).await;
    }
    assert_eq!(redis.cli(&["ACL", "LOG"]), "");
}

/// A right that is missing is found before anything is taken, and not at the first event of a session, which would be half in the log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_right_that_is_missing_is_found_at_the_start() {
    let redis = RedisServer::start();
    let rights = least_rights();
    let rights: Vec<&str> = rights.iter().map(String::as_str).collect();
    redis.cli(&[&["ACL", "SETUSER", "moorline", "on", ">secret"], &rights[..]].concat());
    let url = format!("redis://moorline:secret@127.0.0.1:{}/", redis.port());
    let start = async || {
        let mut config = Config { redis_url: Some(url.clone()), ..Config::default() };
        config.listen.set_port(0);
        moorline::serve(&config).await.map(drop).map_err(|error| error.to_string())
    };
    for right in rights.iter().filter_map(|right| right.strip_prefix('+')) {
        // Used by no write and no read of a start: the text of a script that Redis does not know, an end, a wait, an endless log.
        if ["eval", "unsubscribe", "wait", "hdel", "xlen"].contains(&right) {
            continue;
        }
        redis.cli(&["ACL", "SETUSER", "moorline", &format!("-{right}")]);
        let error = start().await.expect_err(right);
        assert!(error.contains("the store refuses us"), "{right}: {error}");
        redis.cli(&["ACL", "SETUSER", "moorline", &format!("+{right}")]);
        redis.cli(&["SCRIPT", "FLUSH"]);
    }
    redis.cli(&["ACL", "SETUSER", "moorline", "resetkeys", "~another:*"]);
    let error = start().await.expect_err("other keys");
    assert!(error.contains("the store refuses us"), "{error}");
    redis.cli(&["ACL", "SETUSER", "moorline", "resetkeys", "~moorline:*"]);
    start().await.expect("a gateway");
    assert_eq!(redis.cli(&["KEYS", "*"]), "");
}

/// While it runs: what went wrong in the middle of a script is no defect, but an operator's to mend.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_right_that_is_taken_away_later_is_told_as_such() {
    let redis = RedisServer::start();
    let gateway = gateway(redis.url(), |_| {}).await;
    let session = gateway.session();
    session.append_numbers(0..1).await;
    redis.cli(&["ACL", "SETUSER", "default", "-publish"]);
    session.post("/events", json!({"data": 1})).await.problem(503, "store_unavailable");
    session.post("/runs", json!({"run": "r"})).await.problem(503, "store_unavailable");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("nodes.conf");
    let redis =
        RedisServer::start_with(&["--cluster-enabled", "yes", "--cluster-config-file", &file.to_string_lossy()]);
    redis.cli(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
    let up = || async { redis.cli(&["CLUSTER", "INFO"]).contains("cluster_state:ok").then_some(()) };
    eventually("a cluster", up).await;
    let mut config = Config { redis_url: Some(redis.url()), ..Config::default() };
    config.listen.set_port(0);
    let error = moorline::serve(&config).await.err().expect("no gateway").to_string();
    assert!(error.contains("Redis Cluster"), "{error}");
}

/// A Redis that takes no writes now is waited for, as it may be the replica of a failover that is under way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_takes_no_writes_now_is_taken() {
    let redis = RedisServer::start();
    redis.cli(&["REPLICAOF", "127.0.0.1", "1"]);
    let replica = Replica::start(&redis.url(), &unique("p"));
    assert!(replica.log().contains("takes no writes now"), "{}", replica.log());
}

/// A master and a replica of it that is in step.
async fn pair() -> (RedisServer, RedisServer) {
    let master = RedisServer::start_with(&["--repl-diskless-sync-delay", "0"]);
    let replica = RedisServer::start();
    replica.cli(&["REPLICAOF", "127.0.0.1", &master.port().to_string()]);
    eventually("a replica that is online", || async {
        let online = master.cli(&["INFO", "replication"]).contains("state=online");
        online.then_some(())
    })
    .await;
    // The master calls it online while it still loads what it got, and confirms nothing.
    master.cli(&["SET", "in-step", "1"]);
    eventually("a replica in step", || async { (replica.cli(&["GET", "in-step"]) == "1").then_some(()) }).await;
    (master, replica)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_must_be_replicated_is_answered_only_once_it_is() {
    let (master, replica) = pair().await;
    let gateway = gateway(master.url(), |config| {
        config.durability = Durability::Replicated(1);
        config.redis_timeout = Duration::from_secs(4);
    })
    .await;
    works(&gateway).await;
    let session = gateway.session();
    session.append_numbers(1..3).await;

    replica.freeze();
    // Plain and numbered events, and control state go different ways.
    let problem = session.post("/events", json!({"data": 3})).await;
    assert_eq!(problem.headers["retry-after"], "1");
    let problem = problem.problem(503, "not_replicated");
    assert_eq!((&problem["confirmed"], &problem["wanted"]), (&json!(0), &json!(1)));
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("may be lost")), "{problem}");
    session.produce(("p", 0, 0), true, r#"{"data":4}"#).await.problem(503, "not_replicated");
    session.post("/runs", json!({"run": "r", "agent": "a"})).await.problem(503, "not_replicated");
    // Sent again it is a duplicate, and that is no better replicated than the first one.
    session.produce(("p", 0, 0), true, r#"{"data":4}"#).await.problem(503, "not_replicated");
    replica.thaw();

    let again = eventually("the replica confirms", || async {
        let again = session.produce(("p", 0, 0), true, r#"{"data":4}"#).await;
        (again.status != 503).then_some(again)
    });
    assert_eq!(again.await.is(200)["duplicate"], true);
    // All of it is in the log, as the answers said it might be.
    let data: Vec<_> = session.data().await.into_iter().filter(|data| data.is_number()).collect();
    assert_eq!(data, [1, 2, 3, 4]);
    let key = master.cli(&["KEYS", &format!("*{{{}}}:events", session.name)]);
    assert_eq!(replica.cli(&["XLEN", &key]), master.cli(&["XLEN", &key]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_write_waits_for_its_replicas() {
    let (master, replica) = pair().await;
    let gateway = gateway(master.url(), |config| {
        config.durability = Durability::Replicated(1);
        config.redis_timeout = Duration::from_secs(4);
    })
    .await;
    let session = gateway.session();
    for run in ["ends", "beats"] {
        session.post("/runs", json!({"run": run})).await.is(201);
    }
    session.post("/commands", json!({"type": "steer", "id": "answered"})).await.is(202);
    let erase = async || answer(session.http.delete(session.url(""))).await;

    replica.freeze();
    let put = session.http.put(session.url("/runs/body")).header("content-type", "application/x-ndjson");
    answer(put.body(r#"{"data":1}"#)).await.problem(503, "not_replicated");
    for (path, body) in [
        ("/commands", json!({"type": "steer", "id": "c"})),
        // Known by now, and no better replicated for that.
        ("/commands", json!({"type": "steer", "id": "c"})),
        ("/commands/answered/outcome", json!({"outcome": "consumed"})),
        ("/runs", json!({"run": "starts"})),
        ("/runs/beats/heartbeat", json!({})),
        ("/runs/ends/end", json!({"status": "completed"})),
        ("/approvals", json!({"approval": "a", "prompt": "?"})),
        ("/close", json!({})),
        ("/close", json!({})),
    ] {
        let problem = session.post(path, body).await.problem(503, "not_replicated");
        assert_eq!((&problem["confirmed"], &problem["wanted"]), (&json!(0), &json!(1)), "{path}");
    }
    erase().await.problem(503, "not_replicated");
    // There is nothing to erase any more, but the replica does not know it yet.
    erase().await.problem(503, "not_replicated");
    replica.thaw();

    let gone = eventually("the replica confirms", || async {
        let again = erase().await;
        (again.status != 503).then_some(again)
    });
    gone.await.problem(404, "unknown_session");
    assert_eq!(replica.cli(&["KEYS", &format!("*{{{}}}*", session.name)]), "");
    session.append_numbers(0..1).await;
    assert_eq!(erase().await.status, 204);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_without_redis_are_a_mistake() {
    let said = Replica::try_start(&["--durability", "replicated:1"]).err().expect("no gateway");
    assert!(said.contains("--durability") && said.contains("--redis-url"), "{said}");
    let (redis, prefix) = (RedisServer::shared().url(), unique("ways"));
    drop(Replica::start_with(&["--durability", "redis", "--redis-url", &redis, "--redis-prefix", &prefix]));
}
