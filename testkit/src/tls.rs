//! A client that speaks TLS.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::pki::{Authority, Certificate};

/// What a client trusts, shows and speaks. Connections of one client resume sessions.
#[derive(Clone, Debug)]
pub struct TlsClient {
    config: Arc<ClientConfig>,
}

fn certificates(pem: &str) -> Vec<CertificateDer<'static>> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    all.expect("certificates")
}

impl TlsClient {
    fn build(
        authority: &Authority,
        certificate: Option<&Certificate>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificates(&authority.pem));
        let builder = ClientConfig::builder_with_provider(serin::tls::provider())
            .with_protocol_versions(versions)
            .expect("versions")
            .with_root_certificates(roots);
        let config = match certificate {
            None => builder.with_no_client_auth(),
            Some(one) => {
                let key = PrivateKeyDer::from_pem_slice(one.key.as_bytes()).expect("a key");
                let config = builder.with_client_auth_cert(certificates(&one.cert), key);
                config.expect("a certificate and its key")
            }
        };
        Self { config: Arc::new(config) }
    }

    /// Trusts what `authority` has signed.
    pub fn trusting(authority: &Authority) -> Self {
        Self::build(authority, None, rustls::DEFAULT_VERSIONS)
    }

    /// The same with a certificate of its own.
    pub fn with(authority: &Authority, certificate: &Certificate) -> Self {
        Self::build(authority, Some(certificate), rustls::DEFAULT_VERSIONS)
    }

    /// Speaks one version alone.
    pub fn only(authority: &Authority, version: &'static SupportedProtocolVersion) -> Self {
        Self::build(authority, None, &[version])
    }

    /// The same without any session of before.
    pub fn forgetful(&self) -> Self {
        let mut config = (*self.config).clone();
        config.resumption = Resumption::in_memory_sessions(8);
        Self { config: Arc::new(config) }
    }

    /// Offers these protocols, the dearest first.
    pub fn offering(mut self, protocols: &[&str]) -> Self {
        let config = Arc::make_mut(&mut self.config);
        config.alpn_protocols = protocols.iter().map(|one| one.as_bytes().to_vec()).collect();
        self
    }

    /// Connects to `address`, where `name` is expected. In TLS 1.3 a server refuses a
    /// client's certificate only after this.
    pub async fn connect(
        &self,
        address: SocketAddr,
        name: &str,
    ) -> io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(address).await?;
        self.over(stream, name).await
    }

    /// Connects to `address`, and returns the certificate that is shown there, DER.
    pub async fn shown(&self, address: SocketAddr, name: &str) -> io::Result<Vec<u8>> {
        let stream = self.connect(address, name).await?;
        let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        Ok(shown.expect("a certificate").to_vec())
    }

    /// Shakes hands over `stream`.
    pub async fn over(&self, stream: TcpStream, name: &str) -> io::Result<TlsStream<TcpStream>> {
        stream.set_nodelay(true)?;
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        TlsConnector::from(Arc::clone(&self.config)).connect(name, stream).await
    }
}
