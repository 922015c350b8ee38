//! Clients that outlive their tokens: what follows and what publishes goes on with a fresh one.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use moorline::{
    client::{Client, Error, Follow, FollowOptions, Speaker, Token, Update},
    id::{Lane, Name},
};
use serde_json::json;

use super::Guarded;
use crate::{
    cli::program::Gateway as Program,
    store_contract::Backend,
    support::{
        gateway::on_both_stores,
        tokens::{KeyFiles, claims, hs256, now, token},
        unique,
    },
};

on_both_stores!(
    a_stream_goes_on_with_the_token_that_a_file_has_by_then,
    a_late_token_is_waited_for,
    a_function_is_asked_when_the_token_is_refused,
    a_token_that_can_t_be_renewed_ends_the_stream,
);

struct Scene {
    guarded: Guarded,
    session: Name,
    file: PathBuf,
    _directory: tempfile::TempDir,
}

impl Scene {
    async fn new(backend: Backend) -> Self {
        let guarded = Guarded::start_with(backend, |auth| auth.leeway = Duration::ZERO).await;
        let session = guarded.session.name.parse().expect("a name");
        let directory = tempfile::tempdir().expect("a directory");
        Scene { guarded, session, file: directory.path().join("token"), _directory: directory }
    }

    /// Puts a token into the file that lives for so long.
    fn renew(&self, seconds: u64) {
        replace(&self.file, &self.guarded.token(json!({"exp": now() + seconds})));
    }

    fn client(&self, token: Token) -> Client {
        let url = self.guarded.session.url("");
        Client::bearing(url.split("/v1/").next().expect("an address"), Some(token)).expect("a client")
    }

    fn follow(&self, client: &Client) -> Follow {
        client.follow(&self.session, Lane::Events, FollowOptions::default())
    }
}

/// As a sidecar does it: nobody ever reads half of it.
fn replace(file: &Path, token: &str) {
    let new = file.with_extension("new");
    std::fs::write(&new, format!("{token}\n")).expect("written");
    std::fs::rename(new, file).expect("renamed");
}

/// The data of the next entry, whatever happens on the way to it, and how often the stream was made anew.
async fn next(follow: &mut Follow, reconnections: &mut u32) -> i64 {
    loop {
        match follow.next().await.expect("more").expect("no error") {
            Update::Entry(entry) => {
                let json: serde_json::Value = serde_json::from_str(&entry.json).expect("JSON");
                return json["data"].as_i64().expect("a number");
            }
            Update::Reconnecting { .. } => *reconnections += 1,
            Update::CaughtUp => {}
            other => panic!("{other:?}"),
        }
    }
}

async fn a_stream_goes_on_with_the_token_that_a_file_has_by_then(backend: Backend) {
    let scene = Scene::new(backend).await;
    scene.renew(2);
    let client = scene.client(Token::file(&scene.file));
    let mut producer = client.producer(&scene.session, Speaker::default());
    let mut follow = scene.follow(&client);
    let mut reconnections = 0;
    producer.publish(&[json!({"data": 0})]).await.expect("published");
    assert_eq!(next(&mut follow, &mut reconnections).await, 0);
    scene.renew(3600);
    // The stream is cut as its token ends, and comes back with the other one; it is the next entry that shows it.
    while reconnections == 0 {
        if let Update::Reconnecting { error, .. } = follow.next().await.expect("more").expect("no error") {
            assert!(matches!(error, Error::Lost { .. }), "{error}");
            reconnections += 1;
        }
    }
    for number in 1..4 {
        producer.publish(&[json!({"data": number})]).await.expect("published");
        assert_eq!(next(&mut follow, &mut reconnections).await, number);
    }
    assert_eq!(scene.guarded.owner().data().await, [0, 1, 2, 3]);
}

