//! Redis in trouble, as clients of the gateway see it: appends are answered in time, nothing is answered 2xx that is not
//! in the log, streams stay open and catch up.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::support::{
    PATIENCE,
    balancer::Balancer,
    eventually,
    gateway::{Answer, Gateway, Session},
    process::Replica,
    redis::{APPEND_ONLY, RedisServer},
    unique,
};

/// How long the gateway waits for Redis in these tests.
const TIMEOUT: Duration = Duration::from_secs(1);
/// An answer that takes longer is no answer "after a short bounded wait", even on a busy machine.
const BOUND: Duration = Duration::from_secs(10);

async fn gateway(redis_url: String) -> Gateway {
    Gateway::start_with(crate::store_contract::Backend::Redis, |config| {
        config.redis_url = Some(redis_url);
        config.redis_timeout = TIMEOUT;
        config.limits.heartbeat = Duration::from_millis(200);
    })
    .await
}

async fn append(session: &Session, n: u64) -> Answer {
    let asked = Instant::now();
    let answer = session.post("/events", json!({"data": n})).await;
    assert!(asked.elapsed() < BOUND, "an answer after {:?}", asked.elapsed());
    answer
}

/// Appends until it works again.
async fn append_at_last(session: &Session, n: u64) {
    eventually("an append works", || async { (append(session, n).await.status == 201).then_some(()) }).await;
}

/// What an append gets while the store is away.
fn is_unavailable(answer: Answer) {
    assert_eq!(answer.headers.get("retry-after").and_then(|after| after.to_str().ok()), Some("1"), "{answer:?}");
    answer.problem(503, "store_unavailable");
}

