//! How long to wait for an attempt, and when a failed one may be tried again.
//!
//! Never counts anything: the caller says what happened.

use std::time::Duration;

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
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            first_byte: Duration::from_mins(1),
            idle: Duration::from_mins(1),
            request: None,
        }
    }
}

/// A request body up to this size is kept until the response's head arrives, so
/// that it can be sent again. A larger one is sent once.
pub const REPLAY_BODY_BYTES_MAX: usize = 1 << 20;

/// What is known of an attempt that failed before any byte of a response.
#[derive(Clone, Copy, Debug)]
pub struct Failed {
    /// The connection had served a request before: it may have been closed as idle.
    pub reused_connection: bool,
    /// The connection ended before a byte of a response came.
    pub closed_before_response: bool,
    /// Nothing of the body was lost: it is empty, unread, or kept whole.
    pub body_replayable: bool,
    /// How often this was answered with yes for the same request.
    pub retries: u32,
}

impl Failed {
    /// Whether the attempt says nothing of the endpoint and is tried once more, on a
    /// fresh connection: an idle connection that the endpoint closed while the request
    /// was on its way looks just like a failure (RFC 9112, section 9.3.1).
    pub const fn was_stale(self) -> bool {
        self.reused_connection
            && self.closed_before_response
            && self.body_replayable
            && self.retries == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_failure_on_a_reused_connection_is_tried_again() {
        let stale = Failed {
            reused_connection: true,
            closed_before_response: true,
            body_replayable: true,
            retries: 0,
        };
        assert!(stale.was_stale());
        assert!(!Failed { reused_connection: false, ..stale }.was_stale());
        assert!(!Failed { closed_before_response: false, ..stale }.was_stale());
        assert!(!Failed { body_replayable: false, ..stale }.was_stale());
        assert!(!Failed { retries: 1, ..stale }.was_stale());
    }
}
