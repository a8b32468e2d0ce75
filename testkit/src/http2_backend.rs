//! A model server that speaks HTTP/2 with prior knowledge and answers what it was sent.
//!
//! Never answers of itself but by echo: a test that wants more speaks in frames.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};

use http::request::Parts;
use http::{HeaderMap, Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

/// Echoes every body, piece by piece and with its trailers. Ends when dropped.
#[derive(Debug)]
pub struct Http2Backend {
    /// Where it is.
    pub address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Shared {
    seen: Mutex<Vec<Parts>>,
    connections: AtomicU64,
    head: Mutex<HeaderMap>,
}

impl Http2Backend {
    /// On a free port. Its answers have the fields of `head`.
    pub async fn start(head: HeaderMap) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared { head: Mutex::new(head), ..Shared::default() });
        let task = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self { address, shared, task }
    }

    /// The heads that have come.
    pub fn seen(&self) -> Vec<Parts> {
        self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Connections that were accepted.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(SeqCst)
    }
}

impl Drop for Http2Backend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        shared.connections.fetch_add(1, SeqCst);
        let shared = Arc::clone(&shared);
        let service = service_fn(move |request: Request<Incoming>| {
            let shared = Arc::clone(&shared);
            async move {
                let (head, body) = request.into_parts();
                shared.seen.lock().unwrap_or_else(PoisonError::into_inner).push(head);
                let mut response = Response::new(body);
                let fields = shared.head.lock().unwrap_or_else(PoisonError::into_inner).clone();
                *response.headers_mut() = fields;
                Ok::<_, std::convert::Infallible>(response)
            }
        });
        let builder = http2::Builder::new(TokioExecutor::new());
        connections.spawn(builder.serve_connection(TokioIo::new(stream), service));
    }
}
