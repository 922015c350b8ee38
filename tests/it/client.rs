//! The Rust client against a gateway: what nothing else here does with it.

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::stream;
use moorline::{
    client::{Appended, Client, Error, ProducerState, Speaker},
    id::Name,
};
use serde_json::json;

use crate::{store_contract::Backend, support::gateway::Gateway};

fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_of_lines_is_stored_and_counted() {
    let gateway = Gateway::start(Backend::Memory).await;
    let session = gateway.session();
    let client = Client::new(&gateway.url(""), None).expect("a client");
    let speaker = Speaker { agent: Some(name("a")), run: None };
    // Lines need not come whole.
    let pieces = ["{\"data\":1}\n{\"da", "ta\":2}\n", "{\"data\":3,\"agent\":\"b\"}"];
    let body = stream::iter(pieces.map(|piece| Ok::<_, Infallible>(Bytes::from(piece))));
    let done = client.publish_ndjson(&name(&session.name), &speaker, body).await.expect("stored");
    let events = session.lane("events").await;
    let said: Vec<_> = events.iter().map(|event| (&event["data"], &event["agent"])).collect();
    assert_eq!(said, [(&json!(1), &json!("a")), (&json!(2), &json!("a")), (&json!(3), &json!("b"))]);
    let Appended { appended, last } = done;
    assert_eq!((appended, last.expect("an id").to_string()), (3, events[2]["id"].as_str().expect("an id").to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_that_is_no_event_is_a_problem() {
    let gateway = Gateway::start(Backend::Memory).await;
    let session = gateway.session();
    let client = Client::new(&gateway.url(""), None).expect("a client");
    let body = stream::iter(["{\"data\":1}\n", "rubbish\n"].map(|line| Ok::<_, Infallible>(Bytes::from(line))));
    let refused = client.publish_ndjson(&name(&session.name), &Speaker::default(), body).await;
    let Err(Error::Problem(problem)) = refused else { panic!("{refused:?}") };
    assert_eq!(problem.status, 400);
    assert_eq!(session.data().await, [1], "what came before it is stored");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_a_producer_stands_can_be_asked() {
    let gateway = Gateway::start(Backend::Memory).await;
    let session = gateway.session();
    let client = Client::new(&gateway.url(""), None).expect("a client");
    let (asked, producer) = (name(&session.name), name("p"));
    let state = async || client.producer_state(&asked, &producer).await.expect("an answer");
    assert_eq!(state().await, None, "no such session");
    session.produce(("another", 0, 0), true, r#"{"data":0}"#).await.is(201);
    assert_eq!(state().await, None, "no such producer");
    session.produce(("p", 4, 0), true, r#"[{"data":1},{"data":2}]"#).await.is(201);
    assert_eq!(state().await, Some(ProducerState { epoch: 4, next_seq: 2 }));
}
