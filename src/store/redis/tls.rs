//! `rediss://` where the certificates that everybody trusts are not enough.

use std::{path::PathBuf, sync::Arc};

use redis::{ClientTlsConfig, TlsCertificates};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use crate::store::StoreError;

/// PEM files.
#[derive(Debug, Clone, Default)]
pub struct Tls {
    /// The authority that has signed Redis's certificate; alone trusted then.
    pub ca: Option<PathBuf>,
    /// Our own certificate, where Redis asks for one, and its key.
    pub client: Option<(PathBuf, PathBuf)>,
}

impl Tls {
    /// `None`: there are none.
    pub(super) fn read(&self) -> Result<Option<TlsCertificates>, StoreError> {
        let read = |path: &PathBuf| {
            std::fs::read(path).map_err(|error| StoreError::Fault(format!("can't read {}: {error}", path.display())))
        };
        let root_cert = self.ca.as_ref().map(read).transpose()?;
        let client_tls = match &self.client {
            Some((certificate, key)) => {
                Some(ClientTlsConfig { client_cert: read(certificate)?, client_key: read(key)? })
            }
            None => None,
        };
        let any = root_cert.is_some() || client_tls.is_some();
        Ok(any.then_some(TlsCertificates { client_tls, root_cert }))
    }

    /// The same for connections of our own.
    pub(super) fn client(&self) -> Result<Arc<ClientConfig>, StoreError> {
        let bad = |what: &str, error: &dyn std::fmt::Display| StoreError::Fault(format!("{what}: {error}"));
        let chain = |pem: &[u8]| {
            let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
            chain.map_err(|error| bad("a certificate", &error))
        };
        let (mut roots, files) = (RootCertStore::empty(), self.read()?);
        let (authority, own) = files.map_or((None, None), |files| (files.root_cert, files.client_tls));
        match authority {
            Some(authority) => {
                for certificate in chain(&authority)? {
                    roots.add(certificate).map_err(|error| bad("the authority", &error))?;
                }
            }
            None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        }
        let config = ClientConfig::builder().with_root_certificates(roots);
        let config = match own {
            Some(own) => {
                let key = PrivateKeyDer::from_pem_slice(&own.client_key).map_err(|error| bad("the key", &error))?;
                let config = config.with_client_auth_cert(chain(&own.client_cert)?, key);
                config.map_err(|error| bad("our certificate and its key", &error))?
            }
            None => config.with_no_client_auth(),
        };
        Ok(config.into())
    }
}
