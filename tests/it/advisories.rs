//! Advisories of what Serin stands on and of its neighbours: what they tell of must not be so
//! here. Those of floods are with the other floods, in `http2_floods`.

use rustls::pki_types::CertificateRevocationListDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::{VerifierBuilderError::InvalidCrl, WebPkiClientVerifier};
use rustls::{CertRevocationListError, RootCertStore};
use serin_testkit::{Authority, Backend, End, Leaf, Proxy, Request, Script, within};

use crate::tls;

/// What must not pass as a request of its own.
const SMUGGLED: &str = "GET /admin HTTP/1.1\r\nHost: h\r\n\r\n";

/// An endpoint that echoes, before which nothing but `/` itself has a rule.
fn world() -> (Backend, Proxy) {
    let model = Backend::named("model").does(Script::echoes()).start();
    let proxy = Proxy::to(&model, "matches: [{ path: { exact: / } }]").start();
    (model, proxy)
}

/// The statuses of all answers to `bytes`.
async fn statuses(proxy: &Proxy, bytes: String) -> Vec<u16> {
    let mut wire = proxy.client().begin(bytes).await;
    let came = within("the end", wire.rest()).await;
    let text = String::from_utf8_lossy(&came).into_owned();
    let lines = text.match_indices("HTTP/1.1 ").map(|(at, _)| text[at + 9..at + 12].parse());
    lines.collect::<Result<_, _>>().expect("statuses")
}

/// RUSTSEC-2020-0008, CVE-2020-35863: of a GET, the body became the next request.
#[tokio::test]
async fn the_body_of_a_get_is_no_request() {
    let (model, proxy) = world();
    let length = SMUGGLED.len();
    for framed in [
        format!("Content-Length: {length}\r\n\r\n{SMUGGLED}"),
        format!("Transfer-Encoding: chunked\r\n\r\n{length:x}\r\n{SMUGGLED}\r\n0\r\n\r\n"),
    ] {
        let sent = format!("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{framed}");
        assert_eq!(statuses(&proxy, sent).await, [200]);
        let seen = model.last();
        assert_eq!((seen.target(), seen.end), ("/", End::Whole));
        assert_eq!(seen.body, SMUGGLED.as_bytes());
    }
    assert_eq!(model.requests(), 2);
}

/// RUSTSEC-2021-0020, CVE-2021-21299: of several transfer codings the wrong one was believed.
/// RUSTSEC-2021-0078, CVE-2021-32715: lengths with a sign were read, and CVE-2023-38697 those in
/// hexadecimal digits. RUSTSEC-2021-0079, CVE-2021-32714: large sizes of chunks came out small.
/// CVE-2026-2835, CVE-2026-2836: of both framings, and in HTTP/1.0, one was chosen.
#[tokio::test]
async fn no_framing_is_guessed() {
    let (model, proxy) = world();
    let chunks = format!("0\r\n\r\n{SMUGGLED}");
    for (version, fields, body) in [
        ("1.1", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", &*chunks),
        ("1.1", "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked", &chunks),
        ("1.1", "Transfer-Encoding: chunked\r\nTransfer-Encoding: x", &chunks),
        ("1.1", "Content-Length: +0", SMUGGLED),
        ("1.1", "Content-Length: 0x0", SMUGGLED),
        ("1.1", "Content-Length: 0_0", SMUGGLED),
        ("1.1", "Content-Length: -0", SMUGGLED),
        ("1.1", "Content-Length: 0\r\nTransfer-Encoding: chunked", SMUGGLED),
        ("1.1", "Content-Length: 40\r\nTransfer-Encoding: chunked", &chunks),
        ("1.0", "Connection: keep-alive\r\nTransfer-Encoding: chunked", &chunks),
        ("1.0", "Content-Length: 40\r\nTransfer-Encoding: chunked", &chunks),
    ] {
        let sent = format!("POST / HTTP/{version}\r\nHost: h\r\n{fields}\r\n\r\n{body}");
        assert_eq!(statuses(&proxy, sent).await, [400], "{version} {fields:?}");
    }
    assert_eq!(model.requests(), 0);
    for size in ["10000000000000000", "F0000000000000003", "+3", "0x3", "3_"] {
        let sent = format!(
            "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n\
             {size}\r\nabc\r\n0\r\n\r\n{SMUGGLED}"
        );
        assert_eq!(statuses(&proxy, sent).await, [400], "{size}");
    }
    assert!(model.seen().iter().all(|seen| seen.end != End::Whole), "{:?}", model.seen());
}

/// The same of what endpoints say.
#[tokio::test]
async fn no_framing_of_an_answer_is_guessed() {
    for said in [
        "content-length: +2\r\n\r\nok",
        "content-length: 0x2\r\n\r\nok",
        "content-length: 2_\r\n\r\nok",
        "transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n0\r\n\r\n",
        "content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    ] {
        let bytes = format!("HTTP/1.1 200 OK\r\n{said}");
        let model = Backend::named("model").does(Script::says_and_stays(bytes)).start();
        let proxy = Proxy::to(&model, "").start();
        proxy.get("/").await.expect(502);
    }
    let bytes = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nF0000000000000003\r\nabc\r\n";
    let model = Backend::named("model").does(Script::says_and_stays(bytes)).start();
    let proxy = Proxy::to(&model, "").start();
    let mut wire = proxy.client().begin(Request::get("/").bytes()).await;
    let text = String::from_utf8(within("the end", wire.rest()).await).unwrap();
    assert!(!text.contains("abc") && !text.ends_with("0\r\n\r\n"), "{text}");
}

/// CVE-2026-2833: what followed a request for another protocol went to the endpoint unread,
/// though the endpoint had granted none.
#[tokio::test]
async fn what_follows_an_upgrade_that_was_not_granted_is_a_request() {
    let (model, proxy) = world();
    for protocol in ["foo", "websocket", "h2c", "foo/1, websocket"] {
        let sent = format!(
            "GET / HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: {protocol}\r\n\r\n\
             GET /admin HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
        );
        assert_eq!(statuses(&proxy, sent).await, [200, 404], "{protocol}");
    }
    assert!(model.seen().iter().all(|seen| seen.target() == "/"));
}

/// RUSTSEC-2026-0104: a list of revoked certificates with an empty set of reasons was a panic,
/// before anybody had looked at its signature.
#[tokio::test]
async fn a_list_of_revoked_certificates_that_is_odd_is_no_panic() {
    let verifier = |list: Vec<u8>| {
        let mut roots = RootCertStore::empty();
        let pem = Authority::named("clients").pem;
        roots
            .add(rustls::pki_types::CertificateDer::from_pem_slice(pem.as_bytes()).unwrap())
            .unwrap();
        let provider = rustls::crypto::aws_lc_rs::default_provider().into();
        WebPkiClientVerifier::builder_with_provider(std::sync::Arc::new(roots), provider)
            .with_crls([CertificateRevocationListDer::from(list)])
            .build()
            .unwrap_err()
    };
    // With reasons in it, it is read as far as this.
    let some = verifier(list_with_reasons(&[0x83, 2, 7, 0x80]));
    assert!(!matches!(&some, InvalidCrl(CertRevocationListError::ParseError)), "{some:?}");
    let none = verifier(list_with_reasons(&[0x83, 0]));
    assert!(matches!(&none, InvalidCrl(_)), "{none:?}");
    assert_ne!(format!("{some:?}"), format!("{none:?}"));

    let mut world = tls::World::new();
    let (clients, client_ca) = world.clients();
    world.folder.put(&[("crl.pem", &clients.revokes(&[]))]);
    let crl = world.folder.path("crl.pem");
    let proxy = world.proxy(&format!("{client_ca}\nclient_crl: {}", crl.display())).start();
    let client = world.client_with(&clients.issue(&Leaf::client("good")));
    world.folder.put(&[("crl.pem", &pem(&list_with_reasons(&[0x83, 0])))]);
    proxy.reload().await.expect(422);
    assert_eq!(tls::get(&proxy, &client).await.unwrap().status, 200);
}

/// A DER value.
fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let length = u8::try_from(content.len()).expect("a short value");
    let head = if length < 128 { vec![tag, length] } else { vec![tag, 0x81, length] };
    [head, content].concat()
}

