//! The certificates, keys and authorities in force, and what they are made of.
//!
//! Never gives up a good one for one that cannot be used: what was read last and is whole
//! stays until the files are whole again. Never holds more than the config names.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::server::ProducesTickets;
use rustls::{RootCertStore, ServerConfig};

use crate::config::defect::{Code, Defect, Place};
use crate::config::{Config, ServiceName};
use crate::names::{BackendName, ListenerName};
use crate::telemetry::metrics::CertificateGauge;
use crate::tls::client::{self, Encryption};
use crate::tls::fault::Fault;
use crate::tls::files::{
    AuthorityContent, Content, Pair, PairContent, authorities, hash as hash_of,
};
use crate::tls::server::{self, Verifier};
use crate::tls::{ClientAuth, EndpointTls, PairFiles, ServerTls};

/// Everything that TLS needs for one config.
#[derive(Clone, Debug, Default)]
pub struct Certificates {
    pairs: BTreeMap<PairFiles, Kept<Arc<Pair>>>,
    verifiers: BTreeMap<ClientAuth, Kept<Verifier>>,
    roots: BTreeMap<PathBuf, Kept<Arc<RootCertStore>>>,
    servers: BTreeMap<ListenerName, Server>,
    backends: BTreeMap<BackendName, Client>,
}

/// What was made of some files, and of which content.
#[derive(Clone, Debug)]
struct Kept<T> {
    hash: u128,
    value: T,
}

/// TLS of one listener.
#[derive(Clone, Debug)]
struct Server {
    settings: ServerTls,
    /// Of the certificates.
    shown: Vec<u128>,
    /// Of the authorities.
    asked: Option<u128>,
    ticketer: Arc<dyn ProducesTickets>,
    config: Arc<ServerConfig>,
}

/// TLS to the endpoints of one backend.
#[derive(Clone, Debug)]
struct Client {
    settings: EndpointTls,
    /// Of the certificate that is shown.
    shown: Option<u128>,
    /// Of the authorities that are believed.
    believed: Option<u128>,
    encryption: Arc<Encryption>,
}

/// What the files say now.
#[derive(Debug)]
pub struct Renewed {
    /// What is to be in force.
    pub certificates: Certificates,
    /// Whether new connections will notice.
    pub changed: bool,
    /// Files that cannot be used; what was made of them before stays.
    pub kept: Vec<Defect>,
    /// Files that cannot be used, and nothing was made of them before.
    pub refused: Vec<Defect>,
}

impl Certificates {
    /// Reads every file that `config` names. `now` is in seconds since the Unix epoch.
    ///
    /// A certificate that is not valid now does not take the place of one that was read
    /// before; the first one is taken as it is, for it is better than none.
    pub fn renew(&self, config: &Config, now: i64) -> Renewed {
        let mut renewing =
            Renewing { before: self, next: Self::default(), now, faults: Vec::new() };
        for (index, listener) in config.listeners.iter().enumerate() {
            if let Some(tls) = &listener.tls {
                renewing.server(&listener.name, tls, &format!("listeners[{index}].tls"));
            }
        }
        for (index, backend) in config.backends.iter().enumerate() {
            if let Some(tls) = &backend.tls {
                let mut tls = tls.clone();
                // Whoever is found by a name is asked for by it.
                let dns = backend.dns.as_ref().map(|dns| dns.host.clone());
                let service = backend.service.as_ref().map(ServiceName::host);
                let host = dns.or(service);
                let host = host.map(|host| host.trim_end_matches('.').to_owned());
                let found_by = host.and_then(|host| ServerName::try_from(host).ok());
                tls.server_name = tls.server_name.or(found_by);
                renewing.client(&backend.name, &tls, &format!("backends[{index}].tls"));
            }
        }
        let Renewing { next, faults, .. } = renewing;
        let (kept, refused): (Vec<_>, Vec<_>) = faults.into_iter().partition(|(kept, _)| *kept);
        let defects =
            |faults: Vec<(bool, Defect)>| faults.into_iter().map(|(_, one)| one).collect();
        Renewed {
            changed: !self.is_same(&next),
            certificates: next,
            kept: defects(kept),
            refused: defects(refused),
        }
    }

    fn is_same(&self, other: &Self) -> bool {
        let servers = |of: &Self| -> Vec<_> {
            of.servers.iter().map(|(name, one)| (name.clone(), Arc::as_ptr(&one.config))).collect()
        };
        let backends = |of: &Self| -> Vec<_> {
            let all = of.backends.iter();
            all.map(|(name, one)| (name.clone(), Arc::as_ptr(&one.encryption))).collect()
        };
        servers(self) == servers(other) && backends(self) == backends(other)
    }