/// Begins trouble, looks at it, ends it: appends get 503 meanwhile, the open stream goes on as if nothing had been, and
/// the log holds what was answered with success.
async fn goes_through(url: String, begin: impl AsyncFnOnce(), end: impl AsyncFnOnce()) {
    let gateway = gateway(url).await;
    let session = gateway.session();
    append(&session, 1).await.is(201);
    let mut stream = session.follow("").await;
    assert_eq!(stream.data(1).await, [1]);
    stream.caught_up().await;

    begin().await;
    eventually("trouble", || async { (append(&session, 100).await.status != 201).then_some(()) }).await;
    is_unavailable(append(&session, 101).await);
    end().await;

    append_at_last(&session, 2).await;
    // What was answered with 503 may be there, in between.
    let mut seen = Vec::new();
    while seen.last() != Some(&json!(2)) {
        seen.extend(stream.data(1).await);
    }
    seen.insert(0, json!(1));
    assert_eq!(session.data().await, seen);
    assert!(seen.iter().all(|n| [1, 2, 100, 101].contains(&n.as_u64().expect("a number"))), "{seen:?}");
    let ready =
        || async { (session.http.get(gateway.url("/readyz")).send().await.ok()?.status() == 200).then_some(()) };
    eventually("the gateway is ready", ready).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_is_killed_and_comes_back_with_its_file() {
    let redis = RedisServer::start_with(&APPEND_ONLY);
    goes_through(redis.url(), async || redis.kill9(), async || redis.restart()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_is_frozen_and_thaws() {
    let redis = RedisServer::start();
    goes_through(redis.url(), async || redis.freeze(), async || redis.thaw()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_becomes_a_replica_and_a_master_again() {
    let redis = RedisServer::start();
    let begin = async || drop(redis.cli(&["REPLICAOF", "127.0.0.1", "1"]));
    goes_through(redis.url(), begin, async || drop(redis.cli(&["REPLICAOF", "NO", "ONE"]))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_is_full() {
    let redis = RedisServer::start();
    let begin = async || drop(redis.cli(&["CONFIG", "SET", "maxmemory", "1"]));
    goes_through(redis.url(), begin, async || drop(redis.cli(&["CONFIG", "SET", "maxmemory", "0"]))).await;
}

/// All replicas would be out at once, and reading with them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_takes_no_writes_leaves_the_gateway_ready() {
    for (begin, end) in [
        (["CONFIG", "SET", "maxmemory", "1"], ["CONFIG", "SET", "maxmemory", "0"]),
        (["CONFIG", "SET", "min-replicas-to-write", "1"], ["CONFIG", "SET", "min-replicas-to-write", "0"]),
    ] {
        let redis = RedisServer::start();
        let gateway = gateway(redis.url()).await;
        let session = gateway.session();
        append(&session, 1).await.is(201);
        redis.cli(&begin);
        is_unavailable(append(&session, 2).await);
        let ready = session.http.get(gateway.url("/readyz")).send().await.expect("an answer");
        assert_eq!((ready.status().as_u16(), session.data().await), (200, vec![json!(1)]), "{begin:?}");
        redis.cli(&end);
        append(&session, 3).await.is(201);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_cant_write_its_files() {
    // A directory stands where the snapshot is to go.
    let redis =
        RedisServer::start_with(&["--appendonly", "yes", "--dbfilename", "appendonlydir", "--save", "3600", "1000000"]);
    let begin = async || {
        redis.cli(&["BGSAVE"]);
        let failed = || async { redis.cli(&["INFO", "persistence"]).contains("bgsave_status:err").then_some(()) };
        eventually("a snapshot fails", failed).await;
    };
    let end = async || drop(redis.cli(&["CONFIG", "SET", "stop-writes-on-bgsave-error", "no"]));
    goes_through(redis.url(), begin, end).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_takes_away_the_right_to_write() {
    let redis = RedisServer::start();
    let begin = async || drop(redis.cli(&["ACL", "SETUSER", "default", "-evalsha", "-eval"]));
    let end = async || drop(redis.cli(&["ACL", "SETUSER", "default", "+evalsha", "+eval"]));
    goes_through(redis.url(), begin, end).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_wants_a_password_that_the_gateway_does_not_have() {
    let redis = RedisServer::start();
    let begin = async || {
        redis.cli(&["CONFIG", "SET", "requirepass", "changed"]);
        // Those that are there would stay. This one needs the password, too.
        redis.cli_as("changed", &["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    };
    let end = async || drop(redis.cli_as("changed", &["CONFIG", "SET", "requirepass", ""]));
    goes_through(redis.url(), begin, end).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_loads_its_data() {
    let redis = RedisServer::start_with(&[
        "--enable-debug-command",
        "yes",
        "--key-load-delay",
        "500",
        "--loading-process-events-interval-bytes",
        "1024",
    ]);
    redis.cli(&["DEBUG", "POPULATE", "10000"]);
    let redis = Arc::new(redis);
    let loader = redis.clone();
    let (loaded, loading) = std::sync::mpsc::channel();
    let begin = async move || {
        std::thread::spawn(move || loaded.send(loader.cli(&["DEBUG", "RELOAD"])));
    };
    let end = async || drop(loading.recv_timeout(PATIENCE).expect("the data is loaded"));
    goes_through(redis.url(), begin, end).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_is_behind_a_network_that_swallows_everything() {
    let redis = RedisServer::start();
    let network = Balancer::tcp(&[([127, 0, 0, 1], redis.port()).into()]).await;
    // Open connections are dead for good, and nobody is told; only new ones work. TCP would not notice for long.
    let begin = async || network.delay(Duration::from_secs(3600));
    goes_through(format!("redis://{}/", network.addr()), begin, async || network.delay(Duration::ZERO)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_is_slow() {
    let redis = RedisServer::start();
    let network = Balancer::tcp(&[([127, 0, 0, 1], redis.port()).into()]).await;
    let gateway = gateway(format!("redis://{}/", network.addr())).await;
    let session = gateway.session();
    // Slow, but in time.
    network.delay(Duration::from_millis(100));
    append(&session, 1).await.is(201);
    // Too slow.
    network.delay(2 * TIMEOUT);
    is_unavailable(append(&session, 2).await);
    network.delay(Duration::ZERO);
    append_at_last(&session, 3).await;
}

/// A name leads to another server after a failover. No connection breaks: it takes the refusal of a write to find out.
async fn fails_over(write: impl AsyncFn(&Session) -> Answer) {
    let (old, new) = (RedisServer::start(), RedisServer::start());
    let name = Balancer::tcp(&[([127, 0, 0, 1], old.port()).into()]).await;
    let gateway = gateway(format!("redis://{}/", name.addr())).await;
    let session = gateway.session();
    append(&session, 1).await.is(201);
    let mut stream = session.follow("").await;
    assert_eq!(stream.data(1).await, [1]);
    stream.caught_up().await;

    // The new one has all that the old one had.
    new.cli(&["REPLICAOF", "127.0.0.1", &old.port().to_string()]);
    eventually("a replica in step", || async {
        let (old, new) = (old.cli(&["DBSIZE"]), new.cli(&["DBSIZE"]));
        (old == new && new != "0").then_some(())
    })
    .await;
    new.cli(&["REPLICAOF", "NO", "ONE"]);
    old.cli(&["REPLICAOF", "127.0.0.1", &new.port().to_string()]);
    name.add(([127, 0, 0, 1], new.port()).into());
    name.remove(([127, 0, 0, 1], old.port()).into());

    eventually("a write works", || async { (write(&session).await.status == 201).then_some(()) }).await;
    append(&session, 9).await.is(201);
    while stream.entry().await.json["data"] != 9 {}
    assert_eq!(new.cli(&["DBSIZE"]), "2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_leads_to_another_server_is_followed_by_appends() {
    fails_over(async |session| append(session, 2).await).await;
}

/// Those go another way to Redis, which says its refusal in other words.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_leads_to_another_server_is_followed_by_runs_alone() {
    fails_over(async |session| session.post("/runs", json!({"run": "r"})).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flushed_scripts_are_nobodys_trouble() {
    let redis = RedisServer::start();
    let gateway = gateway(redis.url()).await;
    let session = gateway.session();
    for n in 1..=3 {
        append(&session, n).await.is(201);
        redis.cli(&["SCRIPT", "FLUSH"]);
    }
    assert_eq!(session.data().await, [1, 2, 3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_value_at_a_key_is_the_trouble_of_its_session_alone() {
    let redis = RedisServer::start();
    let gateway = gateway(redis.url()).await;
    let (spoilt, other) = (gateway.session(), gateway.session());
    append(&spoilt, 1).await.is(201);
    let key = redis.cli(&["KEYS", &format!("*{{{}}}:events", spoilt.name)]);
    redis.cli(&["SET", &key, "foreign"]);
    append(&spoilt, 2).await.problem(500, "store_fault");
    append(&other, 1).await.is(201);
    // Deletion is the way out.
    let deleted = spoilt.http.delete(spoilt.url("")).send().await.expect("an answer");
    assert_eq!(deleted.status(), 204);
    append(&spoilt, 3).await.is(201);
    assert_eq!(spoilt.data().await, [3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_are_cut_when_redis_stays_away() {
    let redis = RedisServer::start_with(&APPEND_ONLY);
    let gateway = Gateway::start_with(crate::store_contract::Backend::Redis, |config| {
        config.redis_url = Some(redis.url());
        config.redis_timeout = TIMEOUT;
        config.redis_patience = Duration::from_secs(2);
        config.drain.spread = Duration::from_millis(300);
        config.limits.heartbeat = Duration::from_millis(100);
    })
    .await;
    let session = gateway.session();
    append(&session, 1).await.is(201);
    let mut stream = session.follow("").await;
    let last = stream.entry().await.id;
    redis.kill9();
    stream.cut().await;
    redis.restart();
    // It is the store that was lost, not the replica: it serves again.
    let resumed = eventually("a stream", || async {
        let response = session.try_follow("events", "", Some(&last)).await;
        (response.status() == 200).then_some(response)
    });
    resumed.await;
    append_at_last(&session, 2).await;
    let mut stream = session.resume("", &last).await;
    assert_eq!(stream.data(1).await, [2]);
}

fn serve(url: &str, wait: &'static str) -> tokio::task::JoinHandle<Result<Replica, String>> {
    let (url, prefix) = (url.to_owned(), unique("start"));
    tokio::task::spawn_blocking(move || {
        Replica::try_start(&["--redis-url", &url, "--redis-prefix", &prefix, "--redis-wait", wait])
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_waits_for_redis_at_its_start() {
    let redis = RedisServer::start();
    redis.kill9();
    let replica = serve(&redis.url(), "60s");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!replica.is_finished(), "it has not waited");
    redis.restart();
    let replica = tokio::time::timeout(PATIENCE, replica).await.expect("a gateway in time").expect("no panic");
    let log = replica.expect("a gateway").log();
    assert_eq!(log.matches("Redis is not there yet").count(), 1, "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_without_redis_gives_up_and_says_why() {
    let redis = RedisServer::start();
    redis.kill9();
    let said = serve(&redis.url(), "300ms").await.expect("no panic").err().expect("no gateway");
    assert!(said.contains("error: the store is not available") && said.contains("tried for"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_is_not_tried_again_and_never_shown() {
    let redis = RedisServer::start();
    redis.cli(&["CONFIG", "SET", "requirepass", "right-password"]);
    for credentials in [":wrong-password@", ""] {
        let url = format!("redis://{credentials}127.0.0.1:{}/", redis.port());
        let said = serve(&url, "60s").await.expect("no panic").err().expect("no gateway");
        assert!(said.contains("error: the store refuses us"), "{said}");
        assert!(!said.contains("wrong-password") && !said.contains("not there yet"), "{said}");
    }
    let url = format!("redis://:right-password@127.0.0.1:{}/", redis.port());
    drop(serve(&url, "60s").await.expect("no panic").expect("a gateway"));
}

/// A log that is gone tells nobody: neither an expiry nor a lost database is pushed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_went_without_a_word_is_not_shown_to_newcomers() {
    for newcomer in ["from now on", "with a cursor of nowhere", "with a run of before"] {
        let redis = RedisServer::start();
        let gateway = gateway(redis.url()).await;
        let session = gateway.session();
        session.post("/runs", json!({"run": "r1"})).await.is(201);
        session.post("/runs/r1/end", json!({"status": "completed"})).await.is(200);
        append(&session, 1).await.is(201);
        let mut old = session.follow("").await;
        old.until("message").await;
        old.caught_up().await;
        redis.cli(&["FLUSHALL"]);

        match newcomer {
            "from now on" => {
                let frame = session.follow("?from=now").await.next().await.expect("a frame");
                assert_eq!(
                    (frame.event.as_deref(), frame.id.as_deref()),
                    (Some("caught-up"), Some("0-0")),
                    "{frame:?}"
                );
            }
            "with a cursor of nowhere" => {
                let mut stream = session.resume("", "nonsense").await;
                assert_eq!(stream.named("reset").await, json!({"reason": "unknown", "first": null}));
                stream.caught_up().await;
            }
            _ => {
                let path = "/events?run=r1";
                let mut body = session.open_body(path, "content-type: application/x-ndjson").await;
                body.chunk("{\"data\":2}\n").await;
                body.chunk("").await;
                let answer = body.answer().await;
                assert_eq!(answer.is(201)["appended"], 1, "the run of before has ended, but not here");
                continue;
            }
        }
        // Those who were there learn of it, too.
        assert_eq!(old.named("reset").await["reason"], "deleted", "{newcomer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_cant_be_read_is_refused_before_it_begins() {
    let redis = RedisServer::start();
    let gateway = gateway(redis.url()).await;
    let session = gateway.session();
    append(&session, 1).await.is(201);
    let mut events = session.follow("").await;
    assert_eq!(events.data(1).await, [1]);

    // The session is live here, but nobody has followed this lane.
    redis.freeze();
    let answer = session.try_follow("commands", "", None).await;
    redis.thaw();
    assert_eq!(answer.status(), 503, "{answer:?}");
    eventually("the stream can be read again", || async {
        (session.try_follow("commands", "", None).await.status() == 200).then_some(())
    })
    .await;

    // What no gateway wrote stays unreadable.
    let spoilt = gateway.session();
    append(&spoilt, 1).await.is(201);
    let key = redis.cli(&["KEYS", &format!("*{}*events", spoilt.name)]);
    assert_eq!(key.lines().count(), 1, "{key}");
    redis.cli(&["SET", key.trim(), "spoilt"]);
    let answer = spoilt.try_follow("events", "", None).await;
    assert_eq!(answer.status(), 500, "{answer:?}");
}
