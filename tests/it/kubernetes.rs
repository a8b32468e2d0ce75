//! Backends that are found by a service of Kubernetes: a scripted API in front of real proxies.

use std::collections::HashSet;
use std::net::SocketAddr;

use serde_json::json;
use serin_testkit::{
    Backend, Client, KubeApi, Program, Proxy, ProxyBuilder, Request, arg, eventually, ms,
};

const SERIN: &str = env!("CARGO_BIN_EXE_serin");

fn proxy_with(api: &KubeApi, service: &str) -> ProxyBuilder {
    Proxy::with_yaml(&format!(
        "listeners: [{{ name: http, address: 127.0.0.1:8080 }}]\n\
         admin: {{ address: 127.0.0.1:9901 }}\n\
         {}\n\
         backends: [{{ name: model, service: \"{service}\" }}]\n\
         routes: [{{ name: all, rules: [{{ name: main, backends: [{{ name: model }}] }}] }}]\n",
        api.config()
    ))
}

/// Who answers now.
async fn who(proxy: &Proxy) -> HashSet<String> {
    let mut client = proxy.client();
    let mut names = HashSet::new();
    for _ in 0..30 {
        let answer = client.get("/").await;
        names.insert(if answer.status == 200 { answer.text() } else { "nobody".to_owned() });
    }
    names
}

async fn until(proxy: &Proxy, names: &[&str]) {
    let wanted: HashSet<_> = names.iter().map(|name| (*name).to_owned()).collect();
    let what = format!("{names:?} answer");
    eventually(&what, async || (who(proxy).await == wanted).then_some(())).await;
}

fn named(name: &str) -> Backend {
    Backend::named(name).start()
}

fn at(backends: &[&Backend]) -> Vec<SocketAddr> {
    backends.iter().map(|one| one.address).collect()
}

async fn is_found(proxy: &Proxy) -> bool {
    let labels = [("backend", "model")];
    proxy.metrics().await.value("serin_discovery_successful", &labels) > 0.5
}

#[tokio::test]
async fn the_ready_pods_of_a_service_get_the_requests() {
    let api = KubeApi::start();
    let (a, b) = (named("a"), named("b"));
    api.service("chat", &at(&[&a]), &[]);
    // By number of the service's port, and by name.
    for port in ["80", "http"] {
        let proxy = proxy_with(&api, &format!("models/chat:{port}")).start();
        // From the first request on: the start waits for the list.
        assert_eq!(who(&proxy).await, HashSet::from(["a".to_owned()]));
        api.service("chat", &at(&[&a, &b]), &[]);
        until(&proxy, &["a", "b"]).await;
        api.service("chat", &at(&[&b]), &at(&[&a]));
        until(&proxy, &["b"]).await;
        // The last one ends: it serves until the next is ready.
        api.service("chat", &[], &at(&[&a]));
        until(&proxy, &["a"]).await;
        api.service("chat", &[], &[]);
        until(&proxy, &["nobody"]).await;
        api.service("chat", &at(&[&a]), &[]);
        until(&proxy, &["a"]).await;
    }
}

#[tokio::test]
async fn cut_watches_bookmarks_and_410_are_lived_through() {
    let api = KubeApi::start();
    let (a, b) = (named("a"), named("b"));
    api.service("chat", &at(&[&a]), &[]);
    let proxy = proxy_with(&api, "models/chat:80").start();
    until(&proxy, &["a"]).await;
    let lists = api.asked("LIST");
    // A cut is followed from the version that is known: no list.
    api.cut_watches();
    api.service("chat", &at(&[&b]), &[]);
    until(&proxy, &["b"]).await;
    assert_eq!(api.asked("LIST"), lists);
    // A bookmark keeps the version young enough to go on from.
    api.compact();
    let relisted = async || (api.asked("LIST") > lists).then_some(());
    eventually("it lists anew after 410", relisted).await;
    api.service("chat", &at(&[&a]), &[]);
    until(&proxy, &["a"]).await;
}

#[tokio::test]
async fn the_api_being_away_changes_nothing_for_requests() {
    let api = KubeApi::start();
    let (a, b) = (named("a"), named("b"));
    api.service("chat", &at(&[&a]), &[]);
    let proxy = proxy_with(&api, "models/chat:80").start();
    until(&proxy, &["a"]).await;
    api.set_away(true);
    eventually("it is told", async || (!is_found(&proxy).await).then_some(())).await;
    assert_eq!(who(&proxy).await, HashSet::from(["a".to_owned()]));
    api.service("chat", &at(&[&b]), &[]);
    api.set_delay(ms(50));
    api.set_away(false);
    until(&proxy, &["b"]).await;
    assert!(is_found(&proxy).await);
}

