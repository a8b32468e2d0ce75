//! The command line's definition: what help, completions, manual and docs are made of.
//!
//! Never does anything: `main` does what was said.

use clap::{Parser, Subcommand};

use crate::cli::{
    await_ready, check, demo, explain, healthcheck, manual, replay, run, schema, status, top,
    verbs, why,
};

/// A traffic proxy that puts a new version of a model in front of users safely: it splits
/// between stable and canary, judges every answer, and takes a bad version out by itself
#[derive(Debug, Parser)]
#[command(name = "serin", version, max_term_width = 100)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Watch a bad model version being taken out; needs nothing else installed
    Demo(demo::DemoArgs),
    /// Run the proxy
    Run(run::RunArgs),
    /// Report every defect of a config file
    Check(check::CheckArgs),
    /// Print the JSON Schema of the config file, or of what a command prints with `-o json`
    Schema(schema::SchemaArgs),
    /// Tell which rule a request would get, and why
    Explain(explain::ExplainArgs),
    /// Show the rollouts of a running proxy
    Status(status::StatusArgs),
    /// Watch the rollouts of a running proxy on a terminal, and steer them
    Top(top::TopArgs),
    /// Explain what became of a rollout, with the numbers
    Why(why::WhyArgs),
    /// Go on to the next step of a rollout, without waiting for evidence
    Promote(verbs::PromoteArgs),
    /// Keep a rollout in its step
    Pause(verbs::PauseArgs),
    /// Let a paused rollout go on
    Resume(verbs::ResumeArgs),
    /// Take a rollout's canary out
    Abort(verbs::AbortArgs),
    /// Give an ended rollout another chance, without any evidence
    Reset(verbs::ResetArgs),
    /// Probe a running proxy, for images without a shell
    Healthcheck(healthcheck::HealthcheckArgs),
    /// Wait until a proxy is ready, then run another command in its place
    Await(await_ready::AwaitArgs),
    /// Judge recorded verdicts or slot counts again
    Replay(replay::ReplayArgs),
    /// Print what a shell needs to complete commands and flags
    Completions(manual::CompletionsArgs),
    /// Print the manual, or write one page per command
    Man(manual::ManArgs),
}
