//! Tokens that are no good, on every route there is. The routes come from the gateway's own table, so a new one is asked
//! for its guard here without being named.

use axum::http::Method;
use moorline::{auth::Right, http::routes};
use serde_json::{Value, json};

use crate::{
    store_contract::Backend,
    support::{
        gateway::{Answer, Gateway, answer},
        tokens::{KeyFiles, Kind, claims, hs256, now, token},
        unique,
    },
};

/// A gateway with a secret and an RSA key, and a session in it.
struct Scene {
    gateway: Gateway,
    session: String,
    secret: Vec<u8>,
    public: Vec<u8>,
    rsa: crate::support::tokens::Pair,
    _files: KeyFiles,
}

impl Scene {
    async fn new() -> Self {
        let files = KeyFiles::new();
        let (mut auth, secret) = files.secret();
        let rsa = files.pair(Kind::Rsa, "rsa.pem");
        auth.public_key_files = vec![rsa.public.clone()];
        auth.audience = Some("here".into());
        let gateway = Gateway::start_with(Backend::Memory, |config| config.auth = Some(auth)).await;
        let public = std::fs::read(&rsa.public).expect("a key");
        let scene = Scene { gateway, session: unique("s"), secret, public, rsa, _files: files };
        let session = scene.gateway.session_named(&scene.session).bearing(&scene.good(json!({})));
        session.append_numbers(0..3).await;
        scene
    }

    fn signed(&self, claims: &Value) -> String {
        token(&json!({"alg": "HS256", "typ": "JWT"}), claims, hs256(&self.secret))
    }

    fn claims(&self, change: Value) -> Value {
        let mut claims = claims(json!({"aud": "here", "moorline": {"sessions": [self.session]}}));
        for (key, value) in change.as_object().expect("an object") {
            claims[key] = value.clone();
        }
        claims
    }

    fn good(&self, change: Value) -> String {
        self.signed(&self.claims(change))
    }

