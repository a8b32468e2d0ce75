//! Whether an endpoint is well, by what it answers when it is asked.
//!
//! Never asks: the caller does, and says what came of it.

use std::time::Duration;

/// How the endpoints of a backend are asked whether they are well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// What is asked.
    pub probe: Probe,
    /// From one question to the next, a tenth more or less.
    pub interval: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Good answers in a row that make an unwell endpoint well.
    pub healthy_threshold: u32,
    /// Bad answers in a row that make a well endpoint unwell.
    pub unhealthy_threshold: u32,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// A GET of `path`; 200 to 399 is well.
    Http {
        /// In origin form.
        path: String,
    },
    /// `grpc.health.v1.Health/Check` of `service`; SERVING is well.
    Grpc {
        /// Empty is the server as a whole.
        service: String,
    },
    /// A connection; that it stands is well.
    Tcp,
}

impl HealthCheck {
    /// Where the config does not say.
    pub const INTERVAL: Duration = Duration::from_secs(5);
    /// Where the config does not say; never longer than the interval.
    pub const TIMEOUT: Duration = Duration::from_secs(1);
    /// Where the config does not say.
    pub const HEALTHY_THRESHOLD: u32 = 1;
    /// Where the config does not say.
    pub const UNHEALTHY_THRESHOLD: u32 = 3;
}

/// What is known of one endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// `None` before the first answer.
    well: Option<bool>,
    /// Answers in a row that say otherwise.
    against: u32,
}

impl Health {
    /// After one more answer. The first one decides alone.
    #[must_use]
    pub fn observe(self, good: bool, check: &HealthCheck) -> Self {
        let decided = Self { well: Some(good), against: 0 };
        match self.well {
            None => decided,
            Some(well) if well == good => decided,
            Some(well) => {
                let against = self.against + 1;
                let enough = if well { check.unhealthy_threshold } else { check.healthy_threshold };
                if against >= enough { decided } else { Self { against, ..self } }
            }
        }
    }

    /// Whether it may get requests: not before it was asked.
    pub fn is_well(self) -> bool {
        self.well == Some(true)
    }

    /// Whether it was asked.
    pub fn is_known(self) -> bool {
        self.well.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `answers` as `+` and `-`, what is known after each as `+`, `-` and `?`.
    fn check(answers: &str, known: &str) {
        let rules = HealthCheck {
            probe: Probe::Tcp,
            interval: HealthCheck::INTERVAL,
            timeout: HealthCheck::TIMEOUT,
            healthy_threshold: 2,
            unhealthy_threshold: 3,
        };
        let mut health = Health::default();
        assert!(!health.is_known() && !health.is_well());
        let found: String = answers
            .chars()
            .map(|answer| {
                health = health.observe(answer == '+', &rules);
                if health.is_well() { '+' } else { '-' }
            })
            .collect();
        assert_eq!(found, known, "{answers}");
    }

    #[test]
    fn the_first_answer_decides_alone() {
        check("+", "+");
        check("-", "-");
    }

    #[test]
    fn it_takes_so_many_in_a_row_to_change_it() {
        check("+--+---", "++++++-");
        check("-+-++", "----+");
        check("+----++", "+++---+");
    }
}
