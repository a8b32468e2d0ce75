//! Certificates, keys and authorities are replaced while clients come and go.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use serin_testkit::{
    Authority, Certificate, Client, Leaf, Program, Proxy, Request, SecretFolder, Streamed,
    TlsClient, Wire, arg, eventually, within,
};

use crate::tls::{World, get};

const NAME: &str = "models.example.com";
const SERIN: &str = env!("CARGO_BIN_EXE_serin");

const REFUSED: [(&str, &str); 1] = [("result", "refused")];

/// Waits until `certificate` is shown.
async fn is_shown(proxy: &Proxy, tls: &TlsClient, certificate: &Certificate) {
    let der = certificate.der();
    eventually("the certificate is shown", async || {
        let shown = tls.shown(proxy.address(), NAME).await;
        (shown.expect("a handshake") == der).then_some(())
    })
    .await;
}

/// What `/config_dump` says is wrong, as one text.
async fn last_error(proxy: &Proxy) -> String {
    let dump = proxy.admin("/config_dump").await.expect(200).json();
    if dump["last_error"].is_null() { String::new() } else { dump["last_error"].to_string() }
}

#[tokio::test]
async fn ten_rotations_under_load_fail_no_handshake_and_cut_no_connection() {
    let mut world = World::in_folder(SecretFolder::mounted());
    let proxy = world.proxy("").start();
    let (stop, shaken) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let address = proxy.address();
    let newcomers = (0..4).map(|index| {
        let (stop, shaken) = (Arc::clone(&stop), Arc::clone(&shaken));
        // Half of them resume, half come for the first time.
        let (authority, resuming) = (world.client(), index % 2 == 0);
        let fresh = authority.clone();
        tokio::spawn(async move {
            while !stop.load(SeqCst) {
                let tls = if resuming { &authority } else { &fresh.forgetful() };
                let mut client = Client::of_tls(address, tls, NAME);
                client.get("/").await.expect(200);
                shaken.fetch_add(1, SeqCst);
            }
        })
    });
    let newcomers: Vec<_> = newcomers.collect();
    // These stay to the end.
    let mut old = Client::of_tls(address, &world.client(), NAME);
    old.get("/").await.expect(200);
    let offers_h2 = world.client().offering(&["h2"]);
    let stream = offers_h2.connect(address, NAME).await.unwrap();
    let mut http2 = serin_testkit::Http2::over(stream).await;

    for _ in 0..10 {
        let before = shaken.load(SeqCst);
        let next = world.authority.issue(&Leaf::server(&[NAME]));
        next.put(&mut world.folder, "tls");
        proxy.reload().await.expect(200);
        is_shown(&proxy, &world.client().forgetful(), &next).await;
        old.get("/").await.expect(200);
        let request = http::Request::get(format!("https://{NAME}/")).body(Streamed::of(""));
        assert_eq!(http2.exchange(request.unwrap()).await.status(), 200);
        eventually("handshakes go on", async || {
            (shaken.load(SeqCst) >= before + 8 || newcomers[0].is_finished()).then_some(())
        })
        .await;
    }
    stop.store(true, SeqCst);
    for client in newcomers {
        client.await.unwrap();
    }
    let metrics = proxy.metrics().await;
    let failed = [("listener", "https"), ("result", "failed")];
    assert!(metrics.value("serin_tls_handshakes_total", &failed).abs() < 1e-9);
    let resumed = [("listener", "https"), ("result", "resumed")];
    assert!(metrics.value("serin_tls_handshakes_total", &resumed) >= 10.0);
    assert!(metrics.value("serin_connections_refused_total", &[]).abs() < 1e-9);
    // Other certificates are no other config.
    assert!((metrics.value("serin_config_generation", &[]) - 1.0).abs() < 1e-9);
    assert_eq!(last_error(&proxy).await, "");
}

