//! Requests and streams that last: a body that is answered before its end, a stream on which nothing is to be said.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use futures_util::StreamExt;
use moorline::{
    client::{Client, Command, Speaker},
    config::Config,
    http::Server,
    id::Name,
};
use serde_json::{Value, json};

use crate::support::{eventually, redis::RedisServer, unique};

#[tokio::test]
async fn a_stop_answers_a_silent_body_and_the_run_is_not_completed() {
    let (server, client, session) = start(Config::default()).await;
    let body = tokio::spawn(put_endless(&server, &session));
    started(&client, &session).await;
    let run = "r1".parse().ok();
    client.command(&session, &Command { run, grace_ms: Some(300), ..Command::new("stop") }).await.unwrap();

    let (status, answer) = body.await.unwrap();
    assert_eq!(
        (status, &answer["appended"], &answer["run"]["status"]),
        (201, &json!(1), &json!("stopping")),
        "{answer}"
    );
    let ended = eventually("the run has ended", || async {
        let run = client.session(&session).await.unwrap()["runs"][0].clone();
        (!run["ended"].is_null()).then_some(run)
    });
    assert_eq!(ended.await["status"], "cancelled");
}

#[tokio::test]
async fn a_replica_that_goes_down_leaves_a_run_that_is_a_body_to_its_lease() {
    let redis = Config {
        redis_url: Some(RedisServer::shared().url()),
        redis_prefix: unique("moorline") + ":",
        ..Config::default()
    };
    let (going, _, session) = start(redis.clone()).await;
    let (_staying, client, _) = start(redis).await;
    let body = tokio::spawn(put_endless(&going, &session));
    started(&client, &session).await;
    going.shutdown(Config::default().drain.at_once()).await;

    let (status, answer) = body.await.unwrap();
    // No success, or a sender that does not count would take the rest for stored.
    assert_eq!((status, &answer["appended"]), (503, &json!(1)), "{answer}");
    assert_eq!(client.session(&session).await.unwrap()["runs"][0]["status"], "running");
}

#[tokio::test]
async fn a_stream_whose_entries_are_all_filtered_out_still_beats() {
    let mut config = Config::default();
    config.limits.heartbeat = Duration::from_millis(100);
    let (server, client, session) = start(config).await;
    let url = format!("http://{}/v1/sessions/{session}/events?type=rare", server.addr);
    let answer = http().get(url).header("accept", "text/event-stream").send().await.unwrap();
    let noise = tokio::spawn(async move {
        loop {
            client.publish(&session, &Speaker::default(), &json!({"type": "frequent"})).await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let mut body = answer.bytes_stream();
    let beats = async {
        while let Some(bytes) = body.next().await {
            if &bytes.unwrap()[..] == b":\n" {
                return;
            }
        }
        panic!("the stream ended");
    };
    tokio::time::timeout(Duration::from_secs(10), beats).await.expect("a heartbeat");
    noise.abort();
}

async fn start(mut config: Config) -> (Server, Client, Name) {
    config.listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let server = moorline::serve(&config).await.unwrap();
    let client = Client::new(&format!("http://{}", server.addr), None).unwrap();
    (server, client, unique("s").parse().unwrap())
}

fn http() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap()
}

/// A run that is a body of one event and no end.
fn put_endless(server: &Server, session: &Name) -> impl Future<Output = (u16, Value)> + use<> {
    let url = format!("http://{}/v1/sessions/{session}/runs/r1", server.addr);
    let first = futures_util::stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(b"{\"data\":1}\n"))]);
    let body = reqwest::Body::wrap_stream(first.chain(futures_util::stream::pending()));
    let request = http().put(url).header("content-type", "application/x-ndjson").body(body);
    async move {
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }
}

/// Waits until the body's event is in the log.
async fn started(client: &Client, session: &Name) {
    eventually("the run has written", || async {
        let session = client.session(session).await.ok()?;
        (session["lanes"]["events"]["count"].as_u64()? >= 2).then_some(())
    })
    .await;
}
