//! TLS to endpoints: whom Serin believes, what it shows, what is spoken.

use http::HeaderMap;
use serin_testkit::{
    Authority, Backend, Certificate, Http2Backend, Leaf, Proxy, ProxyBuilder, SecretFolder,
    TlsFront, eventually,
};

/// Endpoints behind TLS, and what it is made of.
struct World {
    authority: Authority,
    folder: SecretFolder,
    model: Backend,
    http2: Http2Backend,
}

impl World {
    /// Whose authority is in the file `ca.crt`.
    async fn new() -> Self {
        let (authority, mut folder) = (Authority::named("endpoints"), SecretFolder::plain());
        folder.put(&[("ca.crt", &authority.pem)]);
        let http2 = Http2Backend::start(HeaderMap::new()).await;
        Self { authority, folder, model: Backend::named("model").start(), http2 }
    }

    async fn front(&self, certificate: &Certificate, protocols: &[&str]) -> TlsFront {
        let to = (self.model.address, self.http2.address);
        TlsFront::start(certificate, None, protocols, to).await
    }

    fn issue(&self, name: &str) -> Certificate {
        self.authority.issue(&Leaf::server(&[name]))
    }

    /// `tls` are keys of the backend's map, beside `ca`.
    fn proxy(&self, front: &TlsFront, protocol: &str, tls: &str) -> ProxyBuilder {
        let ca = self.folder.path("ca.crt");
        let endpoint = format!(
            "{}], protocol: {protocol}, tls: {{ ca: {}{tls} }}",
            front.address,
            ca.display()
        );
        Proxy::to(&self.model, "").replace(&format!("{}]", self.model.address), &endpoint)
    }
}

#[tokio::test]
async fn an_endpoint_is_believed_by_its_address_or_by_a_name() {
    let world = World::new().await;
    let by_address = world.front(&world.issue("127.0.0.1"), &[]).await;
    let by_name = world.front(&world.issue("models.internal"), &[]).await;
    let strangers = Authority::named("strangers");
    let stranger = world.front(&strangers.issue(&Leaf::server(&["127.0.0.1"])), &[]).await;
    let leaf = Leaf::server(&["127.0.0.1"]);
    let expired = world.front(&world.authority.issue(&leaf.clone().expired()), &[]).await;
    let client = world.front(&world.authority.issue(&Leaf::client("model")), &[]).await;
    let named = ", server_name: models.internal";
    for (front, tls, status) in [
        (&by_address, "", 200),
        (&by_name, named, 200),
        (&by_name, "", 502),
        (&by_address, named, 502),
        (&stranger, "", 502),
        (&expired, "", 502),
        (&client, "", 502),
    ] {
        let before = world.model.requests();
        let proxy = world.proxy(front, "http1", tls).start();
        for _ in 0..2 {
            let answer = proxy.get("/").await.expect(status);
            assert!(status == 200 || answer.text().contains("cannot connect"), "{}", answer.text());
        }
        let seen = world.model.requests() - before;
        assert_eq!(seen, if status == 200 { 2 } else { 0 }, "{tls}");
        // Whom one cannot believe is at fault.
        let metrics = proxy.metrics().await;
        let bad = metrics.value("serin_attempts_total", &[("outcome", "bad")]);
        assert!((bad - if status == 200 { 0.0 } else { 2.0 }).abs() < 1e-9, "{bad}");
    }
    assert_eq!(by_name.handshakes()[0].name.as_deref(), Some("models.internal"));
    // An address is not asked for by name (RFC 6066, section 3).
    assert_eq!(by_address.handshakes()[0].name, None);
}

/// Regression: GHSA-xgp8-3hg3-c2mh, a wildcard beyond what the authority may vouch for.
#[tokio::test]
async fn an_authority_vouches_for_no_names_but_its_own() {
    let mut world = World::new().await;
    for (domain, certificate, name, status) in [
        ("internal", "models.internal", "models.internal", 200),
        ("internal", "models.example.com", "models.example.com", 502),
        ("a.example.com", "*.example.com", "b.example.com", 502),
        ("a.example.com", "*.example.com", "a.example.com", 502),
    ] {
        world.authority = Authority::of_domain(domain);
        world.folder.put(&[("ca.crt", &world.authority.pem)]);
        let front = world.front(&world.issue(certificate), &[]).await;
        let proxy = world.proxy(&front, "http1", &format!(", server_name: {name}")).start();
        proxy.get("/").await.expect(status);
    }
    assert_eq!(world.model.requests(), 1);
}

#[tokio::test]
async fn connections_are_kept_and_each_new_one_shows_its_certificate() {
    let world = World::new().await;
    let front = world.front(&world.issue("127.0.0.1"), &["http/1.1"]).await;
    let proxy = world.proxy(&front, "http1", "").with("workers: 1").start();
    let body = vec![7; 3 << 20];
    let mut client = proxy.client();
    for _ in 0..5 {
        client.get("/").await.expect(200);
        client.post("/", body.clone()).await.expect(200);
    }
    assert_eq!(front.handshakes().len(), 1);
    assert!(world.model.seen().iter().skip(1).step_by(2).all(|seen| seen.body == body));
    // Closed by the endpoint, it dials anew. In a resumed session nobody would look at the
    // certificate, which may have expired.
    world.model.dies().await;
    world.model.revives().await;
    client.get("/").await.expect(200);
    let handshakes = front.handshakes();
    assert_eq!((handshakes.len(), handshakes[1].resumed), (2, false));
}

