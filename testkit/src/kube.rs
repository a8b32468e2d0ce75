//! A scripted Kubernetes API: real HTTP, real versions, real watches, and every way in which
//! they go wrong.
//!
//! Never a whole API: objects are what was put there, and a `labelSelector` of one label is all
//! that narrows a list.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// A Kubernetes API on a free port. Stops when dropped.
#[derive(Debug)]
pub struct KubeApi {
    /// Where it listens.
    pub address: SocketAddr,
    shared: Arc<Shared>,
    stop: CancellationToken,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    version: u64,
    /// By path.
    objects: BTreeMap<String, Value>,
    /// What happened, of each version: its kind, the object's path, the object.
    history: Vec<(u64, &'static str, String, Value)>,
    /// Older versions are not remembered.
    compacted: u64,
    is_away: bool,
    drops_writes: bool,
    is_silent: bool,
    delay: Duration,
    /// Rises when watches are cut.
    cuts: u64,
    /// Rises when watches are to get a bookmark.
    bookmarks: u64,
    /// How often something was asked, by method, with `LIST` and `WATCH` of their own.
    asked: HashMap<&'static str, u64>,
    /// Callers with these tokens are cut off.
    banned: Vec<String>,
    /// What nobody has rights to, by a part of its path.
    forbidden: Vec<String>,
}

impl KubeApi {
    /// Starts an empty one, on a thread of its own: a proxy that starts is waited for, and waits
    /// for this.
    pub fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("a socket");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::<Shared>::default();
        let (serving, stop) = (Arc::clone(&shared), CancellationToken::new());
        let stopped = stop.clone();
        std::thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(stopped.run_until_cancelled(accept(listener, serving)));
        });
        Self { address, shared, stop }
    }

    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        let result = change(&mut state);
        drop(state);
        self.shared.changed.notify_waiters();
        result
    }

    /// What a config says to use it.
    pub fn config(&self) -> String {
        format!("kubernetes: {{ server: \"http://{}\" }}", self.address)
    }

    /// Puts an object there, new or not.
    pub fn put(&self, path: &str, object: Value) {
        self.with(|state| state.write(path, object));
    }

    /// Takes an object away.
    pub fn delete(&self, path: &str) {
        self.with(|state| state.delete(path));
    }

    /// What is there.
    pub fn object(&self, path: &str) -> Option<Value> {
        self.with(|state| state.objects.get(path).cloned())
    }

    /// All that is in a folder, such as `/api/v1/namespaces/models/configmaps`.
    pub fn objects(&self, folder: &str) -> Vec<Value> {
        let is_in = |path: &String| path.rsplit_once('/').is_some_and(|(one, _)| one == folder);
        self.with(|state| {
            let found = state.objects.iter().filter(|(path, _)| is_in(path));
            found.map(|(_, object)| object.clone()).collect()
        })
    }

    /// A service with one port, and a slice with the endpoints that `ready` and `ending` say.
    pub fn service(&self, name: &str, ready: &[SocketAddr], ending: &[SocketAddr]) {
        let port = json!({ "name": "http", "port": 80 });
        let service = json!({ "spec": { "ports": [port] } });
        self.put(&format!("/api/v1/namespaces/models/services/{name}"), service);
        for (index, address) in ready.iter().chain(ending).enumerate() {
            let is_ready = index < ready.len();
            let conditions =
                json!({ "ready": is_ready, "serving": true, "terminating": !is_ready });
            let endpoint = json!({ "addresses": [address.ip()], "conditions": conditions });
            // Endpoints of a test differ in their ports, so each has a slice of its own.
            let slice = json!({
                "metadata": { "labels": { "kubernetes.io/service-name": name } },
                "addressType": "IPv4",
                "endpoints": [endpoint],
                "ports": [{ "name": "http", "port": address.port() }],
            });
            self.put(&slice_path(name, index), slice);
        }
        let mut index = ready.len() + ending.len();
        while self.object(&slice_path(name, index)).is_some() {
            self.delete(&slice_path(name, index));
            index += 1;
        }
    }

    /// Refuses every call from now on, and cuts those under way; or serves again.
    pub fn set_away(&self, is_away: bool) {
        self.with(|state| {
            state.is_away = is_away;
            state.cuts += u64::from(is_away);
        });
    }

    /// Hangs up on who writes, and lets everybody read and watch; or takes writes again.
    pub fn drop_writes(&self, drops: bool) {
        self.with(|state| state.drops_writes = drops);
    }

    /// Takes calls and answers none of them from now on, and says nothing on watches, which stay;
    /// or goes on with all of them.
    pub fn set_silent(&self, is_silent: bool) {
        self.with(|state| state.is_silent = is_silent);
    }

    /// Is cut off from those who call with this token.
    pub fn ban(&self, token: &str) {
        self.with(|state| {
            state.banned.push(format!("Bearer {token}"));
            state.cuts += 1;
        });
    }

    /// Refuses every call whose path has this in it, as for want of rights.
    pub fn forbid(&self, part: &str) {
        self.with(|state| state.forbidden.push(part.to_owned()));
    }

    /// Answers only after so long.
    pub fn set_delay(&self, delay: Duration) {
        self.with(|state| state.delay = delay);
    }

    /// Cuts every watch.
    pub fn cut_watches(&self) {
        self.with(|state| state.cuts += 1);
    }

    /// Sends a bookmark on every watch.
    pub fn bookmark(&self) {
        self.with(|state| state.bookmarks += 1);
    }

    /// Something that nobody here watches happens, and all that came before is forgotten: who
    /// goes on from an older version is told 410.
    pub fn compact(&self) {
        self.with(|state| {
            state.version += 1;
            state.compacted = state.version;
        });
    }

    /// How often it was asked so: a method, `LIST`, `WATCH`, or `DROPPED` of who wrote in vain.
    pub fn asked(&self, how: &str) -> u64 {
        self.with(|state| state.asked.get(how).copied().unwrap_or_default())
    }
}