#[tokio::test]
async fn a_new_certificate_is_noticed_without_being_told() {
    for folder in [SecretFolder::plain(), SecretFolder::mounted()] {
        let mut world = World::in_folder(folder);
        let proxy = world.proxy("").start();
        // The first may be seen by the look at the start.
        for days in [7, 9] {
            let next = world.authority.issue(&Leaf::server(&[NAME]).days(-1, days));
            next.put(&mut world.folder, "tls");
            is_shown(&proxy, &world.client(), &next).await;
        }
        let metrics = proxy.metrics().await;
        let file = world.folder.path("tls.crt").display().to_string();
        let labels = [("listener", "https"), ("certificate", file.as_str())];
        let expiry = metrics.value("serin_tls_certificate_expiry_timestamp_seconds", &labels);
        let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
        let days = (expiry - now) / 86_400.0;
        assert!((8.9..9.1).contains(&days), "{days}");
    }
}

#[tokio::test]
async fn what_cannot_be_used_leaves_what_was_before_and_says_so() {
    let mut world = World::new();
    let proxy = world.proxy("").start();
    let first = world.client().shown(proxy.address(), NAME).await.unwrap();
    let good = world.authority.issue(&Leaf::server(&[NAME]));
    let old = world.authority.issue(&Leaf::server(&[NAME]).expired());
    let young = world.authority.issue(&Leaf::server(&[NAME]).days(2, 30));
    for (what, files, words) in [
        ("another's key", vec![("tls.key", good.key.as_str())], "does not fit"),
        ("expired", vec![("tls.crt", old.cert.as_str()), ("tls.key", &old.key)], "expired on"),
        (
            "not yet",
            vec![("tls.crt", young.cert.as_str()), ("tls.key", &young.key)],
            "not valid before",
        ),
        ("damaged", vec![("tls.crt", "-----BEGIN CERTIFICATE-----\nAAAA\n")], "not PEM"),
        ("empty", vec![("tls.crt", ""), ("tls.key", &good.key)], "no certificate"),
    ] {
        world.folder.put(&files);
        let answer = proxy.reload().await.expect(422);
        assert!(answer.text().contains("SRN0502"), "{what}: {}", answer.text());
        let error = last_error(&proxy).await;
        assert!(error.contains(words) && error.contains("stays in force"), "{what}: {error}");
        assert!(!error.contains("PRIVATE KEY"), "{error}");
        let shown = world.client().forgetful().shown(proxy.address(), NAME).await.unwrap();
        assert!(shown == first, "{what}");
        let taken = proxy.metrics().await.value("serin_config_last_reload_successful", &[]);
        assert!(taken.abs() < 1e-9, "{what}");
    }
    good.put(&mut world.folder, "tls");
    is_shown(&proxy, &world.client(), &good).await;
    assert_eq!(last_error(&proxy).await, "");
    let metrics = proxy.metrics().await;
    assert!((metrics.value("serin_config_last_reload_successful", &[]) - 1.0).abs() < 1e-9);
}

/// The clock of whoever made it may be a little ahead.
#[tokio::test]
async fn a_certificate_that_is_not_valid_yet_is_taken_once_it_is() {
    let mut world = World::new();
    let proxy = world.proxy("").start();
    let young = world.authority.issue(&Leaf::server(&[NAME]).in_seconds(3));
    young.put(&mut world.folder, "tls");
    eventually("it is noticed", async || {
        last_error(&proxy).await.contains("not valid before").then_some(())
    })
    .await;
    is_shown(&proxy, &world.client().forgetful(), &young).await;
    assert_eq!(last_error(&proxy).await, "");
    // It was refused once, however often it was looked at.
    let refused = proxy.metrics().await.value("serin_config_reloads_total", &REFUSED);
    assert!(refused < 1.5, "{refused}");
}

