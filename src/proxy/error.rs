//! Why an exchange failed: who is to blame, and what the client is told.

use std::io;
use std::net::SocketAddr;

use http::StatusCode;
use rustix::io::Errno;

use crate::names::{BackendName, RuleId};
use crate::proxy::upstream::fault::Fault;
use crate::telemetry::reasons::{FailureReason, Limited};
use crate::traffic::outcome::{self, Outcome};
use crate::traffic::retry::Failure;

/// Who is to blame. Only `Upstream` counts against a backend's objectives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The client.
    Downstream,
    /// Serin, its configuration or its machine.
    Proxy,
    /// The endpoint.
    Upstream,
}

/// Which time limit passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timeout {
    /// No connection to the endpoint.
    Connect,
    /// No head of a response.
    FirstByte,
    /// Nothing more of a body.
    Idle,
    /// The whole exchange took too long.
    Request,
    /// The client sends its body too slowly.
    UploadRate,
    /// No place at the backend.
    Queue,
    /// The client does not wait any longer.
    Deadline,
}

impl Timeout {
    /// The key in the config, or the field of the request.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "timeouts.connect",
            Self::FirstByte => "timeouts.first_byte",
            Self::Idle => "timeouts.idle",
            Self::Request => "timeouts.request",
            Self::Deadline => "grpc-timeout",
            Self::UploadRate => "timeouts.upload_rate",
            Self::Queue => "limits.queue",
        }
    }

    /// Whether it is a limit of the whole exchange, not of a phase.
    pub const fn is_whole(self) -> bool {
        matches!(self, Self::Request | Self::Deadline)
    }
}

/// Why an exchange failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request itself is wrong.
    #[error("{0}")]
    BadRequest(&'static str),
    /// The request may be well-formed, but is not served here: with a status of its own.
    #[error("{1}")]
    Refused(StatusCode, &'static str),
    /// A method that a proxy must be told to serve.
    #[error("the method CONNECT is not served here")]
    Connect,
    /// No rule fits.
    #[error("no rule fits this host, path, method and fields")]
    NoRoute,
    /// The backend has no endpoint.
    #[error("backend {backend} of rule {rule} has no endpoint")]
    NoEndpoint {
        /// The rule that chose it.
        rule: RuleId,
        /// The backend.
        backend: BackendName,
    },
    /// The backend has as many requests under way as it may.
    #[error("backend {backend} is at its limit: {}", .limited.reason())]
    Busy {
        /// The backend.
        backend: BackendName,
        /// Why the request did not wait, or no longer.
        limited: Limited,
    },
    /// Could not connect.
    #[error("cannot connect to {endpoint}: {}", told(.source))]
    Unreachable {
        /// The endpoint.
        endpoint: SocketAddr,
        /// What the socket said.
        source: io::Error,
    },
    /// The connection was reset or closed, or what came was not HTTP.
    #[error("the endpoint failed: {0}")]
    Broken(Fault),
    /// A time limit passed while Serin waited for the endpoint.
    #[error("the endpoint took longer than `{}` allows", .0.as_str())]
    Timeout(Timeout),
    /// The time of the whole request passed while it waited for a place at the backend.
    #[error("all the time that `{}` allows passed in line for a place at the backend", .0.as_str())]
    RanOutInLine(Timeout),
    /// There is no room for a body that must be read before it is sent.
    #[error("there is no room now to keep the request's body until its `model` is read")]
    NoRoom,
    /// A time limit passed while Serin waited for the client's body.
    #[error("{} `{}` allows", stalled(*.0), .0.as_str())]
    ClientStalled(Timeout),
    /// The version was taken out while it answered, and answers are cut then.
    #[error("the model version that was answering has been taken out")]
    TakenOut,
    /// The client went away while it sent its body.
    #[error("the client went away")]
    ClientGone,
}

impl Error {
    /// The client sends more than it may.
    pub const fn too_large() -> Self {
        let what = "the request's body is larger than the rule's `limits.max_body` allows";
        Self::Refused(StatusCode::PAYLOAD_TOO_LARGE, what)
    }

    /// What the client is told. `None`: there is no client left to tell.
    pub const fn status(&self) -> Option<StatusCode> {
        match self {
            Self::BadRequest(_) => Some(StatusCode::BAD_REQUEST),
            Self::Refused(status, _) => Some(*status),
            Self::Connect => Some(StatusCode::NOT_IMPLEMENTED),
            Self::NoRoute => Some(StatusCode::NOT_FOUND),
            Self::NoEndpoint { .. } | Self::Busy { .. } | Self::NoRoom | Self::TakenOut => {
                Some(StatusCode::SERVICE_UNAVAILABLE)
            }
            Self::Unreachable { .. } | Self::Broken(_) => Some(StatusCode::BAD_GATEWAY),
            Self::Timeout(_) | Self::RanOutInLine(_) => Some(StatusCode::GATEWAY_TIMEOUT),
            Self::ClientStalled(_) => Some(StatusCode::REQUEST_TIMEOUT),
            Self::ClientGone => None,
        }
    }

    /// Who is to blame.
    pub fn side(&self) -> Side {
        match self {
            Self::BadRequest(_)
            | Self::Refused(..)
            | Self::Connect
            | Self::NoRoute
            | Self::ClientStalled(_)
            | Self::ClientGone => Side::Downstream,
            Self::NoEndpoint { .. }
            | Self::Busy { .. }
            | Self::RanOutInLine(_)
            | Self::NoRoom
            | Self::TakenOut => Side::Proxy,
            Self::Unreachable { source, .. } if is_local(source) => Side::Proxy,
            Self::Unreachable { .. } | Self::Broken(_) | Self::Timeout(_) => Side::Upstream,
        }
    }

    /// What it is to whoever may try again; `None` is nothing to try again.
    pub const fn failure(&self) -> Option<Failure> {
        match self {
            Self::Unreachable { .. }
            | Self::NoEndpoint { .. }
            | Self::Timeout(Timeout::Connect) => Some(Failure::Connect),
            Self::Broken(_) => Some(Failure::Reset),
            // The endpoint that does not read the request does not answer it either.
            Self::Timeout(Timeout::FirstByte | Timeout::Idle) => Some(Failure::FirstByte),
            Self::Timeout(
                Timeout::Request | Timeout::Deadline | Timeout::UploadRate | Timeout::Queue,
            )
            | Self::Busy { .. }
            | Self::RanOutInLine(_)
            | Self::NoRoom
            | Self::TakenOut
            | Self::BadRequest(_)
            | Self::Refused(..)
            | Self::Connect
            | Self::NoRoute
            | Self::ClientStalled(_)
            | Self::ClientGone => None,
        }
    }

    /// When a client may try again, in seconds.
    pub const fn retry_after(&self) -> Option<u16> {
        match self {
            // Whoever is under way now has a chance to be done then.
            Self::Busy { .. } | Self::NoRoom => Some(1),
            Self::BadRequest(_)
            | Self::Refused(..)
            | Self::Connect
            | Self::NoRoute
            | Self::NoEndpoint { .. }
            | Self::Unreachable { .. }
            | Self::Broken(_)
            | Self::Timeout(_)
            | Self::RanOutInLine(_)
            | Self::ClientStalled(_)
            | Self::TakenOut
            | Self::ClientGone => None,
        }
    }

    /// As in metrics and in problem details.
    pub fn reason(&self) -> FailureReason {
        use FailureReason as R;
        match self {
            Self::BadRequest(_) | Self::Refused(..) | Self::Connect => R::Refused,
            Self::NoRoute => R::NoRoute,
            Self::NoEndpoint { .. } => R::NoEndpoint,
            Self::Busy { .. } | Self::NoRoom | Self::Timeout(Timeout::Queue) => R::Limit,
            Self::Unreachable { source, .. } if is_local(source) => R::Local,
            Self::Unreachable { .. } => R::Connect,
            Self::Broken(fault) => fault.reason(),
            Self::Timeout(Timeout::Connect) => R::ConnectTimeout,
            Self::Timeout(Timeout::FirstByte) => R::FirstByteTimeout,
            Self::Timeout(Timeout::Idle) => R::IdleTimeout,
            Self::Timeout(Timeout::Request | Timeout::Deadline) | Self::RanOutInLine(_) => {
                R::RequestTimeout
            }
            Self::Timeout(Timeout::UploadRate) | Self::ClientStalled(_) => R::ClientTimeout,
            Self::TakenOut => R::TakenOut,
            Self::ClientGone => R::ClientGone,
        }
    }

    /// What the judge makes of it.
    pub fn outcome(&self) -> Outcome {
        match self.side() {
            Side::Upstream => Outcome::Bad,
            Side::Downstream | Side::Proxy => Outcome::Neutral,
        }
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::ClientGone => Self::ClientGone,
            Fault::NoWebSocket => {
                let what = "the endpoint takes no WebSocket over HTTP/2";
                Self::Refused(StatusCode::NOT_IMPLEMENTED, what)
            }
            Fault::Unsendable => Self::BadRequest("the endpoint's protocol has no such request"),
            fault => Self::Broken(fault),
        }
    }
}

