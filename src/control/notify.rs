//! Tells webhooks that a rollout's state has changed.
//!
//! Never waited for by anything: each message is a task of its own, tried again for a while,
//! and given up with a log line. A message that was taken is not sent again; one whose answer
//! got lost is, under the same `id`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, USER_AGENT};
use http::{Request, Uri};
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::RootCertStore;
use rustls::pki_types::ServerName;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};

use crate::rollout::record::{Record, What};
use crate::tls::client::{Encryption, Offer, system_authorities};

/// Messages under way to one webhook, so that one that is dead takes no place of another's.
/// When full, the next one to it is dropped, and that is logged: the journal has it.
pub const MESSAGES_MAX: usize = 64;

/// From the connection to the answer's head.
const TRY_TIME_MAX: Duration = Duration::from_secs(10);

/// Tries of one message.
const TRIES_MAX: u32 = 8;

/// After the first try; doubled after each, so that the last comes two minutes later.
const PAUSE: Duration = Duration::from_secs(1);

/// Sends messages to webhooks.
#[derive(Clone, Debug)]
pub struct Notifier {
    /// Of each webhook that messages are under way to.
    places: Arc<Mutex<BTreeMap<String, Arc<Semaphore>>>>,
    places_max: usize,
    pause: Duration,
    results: Arc<Results>,
}

/// What became of messages since the start.
#[derive(Debug, Default)]
struct Results {
    delivered: AtomicU64,
    failed: AtomicU64,
    dropped: AtomicU64,
}

impl Default for Notifier {
    fn default() -> Self {
        let (places, results) = (Arc::default(), Arc::default());
        Self { places, places_max: MESSAGES_MAX, pause: PAUSE, results }
    }
}

impl Notifier {
    /// Messages since the start, by what became of them.
    pub fn results(&self) -> Vec<(&'static str, u64)> {
        let Results { delivered, failed, dropped } = &*self.results;
        let all = [("delivered", delivered), ("failed", failed), ("dropped", dropped)];
        all.into_iter().map(|(result, count)| (result, count.load(Relaxed))).collect()
    }

    /// Tells `hooks` of a change; other records say nothing. Within a runtime.
    pub fn tell(&self, hooks: &[Uri], record: &Record) {
        let Some(message) = message(record) else { return };
        for hook in hooks {
            let Some(place) = self.place(hook) else {
                tracing::error!(
                    event = "webhook_dropped", hook = shown(hook), rollout = %record.rollout,
                    "too many webhooks are waiting"
                );
                self.results.dropped.fetch_add(1, Relaxed);
                continue;
            };
            let (hook, message, pause) = (hook.clone(), message.clone(), self.pause);
            let results = Arc::clone(&self.results);
            tokio::spawn(async move {
                let taken = deliver(&hook, message, pause).await;
                let result = if taken { &results.delivered } else { &results.failed };
                result.fetch_add(1, Relaxed);
                drop(place);
            });
        }
    }

    /// `None` when too many messages are under way to `hook`.
    fn place(&self, hook: &Uri) -> Option<OwnedSemaphorePermit> {
        let mut all = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        // One that nothing is under way to is as good as new, and may be of the config before.
        all.retain(|_, places| places.available_permits() < self.places_max);
        let new = || Arc::new(Semaphore::new(self.places_max));
        let places = all.entry(hook.to_string()).or_insert_with(new);
        Arc::clone(places).try_acquire_owned().ok()
    }
}

/// Between tries: one fewer than tries, for nothing comes after the last.
fn pauses(first: Duration) -> impl Iterator<Item = Duration> {
    (1..TRIES_MAX).scan(first, |next, _| Some(std::mem::replace(next, *next * 2)))
}

/// The body of a message; `text` is what Slack and its kin show.
fn message(record: &Record) -> Option<Bytes> {
    let What::Changed(change) = &record.what else { return None };
    let Record { at, tick, rollout, version, .. } = record;
    let body = json!({
        "id": format!("{rollout}/{version}/{at}/{tick}"),
        "at": at,
        "rollout": rollout,
        "version": version,
        "state": change.state,
        "step": change.step,
        "weight": change.share,
        "reason": change.reason,
        "hold_reason": change.hold_reason,
        "objectives": change.objectives,
        "text": format!("{rollout} (version {version}): {change}"),
    });
    Some(Bytes::from(body.to_string()))
}

