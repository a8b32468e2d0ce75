//! The 90/10 split with a header rule, as a program on Pingora says it. `loadtest compare` runs it.
//!
//! Never rewrites, compresses or logs: the work is that of the other peers.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use clap::Parser;
use http::HeaderName;
use pingora::apps::HttpServerOptions;
use pingora::modules::http::HttpModules;
use pingora::proxy::{ProxyHttp, ProxyServiceBuilder, Session};
use pingora::server::Server;
use pingora::server::configuration::ServerConf;
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorType, Result};

const PATH: &str = "/v2/models/sentiment";
static COHORT: HeaderName = HeaderName::from_static("x-cohort");

/// As HAProxy's and nginx's: 5 s to connect, 60 s between two reads or writes.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
const QUIET_MAX: Duration = Duration::from_secs(60);

/// Splits requests between a stable and a canary backend, on Pingora
#[derive(Parser)]
#[command(name = "pingora", version)]
struct Options {
    /// Where to listen, in HTTP/1.1
    listen: SocketAddr,
    /// Gets nine of ten requests
    stable: SocketAddr,
    /// Gets the tenth, and all with `x-cohort: beta`
    canary: SocketAddr,
    /// Cleartext HTTP/2 too, on the same port
    #[arg(long)]
    h2c: bool,
}

/// The rule and the split.
struct Split {
    stable: HttpPeer,
    canary: HttpPeer,
    /// Requests so far. A weighted round robin, as nginx and HAProxy do it: nothing is cheaper.
    dealt: AtomicUsize,
}

#[async_trait]
impl ProxyHttp for Split {
    type CTX = ();

    fn new_ctx(&self) {}

    /// None: without this a compressor that is off stands by for each request.
    fn init_downstream_modules(&self, _modules: &mut HttpModules) {}

    async fn upstream_peer(&self, session: &mut Session, _ctx: &mut ()) -> Result<Box<HttpPeer>> {
        let request = session.req_header();
        if !matches_path(request.uri.path()) {
            return Error::err(ErrorType::HTTPStatus(404));
        }
        let beta = request.headers.get(&COHORT).is_some_and(|value| value == "beta");
        let canary = beta || self.dealt.fetch_add(1, Ordering::Relaxed) % 10 == 9;
        Ok(Box::new(if canary { self.canary.clone() } else { self.stable.clone() }))
    }
}

/// The path itself and what is below it, as Serin's and Envoy's rules have it.
fn matches_path(path: &str) -> bool {
    path.strip_prefix(PATH).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn peer(address: SocketAddr) -> HttpPeer {
    let mut peer = HttpPeer::new(address, false, String::new());
    peer.options.connection_timeout = Some(CONNECT_WITHIN);
    peer.options.read_timeout = Some(QUIET_MAX);
    peer.options.write_timeout = Some(QUIET_MAX);
    peer
}

fn main() {
    let Options { listen, stable, canary, h2c } = Options::parse();
    // Without work stealing the one thread is a runtime of its own, which costs less.
    let conf = ServerConf { threads: 1, work_stealing: false, ..ServerConf::default() };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let split = Split { stable: peer(stable), canary: peer(canary), dealt: AtomicUsize::new(0) };
    let mut http = HttpServerOptions::default();
    http.h2c = h2c;
    let mut service =
        ProxyServiceBuilder::new(&server.configuration, split).server_options(http).build();
    service.add_tcp(&listen.to_string());
    server.add_service(service);
    server.run_forever();
}
