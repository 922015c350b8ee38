//! The keys that tokens are checked with, from files. Each is for one algorithm, which its kind decides: a secret is for
//! HS256, an RSA key for RS256, one on P-256 for ES256, one on Ed25519 for EdDSA. What a token says of its algorithm
//! only chooses among them.

use std::{
    collections::HashSet,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::SystemTime,
};

use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind, Validation,
    errors::ErrorKind,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse},
};

use serde::Deserialize;

use super::{Refused, claims::Claims, crypto};
use crate::config;

/// The shortest secret: HS256 takes a key as long as its hash (RFC 7518, section 3.2).
const SECRET_MIN: usize = 32;
/// The shortest modulus, 2,048 bits; `ring` refuses shorter ones at each token.
const MODULUS_MIN: usize = 256;
/// An uncompressed point of P-256, and a key of Ed25519.
const POINT: usize = 65;
const EDWARDS: usize = 32;
/// Keys in a file: a token without a `kid` is tried with all of its algorithm.
const KEYS_MAX: usize = 64;

/// Why key files can't be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// It can't be read.
    #[error("can't read the keys in {}: {cause}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        cause: io::Error,
    },
    /// It holds no usable key.
    #[error("{} holds no key to check tokens with: {why}", path.display())]
    NoKey {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: &'static str,
    },
}

/// Keys, and how a token that is signed with them is judged.
pub struct Keys(Vec<Key>);

struct Key {
    found: Found,
    validation: Validation,
}

/// A key in a file.
struct Found {
    /// Its name, in a set.
    kid: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

/// What a file looks like from outside, to notice that it is another one.
#[derive(PartialEq, Eq)]
pub struct Fingerprint(Vec<Option<(SystemTime, u64, u64)>>);

impl Fingerprint {
    /// Of all the key files.
    pub fn of(settings: &config::Auth) -> Self {
        // Symbolic links are followed: what Kubernetes mounts changes by turning one.
        let look = |path: &Path| fs::metadata(path).and_then(|it| Ok((it.modified()?, it.len(), it.ino()))).ok();
        Fingerprint(settings.files().map(look).collect())
    }
}

impl Keys {
    /// Reads all key files.
    pub fn read(settings: &config::Auth) -> Result<Keys, KeyError> {
        crypto::install();
        let mut keys = Vec::new();
        if let Some(path) = &settings.secret_file {
            let key = DecodingKey::from_secret(&secret(path)?);
            keys.push(Found { kid: None, algorithm: Algorithm::HS256, key });
        }
        for path in &settings.public_key_files {
            keys.push(public_key(&read(path)?).map_err(|why| KeyError::NoKey { path: path.clone(), why })?);
        }
        if let Some(path) = &settings.jwks_file {
            keys.extend(key_set(&read(path)?).map_err(|why| KeyError::NoKey { path: path.clone(), why })?);
        }
        let judged = |found: Found| Key { validation: validation(found.algorithm, settings), found };
        Ok(Keys(keys.into_iter().map(judged).collect()))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The claims of a token that one of the keys has signed, and that is good now and here.
    pub fn claims(&self, token: &str) -> Result<Claims, Refused> {
        // `none` is no algorithm that this can be, so a token that claims it ends here.
        let header = jsonwebtoken::decode_header(token).map_err(|_| Refused::Malformed)?;
        if header.crit.is_some() {
            // It says that something must be understood that this does not (RFC 7515, section 4.1.11).
            return Err(Refused::Malformed);
        }
        let mut refused = Refused::Algorithm;
        for Key { found, validation } in self.0.iter().filter(|key| key.found.algorithm == header.alg) {
            if let (Some(named), Some(kid)) = (&header.kid, &found.kid)
                && named != kid
            {
                refused = Refused::UnknownKey;
                continue;
            }
            match jsonwebtoken::decode::<Claims>(token, &found.key, validation) {
                // Without an audience of its own a gateway refuses tokens that name one: they are for somebody (RFC 7519,
                // 4.1.3).
                Ok(data) if validation.aud.is_none() && data.claims.names_an_audience() => {
                    return Err(Refused::Audience);
                }
                Ok(data) => return Ok(data.claims),
                Err(error) => match why(error.kind()) {
                    Refused::Signature => refused = Refused::Signature,
                    // The signature fits: it was this key, and no other one would say something else.
                    other => return Err(other),
                },
            }
        }
        Err(refused)
    }
}

fn why(error: &ErrorKind) -> Refused {
    match error {
        ErrorKind::InvalidSignature => Refused::Signature,
        ErrorKind::InvalidAlgorithm => Refused::Algorithm,
        ErrorKind::ExpiredSignature => Refused::Expired,
        ErrorKind::ImmatureSignature => Refused::NotYet,
        ErrorKind::InvalidAudience => Refused::Audience,
        ErrorKind::InvalidIssuer => Refused::Issuer,
        ErrorKind::MissingRequiredClaim(name) | ErrorKind::InvalidClaimFormat(name) => match name.as_str() {
            "exp" => Refused::Claim("exp"),
            "nbf" => Refused::Claim("nbf"),
            "sub" => Refused::Claim("sub"),
            "aud" => Refused::Audience,
            "iss" => Refused::Issuer,
            _ => Refused::Malformed,
        },
        // The signature was good: the claims are JSON, of another form.
        ErrorKind::Json(_) => Refused::Claim("sub, exp or moorline"),
        _ => Refused::Malformed,
    }
}

fn validation(algorithm: Algorithm, settings: &config::Auth) -> Validation {
    let mut validation = Validation::new(algorithm);
    validation.leeway = settings.leeway.as_secs();
    validation.validate_nbf = true;
    let mut required = HashSet::from(["exp", "sub"].map(str::to_owned));
    if let Some(audience) = &settings.audience {
        validation.set_audience(&[audience]);
        required.insert("aud".into());
    }
    if let Some(issuer) = &settings.issuer {
        validation.set_issuer(&[issuer]);
        required.insert("iss".into());
    }
    validation.required_spec_claims = required;
    validation
}

fn read(path: &Path) -> Result<Vec<u8>, KeyError> {
    fs::read(path).map_err(|cause| KeyError::Unreadable { path: path.to_owned(), cause })
}

/// The secret in a file: all of it but a line break at the end, which editors add.
pub fn secret(path: &Path) -> Result<Vec<u8>, KeyError> {
    let mut secret = read(path)?;
    while secret.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
        secret.pop();
    }
    if secret.len() < SECRET_MIN {
        let why = "a secret takes at least 32 bytes; `openssl rand -hex 32` makes one";
        return Err(KeyError::NoKey { path: path.to_owned(), why });
    }
    Ok(secret)
}

/// A public key in PEM, and what it is for.
fn public_key(pem: &[u8]) -> Result<Found, &'static str> {
    let text = std::str::from_utf8(pem).map_err(|_| "it is not PEM")?;
    if text.contains("PRIVATE KEY") {
        return Err("it is a private key; give the gateway the public one");
    }
    if text.matches("-----BEGIN ").count() != 1 || !text.contains("PUBLIC KEY-----") {
        return Err("it is not one PUBLIC KEY in PEM");
    }
    let kinds = [
        (Algorithm::RS256, DecodingKey::from_rsa_pem as fn(&[u8]) -> _),
        (Algorithm::ES256, DecodingKey::from_ec_pem),
        (Algorithm::EdDSA, DecodingKey::from_ed_pem),
    ];
    for (algorithm, parse) in kinds {
        if let Ok(key) = parse(pem)
            && fits(&key)
        {
            return Ok(Found { kid: None, algorithm, key });
        }
    }
    Err("it is no RSA key of 2,048 bits or more, and on neither P-256 nor Ed25519")
}

