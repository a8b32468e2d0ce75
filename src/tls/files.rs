//! Reads PEM files: certificates with their keys, authorities, lists of what was revoked.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use xxhash_rust::xxh3::Xxh3;

use crate::tls::certificate::Facts;
use crate::tls::fault::Fault;
use crate::tls::{ClientAuth, PairFiles, provider};

/// Bytes of a file: a bundle of all public authorities has a quarter of it.
pub const FILE_BYTES_MAX: u64 = 1 << 20;

/// A file's bytes. Not `Debug`: they may be a key.
pub struct Content {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl Content {
    /// Reads a file of at most [`FILE_BYTES_MAX`].
    pub fn read(path: &Path) -> Result<Self, Fault> {
        let unreadable = |error: std::io::Error| Fault::Unreadable {
            path: path.to_owned(),
            why: error.to_string(),
        };
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(unreadable)?;
        file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(Fault::TooLarge(path.to_owned()));
        }
        Ok(Self { path: path.to_owned(), bytes })
    }

    fn not_pem(&self, error: &PemError) -> Fault {
        // Its other texts may repeat what stands in the file.
        let why = match error {
            PemError::MissingSectionEnd { .. } => "a section has no end",
            PemError::IllegalSectionStart { .. } => "a section has no proper start",
            PemError::Base64Decode(_) => "a section is not base64",
            _ => "it cannot be read as such",
        };
        Fault::NotPem { path: self.path.clone(), why: why.to_owned() }
    }

    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, Fault> {
        let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&self.bytes).collect();
        let all = all.map_err(|error| self.not_pem(&error))?;
        if all.is_empty() {
            return Err(Fault::NoCertificate(self.path.clone()));
        }
        Ok(all)
    }

    fn key(&self) -> Result<PrivateKeyDer<'static>, Fault> {
        PrivateKeyDer::from_pem_slice(&self.bytes).map_err(|error| match error {
            PemError::NoItemsFound => Fault::NoKey(self.path.clone()),
            other => self.not_pem(&other),
        })
    }

    fn crls(&self) -> Result<Vec<CertificateRevocationListDer<'static>>, Fault> {
        let all: Result<Vec<_>, _> =
            CertificateRevocationListDer::pem_slice_iter(&self.bytes).collect();
        let all = all.map_err(|error| self.not_pem(&error))?;
        if all.is_empty() { Err(Fault::BadCrl(self.path.clone())) } else { Ok(all) }
    }
}

/// Of several files together: equal hashes are equal files.
pub fn hash<'c>(contents: impl IntoIterator<Item = &'c Content>) -> u128 {
    let mut hash = Xxh3::new();
    for content in contents {
        hash.update(&(content.bytes.len() as u64).to_le_bytes());
        hash.update(&content.bytes);
    }
    hash.digest128()
}

/// A certificate with its key, ready to be shown.
#[derive(Debug)]
pub struct Pair {
    /// For rustls.
    pub key: Arc<CertifiedKey>,
    /// Of the certificate itself.
    pub facts: Facts,
}

/// The bytes of a certificate and its key.
pub struct PairContent {
    files: PairFiles,
    cert: Content,
    key: Content,
}

impl PairContent {
    /// Reads both files.
    pub fn read(files: &PairFiles) -> Result<Self, Fault> {
        let (cert, key) = (Content::read(&files.cert)?, Content::read(&files.key)?);
        Ok(Self { files: files.clone(), cert, key })
    }

    /// Equal hashes are equal files.
    pub fn hash(&self) -> u128 {
        hash([&self.cert, &self.key])
    }

    /// The pair, if the two belong together; whether it is valid now is another question.
    pub fn pair(&self) -> Result<Pair, Fault> {
        let PairFiles { cert, key } = &self.files;
        let chain = self.cert.certificates()?;
        let facts = chain.iter().map(|one| Facts::of(one));
        let facts = facts.collect::<Option<Vec<_>>>().and_then(|all| all.into_iter().next());
        let facts = facts.ok_or_else(|| Fault::NotX509(cert.clone()))?;
        let private = self.key.key()?;
        let made = CertifiedKey::from_der(chain, private, &provider());
        let made = made.map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                Fault::KeyMismatch { cert: cert.clone(), key: key.clone() }
            }
            rustls::Error::InvalidCertificate(_) => Fault::NotX509(cert.clone()),
            _ => Fault::BadKey(key.clone()),
        })?;
        Ok(Pair { key: Arc::new(made), facts })
    }
}

/// The bytes of authorities, and of what they have revoked.
pub struct AuthorityContent {
    ca: Content,
    crl: Option<Content>,
}

impl AuthorityContent {
    /// Reads the files.
    pub fn read(files: &ClientAuth) -> Result<Self, Fault> {
        let crl = files.crl.as_deref().map(Content::read).transpose()?;
        Ok(Self { ca: Content::read(&files.ca)?, crl })
    }

    /// Equal hashes are equal files.
    pub fn hash(&self) -> u128 {
        hash([&self.ca].into_iter().chain(&self.crl))
    }

    /// Every certificate of the file.
    pub fn authorities(&self) -> Result<RootCertStore, Fault> {
        authorities(&self.ca)
    }

    /// What was revoked.
    pub fn revoked(&self) -> Result<Vec<CertificateRevocationListDer<'static>>, Fault> {
        self.crl.as_ref().map_or_else(|| Ok(Vec::new()), Content::crls)
    }

    /// The file of [`Self::revoked`], or of the authorities.
    pub(super) fn crl_path(&self) -> PathBuf {
        self.crl.as_ref().unwrap_or(&self.ca).path.clone()
    }
}

/// Every certificate of `content`, each of them usable.
pub fn authorities(content: &Content) -> Result<RootCertStore, Fault> {
    let mut roots = RootCertStore::empty();
    for certificate in content.certificates()? {
        let added = roots.add(certificate);
        added.map_err(|_| Fault::BadAuthority(content.path.clone()))?;
    }
    Ok(roots)
}
