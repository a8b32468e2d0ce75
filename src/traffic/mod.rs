//! What should happen to a request: pure decisions of the data plane.
//!
//! Never waits, never asks for the time, never draws a random number, never
//! logs: time comes as a tick, chance as a number, and answers are values.

pub mod balance;
pub mod client;
pub mod draw;
pub mod ejection;
pub mod events;
pub mod farewell;
pub mod fields;
pub mod grpc;
pub mod headers;
pub mod health;
pub mod limit;
pub mod matching;
pub mod message;
pub mod mirror;
pub mod model;
pub mod outcome;
pub mod probe;
pub mod protocol;
pub mod proxy_protocol;
pub mod retry;
pub mod route;
pub mod source;
pub mod split;
pub mod trace;
pub mod warm_up;
