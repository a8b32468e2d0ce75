//! How each proxy is told to balance, to check, and to try again.
//!
//! Never tuned for one of them: all check once a second, and all try again what failed
//! before an answer, with no bound on how many do so at once.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

/// A proxy and a way to balance.
pub(super) struct Rule {
    pub(super) proxy: &'static str,
    pub(super) balance: &'static str,
    /// What is recommended or the default, and used where only one is compared.
    pub(super) is_usual: bool,
    program: PathBuf,
}

/// Who is behind it.
pub(super) struct Setting {
    pub(super) endpoints: Vec<SocketAddr>,
}

/// A running proxy. Dropping it kills it.
pub(super) struct Proxy {
    pub(super) address: SocketAddr,
    child: Child,
    folder: PathBuf,
}

/// A proxy that does not answer this long after its start is given up.
const READY_WITHIN: Duration = Duration::from_secs(15);

impl Rule {
    /// Every proxy with every way, installed or not.
    pub(super) fn all(serin: &Path, envoy: &Path) -> Vec<Self> {
        let debian = |name: &str| PathBuf::from("/usr/sbin").join(name);
        let rules = [
            ("serin", "peak_ewma", true),
            ("serin", "least_request", false),
            ("serin", "round_robin", false),
            ("haproxy", "leastconn", true),
            ("haproxy", "roundrobin", false),
            ("nginx", "least_conn", true),
            ("nginx", "round robin", false),
            ("envoy", "LEAST_REQUEST", true),
            ("envoy", "ROUND_ROBIN", false),
        ];
        let rule = |(proxy, balance, is_usual)| {
            let program = match proxy {
                "serin" => serin.to_owned(),
                "envoy" => envoy.to_owned(),
                other => debian(other),
            };
            Self { proxy, balance, is_usual, program }
        };
        rules.map(rule).into()
    }

    pub(super) fn is_installed(&self) -> bool {
        self.program.is_file()
    }

    pub(super) fn name(&self) -> String {
        format!("{}, {}", self.proxy, self.balance)
    }

    /// The config file, and the arguments that lead to it.
    fn config(&self, setting: &Setting, port: u16, folder: &Path) -> (String, Vec<String>) {
        let file = folder.join("config.yaml").display().to_string();
        match self.proxy {
            "serin" => (serin(self.balance, setting, port), args(&["run", "-c", &file])),
            "haproxy" => (haproxy(self.balance, setting, port), args(&["-db", "-f", &file])),
            "nginx" => {
                let prefix = folder.display().to_string();
                (nginx(self.balance, setting, port, &prefix), args(&["-p", &prefix, "-c", &file]))
            }
            _ => {
                let rest = args(&["-c", &file, "--concurrency", "1", "--log-level", "error"]);
                (envoy(self.balance, setting, port), rest)
            }
        }
    }
}

