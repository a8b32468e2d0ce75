//! The command line's entry: arguments in, exit code out.

use std::process::ExitCode;

use anyhow::Context;
use clap::{CommandFactory, Parser};

use serin::cli::arguments::{Arguments, Command};
use serin::cli::{
    await_ready, check, demo, explain, healthcheck, manual, replay, run, schema, status, top,
    verbs, why,
};
use serin::config::load;
use serin::tls;

// HTTP/2 allocates what is large for each request, and memory is to come back: decision 22.
#[cfg(all(target_os = "linux", target_env = "gnu", target_arch = "x86_64"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

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
        Command::Schema(args) => schema::run(args),
        Command::Explain(args) => explain::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Top(args) => top::run(&args),
        Command::Why(args) => why::run(&args),
        Command::Promote(args) => verbs::promote(&args),
        Command::Pause(args) => verbs::pause(&args),
        Command::Resume(args) => verbs::resume(&args),
        Command::Abort(args) => verbs::abort(&args),
        Command::Reset(args) => verbs::reset(&args),
        Command::Healthcheck(args) => healthcheck::run(&args),
        Command::Await(args) => await_ready::run(&args),
        Command::Replay(args) => replay_with_policy(&args),
        Command::Completions(args) => manual::completions(&args, Arguments::command()),
        Command::Man(args) => manual::man(&args, Arguments::command()),
    };
    done.unwrap_or_else(|error| {
        let mut causes = error.chain().filter_map(|cause| cause.downcast_ref::<std::io::Error>());
        if causes.any(|cause| cause.kind() == std::io::ErrorKind::BrokenPipe) {
            // Whoever read our output has seen enough, as `head` does.
            return ExitCode::SUCCESS;
        }
        eprintln!("serin: {error:#}");
        ExitCode::FAILURE
    })
}
