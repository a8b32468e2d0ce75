//! What has happened so far, told from samples, and whether it went as it should.
//!
//! Never looks at the world or a clock: equal samples give an equal story.

use std::time::Duration;

use crate::cli::demo::sample::Sample;
use crate::cli::demo::scenario::{Expected, Scenario};
use crate::units::Tick;

/// Requests that were on their way to the canary when it was taken out get this long to
/// arrive there; after that, none may.
const ON_THE_WAY: Duration = Duration::from_millis(250);

/// Fewer canary requests than this since the turn often prove nothing: the demo's 25 % is
/// found in about twenty, in 99 of 100 runs in no more than this.
pub const PROOF_REQUESTS: f64 = 75.0;

/// Worth telling at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// There is some evidence against the canary.
    Suspicious,
    /// The canary breaches a limit, and so does stable.
    SharedCause,
    /// The judge took the canary out.
    RolledBack,
    /// A person took the canary out.
    Aborted,
    /// A person gave the canary another chance.
    Reset,
}

impl News {
    /// Whether requests go elsewhere from now on.
    pub const fn changes_traffic(self) -> bool {
        matches!(self, Self::RolledBack | Self::Aborted | Self::Reset)
    }
}

/// The story so far.
#[derive(Debug)]
pub struct Story {
    /// Which one is told.
    pub scenario: Scenario,
    /// When things turned bad.
    pub turn: Option<Sample>,
    /// The first rollback.
    pub rollback: Option<Sample>,
    /// The first sample that comes long enough after the rollback.
    settled: Option<Sample>,
    /// To be suspicious is told once: it may come and go.
    suspected: bool,
    state: String,
    hold_reason: Option<String>,
}

/// One thing that should be so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// Whether it is.
    pub holds: bool,
    /// What was found, as a sentence without its full stop.
    pub text: String,
}

impl Story {
    /// Nothing has happened yet.
    pub const fn new(scenario: Scenario) -> Self {
        Self {
            scenario,
            turn: None,
            rollback: None,
            settled: None,
            suspected: false,
            state: String::new(),
            hold_reason: None,
        }
    }

    /// Things turn bad from `sample` on.
    pub fn turn_bad(&mut self, sample: Sample) {
        self.turn = Some(sample);
    }

    /// Goes on to `sample`, and says what is new there.
    pub fn take(&mut self, sample: &Sample) -> Option<News> {
        let rollout = &sample.rollout;
        if let Some(rollback) = &self.rollback
            && self.settled.is_none()
            && sample.at.since(rollback.at) >= ON_THE_WAY
        {
            self.settled = Some(sample.clone());
        }
        let held = rollout.hold_reason.clone().filter(|_| rollout.state == "holding");
        let news = match (self.state.as_str(), rollout.state.as_str()) {
            (before, now) if before == now && held == self.hold_reason => None,
            (before, now) if before == now || now == "holding" => match held.as_deref() {
                Some("shared cause") => Some(News::SharedCause),
                Some("suspicious") if !self.suspected => Some(News::Suspicious),
                _ => None,
            },
            (_, "rolled_back") => Some(News::RolledBack),
            (_, "aborted") => Some(News::Aborted),
            ("rolled_back" | "aborted", _) => Some(News::Reset),
            _ => None,
        };
        self.suspected |= news == Some(News::Suspicious);
        if news == Some(News::RolledBack) && self.rollback.is_none() {
            self.rollback = Some(sample.clone());
        }
        self.state.clone_from(&rollout.state);
        self.hold_reason = held;
        news
    }

    /// From the turn to the rollback, and how many requests reached the canary meanwhile.
    pub fn reaction(&self) -> Option<(Duration, u64)> {
        let (turn, rollback) = (self.turn.as_ref()?, self.rollback.as_ref()?);
        let requests = rollback.canary.requests.saturating_sub(turn.canary.requests);
        Some((rollback.at.since(turn.at), requests))
    }

