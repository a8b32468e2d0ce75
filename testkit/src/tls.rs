//! A client that speaks TLS, and TLS before a model server.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    ClientConfig, HandshakeKind, RootCertStore, ServerConfig, ServerConnection,
    SupportedProtocolVersion,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

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

/// TLS before a model server that speaks without: shakes hands and passes on bytes. Ends when
/// dropped.
#[derive(Debug)]
pub struct TlsFront {
    /// Where it is.
    pub address: SocketAddr,
    shown: Arc<Mutex<Vec<Handshake>>>,
    config: Arc<Mutex<Arc<ServerConfig>>>,
    task: JoinHandle<()>,
}

/// What a client of a [`TlsFront`] said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Handshake {
    /// The name that it asked for.
    pub name: Option<String>,
    /// What was agreed on.
    pub protocol: Option<String>,
    /// The certificate that it showed, DER.
    pub certificate: Option<Vec<u8>>,
    /// Whether it resumed a session.
    pub resumed: bool,
}

impl TlsFront {
    /// Shows `certificate`, asks for one of `clients`, offers `protocols`; passes `h2` on to
    /// `http2`, all else to `http1`.
    pub async fn start(
        certificate: &Certificate,
        clients: Option<&Authority>,
        protocols: &[&str],
        (http1, http2): (SocketAddr, SocketAddr),
    ) -> Self {
        let config = Arc::new(Mutex::new(server(certificate, clients, protocols)));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let shown = Arc::new(Mutex::new(Vec::new()));
        let (configs, handshakes) = (Arc::clone(&config), Arc::clone(&shown));
        let task = tokio::spawn(async move {
            // They end with it.
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let config = Arc::clone(&configs.lock().unwrap_or_else(PoisonError::into_inner));
                let handshakes = Arc::clone(&handshakes);
                connections.spawn(async move {
                    let stream = TlsAcceptor::from(config).accept(stream).await;
                    let Ok(mut stream) = stream else { return };
                    let said = Handshake::of(stream.get_ref().1);
                    let to = if said.protocol.as_deref() == Some("h2") { http2 } else { http1 };
                    handshakes.lock().unwrap_or_else(PoisonError::into_inner).push(said);
                    let Ok(mut backend) = TcpStream::connect(to).await else { return };
                    let _ = tokio::io::copy_bidirectional(&mut stream, &mut backend).await;
                });
            }
        });
        Self { address, shown, config, task }
    }

    /// From the next handshake on.
    pub fn now(&self, certificate: &Certificate, clients: Option<&Authority>, protocols: &[&str]) {
        let next = server(certificate, clients, protocols);
        *self.config.lock().unwrap_or_else(PoisonError::into_inner) = next;
    }

    /// The handshakes that were good.
    pub fn handshakes(&self) -> Vec<Handshake> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for TlsFront {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Handshake {
    fn of(session: &ServerConnection) -> Self {
        let certificate = session.peer_certificates().and_then(<[_]>::first);
        Self {
            name: session.server_name().map(ToOwned::to_owned),
            protocol: session.alpn_protocol().map(|one| String::from_utf8_lossy(one).into_owned()),
            certificate: certificate.map(|one| one.to_vec()),
            resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
        }
    }
}

fn server(
    certificate: &Certificate,
    clients: Option<&Authority>,
    protocols: &[&str],
) -> Arc<ServerConfig> {
    let verifier = match clients {
        None => WebPkiClientVerifier::no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(certificates(&authority.pem));
            let provider = serin::tls::provider();
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .expect("a verifier")
        }
    };
    let key = PrivateKeyDer::from_pem_slice(certificate.key.as_bytes()).expect("a key");
    let mut config = ServerConfig::builder_with_provider(serin::tls::provider())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(&certificate.cert), key)
        .expect("a certificate and its key");
    config.alpn_protocols = protocols.iter().map(|one| one.as_bytes().to_vec()).collect();
    Arc::new(config)
}
