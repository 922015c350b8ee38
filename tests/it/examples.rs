//! The agents in `examples/`, run for real: they stream, take a steer, reject what they do not know, and obey a stop.

mod chat;

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{
    store_contract::Backend,
    support::{
        agent::{Agent, Language},
        gateway::{Gateway, Session},
    },
};

macro_rules! in_both_languages {
    ($($promise:ident),* $(,)?) => {
        mod python {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                super::$promise(crate::support::agent::Language::Python).await;
            })*
        }
        mod rust {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                super::$promise(crate::support::agent::Language::Rust).await;
            })*
        }
    };
}

in_both_languages!(
    an_agent_streams_and_completes_its_run,
    an_agent_is_steered_and_stopped_while_it_streams,
    an_agent_that_only_listens_obeys_a_stop_of_its_parent,
    an_agent_does_what_was_asked_before_it_came,
    an_agent_that_was_stopped_before_it_started_says_nothing,
    an_agent_whose_run_was_taken_over_ends,
    an_agent_whose_session_is_gone_ends,
    an_agent_is_told_at_once_what_is_wrong_with_a_name,
);

const PAUSE: Duration = Duration::from_millis(10);
const FOR_EVER: u32 = 1_000_000;

struct Scene {
    gateway: Gateway,
    session: Session,
}

impl Scene {
    async fn new() -> Scene {
        let gateway = Gateway::start(Backend::Memory).await;
        let session = gateway.session();
        Scene { gateway, session }
    }

    fn agent(&self, language: Language, words: u32, pause: Duration) -> Agent {
        Agent::start(language, &self.gateway.url(""), &self.session.name, "r", words, pause)
    }

    async fn command(&self, command: Value) {
        self.session.post("/commands", command).await.is(202);
    }
}

async fn an_agent_streams_and_completes_its_run(language: Language) {
    let scene = Scene::new().await;
    let agent = scene.agent(language, 5, PAUSE);
    let mut stream = scene.session.follow("").await;
    assert_eq!(stream.until("run.started").await.json["agent"], "writer");
    let words = stream.entries(5).await;
    let words: String = words.iter().map(|entry| entry.json["data"]["delta"].as_str().expect("a word")).collect();
    assert_eq!(words, "the harbour 1. the harbour 2. the harbour 3. the harbour 4. the harbour 5. ");
    assert_eq!(stream.until("run.ended").await.json["data"]["status"], "completed");
    let (code, said) = agent.ended().await;
    assert_eq!(code, 0, "{said}");
}

async fn an_agent_is_steered_and_stopped_while_it_streams(language: Language) {
    let scene = Scene::new().await;
    let agent = scene.agent(language, FOR_EVER, PAUSE);
    let mut stream = scene.session.follow("").await;
    let first = stream.until("text-delta").await.json;
    scene.command(json!({"type": "steer", "run": "r", "id": "s", "data": {"text": "the sea"}})).await;
    assert_eq!(stream.until("command.consumed").await.json["data"]["command"], "s");
    let next = stream.until("text-delta").await.json;
    assert!(next["data"]["delta"].as_str().is_some_and(|text| text.starts_with("the sea")), "{next}");
    assert_ne!(next["data"]["id"], first["data"]["id"], "what was steered is another message");
    // A message is a steer to this agent, and a plain string will do.
    for (id, kind, data, topic) in
        [("m", "message", json!({"text": "the wind"}), "the wind"), ("p", "steer", json!("the fog"), "the fog")]
    {
        scene.command(json!({"type": kind, "id": id, "data": data})).await;
        assert_eq!(stream.until("command.consumed").await.json["data"]["command"], id);
        let next = stream.until("text-delta").await.json;
        assert!(next["data"]["delta"].as_str().is_some_and(|text| text.starts_with(topic)), "{next}");
    }
    for (id, kind, data) in [("d", "dance", json!(null)), ("n", "steer", json!({"course": "north"}))] {
        scene.command(json!({"type": kind, "id": id, "data": data})).await;
        let rejected = stream.until("command.rejected").await.json;
        assert_eq!(rejected["data"]["command"], id);
        assert!(rejected["data"]["reason"].is_string(), "{rejected}");
    }
    scene
        .command(json!({"type": "steer", "run": "another", "id": "not-ours", "data": {"text": "x"}, "ttl_ms": 200}))
        .await;
    assert_eq!(stream.until("command.expired").await.json["data"]["command"], "not-ours");
    scene.command(json!({"type": "stop", "id": "stop"})).await;
    stream.until("run.stopping").await;
    loop {
        let entry = stream.until("text-delta").await.json;
        if entry["data"]["delta"] == "(stopped)" {
            break;
        }
    }
    let ended = stream.until("run.ended").await.json;
    assert_eq!((&ended["data"]["status"], &ended["data"]["reason"]), (&json!("cancelled"), &json!("asked to stop")));
    assert_eq!(stream.until("command.consumed").await.json["data"]["command"], "stop");
    let (code, said) = agent.ended().await;
    assert_eq!(code, 0, "{said}");
}

