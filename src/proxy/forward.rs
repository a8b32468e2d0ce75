//! The head of a request, from what a client sent to what an endpoint gets.
//!
//! Never forwards a head whose target is in doubt.

use std::net::IpAddr;

use http::uri::{PathAndQuery, Uri};
use http::{HeaderValue, Method, StatusCode, Version};

use crate::proxy::error::Error;
use crate::tls::certificate::ClientCertificate;
use crate::traffic::client::Client;
use crate::traffic::fields::{Fields, Known};
use crate::traffic::headers::{
    FORGED, is_host, keeps_request_id, keeps_traceparent, request_id, strip_hop_by_hop, traceparent,
};
use crate::traffic::matching::{ModelView, RequestView, resolve_path};
use crate::traffic::message::{RequestHead, Upgrade};

/// What a connection tells of each of its requests.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The client's address, as it stands in `x-forwarded-for`.
    pub address: HeaderValue,
    /// `http` or `https`.
    pub proto: HeaderValue,
    /// Where it connects from, or whom a PROXY header has named.
    pub source: IpAddr,
    /// Its certificate, if it has shown one.
    pub certificate: Option<Box<ClientCertificate>>,
    /// What was agreed on in a TLS handshake; `None` is whatever its first bytes say.
    pub spoken: Option<Spoken>,
}

/// A version of HTTP that was agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoken {
    /// `http/1.1`
    Http1,
    /// `h2`
    Http2,
}

impl Peer {
    /// A client on a cleartext connection.
    pub fn cleartext(source: IpAddr) -> Self {
        Self::of(source, "http", None, None)
    }

    /// A client on a TLS connection.
    pub fn encrypted(
        source: IpAddr,
        certificate: Option<Box<ClientCertificate>>,
        spoken: Option<Spoken>,
    ) -> Self {
        Self::of(source, "https", certificate, spoken)
    }

    /// Who it is, by a certificate.
    pub fn client(&self) -> Option<&Client> {
        self.certificate.as_ref().map(|certificate| &certificate.client)
    }

    fn of(
        source: IpAddr,
        proto: &'static str,
        certificate: Option<Box<ClientCertificate>>,
        spoken: Option<Spoken>,
    ) -> Self {
        // An IPv4 client of a socket for both families is an IPv4 client.
        let text = source.to_canonical().to_string();
        let unknown = HeaderValue::from_static("unknown");
        let address = HeaderValue::try_from(text).unwrap_or(unknown);
        let proto = HeaderValue::from_static(proto);
        Self { address, proto, source, certificate, spoken }
    }
}

/// Refuses what cannot be routed, and makes the rest addressable: the target in origin
/// form with its dot segments resolved, the host in a `host` field.
pub fn read_target(head: &mut RequestHead) -> Result<(), Error> {
    if head.method == Method::CONNECT {
        return Err(Error::Connect);
    }
    // The target's authority outranks the field (RFC 9112, section 3.2.2).
    if let Some(authority) = head.uri.authority() {
        head.fields.insert(Known::Host, authority.as_str());
    }
    // In HTTP/1.1 it was checked where the head was read.
    if head.version == Version::HTTP_2 {
        check_host(&head.fields)?;
    }
    count_forwards(head)?;
    let target = head.uri.path_and_query().cloned();
    let target = target.unwrap_or_else(|| PathAndQuery::from_static("/"));
    let resolved = resolve_path(target.path())
        .map_err(|_| Error::BadRequest("the path climbs above the root"))?;
    // An authority may be followed by a query alone, a target may not begin with one.
    let whole = !target.as_str().starts_with('?');
    let target = if whole && resolved == target.path() {
        target
    } else {
        let text = match target.query() {
            Some(query) => format!("{resolved}?{query}"),
            None => resolved.into_owned(),
        };
        text.try_into().map_err(|_| Error::BadRequest("the path is not a path"))?
    };
    head.uri = Uri::from(target);
    Ok(())
}

/// One host, and nobody's password in it (RFC 9110, sections 4.2.4 and 7.2).
fn check_host(fields: &Fields) -> Result<(), Error> {
    let mut hosts = fields.all(Known::Host);
    match (hosts.next(), hosts.next()) {
        (Some(host), None) if is_host(host) => Ok(()),
        (Some(_), None) => Err(Error::BadRequest("the host is not well-formed")),
        (Some(_), Some(_)) => Err(Error::BadRequest("the request names more than one host")),
        (None, _) => Err(Error::BadRequest("the request names no host")),
    }
}

