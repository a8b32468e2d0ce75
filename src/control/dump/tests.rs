use super::*;
use crate::config::load::{Options, Source};

const FILE: &str = r#"
listeners:
  - { name: http, address: "127.0.0.1:8080", proxy_protocol: true }
  - name: https
    address: "127.0.0.1:8443"
    proxy_protocol: { from: [127.0.0.1, "::/0"] }
    tls:
      certificates: [{ cert: a.crt, key: a.key }, { cert: b.crt, key: b.key }]
      client_ca: ca.crt
      client_crl: crl.pem
      client_auth: optional
      min_version: 1.3
admin: { address: "0.0.0.0:9901", token_file: /etc/serin/token }
metrics: { address: "127.0.0.1:9902" }
trusted_proxies: [10.0.0.0/8]
state: { file: ./serin-state.json }
workers: 2
response_headers: true
access_log: { format: text, sample: 2.5%, headers: [user-agent], fields: [time, status, trace_id] }
tracing: { otlp: "http://127.0.0.1:4317", protocol: grpc, sample: 10%, bad_per_second: 3, service: front }
backends:
  - { name: a, endpoints: ["127.0.0.1:9001", "127.0.0.1:9002"] }
  - name: b
    endpoints: ["127.0.0.1:9003"]
    balance: peak_ewma
    tls: { ca: ca.crt, server_name: models.internal, cert: a.crt, key: a.key }
  - { name: shadow, endpoints: ["127.0.0.1:9004"], tls: {} }
routes:
  - name: models
    hostnames: [example.com, "*.example.com"]
    rules:
      - name: main
        matches:
          - path: { regex: "^/v[12]/" }
            method: POST
            headers: [{ name: x-cohort, value: beta }, { name: x-api-key, value: "hunter2" }]
            cookies: [{ name: flags, regex: "a|b" }]
            query: [{ name: debug, present: false }]
            client: { spiffe: "spiffe://example.org/batch" }
          - path: { exact: /health }
          - path: /
        backends: [{ name: a, weight: 9 }, { name: b }]
        sticky: { header: x-user-id }
        mirrors:
          - backend: shadow
            percent: 12.5%
            methods: [GET, POST]
            max_body: 1500
            headers: { remove: [cookie], set: { authorization: "Bearer hunter2", x-shadow: "1" } }
        timeouts: { connect: 1s, request: 90s }
        retry: { attempts: 2, budget: 10%, on: [reset, 5xx, "429"], methods: [GET, POST] }
        failover: true
      - name: rest
        backends: [{ name: a }]
rollouts:
  - name: b
    rule: models/main
    stable: a
    canary: b
    objectives:
      - errors: 0.25%
      - { latency: { p99.9: 1500ms }, ratio: 2, on_breach: hold }
    on_shared_breach: hold
"#;

fn load(origin: &str, text: &str) -> Config {
    let options = Options { touch_files: false, manifests: false };
    let source = Source::of(origin, text).unwrap();
    source.load(options).unwrap_or_else(|defects| panic!("{defects}")).config
}

#[test]
fn what_is_dumped_is_a_file_that_means_the_same() {
    let dumped = config(&load("a file", FILE));
    let text = serde_json::to_string_pretty(&dumped).unwrap();
    assert_eq!(config(&load("its dump", &text)), dumped);
    // Secrets aside, which are gone.
    assert!(!text.contains("hunter2"), "{text}");
    assert_eq!(text.matches(REDACTED).count(), 2);
    let open = FILE.replace("hunter2", REDACTED).replace("Bearer ", "");
    assert_eq!(format!("{:?}", load("its dump", &text)), format!("{:?}", load("a file", &open)));
}

#[test]
fn defaults_are_filled_in() {
    let dumped = config(&load("a file", FILE));
    let rule = &dumped["routes"][0]["rules"][1];
    assert_eq!(rule["timeouts"]["first_byte"], "1m");
    assert_eq!(rule["backends"][0]["weight"], 1);
    assert_eq!(rule.get("sticky"), None);
    let mirror = &dumped["routes"][0]["rules"][0]["mirrors"][0];
    assert_eq!((&mirror["max_in_flight"], &mirror["max_body"]), (&64.into(), &"1500B".into()));
    assert_eq!(dumped["drain_timeout"], "30s");
    let rollout = &dumped["rollouts"][0];
    assert_eq!(rollout["objectives"][0]["ratio"], 1.5);
    assert!(rollout["version"].as_str().unwrap().starts_with("endpoints-"));
}

#[test]
fn sizes_read_as_people_write_them() {
    for (bytes, text) in [(1 << 20, "1MiB"), (65_536, "64KiB"), (0, "0B"), (1500, "1500B")] {
        assert_eq!(size_text(bytes), text);
    }
}