async fn a_late_token_is_waited_for(backend: Backend) {
    let scene = Scene::new(backend).await;
    scene.renew(2);
    let client = scene.client(Token::file(&scene.file));
    let mut producer = client.producer(&scene.session, Speaker::default());
    let mut follow = scene.follow(&client);
    producer.publish(&[json!({"data": 0})]).await.expect("published");
    // Until the gateway has said that the token has expired.
    loop {
        if let Update::Reconnecting { error, .. } = follow.next().await.expect("more").expect("no error")
            && error.code() == Some("token_expired")
        {
            break;
        }
    }
    let publishing = tokio::spawn(async move { producer.publish(&[json!({"data": 1})]).await });
    scene.renew(3600);
    publishing.await.expect("no panic").expect("published");
    assert_eq!(next(&mut follow, &mut 0).await, 1);
}

async fn a_function_is_asked_when_the_token_is_refused(backend: Backend) {
    let scene = Scene::new(backend).await;
    let (asked, secret) = (Arc::new(AtomicU64::new(0)), scene.guarded.secret.clone());
    let count = asked.clone();
    let ask = Token::asking(move || {
        // The first one is over before it is used.
        let life = if count.fetch_add(1, SeqCst) == 0 { now() - 1 } else { now() + 3600 };
        let made = token(&json!({"alg": "HS256"}), &claims(json!({"exp": life})), hs256(&secret));
        async move { Ok(made) }
    });
    let client = scene.client(ask);
    let published = client.publish(&scene.session, &Speaker::default(), &json!({"data": 7})).await.expect("published");
    assert_eq!(published.ids.len(), 1);
    assert_eq!(asked.load(SeqCst), 2);
    // A good one is used on.
    client.session(&scene.session).await.expect("shown");
    assert_eq!(asked.load(SeqCst), 2);
    assert_eq!(next(&mut scene.follow(&client), &mut 0).await, 7);
    assert_eq!(asked.load(SeqCst), 3, "a stream begins with the newest");
    assert_eq!(scene.guarded.owner().data().await, [7]);
}

async fn a_token_that_can_t_be_renewed_ends_the_stream(backend: Backend) {
    let scene = Scene::new(backend).await;
    let short = scene.guarded.token(json!({"exp": now() + 2}));
    let client = scene.client(Token::fixed(&short).expect("a token"));
    let mut follow = scene.follow(&client);
    loop {
        match follow.next().await.expect("an error first") {
            Ok(Update::CaughtUp | Update::Reconnecting { .. }) => {}
            Ok(other) => panic!("{other:?}"),
            Err(error) => break assert_eq!(error.code(), Some("token_expired"), "{error}"),
        }
    }
    assert!(follow.next().await.is_none());
    let nowhere = scene.client(Token::file(scene.file.with_extension("none")));
    let error = nowhere.session(&scene.session).await.expect_err("no token");
    assert!(matches!(&error, Error::Token(why) if why.contains("cannot be read")), "{error}");
    assert!(!format!("{client:?}").contains(&short));
}

#[test]
fn a_tail_with_a_token_file_outlives_its_token() {
    let files = KeyFiles::new();
    let (auth, secret) = files.secret();
    let path = auth.secret_file.expect("a file").to_string_lossy().into_owned();
    let gateway = Program::start_with(&["--auth-secret-file", &path, "--auth-leeway", "0"]);
    let make = |life: u64| token(&json!({"alg": "HS256"}), &claims(json!({"exp": now() + life})), hs256(&secret));
    let (session, file) = (unique("s"), files.path("token"));
    let name = file.to_string_lossy().into_owned();
    replace(&file, &make(2));
    // The file goes first.
    let mut tail = gateway.spawn(&["tail", &session, "--token-file", &name, "--token", "nonsense"]);
    tail.wait_for_stderr("caught up");
    replace(&file, &make(3600));
    tail.wait_for_stderr("connected again");
    assert_eq!(gateway.run(&["publish", &session, "still here", "--token-file", &name], "").code, 0);
    tail.wait_for_stdout("still here");
    assert_eq!(gateway.run(&["sessions", "close", &session, "--token-file", &name], "").code, 0);
    assert_eq!(tail.wait(Duration::from_secs(20)), 0);
}
