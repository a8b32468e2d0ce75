//! Certificates made on the spot: authorities, servers, clients; good ones and bad ones.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CustomExtension, DnType,
    ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    NameConstraints, RevokedCertParams, SanType, SerialNumber,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tempfile::TempDir;
use time::{Duration, OffsetDateTime};

/// Who signs certificates.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its own certificate, PEM.
    pub pem: String,
}

/// A certificate that is not made yet.
#[derive(Clone, Debug)]
pub struct Leaf {
    params: CertificateParams,
    /// From and to, from now on.
    valid: (Duration, Duration),
}

/// A certificate with its key.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// PEM.
    pub cert: String,
    /// PEM, PKCS #8.
    pub key: String,
    serial: u64,
}

impl Authority {
    /// One that signs itself.
    pub fn named(name: &str) -> Self {
        Self::make(name, |_| {})
    }

    /// One that may vouch for names at and below `domain` alone.
    pub fn of_domain(domain: &str) -> Self {
        let permitted_subtrees = vec![GeneralSubtree::DnsName(domain.to_owned())];
        let constraints = NameConstraints { permitted_subtrees, excluded_subtrees: Vec::new() };
        Self::make(domain, |params| params.name_constraints = Some(constraints))
    }

    /// One that may vouch for URIs of `host` alone (RFC 5280, section 4.2.1.10).
    pub fn of_uris(host: &str) -> Self {
        const NAME_CONSTRAINTS: [u64; 4] = [2, 5, 29, 30];
        let wrap = |tag: u8, inner: Vec<u8>| [vec![tag, inner.len() as u8], inner].concat();
        let uri = wrap(0x86, host.as_bytes().to_vec());
        let constraints = wrap(0x30, wrap(0xa0, wrap(0x30, uri)));
        let mut extension = CustomExtension::from_oid_content(&NAME_CONSTRAINTS, constraints);
        extension.set_criticality(true);
        Self::make(host, |params| params.custom_extensions.push(extension))
    }

    fn make(name: &str, adapt: impl FnOnce(&mut CertificateParams)) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        adapt(&mut params);
        params.not_before = days_from_now(-365);
        params.not_after = days_from_now(365);
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Signs a certificate with a key of its own.
    pub fn issue(&self, leaf: &Leaf) -> Certificate {
        let key = KeyPair::generate().expect("a key");
        let mut params = leaf.params.clone();
        let serial = fastrand::u64(1..1 << 62);
        params.serial_number = Some(SerialNumber::from(serial));
        let now = OffsetDateTime::now_utc();
        (params.not_before, params.not_after) = (now + leaf.valid.0, now + leaf.valid.1);
        params.use_authority_key_identifier_extension = true;
        let cert = params.signed_by(&key, &self.issuer).expect("a certificate");
        Certificate { cert: cert.pem(), key: key.serialize_pem(), serial }
    }

    /// A list of certificates that it has revoked, PEM.
    pub fn revokes(&self, revoked: &[&Certificate]) -> String {
        let revoked = revoked.iter().map(|one| RevokedCertParams {
            serial_number: SerialNumber::from(one.serial),
            revocation_time: days_from_now(-1),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: days_from_now(-1),
            next_update: days_from_now(30),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).expect("a list").pem().expect("PEM")
    }
}

fn days_from_now(days: i64) -> OffsetDateTime {
    OffsetDateTime::now_utc() + Duration::days(days)
}

impl Leaf {
    fn new(names: &[&str], subject: &str, usage: ExtendedKeyUsagePurpose) -> Self {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.distinguished_name.push(DnType::CommonName, subject);
        params.extended_key_usages = vec![usage];
        Self { params, valid: (Duration::days(-1), Duration::days(90)) }
    }

    /// A server's, for these DNS names or IP addresses.
    pub fn server(names: &[&str]) -> Self {
        Self::new(names, names[0], ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// A client's, with the subject `O=Serin,CN=…`.
    pub fn client(name: &str) -> Self {
        let mut leaf = Self::new(&[], name, ExtendedKeyUsagePurpose::ClientAuth);
        leaf.params.distinguished_name.push(DnType::OrganizationName, "Serin");
        leaf
    }

    /// With one more URI among its names.
    pub fn uri(mut self, uri: &str) -> Self {
        let uri = uri.try_into().expect("ASCII");
        self.params.subject_alt_names.push(SanType::URI(uri));
        self
    }

    /// Valid from and to, in days from now.
    pub fn days(mut self, from: i64, to: i64) -> Self {
        self.valid = (Duration::days(from), Duration::days(to));
        self
    }

    /// Not valid before so many seconds from now.
    pub fn in_seconds(mut self, seconds: i64) -> Self {
        self.valid.0 = Duration::seconds(seconds);
        self
    }

    /// Not valid any more.
    pub fn expired(self) -> Self {
        self.days(-30, -1)
    }
}

impl Certificate {
    /// The certificate alone, DER.
    pub fn der(&self) -> Vec<u8> {
        let der = CertificateDer::from_pem_slice(self.cert.as_bytes());
        der.expect("a certificate").to_vec()
    }

    /// Writes `NAME.crt` and `NAME.key` into `folder`.
    pub fn put(&self, folder: &mut SecretFolder, name: &str) {
        let (cert, key) = (format!("{name}.crt"), format!("{name}.key"));
        folder.put(&[(&cert, &self.cert), (&key, &self.key)]);
    }
}

/// A folder of certificates and keys: plain, or as a kubelet mounts a secret.
#[derive(Debug)]
pub struct SecretFolder {
    folder: TempDir,
    files: Vec<(String, String)>,
    mounts: Option<u32>,
}

impl SecretFolder {
    /// Files that are replaced one by one.
    pub fn plain() -> Self {
        Self { folder: folder(), files: Vec::new(), mounts: None }
    }

    /// Files that are replaced all at once, by the `..data` link.
    pub fn mounted() -> Self {
        Self { folder: folder(), files: Vec::new(), mounts: Some(0) }
    }

    /// Where `name` is.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes or replaces files.
    pub fn put(&mut self, files: &[(&str, &str)]) {
        for (name, text) in files {
            self.files.retain(|(other, _)| other != name);
            self.files.push(((*name).to_owned(), (*text).to_owned()));
        }
        match self.mounts {
            Some(before) => self.swap(before),
            None => {
                for (name, text) in files {
                    let beside = self.path(&format!("{name}.new"));
                    write_secret(&beside, text);
                    fs::rename(&beside, self.path(name)).expect("a new name");
                }
            }
        }
    }

    fn swap(&mut self, before: u32) {
        let name = format!("..2026_11_21_10_00_00.{}", before + 1);
        fs::create_dir(self.path(&name)).expect("a folder");
        for (file, text) in &self.files {
            write_secret(&self.path(&name).join(file), text);
            let link = self.path(file);
            if !link.is_symlink() {
                symlink(format!("..data/{file}"), link).expect("a link");
            }
        }
        symlink(&name, self.path("..data_tmp")).expect("a link");
        fs::rename(self.path("..data_tmp"), self.path("..data")).expect("a new name");
        // The first time there is none.
        let _ = fs::remove_dir_all(self.path(&format!("..2026_11_21_10_00_00.{before}")));
        self.mounts = Some(before + 1);
    }
}

fn folder() -> TempDir {
    tempfile::Builder::new().prefix("serin-tls-").tempdir().expect("a folder")
}

/// For its owner alone.
fn write_secret(path: &Path, text: &str) {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = fs::OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(path);
    file.expect("a file").write_all(text.as_bytes()).expect("a file that takes text");
}
