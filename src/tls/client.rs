//! TLS to the endpoints of a backend: whom to believe, and what to show.

use std::io;
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

use rustls::client::danger::ServerCertVerifier;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::pki_types::ServerName;
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::tls::fault::Fault;
use crate::tls::files::Pair;
use crate::tls::provider;

/// What is offered in the handshake: HTTP/2, HTTP/1.1, or both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// Whatever the endpoint prefers.
    Both,
}

/// TLS to the endpoints of one backend, with the files of now.
#[derive(Debug)]
pub struct Encryption {
    http1: Arc<ClientConfig>,
    http2: Arc<ClientConfig>,
    both: Arc<ClientConfig>,
    /// What an endpoint's certificate must be for; `None` is its IP address.
    name: Option<ServerName<'static>>,
}

impl Encryption {
    /// To whoever `roots` vouch for, as `name`; shows `pair` when asked for a certificate.
    pub fn new(
        roots: Arc<RootCertStore>,
        name: Option<ServerName<'static>>,
        pair: Option<&Arc<Pair>>,
    ) -> Result<Self, Fault> {
        let setup = |error: &dyn std::error::Error| Fault::Setup(error.to_string());
        let verifier: Arc<dyn ServerCertVerifier> =
            WebPkiServerVerifier::builder_with_provider(roots, provider())
                .build()
                .map_err(|error| setup(&error))?;
        let config = |protocols: &[&[u8]]| {
            let builder = ClientConfig::builder_with_provider(provider())
                .with_safe_default_protocol_versions()
                .map_err(|error| setup(&error))?
                .dangerous()
                .with_custom_certificate_verifier(Arc::clone(&verifier));
            let mut config = match pair {
                None => builder.with_no_client_auth(),
                Some(pair) => {
                    let shown = SingleCertAndKey::from(Arc::clone(&pair.key));
                    builder.with_client_cert_resolver(Arc::new(shown))
                }
            };
            // With a resumed session nobody looks at the certificate again: it could have expired
            // long ago. Connections are kept, so that there are few handshakes.
            config.resumption = Resumption::disabled();
            config.alpn_protocols = protocols.iter().map(|one| one.to_vec()).collect();
            Ok(Arc::new(config))
        };
        Ok(Self {
            http1: config(&[b"http/1.1"])?,
            http2: config(&[b"h2"])?,
            both: config(&[b"h2", b"http/1.1"])?,
            name,
        })
    }

    /// Shakes hands with the endpoint at `address` over `stream`.
    pub async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
        address: IpAddr,
        offer: Offer,
    ) -> io::Result<TlsStream<S>> {
        let config = match offer {
            Offer::Http1 => &self.http1,
            Offer::Http2 => &self.http2,
            Offer::Both => &self.both,
        };
        let name = self.name.clone().unwrap_or_else(|| ServerName::from(address));
        TlsConnector::from(Arc::clone(config)).connect(name, stream).await
    }
}

/// The authorities of this machine, as they were when they were first asked for.
pub fn system_authorities() -> Result<Arc<RootCertStore>, Fault> {
    static ROOTS: LazyLock<Arc<RootCertStore>> = LazyLock::new(|| {
        let mut roots = RootCertStore::empty();
        // Of many, some are always of a kind that is not known.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        Arc::new(roots)
    });
    if ROOTS.is_empty() {
        let what = "this machine has no authorities to believe: set `ca`";
        return Err(Fault::Setup(what.to_owned()));
    }
    Ok(Arc::clone(&ROOTS))
}
