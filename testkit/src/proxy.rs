//! The whole proxy, in this process, on free ports.

use std::net::SocketAddr;
use std::path::Path;

use serin::app::{App, Drained};
use tokio_util::sync::CancellationToken;

use crate::backend::Backend;
use crate::client::{Answer, Client, Request};
use crate::config::{ConfigFile, example};
use crate::http2::Http2;
use crate::metrics::Metrics;
use crate::rollout::Rollout;

/// The first address of a backend in the example files; the next ones have the next ports.
const FIRST_BACKEND: u16 = 9001;

/// A proxy that is not started yet.
#[derive(Clone, Debug)]
pub struct ProxyBuilder {
    text: String,
    mounted: bool,
    state: bool,
}

/// A running proxy. Stops when dropped.
#[derive(Debug)]
pub struct Proxy {
    config: ConfigFile,
    app: Option<App>,
}

impl ProxyBuilder {
    /// Puts `backends` in the places of 127.0.0.1:9001, 9002 and so on.
    pub fn backends<const N: usize>(mut self, backends: [&Backend; N]) -> Self {
        for (port, backend) in (FIRST_BACKEND..).zip(backends) {
            self = self.replace(&format!("127.0.0.1:{port}"), &backend.address.to_string());
        }
        self
    }

    /// Changes the config file.
    pub fn replace(mut self, from: &str, to: &str) -> Self {
        assert!(self.text.contains(from), "no {from} in\n{}", self.text);
        self.text = self.text.replace(from, to);
        self
    }

    /// Adds lines at the end of the config file.
    pub fn with(mut self, lines: &str) -> Self {
        self.text += lines;
        self.text.push('\n');
        self
    }

    /// Remembers rollouts in a state file beside the config.
    pub fn remembering(mut self) -> Self {
        self.state = true;
        self
    }

    /// Reads its config as a mounted `ConfigMap`.
    pub fn mounted(mut self) -> Self {
        self.mounted = true;
        self
    }

    /// Writes the config file, but starts nothing.
    pub fn config_file(self) -> ConfigFile {
        let mut text = self.text;
        // Any free port.
        for address in ["127.0.0.1:8080", "127.0.0.1:9901", "127.0.0.1:9902"] {
            text = text.replace(address, "127.0.0.1:0");
        }
        let make = if self.mounted { ConfigFile::mounted } else { ConfigFile::plain };
        let mut file = make(&text);
        if self.state {
            let state = file.folder().join("state.json");
            text += &format!("state: {{ file: {} }}\n", state.display());
            file.write(text.as_bytes());
        }
        file
    }

    /// Starts it.
    pub fn start(self) -> Proxy {
        let config = self.config_file();
        let app = start(config.path());
        Proxy { config, app: Some(app) }
    }
}

fn start(path: &Path) -> App {
    App::start(path).unwrap_or_else(|error| panic!("the proxy does not start: {error}"))
}

impl Proxy {
    /// With an example file of this project.
    pub fn with_config(name: &str) -> ProxyBuilder {
        ProxyBuilder { text: example(name), mounted: false, state: false }
    }

    /// With a config file of the test's own; 127.0.0.1 at 8080, 9901 and 9001 stand for
    /// the proxy's ports and the first backend's address, as in the examples.
    pub fn with_yaml(text: &str) -> ProxyBuilder {
        ProxyBuilder { text: text.to_owned(), mounted: false, state: false }
    }

    /// One rule for everything, one backend, and `more` lines of the rule.
    pub fn to(backend: &Backend, more: &str) -> ProxyBuilder {
        let text = format!(
            "listeners: [{{ name: http, address: 127.0.0.1:8080 }}]\n\
             admin: {{ address: 127.0.0.1:9901 }}\n\
             backends:\n  - {{ name: model, endpoints: [{}] }}\n\
             routes:\n  - name: all\n    rules:\n      - name: main\n\
             \x20       backends: [{{ name: model }}]\n{}",
            backend.address,
            more.lines().map(|line| format!("        {line}\n")).collect::<String>(),
        );
        Self::with_yaml(&text)
    }

    fn app(&self) -> &App {
        self.app.as_ref().expect("a proxy that runs")
    }

    /// Its first listener.
    pub fn address(&self) -> SocketAddr {
        self.app().listeners[0].1
    }

    /// All its listeners.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.app().listeners.iter().map(|(_, address)| *address).collect()
    }

    /// Its admin port.
    pub fn admin_address(&self) -> SocketAddr {
        self.app().admin
    }

    /// Its config file.
    pub fn config(&self) -> &ConfigFile {
        &self.config
    }

    /// A client of its first listener.
    pub fn client(&self) -> Client {
        Client::of(self.address())
    }

    /// An HTTP/2 client of its first listener.
    pub async fn http2(&self) -> Http2 {
        Http2::connect(self.address()).await
    }

    /// One request on a connection of its own.
    pub async fn send(&self, request: &Request) -> Answer {
        self.client().send(request).await
    }

    /// One GET on a connection of its own.
    pub async fn get(&self, target: &str) -> Answer {
        self.client().get(target).await
    }

    /// Reads from the admin port.
    pub async fn admin(&self, path: &str) -> Answer {
        let request = Request::get(path).host("localhost");
        Client::of(self.admin_address()).send(&request).await
    }

    /// Asks the admin port for something.
    pub async fn ask(&self, path: &str) -> Answer {
        let request = Request::post(path, "").host("localhost");
        let request = request.header("content-type", "application/json");
        Client::of(self.admin_address()).send(&request).await
    }

    /// A scrape.
    pub async fn metrics(&self) -> Metrics {
        Metrics(self.admin("/metrics").await.expect(200).text())
    }

    /// A rollout of its config.
    pub fn rollout(&self, name: &str) -> Rollout<'_> {
        Rollout::new(self, name)
    }

    /// Writes the config file anew; it is not told.
    pub fn write(&mut self, text: impl AsRef<[u8]>) {
        self.config.write(text.as_ref());
    }

    /// Writes the config file with `from` replaced; it is not told.
    pub fn rewrite(&mut self, from: &str, to: &str) {
        let text = self.config.text();
        assert!(text.contains(from), "no {from} in\n{text}");
        self.write(text.replace(from, to));
    }

    /// Tells it to read the config file.
    pub async fn reload(&self) -> Answer {
        self.ask("/reload").await
    }

    /// Stops it and starts another one on the same files, on other ports.
    pub fn restart(&mut self) {
        self.stop();
        self.app = Some(start(self.config.path()));
    }

    /// Stops it at once.
    pub fn stop(&mut self) {
        if let Some(app) = self.app.take() {
            app.stop();
        }
    }

    /// Drains it, while the test goes on.
    pub fn drain(&mut self) -> std::thread::JoinHandle<Drained> {
        let app = self.app.take().expect("a proxy that runs");
        std::thread::spawn(move || app.drain(&CancellationToken::new()))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop();
    }
}