/// Whether it was taken.
async fn deliver(hook: &Uri, message: Bytes, pause: Duration) -> bool {
    let mut pauses = pauses(pause);
    for tried in 1_u32.. {
        let sent = timeout(TRY_TIME_MAX, send(hook, JSON, message.clone(), None)).await;
        match sent.unwrap_or_else(|_| Err("no answer in time".into())) {
            Ok(status) if status.is_success() => return true,
            // It was understood and is not wanted: asking again changes nothing.
            Ok(status) if status.is_client_error() && status.as_u16() != 429 => {
                tracing::error!(
                    event = "webhook_refused",
                    hook = shown(hook),
                    status = status.as_u16(),
                    "the webhook refuses the message"
                );
                return false;
            }
            Ok(status) => tracing::warn!(
                event = "webhook_failed",
                hook = shown(hook),
                status = status.as_u16(),
                tried,
                "the webhook failed"
            ),
            Err(error) => tracing::warn!(
                event = "webhook_failed", hook = shown(hook), %error, tried,
                "the webhook cannot be reached"
            ),
        }
        let Some(pause) = pauses.next() else { break };
        sleep(pause).await;
    }
    tracing::error!(
        event = "webhook_given_up",
        hook = shown(hook),
        "the webhook was given up; the journal has the message"
    );
    false
}

/// Without the path, which may hold a token.
fn shown(hook: &Uri) -> &str {
    hook.authority().map_or("", |authority| authority.host())
}

/// Why there is no answer.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// The kind of a webhook's message.
const JSON: &str = "application/json";

/// Posts `message` of the kind `kind`; the answer's status. `roots` are whom to believe; `None` is
/// whom this machine believes. Takes as long as it takes.
pub async fn send(
    hook: &Uri,
    kind: &'static str,
    message: Bytes,
    roots: Option<Arc<RootCertStore>>,
) -> Result<http::StatusCode, Error> {
    post(connect(hook, roots, Offer::Http1).await?, hook, kind, message).await
}

/// A connection, whatever is below it.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// Connects to whoever `url` names, over TLS for `https`, where `roots` are whom to believe and
/// `offer` is what is spoken.
pub async fn connect(
    url: &Uri,
    roots: Option<Arc<RootCertStore>>,
    offer: Offer,
) -> Result<Box<dyn Stream>, Error> {
    let is_encrypted = url.scheme_str() == Some("https");
    let authority = url.authority().ok_or("no host")?;
    let port = authority.port_u16().unwrap_or(if is_encrypted { 443 } else { 80 });
    let host = authority.host().trim_matches(['[', ']']);
    let stream = TcpStream::connect((host, port)).await?;
    if !is_encrypted {
        return Ok(Box::new(stream));
    }
    let name = ServerName::try_from(host.to_owned())?;
    let address = stream.peer_addr()?.ip();
    let encryption = Encryption::new(roots.map_or_else(system_authorities, Ok)?, Some(name), None)?;
    Ok(Box::new(encryption.connect(stream, address, offer).await?))
}

