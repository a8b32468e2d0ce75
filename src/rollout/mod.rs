//! What should happen to this release: plans, evidence, verdicts and their consequences.
//!
//! Never reads a clock, draws a number, writes a log or opens a socket: counts and
//! ticks come in, findings and states go out, so that a decision can be taken again
//! from what was written down.

pub mod evidence;
pub mod fleet;
pub mod interval;
pub mod judge;
pub mod machine;
pub mod objective;
pub mod plan;
pub mod record;
pub mod release;
pub mod step;
pub mod verdict;
pub mod view;
