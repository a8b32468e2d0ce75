//! TLS at a listener: which certificate is shown, which is asked for, what is passed on.

use std::time::Duration;

use bytes::Bytes;
use rustls::HandshakeKind;
use rustls::version::{TLS12, TLS13};
use serin_testkit::{
    Answer, Authority, Backend, Broken, Certificate, Client, Http2, Leaf, Proxy, ProxyBuilder,
    Request, Script, SecretFolder, Streamed, TlsClient, Wire, eventually, within,
};
use tokio::net::TcpSocket;

/// What a [`World`] has a certificate for.
pub const NAME: &str = "models.example.com";

const SPIFFE: &str = "spiffe://example.org/ns/models/sa/batch";

/// A listener with TLS, and what it is made of.
pub struct World {
    pub authority: Authority,
    pub folder: SecretFolder,
    pub model: Backend,
}

impl World {
    /// With a certificate for `models.example.com`.
    pub fn new() -> Self {
        Self::in_folder(SecretFolder::plain())
    }

    pub fn in_folder(mut folder: SecretFolder) -> Self {
        let authority = Authority::named("servers");
        authority.issue(&Leaf::server(&["models.example.com"])).put(&mut folder, "tls");
        Self { authority, folder, model: Backend::named("model").start() }
    }

    /// `more` are lines of the listener's `tls`.
    pub fn proxy(&self, more: &str) -> ProxyBuilder {
        let path = |name: &str| self.folder.path(name).display().to_string();
        let listener = format!(
            "listeners:\n  - name: https\n    address: 127.0.0.1:8080\n    tls:\n\
             \x20     certificates:\n        - {{ cert: {}, key: {} }}\n{}",
            path("tls.crt"),
            path("tls.key"),
            more.lines().fold(String::new(), |text, line| text + "      " + line + "\n"),
        );
        Proxy::to(&self.model, "")
            .replace("listeners: [{ name: http, address: 127.0.0.1:8080 }]\n", &listener)
    }

    pub fn client(&self) -> TlsClient {
        TlsClient::trusting(&self.authority)
    }

    /// An authority for clients, in the file `clients.crt`.
    pub fn clients(&mut self) -> (Authority, String) {
        let authority = Authority::named("clients");
        let client_ca = self.trusting(&authority);
        (authority, client_ca)
    }

    /// The same for an authority that there is.
    pub fn trusting(&mut self, authority: &Authority) -> String {
        self.folder.put(&[("clients.crt", &authority.pem)]);
        format!("client_ca: {}", self.folder.path("clients.crt").display())
    }

    pub fn client_with(&self, certificate: &Certificate) -> TlsClient {
        TlsClient::with(&self.authority, certificate)
    }
}

pub async fn get(proxy: &Proxy, tls: &TlsClient) -> Result<Answer, Broken> {
    let mut client = Client::of_tls(proxy.address(), tls, "models.example.com");
    client.try_send(&Request::get("/")).await
}

/// Waits until `name` with `label` has come to `expected`: a client may know first.
pub async fn counts(proxy: &Proxy, name: &str, label: (&str, &str), expected: u32) {
    let what = format!("{name} of {label:?} is {expected}");
    eventually(&what, async || {
        let value = proxy.metrics().await.value(name, &[label]);
        ((value - f64::from(expected)).abs() < 1e-9).then_some(())
    })
    .await;
}

const HANDSHAKES: &str = "serin_tls_handshakes_total";
const REFUSED: &str = "serin_connections_refused_total";

#[tokio::test]
async fn an_endpoint_is_told_that_the_client_spoke_https() {
    let world = World::new();
    let proxy = world.proxy("").start();
    let mut client = Client::of_tls(proxy.address(), &world.client(), "models.example.com");
    let body = vec![7; 3 << 20];
    client.get("/one").await.expect(200);
    client.post("/two", body.clone()).await.expect(200);
    let seen = world.model.saw(2).await;
    assert_eq!(seen[0].header("x-forwarded-proto"), "https");
    assert_eq!(seen[0].header("x-forwarded-for"), "127.0.0.1");
    assert_eq!(seen[0].header("x-forwarded-client-cert"), "");
    assert!(seen[1].body == body);
    counts(&proxy, HANDSHAKES, ("result", "full"), 1).await;
}

