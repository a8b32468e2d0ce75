//! What happened: counted where requests end, summed where they are judged or scraped.
//!
//! Never shares a written cache line between two workers, and never makes a request
//! wait: each worker writes counters of its own, the control plane adds them up. `gate` alone
//! does both, for backends with limits: there it is what was asked for.

pub mod counts;
pub mod exemplars;
pub mod gate;
pub mod latencies;
pub mod listeners;
pub mod metrics;
pub mod notes;
pub mod reasons;
pub mod registry;
pub mod sample;
pub mod signs;
pub mod story;
pub mod told;
