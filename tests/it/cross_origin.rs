//! A page of another origin in real Chromium, before a gateway that asks for tokens: what `cors.rs` promises by its headers,
//! believed by a browser.

use std::sync::Arc;

use axum::{
    Router,
    response::Html,
    routing::{get, post},
};
use serde_json::json;

use crate::{
    browser::browser,
    support::{
        balancer::Balancer,
        process::Replica,
        tokens::{KeyFiles, claims, hs256, token},
        unique,
    },
};

/// An application's front end: a page, and for the test a way to break the connections to the gateway.
async fn site(host: &str, gateway: Arc<Balancer>) -> String {
    let page = || async { Html("<!doctype html><link rel=icon href=data:,><title>An application</title>") };
    let cut = move || {
        gateway.cut(1.0);
        async {}
    };
    let routes = Router::new().route("/", get(page)).route("/cut", post(cut));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move { axum::serve(listener, routes).await });
    format!("http://{host}:{port}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_another_origin_appends_follows_and_resumes_with_its_token() {
    let files = KeyFiles::new();
    let (auth, secret) = files.secret();
    let key = auth.secret_file.expect("a file").to_string_lossy().into_owned();
    let gateways = Arc::new(Balancer::tcp(&[]).await);
    let app = site("127.0.0.1", gateways.clone()).await;
    // By another name it is another origin.
    let stranger = site("localhost", gateways.clone()).await;
    let gateway = Replica::start_with(&["--auth-secret-file", &key, "--cors-origin", &app, "--log", "moorline=trace"]);
    gateways.add(gateway.addr());

    let token = token(&json!({"alg": "HS256"}), &claims(json!({})), hs256(&secret));
    let session = unique("s");
    browser("cross_origin.mjs", &[&gateways.url(), &session, &app, &stranger, &token]).await;

    let log = gateway.log();
    assert!(log.contains("answered a request") && log.contains(&session), "{log}");
    let (message, signature) = token.rsplit_once('.').expect("a signature");
    assert!(!log.contains(message) && !log.contains(signature), "{log}");
}