fn args(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn each(setting: &Setting, text: impl Fn(usize, &SocketAddr) -> String) -> String {
    setting.endpoints.iter().enumerate().map(|(index, one)| text(index, one)).collect()
}

fn serin(balance: &str, setting: &Setting, port: u16) -> String {
    let endpoints = each(setting, |_, one| format!("{one}, "));
    format!(
        "listeners: [{{ name: http, address: 127.0.0.1:{port} }}]\n\
         admin: {{ address: 127.0.0.1:0 }}\nworkers: 1\n\
         backends:\n  - name: model\n    endpoints: [{endpoints}]\n    balance: {balance}\n\
         \x20   health: {{ path: /v2/health/ready, interval: 1s, unhealthy_threshold: 2 }}\n\
         routes:\n  - name: all\n    rules:\n      - name: main\n        \
         backends: [{{ name: model }}]\n        \
         retry: {{ attempts: 2, budget: 100%, on: [connect, reset], methods: [GET, POST] }}\n"
    )
}

fn haproxy(balance: &str, setting: &Setting, port: u16) -> String {
    let servers = each(setting, |index, one| {
        format!("    server s{index} {one} check inter 1s fall 2 rise 1\n")
    });
    format!(
        "global\n    nbthread 1\ndefaults\n    mode http\n    timeout connect 5s\n    \
         timeout client 60s\n    timeout server 60s\n    timeout check 1s\n    retries 2\n    \
         option redispatch 1\n    retry-on conn-failure empty-response\n    \
         http-reuse always\nfrontend main\n    bind 127.0.0.1:{port}\n    \
         default_backend model\nbackend model\n    balance {balance}\n    \
         option httpchk GET /v2/health/ready\n{servers}"
    )
}

fn nginx(balance: &str, setting: &Setting, port: u16, prefix: &str) -> String {
    let servers =
        each(setting, |_, one| format!("        server {one} max_fails=1 fail_timeout=1s;\n"));
    let balance = if balance == "least_conn" { "least_conn;" } else { "" };
    format!(
        "daemon off;\nmaster_process off;\nworker_processes 1;\npid {prefix}/nginx.pid;\n\
         error_log {prefix}/error.log crit;\nevents {{ worker_connections 4096; }}\nhttp {{\n    \
         access_log off;\n    client_body_temp_path {prefix}/a;\n    proxy_temp_path {prefix}/b;\n    \
         fastcgi_temp_path {prefix}/c;\n    uwsgi_temp_path {prefix}/d;\n    \
         scgi_temp_path {prefix}/e;\n    upstream model {{\n        {balance}\n{servers}        \
         keepalive 64;\n    }}\n    server {{\n        listen 127.0.0.1:{port};\n        \
         location / {{\n            proxy_http_version 1.1;\n            \
         proxy_set_header Connection \"\";\n            proxy_pass http://model;\n            \
         proxy_next_upstream error timeout non_idempotent;\n            \
         proxy_next_upstream_tries 3;\n        }}\n    }}\n}}\n"
    )
}

fn envoy(balance: &str, setting: &Setting, port: u16) -> String {
    let endpoints = each(setting, |_, one| {
        format!(
            "        - endpoint: {{ address: {{ socket_address: {{ address: {}, port_value: {} \
             }} }} }}\n",
            one.ip(),
            one.port()
        )
    });
    format!(
        r#"static_resources:
  listeners:
  - address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: main
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: {{ prefix: / }}
                route:
                  cluster: model
                  retry_policy:
                    retry_on: connect-failure,refused-stream,reset
                    num_retries: 2
                    retry_host_predicate:
                    - name: previous
                      typed_config:
                        "@type": type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate
                    host_selection_retry_max_attempts: 3
          http_filters:
          - name: router
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
  clusters:
  - name: model
    connect_timeout: 5s
    lb_policy: {balance}
    circuit_breakers: {{ thresholds: [{{ max_retries: 1000 }}] }}
    health_checks:
    - timeout: 1s
      interval: 1s
      unhealthy_threshold: 2
      healthy_threshold: 1
      http_health_check: {{ path: /v2/health/ready }}
    load_assignment:
      cluster_name: model
      endpoints:
      - lb_endpoints:
{endpoints}"#
    )
}

impl Proxy {
    /// Starts it, and waits until it answers.
    pub(super) fn start(
        rule: &Rule,
        setting: &Setting,
        address: SocketAddr,
    ) -> anyhow::Result<Self> {
        let folder = std::env::temp_dir().join(format!("resilience-{}", address.port()));
        fs::create_dir_all(&folder)?;
        let (config, arguments) = rule.config(setting, address.port(), &folder);
        fs::write(folder.join("config.yaml"), config)?;
        let log = fs::File::create(folder.join("log"))?;
        // `setpriv` becomes the program, so its id is the program's.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(&rule.program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| rule.name())?;
        let proxy = Self { address, child, folder };
        let began = now();
        while !proxy.answers() {
            if began.elapsed() > READY_WITHIN {
                let log = fs::read_to_string(proxy.folder.join("log")).unwrap_or_default();
                bail!("{} does not answer; its output:\n{log}", rule.name());
            }
            sleep(Duration::from_millis(50));
        }
        Ok(proxy)
    }

    fn answers(&self) -> bool {
        let ask = || -> std::io::Result<bool> {
            let mut stream = TcpStream::connect(self.address)?;
            stream.set_read_timeout(Some(Duration::from_secs(1)))?;
            stream.write_all(
                b"GET /v2/health/ready HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
            )?;
            let mut start = [0; 12];
            stream.read_exact(&mut start)?;
            Ok(start.starts_with(b"HTTP/1.1 200"))
        };
        ask().unwrap_or(false)
    }
}

#[expect(clippy::disallowed_methods, reason = "a measurement asks the time")]
fn now() -> Instant {
    Instant::now()
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}
