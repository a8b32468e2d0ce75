//! The admin port, and the read-only port for metrics and probes.
//!
//! Never changes anything itself: it asks the controller and passes on what that says.
//! Never answers to a name that is not its own: see [`admin_router`].

pub mod feed;
mod feedback;
mod fleet;
mod guard;
mod page;
mod shown;

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use axum::body::{Bytes, to_bytes};
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequest, Path, RawQuery, Request, State};
use axum::http::header::{ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, VARY};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn, from_fn_with_state, map_response};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde::Serialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::render;
use crate::control::admin::feed::{Feed, Pulse};
use crate::control::admin::guard::Operator;
use crate::control::api::{ChangesView, Problem, RolloutView, RolloutsView};
use crate::control::dump::config_dump;
use crate::control::fleet::counts::Published;
use crate::control::{Command, NotDone, ReloadResult, Status};
use crate::names::RolloutName;
use crate::rollout::machine::Word;
use crate::telemetry::metrics;
use crate::telemetry::metrics::text::Format;
use crate::telemetry::registry::Registry;

/// Connections at once, per port. When full, a new one waits in the kernel's queue until
/// another ends, which is soon: see [`CONNECTION_TIME_MAX`].
pub const CONNECTIONS_MAX: usize = 128;

/// Bytes of a request's head.
pub const HEAD_BYTES_MAX: usize = 16 << 10;

/// Bytes of a request's body.
pub const BODY_BYTES_MAX: usize = 64 << 10;

/// From an accepted or idle connection to the end of a request's head.
pub const HEAD_TIME_MAX: Duration = Duration::from_secs(10);

/// From a request's head to the response's.
pub const REQUEST_TIME_MAX: Duration = Duration::from_secs(30);

/// A connection takes no further request after this: a client that reads a byte a minute
/// must not keep its place for ever. One that reads events keeps it as long as it reads.
pub const CONNECTION_TIME_MAX: Duration = Duration::from_mins(1);

/// How long a request under way may go on when its connection or the port is to end.
const GRACE: Duration = Duration::from_secs(5);

/// Pause after an accept that failed for want of files or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Whether to send users here, and if not, why. Written by `app`, read by probes.
#[derive(Debug, Default)]
pub struct Readiness {
    listening: AtomicBool,
    draining: AtomicBool,
}

impl Readiness {
    /// The config is loaded and every listener is bound.
    pub fn set_listening(&self) {
        self.listening.store(true, Relaxed);
    }

    /// No more users, please. There is no way back.
    pub fn set_draining(&self) {
        self.draining.store(true, Relaxed);
    }

    /// Whether the end has begun.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Relaxed)
    }

    /// Why not; `None` is ready.
    pub fn missing(&self) -> Option<&'static str> {
        if self.is_draining() {
            Some("draining: requests under way are finished, new ones are not taken")
        } else if self.listening.load(Relaxed) {
            None
        } else {
            Some("starting: the listeners are not bound yet")
        }
    }
}

/// What a call must bring, and whose it is.
#[derive(Clone)]
pub struct Token {
    /// Who brings it, as the journal tells.
    pub name: String,
    /// Visible ASCII.
    pub secret: String,
}

/// What the ports show, and whom they ask.
#[derive(Clone)]
pub struct AdminState {
    /// To the controller.
    pub commands: mpsc::Sender<Command>,
    /// From the controller.
    pub status: watch::Receiver<Arc<Status>>,
    /// Counters of the data plane.
    pub registry: Arc<Registry>,
    /// One of these every call but the probes must bring; none on loopback only.
    pub tokens: Vec<Token>,
    /// What this replica counted, for the others of its fleet.
    pub published: Arc<Published>,
    /// Who reads events.
    pub feed: Arc<Feed>,
    /// For `/readyz`.
    pub readiness: Arc<Readiness>,
    /// Cancelled by `/quitquitquit`.
    pub quit: CancellationToken,
}

impl AdminState {
    fn now(&self) -> Arc<Status> {
        Arc::clone(&self.status.borrow())
    }
}

