//! The Kubernetes API, as far as Serin needs it: read, watch, and write what one has read.
//!
//! Never on the way of a request, and never waited for by a verdict: what is known stays in
//! force while the API is away.

pub mod client;
pub mod follow;
pub mod slices;
pub mod survey;
