//! Which backend a request is sent to next, when an attempt has failed: the same one again
//! (`retry`), or stable for the canary (`failover`).
//!
//! Never sends anything, and never once a byte of a response has gone to the client: the
//! loop that sends is in `exchange`.

use std::net::SocketAddr;

use http::Method;

use crate::clock::Clock;
use crate::proxy::body::Source;
use crate::proxy::error::Error;
use crate::proxy::upstream::{AnswerBody, Outbound};
use crate::proxy::view::{Avoid, RuleRef, TargetView, View};
use crate::snapshot::{self, Rollout};
use crate::telemetry::counts::{RetryPermit, RetryRefused};
use crate::telemetry::told::Why;
use crate::traffic::message::Response;
use crate::traffic::outcome::{Outcome, grpc_status};
use crate::traffic::retry::Failure;

/// What was tried for one request, and where it goes now.
#[derive(Debug)]
pub struct Tries<'v> {
    rule: RuleRef<'v>,
    /// Index into the rule's targets.
    target: usize,
    retries: u32,
    failed_over: bool,
    /// Where the last attempt at the present target went, and those before it.
    last: Option<SocketAddr>,
    before: Vec<SocketAddr>,
    permit: Option<RetryPermit>,
}

impl<'v> Tries<'v> {
    /// Nothing yet; the split chose `target`.
    pub fn first(rule: RuleRef<'v>, target: usize) -> Self {
        let (last, before, permit) = (None, Vec::new(), None);
        Self { rule, target, retries: 0, failed_over: false, last, before, permit }
    }

    /// Has the body kept, where it may be sent again.
    pub fn prepare(&self, source: &Source) {
        if self.rule.rule.retry.is_some() || self.has_failover() {
            source.keep_to_replay();
        }
    }

    /// Where the next attempt goes.
    pub fn target(&self) -> (&'v snapshot::Target, &'v TargetView) {
        self.rule.target(self.target)
    }

    /// The endpoints that failed; another one is better.
    pub fn avoid(&self) -> Avoid<'_> {
        Avoid { last: self.last, before: &self.before }
    }

    /// The attempt goes to `endpoint`.
    pub fn went_to(&mut self, endpoint: SocketAddr) {
        // Hardly any request has more than one attempt.
        self.before.extend(self.last.replace(endpoint));
    }

    /// Whether this is the attempt that the request came with.
    pub fn is_first(&self) -> bool {
        self.retries == 0 && !self.failed_over
    }

    /// Why the attempt is made.
    pub fn why(&self) -> Why {
        match (self.failed_over, self.retries) {
            (false, 0) => Why::First,
            (true, 0) => Why::Failover,
            (_, 1..) => Why::Retry,
        }
    }

    /// Whether stable stands in for the canary.
    pub fn has_failed_over(&self) -> bool {
        self.failed_over
    }

    /// Whether the attempt goes to the canary of a rollout, which comes first among the targets.
    pub fn is_at_canary(&self) -> bool {
        self.rule.rule.rollout.is_some() && self.target == Rollout::CANARY
    }

    /// What a retry holds until it ends.
    pub fn into_permit(self) -> Option<RetryPermit> {
        self.permit
    }

    /// Whether what was `answered` is not passed on and another attempt is made.
    ///
    /// The canary is not tried twice where stable can answer: the user waits less, and a
    /// version that fails is not given more to do.
    pub fn go_on(
        &mut self,
        answered: &Result<Response<AnswerBody>, Error>,
        method: &Method,
        outbound: &Outbound,
        (view, clock): (&View, Clock),
    ) -> bool {
        if matches!(answered, Err(Error::TakenOut)) && self.is_at_canary() {
            // Nothing was sent yet: it goes where the weights of now would have it.
            (self.target, self.failed_over) = (Rollout::STABLE, true);
            self.forget_endpoints();
            outbound.wait.clear();
            return true;
        }
        let Some(failure) = failure_of(answered) else { return false };
        let goes_on = if self.can_fail_over(view) && is_fault(answered) {
            self.fail_over(&outbound.source)
        } else if matches!(answered, Err(Error::NoEndpoint { .. })) {
            // There is still none at once.
            false
        } else {
            self.try_again(failure, method, &outbound.source, clock)
        };
        if goes_on {
            // What passed in a phase of the failed attempt is not held against the next.
            outbound.wait.clear();
        }
        goes_on
    }

    fn has_failover(&self) -> bool {
        self.rule.rule.failover.is_some_and(|failover| failover.canary == self.target)
    }

    /// A stable version that has no endpoint is worse than a canary that may try again.
    fn can_fail_over(&self, view: &View) -> bool {
        let stable = self.rule.rule.failover.map(|failover| failover.stable);
        let serves = |stable| view.has_endpoint(self.rule.target(stable).0.backend);
        self.has_failover() && stable.is_some_and(serves)
    }

    fn fail_over(&mut self, source: &Source) -> bool {
        let counters = self.target().1.leg.counters();
        if !source.is_replayable() {
            counters.refused(RetryRefused::Body).add(1);
            return false;
        }
        counters.failovers.add(1);
        if let Some(failover) = self.rule.rule.failover {
            self.target = failover.stable;
        }
        self.failed_over = true;
        self.forget_endpoints();
        true
    }

    /// Those of another target are others.
    fn forget_endpoints(&mut self) {
        self.last = None;
        self.before.clear();
    }

    fn try_again(
        &mut self,
        failure: Failure,
        method: &Method,
        body: &Source,
        clock: Clock,
    ) -> bool {
        let Some((retry, budget)) = &self.rule.rule.retry else { return false };
        if !retry.wants(failure, method, self.retries) {
            return false;
        }
        let counters = self.target().1.leg.counters();
        if !body.is_replayable() {
            counters.refused(RetryRefused::Body).add(1);
            return false;
        }
        // One permit for all retries of a request: only one is live at a time.
        self.permit = None;
        let requests = self.live_requests();
        let affords = |live, started| retry.affords(live, requests, started);
        self.permit = budget.take(clock.now(), affords);
        if self.permit.is_none() {
            counters.refused(RetryRefused::Budget).add(1);
            return false;
        }
        counters.retries.add(1);
        self.retries += 1;
        true
    }

    /// Requests of the rule under way, over all workers.
    fn live_requests(&self) -> u64 {
        let legs = self.rule.rule.targets.iter().flat_map(|target| target.leg.workers());
        legs.map(|worker| worker.in_flight.get()).sum()
    }
}

/// How an attempt failed, if it did and another one may do better. A status below 500 that
/// a rule retries on is a failure too.
fn failure_of(answered: &Result<Response<AnswerBody>, Error>) -> Option<Failure> {
    match answered {
        Ok(response) if response.status().is_success() && !is_fault(answered) => None,
        Ok(response) => Some(Failure::Status(response.status())),
        Err(error) => error.failure(),
    }
}

/// Whether the canary failed, as the judge sees it, or could not be reached at all.
fn is_fault(answered: &Result<Response<AnswerBody>, Error>) -> bool {
    match answered {
        Ok(response) => {
            let status = grpc_status(&response.head.fields);
            Outcome::of(response.status(), status) == Outcome::Bad
        }
        Err(error) => error.failure().is_some(),
    }
}