/// The usable keys of a JWKS (RFC 7517).
fn key_set(json: &[u8]) -> Result<Vec<Found>, &'static str> {
    // Key by key: one of a form that nobody here knows must not hide the others.
    #[derive(Deserialize)]
    struct Set {
        keys: Vec<serde_json::Value>,
    }
    let set: Set = serde_json::from_slice(json).map_err(|_| r#"it is no JWKS: {"keys":[…]}"#)?;
    if set.keys.len() > KEYS_MAX {
        return Err("it has more than 64 keys");
    }
    let keys: Vec<_> = set.keys.into_iter().filter_map(|key| usable(&serde_json::from_value(key).ok()?)).collect();
    if keys.is_empty() {
        return Err("none of its keys is for signatures with RS256, ES256 or EdDSA");
    }
    Ok(keys)
}

/// A key of a set, if it is for signatures that are accepted here. Secrets (`oct`) are not: a set is a public thing.
fn usable(jwk: &Jwk) -> Option<Found> {
    let (algorithm, said) = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => (Algorithm::RS256, KeyAlgorithm::RS256),
        AlgorithmParameters::EllipticCurve(ec) if ec.curve == EllipticCurve::P256 => {
            (Algorithm::ES256, KeyAlgorithm::ES256)
        }
        AlgorithmParameters::OctetKeyPair(ed) if ed.curve == EllipticCurve::Ed25519 => {
            (Algorithm::EdDSA, KeyAlgorithm::EdDSA)
        }
        _ => return None,
    };
    let common = &jwk.common;
    let signs = common.public_key_use.as_ref().is_none_or(|it| *it == PublicKeyUse::Signature);
    if !signs || common.key_algorithm.is_some_and(|it| it != said) {
        return None;
    }
    let key = DecodingKey::from_jwk(jwk).ok().filter(fits)?;
    Some(Found { kid: common.key_id.clone(), algorithm, key })
}

/// Whether a key has the size that its algorithm takes.
fn fits(key: &DecodingKey) -> bool {
    match (key.family(), key.kind()) {
        (AlgorithmFamily::Rsa, DecodingKeyKind::RsaModulusExponent { n, .. }) => n.len() >= MODULUS_MIN && n[0] != 0,
        // A SEQUENCE of two INTEGERs.
        (AlgorithmFamily::Rsa, DecodingKeyKind::SecretOrDer(der)) => {
            der.first() == Some(&0x30) && der.len() > MODULUS_MIN
        }
        (AlgorithmFamily::Ec, DecodingKeyKind::SecretOrDer(point)) => point.len() == POINT && point[0] == 4,
        (AlgorithmFamily::Ed, DecodingKeyKind::SecretOrDer(key)) => key.len() == EDWARDS,
        _ => false,
    }
}
