//! Pages of other origins: what browsers ask and get, header by header.

use axum::http::HeaderMap;
use moorline::{StartError, config::Cors};
use serde_json::json;

use crate::{
    store_contract::Backend,
    support::{
        gateway::{Answer, Gateway, answer},
        http,
        tokens::{KeyFiles, claims, hs256, token},
    },
};

const APP: &str = "https://app.example.com";

fn cors(origins: &[&str], credentials: bool) -> Option<Cors> {
    let origins = origins.iter().map(|origin| (*origin).to_owned()).collect();
    Some(Cors { origins, credentials, max_age: std::time::Duration::from_secs(600) })
}

async fn gateway(cors: Option<Cors>) -> (Gateway, String) {
    let files = KeyFiles::new();
    let (auth, secret) = files.secret();
    let token = token(&json!({"alg": "HS256"}), &claims(json!({})), hs256(&secret));
    let gateway = Gateway::start_with(Backend::Memory, |config| (config.cors, config.auth) = (cors, Some(auth))).await;
    (gateway, token)
}

async fn preflight(url: &str, origin: &str, method: &str, headers: &str) -> Answer {
    let request = http().request("OPTIONS".parse().expect("a method"), url).header("origin", origin);
    let request = request.header("access-control-request-method", method);
    answer(request.header("access-control-request-headers", headers)).await
}

fn list(headers: &HeaderMap, name: &str) -> Vec<String> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(|item| item.trim().to_ascii_lowercase()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_preflight_is_answered_without_a_token() {
    let (gateway, _) = gateway(cors(&[APP, "http://localhost:5173"], true)).await;
    let sent =
        "authorization,content-type,last-event-id,producer-id,producer-epoch,producer-seq,run-attempt,traceparent";
    for path in ["/events", "/commands", "/runs/r1", ""] {
        for method in ["GET", "POST", "PUT", "DELETE"] {
            let asked = preflight(&gateway.session().url(path), APP, method, sent).await;
            assert_eq!(asked.status, 200, "{asked:?}");
            assert_eq!(asked.headers["access-control-allow-origin"], APP);
            assert_eq!(asked.headers["access-control-allow-credentials"], "true");
            assert_eq!(asked.headers["access-control-max-age"], "600");
            assert!(list(&asked.headers, "access-control-allow-methods").contains(&method.to_ascii_lowercase()));
            let allowed = list(&asked.headers, "access-control-allow-headers");
            assert!(sent.split(',').all(|header| allowed.contains(&header.to_owned())), "{allowed:?}");
            assert!(list(&asked.headers, "vary").contains(&"origin".to_owned()), "{asked:?}");
        }
    }
    for stranger in ["https://evil.example.com", "https://app.example.com.evil.com", "http://app.example.com", "null"] {
        let asked = preflight(&gateway.session().url("/events"), stranger, "POST", "authorization").await;
        assert!(!asked.headers.contains_key("access-control-allow-origin"), "{stranger}: {asked:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_may_read_answers_refusals_and_streams() {
    let (gateway, token) = gateway(cors(&[APP], false)).await;
    let session = gateway.session();
    session.bearing(&token).append_numbers(0..2).await;
    let get = |url: String| http().get(url).header("origin", APP);
    let event_source = get(session.url(&format!("/events?access_token={token}"))).header("accept", "text/event-stream");
    let stream = event_source.send().await.expect("an answer");
    assert_eq!(
        (stream.status(), &stream.headers()["access-control-allow-origin"]),
        (axum::http::StatusCode::OK, &APP.parse().expect("a value"))
    );
    assert!(!stream.headers().contains_key("access-control-allow-credentials"));
    for (status, url) in [
        (200, session.url(&format!("/events?access_token={token}"))),
        (401, session.url("/events")),
        (404, gateway.url("/nowhere")),
        (405, gateway.url("/v1/sessions/s/close")),
    ] {
        let read = answer(get(url)).await;
        assert_eq!(
            (read.status, &read.headers["access-control-allow-origin"]),
            (status, &APP.parse().expect("a value"))
        );
        let exposed = list(&read.headers, "access-control-expose-headers");
        assert!(["retry-after", "www-authenticate"].iter().all(|header| exposed.contains(&(*header).to_owned())));
        let foreign = answer(http().get(session.url("/events")).header("origin", "https://evil.example.com")).await;
        assert!(!foreign.headers.contains_key("access-control-allow-origin"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_origins_no_page_of_another_may_do_anything() {
    let (gateway, token) = gateway(None).await;
    let asked = preflight(&gateway.session().url("/events"), APP, "POST", "authorization").await;
    asked.clone().problem(405, "method_not_allowed");
    let read = answer(http().get(gateway.session().url("")).header("origin", APP).bearer_auth(token)).await;
    for answer in [asked, read] {
        assert!(answer.headers.keys().all(|name| !name.as_str().starts_with("access-control")), "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_origin_may_be_allowed_but_not_with_credentials() {
    let (gateway, _) = gateway(cors(&["*"], false)).await;
    let asked = preflight(&gateway.session().url("/events"), "https://anywhere.example", "POST", "authorization").await;
    assert_eq!(asked.headers["access-control-allow-origin"], "*");
    assert!(list(&asked.headers, "access-control-allow-headers").contains(&"authorization".to_owned()));
    for bad in [cors(&["*"], true), cors(&["app.example.com"], false)] {
        let config = moorline::config::Config { listen: ([127, 0, 0, 1], 0).into(), cors: bad, ..Default::default() };
        assert!(matches!(moorline::serve(&config).await, Err(StartError::Cors(_))));
    }
}
