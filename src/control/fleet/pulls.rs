//! Fetches the counts of every replica, from its metrics port, as long as this one holds the
//! lease.
//!
//! Never waits for a replica that does not answer: each is asked by itself.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::clock::Clock;
use crate::config::{Kubernetes, ServiceName};
use crate::control::discovery::Pods;
use crate::control::fleet::{State, lease};
use crate::rollout::fleet::pool::Report;
use crate::rollout::judge::SLOT;

/// Replicas that are asked at once; others wait for their turn.
const ASKED_MAX: usize = 32;

/// From the question to the end of the answer.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(1);

/// A longer answer is none.
const ANSWER_BYTES_MAX: usize = 4 << 20;

/// Answers that wait for the controller. When full, no more is asked.
pub const PULLED_MAX: usize = 256;

/// Every replica costs so much of a second: with more of them, each is asked less often.
const EACH: Duration = Duration::from_millis(5);

/// What came of asking.
#[derive(Debug)]
pub enum Pulled {
    /// These should be there, and each is asked that often.
    Expected(Vec<SocketAddr>, Duration),
    /// One has answered.
    Answered(SocketAddr, Box<Report>),
}

/// How often each of `count` replicas is asked.
pub fn pause(count: usize) -> Duration {
    EACH.saturating_mul(u32::try_from(count).unwrap_or(u32::MAX)).max(SLOT)
}

/// Who asks, and by which plans it judges: hashes with commas between them.
pub type Asking = (Arc<str>, watch::Receiver<Arc<str>>);

/// Asks the pods of `service` while this replica holds the lease.
pub async fn run(
    (service, kubernetes): (ServiceName, Kubernetes),
    (clock, asking): (Clock, Asking),
    mut state: watch::Receiver<State>,
    pulled: mpsc::Sender<Pulled>,
) {
    loop {
        let holds = |state: &State| lease::holds(state.holds_until, clock.now());
        if state.wait_for(holds).await.is_err() {
            return;
        }
        // Those of other zones are replicas as well.
        let everywhere = Kubernetes { zone: None, ..kubernetes.clone() };
        let mut pods = Pods::new(service.clone(), everywhere);
        let mut asked = BTreeMap::new();
        let places = Arc::new(Semaphore::new(ASKED_MAX));
        let (set_pause, pause_set) = watch::channel(SLOT);
        loop {
            tokio::select! {
                found = pods.next() => match found {
                    Ok(addresses) => {
                        let pause = pause(addresses.len());
                        set_pause.send_replace(pause);
                        asked.retain(|address, _| addresses.contains(address));
                        for address in &addresses {
                            let to = pulled.clone();
                            let (places, pause) = (Arc::clone(&places), pause_set.clone());
                            asked.entry(*address).or_insert_with(|| {
                                let asking = ask((*address, asking.clone()), pause, places, to);
                                AbortOnDropHandle::new(tokio::spawn(asking))
                            });
                        }
                        if pulled.send(Pulled::Expected(addresses, pause)).await.is_err() {
                            return;
                        }
                    }
                    Err(error) => {
                        tracing::debug!(
                            event = "replicas_unknown", %error,
                            "the fleet's replicas cannot be looked up"
                        );
                    }
                },
                changed = state.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    if state.borrow_and_update().holds_until.is_none() {
                        break;
                    }
                }
            }
        }
    }
}

/// Asks one replica again and again.
async fn ask(
    (address, (by, plans)): (SocketAddr, Asking),
    pause: watch::Receiver<Duration>,
    places: Arc<Semaphore>,
    to: mpsc::Sender<Pulled>,
) {
    let mut line = None;
    let (mut boot, mut after) = (String::new(), 0);
    loop {
        {
            let Ok(_place) = places.acquire().await else { return };
            let path = {
                let plans = &**plans.borrow();
                format!("/fleet/counts?boot={boot}&after={after}&by={by}&plans={plans}")
            };
            let fetched = timeout(ANSWER_TIME_MAX, fetch(address, &path, &mut line)).await;
            if let Ok(Ok(report)) = fetched {
                (boot, after) = (report.source.boot.clone(), report.slot);
                if to.send(Pulled::Answered(address, Box::new(report))).await.is_err() {
                    return;
                }
            } else {
                // What the connection is in the middle of is of no use.
                line = None;
            }
        }
        let pause = *pause.borrow();
        sleep(pause.mul_f64(0.9 + 0.2 * fastrand::f64())).await;
    }
}

type Error = Box<dyn std::error::Error + Send + Sync>;

/// A connection, with what keeps it going.
type Line = (SendRequest<Empty<Bytes>>, AbortOnDropHandle<()>);

/// On the connection there is; on another one if that has ended meanwhile.
async fn fetch(address: SocketAddr, path: &str, line: &mut Option<Line>) -> Result<Report, Error> {
    if let Some((sender, _)) = line
        && sender.ready().await.is_ok()
        && let Ok(report) = fetch_on(address, path, sender).await
    {
        return Ok(report);
    }
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = AbortOnDropHandle::new(tokio::spawn(async move {
        // Its error is that of the request, too.
        let _ = connection.await;
    }));
    let report = fetch_on(address, path, &mut sender).await?;
    *line = Some((sender, connection));
    Ok(report)
}

async fn fetch_on(
    address: SocketAddr,
    path: &str,
    sender: &mut SendRequest<Empty<Bytes>>,
) -> Result<Report, Error> {
    let request = Request::get(path).header(header::HOST, address.to_string());
    let response = sender.send_request(request.body(Empty::new())?).await?;
    if !response.status().is_success() {
        return Err(format!("it answers {}", response.status()).into());
    }
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await?;
    Ok(serde_json::from_slice(&body.to_bytes())?)
}
