//! Makes happen what `traffic` decides: sockets, HTTP, bodies, time limits.
//!
//! Never knows that rollouts exist: it reads weights from a snapshot and counts
//! outcomes into what the snapshot gives it. Start reading in `exchange`.

pub mod admission;
pub mod body;
pub mod cut;
pub mod deadline;
pub mod error;
pub mod exchange;
pub mod forward;
pub mod greeting;
pub mod held;
pub mod http1;
pub mod http2;
pub mod incoming;
pub mod interim;
pub mod listener;
pub mod mirror;
pub mod probe;
pub mod protocol;
pub mod relayed;
pub mod reply;
pub mod response;
pub mod room;
pub mod size;
pub mod socket;
pub mod tries;
pub mod upstream;
pub mod view;
pub mod whole;
pub mod worker;
