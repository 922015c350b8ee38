//! Certificates for tests of TLS, made with openssl.

use std::{path::PathBuf, process::Command};

use tempfile::TempDir;

/// An authority, and certificates that it has signed.
pub struct Authority(TempDir);

impl Authority {
    pub fn new() -> Self {
        let authority = Authority(tempfile::tempdir().expect("a directory"));
        authority.openssl(&[
            &["req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-days", "2"][..],
            &["-subj", "/CN=an authority", "-keyout", "ca.key", "-out", "ca.crt"],
        ]);
        authority
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn openssl(&self, arguments: &[&[&str]]) {
        let output = Command::new("openssl").args(arguments.concat()).current_dir(self.0.path()).output();
        let output = output.unwrap_or_else(|e| panic!("openssl cannot be run ({e}): run tests/run, which installs it"));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Makes `<name>.crt` and `<name>.key`.
    pub fn sign(&self, name: &str) {
        self.sign_for(name, "IP:127.0.0.1,DNS:localhost");
    }

    /// The same, for hosts of these names.
    pub fn sign_for(&self, name: &str, names: &str) {
        std::fs::write(self.path("names"), format!("subjectAltName={names}")).expect("written");
        let (key, request, certificate) = (format!("{name}.key"), format!("{name}.csr"), format!("{name}.crt"));
        self.openssl(&[
            &["req", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj", "/CN=localhost"],
            &["-keyout", &key, "-out", &request],
        ]);
        self.openssl(&[
            &["x509", "-req", "-in", &request, "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2"],
            &["-extfile", "names", "-out", &certificate],
        ]);
    }
}
