//! Certificates, keys and authorities: what a config may ask for, and what rustls makes of
//! the files.
//!
//! Never opens a socket, never asks the time, and never remembers a file: what is in force
//! is for `control` to keep. Never repeats a byte of a key.

pub mod certificate;
pub mod client;
pub mod fault;
pub mod files;
pub mod server;

use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use rustls::SupportedCipherSuite;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider};
use rustls::pki_types::ServerName;

/// What TLS is made of. Handed to every config, so that nothing depends on what was
/// installed first.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        Arc::new(CryptoProvider { cipher_suites: CIPHER_SUITES.to_vec(), ..default_provider() })
    });
    Arc::clone(&PROVIDER)
}

/// All that rustls knows: each has forward secrecy and authenticates what it encrypts. AES-128
/// first, which costs least and is as safe.
const CIPHER_SUITES: [SupportedCipherSuite; 9] = [
    cipher_suite::TLS13_AES_128_GCM_SHA256,
    cipher_suite::TLS13_AES_256_GCM_SHA384,
    cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
];

/// Makes [`provider`] the process's own, for libraries that ask for it. `main` does so first.
pub fn install_provider() {
    // Installed already is as good.
    let _ = default_provider().install_default();
}

/// TLS of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerTls {
    /// At least one; the first is for clients that name no server, or one that none fits.
    pub certificates: Vec<PairFiles>,
    /// Who asks clients for a certificate; `None` asks for none.
    pub clients: Option<ClientAuth>,
    /// The oldest version that is spoken.
    pub min_version: Version,
}

/// TLS to the endpoints of a backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointTls {
    /// PEM: whom to believe; `None` is the authorities of this machine.
    pub ca: Option<PathBuf>,
    /// What an endpoint's certificate must be for, and is asked for; `None` is its address.
    pub server_name: Option<ServerName<'static>>,
    /// What is shown to an endpoint that asks for a certificate.
    pub certificate: Option<PairFiles>,
}

/// A certificate with its chain, and its key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PairFiles {
    /// PEM: the certificate first, then what leads to its authority.
    pub cert: PathBuf,
    /// PEM: PKCS #8, PKCS #1 or SEC1.
    pub key: PathBuf,
}

/// Whose certificates clients may bring.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClientAuth {
    /// PEM: the authorities.
    pub ca: PathBuf,
    /// PEM: certificates that the authorities have revoked.
    pub crl: Option<PathBuf>,
    /// Whether a client without a certificate is refused.
    pub required: bool,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// RFC 5246.
    #[default]
    Tls12,
    /// RFC 8446.
    Tls13,
}

impl Version {
    /// As in the config.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tls12 => "1.2",
            Self::Tls13 => "1.3",
        }
    }
}
