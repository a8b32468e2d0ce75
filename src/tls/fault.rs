//! Why a file is not what TLS needs.

use std::path::{Path, PathBuf};

/// Why a certificate, a key or an authority cannot be used. Texts name files, never what is
/// in them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Not there, not permitted, not a file.
    #[error("`{}` cannot be read: {why}", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        why: String,
    },
    /// Something else than certificates.
    #[error("`{}` is larger than 1MiB", .0.display())]
    TooLarge(PathBuf),
    /// Damaged, or not PEM.
    #[error("`{}` is not PEM: {why}", path.display())]
    NotPem {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// PEM, but of something else.
    #[error("`{}` holds no certificate", .0.display())]
    NoCertificate(PathBuf),
    /// Not X.509 version 3.
    #[error("`{}` holds something that is not an X.509 certificate", .0.display())]
    NotX509(PathBuf),
    /// No key in it.
    #[error("`{}` holds no private key", .0.display())]
    NoKey(PathBuf),
    /// A key of a kind that is not spoken, or a damaged one.
    #[error("`{}` holds a private key that cannot be used", .0.display())]
    BadKey(PathBuf),
    /// Of another certificate.
    #[error("the key `{}` does not fit the certificate `{}`", key.display(), cert.display())]
    KeyMismatch {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// Its time is over.
    #[error("the certificate `{}` expired on {since}", path.display())]
    Expired {
        /// Which file.
        path: PathBuf,
        /// Since when, RFC 3339.
        since: String,
    },
    /// Its time has not come.
    #[error("the certificate `{}` is not valid before {from}", path.display())]
    NotYet {
        /// Which file.
        path: PathBuf,
        /// From when, RFC 3339.
        from: String,
    },
    /// An authority that no certificate can be checked against.
    #[error("`{}` holds an authority that cannot be used", .0.display())]
    BadAuthority(PathBuf),
    /// Not a list of revoked certificates.
    #[error("`{}` holds no list of revoked certificates that can be used", .0.display())]
    BadCrl(PathBuf),
    /// Several things that do not go together.
    #[error("TLS cannot be set up: {0}")]
    Setup(String),
}

impl Fault {
    /// The file that it is about, if it is one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Unreadable { path, .. }
            | Self::TooLarge(path)
            | Self::NotPem { path, .. }
            | Self::NoCertificate(path)
            | Self::NotX509(path)
            | Self::NoKey(path)
            | Self::BadKey(path)
            | Self::Expired { path, .. }
            | Self::NotYet { path, .. }
            | Self::BadAuthority(path)
            | Self::BadCrl(path)
            | Self::KeyMismatch { key: path, .. } => Some(path),
            Self::Setup(_) => None,
        }
    }

    /// Whether the file is fine, but not at this time.
    pub const fn is_about_time(&self) -> bool {
        matches!(self, Self::Expired { .. } | Self::NotYet { .. })
    }
}
