//! `serin schema`: the JSON Schema of a config file, for editors and CI.
//!
//! Never knows a key itself: the schema comes from the types that read the file.

use std::io::Write;
use std::process::ExitCode;

/// Prints the schema.
pub fn run() -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, &crate::config::schema())?;
    writeln!(out)?;
    Ok(ExitCode::SUCCESS)
}