#[tokio::test]
async fn a_service_that_is_not_there_is_waited_for() {
    let api = KubeApi::start();
    let a = named("a");
    let proxy = proxy_with(&api, "models/chat:80").start();
    assert_eq!(who(&proxy).await, HashSet::from(["nobody".to_owned()]));
    eventually("it is told", async || (!is_found(&proxy).await).then_some(())).await;
    api.service("chat", &at(&[&a]), &[]);
    until(&proxy, &["a"]).await;
}

#[tokio::test]
async fn a_config_is_compared_with_the_cluster_that_it_is_for() {
    let api = KubeApi::start();
    let file = Proxy::with_yaml(
        "listeners: [{ name: http, address: 127.0.0.1:8080 }]\n\
         metrics: { address: 127.0.0.1:9902 }\n\
         fleet: { name: gateway, namespace: models, max_replicas: 1, replicas: \"models/serin:http\" }\n\
         backends:\n\
         \x20 - { name: v1, service: \"models/v1:80\" }\n\
         \x20 - { name: v2, service: \"models/v2:81\" }\n\
         \x20 - { name: v3, service: \"models/v3:80\" }\n\
         routes: [{ name: all, rules: [{ name: main, backends: \
         [{ name: v1 }, { name: v2 }, { name: v3 }] }] }]\n",
    )
    .config_file();
    let server = format!("http://{}", api.address);
    let args = ["check", "--k8s", "--k8s-server", &server, "-o", "json", arg(file.path())];
    let check = async |code| {
        let output = Program::output(SERIN, &args).await.expect(code);
        let found: Vec<serde_json::Value> = serde_json::from_str(&output.stdout).unwrap();
        let short = |one: &serde_json::Value| {
            format!("{} at {}", one["code"].as_str().unwrap_or_default(), one["line"])
        };
        found.iter().map(short).collect::<Vec<_>>()
    };
    let address = ([127, 0, 0, 1], 9000).into();
    api.service("v1", &[address], &[]);
    api.service("v2", &[address], &[]);
    assert_eq!(check(1).await, ["SRN0603 at 3", "SRN0601 at 3", "SRN0601 at 6", "SRN0601 at 7",]);
    api.put("/api/v1/namespaces/models/configmaps/serin-gateway", json!({}));
    api.service("serin", &[address], &[]);
    api.service("v3", &[], &[]);
    let mut service = api.object("/api/v1/namespaces/models/services/v2").unwrap();
    service["spec"]["ports"][0]["port"] = json!(81);
    api.put("/api/v1/namespaces/models/services/v2", service);
    assert_eq!(check(0).await, ["SRN0602 at 7"]);
    api.service("v3", &[address], &[]);
    assert_eq!(check(0).await, [""; 0]);
    api.service("serin", &[address, ([127, 0, 0, 1], 9001).into()], &[]);
    assert_eq!(check(0).await, ["SRN0605 at 3"]);
    api.set_away(true);
    assert!(check(1).await.contains(&"SRN0604 at 5".to_owned()));
}

/// A file that is mounted by itself, as a kubelet does it with `subPath`: in a mount namespace of
/// its own.
#[tokio::test]
async fn a_config_that_is_mounted_by_itself_is_warned_about() {
    let apart = ["--map-root-user", "--mount"];
    let probe = match Program::find("unshare") {
        Some(_) => Program::output("unshare", &[&apart[..], &["true"]].concat()).await.code,
        None => None,
    };
    if probe != Some(0) {
        eprintln!("SKIPPED: no mount namespace is to be had here. `subPath` was NOT tried.");
        return;
    }
    let (v1, v2) = (Backend::named("v1").start(), Backend::named("v2").start());
    let file = Proxy::with_config("canary.yaml").backends([&v1, &v2]).config_file();
    let place = file.folder().join("mounted");
    std::fs::create_dir(&place).unwrap();
    let config = arg(file.path());
    let by_itself = "touch \"$2/one.yaml\" && mount --bind \"$1\" \"$2/one.yaml\" && \
                     exec \"$0\" run -c \"$2/one.yaml\"";
    let folder = "mount --bind \"$(dirname \"$1\")\" \"$2\" && \
                  exec \"$0\" run -c \"$2/$(basename \"$1\")\"";
    for (script, warned) in [(by_itself, true), (folder, false)] {
        let shell = ["sh", "-c", script, SERIN, config, arg(&place)];
        let program = Program::start("unshare", &[&apart[..], &shell].concat());
        let admin = program.address(" admin").await;
        // It is said before the port answers.
        let request = Request::get("/readyz").host("localhost");
        Client::of(admin).send(&request).await.expect(200);
        let said = program.said().contains("the config file is mounted by itself");
        assert_eq!(said, warned, "{}", program.said());
    }
}
