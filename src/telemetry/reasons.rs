//! Why requests have no answer, or none to its end. The words are API.
//!
//! Never says whose fault it is: `proxy/error.rs` does.

/// Why an attempt had no answer, or none to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureReason {
    /// No connection.
    Connect,
    /// No connection in time.
    ConnectTimeout,
    /// The connection was reset or closed.
    Reset,
    /// What came was not HTTP, or its framing was in doubt.
    Malformed,
    /// No head in time.
    FirstByteTimeout,
    /// Nothing more of a body in time.
    IdleTimeout,
    /// Not done in time as a whole.
    RequestTimeout,
    /// A shortage of Serin's own machine: files, memory, ports, routes.
    Local,
    /// The backend has no endpoint that is ready.
    NoEndpoint,
    /// The backend has all that it may have under way.
    Limit,
    /// The version was taken out while it answered.
    TakenOut,
    /// No rule fits.
    NoRoute,
    /// The request is not one that is served.
    Refused,
    /// The client sent its body too slowly.
    ClientTimeout,
    /// The client went away.
    ClientGone,
}

impl FailureReason {
    /// In the order of their numbers.
    pub const ALL: [Self; 15] = [
        Self::Connect,
        Self::ConnectTimeout,
        Self::Reset,
        Self::Malformed,
        Self::FirstByteTimeout,
        Self::IdleTimeout,
        Self::RequestTimeout,
        Self::Local,
        Self::NoEndpoint,
        Self::Limit,
        Self::TakenOut,
        Self::NoRoute,
        Self::Refused,
        Self::ClientTimeout,
        Self::ClientGone,
    ];

    /// As in metrics and in problem details.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::ConnectTimeout => "connect_timeout",
            Self::Reset => "reset",
            Self::Malformed => "malformed",
            Self::FirstByteTimeout => "first_byte_timeout",
            Self::IdleTimeout => "idle_timeout",
            Self::RequestTimeout => "request_timeout",
            Self::Local => "local",
            Self::NoEndpoint => "no_endpoint",
            Self::Limit => "limit",
            Self::TakenOut => "taken_out",
            Self::NoRoute => "no_route",
            Self::Refused => "refused",
            Self::ClientTimeout => "client_timeout",
            Self::ClientGone => "client_gone",
        }
    }
}

/// Why a request got no place at a backend that has all it may have under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limited {
    /// As many waited as may.
    QueueFull,
    /// It waited for as long as it may.
    QueueTimeout,
}

impl Limited {
    /// In the order of their numbers.
    pub const ALL: [Self; 2] = [Self::QueueFull, Self::QueueTimeout];

    /// As in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::QueueTimeout => "queue_timeout",
        }
    }

    /// For people.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::QueueFull => "its `limits.queue` is full",
            Self::QueueTimeout => "no place within its `limits.queue_timeout`",
        }
    }
}
