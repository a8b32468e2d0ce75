//! A model server that answers the V2 inference protocol on loopback.
//!
//! The model is small but real: a bag-of-words sentiment score. How well the
//! server behaves (errors, latency, stalls) can be changed while it runs, which is
//! how a demo or a test turns a good version into a bad one.
//!
//! Never reads a file and never listens beyond loopback.

mod behaviour;
mod protocol;
mod queue;
mod sentiment;
mod server;
mod stream;

pub use behaviour::{Behaviour, LatencyShape};
pub use sentiment::{Label, Sentiment};
pub use server::{ModelOptions, ModelServer};
pub use stream::StreamShape;
