//! A request's head as HTTP/2 brings it, made one like HTTP/1.1's.
//!
//! Never lets through what HTTP/1.1 would read otherwise: that is refused, before anything of
//! it goes to an endpoint.

use h2::ext::Protocol;
use http::header::{CONTENT_LENGTH, COOKIE, HOST, HeaderName};
use http::request::Parts;
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use crate::proxy::error::Error;
use crate::proxy::forward::{Upgrade, check_expectations};
use crate::proxy::http1::Malformed;
use crate::proxy::http1::fields::{FIELDS_MAX, check_names, content_length};
use crate::proxy::http2::check_fields;
use crate::proxy::protocol::http1::head::{METHOD_BYTES_MAX, TARGET_BYTES_MAX};

/// In HTTP/1.1 the client proves with it that it asked; over HTTP/2 there is no doubt (RFC
/// 8441, section 5).
const SEC_WEBSOCKET_KEY: HeaderName = HeaderName::from_static("sec-websocket-key");

/// What the library has not looked at, and what HTTP/1.1 has otherwise. Whether the request
/// asks for a WebSocket.
pub fn read(head: &mut Parts) -> Result<bool, Error> {
    let malformed = |malformed: Malformed| Error::BadRequest(malformed.0);
    check_fields(&head.headers).map_err(malformed)?;
    check_names(&head.headers).map_err(malformed)?;
    let length = content_length(&head.headers).map_err(malformed)?;
    if let Some(length) = length {
        // Repeated, it was the same; it goes on once.
        head.headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    check_expectations(&head.headers)?;
    check_lengths(head)?;
    check_target(head)?;
    join_cookies(&mut head.headers);
    if head.headers.len() > FIELDS_MAX {
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        return Err(Error::Refused(status, "the head is too large"));
    }
    let websocket = asks_for_websocket(head)?;
    if websocket {
        head.method = Method::GET;
        head.extensions.insert(Upgrade(HeaderValue::from_static("websocket")));
        head.headers.insert(SEC_WEBSOCKET_KEY, websocket_key(fastrand::u128(..)));
    }
    Ok(websocket)
}

/// As long as in HTTP/1.1, in which it goes on.
fn check_lengths(head: &Parts) -> Result<(), Error> {
    if head.method.as_str().len() > METHOD_BYTES_MAX {
        return Err(Error::Refused(StatusCode::NOT_IMPLEMENTED, "there is no such method"));
    }
    let target = head.uri.path_and_query().map_or(0, |target| target.as_str().len());
    if target > TARGET_BYTES_MAX {
        return Err(Error::Refused(StatusCode::URI_TOO_LONG, "the target is too long"));
    }
    Ok(())
}

/// One host, one scheme, and a path (RFC 9113, section 8.3.1). CONNECT has none of these, and
/// is refused elsewhere.
fn check_target(head: &Parts) -> Result<(), Error> {
    let authority = head.uri.authority().map(|authority| authority.as_str().as_bytes());
    let hosts = head.headers.get_all(HOST).iter();
    if hosts.filter(|host| !same_host(host.as_bytes(), authority)).count() > 0 {
        return Err(Error::BadRequest("the host field and the authority are not the same"));
    }
    let known = [&Scheme::HTTP, &Scheme::HTTPS];
    if head.uri.scheme().is_some_and(|scheme| !known.contains(&scheme)) {
        return Err(Error::BadRequest("the scheme is neither http nor https"));
    }
    let path = head.uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let asterisk = path == "*" && head.method == Method::OPTIONS;
    if !path.starts_with('/') && !asterisk {
        return Err(Error::BadRequest("the path does not begin with a slash"));
    }
    // What is not ASCII has to be encoded, as in HTTP/1.1.
    if !path.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Error::BadRequest("the path is not well-formed"));
    }
    Ok(())
}

fn same_host(host: &[u8], authority: Option<&[u8]>) -> bool {
    authority.is_none_or(|authority| host.eq_ignore_ascii_case(authority))
}

/// HTTP/2 clients may send each cookie in a field of its own (RFC 9113, section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut crumbs = headers.get_all(COOKIE).iter();
    let (Some(first), Some(_)) = (crumbs.next(), crumbs.next()) else { return };
    let mut joined = first.as_bytes().to_vec();
    for crumb in headers.get_all(COOKIE).iter().skip(1) {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(crumb.as_bytes());
    }
    // Joined field values are a field value.
    if let Ok(joined) = HeaderValue::from_bytes(&joined) {
        headers.insert(COOKIE, joined);
    }
}

/// Extended CONNECT (RFC 8441), the only one that is served.
fn asks_for_websocket(head: &Parts) -> Result<bool, Error> {
    match head.extensions.get::<Protocol>() {
        Some(protocol) if head.method == Method::CONNECT => match protocol.as_str() {
            "websocket" => Ok(true),
            _ => Err(Error::Refused(
                StatusCode::NOT_IMPLEMENTED,
                "the only protocol that CONNECT is served for is websocket",
            )),
        },
        Some(_) | None => Ok(false),
    }
}

