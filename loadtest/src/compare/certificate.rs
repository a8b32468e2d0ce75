//! A certificate for the proxies, made for one comparison.
//!
//! Never leaves the temporary folder.

use std::path::Path;

/// Writes `cert.pem`, `key.pem` and, as HAProxy wants it, `both.pem`. ECDSA P-256.
pub(super) fn write(folder: &Path) -> anyhow::Result<()> {
    let made =
        rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()])?;
    let (cert, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    std::fs::write(folder.join("cert.pem"), &cert)?;
    std::fs::write(folder.join("key.pem"), &key)?;
    std::fs::write(folder.join("both.pem"), [cert, key].concat())?;
    Ok(())
}