#[tokio::test]
async fn an_expired_certificate_does_not_come_by_another_name() {
    let mut world = World::new();
    let mut proxy = world.proxy("").start();
    let first = world.client().shown(proxy.address(), NAME).await.unwrap();
    world.authority.issue(&Leaf::server(&[NAME]).expired()).put(&mut world.folder, "old");
    let text = proxy.config().text();
    proxy.write(text.replace("tls.crt", "old.crt").replace("tls.key", "old.key"));
    let answer = proxy.reload().await.expect(422);
    assert!(answer.text().contains("expired on"), "{}", answer.text());
    assert!(world.client().shown(proxy.address(), NAME).await.unwrap() == first);
}

#[tokio::test]
async fn a_bad_certificate_holds_up_no_config_and_a_bad_config_no_certificate() {
    let mut world = World::new();
    let mut proxy = world.proxy("").start();
    let first = world.client().shown(proxy.address(), NAME).await.unwrap();
    // A config comes while the key does not fit.
    let next = world.authority.issue(&Leaf::server(&[NAME]));
    world.folder.put(&[("tls.key", &next.key)]);
    proxy.rewrite("name: main", "name: other");
    // Told, or seen by itself just before: then it has only the key to tell of.
    let answer = proxy.reload().await;
    assert!([200, 422].contains(&answer.status));
    assert!(last_error(&proxy).await.contains("does not fit"));
    let dump = proxy.admin("/config_dump").await.json();
    assert_eq!(dump["config"]["routes"][0]["rules"][0]["name"], "other");
    assert!(world.client().shown(proxy.address(), NAME).await.unwrap() == first);
    // A certificate comes while the config is none.
    proxy.rewrite("name: other", "nam: other");
    next.put(&mut world.folder, "tls");
    proxy.reload().await.expect(422);
    is_shown(&proxy, &world.client(), &next).await;
    assert!(last_error(&proxy).await.contains("SRN0101"));
}

#[tokio::test]
async fn tls_and_its_files_may_be_changed_by_the_config_but_not_to_what_is_not_there() {
    let mut world = World::new();
    let mut proxy = world.proxy("").start();
    let text = proxy.config().text();
    let (clients, client_ca) = world.clients();
    proxy.write(text.replace("  tls:\n", &format!("  tls:\n      {client_ca}\n")));
    proxy.reload().await.expect(200);
    assert!(get(&proxy, &world.client()).await.is_err());
    let batch = world.client_with(&clients.issue(&Leaf::client("batch")));
    assert_eq!(get(&proxy, &batch).await.unwrap().status, 200);
    // Files that are not there yet: the config waits for them.
    proxy.write(text.replace("tls.crt", "next.crt").replace("tls.key", "next.key"));
    let answer = proxy.reload().await.expect(422);
    assert!(answer.text().contains("next.crt"), "{}", answer.text());
    assert_eq!(get(&proxy, &batch).await.unwrap().status, 200);
    let next = world.authority.issue(&Leaf::server(&[NAME]));
    next.put(&mut world.folder, "next");
    eventually("the config is in force", async || {
        last_error(&proxy).await.is_empty().then_some(())
    })
    .await;
    is_shown(&proxy, &world.client(), &next).await;
    // Without TLS.
    proxy.write(
        text.split("    tls:\n").next().unwrap().to_owned()
            + "admin:"
            + text.split("admin:").nth(1).unwrap(),
    );
    proxy.reload().await.expect(200);
    proxy.get("/").await.expect(200);
}

#[tokio::test]
async fn other_authorities_are_asked_of_new_connections_also_of_those_who_come_back() {
    let mut world = World::new();
    let (old, client_ca) = world.clients();
    let proxy = world.proxy(&client_ca).start();
    let mut stays = Client::of_tls(
        proxy.address(),
        &world.client_with(&old.issue(&Leaf::client("batch"))),
        NAME,
    );
    let client = world.client_with(&old.issue(&Leaf::client("batch")));
    stays.get("/").await.expect(200);
    assert_eq!(get(&proxy, &client).await.unwrap().status, 200);
    let new = Authority::named("new clients");
    world.folder.put(&[("clients.crt", &new.pem)]);
    proxy.reload().await.expect(200);
    // It has a ticket of before.
    assert!(get(&proxy, &client).await.is_err());
    let client = world.client_with(&new.issue(&Leaf::client("batch")));
    assert_eq!(get(&proxy, &client).await.unwrap().status, 200);
    // Whoever was let in stays.
    stays.get("/").await.expect(200);
    // What is no authority changes nothing.
    world.folder.put(&[("clients.crt", "nothing")]);
    proxy.reload().await.expect(422);
    assert_eq!(get(&proxy, &client).await.unwrap().status, 200);
}