/// What TLS took while the socket took nothing has to be flushed when nothing more is written.
/// How much a socket takes is the kernel's: answers of growing length, of which one ends there.
#[tokio::test]
async fn who_begins_to_read_late_gets_an_answer_over_http2_to_its_end() {
    let world = World::new();
    let proxy = world.proxy("").start();
    let lengths = (1..200).map(|pieces| pieces * (56 << 10));
    for length in lengths.clone() {
        world.model.now(Script::answers(200).body(vec![b'x'; length]));
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(16 << 10).unwrap();
        let stream = socket.connect(proxy.address()).await.unwrap();
        let stream = world.client().offering(&["h2"]).over(stream, NAME).await.unwrap();
        let mut builder = h2::client::Builder::new();
        // It is the socket that holds up, not a window.
        let windows = builder.initial_window_size(1 << 30).initial_connection_window_size(1 << 30);
        let (mut sender, mut connection) = windows.handshake::<_, Bytes>(stream).await.unwrap();
        let request = http::Request::get("https://models.example.com/").body(()).unwrap();
        let (answer, _) = sender.send_request(request, true).unwrap();
        let answer = tokio::select! {
            answer = answer => answer.unwrap(),
            _ = &mut connection => panic!("the proxy has left"),
        };
        // Nothing is read until all is with Serin, if it takes all.
        let all = eventually("the model has said all", async || {
            (world.model.under_way() == 0).then_some(())
        });
        let fits = tokio::time::timeout(Duration::from_secs(1), all).await.is_ok();
        tokio::spawn(connection);
        let (mut body, mut read) = (answer.into_body(), 0);
        while let Some(piece) = within("the next piece", body.data()).await {
            read += piece.unwrap().len();
        }
        assert_eq!(read, length);
        if !fits {
            return;
        }
    }
    // Where the model's socket takes all of them, one ended where the client's was full.
    let sizes = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_wmem").unwrap();
    let most: usize = sizes.split_whitespace().last().unwrap().parse().unwrap();
    assert!(lengths.max().unwrap() > most, "all of them went into a socket");
}

#[tokio::test]
async fn http2_is_spoken_where_both_sides_know_it() {
    let world = World::new();
    let proxy = world.proxy("").start();
    for (offered, agreed) in [
        (&["h2", "http/1.1"][..], Some("h2")),
        (&["http/1.1", "h2"], Some("h2")),
        (&["http/1.1"], Some("http/1.1")),
        (&["h2"], Some("h2")),
        (&[], None),
    ] {
        let tls = world.client().offering(offered);
        let stream = tls.connect(proxy.address(), "models.example.com").await.unwrap();
        let spoken = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
        assert_eq!(spoken.as_deref(), agreed.map(str::as_bytes), "{offered:?}");
        if agreed == Some("h2") {
            let mut http2 = Http2::over(stream).await;
            let request = http::Request::get("https://models.example.com/").body(Streamed::of(""));
            assert_eq!(http2.exchange(request.unwrap()).await.body(), "model");
        } else {
            let mut wire = Wire::over_tls(stream);
            wire.send(Request::get("/").bytes()).await.unwrap();
            assert_eq!(within("a head", wire.head()).await.unwrap().status(), 200);
        }
    }
    // What nobody here speaks is refused in the handshake.
    let tls = world.client().offering(&["spdy/3"]);
    assert!(tls.connect(proxy.address(), "models.example.com").await.is_err());
    // What was agreed on is held to: HTTP/2 after `http/1.1` is no request.
    let tls = world.client().offering(&["http/1.1"]);
    let stream = tls.connect(proxy.address(), "models.example.com").await.unwrap();
    let mut wire = Wire::over_tls(stream);
    wire.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let said = within("the end", wire.rest()).await;
    assert!(said.starts_with(b"HTTP/1.1 4") || said.starts_with(b"HTTP/1.1 5") || said.is_empty());
}

