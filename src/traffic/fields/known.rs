//! Names of fields that the way of a request asks for, each with a number of its own.

use http::HeaderName;

macro_rules! known {
    ($($name:ident = $text:literal,)+) => {
        /// A name that is asked for, or none of them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Known {
            /// None of the others.
            Other,
            /// A name that CGI and its heirs, to whom `_` is `-`, take for one of those that
            /// frame a message.
            LikeFraming,
            /// The same of those that tell where a request comes from.
            LikeForwarded,
            $(
                #[doc = concat!("`", $text, "`")]
                $name,
            )+
        }

        impl Known {
            /// In lower case; empty for those that are not one name.
            pub const fn as_str(self) -> &'static str {
                match self {
                    Self::Other | Self::LikeFraming | Self::LikeForwarded => "",
                    $(Self::$name => $text,)+
                }
            }

            /// As a line begins; empty for those that are not one name.
            pub(super) const fn beginning(self) -> &'static str {
                match self {
                    Self::Other | Self::LikeFraming | Self::LikeForwarded => "",
                    $(Self::$name => concat!($text, ": "),)+
                }
            }

            /// For maps; `None` for those that are not one name.
            pub fn header_name(self) -> Option<HeaderName> {
                match self {
                    Self::Other | Self::LikeFraming | Self::LikeForwarded => None,
                    $(Self::$name => {
                        const NAME: HeaderName = HeaderName::from_static($text);
                        Some(NAME)
                    })+
                }
            }

            #[cfg(test)]
            pub(super) const ALL: &[Self] = &[$(Self::$name,)+];
        }
    };
}

known! {
    Connection = "connection",
    ContentEncoding = "content-encoding",
    ContentLength = "content-length",
    ContentType = "content-type",
    Cookie = "cookie",
    Date = "date",
    Expect = "expect",
    Forwarded = "forwarded",
    GrpcMessage = "grpc-message",
    GrpcStatus = "grpc-status",
    GrpcTimeout = "grpc-timeout",
    Host = "host",
    KeepAlive = "keep-alive",
    MaxForwards = "max-forwards",
    ProxyConnection = "proxy-connection",
    RetryAfter = "retry-after",
    SecWebSocketAccept = "sec-websocket-accept",
    SecWebSocketKey = "sec-websocket-key",
    Server = "server",
    Te = "te",
    Traceparent = "traceparent",
    Tracestate = "tracestate",
    Trailer = "trailer",
    TransferEncoding = "transfer-encoding",
    Upgrade = "upgrade",
    UserAgent = "user-agent",
    XForwardedClientCert = "x-forwarded-client-cert",
    XForwardedFor = "x-forwarded-for",
    XForwardedHost = "x-forwarded-host",
    XForwardedProto = "x-forwarded-proto",
    XRequestId = "x-request-id",
}

impl Known {
    /// What `name`, in lower case, is. Its length tells most names apart from all of them, and
    /// names of a length that is known at build time are compared as numbers.
    pub fn of(name: &[u8]) -> Self {
        macro_rules! among {
            ($($known:ident),+ => $other:expr) => {
                match name {
                    $(_ if name == Self::$known.as_str().as_bytes() => Self::$known,)+
                    _ => $other,
                }
            };
            ($($known:ident),+) => { among!($($known),+ => Self::Other) };
        }
        match name.len() {
            2 => among!(Te),
            4 => among!(Host, Date),
            6 => among!(Cookie, Server, Expect),
            7 => among!(Upgrade, Trailer),
            9 => among!(Forwarded),
            10 => {
                among!(Connection, UserAgent, KeepAlive, Tracestate)
            }
            11 => {
                among!(Traceparent, GrpcStatus, RetryAfter)
            }
            12 => {
                among!(ContentType, XRequestId, GrpcTimeout, GrpcMessage, MaxForwards)
            }
            14 => among!(ContentLength => Self::like(name)),
            15 => among!(XForwardedFor => Self::like(name)),
            16 => {
                among!(XForwardedHost, ContentEncoding, ProxyConnection => Self::like(name))
            }
            17 => {
                among!(XForwardedProto, TransferEncoding, SecWebSocketKey => Self::like(name))
            }
            20 => among!(SecWebSocketAccept),
            23 => among!(XForwardedClientCert => Self::like(name)),
            _ => Self::Other,
        }
    }

    /// What `name`, which is none of the known ones, is taken for.
    fn like(name: &[u8]) -> Self {
        const FORWARDED: [Known; 4] = [
            Known::XForwardedClientCert,
            Known::XForwardedFor,
            Known::XForwardedHost,
            Known::XForwardedProto,
        ];
        if Self::ContentLength.reads_as(name) || Self::TransferEncoding.reads_as(name) {
            Self::LikeFraming
        } else if FORWARDED.iter().any(|one| one.reads_as(name)) {
            Self::LikeForwarded
        } else {
            Self::Other
        }
    }

    /// Whether an endpoint may take `name`, in lower case, for it: to CGI and its heirs `_` is
    /// `-`.
    pub fn reads_as(self, name: impl AsRef<[u8]>) -> bool {
        let (name, known) = (name.as_ref(), self.as_str().as_bytes());
        let same = |(a, b): (&u8, &u8)| a == b || (*a == b'_' && *b == b'-');
        name.len() == known.len() && name.iter().zip(known).all(same)
    }

    /// Whether it tells all of a name.
    pub const fn is_one_name(self) -> bool {
        !matches!(self, Self::Other | Self::LikeFraming | Self::LikeForwarded)
    }

    /// Its bit in a set; none for [`Known::Other`].
    pub const fn bit(self) -> u64 {
        match self {
            Self::Other => 0,
            known => 1 << known as u8,
        }
    }

    /// Those of `all` as a set.
    pub const fn set(all: &[Self]) -> u64 {
        let (mut set, mut index) = (0, 0);
        while index < all.len() {
            set |= all[index].bit();
            index += 1;
        }
        set
    }
}
