//! `serin promote`, `pause`, `resume`, `abort` and `reset`: a person's word to a rollout.
//!
//! Never decides whether it may: the proxy does, and says why not.

use std::process::ExitCode;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, ValueEnum};

use crate::cli::client::{self, AdminArgs, ClientError};
use crate::control::api::RolloutView;

/// How the answer to a verb is printed.
#[derive(Args, Clone, Copy, Debug)]
pub struct PrintArgs {
    /// How to print the state that it leads to
    #[arg(short, long, value_enum, default_value_t, env = "SERIN_OUTPUT")]
    pub output: Output,
}

/// How to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// A sentence.
    #[value(alias = "table")]
    #[default]
    Text,
    /// For scripts: the rollout, as the admin port tells of it.
    Json,
}

/// What `serin abort` is told.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Exit codes: 0 done, or it was so already; 1 refused, with the reason; \
    3 no proxy answers.\n\nExample:\n  serin abort sentiment-v2")]
pub struct AbortArgs {
    /// The rollout whose canary is to get no traffic from now on
    #[arg(value_name = "ROLLOUT", value_parser = NonEmptyStringValueParser::new())]
    pub rollout: String,
    /// How to print.
    #[command(flatten)]
    pub print: PrintArgs,
    /// Which proxy.
    #[command(flatten)]
    pub admin: AdminArgs,
}

/// What `serin reset` is told.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Exit codes: 0 done; 1 refused, with the reason; 3 no proxy answers.\n\n\
    Example:\n  serin reset sentiment-v2")]
pub struct ResetArgs {
    /// The ended rollout that is to start afresh, without any evidence
    #[arg(value_name = "ROLLOUT", value_parser = NonEmptyStringValueParser::new())]
    pub rollout: String,
    /// How to print.
    #[command(flatten)]
    pub print: PrintArgs,
    /// Which proxy.
    #[command(flatten)]
    pub admin: AdminArgs,
}

/// What `serin promote` is told.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Exit codes: 0 done; 1 refused, with the reason; 3 no proxy answers.\n\n\
    Example:\n  serin promote chat-v2")]
pub struct PromoteArgs {
    /// The rollout that is to go on to its next step, without waiting for evidence
    #[arg(value_name = "ROLLOUT", value_parser = NonEmptyStringValueParser::new())]
    pub rollout: String,
    /// Skip all further steps: the canary gets everything and is watched no longer
    #[arg(long, env = "SERIN_FULL")]
    pub full: bool,
    /// How to print.
    #[command(flatten)]
    pub print: PrintArgs,
    /// Which proxy.
    #[command(flatten)]
    pub admin: AdminArgs,
}

/// What `serin pause` is told.
#[derive(Args, Clone, Debug)]
#[command(after_help = "A paused rollout is still judged and still rolls back.\n\nExit codes: 0 \
    done, or it was so already; 1 refused, with the reason; 3 no proxy answers.\n\n\
    Example:\n  serin pause chat-v2")]
pub struct PauseArgs {
    /// The rollout that is to stay in its step
    #[arg(value_name = "ROLLOUT", value_parser = NonEmptyStringValueParser::new())]
    pub rollout: String,
    /// How to print.
    #[command(flatten)]
    pub print: PrintArgs,
    /// Which proxy.
    #[command(flatten)]
    pub admin: AdminArgs,
}

/// What `serin resume` is told.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Exit codes: 0 done, or it was so already; 1 refused, with the reason; \
    3 no proxy answers.\n\nExample:\n  serin resume chat-v2")]
pub struct ResumeArgs {
    /// The paused rollout that is to go on
    #[arg(value_name = "ROLLOUT", value_parser = NonEmptyStringValueParser::new())]
    pub rollout: String,
    /// How to print.
    #[command(flatten)]
    pub print: PrintArgs,
    /// Which proxy.
    #[command(flatten)]
    pub admin: AdminArgs,
}

/// Goes on to the next step, or to the end.
pub fn promote(args: &PromoteArgs) -> anyhow::Result<ExitCode> {
    let verb = if args.full { "promote?full=true" } else { "promote" };
    operate(&args.admin, args.print, &args.rollout, verb)
}

/// Stops where it is.
pub fn pause(args: &PauseArgs) -> anyhow::Result<ExitCode> {
    operate(&args.admin, args.print, &args.rollout, "pause")
}

/// Goes on after a pause.
pub fn resume(args: &ResumeArgs) -> anyhow::Result<ExitCode> {
    operate(&args.admin, args.print, &args.rollout, "resume")
}

/// Takes a canary out.
pub fn abort(args: &AbortArgs) -> anyhow::Result<ExitCode> {
    operate(&args.admin, args.print, &args.rollout, "abort")
}

/// Gives a canary another chance.
pub fn reset(args: &ResetArgs) -> anyhow::Result<ExitCode> {
    operate(&args.admin, args.print, &args.rollout, "reset")
}

fn operate(
    admin: &AdminArgs,
    print: PrintArgs,
    rollout: &str,
    verb: &str,
) -> anyhow::Result<ExitCode> {
    client::with(admin, |client| {
        let answer = client.post(&format!("{}/{verb}", client::rollout_path(rollout)));
        let answer = answer.map_err(|error| match error {
            ClientError::Refused(why) => {
                let verb = verb.split('?').next().unwrap_or(verb);
                ClientError::Refused(format!("{verb} refused: {why}"))
            }
            error => error,
        })?;
        let view: RolloutView = serde_json::from_slice(&answer).map_err(|_| client.stranger())?;
        client::print(&match print.output {
            Output::Text => sentence(&view),
            // As it came: a newer proxy may say more than is known here.
            Output::Json => {
                let json: serde_json::Value =
                    serde_json::from_slice(&answer).map_err(|_| client.stranger())?;
                format!("{json:#}\n")
            }
        })?;
        Ok(ExitCode::SUCCESS)
    })
}

/// `sentiment-v2 is aborted: sentiment-v2 gets 0% of requests`.
fn sentence(view: &RolloutView) -> String {
    let share = crate::units::Ratio::new(view.weight).unwrap_or_default();
    let state = view.state.replace('_', " ");
    let step = match view.step {
        Some(step) => format!(" in step {} of {}", step + 1, view.steps.len()),
        None => String::new(),
    };
    let RolloutView { name, canary, .. } = view;
    format!("{name} is {state}{step}: its canary {canary} gets {share} of requests\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::verdict::Verdict;

    #[test]
    fn the_new_state_is_a_sentence() {
        let view = RolloutView {
            name: "chat".to_owned(),
            rule: "chat/main".to_owned(),
            stable: "v1".to_owned(),
            canary: "v2".to_owned(),
            version: "1".to_owned(),
            state: "aborted".to_owned(),
            step: None,
            steps: Vec::new(),
            weight: 0.0,
            reason: None,
            since: String::new(),
            verdict: Verdict::Rollback,
            hold_reason: None,
            objectives: Vec::new(),
            body_ms: None,
            versions: Vec::new(),
            said: None,
            fleet: None,
        };
        assert_eq!(sentence(&view), "chat is aborted: its canary v2 gets 0% of requests\n");
    }
}
