//! Runs a model server on a thread of its own.
//!
//! Never outlives its handle: dropping it closes the listener and every connection.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Either, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::behaviour::{Behaviour, LatencyShape};
use super::protocol::{Answer, Asked, Identity, error_body};
use super::stream::{StreamShape, Tokens};
use crate::time;

/// Larger inference requests are refused with 413.
const BODY_BYTES_MAX: usize = 1 << 20;
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const EVENTS: HeaderValue = HeaderValue::from_static("text/event-stream");

/// What a model server starts as.
#[derive(Clone, Debug)]
pub struct ModelOptions {
    /// The model's name, as in `/v2/models/{name}`.
    pub name: String,
    /// The version, as in an answer's `model_version`.
    pub version: String,
    /// Where it listens; 127.0.0.1, unless others are to reach it.
    pub listen: IpAddr,
    /// Port there; 0 takes a free one.
    pub port: u16,
    /// Equal seeds give the n-th inference the same fate.
    pub seed: u64,
    /// The share of inferences answered with a 500, 0 to 1.
    pub error_ratio: f64,
    /// How long inferences take, and the first token of a stream.
    pub latency: LatencyShape,
    /// How answers of the stream path go on.
    pub stream: StreamShape,
}

impl ModelOptions {
    /// A healthy server on a free port that answers at once.
    pub fn new(name: impl Into<String>, version: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            version: version.into(),
            listen: Ipv4Addr::LOCALHOST.into(),
            port: 0,
            seed: 1,
            error_ratio: 0.0,
            latency: LatencyShape::fixed(Duration::ZERO),
            stream: StreamShape::default(),
        }
    }

    /// With this latency from the start.
    #[must_use]
    pub fn latency(mut self, latency: LatencyShape) -> Self {
        self.latency = latency;
        self
    }

    /// With streams of this shape.
    #[must_use]
    pub fn stream(mut self, stream: StreamShape) -> Self {
        self.stream = stream;
        self
    }

    /// With this seed.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// On this port.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }
}

/// A running model server. Dropping it stops it.
#[derive(Debug)]
pub struct ModelServer {
    address: SocketAddr,
    behaviour: Arc<Behaviour>,
    stopping: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl ModelServer {
    /// Binds the port and starts answering. Fails when the port is taken or the
    /// thread cannot be had.
    pub fn start(options: ModelOptions) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind((options.listen, options.port))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let behaviour =
            Arc::new(Behaviour::new(options.seed, options.error_ratio, options.latency));
        let model = Arc::new(Model {
            identity: Identity { name: options.name, version: options.version },
            behaviour: Arc::clone(&behaviour),
            stream: options.stream,
            started: time::now(),
        });
        let (stopping, mut stopped) = watch::channel(false);
        let thread =
            thread::Builder::new().name(format!("model-{}", address.port())).spawn(move || {
                runtime.block_on(async {
                    let Ok(listener) = TcpListener::from_std(listener) else {
                        return;
                    };
                    tokio::select! {
                        () = accept(listener, model) => (),
                        _ = stopped.wait_for(|stopped| *stopped) => (),
                    }
                });
            })?;
        Ok(Self { address, behaviour, stopping, thread: Some(thread) })
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The levers and counters, for any thread.
    pub fn behaviour(&self) -> &Arc<Behaviour> {
        &self.behaviour
    }

    /// Inferences asked for so far, failed ones included.
    pub fn requests(&self) -> u64 {
        self.behaviour.requests()
    }

    /// Closes the listener and every connection, and waits until that is done.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for ModelServer {
    fn drop(&mut self) {
        self.stopping.send_replace(true);
        if let Some(thread) = self.thread.take() {
            // A panic of the server's thread has been printed already.
            let _ = thread.join();
        }
    }
}

async fn accept(listener: TcpListener, model: Arc<Model>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(serve(stream, Arc::clone(&model)))),
            // Out of file descriptors, most likely: do not spin on it.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

/// HTTP/1.1 and cleartext HTTP/2 on one port.
async fn serve(stream: TcpStream, model: Arc<Model>) {
    // Only costs latency when it fails.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let model = Arc::clone(&model);
        async move { Ok::<_, Infallible>(model.answer(request).await) }
    });
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new());
    // A broken connection is the client's business.
    let _ = server.serve_connection(TokioIo::new(stream), service).await;
}

struct Model {
    identity: Identity,
    behaviour: Arc<Behaviour>,
    stream: StreamShape,
    started: Instant,
}

impl Model {
    /// Since the server started.
    fn now(&self) -> Duration {
        time::now().duration_since(self.started)
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Either<Full<Bytes>, Tokens>> {
        let (status, body) = match self.identity.find(request.method(), request.uri().path()) {
            Asked::Now(status, body) => (status, body),
            Asked::Infer => self.infer(request.into_body()).await,
            Asked::Stream => match self.stream(request.into_body()).await {
                Ok(tokens) => return respond(StatusCode::OK, EVENTS, Either::Right(tokens)),
                Err(answer) => answer,
            },
        };
        respond(status, JSON, Either::Left(Full::from(body.to_string())))
    }

    async fn infer(&self, body: Incoming) -> Answer {
        match self.meet_fate(body, Duration::ZERO).await {
            Ok(body) => self.identity.infer(&body),
            Err(answer) => answer,
        }
    }

    async fn stream(&self, body: Incoming) -> Result<Tokens, Answer> {
        let body = self.meet_fate(body, self.stream.span()).await?;
        let events = self.identity.events(&body)?.into_iter().map(Bytes::from);
        Ok(Tokens::new(events.collect(), self.stream))
    }

    /// Reads the body and waits until the answer is to begin, or is none. Afterwards it keeps
    /// the model busy for `span`.
    async fn meet_fate(&self, body: Incoming, span: Duration) -> Result<Bytes, Answer> {
        let fate = self.behaviour.next_fate();
        let body = match Limited::new(body, BODY_BYTES_MAX).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) if error.is::<LengthLimitError>() => {
                return Err((StatusCode::PAYLOAD_TOO_LARGE, error_body("larger than 1 MiB")));
            }
            Err(error) => return Err((StatusCode::BAD_REQUEST, error_body(&error.to_string()))),
        };
        let span = if fate.fails { Duration::ZERO } else { span };
        let Some(wait) = self.behaviour.enter(self.now(), fate.delay + span) else {
            return Err((StatusCode::SERVICE_UNAVAILABLE, error_body("the queue is full")));
        };
        let delay = wait + fate.delay;
        // Tokio would round a delay of nothing up to a millisecond.
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        self.behaviour.unstalled().await;
        if fate.fails {
            return Err((StatusCode::INTERNAL_SERVER_ERROR, error_body("inference failed")));
        }
        Ok(body)
    }
}

fn respond<B>(status: StatusCode, content_type: HeaderValue, body: B) -> Response<B> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}
