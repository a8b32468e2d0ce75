//! The way of a request. Read this first.
//!
//! Never decides: routing, splitting, mirroring and balancing are answers of `traffic`,
//! and what they are fed is drawn and measured here.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode, Version};

use crate::proxy::admission;
use crate::proxy::body::Source;
use crate::proxy::cut::{Cuttable, is_to_be_cut};
use crate::proxy::error::{Error, Timeout};
use crate::proxy::forward::{self, Peer};
use crate::proxy::incoming::Incoming;
use crate::proxy::interim::Interims;
use crate::proxy::mirror::{Copy, Place};
use crate::proxy::relayed::Relayed;
use crate::proxy::reply;
use crate::proxy::response::ResponseBody;
use crate::proxy::tries::Tries;
use crate::proxy::upstream::{AnswerBody, Outbound};
use crate::proxy::view::{Avoid, Pick, RuleRef, TargetView, View};
use crate::proxy::whole::Whole;
use crate::proxy::worker::Worker;
use crate::snapshot;
use crate::telemetry::counts::MirrorResult;
use crate::telemetry::sample::{CLIENT_GONE, Judged, Sample};
use crate::telemetry::story::{From, Story};
use crate::telemetry::told::End;
use crate::traffic::draw::{Salt, StickyKey};
use crate::traffic::fields::{Known, Name};
use crate::traffic::grpc;
use crate::traffic::headers::strip_hop_by_hop;
use crate::traffic::matching::ModelView;
use crate::traffic::message::{Request, RequestHead, Response};
use crate::traffic::outcome::{Outcome, grpc_status, is_grpc};
use crate::traffic::retry::Timeouts;
use crate::traffic::route::Found;
use crate::units::Tick;

/// Serves the requests of one connection.
#[derive(Clone, Debug)]
pub struct Exchange {
    worker: Rc<Worker>,
    peer: Rc<Peer>,
    /// Where interim responses go; `None` drops them.
    interims: Option<Rc<Interims>>,
}

/// The numbers that decide, one each: with a shared one, a 5 % mirror would copy the
/// requests of one backend only.
struct Draws {
    split: u64,
    /// The split's draw when a sticky key gave it.
    sticky: Option<u64>,
    balance: u64,
}

impl Exchange {
    /// For the requests of `peer`.
    pub fn new(worker: Rc<Worker>, peer: Peer) -> Self {
        Self { worker, peer: Rc::new(peer), interims: None }
    }

    /// The same, for a client that gets interim responses too.
    #[must_use]
    pub fn with_interims(mut self, interims: &Rc<Interims>) -> Self {
        self.interims = Some(Rc::clone(interims));
        self
    }

    /// Where it is.
    pub fn worker(&self) -> &Rc<Worker> {
        &self.worker
    }

    /// Answers `request`, with an answer of Serin's own where there is no other. `Err`
    /// cuts the connection: there is nobody to answer.
    pub async fn answer(self, request: Request<Incoming>) -> Result<Response<ResponseBody>, Error> {
        let grpc = is_grpc(&request.head.fields);
        let method = request.head.method.clone();
        match self.run(request).await {
            Ok(response) => Ok(response),
            Err(error) => reply::of(&error, &method, grpc).ok_or(error),
        }
    }

    /// The answer to what could not be read as a request.
    pub fn refuse(
        &self,
        error: &Error,
        version: Version,
        grpc: bool,
    ) -> Option<Response<ResponseBody>> {
        let view = self.worker.view();
        let end = self.refused(&view, self.worker.clock.now(), error);
        if let Some(telling) = &view.snapshot.telling {
            Story::refused(telling, self.worker.index, self.from(&view), version, end);
        }
        reply::of(error, &Method::GET, grpc)
    }