impl Drop for KubeApi {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn accept(listener: std::net::TcpListener, shared: Arc<Shared>) {
    let listener = TcpListener::from_std(listener).expect("a socket");
    let mut calls = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        calls.spawn(async move {
            // A caller that goes away is its own business.
            let _ = serve(stream, &shared).await;
        });
        while calls.try_join_next().is_some() {}
    }
}

fn slice_path(service: &str, index: usize) -> String {
    format!("/apis/discovery.k8s.io/v1/namespaces/models/endpointslices/{service}-{index}")
}

impl State {
    fn write(&mut self, path: &str, mut object: Value) -> Value {
        self.version += 1;
        let name = path.rsplit('/').next().unwrap_or_default();
        object["metadata"]["name"] = json!(name);
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let before = self.objects.insert(path.to_owned(), object.clone());
        let kind = if before.is_some() { "MODIFIED" } else { "ADDED" };
        self.history.push((self.version, kind, path.to_owned(), object.clone()));
        object
    }

    fn delete(&mut self, path: &str) {
        let Some(mut object) = self.objects.remove(path) else { return };
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.history.push((self.version, "DELETED", path.to_owned(), object));
    }

    fn count(&mut self, how: &'static str) {
        *self.asked.entry(how).or_default() += 1;
    }

    /// One call that is not a watch: status and body.
    fn answer(&mut self, call: &Call) -> (u16, Value) {
        let path = call.path.as_str();
        if self.forbidden.iter().any(|part| path.contains(part)) {
            return refusal(403, "forbidden");
        }
        let is_object = self.objects.contains_key(path) || is_name(path);
        match call.method.as_str() {
            "GET" if is_object => {
                self.count("GET");
                match self.objects.get(path) {
                    Some(object) => (200, object.clone()),
                    None => refusal(404, "not found"),
                }
            }
            "GET" => {
                self.count("LIST");
                let items = self.objects.iter().filter(|(one, item)| call.wants(one, item));
                let items: Vec<_> = items.map(|(_, item)| item.clone()).collect();
                let version = self.version.to_string();
                (200, json!({ "metadata": { "resourceVersion": version }, "items": items }))
            }
            "POST" => {
                self.count("POST");
                let version = self.version;
                let name = call.body["metadata"]["name"].as_str().map(ToOwned::to_owned);
                let name = name.unwrap_or_else(|| format!("generated-{version}"));
                let path = format!("{path}/{name}");
                if self.objects.contains_key(&path) {
                    return refusal(409, "it exists already");
                }
                (201, self.write(&path, call.body.clone()))
            }
            "PUT" => {
                self.count("PUT");
                let Some(before) = self.objects.get(path) else {
                    return refusal(404, "not found");
                };
                let versions = [before, &call.body].map(|one| &one["metadata"]["resourceVersion"]);
                if versions[0] != versions[1] {
                    return refusal(409, "the object has been modified");
                }
                (200, self.write(path, call.body.clone()))
            }
            _ => refusal(405, "no such method here"),
        }
    }
}

/// Whether a path is one of an object and not of a list: `namespaces/x/kind/name`.
fn is_name(path: &str) -> bool {
    path.split_once("/namespaces/").is_some_and(|(_, rest)| rest.split('/').count() == 3)
}

