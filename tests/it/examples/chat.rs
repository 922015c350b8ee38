//! The chat in `examples/chat`, driven as its page drives it: messages to the back end, commands to the gateway.

use std::sync::Arc;

use axum::{Router, routing::post};
use serde_json::{Value, json};

use crate::{
    browser::browser,
    store_contract::Backend,
    support::{
        balancer::Balancer,
        chat::BackEnd,
        eventually,
        gateway::{Gateway, Session},
        process::Replica,
        redis::RedisServer,
        tokens::{KeyFiles, claims, hs256, token},
        unique,
    },
};

/// Fast, but not so fast that an answer (some 130 words) is over before a test has done something to it.
const PACE: [&str; 2] = ["--pause", "0.02"];

struct Scene {
    files: KeyFiles,
    gateway: Gateway,
    back_end: BackEnd,
    chat: String,
    /// The chat's session, for one who may do everything.
    session: Session,
}

impl Scene {
    async fn new(more: &[&str]) -> Scene {
        let files = KeyFiles::new();
        let (auth, secret) = files.secret();
        let gateway = Gateway::start_with(Backend::Memory, |config| config.auth = Some(auth)).await;
        let chat = unique("c");
        let session = gateway.session_named(&format!("chat-{chat}"));
        let session = session.bearing(&token(&json!({"alg": "HS256"}), &claims(json!({})), hs256(&secret)));
        let back_end = BackEnd::start(&gateway.url(""), &files.path("secret"), &[&PACE, more].concat());
        Scene { files, gateway, back_end, chat, session }
    }

    async fn say(&self, id: &str, text: &str) {
        assert_eq!(self.back_end.say(&self.chat, id, text).await.is(202), json!({"run": id}));
    }

    /// The same session, for the user's page.
    async fn page(&self) -> Session {
        let token = self.back_end.token(&self.chat).await;
        self.gateway.session_named(&self.session.name).bearing(&token)
    }

    /// The events of this type, so far.
    async fn events(&self, kind: &str) -> Vec<Value> {
        self.session.lane("events").await.into_iter().filter(|event| event["type"] == kind).collect()
    }
}