    /// Accept and protocol lie behind us; what is observed here, `control` judges.
    async fn run(&self, request: Request<Incoming>) -> Result<Response<ResponseBody>, Error> {
        let started = self.worker.clock.now();
        let mut view = self.worker.view();
        let Request { mut head, body } = request;
        let head = &mut *head;

        let story = self.story(&view, head, started);
        forward::drop_claims(&mut head.fields, view.trusts(&self.peer));
        let source = source_of(head, body, &view.snapshot);
        let has_body = !source.is_ended();
        let routed = self.route(&mut view, head, &source).await;
        let routed =
            routed.inspect_err(|error| self.unrouted(&view, started, error, story.as_deref()));
        let (found, whole) = routed?;
        let rule = view.rule(found);
        let draws = Draws::for_rule(rule.rule, head);
        source.size.set(rule.rule.body_bytes_max);
        let timeouts = timeouts_of(rule.rule, head);
        forward::to_endpoint(head, &self.peer, has_body);
        if let Some(story) = &story {
            story.routed(&head.fields, rule.rule.rollout.as_ref().map(|one| &one.name));
        }
        self.mirror(&view, rule, (&*head, &source, whole.as_deref(), story.as_ref()), started);

        let wait = Rc::new(self.worker.deadlines.open_named(started, time_limit(head, &timeouts)));
        let interims = self.interims.clone();
        let outbound = Outbound { source, wait, timeouts, interims };
        let mut tries = Tries::first(rule, rule.split(draws.split));
        tries.prepare(&outbound.source);
        // The present, as long as nothing was waited for.
        let mut arrived = whole.is_none().then_some(started);
        loop {
            let (target, counters) = tries.target();
            if let Some(whole) = &whole {
                let body = whole.for_version(head, target.model.as_deref());
                outbound.source.replace(body);
            }
            let mut sample = self.open_sample(&tries, counters, (&*head, &draws), started);
            if let Some(story) = &story {
                sample.is_told_in(story.attempt(&mut head.fields, tries.why()));
            }
            let pick =
                self.pick(&view, rule.rule, (target.backend, &draws), head, tries.is_first());
            let attempt = (&mut tries, &mut sample, arrived.take());
            let answered = self.attempt(&view, rule, pick, attempt, (&*head, &outbound)).await;
            if tries.go_on(&answered, &head.method, &outbound, (&view, self.worker.clock)) {
                give_up(answered, sample);
                continue;
            }
            match answered {
                Ok(mut response) => {
                    outbound.source.will_not_replay();
                    to_client(&mut response, &view, rule.rule, target);
                    // Settles when the body ends.
                    let measured = (sample, tries.into_permit());
                    let Outbound { source, wait, .. } = outbound;
                    let response = Relayed::ride(response, measured, (source, wait), timeouts);
                    return Ok(match &target.cut {
                        Some(is_cut) if is_to_be_cut(&response, is_cut) => {
                            Cuttable::new(response, Arc::clone(is_cut), &self.worker.cuts)
                                .map(ResponseBody::Cuttable)
                        }
                        Some(_) | None => response.map(ResponseBody::Relayed),
                    });
                }
                Err(error) => {
                    set_failure(&sample, &error);
                    sample.set_received(outbound.source.bytes());
                    sample.settle(error.outcome());
                    return Err(error);
                }
            }
        }
    }