    /// TLS of the listener `name`; `None` where it has none.
    pub fn server(&self, name: &ListenerName) -> Option<Arc<ServerConfig>> {
        self.servers.get(name).map(|server| Arc::clone(&server.config))
    }

    /// TLS to the endpoints of the backend `name`; `None` where it has none.
    pub fn backend(&self, name: &BackendName) -> Option<Arc<Encryption>> {
        self.backends.get(name).map(|client| Arc::clone(&client.encryption))
    }

    /// When what is shown expires, each certificate of an owner once.
    pub fn gauges(&self) -> Vec<CertificateGauge> {
        let servers = self.servers.iter().flat_map(|(name, server)| {
            let owner = ("listener", name.to_string());
            server.settings.certificates.iter().map(move |files| (owner.clone(), files))
        });
        let backends = self.backends.iter().filter_map(|(name, client)| {
            Some((("backend", name.to_string()), client.settings.certificate.as_ref()?))
        });
        let mut seen = BTreeSet::new();
        let mut gauges = Vec::new();
        for (owner, files) in servers.chain(backends) {
            let Some(pair) = self.pairs.get(files) else { continue };
            if seen.insert((owner.clone(), &files.cert)) {
                let file = files.cert.display().to_string();
                let not_after = pair.value.facts.not_after;
                gauges.push(CertificateGauge { owner, file, not_after });
            }
        }
        gauges
    }
}

/// The files of TLS that `config` names, each once.
pub fn files(config: &Config) -> Vec<PathBuf> {
    let mut files = BTreeSet::new();
    for tls in config.listeners.iter().filter_map(|listener| listener.tls.as_ref()) {
        for PairFiles { cert, key } in &tls.certificates {
            files.extend([cert.clone(), key.clone()]);
        }
        if let Some(ClientAuth { ca, crl, .. }) = &tls.clients {
            files.insert(ca.clone());
            files.extend(crl.clone());
        }
    }
    for tls in config.backends.iter().filter_map(|backend| backend.tls.as_ref()) {
        files.extend(tls.ca.clone());
        if let Some(PairFiles { cert, key }) = &tls.certificate {
            files.extend([cert.clone(), key.clone()]);
        }
    }
    files.into_iter().collect()
}

/// A look at all files.
struct Renewing<'b> {
    before: &'b Certificates,
    next: Certificates,
    now: i64,
    /// Whether what was before stays, and why.
    faults: Vec<(bool, Defect)>,
}