/// TRACE and OPTIONS tell how far they go (RFC 9110, section 7.6.2).
fn count_forwards(head: &mut RequestHead) -> Result<(), Error> {
    if !matches!(head.method, Method::TRACE | Method::OPTIONS) {
        return Ok(());
    }
    let left = head.fields.number(Known::MaxForwards);
    match left {
        Some(0) => Err(Error::Refused(
            StatusCode::NOT_IMPLEMENTED,
            "this method is answered by endpoints, and `max-forwards` lets it go no further",
        )),
        Some(left) => {
            head.fields.insert_number(Known::MaxForwards, left - 1);
            Ok(())
        }
        None => Ok(()),
    }
}

/// Nothing is known of other expectations than one (RFC 9110, section 10.1.1).
pub fn check_expectations(fields: &Fields) -> Result<(), Error> {
    if fields.all(Known::Expect).all(|one| one.eq_ignore_ascii_case(b"100-continue")) {
        return Ok(());
    }
    let what = "nothing but `100-continue` can be expected here";
    Err(Error::Refused(StatusCode::EXPECTATION_FAILED, what))
}

/// What matches look at; `head` as [`read_target`] left it.
pub fn view<'a>(head: &'a RequestHead, peer: &'a Peer, model: ModelView<'a>) -> RequestView<'a> {
    RequestView {
        method: &head.method,
        host: head.fields.text(Known::Host),
        path: head.uri.path(),
        query: head.uri.query(),
        fields: &head.fields,
        client: peer.client(),
        model,
    }
}

/// Bytes of the body, as far as the head tells them.
pub fn announced(head: &RequestHead) -> Option<u64> {
    head.fields.number(Known::ContentLength)
}

/// Whether the head tells of a body of more than `bytes_max`.
pub fn announces_more(head: &RequestHead, bytes_max: Option<u64>) -> bool {
    announced(head).zip(bytes_max).is_some_and(|(length, max)| length > max)
}

/// Drops what a client says of who it is, which nobody may, and of where its request came from,
/// unless it is `trusted`: neither rules nor endpoints are to see it.
pub fn drop_claims(fields: &mut Fields, trusted: bool) {
    const FROM: u64 = Known::set(&[
        Known::XForwardedFor,
        Known::XForwardedProto,
        Known::XForwardedHost,
        Known::Forwarded,
    ]);
    fields.remove_all(if trusted { FORGED } else { FORGED | FROM });
}

