//! What TLS asks of clients.

use rustls::pki_types::ServerName;
use schemars::{Schema, json_schema};

use crate::config::defect::Code;
use crate::config::quantity::word::choose;
use crate::config::quantity::{Fault, Quantity, text_schema};
use crate::config::tree::Scalar;
use crate::tls::Version;

/// Whether a client without a certificate is refused.
pub struct ClientAuthWord;

impl Quantity for ClientAuthWord {
    type Value = bool;

    fn parse(scalar: &Scalar) -> Result<bool, Fault> {
        choose(scalar, &[("required", true), ("optional", false)], &[])
    }

    fn schema() -> Schema {
        json_schema!({ "enum": ["required", "optional"] })
    }
}

/// A version of TLS.
pub struct TlsVersionWord;

impl Quantity for TlsVersionWord {
    type Value = Version;

    fn parse(scalar: &Scalar) -> Result<Version, Fault> {
        let all = [Version::Tls12, Version::Tls13];
        choose(scalar, &all.map(|one| (one.as_str(), one)), &[])
    }

    fn schema() -> Schema {
        json_schema!({ "enum": ["1.2", "1.3", 1.2, 1.3] })
    }
}

/// A DNS name or an IP address.
pub struct ServerNameText;

impl Quantity for ServerNameText {
    type Value = ServerName<'static>;

    fn parse(scalar: &Scalar) -> Result<ServerName<'static>, Fault> {
        ServerName::try_from(scalar.text.clone()).map_err(|_| {
            let help = "write a name like `models.example.com`, without port, or an IP address";
            Fault::of(Code::Hostname, scalar, "is not the name of a server", help)
        })
    }

    fn schema() -> Schema {
        text_schema("^[A-Za-z0-9_.:-]+$", "models.example.com")
    }
}

/// `spiffe://trust-domain/path`.
pub struct SpiffeId;

impl Quantity for SpiffeId {
    type Value = String;

    fn parse(scalar: &Scalar) -> Result<String, Fault> {
        let text = scalar.text.as_str();
        let rest = text.strip_prefix("spiffe://").unwrap_or_default();
        let domain = rest.split('/').next().unwrap_or_default();
        if !domain.is_empty() && text.len() <= 2048 && text.bytes().all(|b| b.is_ascii_graphic()) {
            return Ok(text.to_owned());
        }
        let help = "write `spiffe://trust-domain/path`";
        Err(Fault::of(Code::Name, scalar, "is not a SPIFFE id", help))
    }

    fn schema() -> Schema {
        text_schema("^spiffe://[^/]+", "spiffe://example.org/ns/models/sa/batch")
    }
}
