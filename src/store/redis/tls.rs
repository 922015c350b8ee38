//! `rediss://` where the certificates that everybody trusts are not enough.

use std::path::PathBuf;

use redis::{ClientTlsConfig, TlsCertificates};

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
}