    /// One attempt: a place at the backend, one of its endpoints, and what that answers.
    async fn attempt(
        &self,
        view: &Rc<View>,
        rule: RuleRef<'_>,
        pick: Pick,
        (tries, sample, arrived): (&mut Tries<'_>, &mut Sample, Option<Tick>),
        (head, outbound): (&RequestHead, &Outbound),
    ) -> Result<Response<AnswerBody>, Error> {
        let (target, counters) = tries.target();
        if forward::announces_more(head, rule.rule.body_bytes_max) {
            return Err(Error::too_large());
        }
        let (backend, clock) = (&view.snapshot.backends[target.backend], self.worker.clock);
        let counters = counters.leg.counters();
        let pass = admission::enter(backend, &outbound.wait, counters, clock).await?;
        let now = arrived.filter(|_| pass.is_none()).unwrap_or_else(|| clock.now());
        sample.admitted(pass, now);
        // While it waited in line, or failed elsewhere, the world may have gone on.
        let present = self.worker.view();
        if tries.is_at_canary() && present.has_taken_out(view, rule, target) {
            return Err(Error::TakenOut);
        }
        let (present, backend) = present.backend_of(view, target.backend);
        let Some(one) = present.endpoint(backend, pick, tries.avoid(), now) else {
            return Err(no_endpoint(view, rule.rule, target));
        };
        tries.went_to(one.endpoint.address());
        sample.went_to(&one.signs, one.endpoint.address());
        if rule.takes_for_young(one, now) {
            sample.at_young_endpoint();
        }
        one.endpoint.send(head, outbound, now).await
    }

    /// What is told of a request; `None` where nothing is asked for.
    fn story(&self, view: &View, head: &RequestHead, started: Tick) -> Option<Rc<Story>> {
        let telling = view.snapshot.telling.as_ref()?;
        let here = (self.worker.index, self.worker.clock);
        Some(Story::begin(telling, here, head, self.from(view), started))
    }

    fn from(&self, view: &View) -> From {
        From {
            client: self.peer.source,
            is_encrypted: self.peer.proto == "https",
            is_trusted: view.trusts(&self.peer),
        }
    }

    /// The rule for a request, whose target is made addressable on the way. Where it goes by its
    /// body, that is waited for, and `view` is then what it is by that time.
    async fn route(
        &self,
        view: &mut Rc<View>,
        head: &mut RequestHead,
        source: &Rc<Source>,
    ) -> Result<(Found, Option<Box<Whole>>), Error> {
        forward::read_target(head)?;
        let found = self.find(view, head, ModelView::Unread)?;
        if !found.by_model && !view.rule(found).rule.renames {
            return Ok((found, None));
        }
        let wait = self.worker.deadlines.open(self.worker.clock.now(), None);
        // Boxed: most requests do not come by here.
        let whole = Box::pin(Whole::read(head, source, wait)).await?.map(Box::new);
        *view = self.worker.view();
        let model = whole.as_ref().map_or(ModelView::Read(None), |whole| whole.model());
        Ok((self.find(view, head, model)?, whole))
    }

    /// The rule for a request, whose target is addressable.
    fn find(&self, view: &View, head: &RequestHead, model: ModelView<'_>) -> Result<Found, Error> {
        view.find(&forward::view(head, &self.peer, model)).ok_or(Error::NoRoute)
    }

    /// Counts a request that no rule got, and tells of it.
    fn unrouted(&self, view: &View, started: Tick, error: &Error, story: Option<&Story>) {
        let end = self.refused(view, started, error);
        if let Some(story) = story {
            story.end(end);
        }
    }

    /// Counts a request that no rule got. How it ended.
    fn refused(&self, view: &View, started: Tick, error: &Error) -> End {
        let sample = Sample::open(Rc::clone(&view.unrouted), self.worker.clock, started);
        set_failure(&sample, error);
        let end = sample.end(self.worker.clock.now());
        sample.settle(error.outcome());
        end
    }

    /// Orders a copy for each shadow that wants one and has a place free.
    fn mirror(
        &self,
        view: &View,
        rule: RuleRef<'_>,
        (head, source, whole, story): (
            &RequestHead,
            &Rc<Source>,
            Option<&Whole>,
            Option<&Rc<Story>>,
        ),
        started: Tick,
    ) {
        if forward::announces_more(head, rule.rule.body_bytes_max) {
            // It is refused.
            return;
        }
        for (shadow, leg) in rule.shadows() {
            let mirror = &shadow.mirror;
            // What follows the answer in another protocol is no copy of anything.
            let upgrade = head.upgrade.is_some();
            if upgrade || !mirror.wants(&head.method, fastrand::u64(..)) {
                continue;
            }
            if forward::announces_more(head, Some(mirror.body_bytes_max)) {
                leg.counters().mirrored(MirrorResult::TooLarge).add(1);
                continue;
            }
            let place = Place::take(&shadow.in_flight, mirror.in_flight_max);
            let limit = view.snapshot.backends[shadow.backend].limit.as_ref();
            let draw = fastrand::u64(..);
            let pick = Pick { draw, affinity: draw };
            let endpoint = view.endpoint(shadow.backend, pick, Avoid::default(), started);
            let Some((place, endpoint)) = place.zip(endpoint) else {
                leg.counters().mirrored(MirrorResult::Dropped).add(1);
                continue;
            };
            let mut copy = head.clone();
            let model = mirror.model.as_deref();
            let body = whole.map(|whole| whole.for_version(&mut copy, model));
            let tale = story.and_then(|story| {
                let leg = Arc::clone(leg.shared());
                story.copy((&mut copy.fields, &head.method), leg, endpoint.endpoint.address())
            });
            let copy = Copy::new(
                mirror,
                copy,
                Rc::clone(&endpoint.endpoint),
                (&self.worker.deadlines, rule.rule.timeouts),
                (Rc::clone(leg), place, limit.map(|limit| Arc::clone(&limit.gate))),
                tale,
            );
            match body {
                Some(body) => copy.start(body),
                None => source.copy_to(copy),
            }
        }
    }

    /// By what the endpoint of an attempt is chosen.
    fn pick(
        &self,
        view: &View,
        rule: &snapshot::Rule,
        (backend, draws): (usize, &Draws),
        head: &RequestHead,
        is_first: bool,
    ) -> Pick {
        let affinity = if view.wants_affinity(backend) {
            // Without the rollout's salt: its users keep their endpoints when it ends.
            let key = rule.sticky.as_ref().and_then(|key| sticky_draw(Salt::NONE, key, head));
            key.unwrap_or_else(|| Salt::NONE.draw(self.peer.address.as_bytes()))
        } else {
            0
        };
        // Drawn anew for each further attempt, or it would go between the same two.
        let draw = if is_first { draws.balance } else { fastrand::u64(..) };
        Pick { draw, affinity }
    }

    /// Attempts are judged, not requests; but only those at the backend that the weights
    /// chose.
    fn open_sample(
        &self,
        tries: &Tries<'_>,
        counters: &TargetView,
        (head, draws): (&RequestHead, &Draws),
        started: Tick,
    ) -> Sample {
        let clock = self.worker.clock;
        let sample = Sample::open(Rc::clone(&counters.leg), clock, started);
        match &counters.arm {
            Some(arm) if !tries.has_failed_over() => {
                let again = (!tries.is_first()).then(|| clock.now());
                let id = arm.asks_for_ids().then(|| head.fields.value(Known::XRequestId));
                let judged = Judged { again, sticky: draws.sticky, id: id.flatten() };
                sample.judged(arm, &self.worker.open_attempts, judged)
            }
            Some(_) | None => sample,
        }
    }
}

/// What the client sends behind `head`.
fn source_of(head: &RequestHead, body: Incoming, snapshot: &snapshot::Snapshot) -> Rc<Source> {
    let is_tunnel = head.upgrade.is_some();
    let source = if is_tunnel { Source::new_tunnel(body) } else { Source::new(body) };
    source.replay_bytes_max.set(snapshot.replay_body_bytes_max);
    source
}

/// The limits of time of a request's phases; `head` as the client sent it.
fn timeouts_of(rule: &snapshot::Rule, head: &RequestHead) -> Timeouts {
    // Streams of gRPC may be silent: what a client has to say may come any time. There are none
    // but over HTTP/2, and anybody can say that a body is of gRPC.
    let may_be_silent = head.version == Version::HTTP_2 && is_grpc(&head.fields);
    let upload_rate = if may_be_silent { 0 } else { rule.timeouts.upload_rate };
    Timeouts { upload_rate, ..rule.timeouts }
}

/// How long the whole exchange may take: as the rule says, or as its gRPC client does.
fn time_limit(head: &RequestHead, timeouts: &Timeouts) -> Option<(Duration, Timeout)> {
    let request = timeouts.request.map(|span| (span, Timeout::Request));
    let client = is_grpc(&head.fields).then(|| grpc::timeout(&head.fields)).flatten();
    let client = client.map(|span| (span, Timeout::Deadline));
    request.into_iter().chain(client).min_by_key(|(span, _)| *span)
}

/// Settles an attempt whose request is tried again.
fn give_up(answered: Result<Response<AnswerBody>, Error>, sample: Sample) {
    match answered {
        Ok(response) => {
            sample.set_code(response.status().as_u16());
            let status = grpc_status(&response.head.fields);
            sample.settle_unanswered(Outcome::of(response.status(), status));
            response.body.discard();
        }
        Err(error) => {
            set_failure(&sample, &error);
            sample.settle_unanswered(error.outcome());
        }
    }
}

/// The code and the reason under which a failure is counted.
fn set_failure(sample: &Sample, error: &Error) {
    sample.set_code(error.status().map_or(CLIENT_GONE, |status| status.as_u16()));
    sample.set_failure(error.reason());
}

impl Draws {
    fn for_rule(rule: &snapshot::Rule, head: &RequestHead) -> Self {
        let sticky = rule.sticky.as_ref().and_then(|key| sticky_draw(rule.salt, key, head));
        let split = sticky.unwrap_or_else(|| fastrand::u64(..));
        Self { split, sticky, balance: fastrand::u64(..) }
    }
}

/// The draw of the request's sticky key.
fn sticky_draw(salt: Salt, key: &StickyKey, head: &RequestHead) -> Option<u64> {
    key.value(&head.fields, head.uri.query()).map(|key| salt.draw(&key))
}

fn no_endpoint(view: &View, rule: &snapshot::Rule, target: &snapshot::Target) -> Error {
    let backend = view.snapshot.backends[target.backend].name.clone();
    Error::NoEndpoint { rule: rule.id.clone(), backend }
}

/// Makes the head of an endpoint's response that of one to the client.
fn to_client<B>(
    response: &mut Response<B>,
    view: &View,
    rule: &snapshot::Rule,
    target: &snapshot::Target,
) {
    const BACKEND: Name<'static> = Name::other("x-serin-backend");
    const ROLLOUT: Name<'static> = Name::other("x-serin-rollout");
    response.head.version = Version::HTTP_11;
    let fields = &mut response.head.fields;
    strip_hop_by_hop(fields);
    if response.head.status == StatusCode::NO_CONTENT {
        // It has none (RFC 9110, section 8.6).
        fields.remove(Known::ContentLength);
    }
    if view.snapshot.response_headers {
        fields.insert(BACKEND, view.snapshot.backends[target.backend].name.as_str());
        if let Some(rollout) = &rule.rollout {
            fields.insert(ROLLOUT, rollout.name.as_str());
        }
    }
}
