//! What a collector that speaks gRPC gets to see, read by code that is not Serin's.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;
use serin_testkit::{Backend, Proxy, eventually};
use tokio::net::TcpListener;

type Seen = Arc<Mutex<Vec<ExportTraceServiceRequest>>>;

/// Answers with these statuses of gRPC in turn, and with the last one from there on.
async fn collector(statuses: &'static [u16]) -> (SocketAddr, Seen) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, seen) = (listener.local_addr().unwrap(), Seen::default());
    let all = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let seen = Arc::clone(&all);
            let service = service_fn(move |request| take(request, Arc::clone(&seen), statuses));
            let builder = http2::Builder::new(TokioExecutor::new());
            tokio::spawn(builder.serve_connection(TokioIo::new(stream), service));
        }
    });
    (address, seen)
}

/// The frames of an answer, one after the other.
struct Frames(VecDeque<Frame<Bytes>>);

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(Ok))
    }
}

async fn take(
    request: Request<Incoming>,
    seen: Seen,
    statuses: &[u16],
) -> Result<Response<Frames>, Infallible> {
    let (head, body) = request.into_parts();
    assert_eq!(head.method, "POST");
    assert_eq!(head.uri.path(), "/opentelemetry.proto.collector.trace.v1.TraceService/Export");
    assert_eq!(head.headers["content-type"], "application/grpc");
    assert_eq!(head.headers["te"], "trailers");
    let body = body.collect().await.unwrap().to_bytes();
    assert_eq!(body[0], 0, "not compressed");
    let length = u32::from_be_bytes(body[1..5].try_into().unwrap());
    assert_eq!(body.len() - 5, length as usize);
    let status = {
        let mut seen = seen.lock().unwrap();
        seen.push(ExportTraceServiceRequest::decode(&body[5..]).unwrap());
        statuses[(seen.len() - 1).min(statuses.len() - 1)]
    };
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", status.into());
    let empty = Frame::data(Bytes::from_static(&[0; 5]));
    let frames = Frames([empty, Frame::trailers(trailers)].into());
    Ok(Response::builder().header("content-type", "application/grpc").body(frames).unwrap())
}

fn names(seen: &Seen) -> Vec<String> {
    let seen = seen.lock().unwrap();
    let resources = seen.iter().flat_map(|one| &one.resource_spans);
    let spans = resources.flat_map(|one| &one.scope_spans).flat_map(|one| &one.spans);
    spans.map(|span| span.name.clone()).collect()
}

async fn proxy(model: &Backend, collector: SocketAddr) -> Proxy {
    let with = format!("tracing: {{ otlp: 'http://{collector}', protocol: grpc, sample: 100% }}");
    let proxy = Proxy::to(model, "").with(&with).start();
    proxy.client().get("/").await.expect(200);
    proxy
}

async fn counted(proxy: &Proxy, result: &str) {
    eventually(result, async || {
        let metrics = proxy.metrics().await;
        let spans = metrics.value("serin_trace_spans_total", &[("result", result)]);
        (spans.round() as u64 == 2).then_some(())
    })
    .await;
}

#[tokio::test]
async fn spans_are_taken_by_grpc_and_counted_by_its_status() {
    let model = Backend::named("model").start();
    let (address, seen) = collector(&[0]).await;
    let proxy = proxy(&model, address).await;
    counted(&proxy, "sent").await;
    assert_eq!(names(&seen), ["GET all/main", "GET all/main"]);
}

#[tokio::test]
async fn what_is_not_there_for_now_is_asked_again() {
    let model = Backend::named("model").start();
    let (address, seen) = collector(&[14, 0]).await;
    let proxy = proxy(&model, address).await;
    counted(&proxy, "sent").await;
    assert_eq!(seen.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn what_refuses_for_good_is_asked_once() {
    let model = Backend::named("model").start();
    let (address, seen) = collector(&[16]).await;
    let proxy = proxy(&model, address).await;
    counted(&proxy, "failed").await;
    assert_eq!(seen.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_collector_that_speaks_no_grpc_costs_a_counter() {
    let model = Backend::named("model").start();
    let other = Backend::named("other").start();
    let proxy = proxy(&model, other.address).await;
    counted(&proxy, "failed").await;
    proxy.client().get("/").await.expect(200);
}