/// Everything: probes, metrics, rollouts, the operator's verbs.
///
/// With a token, every call but the probes must bring it. Without one the port is on
/// loopback, and a browser there is the way in for strangers. So a POST must be
/// `application/json`, which a page of another origin cannot send, and the host that was
/// asked for must be `localhost` or a loopback address, at any port, which a name that an
/// attacker points at 127.0.0.1 (DNS rebinding) is not.
pub fn admin_router(state: AdminState) -> Router {
    let router = page::on(probes())
        .route("/metrics", get(show_metrics))
        .route(
            "/config_dump",
            get(async |State(state): Shared| axum::Json(config_dump(&state.now()))),
        )
        .route("/api/rollouts", get(rollouts))
        .route("/api/rollouts/{name}", get(rollout))
        .route("/api/rollouts/{name}/{word}", post(operate))
        .route("/api/rollouts/{name}/changes", get(changes))
        .route("/api/events", get(feed::events))
        .route("/api/history", get(feed::history))
        .route("/api/journal", get(shown::journal))
        .route("/api/config", get(shown::show_config))
        .route("/api/routes", get(shown::show_routes))
        .route("/api/backends", get(shown::show_backends))
        .route("/api/feedback", post(feedback::hear))
        .route("/reload", post(reload))
        .route("/quitquitquit", post(quit));
    let guarded = with_fallbacks(router).layer(from_fn_with_state(state.clone(), guard::guard));
    finish(guarded, state)
}

/// Metrics and probes: nothing that changes anything, nothing secret, so no token.
pub fn metrics_router(state: AdminState) -> Router {
    let router =
        probes().route("/metrics", get(show_metrics)).route("/fleet/counts", get(fleet::counts));
    finish(with_fallbacks(router), state)
}

/// Serves `router` until `shutdown`, then for a few seconds more what is under way.
pub async fn serve(listener: TcpListener, router: Router, shutdown: CancellationToken) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let tasks = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            accepted = accept(&listener, &places) => accepted,
        };
        let Some((stream, place)) = accepted else { continue };
        let (router, shutdown) = (router.clone(), shutdown.clone());
        tasks.spawn(async move {
            serve_connection(stream, router, shutdown).await;
            drop(place);
        });
    }
    tasks.close();
    tasks.wait().await;
}

type Shared = State<AdminState>;

/// Asked by those who have no token.
fn probes() -> Router<AdminState> {
    Router::new().route("/livez", get("live\n")).route("/readyz", get(readyz))
}

fn with_fallbacks(router: Router<AdminState>) -> Router<AdminState> {
    router
        .fallback(|| async { Denied::new(StatusCode::NOT_FOUND, NO_PATH) })
        .method_not_allowed_fallback(|| async {
            Denied::new(StatusCode::METHOD_NOT_ALLOWED, "this path has another method")
        })
}

fn finish(router: Router<AdminState>, state: AdminState) -> Router {
    router.layer(from_fn(in_time)).layer(map_response(dress)).with_state(state)
}

const NO_PATH: &str = "there is nothing at this path; the admin port's `/` lists what there is";

/// An answer that is an error: problem details (RFC 9457).
#[derive(Debug)]
struct Denied {
    status: StatusCode,
    detail: String,
    /// One more member of the body.
    more: Option<(&'static str, Value)>,
}

impl Denied {
    fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into(), more: None }
    }
}

impl IntoResponse for Denied {
    fn into_response(self) -> Response {
        let problem = Problem {
            kind: "about:blank".to_owned(),
            title: self.status.canonical_reason().unwrap_or("Error").to_owned(),
            status: self.status.as_u16(),
            detail: self.detail,
        };
        let mut body = json!(problem);
        if let (Some((name, value)), Value::Object(members)) = (self.more, &mut body) {
            members.insert(name.to_owned(), value);
        }
        let kind = [(CONTENT_TYPE, "application/problem+json")];
        (self.status, kind, body.to_string()).into_response()
    }
}

/// A POST that no page of another origin can have sent, with its body: JSON, or nothing.
struct Deliberate(Bytes);