#[tokio::test]
async fn a_client_is_shown_the_certificate_of_the_name_it_asks_for() {
    let mut world = World::new();
    let first = world.authority.issue(&Leaf::server(&["models.example.com", "127.0.0.1"]));
    let second = world.authority.issue(&Leaf::server(&["other.example.com"]));
    let wild = world.authority.issue(&Leaf::server(&["*.example.com"]));
    first.put(&mut world.folder, "tls");
    second.put(&mut world.folder, "second");
    wild.put(&mut world.folder, "wild");
    let folder = world.folder.path("");
    let folder = folder.display();
    let proxy = world
        .proxy("")
        .replace(
            "        - { cert",
            &format!(
                "        - {{ cert: {folder}/tls.crt, key: {folder}/tls.key }}\n\
                 \x20       - {{ cert: {folder}/wild.crt, key: {folder}/wild.key }}\n\
                 \x20       - {{ cert: {folder}/second.crt, key: {folder}/second.key }}\n\
                 \x20       - {{ cert"
            ),
        )
        .start();
    let client = world.client();
    for (name, expected) in [
        ("models.example.com", &first),
        ("other.example.com", &second),
        ("OTHER.example.com", &second),
        ("third.example.com", &wild),
        // No name is asked for where an address is expected.
        ("127.0.0.1", &first),
    ] {
        let shown = client.shown(proxy.address(), name).await.unwrap();
        assert!(shown == expected.der(), "{name}");
    }
    // A wildcard is one label; what nobody has gets the first, which the client refuses.
    for name in ["a.b.example.com", "example.com", "example.org"] {
        let error = client.shown(proxy.address(), name).await.unwrap_err().to_string();
        assert!(error.contains("not valid for name"), "{name}: {error}");
    }
}

#[tokio::test]
async fn the_oldest_version_is_as_configured() {
    let world = World::new();
    let both = world.proxy("").start();
    let newest = world.proxy("min_version: 1.3").start();
    let old = TlsClient::only(&world.authority, &TLS12);
    let new = TlsClient::only(&world.authority, &TLS13);
    assert_eq!(get(&both, &old).await.unwrap().status, 200);
    assert_eq!(get(&both, &new).await.unwrap().status, 200);
    assert_eq!(get(&newest, &new).await.unwrap().status, 200);
    assert!(matches!(get(&newest, &old).await, Err(Broken::Handshake(_))));
    counts(&newest, HANDSHAKES, ("result", "failed"), 1).await;
}

#[tokio::test]
async fn a_client_that_comes_back_resumes_its_session_at_any_worker() {
    let world = World::new();
    let proxy = world.proxy("").start();
    for version in [&TLS12, &TLS13] {
        let client = TlsClient::only(&world.authority, version);
        for round in 0..8 {
            let stream = client.connect(proxy.address(), "models.example.com").await.unwrap();
            let expected = if round == 0 { HandshakeKind::Full } else { HandshakeKind::Resumed };
            assert_eq!(stream.get_ref().1.handshake_kind(), Some(expected), "{version:?} {round}");
            // Tickets come with what is read.
            let mut wire = Wire::over_tls(stream);
            wire.send(Request::get("/").bytes()).await.unwrap();
            assert_eq!(within("a head", wire.head()).await.unwrap().status(), 200);
        }
    }
    counts(&proxy, HANDSHAKES, ("result", "resumed"), 14).await;
}

#[tokio::test]
async fn a_client_without_a_good_certificate_is_refused() {
    let mut world = World::new();
    let (clients, client_ca) = world.clients();
    let strangers = Authority::named("strangers");
    let required = world.proxy(&client_ca).start();
    let optional = world.proxy(&format!("{client_ca}\nclient_auth: optional")).start();
    let good = clients.issue(&Leaf::client("batch").uri(SPIFFE));
    let bad = [
        ("wrong CA", strangers.issue(&Leaf::client("batch").uri(SPIFFE))),
        ("expired", clients.issue(&Leaf::client("batch").expired())),
        ("not yet", clients.issue(&Leaf::client("batch").days(2, 30))),
        ("not a client's", clients.issue(&Leaf::server(&["models.example.com"]))),
    ];
    for version in [&TLS12, &TLS13] {
        let refused = TlsClient::only(&world.authority, version);
        assert!(get(&required, &refused).await.is_err());
        assert_eq!(get(&optional, &refused).await.unwrap().status, 200);
    }
    for (what, certificate) in &bad {
        for proxy in [&required, &optional] {
            let answer = get(proxy, &world.client_with(certificate)).await;
            assert!(answer.is_err(), "{what}: {answer:?}");
        }
    }
    // Nothing of theirs has come through: two came without a certificate where they may.
    assert_eq!(world.model.requests(), 2);
    for proxy in [&required, &optional] {
        assert_eq!(get(proxy, &world.client_with(&good)).await.unwrap().status, 200);
    }
    counts(&required, HANDSHAKES, ("result", "failed"), 6).await;
}

