//! A request of Serin's own, for a canary that few users reach.
//!
//! Never sent here, and never counted as a user's.

use std::time::Duration;

use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Method};

/// From one probe to the next, where the config does not say.
pub const PROBE_EVERY_DEFAULT: Duration = Duration::from_secs(10);

/// The shortest time from one probe to the next: they are not to be a load.
pub const PROBE_EVERY_MIN: Duration = Duration::from_secs(1);

/// What is sent to both versions of a rollout, and how often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// From one to the next.
    pub every: Duration,
    /// Its method.
    pub method: Method,
    /// Its path, perhaps with a query.
    pub target: PathAndQuery,
    /// Its fields, beside those that every request has.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Its body; may be empty.
    pub body: Vec<u8>,
}