/// Makes the head of a client's request, without its claims, that of one to an endpoint.
pub fn to_endpoint(head: &mut RequestHead, peer: &Peer, has_body: bool) {
    let fields = &mut head.fields;
    let stripped = strip_hop_by_hop(fields);
    if stripped.te_trailers {
        fields.insert(Known::Te, "trailers");
        fields.insert(Known::Connection, "te");
    }
    if let Some(Upgrade(protocols)) = &head.upgrade {
        fields.insert(Known::Upgrade, protocols);
        fields.insert(Known::Connection, "upgrade");
    }
    if has_body && !fields.contains(Known::ContentLength) {
        // Said aloud, for a GET with a body of unknown length would be sent without it.
        fields.insert(Known::TransferEncoding, "chunked");
    }
    if let Some(certificate) = &peer.certificate {
        // What came under this name is gone by now.
        fields.insert(Known::XForwardedClientCert, &certificate.field);
    }
    fields.append_to_list(Known::XForwardedFor, &peer.address);
    fields.append_to_list(Known::XForwardedProto, &peer.proto);
    fields.append_copy_to_list(Known::XForwardedHost, Known::Host);
    if !fields.sole(Known::XRequestId).is_some_and(keeps_request_id) {
        fields.insert(Known::XRequestId, request_id(fastrand::u64(..), fastrand::u64(..)));
    }
    if !fields.sole(Known::Traceparent).is_some_and(keeps_traceparent) {
        let parent = fastrand::u64(..);
        let field = traceparent(fastrand::u64(..), fastrand::u64(..), parent);
        fields.insert(Known::Traceparent, field);
        // What is told of another trace goes with it (Trace Context, section 4.3).
        fields.remove(Known::Tracestate);
    }
    head.version = Version::HTTP_11;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(uri: &str, host: Option<&str>) -> Result<(String, String), u16> {
        let mut head = RequestHead::new(Method::GET, uri.parse().unwrap());
        head.version = Version::HTTP_2;
        if let Some(host) = host {
            head.fields.insert(Known::Host, host);
        }
        read_target(&mut head).map_err(|error| error.status().unwrap().as_u16())?;
        Ok((head.uri.to_string(), head.fields.text(Known::Host).unwrap().to_owned()))
    }

    #[test]
    fn targets_become_origin_form_with_a_host() {
        for (uri, host, target, named) in [
            ("/a?b=c", Some("h"), "/a?b=c", "h"),
            ("/a/../b?c", Some("h"), "/b?c", "h"),
            ("http://other:1/a", Some("h"), "/a", "other:1"),
            ("http://other", None, "/", "other"),
            ("*", Some("h"), "*", "h"),
        ] {
            assert_eq!(read(uri, host), Ok((target.to_owned(), named.to_owned())), "{uri}");
        }
    }

    #[test]
    fn targets_in_doubt_are_refused() {
        assert_eq!(read("/a", None), Err(400));
        assert_eq!(read("/a", Some("user:word@h")), Err(400));
        assert_eq!(read("http://user@h/a", Some("h")), Err(400));
        assert_eq!(read("/..", Some("h")), Err(400));
    }

    #[test]
    fn an_endpoint_learns_who_asked_and_gets_one_clear_framing() {
        let mut head = RequestHead::new(Method::GET, Uri::default());
        head.fields = Fields::of(&[
            ("host", "h"),
            ("te", "trailers"),
            ("connection", "keep-alive, x-hop"),
            ("x-hop", "1"),
            ("transfer-encoding", "chunked"),
            ("x-request-id", "mine"),
            ("x-forwarded-for", "9.9.9.9"),
        ]);
        to_endpoint(&mut head, &Peer::cleartext([127, 0, 0, 1].into()), true);
        let get = |name: &'static str| head.fields.text(&http::HeaderName::from_static(name));
        assert_eq!(get("x-forwarded-for"), Some("9.9.9.9, 127.0.0.1"));
        assert_eq!(get("x-forwarded-proto"), Some("http"));
        assert_eq!(get("x-forwarded-host"), Some("h"));
        assert_eq!(get("x-request-id"), Some("mine"));
        assert_eq!(get("transfer-encoding"), Some("chunked"));
        assert_eq!((get("te"), get("connection")), (Some("trailers"), Some("te")));
        assert_eq!(get("x-hop"), None);
        assert!(head.fields.get(Known::Traceparent).is_some_and(keeps_traceparent));
    }

    #[test]
    fn of_two_names_for_one_request_none_is_kept() {
        let named = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let mut head = RequestHead::new(Method::GET, Uri::default());
        head.fields = Fields::of(&[
            ("host", "h"),
            ("x-request-id", "a"),
            ("x-request-id", "b"),
            ("traceparent", named),
            ("traceparent", named),
        ]);
        to_endpoint(&mut head, &Peer::cleartext([127, 0, 0, 1].into()), false);
        for (name, old) in [(Known::XRequestId, "a"), (Known::Traceparent, named)] {
            let values: Vec<_> = head.fields.all(name).collect();
            assert!(values.len() == 1 && values[0] != old.as_bytes(), "{name:?}: {values:?}");
        }
    }

    #[test]
    fn where_a_request_came_from_is_said_by_whoever_is_trusted() {
        let mut head = RequestHead::new(Method::GET, Uri::default());
        head.fields = Fields::of(&[
            ("host", "h"),
            ("x-forwarded-for", "9.9.9.9"),
            ("x-forwarded-for", "8.8.8.8"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "other"),
            ("forwarded", "for=9.9.9.9"),
        ]);
        drop_claims(&mut head.fields, false);
        to_endpoint(&mut head, &Peer::encrypted([127, 0, 0, 1].into(), None, None), false);
        let get = |name: &'static str| head.fields.text(&http::HeaderName::from_static(name));
        assert_eq!(get("x-forwarded-for"), Some("127.0.0.1"));
        assert_eq!(get("x-forwarded-proto"), Some("https"));
        assert_eq!(get("x-forwarded-host"), Some("h"));
        assert_eq!(get("forwarded"), None);
    }
}
