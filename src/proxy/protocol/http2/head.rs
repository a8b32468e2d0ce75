//! A request's head as HTTP/2 brings it, made one like HTTP/1.1's.
//!
//! Never lets through what HTTP/1.1 would read otherwise: that is refused, before anything of
//! it goes to an endpoint.

use h2::ext::Protocol;
use http::request::Parts;
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderValue, Method, StatusCode, header};

use crate::proxy::error::Error;
use crate::proxy::forward::check_expectations;
use crate::proxy::http1::Malformed;
use crate::proxy::http1::fields::{FIELDS_MAX, check_names, one_content_length};
use crate::proxy::http2::check_fields;
use crate::proxy::protocol::http1::head::{METHOD_BYTES_MAX, TARGET_BYTES_MAX};
use crate::traffic::fields::{Fields, Known};
use crate::traffic::message::{RequestHead, Upgrade};

/// What the library has not looked at, and what HTTP/1.1 has otherwise.
pub fn read(parts: &Parts) -> Result<Box<RequestHead>, Error> {
    let malformed = |malformed: Malformed| Error::BadRequest(malformed.0);
    // Cookies count once: they are joined below.
    let cookies = parts.headers.get_all(header::COOKIE).iter().count();
    if parts.headers.len() - cookies.saturating_sub(1) > FIELDS_MAX {
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        return Err(Error::Refused(status, "the head is too large"));
    }
    check_fields(&parts.headers).map_err(malformed)?;
    let mut head = Box::new(RequestHead::from(parts));
    check_names(&head.fields).map_err(malformed)?;
    let length = one_content_length(&mut head.fields).map_err(malformed)?;
    check_expectations(&head.fields)?;
    check_lengths(&head)?;
    check_target(&head)?;
    join_cookies(&mut head.fields);
    if asks_for_websocket(parts)? {
        if length.is_some_and(|length| length > 0) {
            // What follows is another protocol, and no body of so many bytes.
            return Err(Error::BadRequest("a request for WebSocket has no length"));
        }
        head.method = Method::GET;
        head.upgrade = Some(Upgrade(HeaderValue::from_static("websocket")));
        // In HTTP/1.1 the client proves with it that it asked; over HTTP/2 there is no doubt
        // (RFC 8441, section 5).
        head.fields.insert(Known::SecWebSocketKey, websocket_key(fastrand::u128(..)));
    }
    Ok(head)
}

/// As long as in HTTP/1.1, in which it goes on.
fn check_lengths(head: &RequestHead) -> Result<(), Error> {
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
fn check_target(head: &RequestHead) -> Result<(), Error> {
    let authority = head.uri.authority().map(|authority| authority.as_str().as_bytes());
    if head.fields.all(Known::Host).any(|host| !same_host(host, authority)) {
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
fn join_cookies(fields: &mut Fields) {
    if fields.all(Known::Cookie).nth(1).is_some() {
        // An empty one would leave a space at an end.
        let crumbs = fields.all(Known::Cookie).filter(|crumb| !crumb.is_empty());
        let joined = crumbs.collect::<Vec<_>>().join(&b"; "[..]);
        fields.insert(Known::Cookie, joined);
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
fn websocket_key(random: u128) -> [u8; 24] {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = [b'='; 24];
    for (index, digit) in text[..22].iter_mut().enumerate() {
        let shift = 122_i32 - 6 * i32::try_from(index).unwrap_or(0);
        let bits = if shift >= 0 { random >> shift } else { random << -shift };
        *digit = DIGITS[(bits & 63) as usize];
    }
    text
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn read_one(uri: &str, fields: &[(&str, &str)]) -> Result<Box<RequestHead>, u16> {
        let mut request = Request::builder().uri(uri);
        for (name, value) in fields {
            request = request.header(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        read(&parts).map_err(|error| error.status().unwrap().as_u16())
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
        let name = http::HeaderName::from_lowercase(b"x\"y").unwrap();
        head.headers.insert(name, HeaderValue::from_static("v"));
        assert!(read(&head).is_err());
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
        assert_eq!(read(&head).unwrap_err().status(), Some(StatusCode::NOT_IMPLEMENTED));
    }

    #[test]
    fn cookies_are_joined() {
        let head = read_one("http://a/", &[("cookie", "a=1"), ("cookie", "b=2")]).unwrap();
        assert_eq!(head.fields.all(Known::Cookie).collect::<Vec<_>>(), [b"a=1; b=2"]);
        let fields = ["", "a=1", "", "b=2", ""].map(|crumb| ("cookie", crumb));
        let head = read_one("http://a/", &fields).unwrap();
        assert_eq!(head.fields.all(Known::Cookie).collect::<Vec<_>>(), [b"a=1; b=2"]);
    }

    #[test]
    fn who_asks_for_websocket_tells_of_no_body() {
        for (length, status) in [("0", None), ("5", Some(400))] {
            let (mut head, ()) = Request::get("http://a/").body(()).unwrap().into_parts();
            head.method = Method::CONNECT;
            head.extensions.insert(Protocol::from_static("websocket"));
            head.headers.insert("content-length", HeaderValue::from_static(length));
            let refused = read(&head).err().map(|error| error.status().unwrap().as_u16());
            assert_eq!(refused, status, "{length}");
        }
    }

    #[test]
    fn a_key_is_sixteen_bytes_in_base64() {
        // RFC 6455, section 1.3.
        let bytes = u128::from_be_bytes(*b"the sample nonce");
        assert_eq!(&websocket_key(bytes), b"dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(&websocket_key(u128::MAX), b"/////////////////////w==");
    }
}
