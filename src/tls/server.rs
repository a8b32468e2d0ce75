//! TLS of a listener: which certificate a client is shown, and what it must show.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{
    ClientHello, NoServerSessionStorage, ProducesTickets, ResolvesServerCert, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{ServerConfig, SignatureScheme, SupportedProtocolVersion};

use crate::tls::fault::Fault;
use crate::tls::files::{AuthorityContent, Pair};
use crate::tls::{Version, provider};

/// What clients may speak over TLS, the dearest first.
pub const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

const SINCE_TLS12: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];
const SINCE_TLS13: &[&SupportedProtocolVersion] = &[&TLS13];

/// Checks what clients show.
pub type Verifier = Arc<dyn ClientCertVerifier>;

/// A verifier of the clients' certificates; `required` refuses those without one.
///
/// With a list of what was revoked, every certificate of a client's chain must be told of by
/// one, and by the newest: whoever has no list for its issuer is refused.
pub fn verifier(content: &AuthorityContent, required: bool) -> Result<Verifier, Fault> {
    let (roots, revoked) = (Arc::new(content.authorities()?), content.revoked()?);
    let has_list = !revoked.is_empty();
    let builder = WebPkiClientVerifier::builder_with_provider(roots, provider());
    let builder = builder.with_crls(revoked);
    let builder = if required { builder } else { builder.allow_unauthenticated() };
    builder.build().map_err(|error| match error {
        _ if has_list => Fault::BadCrl(content.crl_path()),
        error => Fault::Setup(error.to_string()),
    })
}

/// Keys for tickets, by which clients resume a session. Whoever has one is known by what
/// was verified when it was made: other authorities need other keys.
pub fn ticketer() -> Result<Arc<dyn ProducesTickets>, Fault> {
    Ticketer::new().map_err(|error| Fault::Setup(error.to_string()))
}

/// What a listener needs to accept TLS. `pairs` may not be empty.
pub fn config(
    pairs: &[Arc<Pair>],
    verifier: Option<Verifier>,
    min_version: Version,
    ticketer: Arc<dyn ProducesTickets>,
) -> Result<ServerConfig, Fault> {
    let versions = match min_version {
        Version::Tls12 => SINCE_TLS12,
        Version::Tls13 => SINCE_TLS13,
    };
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .map_err(|error| Fault::Setup(error.to_string()))?;
    let verifier = verifier.unwrap_or_else(WebPkiClientVerifier::no_client_auth);
    let builder = builder.with_client_cert_verifier(verifier);
    let mut config = builder.with_cert_resolver(Arc::new(ByName::new(pairs)));
    config.alpn_protocols = PROTOCOLS.iter().map(|one| one.to_vec()).collect();
    config.ignore_client_order = true;
    config.ticketer = ticketer;
    // Tickets are sessions that the client stores: nothing here grows with their number.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}

/// Chooses a certificate by the name that a client asks for.
#[derive(Debug)]
struct ByName {
    /// By DNS name; a wildcard by what follows its `*.`, with a leading dot.
    names: HashMap<String, Vec<Arc<CertifiedKey>>>,
    all: Vec<Arc<CertifiedKey>>,
}

impl ByName {
    fn new(pairs: &[Arc<Pair>]) -> Self {
        let mut names: HashMap<String, Vec<_>> = HashMap::new();
        for pair in pairs {
            for name in &pair.facts.names {
                let key = name.strip_prefix('*').unwrap_or(name).to_owned();
                names.entry(key).or_default().push(Arc::clone(&pair.key));
            }
        }
        Self { names, all: pairs.iter().map(|pair| Arc::clone(&pair.key)).collect() }
    }

    /// The exact name first, then the wildcard, then the first certificate; of several the
    /// first whose key the client can verify. For a client that can verify none it is the first
    /// of all, so that it is refused for what it lacks.
    fn find(&self, name: Option<&str>, schemes: &[SignatureScheme]) -> Option<&Arc<CertifiedKey>> {
        let first = |keys: &'_ Vec<Arc<CertifiedKey>>| -> Option<usize> {
            keys.iter().position(|one| one.key.choose_scheme(schemes).is_some())
        };
        let name = name.map(str::to_ascii_lowercase);
        let parent = name.as_deref().and_then(|name| name.find('.').map(|dot| &name[dot..]));
        let named = [name.as_deref(), parent].into_iter().flatten();
        let mut lists = named.filter_map(|name| self.names.get(name)).chain([&self.all]);
        let fitting = lists.find_map(|keys| first(keys).map(|index| &keys[index]));
        fitting.or_else(|| self.all.first())
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.find(hello.server_name(), hello.signature_schemes()).cloned()
    }
}
