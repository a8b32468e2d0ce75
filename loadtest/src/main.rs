//! The command line of the load generator.
//!
//! Never does anything itself: one file per command under `commands/`.

mod commands;
mod compare;
mod resilience;
mod wire;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Measures Serin and its peers, and puts something behind and in front of them.
///
/// Everything stays on loopback.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Model(commands::model::Model),
    Load(commands::load::Load),
    Drive(commands::drive::Drive),
    Backend(commands::backend::Backend),
    Relay(commands::relay::Relay),
    Compare(compare::Compare),
    Resilience(resilience::Resilience),
    Instructions(compare::Instructions),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Model(command) => command.run(),
        Command::Load(command) => command.run(),
        Command::Drive(command) => command.run(),
        Command::Backend(command) => command.run(),
        Command::Relay(command) => command.run(),
        Command::Compare(command) => command.run(),
        Command::Resilience(command) => command.run(),
        Command::Instructions(command) => command.run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