/// RUSTSEC-2026-0098: what an authority may vouch for was not asked of URIs, by which clients are
/// known here.
#[tokio::test]
async fn an_authority_vouches_for_no_clients_but_its_own() {
    let mut world = World::new();
    let clients = Authority::of_uris("example.org");
    let client_ca = world.trusting(&clients);
    let proxy = world.proxy(&client_ca).start();
    // Who has no URI is not what the limit is about.
    let plain = clients.issue(&Leaf::client("batch"));
    assert_eq!(get(&proxy, &world.client_with(&plain)).await.unwrap().status, 200);
    let other = clients.issue(&Leaf::client("batch").uri("spiffe://example.com/root"));
    let answer = get(&proxy, &world.client_with(&other)).await;
    assert!(answer.is_err(), "{answer:?}");
    assert_eq!(world.model.requests(), 1);
}

#[tokio::test]
async fn an_endpoint_learns_who_the_client_is_and_from_nobody_else() {
    let mut world = World::new();
    let (clients, client_ca) = world.clients();
    let proxy = world.proxy(&format!("{client_ca}\nclient_auth: optional")).start();
    let batch = world.client_with(&clients.issue(&Leaf::client("batch").uri(SPIFFE)));
    let forged = Request::get("/")
        .header("X-Forwarded-Client-Cert", "URI=spiffe://example.org/root")
        .header("x_forwarded_client_cert", "URI=spiffe://example.org/root")
        .header("x-forwarded-client-cert", "URI=spiffe://example.org/admin");
    let mut client = Client::of_tls(proxy.address(), &batch, "models.example.com");
    client.send(&forged).await.expect(200);
    // A connection that may be resumed is still the same client's.
    client = Client::of_tls(proxy.address(), &batch, "models.example.com");
    client.send(&forged).await.expect(200);
    let mut nobody = Client::of_tls(proxy.address(), &world.client(), "models.example.com");
    nobody.send(&forged).await.expect(200);
    let plain = Proxy::to(&world.model, "").start();
    plain.send(&forged).await.expect(200);
    let mut http2 = Http2::connect(plain.address()).await;
    let request = http::Request::get("http://models.example.com/")
        .header("x-forwarded-client-cert", "URI=spiffe://example.org/root");
    http2.exchange(request.body(Streamed::of("")).unwrap()).await;

    let seen = world.model.saw(5).await;
    for (index, request) in seen.iter().enumerate() {
        let text = String::from_utf8_lossy(&request.head.raw).to_lowercase();
        assert!(!text.contains("example.org/root") && !text.contains("example.org/admin"));
        assert!(!text.contains("x_forwarded"), "{text}");
        let field = request.header("x-forwarded-client-cert");
        if index < 2 {
            let (hash, rest) = field.split_once(';').unwrap();
            assert!(hash.starts_with("Hash=") && hash.len() == 69, "{hash}");
            assert_eq!(rest, format!("Subject=\"O=Serin,CN=batch\";URI={SPIFFE}"));
        } else {
            assert_eq!(field, "");
        }
    }
}

#[tokio::test]
async fn a_rule_may_be_for_one_client() {
    let mut world = World::new();
    let (clients, client_ca) = world.clients();
    let trusted = Backend::named("trusted").start();
    let proxy = world
        .proxy(&format!("{client_ca}\nclient_auth: optional"))
        .replace(
            "routes:",
            &format!("  - {{ name: trusted, endpoints: [{}] }}\nroutes:", trusted.address),
        )
        .replace(
            "      - name: main\n",
            &format!(
                "      - name: by-id\n        matches: [{{ client: {{ spiffe: \"{SPIFFE}\" }} }}]\n\
                 \x20       backends: [{{ name: trusted }}]\n\
                 \x20     - name: by-subject\n\
                 \x20       matches: [{{ client: {{ subject: \"O=Serin,CN=ada\" }} }}]\n\
                 \x20       backends: [{{ name: trusted }}]\n\
                 \x20     - name: main\n        matches: [{{ client: {{ present: false }} }}]\n"
            ),
        )
        .start();
    let with = |leaf: Leaf| world.client_with(&clients.issue(&leaf));
    for (client, status, body) in [
        (with(Leaf::client("batch").uri(SPIFFE)), 200, "trusted"),
        (with(Leaf::client("ada")), 200, "trusted"),
        (world.client(), 200, "model"),
        (with(Leaf::client("eve").uri("spiffe://example.org/eve")), 404, ""),
        // A subject that reads like an id is none.
        (with(Leaf::client(SPIFFE)), 404, ""),
    ] {
        let answer = get(&proxy, &client).await.unwrap().expect(status);
        assert!(status == 404 || answer.text() == body, "{}", answer.text());
    }
}

