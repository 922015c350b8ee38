//! What TLS is made with.

use std::sync::Once;

/// Chooses the process's implementation of cryptography, without which nothing of TLS can be built. If the program around this
/// library has chosen one before, that one stays, and serves as well.
pub(crate) fn provide() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
}
