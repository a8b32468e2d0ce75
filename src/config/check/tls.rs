//! TLS of listeners, and whom to believe about where a connection comes from.
//!
//! Never keeps what is in a file: it is read to say what is wrong with it, and read again
//! where it is used.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::clock::Clock;
use crate::config::ProxyProtocol;
use crate::config::check::Checker;
use crate::config::defect::Code;
use crate::config::quantity::{CidrText, FilePath};
use crate::config::raw;
use crate::config::read::{As, At, Form, missing};
use crate::config::tree::NodeId;
use crate::tls::fault::Fault;
use crate::tls::files::{AuthorityContent, Content, PairContent, authorities};
use crate::tls::{ClientAuth, EndpointTls, PairFiles, ServerTls, server};
use crate::traffic::source::Cidr;

/// Certificates of one listener.
const CERTIFICATES_MAX: usize = 64;

impl Checker<'_> {
    /// Ranges of addresses, as far as they can be read.
    pub(super) fn ranges(&mut self, list: &[At<As<CidrText>>]) -> Vec<Cidr> {
        list.iter().filter_map(|one| self.value(one)).collect()
    }

    pub(super) fn proxy_protocol(
        &mut self,
        at: &At<raw::ProxyProtocolForm>,
    ) -> Option<ProxyProtocol> {
        match at.found()? {
            (id, Form::Short(short)) => {
                let at = At::is(id, short.clone());
                self.value(&at).filter(|on| *on).map(|_| ProxyProtocol { from: None })
            }
            (_, Form::Long(raw)) => {
                self.not_empty(&raw.from, "a range of addresses");
                Some(ProxyProtocol { from: Some(self.ranges(raw.from.items())) })
            }
        }
    }

    pub(super) fn listener_tls(&mut self, id: NodeId, raw: &raw::ListenerTls) -> Option<ServerTls> {
        self.not_empty(&raw.certificates, "a certificate with its key");
        self.at_most(&raw.certificates, CERTIFICATES_MAX, "split them over several listeners");
        let pairs = raw.certificates.items().iter().filter_map(At::get);
        let certificates: Vec<_> =
            pairs.filter_map(|pair| self.pair(&pair.cert, &pair.key)).collect();
        let clients = self.client_auth(id, raw);
        let min_version = self.value(&raw.min_version).unwrap_or_default();
        (!certificates.is_empty()).then_some(ServerTls { certificates, clients, min_version })
    }

    fn client_auth(&mut self, id: NodeId, raw: &raw::ListenerTls) -> Option<ClientAuth> {
        let asked = raw.client_auth.is_there() || raw.client_crl.is_there();
        if asked && !raw.client_ca.is_there() && !raw.faulty {
            missing(id, "client_ca", self.report);
        }
        let (ca, crl) = (self.value(&raw.client_ca), self.value(&raw.client_crl));
        let required = self.value(&raw.client_auth).unwrap_or(true);
        let files = ClientAuth { ca: ca?, crl, required };
        if self.touch_files {
            let found = AuthorityContent::read(&files);
            let found = found.and_then(|content| server::verifier(&content, required));
            if let Err(fault) = found {
                let of_crl = fault.path().is_some() && fault.path() == files.crl.as_deref();
                let at = if of_crl { raw.client_crl.id } else { raw.client_ca.id };
                self.report.add(at, Code::AuthorityFile, fault.to_string(), AUTHORITY_HELP);
            }
        }
        Some(files)
    }

    pub(super) fn backend_tls(&mut self, id: NodeId, raw: &raw::BackendTls) -> EndpointTls {
        let (cert, key) = (&raw.cert, &raw.key);
        let certificate = match (cert.is_there(), key.is_there()) {
            (false, false) => None,
            (true, false) => {
                missing(id, "key", self.report);
                None
            }
            (false, true) => {
                missing(id, "cert", self.report);
                None
            }
            (true, true) => self.pair(cert, key),
        };
        let ca = self.value(&raw.ca);
        if let Some(ca) = ca.as_ref().filter(|_| self.touch_files)
            && let Err(fault) = Content::read(ca).and_then(|content| authorities(&content))
        {
            self.report.add(raw.ca.id, Code::AuthorityFile, fault.to_string(), AUTHORITY_HELP);
        }
        EndpointTls { ca, server_name: self.value(&raw.server_name), certificate }
    }

    /// A certificate and its key, which must belong together.
    fn pair(&mut self, cert_at: &At<As<FilePath>>, key_at: &At<As<FilePath>>) -> Option<PairFiles> {
        let (cert, key) = (self.value(cert_at), self.value(key_at));
        let files = PairFiles { cert: cert?, key: key? };
        if !self.touch_files {
            return Some(files);
        }
        let now = i64::try_from(Clock::start().wall().as_secs()).unwrap_or(i64::MAX);
        let found = PairContent::read(&files).and_then(|content| content.pair());
        let fault = found.and_then(|pair| pair.facts.check_time(now, &files.cert)).err();
        if let Some(fault) = fault {
            let of_key = match &fault {
                Fault::NoKey(_) | Fault::BadKey(_) => true,
                Fault::NoCertificate(_) | Fault::NotX509(_) => false,
                // One file may be both.
                _ => files.key != files.cert && fault.path() == Some(files.key.as_path()),
            };
            let (at, code, help) = match &fault {
                Fault::KeyMismatch { .. } => (key_at.id, Code::KeyMismatch, PAIR_HELP),
                _ if fault.is_about_time() => (cert_at.id, Code::NotValidNow, TIME_HELP),
                _ if of_key => (key_at.id, Code::KeyFile, KEY_HELP),
                _ => (cert_at.id, Code::CertificateFile, CERTIFICATE_HELP),
            };
            self.report.add(at, code, fault.to_string(), help);
        }
        self.key_is_private(key_at.id, &files.key);
        Some(files)
    }

    /// A key for everyone is hardly one. A mounted secret is as its mount says.
    fn key_is_private(&mut self, id: NodeId, key: &Path) {
        let mounted = key.parent().is_some_and(|folder| folder.join("..data").exists());
        let open = std::fs::metadata(key).is_ok_and(|key| key.permissions().mode() & 0o004 != 0);
        if open && !mounted {
            let message = format!("everyone on the machine can read `{}`", key.display());
            self.report.add(id, Code::OpenKey, message, "let Serin's user alone read it: mode 600");
        }
    }
}

const CERTIFICATE_HELP: &str =
    "give a PEM file with the certificate first and then its chain; `--no-files` skips the look";
const KEY_HELP: &str =
    "give a PEM file with one RSA, ECDSA or Ed25519 key, without a password, readable for Serin";
const PAIR_HELP: &str = "give the key that the certificate was made for";
const TIME_HELP: &str = "renew it; clients that check will refuse this one";
const AUTHORITY_HELP: &str = "give a PEM file of what is wanted here, readable for Serin's user";