    /// Asks a route with a token, in the header or the query.
    async fn ask(&self, method: &Method, path: &str, token: Option<&str>, in_query: bool) -> Answer {
        let path = path.replace("{session}", &self.session).replace(['{', '}'], "");
        let query = match token {
            Some(token) if in_query => format!("?access_token={token}"),
            _ => String::new(),
        };
        let http = crate::support::http();
        let mut request = http.request(method.clone(), self.gateway.url(&format!("{path}{query}")));
        if let Some(token) = token.filter(|_| !in_query) {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if method == Method::POST || method == Method::PUT {
            // No body that any route takes: whoever gets to read it refuses it, and nothing is changed.
            request = request.header("content-type", "application/json").body("[");
        }
        answer(request).await
    }
}

fn guarded() -> Vec<(Method, &'static str, &'static [Right])> {
    let routes = routes().into_iter().filter(|route| !route.needs.is_empty());
    routes.map(|route| (route.method, route.path, route.needs)).collect()
}

#[test]
fn only_health_is_open() {
    let open: Vec<_> = routes().into_iter().filter(|route| route.needs.is_empty()).map(|route| route.path).collect();
    assert!(open.iter().all(|path| ["/livez", "/readyz", "/metrics"].contains(path)), "{open:?}");
    assert!(guarded().len() >= 14);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_route_takes_a_request_without_a_good_token() {
    let scene = Scene::new().await;
    let all = scene.claims(json!({}));
    let none = |_: &[u8]| Vec::new();
    let good = scene.good(json!({}));
    let (message, signature) = good.rsplit_once('.').expect("a signature");
    let altered = scene.good(json!({"sub": "somebody else"}));
    let altered = format!("{}.{signature}", altered.rsplit_once('.').expect("a signature").0);
    let rs = json!({"alg": "RS256", "typ": "JWT"});
    for (what, token, code) in [
        ("none at all", None, "unauthenticated"),
        ("rubbish", Some("abc".into()), "bad_token"),
        ("dots", Some("..".into()), "bad_token"),
        ("a long one", Some("a".repeat(20_000)), "bad_token"),
        ("alg none", Some(token(&json!({"alg": "none"}), &all, none)), "bad_token"),
        ("alg None", Some(token(&json!({"alg": "None"}), &all, none)), "bad_token"),
        (
            "alg nOnE and a good signature",
            Some(token(&json!({"alg": "nOnE"}), &all, hs256(&scene.secret))),
            "bad_token",
        ),
        ("no alg", Some(token(&json!({"typ": "JWT"}), &all, hs256(&scene.secret))), "bad_token"),
        ("HS512", Some(token(&json!({"alg": "HS512"}), &all, hs256(&scene.secret))), "bad_token"),
        ("no signature", Some(format!("{message}.")), "bad_token"),
        ("half a signature", Some(format!("{message}.{}", &signature[..signature.len() / 2])), "bad_token"),
        ("another's signature", Some(altered), "bad_token"),
        ("twice in the query", Some(format!("{good}&access_token={good}")), "bad_token"),
        ("a guessed secret", Some(token(&json!({"alg": "HS256"}), &all, hs256(b"secret"))), "bad_token"),
        ("an empty secret", Some(token(&json!({"alg": "HS256"}), &all, hs256(b""))), "bad_token"),
        ("the public key as a secret", Some(token(&json!({"alg": "HS256"}), &all, hs256(&scene.public))), "bad_token"),
        ("RS256 in name only", Some(token(&rs, &all, hs256(&scene.secret))), "bad_token"),
        ("HS256 in name only", Some(token(&json!({"alg": "HS256"}), &all, |m| scene.rsa.sign(m))), "bad_token"),
        ("a key of its own", Some(token(&json!({"alg": "RS256", "jwk": scene.rsa.jwk("k")}), &all, none)), "bad_token"),
        (
            "something critical",
            {
                let header = json!({"alg": "HS256", "crit": ["exp"], "exp": 1});
                Some(token(&header, &all, hs256(&scene.secret)))
            },
            "bad_token",
        ),
        ("expired", Some(scene.good(json!({"exp": now() - 3600}))), "token_expired"),
        ("expired a minute ago", Some(scene.good(json!({"exp": now() - 60}))), "token_expired"),
        ("not yet valid", Some(scene.good(json!({"nbf": now() + 3600}))), "bad_token"),
        ("without an end", Some(scene.good(json!({"exp": null}))), "bad_token"),
        ("an end in words", Some(scene.good(json!({"exp": "tomorrow"}))), "bad_token"),
        ("an infinite end", Some(scene.good(json!({"exp": 1e300}))), "bad_token"),
        ("an end before 1970", Some(scene.good(json!({"exp": -1}))), "bad_token"),
        ("another audience", Some(scene.good(json!({"aud": "there"}))), "bad_token"),
        ("no audience", Some(scene.good(json!({"aud": null}))), "bad_token"),
        ("nobody", Some(scene.good(json!({"sub": null}))), "bad_token"),
        (
            "a pattern that is none",
            Some(scene.good(json!({"moorline": {"sessions": ["a*b"], "can": ["read"]}}))),
            "bad_token",
        ),
        (
            "rights of another shape",
            Some(scene.good(json!({"moorline": {"sessions": "*", "can": "read"}}))),
            "bad_token",
        ),
        (
            "an agent of another shape",
            Some(scene.good(json!({"moorline": {"sessions": ["*"], "agent": "a b"}}))),
            "bad_token",
        ),
    ] {
        for (method, path, _) in guarded() {
            for in_query in [false, true] {
                let answer = scene.ask(&method, path, token.as_deref(), in_query).await;
                let what = format!("{what}: {method} {path}");
                assert_eq!(answer.status, 401, "{what}: {answer:?}");
                let challenge = answer.headers["www-authenticate"].to_str().expect("text").to_owned();
                assert!(challenge.starts_with("Bearer realm=\"moorline\""), "{what}: {challenge}");
                assert_eq!(challenge.contains("invalid_token"), code != "unauthenticated", "{what}: {challenge}");
                let token = token.as_deref().filter(|token| token.len() > 2);
                assert!(token.is_none_or(|token| !answer.text.contains(token)), "{what} repeats the token");
                answer.problem(401, code);
            }
        }
    }
    assert_eq!(scene.gateway.session_named(&scene.session).bearing(&good).data().await, [0, 1, 2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_route_takes_a_token_for_something_else() {
    let scene = Scene::new().await;
    let access = |sessions: Value, can: Vec<Right>| scene.good(json!({"moorline": {"sessions": sessions, "can": can}}));
    let ours = json!([scene.session]);
    for (method, path, needs) in guarded() {
        let lacking: Vec<Right> = Right::ALL.into_iter().filter(|right| !needs.contains(right)).collect();
        let others = json!([format!("{}x", scene.session), scene.session[..5], "other-*"]);
        for (what, token) in [
            ("another session", access(others, Right::ALL.to_vec())),
            ("no session", access(json!([]), Right::ALL.to_vec())),
            ("all other rights", access(ours.clone(), lacking)),
            ("no right", access(ours.clone(), Vec::new())),
            ("no word of us", scene.good(json!({"moorline": null}))),
        ] {
            for in_query in [false, true] {
                let answer = scene.ask(&method, path, Some(&token), in_query).await;
                assert_eq!(answer.status, 403, "{what}: {method} {path} {answer:?}");
                let challenge = answer.headers["www-authenticate"].to_str().expect("text").to_owned();
                assert!(challenge.contains("insufficient_scope"), "{what}: {challenge}");
                let needed: Vec<_> = needs.iter().map(|right| right.as_str()).collect();
                assert_eq!(answer.problem(403, "forbidden")["needs"], json!(needed), "{what}: {method} {path}");
            }
        }
        // Each of the rights is enough. (What is erased last is the session itself.)
        for right in needs {
            if method == Method::DELETE {
                continue;
            }
            for in_query in [false, true] {
                let answer = scene.ask(&method, path, Some(&access(ours.clone(), vec![*right])), in_query).await;
                assert!(![401, 403].contains(&answer.status), "{right}: {method} {path} {answer:?}");
            }
        }
    }
    let session = scene.gateway.session_named(&scene.session);
    let erased = answer(session.bearing(&access(ours, vec![Right::Manage])).http.delete(session.url(""))).await;
    assert_eq!(erased.status, 204);
}
