//! `serin schema`: the JSON Schema of a config file, for editors and CI, and of what commands print
//! with `-o json`.
//!
//! Never knows a key itself: a schema comes from the types that read the file, or are printed.

use std::io::Write;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::Value;

use crate::app::explain::Explanation;
use crate::cli::replay::ReplayView;
use crate::config::render::DefectView;
use crate::control::api::{ChangesView, RolloutView, RolloutsView};

/// What `serin schema` is told.
#[derive(Args, Clone, Copy, Debug)]
#[command(
    after_help = "Within a major version a schema may get more properties; none goes, and none \
    changes its meaning.\n\nExamples:\n  serin schema > serin.schema.json\n  \
    serin schema --of status"
)]
pub struct SchemaArgs {
    /// Of what
    #[arg(long, value_enum, default_value_t, value_name = "WHAT", env = "SERIN_OF")]
    pub of: Of,
}

/// What has a schema.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Of {
    /// The config file
    #[default]
    Config,
    /// `serin status -o json`, and `/api/rollouts`
    Status,
    /// `serin status ROLLOUT -o json`, what a verb prints, and `/api/rollouts/ROLLOUT`
    Rollout,
    /// `serin why -o json`, and `/api/rollouts/ROLLOUT/changes`
    Why,
    /// `serin check -o json`
    Check,
    /// `serin explain -o json`
    Explain,
    /// `serin replay -o json`
    Replay,
}

/// The JSON Schema of `of`.
pub fn schema(of: Of) -> Value {
    match of {
        Of::Config => crate::config::schema(),
        Of::Status => printed::<RolloutsView>("serin status -o json"),
        Of::Rollout => printed::<RolloutView>("serin status ROLLOUT -o json"),
        Of::Why => printed::<ChangesView>("serin why -o json"),
        Of::Check => printed::<Vec<DefectView<'_>>>("serin check -o json"),
        Of::Explain => printed::<Explanation>("serin explain -o json"),
        Of::Replay => printed::<ReplayView<'_>>("serin replay -o json"),
    }
}

/// Of what is printed: a property that is null then is there all the same.
fn printed<T: JsonSchema>(title: &str) -> Value {
    let settings = SchemaSettings::draft2020_12().for_serialize();
    let mut schema = settings.into_generator().into_root_schema_for::<T>().to_value();
    schema["title"] = title.into();
    schema
}

/// Prints the schema.
pub fn run(args: SchemaArgs) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    // As an error of the pipe, which `main` knows.
    serde_json::to_writer_pretty(&mut out, &schema(args.of)).map_err(std::io::Error::from)?;
    writeln!(out)?;
    Ok(ExitCode::SUCCESS)
}