impl Renewing<'_> {
    fn server(&mut self, name: &ListenerName, settings: &ServerTls, key: &str) {
        let mut pairs = Vec::new();
        for (index, files) in settings.certificates.iter().enumerate() {
            let known = self.before.servers.contains_key(name);
            pairs.extend(self.pair(files, &format!("{key}.certificates[{index}]"), known));
        }
        let clients = settings.clients.as_ref();
        let verifier = clients.map(|files| self.verifier(files, &format!("{key}.client_ca")));
        // What lacks was told of.
        let (true, Some(verifier)) = (
            pairs.len() == settings.certificates.len(),
            verifier.map_or(Some(None), |v| v.map(Some)),
        ) else {
            return;
        };
        let shown: Vec<_> = pairs.iter().map(|one| one.hash).collect();
        let asked = verifier.as_ref().map(|one| one.hash);
        let before = self.before.servers.get(name);
        let same_clients = before
            .filter(|one| one.settings.clients == settings.clients && one.asked == asked)
            .map(|one| Arc::clone(&one.ticketer));
        if let Some(same) = before.filter(|one| one.settings == *settings && one.shown == shown)
            && same_clients.is_some()
        {
            self.next.servers.insert(name.clone(), same.clone());
            return;
        }
        let pairs: Vec<_> = pairs.into_iter().map(|one| one.value).collect();
        let made = same_clients.map_or_else(server::ticketer, Ok).and_then(|ticketer| {
            let verifier = verifier.map(|one| one.value);
            let kept = Arc::clone(&ticketer);
            let config = server::config(&pairs, verifier, settings.min_version, kept)?;
            Ok((ticketer, Arc::new(config)))
        });
        match made {
            Ok((ticketer, config)) => {
                let settings = settings.clone();
                let server = Server { settings, shown, asked, ticketer, config };
                self.next.servers.insert(name.clone(), server);
            }
            Err(fault) => {
                self.fault(before.is_some(), key, &fault);
                let before = before.map(|server| (name.clone(), server.clone()));
                self.next.servers.extend(before);
            }
        }
    }

    fn client(&mut self, name: &BackendName, settings: &EndpointTls, key: &str) {
        let pair = settings.certificate.as_ref();
        let known = self.before.backends.contains_key(name);
        let pair = pair.map(|files| self.pair(files, &format!("{key}.cert"), known));
        let roots = settings.ca.as_ref();
        let roots = roots.map(|file| self.roots(file, &format!("{key}.ca")));
        // What lacks was told of.
        if matches!(pair, Some(None)) || matches!(roots, Some(None)) {
            return;
        }
        let (pair, roots) = (pair.flatten(), roots.flatten());
        let (shown, believed) =
            (pair.as_ref().map(|one| one.hash), roots.as_ref().map(|one| one.hash));
        let before = self.before.backends.get(name);
        let same = before.filter(|one| {
            one.settings == *settings && one.shown == shown && one.believed == believed
        });
        if let Some(same) = same {
            self.next.backends.insert(name.clone(), same.clone());
            return;
        }
        let made = roots.map_or_else(client::system_authorities, |one| Ok(one.value));
        let made = made.and_then(|roots| {
            let pair = pair.map(|one| one.value);
            Encryption::new(roots, settings.server_name.clone(), pair.as_ref())
        });
        match made {
            Ok(encryption) => {
                let (settings, encryption) = (settings.clone(), Arc::new(encryption));
                let client = Client { settings, shown, believed, encryption };
                self.next.backends.insert(name.clone(), client);
            }
            Err(fault) => {
                self.fault(before.is_some(), key, &fault);
                let before = before.map(|client| (name.clone(), client.clone()));
                self.next.backends.extend(before);
            }
        }
    }

    fn roots(&mut self, file: &PathBuf, key: &str) -> Option<Kept<Arc<RootCertStore>>> {
        if let Some(known) = self.next.roots.get(file) {
            return Some(known.clone());
        }
        let before = self.before.roots.get(file).cloned();
        let made = Content::read(file).and_then(|content| {
            let hash = hash_of([&content]);
            if let Some(same) = before.as_ref().filter(|one| one.hash == hash) {
                return Ok(same.clone());
            }
            Ok(Kept { hash, value: Arc::new(authorities(&content)?) })
        });
        let kept = self.made_or_before(made, before, key)?;
        self.next.roots.insert(file.clone(), kept.clone());
        Some(kept)
    }

    /// For an owner that `has_one`, or has had none so far.
    fn pair(&mut self, files: &PairFiles, key: &str, has_one: bool) -> Option<Kept<Arc<Pair>>> {
        let before = self.before.pairs.get(files).cloned();
        if let Some(known) = self.next.pairs.get(files).cloned() {
            // Whoever named it first may have had none.
            let anew = has_one && before.is_none();
            if anew && let Err(fault) = known.value.facts.check_time(self.now, &files.cert) {
                self.fault(false, key, &fault);
                return None;
            }
            return Some(known);
        }
        let made = PairContent::read(files).and_then(|content| {
            let hash = content.hash();
            if let Some(same) = before.as_ref().filter(|one| one.hash == hash) {
                return Ok(same.clone());
            }
            let pair = content.pair()?;
            if has_one || before.is_some() {
                pair.facts.check_time(self.now, &files.cert)?;
            }
            Ok(Kept { hash, value: Arc::new(pair) })
        });
        let kept = self.made_or_before(made, before, key)?;
        self.next.pairs.insert(files.clone(), kept.clone());
        Some(kept)
    }

    fn verifier(&mut self, files: &ClientAuth, key: &str) -> Option<Kept<Verifier>> {
        if let Some(known) = self.next.verifiers.get(files) {
            return Some(known.clone());
        }
        let before = self.before.verifiers.get(files).cloned();
        let made = AuthorityContent::read(files).and_then(|content| {
            let hash = content.hash();
            if let Some(same) = before.as_ref().filter(|one| one.hash == hash) {
                return Ok(same.clone());
            }
            let value = server::verifier(&content, files.required)?;
            Ok(Kept { hash, value })
        });
        let kept = self.made_or_before(made, before, key)?;
        self.next.verifiers.insert(files.clone(), kept.clone());
        Some(kept)
    }

    fn made_or_before<T>(
        &mut self,
        made: Result<Kept<T>, Fault>,
        before: Option<Kept<T>>,
        key: &str,
    ) -> Option<Kept<T>> {
        match made {
            Ok(made) => Some(made),
            Err(fault) => {
                self.fault(before.is_some(), key, &fault);
                before
            }
        }
    }

    fn fault(&mut self, stays: bool, key: &str, fault: &Fault) {
        let message = if stays {
            format!("{fault}; what was read before stays in force")
        } else {
            fault.to_string()
        };
        let defect = Defect {
            code: Code::NotTaken,
            place: Place::START,
            path: key.to_owned(),
            message,
            help: "put files there that are whole and belong together; they are read again"
                .to_owned(),
        };
        self.faults.push((stays, defect));
    }
}