async fn post(
    stream: Box<dyn Stream>,
    hook: &Uri,
    kind: &'static str,
    message: Bytes,
) -> Result<http::StatusCode, Error> {
    let authority = hook.authority().ok_or("no host")?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // It ends with the answer, or with this task.
    let connection = tokio::spawn(connection);
    let path = hook.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::post(path)
        .header(HOST, authority.as_str())
        .header(CONTENT_TYPE, kind)
        .header(USER_AGENT, concat!("serin/", env!("CARGO_PKG_VERSION")))
        .body(Full::new(message))?;
    let answer = sender.send_request(request).await;
    connection.abort();
    Ok(answer?.status())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use axum::Router;
    use axum::http::StatusCode;
    use axum::routing::post;
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    use tokio::net::TcpListener;

    use super::*;
    use crate::rollout::record::Change;

    fn changed() -> Record {
        Record {
            at: "2026-11-21T10:00:00Z".to_owned(),
            tick: 250,
            rollout: "chat-v2".to_owned(),
            version: "7".to_owned(),
            what: What::Changed(Change {
                state: "rolled_back".to_owned(),
                step: None,
                share: 0.0,
                hold_reason: None,
                reason: Some("errors <= 1%: canary 4%".to_owned()),
                objective: Some("errors <= 1%".to_owned()),
                config: "hash".to_owned(),
                objectives: Vec::new(),
                failing: Vec::new(),
            }),
        }
    }

    #[test]
    fn a_message_has_a_text_for_people_and_a_name_of_its_own() {
        let body: serde_json::Value =
            serde_json::from_slice(&message(&changed()).unwrap()).unwrap();
        assert_eq!(body["id"], "chat-v2/7/2026-11-21T10:00:00Z/250");
        assert_eq!(
            body["text"],
            "chat-v2 (version 7): rolled back, canary at 0%: errors <= 1%: canary 4%"
        );
        let quiet = Record { what: What::Shared { configured: 0.1 }, ..changed() };
        assert_eq!(message(&quiet), None);
    }

    /// Answers with these statuses in turn; how often a message arrives until it is settled.
    async fn tries(statuses: &'static [u16]) -> usize {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let hook: Uri =
            format!("http://{}/hook?x=1", listener.local_addr().unwrap()).parse().unwrap();
        let count = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&count);
        let router = Router::new().route(
            "/hook",
            post(move |body: String| {
                let index = seen.fetch_add(1, Relaxed);
                assert!(body.contains("rolled_back"));
                let status = statuses[index.min(statuses.len() - 1)];
                async move { StatusCode::from_u16(status).unwrap() }
            }),
        );
        let server = tokio::spawn(async move { axum::serve(listener, router).await });
        let taken = deliver(&hook, message(&changed()).unwrap(), Duration::from_millis(1)).await;
        assert_eq!(taken, statuses.iter().any(|status| (200..300).contains(status)));
        server.abort();
        count.load(Relaxed)
    }

    #[tokio::test]
    async fn a_message_is_sent_until_it_is_taken_and_not_once_more() {
        assert_eq!(tries(&[200]).await, 1);
        assert_eq!(tries(&[503, 500, 429, 204]).await, 4);
        assert_eq!(tries(&[404]).await, 1);
        assert_eq!(tries(&[500]).await, TRIES_MAX as usize);
    }

    #[tokio::test]
    async fn a_message_over_tls_goes_only_to_whom_the_authorities_vouch_for() {
        let authority = serin_testkit::Authority::named("hooks");
        let certificate = authority.issue(&serin_testkit::Leaf::server(&["localhost"]));
        let backend = serin_testkit::Backend::named("hook").answers(204).start();
        let to = (backend.address, backend.address);
        let front = serin_testkit::TlsFront::start(&certificate, None, &[], to).await;
        let hook: Uri =
            format!("https://localhost:{}/serin", front.address.port()).parse().unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.pem.as_bytes()).unwrap()).unwrap();
        let message = || message(&changed()).unwrap();
        let taken = send(&hook, JSON, message(), Some(Arc::new(roots))).await;
        assert_eq!(taken.unwrap(), 204);
        assert_eq!(backend.last().target(), "/serin");
        let mut others = RootCertStore::empty();
        let other = serin_testkit::Authority::named("others");
        others.add(CertificateDer::from_pem_slice(other.pem.as_bytes()).unwrap()).unwrap();
        assert!(send(&hook, JSON, message(), Some(Arc::new(others))).await.is_err());
        assert_eq!(backend.requests(), 1);
    }

    #[tokio::test]
    async fn what_is_too_much_is_dropped_and_nobody_waits() {
        let notifier = Notifier { places_max: 1, ..Notifier::default() };
        let nowhere: Uri = "http://127.0.0.1:1/".parse().unwrap();
        notifier.tell(&[nowhere.clone(), nowhere.clone()], &changed());
        assert!(notifier.place(&nowhere).is_none());
        assert_eq!(notifier.results()[2], ("dropped", 1));
    }

    #[tokio::test]
    async fn a_dead_webhook_takes_no_place_of_another() {
        let notifier = Notifier { places_max: 1, ..Notifier::default() };
        let backend = serin_testkit::Backend::named("hook").answers(204).start();
        let dead: Uri = "http://127.0.0.1:1/".parse().unwrap();
        let alive: Uri = format!("http://{}/", backend.address).parse().unwrap();
        notifier.tell(&[dead.clone(), alive], &changed());
        assert_eq!(notifier.results()[2], ("dropped", 0));
        let delivered = || notifier.results()[0].1 == 1;
        while !delivered() {
            tokio::task::yield_now().await;
        }
        // What nothing is under way to takes no memory either.
        assert!(notifier.place(&dead).is_none());
        let hooks = || notifier.places.lock().unwrap().len();
        while hooks() > 1 {
            tokio::task::yield_now().await;
            let _ = notifier.place(&dead);
        }
    }

    #[test]
    fn nothing_is_waited_for_after_the_last_try() {
        let all: Vec<_> = pauses(PAUSE).collect();
        assert_eq!(all.len(), TRIES_MAX as usize - 1);
        assert_eq!(all.iter().sum::<Duration>(), Duration::from_secs(127));
    }
}