#[tokio::test]
async fn what_is_spoken_is_what_was_configured_or_else_agreed_on() {
    let world = World::new().await;
    for (protocol, offered, agreed) in [
        ("auto", &["h2", "http/1.1"][..], Some("h2")),
        ("auto", &["http/1.1"], Some("http/1.1")),
        ("auto", &[], None),
        ("http1", &["h2", "http/1.1"], Some("http/1.1")),
        ("http2", &["h2", "http/1.1"], Some("h2")),
    ] {
        let front = world.front(&world.issue("127.0.0.1"), offered).await;
        let (http1, http2) = (world.model.requests(), world.http2.seen().len());
        let proxy = world.proxy(&front, protocol, "").start();
        for _ in 0..2 {
            proxy.client().post("/", "hello").await.expect(200);
        }
        let handshakes = front.handshakes();
        let spoken = handshakes.iter().map(|one| one.protocol.as_deref());
        assert!(spoken.clone().all(|one| one == agreed), "{protocol} {offered:?}: {handshakes:?}");
        let seen = (world.model.requests() - http1, world.http2.seen().len() - http2);
        assert_eq!(seen, if agreed == Some("h2") { (0, 2) } else { (2, 0) }, "{protocol}");
        if agreed == Some("h2") {
            let last = world.http2.seen().pop().unwrap();
            assert_eq!(last.uri.scheme_str(), Some("https"));
        }
    }
}

#[tokio::test]
async fn an_endpoint_that_asks_is_shown_a_certificate_that_may_be_replaced() {
    let mut world = World::new().await;
    let clients = Authority::named("proxies");
    let (first, second) =
        (clients.issue(&Leaf::client("serin")), clients.issue(&Leaf::client("serin")));
    first.put(&mut world.folder, "own");
    let to = (world.model.address, world.http2.address);
    let asks = TlsFront::start(&world.issue("127.0.0.1"), Some(&clients), &[], to).await;
    let own = |world: &World| {
        let (cert, key) = (world.folder.path("own.crt"), world.folder.path("own.key"));
        format!(", cert: {}, key: {}", cert.display(), key.display())
    };
    let silent = world.proxy(&asks, "http1", "").start();
    silent.get("/").await.expect(502);
    let proxy = world.proxy(&asks, "http1", &own(&world)).start();
    proxy.get("/").await.expect(200);
    let metrics = proxy.metrics().await;
    let expiry = metrics.value(
        "serin_tls_certificate_expiry_timestamp_seconds",
        &[
            ("backend", "model"),
            ("certificate", &world.folder.path("own.crt").display().to_string()),
        ],
    );
    assert!(expiry > 1e9, "{expiry}");
    let last = || asks.handshakes().pop().unwrap().certificate.unwrap();
    assert!(last() == first.der());
    second.put(&mut world.folder, "own");
    proxy.reload().await.expect(200);
    proxy.get("/").await.expect(200);
    assert!(last() == second.der());
    // One that does not fit changes nothing.
    world.folder.put(&[("own.key", &first.key)]);
    let answer = proxy.reload().await.expect(422);
    assert!(answer.text().contains("does not fit"), "{}", answer.text());
    proxy.get("/").await.expect(200);
}

#[tokio::test]
async fn other_authorities_are_believed_at_once_and_no_request_fails() {
    let mut world = World::new().await;
    let front = world.front(&world.issue("127.0.0.1"), &[]).await;
    let proxy = world.proxy(&front, "http1", "").start();
    let mut client = proxy.client();
    client.get("/").await.expect(200);
    for _ in 0..5 {
        let next = Authority::named("endpoints, anew");
        // Both, until the endpoint has its new certificate.
        world.folder.put(&[("ca.crt", &(world.authority.pem.clone() + &next.pem))]);
        proxy.reload().await.expect(200);
        client.get("/").await.expect(200);
        front.now(&next.issue(&Leaf::server(&["127.0.0.1"])), None, &[]);
        world.folder.put(&[("ca.crt", &next.pem)]);
        proxy.reload().await.expect(200);
        client.get("/").await.expect(200);
        world.authority = next;
    }
    // Whom nobody vouches for any more gets no request, on a connection from before neither.
    let stranger = Authority::named("strangers");
    world.folder.put(&[("ca.crt", &stranger.pem)]);
    proxy.reload().await.expect(200);
    client.get("/").await.expect(502);
}

#[tokio::test]
async fn health_is_asked_over_tls_too() {
    let world = World::new().await;
    let good = world.front(&world.issue("127.0.0.1"), &["h2", "http/1.1"]).await;
    let strangers = Authority::named("strangers");
    let bad = world.front(&strangers.issue(&Leaf::server(&["127.0.0.1"])), &[]).await;
    let both = format!("{}, {}]", good.address, bad.address);
    let proxy = world
        .proxy(&good, "auto", "")
        .replace(&format!("{}]", good.address), &both)
        .replace("protocol: auto", "protocol: auto, health: { path: /well, interval: 100ms }")
        .start();
    let is_well = |front: &TlsFront, expected: f64| {
        let endpoint = front.address.to_string();
        let proxy = &proxy;
        async move {
            eventually("health is known", async || {
                let labels = [("backend", "model"), ("endpoint", endpoint.as_str())];
                let value = proxy.metrics().await.value("serin_endpoint_healthy", &labels);
                ((value - expected).abs() < 1e-9).then_some(())
            })
            .await;
        }
    };
    is_well(&good, 1.0).await;
    is_well(&bad, 0.0).await;
    for _ in 0..8 {
        proxy.get("/").await.expect(200);
    }
}
