//! Chooses one of a weighted set.
//!
//! Never draws a random number: the caller brings `draw`, so a test can try
//! every one, and a sticky key can hash to the same one for ever.

use crate::units::{Ratio, Weight};

/// A weighted set, at least one weight over zero.
#[derive(Clone, Debug, PartialEq)]
pub struct Split<T> {
    shares: Vec<Share<T>>,
    total: u64,
}

#[derive(Clone, Debug, PartialEq)]
struct Share<T> {
    /// The sum of the weights up to and with this one: points below it are its own.
    below: u64,
    value: T,
}

impl<T> Split<T> {
    /// The first of `weighted` owns the low end of the draws: put the canary there, so
    /// that a rising weight only adds users to it. `None` when all weights are zero.
    pub fn new(weighted: impl IntoIterator<Item = (T, Weight)>) -> Option<Self> {
        let mut total = 0;
        let shares = weighted
            .into_iter()
            .map(|(value, weight)| {
                total += u64::from(weight.get());
                Share { below: total, value }
            })
            .collect();
        (total > 0).then_some(Self { shares, total })
    }

    /// Maps `draw`, any number, to one of the set. Equal draws give equal answers.
    ///
    /// Scales the draw instead of taking a remainder: when a weight changes, a
    /// remainder would deal every sticky client a new hand.
    pub fn pick(&self, draw: u64) -> &T {
        let point = ((u128::from(draw) * u128::from(self.total)) >> 64) as u64;
        let index = self.shares.partition_point(|share| share.below <= point);
        &self.shares[index].value
    }

    /// Each of the set with its share of the draws.
    pub fn shares(&self) -> impl Iterator<Item = (&T, Ratio)> {
        let mut before = 0;
        self.shares.iter().map(move |share| {
            let weight = share.below - before;
            before = share.below;
            let ratio = Ratio::new(weight as f64 / self.total as f64).unwrap_or_default();
            (&share.value, ratio)
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(weights: &[(&'static str, u32)]) -> Split<&'static str> {
        Split::new(weights.iter().map(|(name, weight)| (*name, Weight::new(*weight).unwrap())))
            .unwrap()
    }

    /// What evenly spaced draws, as many as the weights sum to, are given.
    fn check(weights: &[(&'static str, u32)], expected: &str) {
        let split = split(weights);
        let total = split.total;
        let picked: Vec<_> = (0..total)
            .map(|step| *split.pick(step * (u64::MAX / total) + u64::MAX / total / 2))
            .collect();
        assert_eq!(picked.join(" "), expected);
    }

    #[test]
    fn shares_follow_the_weights() {
        check(&[("canary", 1), ("stable", 3)], "canary stable stable stable");
    }

    #[test]
    fn a_zero_weight_is_never_picked() {
        check(&[("canary", 0), ("stable", 2)], "stable stable");
        check(&[("stable", 2), ("canary", 0)], "stable stable");
    }

    #[test]
    fn the_ends_of_the_draws_belong_to_the_ends_of_the_set() {
        let split = split(&[("canary", 1), ("stable", 99)]);
        assert_eq!(*split.pick(0), "canary");
        assert_eq!(*split.pick(u64::MAX), "stable");
    }

    #[test]
    fn nothing_to_pick_is_no_split() {
        assert_eq!(Split::new([("a", Weight::ZERO), ("b", Weight::ZERO)]), None);
        assert_eq!(Split::<&str>::new([]), None);
    }

    #[test]
    fn a_hundred_thousand_random_draws_are_shared_within_binomial_error() {
        let seed = 7;
        println!("seed {seed}");
        let mut draws = fastrand::Rng::with_seed(seed);
        for percent in [1u32, 5, 10, 25, 50] {
            let split = split(&[("canary", percent), ("stable", 100 - percent)]);
            let n = 100_000;
            let picked = (0..n).filter(|_| *split.pick(draws.u64(..)) == "canary").count();
            let p = f64::from(percent) / 100.0;
            let deviation = (f64::from(n) * p * (1.0 - p)).sqrt();
            let off = (picked as f64 - f64::from(n) * p).abs();
            assert!(off < 4.0 * deviation, "{percent} %: {picked} of {n}");
        }
    }

    #[test]
    fn a_ramp_never_moves_a_sticky_key_back() {
        let keys: Vec<u64> = (0..10_000u32)
            .map(|user| crate::traffic::draw::Salt::of_rule("r").draw(&user.to_le_bytes()))
            .collect();
        let mut on_canary = vec![false; keys.len()];
        for percent in [1, 5, 25, 50, 100] {
            let split = split(&[("canary", percent), ("stable", 100 - percent)]);
            for (key, was) in keys.iter().zip(&mut on_canary) {
                let is = *split.pick(*key) == "canary";
                assert!(is || !*was, "a user left the canary at {percent} %");
                *was = is;
            }
        }
        assert!(on_canary.iter().all(|on| *on));
    }

    proptest! {
        #[test]
        fn a_rising_share_never_moves_a_draw_off_the_canary(
            draw: u64, canary in 0u32..1000, more in 0u32..1000, stable in 1u32..1000,
            less in 0u32..1000,
        ) {
            let before = split(&[("canary", canary), ("stable", stable)]);
            let after = split(&[
                ("canary", canary + more), ("stable", stable.saturating_sub(less).max(1)),
            ]);
            if *before.pick(draw) == "canary" {
                prop_assert_eq!(*after.pick(draw), "canary");
            }
        }

        #[test]
        fn shares_sum_to_one(weights in prop::collection::vec(0u32..=Weight::MAX, 1..20)) {
            let split = Split::new(
                weights.iter().enumerate().map(|(i, w)| (i, Weight::new(*w).unwrap())));
            if let Some(split) = split {
                let sum: f64 = split.shares().map(|(_, share)| share.get()).sum();
                prop_assert!((sum - 1.0).abs() < 1e-9);
            }
        }
    }
}
