//! What Serin is measured and shown with: a model server to put behind it and an
//! open-loop load generator to put in front.
//!
//! Used by the `loadtest` binary, by `serin demo` and by tests. Never reaches
//! beyond loopback: a load generator that can be pointed at a stranger is a weapon.

pub mod load;
pub mod model;
mod time;
