//! When requests are meant to start.
//!
//! Never asks the time: a schedule is a list of offsets from its beginning.

use std::time::Duration;

use fastrand::Rng;

/// How arrivals are spread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Arrivals {
    /// Independent users: exponential gaps.
    #[default]
    Poisson,
    /// A metronome: equal gaps.
    Even,
}

/// The endless offsets at which requests start, ascending.
#[derive(Debug)]
pub struct Schedule {
    arrivals: Arrivals,
    rps: f64,
    rng: Rng,
    count: u64,
    seconds: f64,
}

impl Schedule {
    /// From an offset of zero on, at `rps` a second on average.
    pub fn new(arrivals: Arrivals, rps: f64, seed: u64) -> Self {
        Self { arrivals, rps, rng: Rng::with_seed(seed), count: 0, seconds: 0.0 }
    }
}

impl Iterator for Schedule {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.count += 1;
        self.seconds = match self.arrivals {
            Arrivals::Poisson => self.seconds - (1.0 - self.rng.f64()).ln() / self.rps,
            // Multiplied, so that rounding does not add up over hours.
            Arrivals::Even => self.count as f64 / self.rps,
        };
        Duration::try_from_secs_f64(self.seconds).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offsets(arrivals: Arrivals, seed: u64) -> Vec<Duration> {
        Schedule::new(arrivals, 100.0, seed).take(10_000).collect()
    }

    #[test]
    fn even_arrivals_have_equal_gaps() {
        let offsets = offsets(Arrivals::Even, 1);
        assert_eq!(offsets[0], Duration::from_millis(10));
        assert_eq!(offsets[9_999], Duration::from_secs(100));
    }

    #[test]
    fn poisson_arrivals_keep_the_rate_within_four_sigma() {
        let last = offsets(Arrivals::Poisson, 1)[9_999].as_secs_f64();
        assert!((last - 100.0).abs() < 4.0, "10000 arrivals took {last} s");
    }

    #[test]
    fn poisson_gaps_vary_as_much_as_their_mean() {
        let offsets = offsets(Arrivals::Poisson, 2);
        let gaps = offsets.windows(2).map(|pair| pair[1].as_secs_f64() - pair[0].as_secs_f64());
        let spread = gaps.map(|gap| (gap - 0.01).powi(2)).sum::<f64>() / 9_999.0;
        assert!((spread.sqrt() - 0.01).abs() < 0.001, "standard deviation {}", spread.sqrt());
    }

    #[test]
    fn equal_seeds_give_equal_schedules() {
        assert_eq!(offsets(Arrivals::Poisson, 3), offsets(Arrivals::Poisson, 3));
        assert_ne!(offsets(Arrivals::Poisson, 3), offsets(Arrivals::Poisson, 4));
    }
}
