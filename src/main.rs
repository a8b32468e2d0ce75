//! The command line's entry: arguments in, exit code out.

use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};

use serin::cli::{check, demo, healthcheck, replay, run, schema, status, verbs, why};
use serin::config::load;
use serin::tls;

/// A traffic proxy that puts a new version of a model in front of users safely: it splits
/// between stable and canary, judges every answer, and takes a bad version out by itself
#[derive(Debug, Parser)]
#[command(name = "serin", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Watch a bad model version being taken out; needs nothing else installed
    Demo(demo::DemoArgs),
    /// Run the proxy
    Run(run::RunArgs),
    /// Report every defect of a config file
    Check(check::CheckArgs),
    /// Print the JSON Schema of the config file
    Schema,
    /// Show the rollouts of a running proxy
    Status(status::StatusArgs),
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
    /// Judge recorded slot counts again
    Replay(replay::ReplayArgs),
}

/// The policy of a replay is the first rollout of a config file.
fn replay_with_policy(args: &replay::ReplayArgs) -> anyhow::Result<ExitCode> {
    let plan = match &args.policy {
        None => None,
        Some(path) => {
            let loaded = load::load(path)?;
            let plan = loaded.config.rollouts.into_iter().next();
            Some(plan.with_context(|| format!("{}: no rollout, so no policy", path.display()))?)
        }
    };
    replay::run(args, plan)
}

fn main() -> ExitCode {
    tls::install_provider();
    let done = match Arguments::parse().command {
        Command::Demo(args) => demo::run(&args),
        Command::Run(args) => run::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Schema => schema::run(),
        Command::Status(args) => status::run(&args),
        Command::Why(args) => why::run(&args),
        Command::Promote(args) => verbs::promote(&args),
        Command::Pause(args) => verbs::pause(&args),
        Command::Resume(args) => verbs::resume(&args),
        Command::Abort(args) => verbs::abort(&args),
        Command::Reset(args) => verbs::reset(&args),
        Command::Healthcheck(args) => healthcheck::run(&args),
        Command::Replay(args) => replay_with_policy(&args),
    };
    done.unwrap_or_else(|error| {
        let source = error.downcast_ref::<std::io::Error>();
        if source.is_some_and(|source| source.kind() == std::io::ErrorKind::BrokenPipe) {
            // Whoever read our output has seen enough, as `head` does.
            return ExitCode::SUCCESS;
        }
        eprintln!("serin: {error:#}");
        ExitCode::FAILURE
    })
}
