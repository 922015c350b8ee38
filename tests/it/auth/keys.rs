//! The keys that tokens are checked with: what is accepted, and how they change.

use moorline::{
    auth::{KeyError, Verifier},
    config::Auth,
};
use serde_json::{Value, json};

use crate::{
    store_contract::Backend,
    support::{
        eventually,
        gateway::{Gateway, Session},
        tokens::{KeyFiles, Kind, claims, hs256, token},
        unique,
    },
};

async fn gateway(auth: Auth) -> Gateway {
    Gateway::start_with(Backend::Memory, |config| config.auth = Some(auth)).await
}

/// The status that an append gets.
async fn append(session: &Session, token: &str) -> u16 {
    session.bearing(token).post("/events", json!({"data": 1})).await.status
}

async fn becomes(session: &Session, token: &str, status: u16) {
    eventually(&format!("{status}"), || async { (append(session, token).await == status).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn public_keys_of_all_kinds_are_read_from_pem_and_from_a_set() {
    let files = KeyFiles::new();
    let pairs = Kind::ALL.map(|kind| files.pair(kind, &format!("{kind:?}.pem")));
    let strangers = Kind::ALL.map(|kind| files.pair(kind, &format!("{kind:?}-strange.pem")));
    let set: Vec<Value> = pairs.iter().zip(["a", "b", "c"]).map(|(pair, kid)| pair.jwk(kid)).collect();
    // Among others that nobody here knows the form of.
    let strange = [json!({"kty": "EC", "crv": "P-256", "kid": 5}), json!(7), json!({"kty": "new"})];
    let set: Vec<Value> = strange.into_iter().chain(set).collect();
    let set = files.write("keys.json", json!({"keys": set}).to_string());
    let pem = Auth { public_key_files: pairs.iter().map(|pair| pair.public.clone()).collect(), ..Auth::NONE };
    for (what, auth) in [("PEM", pem), ("JWKS", Auth { jwks_file: Some(set), ..Auth::NONE })] {
        let gateway = gateway(auth).await;
        let session = gateway.session();
        for ((pair, stranger), kid) in pairs.iter().zip(&strangers).zip(["a", "b", "c"]) {
            let all = claims(json!({}));
            let what = format!("{what} {:?}", pair.kind);
            assert_eq!(append(&session, &pair.token(Some(kid), &all)).await, 201, "{what}");
            assert_eq!(append(&session, &pair.token(None, &all)).await, 201, "{what}");
            assert_eq!(append(&session, &stranger.token(Some(kid), &all)).await, 401, "{what}");
            assert_eq!(append(&session, &stranger.token(None, &all)).await, 401, "{what}");
        }
        // A name that no key has: refused where keys have names.
        let other = pairs[0].token(Some("z"), &claims(json!({})));
        assert_eq!(append(&session, &other).await, if what == "JWKS" { 401 } else { 201 });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_file_changes_the_keys() {
    let files = KeyFiles::new();
    let (old, new) = (files.pair(Kind::Ed25519, "old.pem"), files.pair(Kind::Ed25519, "new.pem"));
    let set = |keys: &[Value]| files.write("keys.json", json!({"keys": keys}).to_string());
    let path = set(&[old.jwk("old")]);
    let gateway = gateway(Auth { jwks_file: Some(path), ..Auth::NONE }).await;
    let session = gateway.session();
    let (by_old, by_new) = (old.token(Some("old"), &claims(json!({}))), new.token(Some("new"), &claims(json!({}))));
    assert_eq!((append(&session, &by_old).await, append(&session, &by_new).await), (201, 401));
    // A rotation: both for a while, then the new one alone. What was verified before is not remembered beyond its key.
    set(&[old.jwk("old"), new.jwk("new")]);
    becomes(&session, &by_new, 201).await;
    assert_eq!(append(&session, &by_old).await, 201);
    set(&[new.jwk("new")]);
    becomes(&session, &by_old, 401).await;
    assert_eq!(append(&session, &by_new).await, 201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_new_file_leaves_the_old_keys_in_use() {
    let files = KeyFiles::new();
    let (auth, secret) = files.secret();
    let gateway = gateway(auth).await;
    let session = gateway.session();
    let sign = |secret: &[u8]| token(&json!({"alg": "HS256"}), &claims(json!({})), hs256(secret));
    let old = sign(&secret);
    for bad in ["", "short", "\n\n\n"] {
        files.write("secret", bad);
        // The next good file shows that the bad one has been looked at, or passed over: either way it did no harm.
        assert_eq!(append(&session, &old).await, 201);
    }
    std::fs::remove_file(files.path("secret")).expect("a file");
    assert_eq!(append(&session, &old).await, 201);
    let secret = unique("a-secret-of-thirty-two-bytes-or-more");
    files.write("secret", &secret);
    becomes(&session, &sign(secret.as_bytes()), 201).await;
    assert_eq!(append(&session, &old).await, 401);
}

#[tokio::test]
async fn what_is_no_key_is_refused_at_the_start() {
    let files = KeyFiles::new();
    let rsa = files.pair(Kind::Rsa, "rsa.pem");
    let jwk = |change: Value| {
        let mut jwk = rsa.jwk("k");
        jwk.as_object_mut().expect("an object").extend(change.as_object().expect("an object").clone());
        json!({"keys": [jwk]}).to_string()
    };
    let secret = |text: &str| Auth { secret_file: Some(files.write(&unique("f"), text)), ..Auth::NONE };
    let pem = |text: &str| Auth { public_key_files: vec![files.write(&unique("f"), text)], ..Auth::NONE };
    let set = |text: &str| Auth { jwks_file: Some(files.write(&unique("f"), text)), ..Auth::NONE };
    let private = std::fs::read_to_string(files.path("rsa.pem.private")).expect("a key");
    let public = std::fs::read_to_string(files.path("rsa.pem")).expect("a key");
    for (what, auth) in [
        ("a short secret", secret("0123456789012345678901234567890\n")),
        ("no secret", secret("")),
        ("no PEM", pem("hello")),
        ("half of one", pem(&public[..public.len() / 2])),
        ("two of them", pem(&format!("{public}{public}"))),
        ("a private key", pem(&private)),
        ("no JSON", set("hello")),
        ("no set", set("[]")),
        ("an empty set", set(r#"{"keys":[]}"#)),
        (
            "a secret in a set",
            set(r#"{"keys":[{"kty":"oct","k":"MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE","alg":"HS256"}]}"#),
        ),
        ("a key to encrypt with", set(&jwk(json!({"use": "enc"})))),
        ("a key for another algorithm", set(&jwk(json!({"alg": "RS512"})))),
        (
            "a short RSA key",
            set(&jwk(
                json!({"n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc"}),
            )),
        ),
        ("another curve", set(r#"{"keys":[{"kty":"EC","crv":"P-384","x":"AA","y":"AA"}]}"#)),
    ] {
        let refused = Verifier::open(auth).expect_err(what);
        assert!(matches!(refused, KeyError::NoKey { .. }), "{what}: {refused}");
        assert!(!refused.to_string().contains("0123456789"), "{what}: {refused}");
    }
    let missing = Auth { secret_file: Some(files.path("missing")), ..Auth::NONE };
    assert!(matches!(Verifier::open(missing), Err(KeyError::Unreadable { .. })));
    // Keys that are of no use here do not spoil a set.
    let mixed = json!({"keys": [{"kty": "new"}, {"kty": "oct", "k": "AAAA"}, rsa.jwk("k")]}).to_string();
    Verifier::open(set(&mixed)).expect("the RSA key");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn audience_and_issuer_are_asked_for_if_configured() {
    let files = KeyFiles::new();
    let (auth, secret) = files.secret();
    let sign = |change: Value| token(&json!({"alg": "HS256"}), &claims(change), hs256(&secret));
    let strict = gateway(Auth { audience: Some("us".into()), issuer: Some("idp".into()), ..auth.clone() }).await;
    let open = gateway(auth).await;
    for (change, by_strict, by_open) in [
        (json!({}), 401, 201),
        (json!({"aud": "us"}), 401, 401),
        (json!({"iss": "idp"}), 401, 201),
        (json!({"aud": "us", "iss": "idp"}), 201, 401),
        (json!({"aud": ["them", "us"], "iss": "idp"}), 201, 401),
        (json!({"aud": ["them"], "iss": "idp"}), 401, 401),
        (json!({"aud": "us", "iss": "other"}), 401, 401),
        (json!({"aud": 5, "iss": "idp"}), 401, 401),
        (json!({"aud": ["them", 5]}), 401, 401),
        (json!({"aud": null}), 401, 201),
    ] {
        let token = sign(change.clone());
        assert_eq!(append(&strict.session(), &token).await, by_strict, "{change}");
        // Who names an audience means somebody: not a gateway that has none.
        assert_eq!(append(&open.session(), &token).await, by_open, "{change}");
    }
}
