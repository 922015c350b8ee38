//! Who may do what: bearer tokens (JWT, RFC 7519) and what they grant. Knows no HTTP.
//!
//! ```text
//! key files ──▶ Keys, each for one algorithm ──┐
//! token ──▶ Verifier ──▶ seen before? ──▶ signature, times, audience ──▶ Grant
//! ```
//!
//! A token that was found good is remembered until it expires or the keys change, so that a request costs a look into a
//! map instead of a signature. What was found bad is not remembered: that would be memory for whoever sends rubbish.

mod cache;
mod claims;
mod crypto;
mod keys;
mod mint;

use std::{
    fmt,
    sync::{Arc, PoisonError, RwLock, Weak},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use self::{
    cache::Seen,
    keys::{Fingerprint, Keys},
};
pub use self::{
    claims::{BadPattern, Grant, Pattern, Right, SUBJECT_MAX},
    keys::KeyError,
    mint::{MintError, Order, mint},
};
use crate::config;

/// The longest token that is looked at, in bytes. A request's head has room for 64 KiB; a token takes some hundred.
const TOKEN_MAX: usize = 8 * 1024;

/// How often the key files are looked at. A look is a `stat` a file.
const LOOK: Duration = Duration::from_secs(1);

/// Why a token is refused. Its text never repeats anything of the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Not a JWT.
    #[error("it is no JWT that a gateway can read")]
    Malformed,
    /// More than one came.
    #[error("it came with another one, and which one is meant can't be told")]
    Several,
    /// `none`, or an algorithm that no key here is for.
    #[error("its algorithm is not one that this gateway has a key for")]
    Algorithm,
    /// Its `kid` names none of the keys.
    #[error("it was signed with a key that this gateway does not know")]
    UnknownKey,
    /// Forged, damaged, or signed with another key.
    #[error("its signature does not fit")]
    Signature,
    /// Past its `exp`.
    #[error("it has expired")]
    Expired,
    /// Before its `nbf`.
    #[error("it is not valid yet")]
    NotYet,
    /// For somebody else.
    #[error("it is for another audience")]
    Audience,
    /// By somebody else.
    #[error("it is from another issuer")]
    Issuer,
    /// A claim is missing or has another form.
    #[error("its claim {0} is missing or has another form")]
    Claim(&'static str),
}

/// Verifies tokens with the keys of some files, and reads the files again when they change.
pub struct Verifier {
    settings: config::Auth,
    ring: RwLock<Arc<Ring>>,
}

/// Some keys and the tokens that were verified with them: new keys begin without a memory.
struct Ring {
    keys: Keys,
    seen: Seen,
}

impl Ring {
    fn new(keys: Keys) -> Arc<Self> {
        Arc::new(Ring { keys, seen: Seen::default() })
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Verifier {
    /// Reads the keys. A task looks after their files for as long as the result lives.
    pub fn open(settings: config::Auth) -> Result<Arc<Self>, KeyError> {
        // Before the files are read: a change in between is found at the first look.
        let before = Fingerprint::of(&settings);
        let keys = Keys::read(&settings)?;
        let verifier = Arc::new(Verifier { settings, ring: RwLock::new(Ring::new(keys)) });
        tokio::spawn(watch(Arc::downgrade(&verifier), before));
        Ok(verifier)
    }

    /// What a token grants.
    pub fn verify(&self, token: &str) -> Result<Arc<Grant>, Refused> {
        if token.len() > TOKEN_MAX {
            return Err(Refused::Malformed);
        }
        let ring = self.ring.read().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(grant) = ring.seen.get(token) {
            return if grant.until > now() { Ok(grant) } else { Err(Refused::Expired) };
        }
        let grant = Arc::new(Grant::new(ring.keys.claims(token)?, self.settings.leeway)?);
        ring.seen.put(token, &grant);
        Ok(grant)
    }

    /// Reads the keys anew. If they can't be used, those from before stay.
    fn reload(&self) {
        match Keys::read(&self.settings) {
            Ok(keys) => {
                tracing::info!(keys = keys.len(), "the keys that tokens are checked with have changed");
                *self.ring.write().unwrap_or_else(PoisonError::into_inner) = Ring::new(keys);
            }
            Err(error) => tracing::error!(%error, "the new keys can't be used; those from before stay in use"),
        }
    }
}

/// Seconds since the Unix epoch, on this replica's clock: what `exp` and `nbf` are in.
pub(crate) fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

async fn watch(verifier: Weak<Verifier>, mut before: Fingerprint) {
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        look.tick().await;
        let Some(verifier) = verifier.upgrade() else { return };
        let current = Fingerprint::of(&verifier.settings);
        // A change is read once, good or bad; a file that is still being written changes again.
        if current != before {
            before = current;
            verifier.reload();
        }
    }
}
