//! The signatures under tokens: `jsonwebtoken` reads and judges them, `ring` does the arithmetic.
//!
//! `ring` is here for TLS anyway; the crypto libraries that `jsonwebtoken` brings along would be a second one.

use std::sync::Once;

use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind, EncodingKey,
    crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils},
    errors::{ErrorKind, Result},
    signature::{Error, Signer, Verifier},
};
use ring::{hmac, signature as ring_signature};

static RING: CryptoProvider =
    CryptoProvider { signer_factory: signer, verifier_factory: verifier, key_utils: KeyUtils::new_unimplemented() };

/// To be called before any token is read or written.
pub fn install() {
    static ONCE: Once = Once::new();
    // Refused if the program around this library has chosen another one: that serves as well.
    ONCE.call_once(|| {
        let _ = RING.install_default();
    });
}

/// An algorithm with its key.
enum Check {
    Hs256(hmac::Key),
    Rs256(DecodingKey),
    Es256(DecodingKey),
    EdDsa(DecodingKey),
}

fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>> {
    // The family of the key, not the word in the token, says what it is for: a public key is never taken for a secret.
    Ok(Box::new(match (algorithm, key.family()) {
        (Algorithm::HS256, AlgorithmFamily::Hmac) => {
            Check::Hs256(hmac::Key::new(hmac::HMAC_SHA256, key.try_get_as_bytes()?))
        }
        (Algorithm::RS256, AlgorithmFamily::Rsa) => Check::Rs256(key.clone()),
        (Algorithm::ES256, AlgorithmFamily::Ec) => Check::Es256(key.clone()),
        (Algorithm::EdDSA, AlgorithmFamily::Ed) => Check::EdDsa(key.clone()),
        _ => return Err(ErrorKind::InvalidAlgorithm.into()),
    }))
}

impl Verifier<Vec<u8>> for Check {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> std::result::Result<(), Error> {
        let with = |algorithm: &'static dyn ring_signature::VerificationAlgorithm, key: &DecodingKey| {
            let bytes = key.try_get_as_bytes().map_err(Error::from_source)?;
            let key = ring_signature::UnparsedPublicKey::new(algorithm, bytes);
            key.verify(message, signature).map_err(|_| Error::new())
        };
        match self {
            Check::Hs256(key) => hmac::verify(key, message, signature).map_err(|_| Error::new()),
            Check::Rs256(key) => match key.kind() {
                DecodingKeyKind::RsaModulusExponent { n, e } => ring_signature::RsaPublicKeyComponents { n, e }
                    .verify(&ring_signature::RSA_PKCS1_2048_8192_SHA256, message, signature)
                    .map_err(|_| Error::new()),
                DecodingKeyKind::SecretOrDer(_) => with(&ring_signature::RSA_PKCS1_2048_8192_SHA256, key),
            },
            Check::Es256(key) => with(&ring_signature::ECDSA_P256_SHA256_FIXED, key),
            Check::EdDsa(key) => with(&ring_signature::ED25519, key),
        }
    }
}

impl JwtVerifier for Check {
    fn algorithm(&self) -> Algorithm {
        match self {
            Check::Hs256(_) => Algorithm::HS256,
            Check::Rs256(_) => Algorithm::RS256,
            Check::Es256(_) => Algorithm::ES256,
            Check::EdDsa(_) => Algorithm::EdDSA,
        }
    }
}

/// Only with a secret: whoever holds private keys has a program of their own to issue tokens.
struct Seal(hmac::Key);

fn signer(algorithm: &Algorithm, key: &EncodingKey) -> Result<Box<dyn JwtSigner>> {
    match (algorithm, key.family()) {
        (Algorithm::HS256, AlgorithmFamily::Hmac) => {
            Ok(Box::new(Seal(hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes()))))
        }
        _ => Err(ErrorKind::InvalidAlgorithm.into()),
    }
}

impl Signer<Vec<u8>> for Seal {
    fn try_sign(&self, message: &[u8]) -> std::result::Result<Vec<u8>, Error> {
        Ok(hmac::sign(&self.0, message).as_ref().to_vec())
    }
}

impl JwtSigner for Seal {
    fn algorithm(&self) -> Algorithm {
        Algorithm::HS256
    }
}
