//! Serin: a traffic proxy that judges the versions it splits traffic between.

pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod names;
pub mod proxy;
pub mod rollout;
pub mod snapshot;
pub mod telemetry;
pub mod tls;
pub mod traffic;
pub mod units;
