//! How long to wait for an attempt, and when a failed one may be tried again.
//!
//! Never counts anything: the caller says what happened.

use std::time::Duration;

use http::{Method, StatusCode};

use crate::units::Ratio;

/// How long each phase of an exchange may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Until a connection to the endpoint stands.
    pub connect: Duration,
    /// From the request's head sent to the response's head.
    pub first_byte: Duration,
    /// Between two pieces of a body, in either direction.
    pub idle: Duration,
    /// The whole exchange; `None` is no limit, for streams run for minutes.
    pub request: Option<Duration>,
    /// Between two pieces of another protocol, behind an upgrade, in both directions.
    pub tunnel: Duration,
    /// Bytes a second that a client must send of its body, on average; 0 is no limit.
    pub upload_rate: u64,
}

impl Timeouts {
    /// Where the config does not say: from the first byte of a request's head to its last, and
    /// from a connection to HTTP.
    pub const HEAD: Duration = Duration::from_secs(10);

    /// Before `upload_rate` is asked for: a body may begin slowly.
    pub const UPLOAD_GRACE: Duration = Duration::from_secs(5);

    /// How long a client may still be waited for that has sent `bytes` of its body and has
    /// been waited for for `waited` so far; `None` is without end.
    pub fn upload_patience(&self, bytes: u64, waited: Duration) -> Option<Duration> {
        let earned =
            Duration::from_millis(bytes.saturating_mul(1000).checked_div(self.upload_rate)?);
        Some((Self::UPLOAD_GRACE + earned).saturating_sub(waited))
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            first_byte: Duration::from_mins(1),
            idle: Duration::from_mins(1),
            request: None,
            tunnel: Duration::from_hours(1),
            upload_rate: 240,
        }
    }
}

/// Where the config does not say: a request body up to this size is kept until the response's
/// head arrives, so that it can be sent again. A larger one is sent once.
pub const REPLAY_BODY_BYTES_MAX: usize = 1 << 20;

/// How an attempt failed while nothing of a response had gone to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No connection to an endpoint.
    Connect,
    /// Reset, closed before a head, or what came was not HTTP.
    Reset,
    /// No head in time.
    FirstByte,
    /// A response with this status.
    Status(StatusCode),
}

/// Failures that a rule tries again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// [`Failure::Connect`].
    Connect,
    /// [`Failure::Reset`].
    Reset,
    /// [`Failure::FirstByte`].
    FirstByte,
    /// Every status from 500 to 599.
    ServerError,
    /// This status.
    Status(StatusCode),
}

impl Condition {
    /// Whether `failure` is one of them.
    pub fn includes(self, failure: Failure) -> bool {
        match self {
            Self::Connect => failure == Failure::Connect,
            Self::Reset => failure == Failure::Reset,
            Self::FirstByte => failure == Failure::FirstByte,
            Self::ServerError => {
                matches!(failure, Failure::Status(status) if status.is_server_error())
            }
            Self::Status(status) => failure == Failure::Status(status),
        }
    }
}

/// What a rule tries again at the same backend, and how often.
#[derive(Clone, Debug, PartialEq)]
pub struct Retry {
    /// Further attempts after the first.
    pub attempts: u32,
    /// Of the rule's live requests, the share that may be retries.
    pub budget: Ratio,
    /// Failures that are tried again.
    pub on: Vec<Condition>,
    /// Methods that may be sent twice.
    pub methods: Vec<Method>,
}

/// Retries that a rule may start in a second whatever its budget: a share of little is none.
pub const RETRIES_PER_SECOND_MIN: u32 = 3;

impl Retry {
    /// Where the config does not say.
    pub const ATTEMPTS: u32 = 1;

    /// 20 %, where the config does not say.
    pub fn default_budget() -> Ratio {
        Ratio::new(0.2).unwrap_or(Ratio::ZERO)
    }

    /// Connect and reset, where the config does not say.
    pub fn default_conditions() -> Vec<Condition> {
        vec![Condition::Connect, Condition::Reset]
    }

    /// The idempotent methods (RFC 9110, section 9.2.2), where the config does not say.
    pub fn default_methods() -> Vec<Method> {
        use Method as M;
        vec![M::GET, M::HEAD, M::OPTIONS, M::TRACE, M::PUT, M::DELETE]
    }

    /// Whether `failure` of a request with `method`, tried again `retries` times so far, is
    /// one to try again. The budget is not asked.
    pub fn wants(&self, failure: Failure, method: &Method, retries: u32) -> bool {
        let named = self.on.iter().any(|condition| condition.includes(failure));
        named && retries < self.attempts && self.methods.contains(method)
    }

    /// Whether one more retry is within the budget: with `live` retries among `requests`
    /// under way, and `started` ones in this second.
    pub fn affords(&self, live: u32, requests: u64, started: u32) -> bool {
        started < RETRIES_PER_SECOND_MIN
            || f64::from(live) + 1.0 <= self.budget.get() * requests as f64
    }
}

/// How often one request may be refused by an endpoint that did not look at it.
pub const REFUSALS_MAX: u32 = 3;

/// How often one request may meet a connection that takes no more: as often as there may be
/// connections, each of which is left by that.
pub const UNSENT_MAX: u32 = 32;

/// A connection that was closed while it was idle says so at once. What ends later, in
/// milliseconds from the request's beginning, is an endpoint that broke while it worked.
const STALE_WITHIN_MS: u128 = 1000;

/// Why an attempt that failed before any byte of a response says nothing of the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Excuse {
    /// The connection had served a request before and ended before a byte of a response: an
    /// idle connection that the endpoint closed while the request was on its way looks just
    /// like a failure (RFC 9112, section 9.3.1).
    ClosedWhileIdle,
    /// The endpoint told that it did not look at the request (RFC 9113, section 8.7).
    Refused,
    /// Its connection took no more requests: nothing went out.
    NotSent,
}

