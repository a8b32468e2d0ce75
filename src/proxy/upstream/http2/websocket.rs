//! WebSocket to an endpoint over HTTP/2: extended CONNECT (RFC 8441). To the client it is the
//! upgrade of HTTP/1.1 that it asked for, or that Serin made of what it asked for.
//!
//! Never asks for it before the endpoint has told that it knows of it.

use aws_lc_rs::digest;
use h2::ext::Protocol;
use http::{HeaderValue, Method, Request, StatusCode};

use crate::proxy::upstream::fault::Fault;
use crate::proxy::upstream::http2::pool::Lease;
use crate::traffic::fields::Known;
use crate::traffic::message::{RequestHead, ResponseHead, Upgrade};

const WEBSOCKET: &str = "websocket";

/// Hashed with the key (RFC 6455, section 1.3).
const SALT: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// What was asked for, and is to be made of the answer.
#[derive(Debug)]
pub struct Asked {
    /// The client's key, if it is one of HTTP/1.1.
    key: Option<HeaderValue>,
}

impl Asked {
    /// Whether `head` asks for WebSocket and nothing else, as RFC 6455 has it, section 4.1: by GET
    /// and with a key. HTTP/2 has no other upgrades.
    pub fn of(head: &RequestHead) -> Option<Self> {
        let Upgrade(protocols) = head.upgrade.as_ref()?;
        let asked = protocols.as_bytes().eq_ignore_ascii_case(WEBSOCKET.as_bytes())
            && head.method == Method::GET
            && head.fields.sole(Known::SecWebSocketKey).is_some();
        asked.then(|| Self { key: head.fields.value(Known::SecWebSocketKey) })
    }

    /// Makes a request for an upgrade one of extended CONNECT, once the endpoint behind `lease`
    /// has told that it takes such.
    pub async fn put(&self, request: &mut Request<()>, lease: &mut Lease) -> Result<(), Fault> {
        lease.has_heard().await;
        if !lease.sender().is_extended_connect_protocol_enabled() {
            return Err(Fault::NoWebSocket);
        }
        *request.method_mut() = Method::CONNECT;
        request.extensions_mut().insert(Protocol::from_static(WEBSOCKET));
        request.headers_mut().remove(Known::SecWebSocketKey.as_str());
        Ok(())
    }

    /// Makes the answer one to an upgrade. Whether the endpoint has agreed.
    pub fn read(&self, head: &mut ResponseHead) -> bool {
        if !head.status.is_success() {
            return false;
        }
        head.status = StatusCode::SWITCHING_PROTOCOLS;
        head.fields.remove(Known::ContentLength);
        head.upgrade = Some(Upgrade(HeaderValue::from_static(WEBSOCKET)));
        if let Some(key) = &self.key {
            head.fields.insert(Known::SecWebSocketAccept, accept(key.as_bytes()));
        }
        true
    }
}

/// What a client knows by that its key was read (RFC 6455, section 4.2.2).
fn accept(key: &[u8]) -> String {
    let salted = [key, SALT].concat();
    let hash = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &salted);
    base64(hash.as_ref())
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let bits = (0..3)
            .fold(0_u32, |bits, at| bits << 8 | three.get(at).map_or(0, |byte| u32::from(*byte)));
        for place in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * place) & 63) as usize];
            text.push(if place > three.len() { '=' } else { char::from(digit) });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_answered_as_the_rfc_has_it() {
        // RFC 6455, section 1.3.
        assert_eq!(accept(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn other_protocols_methods_and_keys_are_not_asked_for() {
        let key = "dGhlIHNhbXBsZSBub25jZQ==";
        for (method, protocols, keys, asked) in [
            (Method::GET, "WebSocket", &[key][..], true),
            (Method::GET, "websocket, x", &[key], false),
            (Method::GET, "x", &[key], false),
            (Method::POST, "websocket", &[key], false),
            (Method::GET, "websocket", &[], false),
            (Method::GET, "websocket", &[key, key], false),
        ] {
            let mut head = RequestHead::new(method, http::Uri::default());
            for key in keys {
                head.fields.append(Known::SecWebSocketKey, key);
            }
            assert!(Asked::of(&head).is_none());
            head.upgrade = Some(Upgrade(HeaderValue::from_static(protocols)));
            assert_eq!(Asked::of(&head).is_some(), asked, "{protocols} {keys:?}");
        }
    }
}
