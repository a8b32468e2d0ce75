//! Addresses, endpoints and paths of files.
//!
//! Never asks a resolver or the file system.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use http::Uri;
use schemars::{Schema, json_schema};

use crate::config::defect::Code;
use crate::config::quantity::{Fault, Quantity, text_schema};
use crate::config::tree::Scalar;
use crate::config::{DnsName, ServiceName};
use crate::traffic::source::{Cidr, CidrError};

/// An IP address and a port to listen on; port 0 takes a free one.
pub struct ListenAddress;

impl Quantity for ListenAddress {
    type Value = SocketAddr;

    fn parse(scalar: &Scalar) -> Result<SocketAddr, Fault> {
        scalar.text.parse().map_err(|_| {
            let help = match scalar.text.rsplit_once(':') {
                Some(("" | "*", port)) if port.parse::<u16>().is_ok() => {
                    format!("write `0.0.0.0:{port}` for every address")
                }
                Some(("localhost", port)) if port.parse::<u16>().is_ok() => {
                    format!("write `127.0.0.1:{port}`")
                }
                _ => without_port(&scalar.text, "8080"),
            };
            Fault::of(Code::Address, scalar, "is not an IP address with a port", help)
        })
    }

    fn schema() -> Schema {
        text_schema(ADDRESS_PATTERN, "127.0.0.1:8080")
    }
}

const ADDRESS_PATTERN: &str = r"^([0-9.]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}$";

/// A range of IP addresses.
pub struct CidrText;

impl Quantity for CidrText {
    type Value = Cidr;

    fn parse(scalar: &Scalar) -> Result<Cidr, Fault> {
        scalar.text.parse().map_err(|error| {
            let help = match &error {
                CidrError::NotFirst(range) => format!("write `{range}`"),
                CidrError::Address | CidrError::Length(_) => {
                    "write a range like `10.0.0.0/8`, or one address".to_owned()
                }
            };
            Fault::of(Code::Address, scalar, error.to_string(), help)
        })
    }

    fn schema() -> Schema {
        text_schema("^[0-9A-Fa-f:.]+(/[0-9]{1,3})?$", "10.0.0.0/8")
    }
}

/// The IP address and the port of one model server.
pub struct Endpoint;

impl Quantity for Endpoint {
    type Value = SocketAddr;

    fn parse(scalar: &Scalar) -> Result<SocketAddr, Fault> {
        if let Ok(address) = scalar.text.parse::<SocketAddr>() {
            return match (address.port(), address.ip().is_unspecified()) {
                (0, _) => {
                    let help = "write the port that the model server listens on";
                    Err(Fault::of(Code::Address, scalar, "has port 0", help))
                }
                (_, true) => {
                    let help = "write `127.0.0.1` for this machine";
                    Err(Fault::of(Code::Address, scalar, "is no address to connect to", help))
                }
                _ => Ok(address),
            };
        }
        let host = scalar.text.rsplit_once(':').map_or(&*scalar.text, |(host, _)| host);
        let letters = host.bytes().any(|b| b.is_ascii_alphabetic());
        if scalar.text.contains("://") {
            let help = "write address and port alone, as in `10.0.0.7:9000`";
            return Err(Fault::of(Code::Address, scalar, "is a URL, not an endpoint", help));
        }
        if letters && host.parse::<IpAddr>().is_err() && !host.starts_with('[') {
            let help = "write IP addresses, or `dns: NAME:PORT` instead of `endpoints`";
            return Err(Fault::of(Code::Address, scalar, "is a hostname, not an IP address", help));
        }
        let help = without_port(&scalar.text, "9000");
        Err(Fault::of(Code::Address, scalar, "is not an IP address with a port", help))
    }

    fn schema() -> Schema {
        text_schema(ADDRESS_PATTERN, "10.0.0.7:9000")
    }
}

/// A hostname and the port of the endpoints that it leads to.
pub struct DnsTarget;

impl Quantity for DnsTarget {
    type Value = DnsName;

    fn parse(scalar: &Scalar) -> Result<DnsName, Fault> {
        let fault = |what: &str, help: &str| Fault::of(Code::Address, scalar, what, help);
        let help = "write a name and a port, as in `embeddings.models.svc.cluster.local:8080`";
        let Some((host, port)) = scalar.text.rsplit_once(':') else {
            return Err(fault("has no port", help));
        };
        if host.parse::<IpAddr>().is_ok() || host.starts_with('[') {
            return Err(fault("is an address, not a name", "write it under `endpoints`"));
        }
        let is_label = |label: &str| {
            let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
            (1..=63).contains(&label.len()) && label.bytes().all(inner)
        };
        let name = host.strip_suffix('.').unwrap_or(host);
        if name.len() > 253 || !name.split('.').all(is_label) {
            return Err(fault("is not a name of DNS with a port", help));
        }
        match port.parse() {
            Ok(port) if port > 0 => Ok(DnsName { host: host.to_owned(), port }),
            _ => Err(fault("has no port from 1 to 65535", help)),
        }
    }

    fn schema() -> Schema {
        text_schema("^[A-Za-z0-9._-]+:[0-9]{1,5}$", "embeddings.models.svc.cluster.local:8080")
    }
}

/// One port of a service of Kubernetes.
pub struct ServicePort;

impl Quantity for ServicePort {
    type Value = ServiceName;