/// How the client was too slow: by itself, or because the whole took too long.
fn stalled(which: Timeout) -> &'static str {
    if which.is_whole() {
        "the request had not come whole, or its answer was not taken, in the time that"
    } else {
        "the request's body came more slowly than"
    }
}

/// What an answer tells of `error`: the standard library has no word for two that this machine
/// is to blame for.
fn told(error: &io::Error) -> String {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::MFILE | Errno::NFILE) => "this machine has no more files to open".to_owned(),
        Some(Errno::NOBUFS) => "this machine has no room for more connections".to_owned(),
        _ => error.kind().to_string(),
    }
}

fn is_local(error: &io::Error) -> bool {
    error.raw_os_error().is_some_and(outcome::is_local)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unreachable(errno: i32) -> Error {
        let endpoint = ([127, 0, 0, 1], 9).into();
        Error::Unreachable { endpoint, source: io::Error::from_raw_os_error(errno) }
    }

    #[test]
    fn only_the_endpoint_is_held_to_the_objectives() {
        for (error, status, outcome) in [
            (Error::NoRoute, Some(404), Outcome::Neutral),
            (Error::BadRequest("x"), Some(400), Outcome::Neutral),
            (Error::Connect, Some(501), Outcome::Neutral),
            (Error::Timeout(Timeout::FirstByte), Some(504), Outcome::Bad),
            (Error::ClientStalled(Timeout::Idle), Some(408), Outcome::Neutral),
            (Error::ClientGone, None, Outcome::Neutral),
            (
                Error::Busy { backend: "b".into(), limited: Limited::QueueFull },
                Some(503),
                Outcome::Neutral,
            ),
            // Refused is the endpoint's; a full table of files is ours.
            (unreachable(111), Some(502), Outcome::Bad),
            (unreachable(24), Some(502), Outcome::Neutral),
        ] {
            assert_eq!(error.status().map(|status| status.as_u16()), status, "{error}");
            assert_eq!(error.outcome(), outcome, "{error}");
        }
    }
}