/// A list whose distribution point is for `reasons` alone, signed by nobody.
fn list_with_reasons(reasons: &[u8]) -> Vec<u8> {
    const SEQUENCE: u8 = 0x30;
    let ecdsa = der(SEQUENCE, &[&der(6, &[&[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2]])]);
    let number = der(SEQUENCE, &[&der(6, &[&[0x55, 0x1d, 20]]), &der(4, &[&der(2, &[&[1]])])]);
    let point = der(SEQUENCE, &[reasons]);
    let critical = der(1, &[&[0xff]]);
    let point = der(SEQUENCE, &[&der(6, &[&[0x55, 0x1d, 28]]), &critical, &der(4, &[&point])]);
    let extensions = der(0xa0, &[&der(SEQUENCE, &[&number, &point])]);
    let [now, then] = [b"260101000000Z", b"360101000000Z"].map(|time| der(0x17, &[time]));
    let version = der(2, &[&[1]]);
    let name = der(SEQUENCE, &[]);
    let list = der(SEQUENCE, &[&version, &ecdsa, &name, &now, &then, &extensions]);
    der(SEQUENCE, &[&list, &ecdsa, &der(3, &[&[0, 1, 2, 3]])])
}

fn pem(der: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in der.chunks(3) {
        let bits = three.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
        let bits = bits << (8 * (3 - three.len()));
        for place in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * place) & 63) as usize];
            text.push(if place > three.len() { '=' } else { char::from(digit) });
        }
    }
    format!("-----BEGIN X509 CRL-----\n{text}\n-----END X509 CRL-----\n")
}

/// RUSTSEC-2024-0003 (h2 0.4.2), RUSTSEC-2024-0332 (0.4.4), RUSTSEC-2026-0258 (0.4.16);
/// RUSTSEC-2026-0098 and -0099 (rustls-webpki 0.103.12), -0104 (0.103.13). Hyper's are those
/// above, all before 1.0.
#[test]
fn what_is_linked_has_its_advisories_behind_it() {
    let lock = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.lock")).unwrap();
    for (name, least) in [
        ("h2", [0, 4, 16]),
        ("rustls-webpki", [0, 103, 13]),
        ("hyper", [1, 0, 0]),
        ("rustls", [0, 23, 18]),
    ] {
        let entry = format!("name = \"{name}\"\nversion = \"");
        let versions: Vec<_> = lock.match_indices(&entry).collect();
        assert!(!versions.is_empty(), "{name}");
        for (at, _) in versions {
            let version = lock[at + entry.len()..].split('"').next().unwrap();
            let numbers: Vec<u32> =
                version.split('.').map(|one| one.parse().expect("a number")).collect();
            assert!(numbers.as_slice() >= &least[..], "{name} {version}");
        }
    }
}
