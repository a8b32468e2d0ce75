//! What is spoken with an endpoint.
//!
//! Never asks an endpoint: what it answered is told.

/// How Serin speaks to the endpoints of a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2; without TLS with prior knowledge.
    Http2,
    /// What the endpoint chooses in the TLS handshake (ALPN); without TLS HTTP/1.1.
    Auto,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Http1, Self::Http2, Self::Auto];

    /// In the config.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Auto => "auto",
        }
    }

    /// Whether HTTP/2 is spoken on a connection whose handshake chose it, or not; `None`
    /// where there was no choice.
    pub const fn is_http2(self, chosen: Option<bool>) -> bool {
        match self {
            Self::Http1 => false,
            Self::Http2 => true,
            Self::Auto => matches!(chosen, Some(true)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_speaks_what_was_chosen_and_http1_where_nobody_chose() {
        for (protocol, chosen, http2) in [
            (Protocol::Auto, None, false),
            (Protocol::Auto, Some(false), false),
            (Protocol::Auto, Some(true), true),
            (Protocol::Http1, Some(true), false),
            (Protocol::Http2, None, true),
        ] {
            assert_eq!(protocol.is_http2(chosen), http2, "{protocol:?} {chosen:?}");
        }
    }
}