/// 16 bytes in base64 (RFC 6455, section 4.1).
fn websocket_key(random: u128) -> HeaderValue {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = [b'='; 24];
    for (index, digit) in text[..22].iter_mut().enumerate() {
        let shift = 122_i32 - 6 * i32::try_from(index).unwrap_or(0);
        let bits = if shift >= 0 { random >> shift } else { random << -shift };
        *digit = DIGITS[(bits & 63) as usize];
    }
    HeaderValue::from_bytes(&text).expect("base64 is a field value")
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn read_one(uri: &str, fields: &[(&str, &str)]) -> Result<Parts, u16> {
        let mut request = Request::builder().uri(uri);
        for (name, value) in fields {
            request = request.header(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let (mut head, ()) = request.body(()).unwrap().into_parts();
        read(&mut head).map_err(|error| error.status().unwrap().as_u16())?;
        Ok(head)
    }

    #[test]
    fn what_http1_would_read_otherwise_is_refused() {
        for (uri, fields) in [
            ("http://a/", &[("x", " v")][..]),
            ("http://a/", &[("x", "v\t")]),
            ("http://a/", &[("host", "b")]),
            ("http://a/", &[("host", "a"), ("host", "b")]),
            ("http://a/", &[("content-length", "1"), ("content-length", "2")]),
            ("http://a/", &[("content-length", "+1")]),
            ("http://a/", &[("content_length", "1")]),
            ("http://a/", &[("transfer-encoding_", "x"), ("transfer_encoding", "chunked")]),
            ("ftp://a/", &[]),
            ("http://a/\u{fc}", &[]),
            ("*", &[]),
        ] {
            assert_eq!(read_one(uri, fields).err(), Some(400), "{uri} {fields:?}");
        }
        for (uri, fields) in [
            ("http://a/", &[("host", "A")][..]),
            ("https://a/", &[("x", "")]),
            ("http://a/", &[("content-length", "1"), ("content-length", "1")]),
        ] {
            assert!(read_one(uri, fields).is_ok(), "{uri} {fields:?}");
        }
    }

    #[test]
    fn a_name_with_a_quote_is_none() {
        let (mut head, ()) = Request::new(()).into_parts();
        // The library reads names by this, as HPACK has them.
        let name = HeaderName::from_lowercase(b"x\"y").unwrap();
        head.headers.insert(name, HeaderValue::from_static("v"));
        assert!(read(&mut head).is_err());
    }

    #[test]
    fn a_head_has_as_many_fields_as_one_of_http1_and_cookies_count_once() {
        let fields = vec![("x", "y"); FIELDS_MAX];
        assert!(read_one("http://a/", &fields).is_ok());
        assert_eq!(read_one("http://a/", &[&fields[..], &[("x", "y")]].concat()).err(), Some(431));
        assert!(read_one("http://a/", &vec![("cookie", "a=1"); 2 * FIELDS_MAX]).is_ok());
    }

    #[test]
    fn nothing_but_a_word_before_the_body_can_be_expected() {
        for (fields, status) in [
            (&[("expect", "100-Continue")][..], None),
            (&[("expect", "x")], Some(417)),
            (&[("expect", "100-continue"), ("expect", "x")], Some(417)),
        ] {
            assert_eq!(read_one("http://a/", fields).err(), status, "{fields:?}");
        }
    }

    #[test]
    fn a_method_and_a_target_are_as_long_as_in_http1() {
        let long = format!("http://a/{}", "x".repeat(TARGET_BYTES_MAX));
        assert_eq!(read_one(&long, &[]).err(), Some(414));
        assert!(read_one(&long[..long.len() - 1], &[]).is_ok());
        let (mut head, ()) = Request::get("http://a/").body(()).unwrap().into_parts();
        head.method = Method::from_bytes(&[b'A'; METHOD_BYTES_MAX + 1]).unwrap();
        assert_eq!(read(&mut head).unwrap_err().status(), Some(StatusCode::NOT_IMPLEMENTED));
    }

    #[test]
    fn cookies_are_joined() {
        let head = read_one("http://a/", &[("cookie", "a=1"), ("cookie", "b=2")]).unwrap();
        assert_eq!(head.headers.get_all("cookie").iter().collect::<Vec<_>>(), ["a=1; b=2"]);
    }

    #[test]
    fn a_key_is_sixteen_bytes_in_base64() {
        // RFC 6455, section 1.3.
        let bytes = u128::from_be_bytes(*b"the sample nonce");
        assert_eq!(websocket_key(bytes), "dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(websocket_key(u128::MAX), "/////////////////////w==");
    }
}
