//! Scripted model servers, clients and proxies, so that tests read as sentences.
//!
//! Never sleeps to wait for something: [`eventually`] looks until it is so. What is said on
//! a wire is kept byte for byte, so nothing here uses an HTTP library but [`Http2`].
//! What does not come as expected is a panic: that is how a test ends.

#![expect(
    clippy::missing_panics_doc,
    clippy::format_push_string,
    clippy::format_collect,
    clippy::return_self_not_must_use,
    reason = "a kit for tests: it panics by design, and its texts are short"
)]

mod answers;
mod backend;
mod call;
mod client;
mod config;
mod frames;
mod http2;
mod http2_backend;
mod kube;
mod metrics;
mod passage;
mod pki;
mod program;
mod proxy;
mod rollout;
mod script;
mod sockets;
mod time;
mod tls;
mod wire;

pub use backend::{Backend, BackendBuilder, Seen};
pub use call::Call;
pub use client::{Answer, Client, Request};
pub use config::ConfigFile;
pub use frames::{
    Frame, FrameListener, Frames, fields, flag, frame, kind, request_fields, setting,
};
pub use http2::{Http2, Streamed};
pub use http2_backend::Http2Backend;
pub use kube::KubeApi;
pub use metrics::Metrics;
pub use passage::Passage;
pub use pki::{Authority, Certificate, Leaf, SecretFolder};
pub use program::{Output, Program, arg};
pub use proxy::{Proxy, ProxyBuilder};
pub use rollout::Rollout;
pub use script::Script;
pub use sockets::Unread;
pub use time::{PATIENCE, Stopwatch, eventually, ms, secs, seed, within};
pub use tls::{Handshake, TlsClient, TlsFront};
pub use wire::{Body, Broken, End, Head, Wire};