fn refusal(code: u16, message: &str) -> (u16, Value) {
    (code, json!({ "kind": "Status", "status": "Failure", "message": message, "code": code }))
}

/// What was asked.
struct Call {
    method: String,
    path: String,
    query: HashMap<String, String>,
    token: String,
    body: Value,
}

impl Call {
    fn wants(&self, path: &str, object: &Value) -> bool {
        let is_in = path.rsplit_once('/').is_some_and(|(folder, _)| folder == self.path);
        let field = self.query.get("fieldSelector").map(|one| one.replace("%3D", "="));
        let name = field.as_deref().and_then(|one| one.strip_prefix("metadata.name="));
        let label = self.query.get("labelSelector").map(|one| {
            let text = one.replace("%2F", "/").replace("%3D", "=");
            let (key, value) = text.split_once('=').expect("a label and its value");
            object["metadata"]["labels"][key] == value
        });
        is_in && name.is_none_or(|name| object["metadata"]["name"] == name) && label.unwrap_or(true)
    }

    async fn read(stream: &mut TcpStream) -> std::io::Result<Self> {
        let mut bytes = Vec::new();
        let end = loop {
            if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            if stream.read_buf(&mut bytes).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        };
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let field = |name: &str| {
            let mut lines = head.lines().filter_map(|line| line.split_once(": "));
            lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
        };
        let length = field("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
        while bytes.len() < end + length {
            if stream.read_buf(&mut bytes).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
        let mut words = head.split(' ');
        let (method, target) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        Ok(Self {
            method: method.to_owned(),
            path: path.to_owned(),
            query: pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
            token: field("authorization").unwrap_or_default(),
            body: serde_json::from_slice(&bytes[end..]).unwrap_or_default(),
        })
    }
}

async fn serve(mut stream: TcpStream, shared: &Shared) -> std::io::Result<()> {
    let call = Call::read(&mut stream).await?;
    let lock = || shared.state.lock().unwrap_or_else(PoisonError::into_inner);
    let delay = lock().delay;
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    while_silent(shared).await;
    let is_away = |state: &State| state.is_away || state.banned.contains(&call.token);
    if is_away(&lock()) {
        return Ok(());
    }
    if call.query.contains_key("watch") {
        return watch(stream, &call, shared).await;
    }
    if call.method != "GET" && lock().drops_writes {
        lock().count("DROPPED");
        return Ok(());
    }
    let (status, body) = lock().answer(&call);
    shared.changed.notify_waiters();
    let body = body.to_string();
    let head = format!(
        "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).await
}

async fn while_silent(shared: &Shared) {
    loop {
        let changed = shared.changed.notified();
        let mut changed = std::pin::pin!(changed);
        changed.as_mut().enable();
        if !shared.state.lock().unwrap_or_else(PoisonError::into_inner).is_silent {
            break;
        }
        changed.await;
    }
}

async fn watch(mut stream: TcpStream, call: &Call, shared: &Shared) -> std::io::Result<()> {
    let lock = || shared.state.lock().unwrap_or_else(PoisonError::into_inner);
    let (cuts, mut bookmarks) = {
        let mut state = lock();
        state.count("WATCH");
        (state.cuts, state.bookmarks)
    };
    let version = call.query.get("resourceVersion").and_then(|text| text.parse::<u64>().ok());
    let mut seen = version.unwrap_or(0);
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\
                transfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await?;
    loop {
        while_silent(shared).await;
        let changed = shared.changed.notified();
        let mut changed = std::pin::pin!(changed);
        changed.as_mut().enable();
        let mut lines = String::new();
        let is_cut = {
            let state = lock();
            if seen < state.compacted {
                let gone = refusal(410, "too old resource version").1;
                lines += &format!("{}\n", json!({ "type": "ERROR", "object": gone }));
            }
            for (version, kind, path, object) in &state.history {
                if *version > seen && seen >= state.compacted && call.wants(path, object) {
                    lines += &format!("{}\n", json!({ "type": kind, "object": object }));
                }
            }
            if bookmarks != state.bookmarks {
                bookmarks = state.bookmarks;
                let version = state.version.to_string();
                let object = json!({ "metadata": { "resourceVersion": version } });
                lines += &format!("{}\n", json!({ "type": "BOOKMARK", "object": object }));
            }
            seen = seen.max(state.version);
            state.cuts != cuts
        };
        if is_cut {
            // In the middle of a chunk: no clean end.
            return stream.write_all(b"5\r\n{\"t").await;
        }
        if !lines.is_empty() {
            let chunk = format!("{:x}\r\n{lines}\r\n", lines.len());
            stream.write_all(chunk.as_bytes()).await?;
        }
        changed.await;
    }
}
