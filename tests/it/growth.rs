//! What grows with the clients and the sessions, and what does not: Redis sees one gateway, however many watch through it.
//! `benches/growth` shows the same in figures.

use serde_json::json;

use crate::{
    store_contract::Backend,
    support::{gateway::Gateway, redis::RedisServer},
};

/// What events and their readers ask of Redis. Beats, the clock, and looks at a session's deadlines come by themselves.
const WORK: [&str; 7] = ["xadd", "hset", "multi", "xrange", "xrevrange", "subscribe", "unsubscribe"];
/// Commits, pushes, and what reads pages at most (`RedisConfig::page_connections`); and this test's own.
const CONNECTIONS: u64 = 2 + 16 + 1;

async fn gateway(redis: &RedisServer) -> Gateway {
    Gateway::start_with(Backend::Redis, |config| config.redis_url = Some(redis.url())).await
}

fn figure(redis: &RedisServer, section: &str, line: &str) -> u64 {
    let info = redis.cli(&["INFO", section]);
    let value = info.lines().find_map(|text| text.strip_prefix(line)).unwrap_or("0");
    value.split(',').next().unwrap_or_default().parse().expect("a number")
}

fn work(redis: &RedisServer) -> [u64; WORK.len()] {
    WORK.map(|command| figure(redis, "commandstats", &format!("cmdstat_{command}:calls=")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_costs_redis_the_same_however_many_watch() {
    let redis = RedisServer::start();
    let gateway = gateway(&redis).await;
    let mut costs = Vec::new();
    for clients in [1, 60] {
        let session = gateway.session();
        session.append_numbers(0..1).await;
        let mut streams = Vec::new();
        for _ in 0..clients {
            let mut stream = session.follow("").await;
            stream.entries(1).await;
            stream.caught_up().await;
            streams.push(stream);
        }
        redis.cli(&["CONFIG", "RESETSTAT"]);
        for n in 1..=20 {
            session.append_numbers(n..n + 1).await;
        }
        for stream in &mut streams {
            let data: Vec<_> = stream.entries(20).await.into_iter().map(|entry| entry.json["data"].clone()).collect();
            assert_eq!(data, (1..=20).map(|n| json!(n)).collect::<Vec<_>>());
        }
        costs.push(work(&redis));
    }
    assert_eq!(costs[0], costs[1], "of {WORK:?}, with one client and with 60");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_clients_reads_each_session_and_not_for_each_client() {
    let redis = RedisServer::start();
    let gateway = gateway(&redis).await;
    let neighbour = gateway.replica().await;
    let mut sessions = Vec::new();
    for _ in 0..10 {
        let session = gateway.session();
        let ids = session.append_numbers(0..100).await;
        sessions.push((session, ids[49].clone()));
    }
    redis.cli(&["CONFIG", "RESETSTAT"]);
    let storm = sessions.iter().flat_map(|(session, cursor)| {
        let there = neighbour.session_named(&session.name);
        (0..12).map(move |_| {
            let there = there.clone();
            async move {
                let mut stream = there.resume("", cursor).await;
                assert_eq!(stream.entries(50).await.len(), 50);
                stream
            }
        })
    });
    let streams = futures_util::future::join_all(storm).await;
    // A page is a transaction: a small one, to see how large entries are, and the rest.
    let [.., reads, _, _, subscriptions, _] = work(&redis);
    assert_eq!(streams.len(), 120);
    assert!(reads <= 2 * 10, "{reads} reads for 10 sessions of 12 clients each");
    assert!(subscriptions <= 10, "{subscriptions} for 10 sessions");
    assert!(figure(&redis, "clients", "connected_clients:") <= CONNECTIONS + 2 + 16, "two gateways");
}
