//! Tokens of all kinds, good and forged, and the keys they are signed with.

use std::{fs, path::PathBuf, process::Command, time::SystemTime};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use moorline::config::Auth;
use ring::{hmac, rand::SystemRandom, signature};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Files with keys, and the means to sign with them.
pub struct KeyFiles {
    dir: TempDir,
}

/// A kind of key pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Rsa,
    P256,
    Ed25519,
}

impl Kind {
    pub const ALL: [Kind; 3] = [Kind::Rsa, Kind::P256, Kind::Ed25519];

    /// As tokens name the algorithm.
    pub fn algorithm(self) -> &'static str {
        match self {
            Kind::Rsa => "RS256",
            Kind::P256 => "ES256",
            Kind::Ed25519 => "EdDSA",
        }
    }
}

/// Claims that allow everything everywhere for an hour, changed by what `change` has (`null` takes a claim away).
pub fn claims(change: Value) -> Value {
    let mut claims = json!({
        "sub": "tester", "exp": now() + 3600,
        "moorline": {"sessions": ["*"], "can": ["read", "append", "command", "manage"]},
    });
    merge(&mut claims, change);
    claims
}

fn merge(into: &mut Value, change: Value) {
    let Value::Object(change) = change else { return *into = change };
    for (key, value) in change {
        match value {
            Value::Null => drop(into.as_object_mut().expect("an object").remove(&key)),
            Value::Object(_) if into.get(&key).is_some() => merge(&mut into[&key], value),
            value => into[&key] = value,
        }
    }
}

/// Seconds since the Unix epoch.
pub fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs()
}

/// `header.claims`, and what `sign` makes of it.
pub fn token(header: &Value, claims: &Value, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
    let part = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
    let message = format!("{}.{}", part(header), part(claims));
    let signature = URL_SAFE_NO_PAD.encode(sign(message.as_bytes()));
    format!("{message}.{signature}")
}

pub fn hs256(secret: &[u8]) -> impl FnOnce(&[u8]) -> Vec<u8> {
    move |message| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message).as_ref().to_vec()
}

impl KeyFiles {
    pub fn new() -> Self {
        KeyFiles { dir: TempDir::new().expect("a directory") }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file as careful programs do: whole, by renaming it.
    pub fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let (path, new) = (self.path(name), self.path(&format!("{name}.new")));
        fs::write(&new, contents).and_then(|()| fs::rename(new, &path)).expect("a file");
        path
    }

    /// A gateway's settings with a secret, and the secret.
    pub fn secret(&self) -> (Auth, Vec<u8>) {
        let secret = format!("{:032x}{:032x}", fastrand::u128(..), fastrand::u128(..));
        // The line break is what `openssl rand -hex 32 > file` leaves.
        let path = self.write("secret", format!("{secret}\n"));
        (Auth { secret_file: Some(path), ..Auth::NONE }, secret.into_bytes())
    }

    fn openssl(&self, arguments: &[&str]) -> Vec<u8> {
        let output = Command::new("openssl").args(arguments).current_dir(self.dir.path()).output().expect("openssl");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    /// Makes a pair of keys: the public one is in the file of this name, in PEM.
    pub fn pair(&self, kind: Kind, name: &str) -> Pair {
        let private = format!("{name}.private");
        let algorithm: &[&str] = match kind {
            Kind::Rsa => &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
            Kind::P256 => &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
            Kind::Ed25519 => &["-algorithm", "ED25519"],
        };
        self.openssl(&[&["genpkey", "-outform", "PEM", "-out", &private], algorithm].concat());
        self.openssl(&["pkey", "-in", &private, "-pubout", "-out", name]);
        let pkcs8 = self.openssl(&["pkcs8", "-topk8", "-nocrypt", "-in", &private, "-outform", "DER"]);
        Pair { kind, public: self.path(name), pkcs8 }
    }
}

/// A key pair.
pub struct Pair {
    pub kind: Kind,
    /// The public key, in PEM.
    pub public: PathBuf,
    pkcs8: Vec<u8>,
}

impl Pair {
    /// Signs with the algorithm of its kind.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self.kind {
            Kind::Rsa => {
                let key = self.rsa();
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(&signature::RSA_PKCS1_SHA256, &random, message, &mut signature).expect("a signature");
                signature
            }
            Kind::P256 => self.p256().sign(&random, message).expect("a signature").as_ref().to_vec(),
            Kind::Ed25519 => self.ed25519().sign(message).as_ref().to_vec(),
        }
    }

    /// A token of this pair.
    pub fn token(&self, kid: Option<&str>, claims: &Value) -> String {
        let mut header = json!({"alg": self.kind.algorithm(), "typ": "JWT"});
        if let Some(kid) = kid {
            header["kid"] = kid.into();
        }
        token(&header, claims, |message| self.sign(message))
    }

    /// The public key, as a JWKS has it.
    pub fn jwk(&self, kid: &str) -> Value {
        let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let mut jwk = match self.kind {
            Kind::Rsa => {
                let public = signature::RsaPublicKeyComponents::<Vec<u8>>::from(self.rsa().public());
                json!({"kty": "RSA", "n": part(&public.n), "e": part(&public.e)})
            }
            Kind::P256 => {
                let point = signature::KeyPair::public_key(&self.p256()).as_ref().to_vec();
                json!({"kty": "EC", "crv": "P-256", "x": part(&point[1..33]), "y": part(&point[33..])})
            }
            Kind::Ed25519 => {
                let key = self.ed25519();
                json!({"kty": "OKP", "crv": "Ed25519", "x": part(signature::KeyPair::public_key(&key).as_ref())})
            }
        };
        merge(&mut jwk, json!({"kid": kid, "use": "sig", "alg": self.kind.algorithm()}));
        jwk
    }

    fn rsa(&self) -> signature::RsaKeyPair {
        signature::RsaKeyPair::from_pkcs8(&self.pkcs8).expect("an RSA key")
    }

    fn p256(&self) -> signature::EcdsaKeyPair {
        let random = SystemRandom::new();
        let algorithm = &signature::ECDSA_P256_SHA256_FIXED_SIGNING;
        signature::EcdsaKeyPair::from_pkcs8(algorithm, &self.pkcs8, &random).expect("a key on P-256")
    }

    fn ed25519(&self) -> signature::Ed25519KeyPair {
        signature::Ed25519KeyPair::from_pkcs8_maybe_unchecked(&self.pkcs8).expect("a key on Ed25519")
    }
}