    /// When the story has been told, should it have ended by itself: some time after a
    /// rollback, so that one sees what follows from it.
    pub fn end(&self, linger: Duration) -> Option<Tick> {
        self.rollback.as_ref().map(|rollback| rollback.at.after(linger))
    }

    /// What should be so, given the scenario, and whether it is. `last` is the last sample.
    pub fn checks(&self, last: &Sample) -> Vec<Check> {
        let mut checks = vec![served(last)];
        match self.scenario.expected() {
            Expected::Rollback(objective) => {
                checks.push(self.taken_out(objective, last));
                checks.extend(self.out_for_good(last));
            }
            Expected::SharedCause => {
                checks.push(self.left_in(last));
                checks.push(shared(last));
            }
            Expected::Nothing => checks.push(self.left_in(last)),
        }
        checks
    }

    fn taken_out(&self, objective: &str, last: &Sample) -> Check {
        let reason = |sample: &Sample| sample.rollout.reason.clone().unwrap_or_default();
        let text = match (&self.rollback, &self.turn) {
            (None, _) if last.rollout.state == "aborted" => {
                "v2 was taken out by an operator before the judge could".to_owned()
            }
            (None, None) => "v2 had no time to turn bad: give a longer --duration".to_owned(),
            (None, Some(turn)) => return not_taken_out(turn, last),
            (Some(_), None) => "v2 was taken out before it turned bad".to_owned(),
            (Some(rollback), Some(_)) => {
                let reason = reason(rollback);
                let name = reason.split(':').next().unwrap_or_default();
                if name.starts_with(objective) {
                    let text = format!("v2 was taken out after it turned bad, for `{name}`");
                    return Check { holds: true, text };
                }
                format!("v2 was taken out for `{name}`, not for its {objective}")
            }
        };
        Check { holds: false, text }
    }

    fn out_for_good(&self, last: &Sample) -> Option<Check> {
        let settled = self.settled.as_ref()?;
        if last.rollout.state != "rolled_back" {
            let text = format!("the rollout did not stay rolled back: {}", last.rollout.state);
            return Some(Check { holds: false, text });
        }
        let canary = last.canary.since(&settled.canary).requests;
        let stable = last.stable.since(&settled.stable).requests;
        let text = format!("since then v1 got {stable} requests and v2 {canary}");
        Some(Check { holds: canary == 0, text })
    }

    fn left_in(&self, last: &Sample) -> Check {
        let text = match last.rollout.state.as_str() {
            "aborted" => "v2 was taken out by an operator".to_owned(),
            _ if self.rollback.is_some() => "v2 was taken out, though it did no worse".to_owned(),
            _ if last.canary.requests == 0 => "v2 got no request at all".to_owned(),
            _ => {
                let text = format!("v2 was left in: it got {} requests", last.canary.requests);
                return Check { holds: true, text };
            }
        };
        Check { holds: false, text }
    }
}

fn served(last: &Sample) -> Check {
    let text = format!("{} of {} requests got a good answer", last.users.ok, last.users.total());
    Check { holds: last.users.ok > 0, text }
}

fn not_taken_out(turn: &Sample, last: &Sample) -> Check {
    let requests = last.canary.since(&turn.canary).requests;
    let seconds = last.at.since(turn.at).as_secs_f64();
    let mut text = format!("v2 was not taken out in {seconds:.1} s and {requests} requests");
    if (requests as f64) < PROOF_REQUESTS {
        text.push_str(", which are few: give a higher --rps or a longer --duration");
    }
    Check { holds: false, text }
}

fn shared(last: &Sample) -> Check {
    let holds = last.rollout.hold_reason.as_deref() == Some("shared cause");
    let text = if holds {
        "Serin holds for a shared cause: v1 breaks the same rule".to_owned()
    } else {
        let reason = last.rollout.hold_reason.as_deref().unwrap_or("none");
        format!("Serin did not see the shared cause; its hold reason is: {reason}")
    };
    Check { holds, text }
}

#[cfg(test)]
mod tests;
