//! Who a client is when a proxy of bytes stands before Serin, and whom to believe.

use serin_testkit::{
    Backend, Proxy, ProxyBuilder, Request, Stopwatch, TlsClient, Wire, eventually, ms, secs, within,
};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::tls::World;

const V1: &str = "PROXY TCP4 192.0.2.7 198.51.100.2 56324 443\r\n";
const LISTENER: &str = "listeners: [{ name: http, address: 127.0.0.1:8080 }]";

fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let len = u16::try_from(block.len()).unwrap().to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n", &[command, family][..], &len, block].concat()
}

fn behind(model: &Backend, proxy_protocol: &str) -> ProxyBuilder {
    let listener = LISTENER.replace(" }]", &format!(", proxy_protocol: {proxy_protocol} }}]"));
    Proxy::to(model, "").replace(LISTENER, &listener)
}

/// Says `bytes` and then a GET, and returns what the endpoint was told of where it came from;
/// `None` when the connection was closed without an answer.
async fn told(proxy: &Proxy, model: &Backend, bytes: &[u8]) -> Option<String> {
    let mut wire = Wire::connect(proxy.address()).await;
    let _ = wire.send([bytes, &Request::get("/").bytes()].concat()).await;
    let head = within("an answer, or the end", wire.head()).await.ok()?;
    assert_eq!(head.status(), 200);
    Some(model.last().header("x-forwarded-for"))
}

#[tokio::test]
async fn the_client_is_whom_the_header_names() {
    let model = Backend::named("model").start();
    let proxy = behind(&model, "true").start();
    let tcp4 = [192, 0, 2, 9, 198, 51, 100, 2, 1, 2, 3, 4];
    let extra = [&tcp4[..], &[4, 0, 1, 0]].concat();
    let mut tcp6 = [0; 36];
    tcp6[..2].copy_from_slice(&[0x20, 1]);
    for (header, expected) in [
        (V1.as_bytes().to_vec(), "192.0.2.7"),
        (b"PROXY TCP6 2001:db8::7 ::1 1 2\r\n".to_vec(), "2001:db8::7"),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
        (v2(0x21, 0x11, &tcp4), "192.0.2.9"),
        (v2(0x21, 0x11, &extra), "192.0.2.9"),
        (v2(0x21, 0x21, &tcp6), "2001::"),
        (v2(0x20, 0, &[]), "127.0.0.1"),
    ] {
        assert_eq!(told(&proxy, &model, &header).await.as_deref(), Some(expected));
    }
}

