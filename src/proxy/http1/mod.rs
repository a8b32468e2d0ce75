//! What the two sides of HTTP/1.1 share: fields, the chunked coding, and buffers.
//!
//! Never touches a connection, and takes nothing whose framing is in doubt.

pub mod chunked;
pub mod fields;
pub mod outgoing;
pub mod warm;

/// Bytes that are not HTTP/1.1, or not one message without a doubt: what they have wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the message has {0}")]
pub struct Malformed(pub &'static str);
