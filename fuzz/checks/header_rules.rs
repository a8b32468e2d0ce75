//! What is made of a request's fields, beside the same rules written down a second time, as
//! plainly as they go.

use std::net::IpAddr;

use http::header::HeaderName;
use http::{HeaderMap, HeaderValue, Method, Uri};
use serin::proxy::forward::{self, Peer};
use serin::proxy::http1::chunked::may_be_trailer;
use serin::traffic::fields::Known;
use serin::traffic::headers::{keeps_request_id, keeps_traceparent, strip_trailers};
use serin::traffic::message::{RequestHead, Upgrade};

const HOP_BY_HOP: [&str; 7] = [
    "connection",
    "keep-alive",
    "te",
    "transfer-encoding",
    "upgrade",
    "proxy-connection",
    "expect",
];

/// Told by whoever is trusted, or by nobody.
const ORIGIN: [&str; 4] = ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "forwarded"];

type Fields = Vec<(String, Vec<u8>)>;

/// What goes on of any fields is what the rules say, those of one name in their order, and
/// nothing that ends a line is in it.
///
/// The first byte tells who says it; behind it are lines of `name:value`.
pub fn check(data: &[u8]) {
    let Some((flags, lines)) = data.split_first() else { return };
    let flag = |bit: u8| flags & (1 << bit) != 0;
    let (trusted, has_body, encrypted, upgrades) = (flag(0), flag(1), flag(2), flag(3));
    let mut head = RequestHead::new(Method::GET, Uri::default());
    let mut trailers = HeaderMap::new();
    for line in lines.split(|byte| *byte == b'\n').take(200) {
        let mut parts = line.splitn(2, |byte| *byte == b':');
        let name = HeaderName::from_bytes(parts.next().unwrap_or_default());
        let value = HeaderValue::from_bytes(parts.next().unwrap_or_default());
        if let (Ok(name), Ok(value)) = (name, value) {
            head.fields.append(&name, &value);
            trailers.append(name, value);
        }
    }
    if upgrades {
        head.upgrade = Some(Upgrade(HeaderValue::from_static("websocket")));
    }
    let came = fields(head.fields.iter());
    check_trailers(trailers);
    let address = IpAddr::from([127, 0, 0, 1]);
    let peer =
        if encrypted { Peer::encrypted(address, None, None) } else { Peer::cleartext(address) };
    forward::drop_claims(&mut head.fields, trusted);
    forward::to_endpoint(&mut head, &peer, has_body);
    let mut went = fields(head.fields.iter());
    for (name, value) in &went {
        assert!(!value.iter().any(|b| b"\r\n\0".contains(b)), "{name}: {value:?}");
    }
    assert!(head.fields.sole(Known::XRequestId).is_some_and(keeps_request_id));
    assert!(head.fields.sole(Known::Traceparent).is_some_and(keeps_traceparent));
    let proto = if encrypted { "https" } else { "http" };
    let wanted = rules(&came, trusted, has_body, upgrades, proto);
    // What was drawn is like nothing that was there.
    for name in ["x-request-id", "traceparent"] {
        if !wanted.iter().any(|(one, _)| one == name) {
            went.retain(|(one, _)| one != name);
        }
    }
    assert_eq!(by_name(went), by_name(wanted), "of {came:?}");
}

fn fields<'f>(all: impl Iterator<Item = (&'f str, &'f [u8])>) -> Fields {
    all.map(|(name, value)| (name.to_owned(), value.to_vec())).collect()
}

fn trailing(trailers: &HeaderMap) -> Fields {
    fields(trailers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())))
}

/// Those of one name stay in their order, which alone means something (RFC 9110, section 5.3).
fn by_name(mut fields: Fields) -> Fields {
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    fields
}

