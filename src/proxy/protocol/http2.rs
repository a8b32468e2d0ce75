//! HTTP/2 with a client.
//!
//! Never lets one stream of a connection starve the others, and takes any stream of bytes.

use std::pin::pin;

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::proxy::exchange::Exchange;
use crate::proxy::protocol::until_drained;
use crate::proxy::worker::{Visit, Worker};

/// How every HTTP/2 connection begins (RFC 9113, section 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Requests at once on one connection; the client waits with more.
const STREAMS_MAX: u32 = 200;

/// Serves a connection to its end. How it ends is no news: what went wrong with a request
/// was counted there.
pub async fn serve<S>(stream: S, worker: &Worker, visit: &Visit, exchange: Exchange)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let service = service_fn(move |request| exchange.clone().answer(request));
    let mut builder = http2::Builder::new(LocalExecutor);
    builder.max_concurrent_streams(STREAMS_MAX);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    until_drained(worker, visit, |cx, drain| {
        if drain {
            connection.as_mut().graceful_shutdown();
        }
        connection.as_mut().poll(cx).map(drop)
    })
    .await;
}

/// Spawns a connection's streams on the thread of their connection.
#[derive(Clone, Copy, Debug)]
struct LocalExecutor;

impl<F: Future + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move { drop(future.await) });
    }
}