/// What is known of an attempt that failed before any byte of a response.
#[derive(Clone, Copy, Debug)]
pub struct Failed {
    /// Why it may be nobody's fault.
    pub excuse: Option<Excuse>,
    /// How long after the request began.
    pub after: Duration,
    /// Nothing of the body was lost: it is empty, unread, or kept whole.
    pub body_replayable: bool,
    /// How often this was answered with yes for the same request.
    pub retries: u32,
}

impl Failed {
    /// Whether the attempt counts for nothing, and is made once more on another connection.
    pub const fn was_none(self) -> bool {
        let retries_max = match self.excuse {
            Some(Excuse::ClosedWhileIdle) if self.after.as_millis() <= STALE_WITHIN_MS => 1,
            None | Some(Excuse::ClosedWhileIdle) => 0,
            Some(Excuse::Refused) => REFUSALS_MAX,
            Some(Excuse::NotSent) => UNSENT_MAX,
        };
        self.body_replayable && self.retries < retries_max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retry() -> Retry {
        Retry {
            attempts: 2,
            budget: Retry::default_budget(),
            on: Retry::default_conditions(),
            methods: Retry::default_methods(),
        }
    }

    #[test]
    fn patience_is_earned_by_bytes() {
        let timeouts = Timeouts { upload_rate: 100, ..Timeouts::default() };
        let patience = |bytes, millis| {
            timeouts.upload_patience(bytes, Duration::from_millis(millis)).map(|d| d.as_millis())
        };
        assert_eq!(patience(0, 0), Some(5_000));
        assert_eq!(patience(0, 6_000), Some(0));
        assert_eq!(patience(1_000, 6_000), Some(9_000));
        assert!(patience(u64::MAX, 6_000).is_some());
        let endless = Timeouts { upload_rate: 0, ..Timeouts::default() };
        assert_eq!(endless.upload_patience(0, Duration::MAX), None);
    }

    #[test]
    fn only_named_failures_of_named_methods_are_tried_again_and_only_so_often() {
        let unavailable = Failure::Status(StatusCode::SERVICE_UNAVAILABLE);
        let on = |condition| Retry { on: vec![condition], ..retry() };
        let named = on(Condition::Status(StatusCode::SERVICE_UNAVAILABLE));
        let five = on(Condition::ServerError);
        let post = Retry { methods: vec![Method::POST], ..retry() };
        for (retry, failure, method, retries, wanted) in [
            (&retry(), Failure::Connect, Method::GET, 0, true),
            (&retry(), Failure::Reset, Method::PUT, 1, true),
            (&retry(), Failure::Reset, Method::GET, 2, false),
            (&retry(), Failure::FirstByte, Method::GET, 0, false),
            (&retry(), unavailable, Method::GET, 0, false),
            // Never a method that is not idempotent, unless it is named.
            (&retry(), Failure::Connect, Method::POST, 0, false),
            (&post, Failure::Connect, Method::POST, 0, true),
            (&post, Failure::Connect, Method::GET, 0, false),
            (&named, unavailable, Method::GET, 0, true),
            (&named, Failure::Status(StatusCode::BAD_GATEWAY), Method::GET, 0, false),
            (&five, Failure::Status(StatusCode::BAD_GATEWAY), Method::GET, 0, true),
            (&five, Failure::Status(StatusCode::TOO_MANY_REQUESTS), Method::GET, 0, false),
        ] {
            assert_eq!(retry.wants(failure, &method, retries), wanted, "{failure:?} {method}");
        }
    }

    #[test]
    fn a_budget_is_a_share_of_live_requests_and_never_below_three_a_second() {
        for (live, requests, started, affords) in [
            (0, 1, 0, true),
            (9, 1, 2, true),
            (0, 1, 3, false),
            (0, 5, 3, true),
            (1, 5, 99, false),
            (19, 100, 99, true),
            (20, 100, 99, false),
        ] {
            let affordable = retry().affords(live, requests, started);
            assert_eq!(affordable, affords, "{live} of {requests}, {started} started");
        }
        let none = Retry { budget: Ratio::ZERO, ..retry() };
        assert!(!none.affords(0, 1_000_000, 3) && none.affords(0, 0, 2));
    }

    #[test]
    fn only_an_attempt_with_an_excuse_is_made_again_and_not_for_ever() {
        let stale = Failed {
            excuse: Some(Excuse::ClosedWhileIdle),
            after: Duration::ZERO,
            body_replayable: true,
            retries: 0,
        };
        assert!(stale.was_none());
        // Ten seconds into its work it was not idle.
        assert!(!Failed { after: Duration::from_secs(10), ..stale }.was_none());
        assert!(!Failed { excuse: None, ..stale }.was_none());
        assert!(!Failed { body_replayable: false, ..stale }.was_none());
        assert!(!Failed { retries: 1, ..stale }.was_none());
        let late = Duration::from_secs(10);
        let refused = Failed { excuse: Some(Excuse::Refused), after: late, ..stale };
        let unsent = Failed { excuse: Some(Excuse::NotSent), retries: REFUSALS_MAX, ..refused };
        assert!(unsent.was_none() && !Failed { retries: UNSENT_MAX, ..unsent }.was_none());
        assert!(Failed { retries: REFUSALS_MAX - 1, ..refused }.was_none());
        assert!(!Failed { retries: REFUSALS_MAX, ..refused }.was_none());
        assert!(!Failed { body_replayable: false, ..refused }.was_none());
    }
}
