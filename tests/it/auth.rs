//! Who may do what: tokens and rights, agents that speak only for themselves, streams that end with their token, keys
//! that change.

mod agents;
mod expiry;
mod keys;
mod program;
mod renewal;

use moorline::config::Auth;
use serde_json::{Value, json};

use crate::{
    store_contract::Backend,
    support::{
        gateway::{Gateway, Session},
        tokens::{KeyFiles, claims, hs256, token},
    },
};

/// A gateway that asks for tokens, and the secret to make them.
struct Guarded {
    _gateway: Gateway,
    session: Session,
    secret: Vec<u8>,
    _files: KeyFiles,
}

impl Guarded {
    async fn start(backend: Backend) -> Self {
        Self::start_with(backend, |_| {}).await
    }

    async fn start_with(backend: Backend, change: impl FnOnce(&mut Auth)) -> Self {
        let files = KeyFiles::new();
        let (mut auth, secret) = files.secret();
        change(&mut auth);
        let gateway = Gateway::start_with(backend, |config| config.auth = Some(auth)).await;
        let session = gateway.session();
        Guarded { _gateway: gateway, session, secret, _files: files }
    }

    /// A token for everything everywhere, with these changes.
    fn token(&self, change: Value) -> String {
        token(&json!({"alg": "HS256", "typ": "JWT"}), &claims(change), hs256(&self.secret))
    }

    /// The session, for who may do everything.
    fn owner(&self) -> Session {
        self.session.bearing(&self.token(json!({})))
    }

    /// The session, for who may do this.
    fn can(&self, rights: &[&str]) -> Session {
        self.session.bearing(&self.token(json!({"moorline": {"can": rights}})))
    }

    /// The session, for an agent.
    fn agent(&self, name: &str) -> Session {
        self.session.bearing(&self.token(json!({"moorline": {"can": ["append"], "agent": name}})))
    }
}
