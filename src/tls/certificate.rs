//! What stands in a certificate: names, times, and who its owner is.
//!
//! Never verifies one: that is rustls's, and what is read of a client's is read after it.

use std::fmt::Write;

use http::HeaderValue;
use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
use x509_parser::asn1_rs::Tag;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::oid_registry::Oid;
use x509_parser::prelude::FromDer;
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

use crate::tls::fault::Fault;
use crate::traffic::client::Client;

/// Bytes of a SPIFFE id (SPIFFE-ID, section 2.3).
const SPIFFE_BYTES_MAX: usize = 2048;

/// What stands in a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// DNS names, in lower case; `*.` at the start of one stands for one label.
    pub names: Vec<String>,
    /// First second of its validity, since the Unix epoch.
    pub not_before: i64,
    /// Last second of its validity, since the Unix epoch.
    pub not_after: i64,
    /// Whose it is.
    pub owner: Client,
}

impl Facts {
    /// Of the certificate `der`; `None` if it is none.
    pub fn of(der: &[u8]) -> Option<Self> {
        let (rest, certificate) = X509Certificate::from_der(der).ok()?;
        if !rest.is_empty() {
            return None;
        }
        let names = certificate.subject_alternative_name().ok()?;
        let names = names.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
        let dns = names.iter().filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
            _ => None,
        });
        Some(Self {
            names: dns.collect(),
            not_before: certificate.validity().not_before.timestamp(),
            not_after: certificate.validity().not_after.timestamp(),
            owner: Client { spiffe: spiffe(names), subject: rfc4514(certificate.subject()) },
        })
    }

    /// Why it is not valid at `now`, seconds since the Unix epoch; `path` is for the text.
    pub fn check_time(&self, now: i64, path: &std::path::Path) -> Result<(), Fault> {
        let path = path.to_owned();
        if now > self.not_after {
            return Err(Fault::Expired { path, since: rfc3339(self.not_after) });
        }
        if now < self.not_before {
            return Err(Fault::NotYet { path, from: rfc3339(self.not_before) });
        }
        Ok(())
    }
}

/// A client's verified certificate, for matches and for the endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// Who it is.
    pub client: Client,
    /// The same as a field of a request: `Hash=…;Subject="…";URI=…;DNS=…`, after Envoy's
    /// `x-forwarded-client-cert`.
    pub field: HeaderValue,
    /// Last second of its validity, since the Unix epoch.
    pub not_after: i64,
}

impl ClientCertificate {
    /// Of the certificate `der`; `None` if it is none.
    pub fn of(der: &[u8]) -> Option<Self> {
        let Facts { names, not_after, owner, .. } = Facts::of(der)?;
        let mut field = String::from("Hash=");
        for byte in sha256(der)?.as_ref() {
            // Writing to a string does not fail.
            let _ = write!(field, "{byte:02x}");
        }
        let _ = write!(field, ";Subject={}", quoted(&owner.subject));
        if let Some(id) = &owner.spiffe {
            let _ = write!(field, ";URI={}", value(id));
        }
        for name in &names {
            let _ = write!(field, ";DNS={}", value(name));
        }
        let field = HeaderValue::try_from(field).ok()?;
        Some(Self { client: owner, field, not_after })
    }
}

fn sha256(bytes: &[u8]) -> Option<rustls::crypto::hash::Output> {
    let suite = TLS13_AES_128_GCM_SHA256.tls13()?;
    Some(suite.common.hash_provider.hash(bytes))
}

/// As Envoy writes a value: in quotes where it has what separates values.
fn value(text: &str) -> String {
    let plain =
        |b: u8| b.is_ascii_graphic() && !matches!(b, b',' | b';' | b'=' | b'"' | b'\\' | b'%');
    if !text.is_empty() && text.bytes().all(plain) { text.to_owned() } else { quoted(text) }
}

/// In quotes, on one line, in ASCII, whatever stands in the certificate.
fn quoted(text: &str) -> String {
    let mut out = String::from('"');
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => out.extend(['\\', char::from(byte)]),
            b' '..=b'~' if byte != b'%' => out.push(char::from(byte)),
            _ => drop(write!(out, "%{byte:02X}")),
        }
    }
    out.push('"');
    out
}

/// A certificate with more than one URI is no SPIFFE one (X509-SVID, section 2).
fn spiffe(names: &[GeneralName<'_>]) -> Option<String> {
    /// The choice of a URI among the kinds of names (RFC 5280, section 4.2.1.6).
    const URI: Tag = Tag(6);
    let mut uris = names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(Some(*uri)),
        // It is no text, but one more.
        GeneralName::Invalid(URI, _) => Some(None),
        _ => None,
    });
    let uri = uris.next().filter(|_| uris.next().is_none())??;
    let known = uri.strip_prefix("spiffe://").is_some_and(|rest| !rest.is_empty());
    let proper = uri.len() <= SPIFFE_BYTES_MAX && uri.bytes().all(|b| b.is_ascii_graphic());
    (known && proper).then(|| uri.to_owned())
}

/// A name as RFC 4514 writes it: the last part first. What is not text, or of a kind without
/// a short name, is `OID=#` and its bytes.
fn rfc4514(name: &X509Name<'_>) -> String {
    let parts = name.iter_rdn().map(|rdn| {
        let attributes: Vec<_> = rdn.iter().map(attribute).collect();
        attributes.join("+")
    });
    let mut parts: Vec<_> = parts.collect();
    parts.reverse();
    parts.join(",")
}

fn attribute(one: &AttributeTypeAndValue<'_>) -> String {
    match (short_name(one.attr_type()), one.as_str()) {
        (Some(name), Ok(text)) => format!("{name}={}", escaped(text)),
        (name, _) => {
            let kind = name.map_or_else(|| one.attr_type().to_id_string(), str::to_owned);
            let bytes = one.as_slice().iter();
            bytes.fold(format!("{kind}=#"), |mut text, byte| {
                let _ = write!(text, "{byte:02x}");
                text
            })
        }
    }
}

/// The short names of RFC 4514, section 3, and the one of mail addresses.
fn short_name(oid: &Oid<'_>) -> Option<&'static str> {
    const NAMES: [(&str, &str); 10] = [
        ("2.5.4.3", "CN"),
        ("2.5.4.6", "C"),
        ("2.5.4.7", "L"),
        ("2.5.4.8", "ST"),
        ("2.5.4.9", "STREET"),
        ("2.5.4.10", "O"),
        ("2.5.4.11", "OU"),
        ("0.9.2342.19200300.100.1.25", "DC"),
        ("0.9.2342.19200300.100.1.1", "UID"),
        ("1.2.840.113549.1.9.1", "emailAddress"),
    ];
    let oid = oid.to_id_string();
    NAMES.iter().find(|(id, _)| *id == oid).map(|(_, name)| *name)
}

/// RFC 4514, section 2.4. Control characters too: a subject is one line.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    let last = text.chars().count().saturating_sub(1);
    for (index, c) in text.chars().enumerate() {
        let edge = (c == ' ' && (index == 0 || index == last)) || (c == '#' && index == 0);
        if edge || matches!(c, '"' | '+' | ',' | ';' | '<' | '>' | '\\') {
            out.extend(['\\', c]);
        } else if c.is_control() {
            let mut bytes = [0; 4];
            for byte in c.encode_utf8(&mut bytes).bytes() {
                let _ = write!(out, "\\{byte:02X}");
            }
        } else {
            out.push(c);
        }
    }
    out
}

/// For people: UTC with seconds.
fn rfc3339(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).unwrap_or_default().to_string()
}

#[cfg(test)]
mod tests;
