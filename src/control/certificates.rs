//! The certificates, keys and authorities in force, and what they are made of.
//!
//! Never gives up a good one for one that cannot be used: what was read last and is whole
//! stays until the files are whole again. Never holds more than the config names.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::ProducesTickets;

use crate::config::Config;
use crate::config::defect::{Code, Defect, Place};
use crate::names::ListenerName;
use crate::telemetry::metrics::CertificateGauge;
use crate::tls::fault::Fault;
use crate::tls::files::{AuthorityContent, Pair, PairContent};
use crate::tls::server::Verifier;
use crate::tls::{ClientAuth, PairFiles, ServerTls, server};

/// Everything that TLS needs for one config.
#[derive(Clone, Debug, Default)]
pub struct Certificates {
    pairs: BTreeMap<PairFiles, Kept<Arc<Pair>>>,
    verifiers: BTreeMap<ClientAuth, Kept<Verifier>>,
    servers: BTreeMap<ListenerName, Server>,
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
        let pairs = self.servers.iter().zip(&other.servers);
        self.servers.len() == other.servers.len()
            && pairs.into_iter().all(|((name, one), (other_name, other))| {
                name == other_name && Arc::ptr_eq(&one.config, &other.config)
            })
    }

    /// TLS of the listener `name`; `None` where it has none.
    pub fn server(&self, name: &ListenerName) -> Option<Arc<ServerConfig>> {
        self.servers.get(name).map(|server| Arc::clone(&server.config))
    }

    /// When what is shown expires.
    pub fn gauges(&self) -> Vec<CertificateGauge> {
        let mut gauges = Vec::new();
        for (name, server) in &self.servers {
            for files in &server.settings.certificates {
                let Some(pair) = self.pairs.get(files) else { continue };
                gauges.push(CertificateGauge {
                    owner: ("listener", name.to_string()),
                    file: files.cert.display().to_string(),
                    not_after: pair.value.facts.not_after,
                });
            }
        }
        gauges.dedup();
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
            pairs.extend(self.pair(files, &format!("{key}.certificates[{index}]")));
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

    fn pair(&mut self, files: &PairFiles, key: &str) -> Option<Kept<Arc<Pair>>> {
        if let Some(known) = self.next.pairs.get(files) {
            return Some(known.clone());
        }
        let before = self.before.pairs.get(files).cloned();
        let made = PairContent::read(files).and_then(|content| {
            let hash = content.hash();
            if let Some(same) = before.as_ref().filter(|one| one.hash == hash) {
                return Ok(same.clone());
            }
            let pair = content.pair()?;
            if before.is_some() {
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
