//! Sends a rollout's probes to both versions: the way of a request from the endpoint on, with the
//! same limits and the same outcomes.
//!
//! Never counted as a request of a user: what becomes of a probe is counted for itself.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use foldhash::HashMap;

use crate::clock::Clock;
use crate::proxy::body::Source;
use crate::proxy::mirror::ANSWER_BYTES_MAX;
use crate::proxy::relayed::Relayed;
use crate::proxy::upstream::{Endpoint, Outbound};
use crate::proxy::view::{Avoid, Pick, View};
use crate::proxy::whole::Whole;
use crate::proxy::worker::Worker;
use crate::snapshot::{Probing, Rule};
use crate::telemetry::counts::{Arm, Leg};
use crate::telemetry::sample::{Sample, WorkerLeg};
use crate::traffic::fields::Known;
use crate::traffic::headers::request_id;
use crate::traffic::message::RequestHead;
use crate::traffic::probe::Probe;

/// How often it is looked whose turn it is.
const LOOK: Duration = Duration::from_millis(250);

/// A probe that has not ended by then has failed.
const PROBE_TIME_MAX: Duration = Duration::from_mins(1);

/// Sends probes for as long as it is polled, from one worker. Of each rollout one pair is under
/// way at most: a slow version is not asked faster than it answers.
pub async fn run(worker: &Worker) {
    // By where a rollout's probes are counted.
    let mut sent = HashMap::<usize, (crate::units::Tick, Rc<()>)>::default();
    loop {
        tokio::time::sleep(LOOK).await;
        if worker.is_draining() {
            continue;
        }
        let (view, now) = (worker.view(), worker.clock.now());
        let mut present = Vec::new();
        for rule in &view.snapshot.rules {
            let Some(probing) = rule.rollout.as_ref().and_then(|one| one.probing.as_ref()) else {
                continue;
            };
            let key = Arc::as_ptr(&probing.legs[0]).addr();
            present.push(key);
            let is_early = sent.get(&key).is_some_and(|(at, under_way)| {
                now.since(*at) < probing.probe.every || Rc::strong_count(under_way) > 1
            });
            if is_early {
                continue;
            }
            let under_way = Rc::new(());
            if ask_both(worker, &view, rule, (probing, &under_way)) {
                sent.insert(key, (now, under_way));
            }
        }
        sent.retain(|key, _| present.contains(key));
    }
}

/// Asks both versions, if both can be asked: `false` if not. What only one of them could have got
/// is no evidence.
fn ask_both(
    worker: &Worker,
    view: &View,
    rule: &Rule,
    (probing, under_way): (&Probing, &Rc<()>),
) -> bool {
    let now = worker.clock.now();
    let find = |arm: Arm| {
        let target = rule.targets.iter().find(|target| target.arm == Some(arm))?;
        let backend = &view.snapshot.backends[target.backend];
        let pass = backend.limit.as_ref().map(|limit| limit.gate.try_enter());
        // It does not wait in line with users.
        let pass = match pass {
            Some(None) => return None,
            Some(Some(pass)) => Some(pass),
            None => None,
        };
        let draw = fastrand::u64(..);
        let pick = Pick { draw, affinity: draw };
        let endpoint =
            Rc::clone(&view.endpoint(target.backend, pick, Avoid::default(), now)?.endpoint);
        Some((endpoint, target.model.as_deref(), pass))
    };
    let Some((stable, canary)) = find(Arm::Stable).zip(find(Arm::Canary)) else { return false };
    for ((endpoint, model, pass), leg) in [stable, canary].into_iter().zip(&probing.legs) {
        let total = rule.timeouts.request.map_or(PROBE_TIME_MAX, |all| all.min(PROBE_TIME_MAX));
        let wait = Rc::new(worker.deadlines.open(now, Some(total)));
        let mut head = head_of(&probing.probe, &endpoint);
        let body = Bytes::copy_from_slice(&probing.probe.body);
        let source = if body.is_empty() {
            Source::of_kept(Vec::new())
        } else {
            let whole = Whole::of(body, &head.fields);
            Source::of_kept(whole.for_version(&mut head, model))
        };
        let outbound = Outbound { source, wait, timeouts: rule.timeouts, interims: None };
        let (leg, clock, under_way) = (Arc::clone(leg), worker.clock, Rc::clone(under_way));
        tokio::task::spawn_local(async move {
            ask(&head, (endpoint, outbound), leg, clock).await;
            drop((pass, under_way));
        });
    }
    true
}

fn head_of(probe: &Probe, endpoint: &Endpoint) -> RequestHead {
    let mut head = RequestHead::new(probe.method.clone(), probe.target.clone().into());
    head.fields.insert(Known::Host, endpoint.address().to_string());
    head.fields.insert(Known::UserAgent, NAME);
    head.fields.insert(Known::XRequestId, request_id(fastrand::u64(..), fastrand::u64(..)));
    for (name, value) in &probe.headers {
        head.fields.insert(name, value);
    }
    head
}

const NAME: &str = concat!("serin/", env!("CARGO_PKG_VERSION"), " (probe)");

/// One probe, to the end of its answer.
async fn ask(
    head: &RequestHead,
    (endpoint, outbound): (Rc<Endpoint>, Outbound),
    leg: Arc<Leg>,
    clock: Clock,
) {
    let now = clock.now();
    let sample = Sample::open(Rc::new(WorkerLeg::new(leg, 0)), clock, now);
    match endpoint.send(head, &outbound, now).await {
        Ok(response) => {
            let Outbound { source, wait, timeouts, .. } = outbound;
            let answer = Relayed::ride(response, (sample, None), (source, wait), timeouts);
            let mut body = answer.body;
            let mut bytes = 0;
            // It is settled as it ends; an endless one says nothing.
            while let Some(Ok(frame)) = poll_fn(|cx| body.poll_frame(cx)).await {
                bytes += frame.data_ref().map_or(0, Bytes::len);
                if bytes > ANSWER_BYTES_MAX {
                    break;
                }
            }
        }
        Err(error) => sample.settle(error.outcome()),
    }
}
