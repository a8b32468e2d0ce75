//! The Kubernetes API as a pod meets it: over TLS, with an authority and a token that are
//! renewed under its feet.

use std::net::SocketAddr;

use serin_testkit::{
    Authority, Backend, KubeApi, Leaf, Proxy, SecretFolder, TlsFront, arg, eventually,
};

struct World {
    api: KubeApi,
    front: TlsFront,
    account: SecretFolder,
    a: Backend,
    b: Backend,
    proxy: Proxy,
}

impl World {
    async fn start(authority: &Authority) -> Self {
        let api = KubeApi::start();
        let (a, b) = (Backend::named("a").start(), Backend::named("b").start());
        api.service("chat", &[a.address], &[]);
        let certificate = authority.issue(&Leaf::server(&["127.0.0.1"]));
        let to = (api.address, api.address);
        let front = TlsFront::start(&certificate, None, &[], to).await;
        let mut account = SecretFolder::mounted();
        account.put(&[("token", "first\n"), ("ca.crt", &authority.pem)]);
        let proxy = Self::proxy(front.address, &account);
        Self { api, front, account, a, b, proxy }
    }

    fn proxy(server: SocketAddr, account: &SecretFolder) -> Proxy {
        let (token, ca) = (account.path("token"), account.path("ca.crt"));
        Proxy::with_yaml(&format!(
            "listeners: [{{ name: http, address: 127.0.0.1:8080 }}]\n\
             admin: {{ address: 127.0.0.1:9901 }}\n\
             kubernetes: {{ server: \"https://{server}\", token_file: {}, ca: {} }}\n\
             backends: [{{ name: model, service: \"models/chat:80\" }}]\n\
             routes: [{{ name: all, rules: [{{ name: main, backends: [{{ name: model }}] }}] }}]\n",
            arg(&token),
            arg(&ca),
        ))
        .start()
    }

    async fn until_answered_by(&self, who: &Backend) {
        eventually(&format!("{} answers", who.name), async || {
            (self.proxy.get("/").await.text() == who.name).then_some(())
        })
        .await;
    }

    async fn until_found(&self, wanted: bool) {
        let labels = [("backend", "model")];
        eventually(&format!("endpoints are found: {wanted}"), async || {
            let found = self.proxy.metrics().await.value("serin_discovery_successful", &labels);
            ((found > 0.5) == wanted).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_token_that_is_renewed_is_the_one_that_is_sent() {
    let authority = Authority::named("cluster");
    let mut world = World::start(&authority).await;
    world.until_answered_by(&world.a).await;
    assert!(!world.front.handshakes().is_empty());
    // It has expired: whoever still sends it is refused.
    world.api.ban("first");
    world.until_found(false).await;
    world.api.service("chat", &[world.b.address], &[]);
    world.until_answered_by(&world.a).await;
    world.account.put(&[("token", "second\n"), ("ca.crt", &authority.pem)]);
    world.until_answered_by(&world.b).await;
    world.until_found(true).await;
}

#[tokio::test]
async fn another_authority_is_not_believed_until_the_account_has_it() {
    let (first, second) = (Authority::named("first"), Authority::named("second"));
    let mut world = World::start(&first).await;
    world.until_answered_by(&world.a).await;
    world.front.now(&second.issue(&Leaf::server(&["127.0.0.1"])), None, &[]);
    world.api.cut_watches();
    world.until_found(false).await;
    let before = world.front.handshakes().len();
    world.api.service("chat", &[world.b.address], &[]);
    world.until_answered_by(&world.a).await;
    // Nothing was asked of whom it does not believe.
    assert_eq!(world.front.handshakes().len(), before);
    world.account.put(&[("token", "first\n"), ("ca.crt", &second.pem)]);
    world.until_answered_by(&world.b).await;
    // The right authority, but of somebody else.
    world.front.now(&second.issue(&Leaf::server(&["elsewhere"])), None, &[]);
    world.api.cut_watches();
    world.until_found(false).await;
    world.until_answered_by(&world.b).await;
}
