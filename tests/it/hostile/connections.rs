//! Too many connections, and too slow ones.

use tokio::{io::AsyncWriteExt, task::JoinSet};

use super::{Victim, connect, sockets};
use crate::support::PATIENCE;

/// Slowloris: a byte of a head now and then, on a thousand sockets.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_slow_heads_hold_nobody_up() {
    let victim = Victim::start(&["--head-timeout", "3s"]).await;
    let mut open = JoinSet::new();
    for n in 0..sockets(1000) {
        let addr = victim.addr().to_owned();
        open.spawn(async move {
            let mut stream = connect(&addr).await;
            let head = format!("POST /v1/sessions/s{n}/events HTTP/1.1\r\nhost: t\r\nx-{n}: {}", "y".repeat(1 << 16));
            // Until the gateway has had enough.
            for byte in head.bytes() {
                if stream.write_all(&[byte]).await.is_err() {
                    return;
                }
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        });
    }
    let count = open.len();
    // All are given up, although each has sent something all along.
    tokio::time::timeout(PATIENCE, open.join_all()).await.expect("the slow ones are cut");
    victim.unharmed(&format!("{count} slow heads")).await;
}

/// The same on connections whose first request was a good one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_heads_after_a_good_request_hold_nobody_up() {
    let victim = Victim::start(&["--head-timeout", "2s"]).await;
    let mut open = JoinSet::new();
    for _ in 0..sockets(300) {
        let addr = victim.addr().to_owned();
        open.spawn(async move {
            let mut stream = connect(&addr).await;
            let _ = stream.write_all(b"GET /livez HTTP/1.1\r\nhost: t\r\n\r\n").await;
            while stream.write_all(b"G").await.is_ok() {
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        });
    }
    let count = open.len();
    tokio::time::timeout(PATIENCE, open.join_all()).await.expect("the slow ones are cut");
    victim.unharmed(&format!("{count} slow second heads")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_connects_and_drops_leave_nothing_behind() {
    let victim = Victim::start(&[]).await;
    let beginnings: [&[u8]; 6] = [
        b"",
        b"GET",
        b"GET /v1/sessions/dropped/events HTTP/1.1\r\nhost: t\r\naccept: text/event-stream\r\n\r\n",
        b"POST /v1/sessions/dropped/events HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{",
        b"POST /v1/sessions/dropped/events HTTP/1.1\r\nhost: t\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nhost: t\r\n\r\nGET /livez HTTP/1.1\r\nhost: t\r\n\r\nGET /",
    ];
    let mut at_work = JoinSet::new();
    for worker in 0..50 {
        let addr = victim.addr().to_owned();
        at_work.spawn(async move {
            for n in 0..200 {
                let mut stream = connect(&addr).await;
                let _ = stream.write_all(beginnings[(worker + n) % beginnings.len()]).await;
                if n % 2 == 0 {
                    // A reset instead of an end.
                    let _ = socket2::SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO));
                }
            }
        });
    }
    at_work.join_all().await;
    victim.unharmed("10,000 connects and drops").await;
}

/// Streams that nobody reads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_take_nothing_hold_nobody_up() {
    let victim = Victim::start(&["--stall-timeout", "1s"]).await;
    let mut open = Vec::new();
    for _ in 0..sockets(200) {
        let mut stream = connect(victim.addr()).await;
        let head = "GET /v1/sessions/deaf/events HTTP/1.1\r\nhost: t\r\naccept: text/event-stream\r\n\r\n";
        stream.write_all(head.as_bytes()).await.expect("sent");
        open.push(stream);
    }
    let session = crate::support::gateway::Session::at(victim.process.url(), "deaf");
    for _ in 0..60 {
        session.append(serde_json::json!({"data": "x".repeat(200_000)})).await;
    }
    let count = open.len();
    drop(open);
    victim.unharmed(&format!("{count} deaf clients")).await;
}