#[tokio::test]
async fn a_header_may_come_in_any_pieces() {
    let model = Backend::named("model").start();
    let proxy = behind(&model, "true").start();
    let header = v2(0x21, 0x11, &[192, 0, 2, 9, 198, 51, 100, 2, 1, 2, 3, 4]);
    for (header, expected) in [(V1.as_bytes(), "192.0.2.7"), (&header, "192.0.2.9")] {
        let mut wire = Wire::connect(proxy.address()).await;
        for byte in header {
            wire.send([*byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        wire.send(Request::get("/").bytes()).await.unwrap();
        assert_eq!(within("a head", wire.head()).await.unwrap().status(), 200);
        assert_eq!(model.last().header("x-forwarded-for"), expected);
    }
}

#[tokio::test]
async fn without_a_proper_header_nothing_is_served() {
    let model = Backend::named("model").start();
    let proxy = behind(&model, "true").start();
    for bytes in [
        &b""[..],
        b"PROXY TCP4 192.0.2.7 198.51.100.2 56324\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.2 56324 443\n",
        &v2(0x21, 0x12, &[0; 12]),
        &v2(0x21, 0x11, &[0; 11]),
        &v2(0x21, 0x00, &[0; 5000]),
    ] {
        assert_eq!(told(&proxy, &model, bytes).await, None, "{bytes:?}");
    }
    assert_eq!(model.requests(), 0);
    let refused = [("listener", "http"), ("reason", "proxy_protocol")];
    eventually("all are counted", async || {
        let count = proxy.metrics().await.value("serin_connections_refused_total", &refused);
        ((count - 6.0).abs() < 1e-9).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_header_that_does_not_end_is_cut_in_the_time_of_a_head() {
    let model = Backend::named("model").start();
    let brief = ("proxy_protocol", "head_timeout: 500ms, proxy_protocol");
    let proxy = behind(&model, "true").replace(brief.0, brief.1).start();
    let binary = v2(0x21, 0x11, &[192, 0, 2, 9, 198, 51, 100, 2, 1, 2, 3, 4]);
    let begun = Stopwatch::start();
    // Nothing at all, and half a header of each kind.
    for begin in [&b""[..], &V1.as_bytes()[..20], &binary[..20]] {
        let mut wire = proxy.client().begin(begin).await;
        assert_eq!(within("it is cut", wire.rest()).await, b"", "{begin:?}");
    }
    // A byte at a time, each long before the time is over.
    let mut wire = proxy.client().begin("PROXY UNKNOWN ").await;
    while tokio::time::timeout(ms(50), wire.left()).await.is_err() {
        let _ = wire.send("x").await;
    }
    // Four of them: nothing else ends such a connection as soon.
    assert!(begun.elapsed() < secs(20), "{:?}", begun.elapsed());
    let late = [("listener", "http"), ("reason", "timeout")];
    eventually("all are counted", async || {
        let count = proxy.metrics().await.value("serin_connections_refused_total", &late);
        ((count - 4.0).abs() < 1e-9).then_some(())
    })
    .await;
    assert_eq!(model.requests(), 0);
}

#[tokio::test]
async fn a_header_from_elsewhere_is_not_believed() {
    let model = Backend::named("model").start();
    let proxy = behind(&model, "{ from: [10.0.0.0/8] }").start();
    assert_eq!(told(&proxy, &model, V1.as_bytes()).await, None);
    let proxy = behind(&model, "{ from: [10.0.0.0/8, 127.0.0.1] }").start();
    assert_eq!(told(&proxy, &model, V1.as_bytes()).await.as_deref(), Some("192.0.2.7"));
}

#[tokio::test]
async fn a_handshake_may_follow_the_header() {
    let world = World::new();
    let proxy =
        world.proxy("").replace("    tls:\n", "    proxy_protocol: true\n    tls:\n").start();
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    stream.write_all(V1.as_bytes()).await.unwrap();
    let stream = world.client().over(stream, "models.example.com").await.unwrap();
    let mut wire = Wire::over_tls(stream);
    wire.send(Request::get("/").bytes()).await.unwrap();
    assert_eq!(within("a head", wire.head()).await.unwrap().status(), 200);
    assert_eq!(world.model.last().header("x-forwarded-for"), "192.0.2.7");
    // Without one, there is none.
    let tls: TlsClient = world.client();
    assert!(tls.connect(proxy.address(), "models.example.com").await.is_err());
}

#[tokio::test]
async fn what_a_client_says_of_itself_is_kept_only_of_those_who_are_trusted() {
    let model = Backend::named("model").start();
    let mut proxy = behind(&model, "true").with("trusted_proxies: [192.0.2.0/24]").start();
    let request = Request::get("/")
        .header("x-forwarded-for", "9.9.9.9")
        .header("x-forwarded-proto", "https")
        .header("x-forwarded-host", "public.example.com")
        .header("forwarded", "for=9.9.9.9");
    let fields = ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "forwarded"];
    for (config, from, expected) in [
        (
            "[192.0.2.0/24]",
            "192.0.2.7",
            [
                "9.9.9.9, 192.0.2.7",
                "https, http",
                "public.example.com, models.example.com",
                "for=9.9.9.9",
            ],
        ),
        ("[192.0.2.0/24]", "192.0.3.7", ["192.0.3.7", "http", "models.example.com", ""]),
        ("[]", "192.0.2.7", ["192.0.2.7", "http", "models.example.com", ""]),
        ("[\"::/0\"]", "192.0.2.7", ["192.0.2.7", "http", "models.example.com", ""]),
        (
            "[0.0.0.0/0]",
            "192.0.3.7",
            [
                "9.9.9.9, 192.0.3.7",
                "https, http",
                "public.example.com, models.example.com",
                "for=9.9.9.9",
            ],
        ),
    ] {
        let text = proxy.config().text();
        let (before, _) = text.split_once("trusted_proxies:").unwrap();
        proxy.write(format!("{before}trusted_proxies: {config}\n"));
        proxy.reload().await.expect(200);
        let header = V1.replace("192.0.2.7", from);
        let mut wire = Wire::connect(proxy.address()).await;
        wire.send([header.as_bytes(), &request.bytes()].concat()).await.unwrap();
        assert_eq!(within("a head", wire.head()).await.unwrap().status(), 200);
        let seen = model.last();
        assert_eq!(fields.map(|field| seen.header(field)), expected, "{config} {from}");
    }
}
