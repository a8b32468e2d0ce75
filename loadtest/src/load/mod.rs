//! An open-loop load generator.
//!
//! Requests start when the schedule says, whatever the answers do, and latency is
//! measured from that intended start: a server that stalls cannot hide it by
//! slowing the generator down (coordinated omission).
//!
//! Never talks to an address beyond loopback, never retries what may have been
//! sent, and is bounded in time, count, connections and requests in flight.

mod arrivals;
mod connections;
mod request;
mod run;
mod stats;

pub use arrivals::{Arrivals, Schedule};
pub use request::RequestTemplate;
pub use run::{IN_FLIGHT_MAX, Load, LoadHandle};
pub use stats::{LoadStats, SECONDS_MAX, SecondStats};

/// Why a load cannot start.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The generator only ever loads this machine.
    #[error("{0} is not a loopback address")]
    NotLoopback(std::net::SocketAddr),
    /// Zero, negative, not a number, or more than the pacer can do.
    #[error("{0} requests per second is not a rate between 0.001 and 1000000")]
    Rate(f64),
    /// The path, a header's name or its value is not HTTP.
    #[error("request template: {0}")]
    Template(#[from] http::Error),
    /// A thread or a socket could not be had.
    #[error("cannot start the generator")]
    Start(#[from] std::io::Error),
}