    fn parse(scalar: &Scalar) -> Result<ServiceName, Fault> {
        let help = "write `namespace/name:port`, as in `models/sentiment-v1:8080`";
        let fault = || Fault::of(Code::Address, scalar, "is not a port of a service", help);
        let (namespace, rest) = scalar.text.split_once('/').ok_or_else(fault)?;
        let (name, port) = rest.split_once(':').ok_or_else(fault)?;
        let is_port = match port.parse::<u16>() {
            Ok(number) => number > 0,
            Err(_) => is_label(port) && port.bytes().any(|b| b.is_ascii_alphabetic()),
        };
        if !is_label(namespace) || !is_label(name) || !is_port {
            return Err(fault());
        }
        let [namespace, name, port] = [namespace, name, port].map(ToOwned::to_owned);
        Ok(ServiceName { namespace, name, port })
    }

    fn schema() -> Schema {
        text_schema("^[a-z0-9-]+/[a-z0-9-]+:[a-z0-9-]+$", "models/sentiment-v1:8080")
    }
}

/// A name as Kubernetes has them (RFC 1123): small letters, digits, dashes inside.
fn is_label(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let ends = [text.as_bytes().first(), text.as_bytes().last()];
    (1..=63).contains(&text.len())
        && text.bytes().all(fits)
        && ends.iter().all(|end| end.is_some_and(|b| *b != b'-'))
}

/// A name as Kubernetes has them.
pub struct KubernetesName;

impl Quantity for KubernetesName {
    type Value = String;

    fn parse(scalar: &Scalar) -> Result<String, Fault> {
        if is_label(&scalar.text) {
            return Ok(scalar.text.clone());
        }
        let help = "write 1 to 63 small letters, digits and dashes, none at either end";
        Err(Fault::of(Code::Name, scalar, "is not a name of Kubernetes", help))
    }

    fn schema() -> Schema {
        text_schema("^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", "gateway")
    }
}

/// Where the Kubernetes API is.
pub struct ServerUrl;

impl Quantity for ServerUrl {
    type Value = Uri;

    fn parse(scalar: &Scalar) -> Result<Uri, Fault> {
        let help = "write `https://host:port`, as `kubectl cluster-info` shows it";
        let fault = || Fault::of(Code::Address, scalar, "is not the URL of a server", help);
        let uri = scalar.text.parse::<Uri>().map_err(|_| fault())?;
        let is_bare = matches!(uri.path(), "" | "/") && uri.query().is_none();
        match uri.scheme_str() {
            Some("http" | "https") if uri.host().is_some() && is_bare => Ok(uri),
            _ => Err(fault()),
        }
    }

    fn schema() -> Schema {
        text_schema("^https?://[^/]+/?$", "https://10.96.0.1:443")
    }
}

/// Help for an address; the commonest slip is a port left out.
fn without_port(text: &str, port: &str) -> String {
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) => format!("add the port: `{ip}:{port}`"),
        Ok(IpAddr::V6(ip)) => format!("add brackets and the port: `\"[{ip}]:{port}\"`"),
        Err(_) => format!("write it like `127.0.0.1:{port}` or `\"[::1]:{port}\"`"),
    }
}

/// A file's path; a relative one is from the working directory.
pub struct FilePath;

impl Quantity for FilePath {
    type Value = PathBuf;

    fn parse(scalar: &Scalar) -> Result<PathBuf, Fault> {
        if scalar.text.is_empty() || scalar.text.contains('\0') {
            let help = "write the path of a file, as in `./serin-state.json`";
            return Err(Fault::of(Code::Path, scalar, "is not the path of a file", help));
        }
        if scalar.text.ends_with('/') {
            let help = format!("write the file too, as in `{}state.json`", scalar.text);
            return Err(Fault::of(Code::Path, scalar, "is a folder, not a file", help));
        }
        Ok(PathBuf::from(&scalar.text))
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "minLength": 1 })
    }
}

/// Where a message is posted. It may hold a token, so it is never repeated.
pub struct WebhookUrl;

impl Quantity for WebhookUrl {
    type Value = Uri;

    fn parse(scalar: &Scalar) -> Result<Uri, Fault> {
        let help = "write `https://host/path` or `http://host:port/path`";
        let uri = scalar.text.parse::<Uri>().ok().filter(|uri| uri.host().is_some());
        let uri = uri.ok_or_else(|| Fault::silent(Code::Address, "this is not a URL", help))?;
        match uri.scheme_str() {
            Some("http" | "https") => Ok(uri),
            _ => Err(Fault::silent(Code::Address, "this is not an http URL", help)),
        }
    }

    fn schema() -> Schema {
        text_schema("^https?://[^/]+", "http://127.0.0.1:9300/hooks/serin")
    }
}

/// Where spans are posted, without the path of OTLP. It is printed, so it may hold no secret.
pub struct CollectorUrl;

impl Quantity for CollectorUrl {
    type Value = Uri;

    fn parse(scalar: &Scalar) -> Result<Uri, Fault> {
        let uri = WebhookUrl::parse(scalar)?;
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        if authority.contains('@') || uri.query().is_some() {
            let help = "write `http://host:4318`, without a password and without a query";
            return Err(Fault::silent(Code::Address, "this is no collector's URL", help));
        }
        Ok(uri)
    }

    fn schema() -> Schema {
        text_schema("^https?://[^/@?]+(/[^?]*)?$", "http://127.0.0.1:4318")
    }
}
