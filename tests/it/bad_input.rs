//! Bad input, on both stores: it gets a problem answer with a stable code (or ends its own connection), changes nothing
//! in the session, and leaves the gateway serving.

mod bodies;
mod control;
mod requests;
mod wire;

use moorline::config::Config;
use serde_json::{Value, json};

use crate::{
    store_contract::Backend,
    support::gateway::{Answer, Gateway, Session, answer},
};

/// A session in which there is something of everything.
struct Scene {
    gateway: Gateway,
    session: Session,
}

impl Scene {
    async fn new(backend: Backend) -> Self {
        Self::with(backend, |_| {}).await
    }

    async fn with(backend: Backend, configure: impl FnOnce(&mut Config)) -> Self {
        let gateway = Gateway::start_with(backend, configure).await;
        let session = gateway.session();
        session.append_numbers(0..3).await;
        for run in ["live", "ended"] {
            session.post("/runs", json!({"run": run, "lease_ms": 3_600_000})).await.is(201);
        }
        session.post("/runs", json!({"run": "child", "parent": "live", "lease_ms": 3_600_000})).await.is(201);
        session.post("/runs/ended/end", json!({"status": "completed"})).await.is(200);
        for command in ["pending", "consumed"] {
            session.post("/commands", json!({"type": "go", "id": command})).await.is(202);
        }
        session.post("/commands/consumed/outcome", json!({"outcome": "consumed"})).await.is(201);
        for approval in ["open", "decided"] {
            session.post("/approvals", json!({"approval": approval, "prompt": "?"})).await.is(201);
        }
        let decision = json!({"type": "decide", "id": "d", "approval": "decided", "data": {"decision": "approve"}});
        session.post("/commands", decision).await.is(202);
        session.produce(("p", 0, 0), true, r#"{"data":1}"#).await.is(201);
        Scene { gateway, session }
    }

    /// What is sent must be refused, and leave everything as it was.
    async fn refuses(&self, what: &str, sent: impl Future<Output = Answer>, status: u16, code: &str) -> Value {
        let mut problem = None;
        self.unmoved(what, async { problem = Some(sent.await) }).await;
        let answer = problem.expect("an answer");
        assert_eq!(answer.status, status, "{what}: {answer:?}");
        answer.problem(status, code)
    }

    /// Whatever is done must leave everything as it was, and the gateway serving.
    async fn unmoved(&self, what: &str, done: impl Future<Output = ()>) {
        let before = self.session.state().await;
        done.await;
        assert_eq!(self.session.state().await, before, "{what}");
        assert_eq!(self.session.append(json!({"type": "good"})).await.len(), 1, "after {what}");
    }

    async fn refuses_get(&self, path: &str, status: u16, code: &str) -> Value {
        self.refuses(path, self.session.get(path), status, code).await
    }

    async fn refuses_post(&self, path: &str, body: &str, status: u16, code: &str) -> Value {
        let what: String = format!("{path} {body}").chars().take(200).collect();
        self.refuses(&what, self.session.post_as(path, "application/json", body.to_owned()), status, code).await
    }

    /// A request whose path is sent as it stands.
    async fn refuses_raw(&self, method: &str, path: &str, status: u16, code: &str) -> Answer {
        let what = format!("{method} {path}");
        let mut given = None;
        let sent = async {
            let mut socket = self.gateway.socket().await;
            let head = format!(
                "{method} {path} HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\ncontent-length: 10\r\n\r\n"
            );
            socket.send(head + r#"{"data":1}"#).await;
            let answer = socket.answer().await;
            given = Some(answer.clone());
            answer
        };
        self.refuses(&what, sent, status, code).await;
        given.expect("an answer")
    }

    /// An append of an event under these headers.
    async fn refuses_headers(&self, headers: &[(&str, &[u8])], status: u16, code: &str) -> Value {
        let mut request = self.session.http.post(self.session.url("/events")).json(&json!({"data": 1}));
        for (name, value) in headers {
            let value = reqwest::header::HeaderValue::from_bytes(value).expect("a header's value");
            request = request.header(*name, value);
        }
        self.refuses(&format!("{headers:?}"), answer(request), status, code).await
    }
}
