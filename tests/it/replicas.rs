//! Replicas of a fleet as processes, between a scripted API and scripted versions.
//!
//! Never decides what is to be seen: that is for the tests that use it.

use std::net::SocketAddr;

use serde_json::Value;
use serin_loadtest::load::{Load, LoadHandle, RequestTemplate};
use serin_testkit::{
    Answer, Backend, Client, ConfigFile, KubeApi, Metrics, Program, Proxy, Request, arg,
    eventually, seed,
};

pub const SERIN: &str = env!("CARGO_BIN_EXE_serin");
pub const ROLLOUT: &str = "sentiment-v2";
pub const LATCH: &str = "/api/v1/namespaces/models/configmaps/serin-gateway";
pub const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/models/leases/serin-gateway";

/// Two steps of a second or so, then one that lasts.
pub const SHORT: &str = "- { weight: 20%, for: { at_least: 0s, at_most: 2s } }
    - { weight: 40%, for: { at_least: 0s, at_most: 2s } }
    - { weight: 50%, for: 10m }";

/// One replica: a `serin` process with a config of its own.
pub struct Replica {
    pub program: Option<Program>,
    pub file: ConfigFile,
    pub proxy: SocketAddr,
    pub admin: SocketAddr,
    pub metrics: SocketAddr,
}

impl Replica {
    pub async fn start(file: ConfigFile) -> Self {
        let program = Program::start(SERIN, &["run", "-c", arg(file.path())]);
        let proxy = program.address("listening").await;
        let admin = program.address(" admin").await;
        let metrics = program.address(" metrics").await;
        Self { program: Some(program), file, proxy, admin, metrics }
    }

    pub fn id(&self) -> u32 {
        self.program.as_ref().unwrap().id()
    }

    pub async fn kill(&mut self) {
        let program = self.program.take().unwrap();
        program.signal("KILL");
        program.ended().await;
    }

    pub async fn get(&self, path: &str) -> Answer {
        let request = Request::get(path).host("localhost");
        Client::of(self.admin).send(&request).await.expect(200)
    }

    pub async fn view(&self) -> Value {
        self.get(&format!("/api/rollouts/{ROLLOUT}")).await.json()
    }

    pub async fn ask(&self, verb: &str) -> Answer {
        let request = Request::post(&format!("/api/rollouts/{ROLLOUT}/{verb}"), "");
        let request = request.host("localhost").header("content-type", "application/json");
        Client::of(self.admin).send(&request).await
    }

    pub async fn gauge(&self, name: &str) -> f64 {
        Metrics(self.get("/metrics").await.text()).value(name, &[])
    }

    pub async fn holds(&self) -> bool {
        self.gauge("serin_fleet_lease_held").await > 0.5
    }

    /// Waits until its rollout is like that.
    pub async fn expect(&self, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        eventually(&format!("{what} at {}", self.admin), async || {
            let view = self.view().await;
            is(&view).then_some(view)
        })
        .await
    }

    pub async fn at_step(&self, step: u64) {
        self.expect(&format!("step {step}"), |view| view["step"] == step).await;
    }

    pub async fn rolled_back(&self) -> Value {
        self.expect("it is rolled back", |view| view["state"] == "rolled_back").await
    }

    /// One request of a user.
    pub async fn request(&self) -> Answer {
        let request = Request::post("/v2/models/sentiment/infer", "{}").host("localhost");
        Client::of(self.proxy).send(&request).await
    }

    pub fn load(&self, rps: f64) -> LoadHandle {
        let request = RequestTemplate::sentiment("sentiment").unwrap();
        Load { seed: seed(), ..Load::new(self.proxy, rps, request) }.start().unwrap()
    }
}

/// The config of one replica, between its own ends.
pub fn config(api: &KubeApi, [v1, v2]: [&Backend; 2], token: &str, steps: &str) -> ConfigFile {
    let lines: Vec<_> = steps.lines().map(|line| format!("      {}", line.trim())).collect();
    let steps = format!(
        "\n    version: \"2\"\n    min_requests: 20\n    steps:\n{}\n\
         fleet: {{ name: gateway, namespace: models, max_replicas: 3, \
         replicas: \"models/serin-replicas:http\" }}\nmetrics: {{ address: 127.0.0.1:9902 }}",
        lines.join("\n")
    );
    let mut file = Proxy::with_config("canary.yaml").backends([v1, v2]).with(&steps).config_file();
    let path = file.folder().join("token");
    std::fs::write(&path, token).unwrap();
    let server = format!("http://{}", api.address);
    let kubernetes =
        format!("kubernetes: {{ server: \"{server}\", token_file: {} }}\n", path.display());
    file.write((file.text() + &kubernetes).as_bytes());
    file
}

/// The same config without a fleet: one proxy, for all of the traffic.
pub fn alone(mut file: ConfigFile) -> ConfigFile {
    let text = file.text();
    let is_own = |line: &&str| !line.starts_with("fleet:") && !line.starts_with("kubernetes:");
    let lines: Vec<_> = text.lines().filter(is_own).collect();
    file.write((lines.join("\n") + "\n").as_bytes());
    file
}

/// Whose calls are whose.
pub const TOKENS: [&str; 3] = ["one", "two", "three"];

pub async fn fleet(api: &KubeApi, v1: &Backend, v2: &Backend, steps: &str) -> Vec<Replica> {
    let mut replicas = Vec::new();
    for token in TOKENS {
        replicas.push(Replica::start(config(api, [v1, v2], token, steps)).await);
    }
    found(api, &replicas);
    replicas
}

/// The service of the replicas has these.
pub fn found(api: &KubeApi, replicas: &[Replica]) {
    let running = replicas.iter().filter(|one| one.program.is_some());
    let addresses: Vec<_> = running.map(|one| one.metrics).collect();
    api.service("serin-replicas", &addresses, &[]);
}

/// As [`holder`], once it hears of so many.
pub async fn holder_of(replicas: &[Replica], count: usize) -> usize {
    let index = holder(replicas).await;
    let all = |view: &Value| {
        let pooled = &view["fleet"]["pooled"];
        pooled["replicas"] == count && pooled["missing"].as_array().is_some_and(Vec::is_empty)
    };
    replicas[index].expect("it hears all", all).await;
    index
}

/// The place of the one that judges for all, once it hears everybody.
pub async fn holder(replicas: &[Replica]) -> usize {
    eventually("one of them judges for all", async || {
        for (index, replica) in replicas.iter().enumerate() {
            if replica.program.is_some() && replica.holds().await {
                return Some(index);
            }
        }
        None
    })
    .await
}