fn text(events: &[Value]) -> String {
    events.iter().map(|event| event["data"]["delta"].as_str().expect("words")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_is_sent_again_has_one_agent_and_one_answer() {
    let scene = Scene::new(&[]).await;
    tokio::join!(scene.say("m", "Why?"), scene.say("m", "Why?"), scene.say("m", "Why?"));
    let mut stream = scene.session.follow("").await;
    stream.until("text-delta").await;
    scene.say("m", "Why?").await;
    assert_eq!(stream.until("run.ended").await.json["data"], json!({"attempt": 1, "status": "completed"}));
    let before = scene.session.lane("events").await;
    scene.say("m", "Why?").await;
    scene.say("n", "And now?").await;
    let next = stream.until("run.started").await.json;
    assert_eq!((&next["run"], &next["agent"]), (&json!("n"), &json!("writer")), "nothing more of m");
    stream.until("run.ended").await;

    let [first, second] = <[Value; 2]>::try_from(scene.events("prompt").await).expect("two prompts");
    assert_eq!(
        (&first["agent"], &first["run"], &first["data"]),
        (&json!("ada"), &json!("m"), &json!({"text": "Why?"}))
    );
    assert_eq!(second["run"], "n");
    assert_eq!(scene.events("run.started").await.len(), 2);
    let answer: Vec<Value> = before.into_iter().filter(|event| event["type"] == "text-delta").collect();
    let answer = text(&answer);
    assert!(answer.starts_with("Message 1 of this chat says “Why?”. A ship at her mooring"), "{answer}");
    assert_eq!(answer.matches("she lies where she lay. ").count(), 2, "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_steers_and_stops_what_it_may_not_write() {
    let scene = Scene::new(&[]).await;
    scene.say("m", "Why?").await;
    let page = scene.page().await;
    let mut stream = page.follow("").await;
    stream.until("text-delta").await;
    page.post("/commands", json!({"type": "steer", "id": "s", "run": "m", "data": {"text": "the sea"}})).await.is(202);
    assert_eq!(stream.until("command.consumed").await.json["data"]["command"], "s");
    while !stream.until("text-delta").await.json["data"]["delta"].as_str().expect("words").contains("the sea") {}
    page.post("/commands", json!({"type": "stop", "run": "m"})).await.is(202);
    assert_eq!(stream.until("run.ended").await.json["data"]["reason"], "asked to stop");
    // What was stopped stays so.
    scene.say("m", "Why?").await;
    assert_eq!(page.get("").await.is(200)["runs"][0]["status"], "cancelled");
    assert_eq!(scene.events("run.started").await.len(), 1);

    page.post("/events", json!({"type": "prompt", "data": {"text": "x"}})).await.problem(403, "forbidden");
    page.post("/close", json!({})).await.problem(403, "forbidden");
    let token = scene.back_end.token("another").await;
    scene.gateway.session_named(&scene.session.name).bearing(&token).get("").await.problem(403, "forbidden");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_agent_does_what_was_approved_and_nothing_else() {
    let scene = Scene::new(&["--pause", "0.001"]).await;
    let page = scene.page().await;
    let mut stream = page.follow("").await;
    for (run, decision, said) in [("yes", "approve", "I have sent it."), ("no", "deny", "I have not sent it.")] {
        scene.say(run, "Send it").await;
        let asked = stream.until("approval.requested").await.json;
        assert_eq!((&asked["run"], &asked["data"]["prompt"]["text"]), (&json!(run), &json!("May I send this?")));
        let decide = json!({"type": "decide", "approval": asked["data"]["approval"], "data": {"decision": decision}});
        page.post("/commands", decide).await.is(202);
        assert_eq!(stream.until("approval.decided").await.json["data"]["by"], "ada");
        assert_eq!(stream.until("message").await.json["data"]["text"], said);
        assert_eq!(stream.until("run.ended").await.json["data"]["status"], "completed");
    }
    // A stop is heeded while it waits.
    scene.say("stopped", "Send it").await;
    stream.until("approval.requested").await;
    page.post("/commands", json!({"type": "stop", "run": "stopped", "grace_ms": 60_000})).await.is(202);
    assert_eq!(stream.until("run.ended").await.json["data"]["reason"], "asked to stop");
    assert_eq!(scene.events("message").await.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_decides_in_time_is_not_done() {
    let scene = Scene::new(&["--pause", "0.001", "--expires-ms", "50"]).await;
    scene.say("m", "Send it").await;
    let mut stream = scene.session.follow("").await;
    assert_eq!(stream.until("approval.decided").await.json["data"]["expired"], true);
    assert_eq!(stream.until("message").await.json["data"]["text"], "I have not sent it.");
    stream.until("run.ended").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_goes_on_while_the_back_end_restarts() {
    let mut scene = Scene::new(&[]).await;
    scene.say("m", "Why?").await;
    let mut stream = scene.session.follow("").await;
    stream.until("text-delta").await;
    scene.back_end.kill9();
    scene.back_end = BackEnd::start(&scene.gateway.url(""), &scene.files.path("secret"), &PACE);
    scene.say("m", "Why?").await;
    assert_eq!(stream.until("run.ended").await.json["data"], json!({"attempt": 1, "status": "completed"}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_was_lost_is_given_when_the_message_is_sent_again() {
    let scene = Scene::new(&["--pause", "0.001"]).await;
    // What a back end leaves that dies with its agent.
    let prompt = r#"{"type":"prompt","agent":"ada","run":"m","data":{"text":"Why?"}}"#;
    scene.session.produce(("prompt.m", 0, 0), true, prompt).await.is(201);
    let run = json!({"run": "m", "agent": "writer", "lease_ms": 100});
    scene.session.post("/runs", run).await.is(201);
    let lost = || async {
        let runs = scene.session.get("").await.is(200)["runs"].take();
        (runs[0]["status"] == "lost").then_some(())
    };
    eventually("the agent is gone", lost).await;
    scene.say("m", "Why?").await;
    let mut stream = scene.session.follow("").await;
    while stream.until("run.started").await.json["data"]["attempt"] != 2 {}
    assert_eq!(stream.until("run.ended").await.json["data"], json!({"attempt": 2, "status": "completed"}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_message_is_refused_and_a_gateway_that_is_away_is_told() {
    let Scene { files: _files, back_end, chat, gateway, session } = Scene::new(&[]).await;
    for (id, text) in [("a b", "words"), ("", "words"), ("m", " ")] {
        assert_eq!(back_end.say(&chat, id, text).await.status, 400, "{id:?} {text:?}");
    }
    assert_eq!(back_end.say(&chat, "m", &"x".repeat(100_000)).await.status, 413);
    assert_eq!(back_end.say("no.chat", "m", "words").await.status, 404);
    session.get("").await.problem(404, "unknown_session");
    session.append(json!({"data": 1})).await;
    session.post("/close", json!({})).await.is(200);
    assert_eq!(back_end.say(&chat, "m", "words").await.is(409)["code"], "session_closed");
    gateway.shutdown().await;
    assert_eq!(back_end.say(&chat, "m", "words").await.status, 503);
}

/// In a browser, with tokens that end while it looks, a gateway that crashes, and one more that takes over its sessions.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_page_survives_what_may_happen_to_it() {
    let files = KeyFiles::new();
    let (auth, secret) = files.secret();
    let key = auth.secret_file.expect("a file").to_string_lossy().into_owned();
    let gateways = Arc::new(Balancer::tcp(&[]).await);
    let back_end = BackEnd::start(&gateways.url(), &files.path("secret"), &["--token-seconds", "2", "--pause", "0.03"]);

    let (redis, prefix, origin) = (RedisServer::shared().url(), unique("gateway") + ":", back_end.origin.clone());
    let start = move || {
        let mut arguments = vec!["--redis-url", &redis, "--redis-prefix", &prefix, "--redis-timeout", "20s"];
        arguments.extend(["--auth-secret-file", &key, "--auth-leeway", "0s", "--cors-origin", &origin]);
        Replica::start_with(&arguments)
    };
    let running = Arc::new(std::sync::Mutex::new(start()));
    gateways.add(running.lock().expect("a gateway").addr());
    let addresses = gateways.clone();
    let crash = move || {
        let mut gateway = running.lock().expect("a gateway");
        addresses.remove(gateway.addr());
        gateway.kill9();
        *gateway = start();
        addresses.add(gateway.addr());
        async {}
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let control = format!("http://{}/crash", listener.local_addr().expect("an address"));
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/crash", post(crash))).await });

    let chat = unique("c");
    let owner = token(&json!({"alg": "HS256"}), &claims(json!({})), hs256(&secret));
    let (gateway, session) = (gateways.url(), format!("chat-{chat}"));
    browser("chat.mjs", &[&gateway, &session, &back_end.origin, &chat, &owner, &control]).await;
}
