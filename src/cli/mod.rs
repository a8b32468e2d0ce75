//! The command line: one file per command.
//!
//! Never reaches into a running proxy but through its admin port.

pub mod check;
pub mod replay;
pub mod run;
pub mod schema;
