//! `rediss://` where the certificates that everybody trusts are not enough.

use std::{
    fmt::Display,
    path::{Path, PathBuf},
    sync::Arc,
};

use redis::{ClientTlsConfig, TlsCertificates};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

/// PEM files.
#[derive(Debug, Clone, Default)]
pub struct Tls {
    /// The authority that has signed Redis's certificate; alone trusted then.
    pub ca: Option<PathBuf>,
    /// Our own certificate, where Redis asks for one, and its key.
    pub client: Option<(PathBuf, PathBuf)>,
}

const CA: &str = "--redis-ca";
const CERT: &str = "--redis-cert";
const KEY: &str = "--redis-key";

/// Why the files can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadTls {
    /// There is nothing to use them for.
    #[error("{0} is for a Redis that speaks TLS: it takes a --redis-url that begins with rediss://")]
    NoTls(&'static str),
    /// One can't be read, or holds something else.
    #[error("{flag} {}: {why}", path.display())]
    File {
        /// The option that names it.
        flag: &'static str,
        /// It.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

impl Tls {
    /// Whether they can be used, for a Redis that speaks TLS or does not.
    pub(super) fn check(&self, secured: bool) -> Result<(), BadTls> {
        let given = self.ca.as_ref().map(|_| CA).or(self.client.as_ref().map(|_| CERT));
        match given {
            Some(flag) if !secured => Err(BadTls::NoTls(flag)),
            Some(_) => self.client().map(drop),
            None => Ok(()),
        }
    }

    /// `None`: there are none.
    pub(super) fn read(&self) -> Result<Option<TlsCertificates>, BadTls> {
        let root_cert = self.ca.as_ref().map(|path| read(CA, path)).transpose()?;
        let client_tls = match &self.client {
            Some((certificate, key)) => {
                Some(ClientTlsConfig { client_cert: read(CERT, certificate)?, client_key: read(KEY, key)? })
            }
            None => None,
        };
        let any = root_cert.is_some() || client_tls.is_some();
        Ok(any.then_some(TlsCertificates { client_tls, root_cert }))
    }

    /// The same for connections of our own.
    pub(super) fn client(&self) -> Result<Arc<ClientConfig>, BadTls> {
        let mut roots = RootCertStore::empty();
        match &self.ca {
            Some(path) => {
                for certificate in certificates(CA, path)? {
                    roots.add(certificate).map_err(|error| bad(CA, path, error))?;
                }
            }
            None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        }
        crate::tls::provide();
        let config = ClientConfig::builder().with_root_certificates(roots);
        let config = match &self.client {
            Some((certificate, path)) => {
                let key = PrivateKeyDer::from_pem_slice(&read(KEY, path)?);
                let key = key.map_err(|error| bad(KEY, path, format!("it holds no private key in PEM ({error})")))?;
                let config = config.with_client_auth_cert(certificates(CERT, certificate)?, key);
                let why = |error| format!("it can't be used with {CERT} {}: {error}", certificate.display());
                config.map_err(|error| bad(KEY, path, why(error)))?
            }
            None => config.with_no_client_auth(),
        };
        Ok(config.into())
    }
}

fn read(flag: &'static str, path: &Path) -> Result<Vec<u8>, BadTls> {
    std::fs::read(path).map_err(|error| bad(flag, path, format!("it can't be read: {error}")))
}

/// At least one.
fn certificates(flag: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, BadTls> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(flag, path)?).collect();
    match chain {
        Ok(chain) if !chain.is_empty() => Ok(chain),
        Ok(_) => Err(bad(flag, path, "it holds no certificate in PEM")),
        Err(error) => Err(bad(flag, path, format!("it holds no certificate in PEM ({error})"))),
    }
}

fn bad(flag: &'static str, path: &Path, why: impl Display) -> BadTls {
    BadTls::File { flag, path: path.into(), why: why.to_string() }
}