#[tokio::test]
async fn a_revoked_client_is_refused_and_its_session_is_not_resumed() {
    let mut world = World::new();
    let (clients, client_ca) = world.clients();
    let (good, lost) = (clients.issue(&Leaf::client("good")), clients.issue(&Leaf::client("lost")));
    world.folder.put(&[("crl.pem", &clients.revokes(&[]))]);
    let crl = world.folder.path("crl.pem");
    let proxy = world.proxy(&format!("{client_ca}\nclient_crl: {}", crl.display())).start();
    let (good, lost) = (world.client_with(&good), (world.client_with(&lost), lost));
    for client in [&good, &lost.0] {
        assert_eq!(get(&proxy, client).await.unwrap().status, 200);
    }
    world.folder.put(&[("crl.pem", &clients.revokes(&[&lost.1]))]);
    proxy.reload().await.expect(200);
    assert!(get(&proxy, &lost.0).await.is_err());
    assert_eq!(get(&proxy, &good).await.unwrap().status, 200);
}

#[tokio::test]
async fn http_on_a_port_for_tls_is_told_so() {
    let world = World::new();
    let proxy = world.proxy("").start();
    let answer = proxy.get("/").await;
    assert_eq!((answer.status, answer.header("connection").as_deref()), (400, Some("close")));
    assert!(answer.text().contains("https"), "{}", answer.text());
    assert_eq!(world.model.requests(), 0);
    counts(&proxy, REFUSED, ("reason", "not_tls"), 1).await;
    // And the other way round.
    let plain = Proxy::to(&world.model, "").start();
    assert!(world.client().connect(plain.address(), "models.example.com").await.is_err());
}

#[tokio::test]
async fn those_who_say_nothing_do_not_keep_others_out() {
    let world = World::new();
    let proxy = world.proxy("").with("workers: 1").start();
    let mut silent = Vec::new();
    for _ in 0..1030 {
        silent.push(Wire::connect(proxy.address()).await);
    }
    assert_eq!(get(&proxy, &world.client()).await.unwrap().status, 200);
    // The oldest have made room, long before their time was up.
    for wire in &mut silent[..6] {
        within("the end", wire.left()).await;
    }
    let metrics = proxy.metrics().await;
    let refused = [("listener", "https"), ("reason", "crowded")];
    assert!(metrics.value("serin_connections_refused_total", &refused) >= 6.0);
}

#[tokio::test]
async fn those_who_do_not_come_to_a_request_hold_no_place_that_others_need() {
    let world = World::new();
    let listener = "    address: 127.0.0.1:8080\n";
    let limited = format!("{listener}    limits: {{ connections: 2 }}\n    head_timeout: 1h\n");
    let proxy = world.proxy("").replace(listener, &limited).with("workers: 1").start();
    let mut silent = Wire::connect(proxy.address()).await;
    let mut half = Wire::connect(proxy.address()).await;
    half.send([22, 3, 1, 1, 0, 1]).await.unwrap();
    let mut clients = Vec::new();
    for _ in 0..2 {
        let mut client = Client::of_tls(proxy.address(), &world.client(), NAME);
        client.get("/").await.expect(200);
        clients.push(client);
    }
    within("the end", silent.left()).await;
    within("the end", half.left()).await;
    counts(&proxy, REFUSED, ("reason", "crowded"), 2).await;
}

#[tokio::test]
async fn a_handshake_that_does_not_end_is_cut() {
    let world = World::new();
    let proxy = world.proxy("").start();
    let mut silent = Wire::connect(proxy.address()).await;
    let mut half = Wire::connect(proxy.address()).await;
    half.send([22, 3, 1, 1, 0, 1]).await.unwrap();
    for wire in [&mut silent, &mut half] {
        within("the end", wire.left()).await;
    }
    counts(&proxy, REFUSED, ("reason", "timeout"), 2).await;
}

#[tokio::test]
async fn a_drain_does_not_wait_for_those_who_say_nothing() {
    let world = World::new();
    let mut proxy = world.proxy("").start();
    let mut silent = Wire::connect(proxy.address()).await;
    let mut client = Client::of_tls(proxy.address(), &world.client(), "models.example.com");
    client.get("/").await.expect(200);
    let drained = proxy.drain();
    within("the end", silent.left()).await;
    let drained = tokio::task::spawn_blocking(|| drained.join().unwrap());
    assert_eq!(within("the drain", drained).await.unwrap(), serin::app::Drained::Whole);
}