#[tokio::test]
async fn no_key_is_ever_shown() {
    let world = World::new();
    let proxy = world.proxy("").start();
    let key = std::fs::read_to_string(world.folder.path("tls.key")).unwrap();
    let line = key.lines().nth(1).unwrap();
    for path in ["/config_dump", "/metrics", "/api/rollouts"] {
        let text = proxy.admin(path).await.expect(200).text();
        assert!(!text.contains(line) && !text.contains("PRIVATE"), "{path}");
    }
}

/// Neither as it lies in the file nor as its bytes, where everything is logged that can be: good
/// handshakes and bad ones, a replaced key, one that does not fit, and one that is damaged.
#[tokio::test]
async fn no_key_is_ever_logged() {
    let mut world = World::new();
    let file = world.proxy("").config_file();
    let program = Program::start(SERIN, &["run", "-c", arg(file.path()), "--log", "trace"]);
    let address = program.address("listening").await;
    let admin = program.address("admin").await;
    let (mut next, other) = (
        world.authority.issue(&Leaf::server(&[NAME])),
        world.authority.issue(&Leaf::server(&[NAME])),
    );
    let mut keys = vec![std::fs::read_to_string(world.folder.path("tls.key")).unwrap()];
    keys.extend([next.key.clone(), other.key.clone()]);
    let ask = async |tls: TlsClient| Client::of_tls(address, &tls, NAME).get("/").await;
    ask(world.client()).await.expect(200);
    let stranger = TlsClient::trusting(&Authority::named("strangers"));
    assert!(stranger.connect(address, NAME).await.is_err());
    let reload = Request::post("/reload", "").header("content-type", "application/json");
    let reload = reload.host("localhost");
    next.put(&mut world.folder, "tls");
    Client::of(admin).send(&reload).await.expect(200);
    ask(world.client().forgetful()).await.expect(200);
    next.key.replace_range(100..104, "####");
    for bad in [&other.key, &next.key] {
        world.folder.put(&[("tls.key", bad)]);
        Client::of(admin).send(&reload).await.expect(422);
    }
    program.signal("TERM");
    let said = program.ended().await.expect(0).stdout;
    for told in ["handshake_failed", "certificates_renewed", "does not fit", "not PEM"] {
        assert!(said.contains(told), "{said}");
    }
    for key in keys {
        let der = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        // Within the secret number of PKCS #8, as numbers and in hexadecimal digits.
        let secret: [u8; 8] = der.secret_der()[40..48].try_into().unwrap();
        let numbers = format!("{secret:?}");
        let digits = format!("{:016x}", u64::from_be_bytes(secret));
        let lines = key.lines().filter(|line| !line.starts_with('-'));
        for form in lines.chain([numbers.trim_matches(['[', ']']), &digits, "PRIVATE KEY--"]) {
            assert!(!said.to_lowercase().contains(&form.to_lowercase()), "{form} is in the log");
        }
    }
}

#[tokio::test]
async fn a_connection_that_is_idle_when_certificates_change_goes_on() {
    let mut world = World::new();
    let proxy = world.proxy("").start();
    let stream = world.client().connect(proxy.address(), NAME).await.unwrap();
    let mut wire = Wire::over_tls(stream);
    world.authority.issue(&Leaf::server(&[NAME])).put(&mut world.folder, "tls");
    proxy.reload().await.expect(200);
    wire.send(Request::get("/").bytes()).await.unwrap();
    assert_eq!(within("a head", wire.head()).await.unwrap().status(), 200);
}