impl<S: Send + Sync> FromRequest<S> for Deliberate {
    type Rejection = Denied;

    async fn from_request(request: Request, _: &S) -> Result<Self, Denied> {
        let kind = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let kind = kind.and_then(|kind| kind.split(';').next()).unwrap_or_default().trim();
        if !kind.eq_ignore_ascii_case("application/json") {
            let detail = "send `content-type: application/json`; the body may be empty";
            return Err(Denied::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
        }
        let body = timeout(HEAD_TIME_MAX, to_bytes(request.into_body(), BODY_BYTES_MAX)).await;
        let body = body
            .map_err(|_| Denied::new(StatusCode::REQUEST_TIMEOUT, "the body took too long"))?
            .map_err(|_| {
                let detail = format!("the body is broken or over {BODY_BYTES_MAX} bytes");
                Denied::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
            })?;
        if !body.is_empty() && serde_json::from_slice::<IgnoredAny>(&body).is_err() {
            return Err(Denied::new(StatusCode::BAD_REQUEST, "the body is not JSON"));
        }
        Ok(Self(body))
    }
}

async fn in_time(request: Request, next: Next) -> Response {
    let detail = "no answer in time; whether it was done shows in /api/rollouts";
    let late = || Denied::new(StatusCode::SERVICE_UNAVAILABLE, detail).into_response();
    timeout(REQUEST_TIME_MAX, next.run(request)).await.unwrap_or_else(|_| late())
}

/// No scripts, no frames, no guessing, no copies. The page alone may do more: see [`page`].
async fn dress(mut response: Response) -> Response {
    response.headers_mut().entry(CONTENT_SECURITY_POLICY).or_insert(HeaderValue::from_static(
        "default-src 'none'; base-uri 'none'; frame-ancestors 'none'",
    ));
    for (name, value) in [
        ("server", "serin"),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
    ] {
        let value = HeaderValue::from_static(value);
        response.headers_mut().insert(HeaderName::from_static(name), value);
    }
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

async fn readyz(State(state): Shared) -> Result<&'static str, Denied> {
    match state.readiness.missing() {
        None => Ok("ready\n"),
        Some(reason) => Err(Denied::new(StatusCode::SERVICE_UNAVAILABLE, reason)),
    }
}

async fn show_metrics(State(state): Shared, headers: HeaderMap) -> impl IntoResponse {
    let accept = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let format = Format::accepted(accept);
    let kind = [(CONTENT_TYPE, format.content_type()), (VARY, "accept")];
    (kind, metrics::render(&state.registry, &state.now().gauges, format))
}

async fn rollouts(State(state): Shared) -> axum::Json<RolloutsView> {
    axum::Json(RolloutsView { rollouts: state.now().rollouts.clone() })
}

type Name = Result<Path<String>, PathRejection>;

async fn rollout(State(state): Shared, name: Name) -> Result<axum::Json<RolloutView>, Denied> {
    find(&state, name).map(axum::Json)
}

fn find(state: &AdminState, name: Name) -> Result<RolloutView, Denied> {
    let status = state.now();
    // A name that is not UTF-8 is not in the config either.
    let name = name.map(|Path(name)| name).unwrap_or_default();
    let found = status.rollouts.iter().find(|one| one.name == name);
    found.cloned().ok_or_else(|| {
        let names: Vec<_> = status.rollouts.iter().map(|one| one.name.as_str()).collect();
        let known = match &*names {
            [] => "the config has none".to_owned(),
            names => format!("there is: {}", names.join(", ")),
        };
        Denied::new(StatusCode::NOT_FOUND, format!("there is no rollout `{name}`; {known}"))
    })
}

/// What became of a rollout and why, oldest first.
async fn changes(State(state): Shared, name: Name) -> Result<axum::Json<ChangesView>, Denied> {
    let rollout = find(&state, name)?;
    let told = Arc::clone(&state.now().told);
    let mine = told.iter().filter(|one| one.rollout == rollout.name).cloned();
    Ok(axum::Json(ChangesView { changes: mine.collect(), rollout }))
}

/// The verbs of `/api/rollouts/{name}/{verb}`; `promote?full=true` goes to the end.
fn word(verb: &str, query: &str) -> Option<Word> {
    match (verb, query) {
        ("promote", "full=true") => Some(Word::PromoteFully),
        ("promote", _) => Some(Word::Promote),
        ("pause", _) => Some(Word::Pause),
        ("resume", _) => Some(Word::Resume),
        ("abort", _) => Some(Word::Abort),
        ("reset", _) => Some(Word::Reset),
        _ => None,
    }
}

async fn operate(
    State(state): Shared,
    path: Result<Path<(String, String)>, PathRejection>,
    RawQuery(query): RawQuery,
    Extension(Operator(by)): Extension<Operator>,
    _: Deliberate,
) -> Result<axum::Json<RolloutView>, Denied> {
    // A name that is not UTF-8 is not in the config either.
    let (name, verb) = path.map(|Path(pair)| pair).unwrap_or_default();
    let word = word(&verb, &query.unwrap_or_default())
        .ok_or_else(|| Denied::new(StatusCode::NOT_FOUND, NO_PATH))?;
    let rollout = RolloutName::new(find(&state, Ok(Path(name)))?.name);
    let done = ask(&state, |reply| Command::Operate { rollout, word, by, reply }).await?;
    done.map(axum::Json).map_err(|why| {
        let status = match why {
            NotDone::Unknown => StatusCode::NOT_FOUND,
            NotDone::Refused(_) => StatusCode::CONFLICT,
            NotDone::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Denied::new(status, why.to_string())
    })
}

async fn reload(State(state): Shared, _: Deliberate) -> Result<impl IntoResponse, Denied> {
    let result = match ask(&state, Command::Reload).await? {
        ReloadResult::Reloaded => "reloaded",
        ReloadResult::Unchanged => "unchanged",
        ReloadResult::Refused(defects) => {
            let origin = state.now().origin.clone();
            let defects = defects.iter().map(|defect| render::json(&origin, defect)).collect();
            let detail = format!("{origin} has defects; the config in force stays");
            let denied = Denied::new(StatusCode::UNPROCESSABLE_ENTITY, detail);
            return Err(Denied { more: Some(("defects", defects)), ..denied });
        }
    };
    Ok(axum::Json(Outcome { result }))
}

async fn quit(State(state): Shared, _: Deliberate) -> impl IntoResponse {
    tracing::info!(event = "quit", "told to quit over the admin port");
    state.readiness.set_draining();
    state.quit.cancel();
    axum::Json(Outcome { result: "draining" })
}

#[derive(Serialize)]
struct Outcome {
    result: &'static str,
}

/// Asks the controller and waits for its answer, as long as the request may take.
async fn ask<T>(
    state: &AdminState,
    command: impl FnOnce(oneshot::Sender<T>) -> Command,
) -> Result<T, Denied> {
    let (reply, answer) = oneshot::channel();
    // Both fail only once the controller has ended.
    if state.commands.send(command(reply)).await.is_ok()
        && let Ok(answer) = answer.await
    {
        return Ok(answer);
    }
    Err(Denied::new(StatusCode::SERVICE_UNAVAILABLE, "serin is shutting down"))
}

/// The next connection, once there is a place for it. `None` after a failed accept.
async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => Some((stream, place)),
        Err(error) => {
            tracing::warn!(
                event = "admin_accept_failed", %error, "cannot accept a connection on an admin port"
            );
            sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

async fn serve_connection<S>(stream: S, router: Router, shutdown: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let pulse = Pulse::default();
    let router = router.layer(Extension(pulse.clone()));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = pin!(connection);
    loop {
        tokio::select! {
            // A client that broke off has its own log.
            _ = connection.as_mut() => return,
            () = shutdown.cancelled() => break,
            () = sleep(CONNECTION_TIME_MAX) => if !pulse.take() { break },
        }
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(GRACE, connection).await;
}

#[cfg(test)]
mod tests;
