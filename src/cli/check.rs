//! `serin check`: every defect of a file, with its place and what to do about it.
//!
//! Never opens a socket, but with `--k8s`: then the cluster is asked.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use http::Uri;

use crate::app::survey;
use crate::config::Config;
use crate::config::defect::{Defect, Defects};
use crate::config::load::{Loaded, Options, Source};
use crate::config::render;

/// What `serin check` is told.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Exit codes: 0 good; 1 a defect, or a file that cannot be read.\n\nExamples:\n  \
    serin check serin.yaml\n  \
    serin check --no-files --fail-on warn -o github serin.yaml\n  \
    kubectl kustomize overlays/prod | serin check --no-files -\n  \
    kubectl proxy & serin check --k8s --k8s-server http://127.0.0.1:8001 serin.yaml"
)]
pub struct CheckArgs {
    /// Config files, or Kubernetes manifests that hold one; `-` is standard input
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// How to print what was found
    #[arg(short, long, value_enum, default_value_t, env = "SERIN_OUTPUT")]
    pub output: Output,
    /// Do not look at the files that a config names, such as a token file
    #[arg(long, env = "SERIN_NO_FILES")]
    pub no_files: bool,
    /// Compare with the cluster, too: services, their ports, ready endpoints, what a fleet shares
    #[arg(long, env = "SERIN_K8S")]
    pub k8s: bool,
    /// Where its API is, such as what `kubectl proxy` says; by default where the file says, or
    /// the pod is told
    #[arg(long, value_name = "URL", requires = "k8s", env = "SERIN_K8S_SERVER")]
    pub k8s_server: Option<Uri>,
    /// What makes the exit code 1
    #[arg(long, value_enum, default_value_t, value_name = "SEVERITY", env = "SERIN_FAIL_ON")]
    pub fail_on: FailOn,
}

/// How to print defects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people: with the line of the file and what to do
    #[default]
    Text,
    /// For scripts: one array of objects
    Json,
    /// For a GitHub workflow: shown beside the line
    Github,
}

/// What makes the exit code 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum FailOn {
    /// Warnings and errors
    Warn,
    /// Errors alone
    #[default]
    Error,
}

/// What was found in one file.
struct Found {
    origin: String,
    text: String,
    list: Vec<Defect>,
}

/// Checks each file; 1 when one has a defect that counts.
pub fn run(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let options = Options { touch_files: !args.no_files, ..Options::CHECK };
    let mut found = Vec::new();
    for file in &args.files {
        found.push(check(file, options, args)?);
    }
    let mut out = std::io::stdout().lock();
    match args.output {
        Output::Text => text(&found, &mut out)?,
        Output::Json => json(&found, &mut out)?,
        Output::Github => github(&found, &mut out)?,
    }
    out.flush()?;
    let counts = |defect: &Defect| args.fail_on == FailOn::Warn || defect.is_error();
    let failed = found.iter().any(|file| file.list.iter().any(counts));
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn check(file: &Path, options: Options, args: &CheckArgs) -> anyhow::Result<Found> {
    let source = if file == Path::new("-") { Source::stdin() } else { Source::read(file) };
    let origin = file.display().to_string();
    let loaded = source.and_then(|source| Ok((source.load(options)?, source)));
    match loaded {
        Ok((Loaded { config, text, warnings: mut list, .. }, source)) => {
            if args.k8s {
                list.extend(compare(&config, &source, args.k8s_server.clone())?);
                list.sort_by_key(|defect| defect.place);
            }
            Ok(Found { origin, text, list })
        }
        Err(Defects { text, list, .. }) => Ok(Found { origin, text, list }),
    }
}

/// What the cluster does not have as the file says, with its places.
fn compare(config: &Config, source: &Source, server: Option<Uri>) -> anyhow::Result<Vec<Defect>> {
    let mut defects = survey::survey(config, server)?;
    let paths: Vec<_> = defects.iter().map(|defect| defect.path.clone()).collect();
    let paths: Vec<_> = paths.iter().map(String::as_str).collect();
    for (defect, place) in defects.iter_mut().zip(source.places(&paths)) {
        defect.place = place;
    }
    Ok(defects)
}

fn text(found: &[Found], out: &mut impl Write) -> std::io::Result<()> {
    // An empty NO_COLOR is as good as none (no-color.org).
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let color = !plain && std::io::stdout().is_terminal();
    for Found { origin, text, list } in found {
        write!(out, "{}", render::text(origin, text, list, color))?;
        let errors = list.iter().filter(|defect| defect.is_error()).count();
        let warnings = list.len() - errors;
        let many = |count, what: &str| match count {
            1 => format!("1 {what}"),
            _ => format!("{count} {what}s"),
        };
        let sum = match (errors, warnings) {
            (0, 0) => "ok".to_owned(),
            (0, _) => format!("ok, with {}", many(warnings, "warning")),
            (_, 0) => many(errors, "error"),
            _ => format!("{}, {}", many(errors, "error"), many(warnings, "warning")),
        };
        writeln!(out, "{origin}: {sum}")?;
    }
    Ok(())
}

fn json(found: &[Found], out: &mut impl Write) -> anyhow::Result<()> {
    let all = found.iter();
    let all = all.flat_map(|file| file.list.iter().map(|one| render::json(&file.origin, one)));
    let all: Vec<_> = all.collect();
    // As an error of the pipe, which `main` knows.
    serde_json::to_writer_pretty(&mut *out, &all).map_err(std::io::Error::from)?;
    writeln!(out)?;
    Ok(())
}

fn github(found: &[Found], out: &mut impl Write) -> std::io::Result<()> {
    for Found { origin, list, .. } in found {
        for defect in list {
            writeln!(out, "{}", render::github(origin, defect))?;
        }
    }
    Ok(())
}
