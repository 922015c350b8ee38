//! How many calls to Redis commits take: what decides what an event costs.

use super::*;

/// Ends a frozen server's rest even if the test fails.
struct Frozen<'a>(&'a RedisServer);

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        self.0.thaw();
    }
}

/// Lets the tasks of this thread do what they can do without the server.
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

fn calls(server: &RedisServer) -> u64 {
    let all = server.cli(&["INFO", "commandstats"]);
    let line = all.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:calls="));
    line.and_then(|line| line.split(',').next()).and_then(|calls| calls.parse().ok()).unwrap_or(0)
}

/// How many calls it takes to append these numbers of events, each list at once while nothing is answered yet, and all of them to
/// sessions of their own.
async fn calls_for(lists: &[&[usize]]) -> u64 {
    let server = RedisServer::start();
    let store: Arc<dyn Store> = Arc::new(connect(&server, |config| config.timeout = crate::support::PATIENCE).await);
    let mut plans = Vec::new();
    for list in lists {
        let mut group = Vec::new();
        for count in *list {
            let session = Session::new(store.clone());
            session.append_events(&["{}"]).await;
            group.push((session.plan(vec![events(&vec!["{}"; *count])]).await, session));
        }
        plans.push(group);
    }
    let before = calls(&server);
    server.freeze();
    let frozen = Frozen(&server);
    let mut under_way = tokio::task::JoinSet::new();
    for group in plans {
        for (commit, session) in group {
            under_way.spawn(async move { session.commit(commit).await });
        }
        settle().await;
    }
    drop(frozen);
    for outcome in under_way.join_all().await {
        committed(outcome);
    }
    calls(&server) - before
}

#[tokio::test]
async fn a_single_commit_does_not_wait_for_another_single_one() {
    // A third does, and with it all that comes until one of the two is answered.
    assert_eq!(calls_for(&[&[1], &[1], &[1], &[1, 1, 1, 1]]).await, 3);
}

#[tokio::test]
async fn what_comes_while_a_call_of_several_is_under_way_goes_together() {
    assert_eq!(calls_for(&[&[1, 1], &[1], &[1], &[1]]).await, 2);
}

#[tokio::test]
async fn a_call_ends_at_512_events() {
    // 600, 600, and the 100 that are left.
    assert_eq!(calls_for(&[&[1, 1], &[100; 13]]).await, 4);
}

#[tokio::test]
async fn a_call_ends_at_64_commits() {
    assert_eq!(calls_for(&[&[1, 1], &[1; 65]]).await, 3);
}

#[tokio::test]
async fn a_full_call_has_another_one_beside_it() {
    // The second goes at once, or the third list would have gone with it.
    assert_eq!(calls_for(&[&[512], &[1, 1], &[1]]).await, 3);
}
