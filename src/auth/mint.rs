//! Tokens for development, signed with the secret that a gateway checks them with. In production somebody else issues
//! them: the application that knows its users.

use std::{path::Path, time::Duration};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;

use super::{KeyError, Pattern, Right, crypto, keys, now};
use crate::id::Name;

/// What a token is to say.
#[derive(Debug, Clone)]
pub struct Order {
    /// Whom it is for.
    pub subject: String,
    /// In which sessions.
    pub sessions: Vec<Pattern>,
    /// What they may do there.
    pub can: Vec<Right>,
    /// The only agent that they may speak as.
    pub agent: Option<Name>,
    /// Which gateways it is for.
    pub audience: Option<String>,
    /// Who says so.
    pub issuer: Option<String>,
    /// From now on.
    pub ttl: Duration,
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum MintError {
    /// The secret can't be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// It could not be signed.
    #[error("the token could not be signed: {0}")]
    Sign(#[from] jsonwebtoken::errors::Error),
}

#[derive(Serialize)]
struct Claims<'a> {
    sub: &'a str,
    iat: u64,
    exp: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<&'a str>,
    moorline: Access<'a>,
}

#[derive(Serialize)]
struct Access<'a> {
    sessions: Vec<String>,
    can: &'a [Right],
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<&'a Name>,
}

/// A token signed with HS256.
pub fn mint(secret_file: &Path, order: &Order) -> Result<String, MintError> {
    crypto::install();
    let key = EncodingKey::from_secret(&keys::secret(secret_file)?);
    let iat = now() as u64;
    let claims = Claims {
        sub: &order.subject,
        iat,
        exp: iat.saturating_add(order.ttl.as_secs()),
        aud: order.audience.as_deref(),
        iss: order.issuer.as_deref(),
        moorline: Access {
            sessions: order.sessions.iter().map(Pattern::to_string).collect(),
            can: &order.can,
            agent: order.agent.as_ref(),
        },
    };
    Ok(jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key)?)
}
