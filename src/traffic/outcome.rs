//! What an attempt says of the version that served it.
//!
//! Never knows why an attempt failed on the wire: the shell says whose fault it was.

use http::{HeaderMap, StatusCode};

use crate::traffic::fields::{Fields, Known};

/// Class of a finished attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Served.
    Good,
    /// The version's fault.
    Bad,
    /// Says nothing of the version: the client's fault, or its change of mind.
    Neutral,
}

impl Outcome {
    /// Of a response whose body ended as it should.
    ///
    /// `grpc_status` is the value found in the head or the trailers; where there is one it
    /// decides, for gRPC sends its errors under status 200.
    pub fn of(status: StatusCode, grpc_status: Option<u32>) -> Self {
        if status.is_server_error() {
            return Self::Bad;
        }
        match grpc_status {
            Some(code) => Self::of_grpc(code),
            None if status.is_client_error() => Self::Neutral,
            None => Self::Good,
        }
    }

    /// Unknown, deadline exceeded, internal, unavailable and data loss are the version's
    /// fault; the others are what a 4xx is.
    fn of_grpc(code: u32) -> Self {
        match code {
            0 => Self::Good,
            2 | 4 | 13 | 14 | 15 => Self::Bad,
            _ => Self::Neutral,
        }
    }

    /// As in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Bad => "bad",
            Self::Neutral => "neutral",
        }
    }
}

/// Whether a system error (`errno` of Linux) tells of a want here, not at the endpoint: one pod
/// with broken egress must not blame the model.
pub const fn is_local(errno: i32) -> bool {
    // EPERM and EACCES are a firewall of this machine's. EHOSTUNREACH is not here: it is what a
    // dead host is to its neighbours.
    // EPERM, ENOMEM, EACCES, ENFILE, EMFILE, EADDRNOTAVAIL, ENETDOWN, ENETUNREACH, ENOBUFS
    matches!(errno, 1 | 12 | 13 | 23 | 24 | 99 | 100 | 101 | 105)
}

/// The `grpc-status` among the `fields` of a head; a value that is no number is UNKNOWN (2).
pub fn grpc_status(fields: &Fields) -> Option<u32> {
    fields.get(Known::GrpcStatus).map(grpc_code)
}

/// The same of trailers.
pub fn trailing_grpc_status(trailers: &HeaderMap) -> Option<u32> {
    trailers.get(Known::GrpcStatus.as_str()).map(|value| grpc_code(value.as_bytes()))
}

fn grpc_code(value: &[u8]) -> u32 {
    std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()).unwrap_or(2)
}

/// Whether a message with these fields is gRPC.
pub fn is_grpc(fields: &Fields) -> bool {
    let rest =
        fields.get(Known::ContentType).and_then(|kind| kind.strip_prefix(b"application/grpc"));
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b' ')))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_version_is_blamed_for_what_is_its_fault_alone() {
        for (status, grpc, outcome) in [
            (200, None, Outcome::Good),
            (204, None, Outcome::Good),
            (304, None, Outcome::Good),
            (400, None, Outcome::Neutral),
            (429, None, Outcome::Neutral),
            (500, None, Outcome::Bad),
            (503, None, Outcome::Bad),
            (200, Some(0), Outcome::Good),
            (200, Some(3), Outcome::Neutral),
            (200, Some(14), Outcome::Bad),
            (200, Some(2), Outcome::Bad),
            (500, Some(0), Outcome::Bad),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(Outcome::of(status, grpc), outcome, "{status} {grpc:?}");
        }
    }

    #[test]
    fn a_want_of_this_machine_is_not_the_endpoints() {
        let local = (1..134).filter(|errno| is_local(*errno)).collect::<Vec<_>>();
        assert_eq!(local, [1, 12, 13, 23, 24, 99, 100, 101, 105]);
        // EPIPE, ECONNRESET, ETIMEDOUT, ECONNREFUSED, EHOSTUNREACH.
        assert!([32, 104, 110, 111, 113].iter().all(|errno| !is_local(*errno)));
    }

    #[test]
    fn grpc_is_told_by_its_fields() {
        assert_eq!(grpc_status(&Fields::default()), None);
        for (value, status) in [("14", 14), ("oops", 2)] {
            assert_eq!(grpc_status(&Fields::of(&[("grpc-status", value)])), Some(status));
            let trailers = ("grpc-status".parse().unwrap(), HeaderValue::from_static(value));
            assert_eq!(trailing_grpc_status(&HeaderMap::from_iter([trailers])), Some(status));
        }
        for (value, grpc) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc; x", true),
            ("application/grpc-web", false),
            ("application/json", false),
        ] {
            assert_eq!(is_grpc(&Fields::of(&[("content-type", value)])), grpc, "{value}");
        }
    }
}
