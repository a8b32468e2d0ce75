//! What can be wrong with an endpoint's side of an exchange.

use std::io;

use crate::proxy::http1::Malformed;
use crate::telemetry::reasons::FailureReason;

/// Why an endpoint gave no proper response.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The connection was reset, or could not be written to.
    #[error("the connection failed: {}", .0.kind())]
    Io(io::Error),
    /// The connection was closed before a head was whole.
    #[error("the connection was closed before a response")]
    ClosedBeforeHead,
    /// The connection was closed before the body's end.
    #[error("the connection was closed in the middle of the body")]
    ClosedInBody,
    /// What came is not HTTP/1.1.
    #[error("the response is not HTTP: {0}")]
    NotHttp(httparse::Error),
    /// What came is HTTP, but its framing is in doubt.
    #[error("the response has {0}")]
    Malformed(&'static str),
    /// The endpoint reset the request's stream.
    #[error("the stream was reset: {0}")]
    Reset(h2::Reason),
    /// The endpoint takes no more requests on this connection.
    #[error("the endpoint closed the connection: {0}")]
    GoAway(h2::Reason),
    /// What came is not HTTP/2.
    #[error("the response is not HTTP/2: {0}")]
    NotHttp2(h2::Reason),
    /// Not the endpoint's fault: the request cannot be said in the endpoint's protocol.
    #[error("the request cannot be said in the endpoint's protocol")]
    Unsendable,
    /// Not the endpoint's fault either: it never said that it takes extended CONNECT.
    #[error("the endpoint takes no WebSocket over HTTP/2")]
    NoWebSocket,
    /// Not the endpoint's fault: the rest of the request did not come.
    #[error("the client went away")]
    ClientGone,
}

impl Fault {
    /// As in metrics and in problem details.
    pub const fn reason(&self) -> FailureReason {
        match self {
            Self::Io(_)
            | Self::ClosedBeforeHead
            | Self::ClosedInBody
            | Self::Reset(_)
            | Self::GoAway(_) => FailureReason::Reset,
            Self::NotHttp(_) | Self::Malformed(_) | Self::NotHttp2(_) => FailureReason::Malformed,
            Self::Unsendable | Self::NoWebSocket => FailureReason::Refused,
            Self::ClientGone => FailureReason::ClientGone,
        }
    }

    /// Why there is no response, where writing the request failed as well: an endpoint that said
    /// something wrong is told from one that said nothing, after which a request may be sent again.
    #[must_use]
    pub fn beside(self, write_error: Option<Self>) -> Self {
        match (self, write_error) {
            (Self::Io(_) | Self::ClosedBeforeHead, Some(error)) => error,
            (fault, _) => fault,
        }
    }
}

impl From<Malformed> for Fault {
    fn from(Malformed(what): Malformed) -> Self {
        Self::Malformed(what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_wrongly_is_told_before_what_could_not_be_written() {
        let broken = || Fault::Io(io::ErrorKind::BrokenPipe.into());
        let reset = Fault::Io(io::ErrorKind::ConnectionReset.into());
        for (read, told) in [
            (reset, "the connection failed: broken pipe"),
            (Fault::ClosedBeforeHead, "the connection failed: broken pipe"),
            (Fault::Malformed("two lengths"), "the response has two lengths"),
        ] {
            assert_eq!(read.beside(Some(broken())).to_string(), told);
        }
        assert!(matches!(Fault::ClosedBeforeHead.beside(None), Fault::ClosedBeforeHead));
    }
}