/// The rules, by name and value alone.
fn rules(came: &Fields, trusted: bool, has_body: bool, upgrades: bool, proto: &str) -> Fields {
    let tokens = |wanted: &str| -> Vec<String> {
        let lines = came.iter().filter(|(name, _)| name == wanted);
        let text = |value: &[u8]| value.iter().map(|byte| char::from(*byte)).collect::<String>();
        let tokens = lines.flat_map(|(_, value)| {
            let text = text(value).to_ascii_lowercase();
            text.split(',').map(|one| one.trim_matches([' ', '\t']).to_owned()).collect::<Vec<_>>()
        });
        tokens.collect()
    };
    let nominated = tokens("connection");
    let te = tokens("te").iter().any(|token| token == "trailers");
    let goes_on = |name: &str| {
        let framing = ["host", "content-length"].contains(&name);
        let dashed = name.replace('_', "-");
        let like_ours = dashed != name && ORIGIN[..3].contains(&&*dashed);
        let ours = dashed == "x-forwarded-client-cert" || like_ours;
        let hop = HOP_BY_HOP.contains(&name) || nominated.iter().any(|one| one == name);
        (framing || !hop) && !ours && (trusted || !ORIGIN.contains(&name))
    };
    let mut out: Fields = came.iter().filter(|(name, _)| goes_on(name)).cloned().collect();
    let has = |out: &Fields, wanted: &str| out.iter().any(|(name, _)| name == wanted);
    let put = |out: &mut Fields, name: &str, value: &[u8]| {
        out.retain(|(one, _)| one != name);
        out.push((name.to_owned(), value.to_vec()));
    };
    if te {
        put(&mut out, "te", b"trailers");
        put(&mut out, "connection", b"te");
    }
    if upgrades {
        put(&mut out, "upgrade", b"websocket");
        put(&mut out, "connection", b"upgrade");
    }
    if has_body && !has(&out, "content-length") {
        put(&mut out, "transfer-encoding", b"chunked");
    }
    let host = out.iter().find(|(name, _)| name == "host").map(|(_, value)| value.clone());
    let appended = [
        ("x-forwarded-for", Some(b"127.0.0.1".to_vec())),
        ("x-forwarded-proto", Some(proto.as_bytes().to_vec())),
        ("x-forwarded-host", host.filter(|host| !host.is_empty())),
    ];
    for (name, more) in appended {
        let Some(more) = more else { continue };
        let lines = out.iter().filter(|(one, _)| one == name).map(|(_, value)| value.clone());
        let all: Vec<_> = lines.chain([more]).collect();
        put(&mut out, name, &all.join(&b", "[..]));
    }
    let named = |name: &str| -> Vec<HeaderValue> {
        let values = out.iter().filter(|(one, _)| one == name);
        values.filter_map(|(_, value)| HeaderValue::from_bytes(value).ok()).collect()
    };
    // Two would be none.
    let keeps_id = matches!(&named("x-request-id")[..], [id] if keeps_request_id(id.as_bytes()));
    let keeps_trace = matches!(&named("traceparent")[..], [id] if keeps_traceparent(id.as_bytes()));
    out.retain(|(name, _)| match &**name {
        "x-request-id" => keeps_id,
        // What is told of a trace goes with it.
        "traceparent" | "tracestate" => keeps_trace,
        _ => true,
    });
    out
}

/// Of trailers, what an endpoint would take for a proxy's word is gone.
fn check_trailers(mut trailers: HeaderMap) {
    let before = trailing(&trailers);
    strip_trailers(&mut trailers);
    let forged = |name: &str| {
        let name = name.replace('_', "-");
        ORIGIN.contains(&&*name) || ["x-forwarded-client-cert", "x-request-id"].contains(&&*name)
    };
    let mut kept = before;
    kept.retain(|(name, _)| !forged(name));
    assert_eq!(by_name(trailing(&trailers)), by_name(kept));
    // Of those, others are left out before: what frames, addresses or tells who asks.
    for name in ["content-length", "transfer-encoding", "host", "authorization", "trailer"] {
        assert!(!may_be_trailer(&HeaderName::from_static(name)));
    }
}
