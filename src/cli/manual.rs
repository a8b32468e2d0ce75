//! `serin completions` and `serin man`: what shells and `man` know of the command line.
//!
//! Never knows a flag itself: all comes from the definition of the command line.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Command};
use clap_complete::Shell;
use clap_mangen::Man;

/// What `serin completions` is told.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:\n  serin completions bash > \
    ~/.local/share/bash-completion/completions/serin\n  \
    serin completions zsh > ~/.zfunc/_serin\n  \
    serin completions fish > ~/.config/fish/completions/serin.fish")]
pub struct CompletionsArgs {
    /// The shell that is to complete
    #[arg(value_enum)]
    pub shell: Shell,
}

/// What `serin man` is told.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:\n  serin man | man -l -\n  \
    serin man --out ~/.local/share/man/man1")]
pub struct ManArgs {
    /// A folder for one page per command, instead of the first page on standard output
    #[arg(long, value_name = "DIR", env = "SERIN_OUT")]
    pub out: Option<PathBuf>,
}

/// Prints the completions.
pub fn completions(args: &CompletionsArgs, mut command: Command) -> anyhow::Result<ExitCode> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut command, "serin", &mut text);
    std::io::stdout().write_all(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// Prints the manual's first page, or writes all of them.
pub fn man(args: &ManArgs, mut command: Command) -> anyhow::Result<ExitCode> {
    command.build();
    let Some(folder) = &args.out else {
        std::io::stdout().write_all(&page(command)?)?;
        return Ok(ExitCode::SUCCESS);
    };
    let failed = || format!("cannot write to {}", folder.display());
    std::fs::create_dir_all(folder).with_context(failed)?;
    let mut written = String::new();
    for one in command.get_subcommands().cloned() {
        let name = one.get_display_name().unwrap_or_else(|| one.get_name()).to_owned();
        written += &write(folder, &name, one)?;
    }
    written += &write(folder, "serin", command)?;
    std::io::stdout().write_all(written.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// Writes one page; the line that tells where.
fn write(folder: &Path, name: &str, command: Command) -> anyhow::Result<String> {
    let path = folder.join(format!("{name}.1"));
    std::fs::write(&path, page(command)?)
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(format!("{}\n", path.display()))
}

fn page(command: Command) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    Man::new(command).render(&mut text)?;
    Ok(text)
}
