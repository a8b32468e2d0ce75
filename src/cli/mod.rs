//! The command line: one file per command.
//!
//! Never reaches into a running proxy but through its admin port.

pub mod check;
pub mod client;
pub mod demo;
pub mod healthcheck;
pub mod log;
pub mod replay;
pub mod run;
pub mod schema;
pub mod status;
pub mod verbs;
pub mod why;
