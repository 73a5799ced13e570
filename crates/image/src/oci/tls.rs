//! The cryptography behind TLS: chosen once, for every HTTP client of the process.

/// Makes ring the process's cryptography for TLS, unless it has one. An HTTP client that can speak TLS
/// is only built after this, even where it will never do so.
pub fn install_tls() {
    // Refused where there is one already, which then serves.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
