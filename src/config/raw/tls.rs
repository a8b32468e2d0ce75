//! TLS, PROXY headers and clients' certificates, as written.

use schemars::{JsonSchema, Schema, SchemaGenerator};

use crate::config::quantity::{
    CidrText, ClientAuthWord, FilePath, Flag, Pattern, ServerNameText, SpiffeId, Text,
    TlsVersionWord,
};
use crate::config::read::{As, At, Form, Keys, ObjectSchema, Read, maps};
use crate::config::tree::{Node, Report};

/// Whether, or a map that says from where.
pub type ProxyProtocolForm = Form<As<Flag>, ProxyProtocol>;

maps! {
    /// TLS to a backend's endpoints. Its files are read again when they change.
    BackendTls later ["spiffe"] {
        /// Authorities of the endpoints' certificates, PEM. Default: those of the machine.
        may ca: As<FilePath>,
        /// What their certificates must be for, and are asked for. Default: the name
        /// in `dns`, else their IP address.
        may server_name: As<ServerNameText>,
        /// A certificate to show, PEM, with its chain; together with `key`.
        may cert: As<FilePath>,
        /// Its private key, PEM.
        may key: As<FilePath>,
    }

    /// Who may send a PROXY protocol header; connections from elsewhere are closed.
    ProxyProtocol later [] {
        /// Ranges of addresses: `10.0.0.0/8`.
        must from: Vec<At<As<CidrText>>>,
    }

    /// TLS of a listener. Its files are read again when they change.
    ListenerTls later [] {
        /// Chosen by the name that a client asks for; the first where none fits. At most 64.
        must certificates: Vec<At<CertificateFiles>>,
        /// Authorities of the clients' certificates, PEM. Default: clients are asked for none.
        may client_ca: As<FilePath>,
        /// What these authorities have revoked, PEM. Default: nothing is known of.
        may client_crl: As<FilePath>,
        /// Whether a client without a certificate is refused: `required`, or `optional`.
        may client_auth: As<ClientAuthWord> = "required",
        /// The oldest version of TLS that is spoken: `1.2` or `1.3`.
        may min_version: As<TlsVersionWord> = "1.2",
    }

    /// A certificate and its key.
    CertificateFiles later [] {
        /// PEM: the certificate, then what leads to its authority.
        must cert: As<FilePath>,
        /// PEM: the private key.
        must key: As<FilePath>,
    }

    /// A condition on the client's verified certificate: exactly one of these keys.
    ClientMatch later [] {
        /// Exactly this SPIFFE id.
        may spiffe: As<SpiffeId>,
        /// Exactly this subject, as in RFC 4514: `O=Example,CN=batch`.
        may subject: As<Text>,
        /// Searched for anywhere in the SPIFFE id, or in the subject where there is none.
        may regex: As<Pattern>,
        /// Whether the client has shown a certificate.
        may present: As<Flag>,
    }
}
