//! Serin: a traffic proxy that judges the versions it splits traffic between.

pub mod clock;
pub mod names;
pub mod proxy;
pub mod rollout;
pub mod snapshot;
pub mod telemetry;
pub mod traffic;
pub mod units;