async fn an_agent_that_only_listens_obeys_a_stop_of_its_parent(language: Language) {
    let scene = Scene::new().await;
    scene.session.post("/runs", json!({"run": "top"})).await.is(201);
    scene.session.post("/runs", json!({"run": "r", "parent": "top"})).await.is(201);
    // It takes over, and is silent for longer than the test.
    let agent = scene.agent(language, 1, Duration::from_secs(3600));
    let mut stream = scene.session.follow("?run=r").await;
    while stream.until("run.started").await.json["data"]["attempt"] != 2 {}
    scene.command(json!({"type": "stop", "run": "top", "tree": true, "grace_ms": 60_000})).await;
    let ended = stream.until("run.ended").await.json;
    assert_eq!(ended["data"]["status"], "cancelled");
    assert_eq!(agent.ended().await.0, 0);
}

async fn an_agent_does_what_was_asked_before_it_came(language: Language) {
    let scene = Scene::new().await;
    scene.command(json!({"type": "steer", "id": "done", "data": {"text": "the past"}})).await;
    scene.session.post("/commands/done/outcome", json!({"outcome": "consumed"})).await.is(201);
    scene.command(json!({"type": "steer", "id": "open", "data": {"text": "the sea"}})).await;
    let agent = scene.agent(language, 20, PAUSE);
    let mut stream = scene.session.follow("").await;
    stream.until("run.started").await;
    assert_eq!(stream.until("command.consumed").await.json["data"]["command"], "open");
    stream.until("run.ended").await;
    assert_eq!(agent.ended().await.0, 0);
    let words: Vec<_> = scene.session.lane("events").await.into_iter().filter(|e| e["type"] == "text-delta").collect();
    let last = words.last().expect("words")["data"]["delta"].clone();
    assert_eq!(last, "the sea 20. ");
    assert!(words.iter().all(|word| !word.to_string().contains("the past")));
}

async fn an_agent_that_was_stopped_before_it_started_says_nothing(language: Language) {
    let scene = Scene::new().await;
    scene.command(json!({"type": "stop", "run": "r"})).await;
    let agent = scene.agent(language, 5, PAUSE);
    let (code, said) = agent.ended().await;
    assert_eq!(code, 0, "{said}");
    assert!(scene.session.lane("events").await.iter().all(|event| event["type"] != "text-delta"));
}

async fn an_agent_whose_run_was_taken_over_ends(language: Language) {
    let scene = Scene::new().await;
    let agent = scene.agent(language, FOR_EVER, PAUSE);
    let mut stream = scene.session.follow("").await;
    stream.until("text-delta").await;
    let attempt = scene.session.post("/runs", json!({"run": "r", "takeover": true})).await.is(201)["attempt"].clone();
    let (_, said) = agent.ended().await;
    assert!(said.contains(&format!("which is {attempt}")), "{said}");
    let events = scene.session.lane("events").await;
    let taken = events.iter().rposition(|event| event["type"] == "run.started").expect("a start");
    assert!(events[taken..].iter().all(|event| event["type"] != "text-delta"));
    assert_eq!(scene.session.get("").await.is(200)["runs"][0]["status"], "running");
}

async fn an_agent_whose_session_is_gone_ends(language: Language) {
    let scene = Scene::new().await;
    let agent = scene.agent(language, FOR_EVER, PAUSE);
    scene.session.follow("").await.until("text-delta").await;
    let erased = scene.session.http.delete(scene.session.url("")).send().await.expect("an answer");
    assert_eq!(erased.status(), 204);
    let (_, said) = agent.ended().await;
    assert!(said.contains("no run \"r\" was started in this session"), "{said}");
    assert!(!said.contains("Traceback") && !said.contains("Error:"), "{said}");
}

async fn an_agent_is_told_at_once_what_is_wrong_with_a_name(language: Language) {
    let scene = Scene::new().await;
    for (session, run) in [("s x", "r"), ("s", "r/1")] {
        let (url, asked) = (scene.gateway.url(""), Instant::now());
        let (code, said) = Agent::start(language, &url, session, run, 1, PAUSE).ended().await;
        assert_eq!(code, 1, "{said}");
        assert!(said.contains("A-Z a-z 0-9") && !said.contains("again in"), "{said}");
        // Well below its patience with gateways that are away.
        assert!(asked.elapsed() < Duration::from_secs(15));
    }
}
