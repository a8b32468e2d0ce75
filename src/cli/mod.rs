//! The command line: one file per command.
//!
//! Never reaches into a running proxy but through its admin port.

pub mod arguments;
pub mod await_ready;
pub mod check;
pub mod client;
pub mod demo;
pub mod explain;
pub mod healthcheck;
pub mod log;
pub mod manual;
pub mod replay;
pub mod run;
pub mod schema;
pub mod status;
pub mod top;
pub mod verbs;
pub mod why;
