//! The one primitive of the judge: a mixture betting e-process for a Bernoulli rate.
//!
//! Nine bettors start with a little money each, bet on every slot of traffic that the
//! bad rate is above a null, and get paid at odds that are fair under it. So while the null
//! is true nobody gets rich, and being rich is evidence: the chance of ever holding T times
//! the stake is at most 1/T, however often one looks (Ville's inequality).
//!
//! Never averages or multiplies evidence of two replicas: counts add up, evidence does not.
//!
//! Source: Waudby-Smith & Ramdas, "Estimating means of bounded random variables by betting"
//! (JRSSB 2023); a mixture over rates in place of their plug-in bet.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How many alternatives are bet on at most.
const BETTORS_MAX: usize = 9;

/// The odds of the alternatives as multiples of the null's: near ones for slow leaks, far
/// ones for outages.
const ODDS: [f64; BETTORS_MAX] =
    [std::f64::consts::SQRT_2, 2.0, 3.0, 4.5, 8.0, 16.0, 40.0, 120.0, 600.0];

/// Beyond this rate alternatives no longer differ: one of them stands for the rest.
const RATE_MAX: f64 = 0.97;

/// When half of the stake that drips in has come, in seconds.
const DRIP_HALF_S: f64 = 3600.0;

/// One alternative: what a bad and a good attempt multiply its wealth by, as logarithms.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Bet {
    bad: f64,
    good: f64,
}

/// Evidence that a rate is above its null. 1 is none; the threshold T is proof.
#[derive(Clone, Debug, PartialEq)]
pub struct Evidence {
    /// The alternatives in use stand first.
    bets: [Bet; BETTORS_MAX],
    bettors: usize,
    wealth: [f64; BETTORS_MAX],
    slot_max: f64,
    wealth_max: f64,
}

/// The wealths of an [`Evidence`], to be written down.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Wealth(Vec<f64>);

impl Evidence {
    /// No evidence yet against "the rate is at most `null`" (above 0, below 1), to be held
    /// to `threshold` (above 1).
    pub fn new(null: f64, threshold: f64) -> Self {
        let (bets, bettors) = bets(null);
        let mut wealth = [0.0; BETTORS_MAX];
        // Half of the stake is bet at once; the other half drips in.
        wealth[..bettors].fill(0.5 / bettors as f64);
        let slot_max = 0.5 * threshold.ln();
        Self { bets, bettors, wealth, slot_max, wealth_max: 10.0 * threshold }
    }

    /// Bets on one slot. `drip` is the part of the stake that came in since the last slot,
    /// from [`dripped`]. The order within a slot does not matter.
    ///
    /// No slot multiplies the evidence by more than √T: a reset connection that fails forty
    /// requests is one event, and one event is no proof.
    pub fn bet(&mut self, drip: f64, bad: u64, good: u64) {
        let drip = drip / self.bettors as f64;
        if bad == 0 && good == 0 {
            // Nothing to bet on: nine powers of nothing less to compute, for most slots are so.
            for wealth in &mut self.wealth[..self.bettors] {
                *wealth = (*wealth + drip).min(self.wealth_max);
            }
            return;
        }
        let (bad, good) = (bad as f64, good as f64);
        for (wealth, bet) in self.wealth[..self.bettors].iter_mut().zip(&self.bets) {
            let gain = (bad * bet.bad + good * bet.good).min(self.slot_max);
            *wealth = ((*wealth + drip) * gain.exp()).min(self.wealth_max);
        }
    }

    /// The e-value: the wealth of all bettors, from 0 up to 90 T.
    pub fn value(&self) -> f64 {
        self.wealth.iter().sum()
    }

    /// Goes on against another null, with what was won so far: fair bets may change at any
    /// time. A bettor whose alternative is gone hands its wealth to the farthest that is left.
    pub fn set_null(&mut self, null: f64) {
        (self.bets, self.bettors) = bets(null);
        self.inherit();
    }

    /// Gives evidence up, if it is above `value`. Whoever has less has proven no more.
    pub fn lower_to(&mut self, value: f64) {
        let now = self.value();
        if now > value {
            self.wealth.iter_mut().for_each(|wealth| *wealth *= value / now);
        }
    }

    /// What to write down for [`Self::restore`].
    pub fn save(&self) -> Wealth {
        Wealth(self.wealth.to_vec())
    }

    /// Takes back what was saved. `false`, and nothing changes, if it is not from an
    /// evidence of this kind.
    #[must_use]
    pub fn restore(&mut self, saved: &Wealth) -> bool {
        let Ok(wealth) = <[f64; BETTORS_MAX]>::try_from(saved.0.as_slice()) else {
            return false;
        };
        let sound = wealth.iter().all(|one| one.is_finite() && *one >= 0.0);
        if sound {
            self.wealth = wealth.map(|one| one.min(self.wealth_max));
            self.inherit();
        }
        sound
    }

    /// Wealth of alternatives that this null does not have goes to the last that it has.
    fn inherit(&mut self) {
        let orphaned: f64 = self.wealth[self.bettors..].iter().sum();
        self.wealth[self.bettors..].fill(0.0);
        self.wealth[self.bettors - 1] += orphaned;
    }
}

/// How much of the stake has dripped in `age` after the start: none at 0, half of it all in
/// the end. It lets a regression after an hour of health be found almost as fast as an early
/// one, for the early bettors have lost their money by then.
pub fn dripped(age: Duration) -> f64 {
    let age = age.as_secs_f64();
    0.5 * age / (DRIP_HALF_S + age)
}

/// The alternatives to a null, nearest first, and how many there are (one at least).
fn bets(null: f64) -> ([Bet; BETTORS_MAX], usize) {
    let mut bets = [Bet::default(); BETTORS_MAX];
    let mut bettors = 0;
    for times in ODDS {
        let odds = times * null / (1.0 - null);
        let reached = odds / (1.0 + odds);
        let last = reached > RATE_MAX;
        let rate = if last { RATE_MAX.max(f64::midpoint(1.0, null)) } else { reached };
        let bad = (rate / null).ln();
        let good = ((1.0 - rate) / (1.0 - null)).ln();
        bets[bettors] = Bet { bad, good };
        bettors += 1;
        // One that stands on the bound itself needs no other beyond it.
        if last || reached >= RATE_MAX {
            break;
        }
    }
    (bets, bettors)
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: f64 = 200.0;

    fn fed(null: f64, slots: &[(u64, u64)]) -> f64 {
        let mut evidence = Evidence::new(null, T);
        for (bad, good) in slots {
            evidence.bet(0.0, *bad, *good);
        }
        evidence.value()
    }

    #[test]
    fn half_of_the_stake_is_there_at_once_and_half_drips_in() {
        assert!((fed(0.01, &[]) - 0.5).abs() < 1e-12);
        assert!((dripped(Duration::from_hours(1)) - 0.25).abs() < 1e-12);
        let mut evidence = Evidence::new(0.01, T);
        let (early, late) =
            (dripped(Duration::from_secs(10)), dripped(Duration::from_hours(90_000)));
        evidence.bet(early, 0, 0);
        evidence.bet(late - early, 0, 0);
        assert!((evidence.value() - 1.0).abs() < 1e-4, "{}", evidence.value());
    }

    #[test]
    fn bets_are_fair_under_the_null() {
        for null in [0.001, 0.01, 0.14, 0.5, 0.6, 0.9, 0.98] {
            let (bets, bettors) = bets(null);
            assert!(bettors >= 1);
            for bet in &bets[..bettors] {
                let expected = null * bet.bad.exp() + (1.0 - null) * bet.good.exp();
                assert!((expected - 1.0).abs() < 1e-9, "null {null}: {expected}");
                assert!(bet.bad > 0.0 && bet.good < 0.0, "null {null}: {bet:?}");
            }
        }
    }

    #[test]
    fn one_slot_is_never_proof() {
        let burst = fed(0.01, &[(1_000_000, 0)]);
        assert!((burst - 0.5 * T.sqrt()).abs() < 1e-9, "{burst}");
        assert!(fed(0.01, &[(1_000_000, 0); 3]) >= T);
    }

    #[test]
    fn wealth_stays_within_its_bounds() {
        let rich = fed(0.01, &[(1_000, 0); 100]);
        assert!((rich - 9.0 * 10.0 * T).abs() < 1e-6, "{rich}");
        assert!(fed(0.01, &[(0, u64::MAX); 100]).abs() < 1e-300);
    }

    #[test]
    fn a_new_null_keeps_what_was_won() {
        let mut evidence = Evidence::new(0.01, T);
        evidence.bet(0.0, 5, 20);
        let before = evidence.value();
        for null in [0.9, 0.3, 0.97, 0.01] {
            evidence.set_null(null);
            assert!((evidence.value() - before).abs() < 1e-9 * before);
        }
    }

    #[test]
    fn evidence_can_be_given_up_but_not_gained() {
        let mut evidence = Evidence::new(0.01, T);
        evidence.bet(0.0, 5, 20);
        let before = evidence.clone();
        evidence.lower_to(before.value() + 1.0);
        assert_eq!(evidence, before);
        evidence.lower_to(2.0);
        assert!((evidence.value() - 2.0).abs() < 1e-9);
    }

    #[test]
    fn saved_wealth_goes_on_where_it_stopped_and_other_wealth_is_refused() {
        let mut evidence = Evidence::new(0.01, T);
        evidence.bet(0.0, 5, 20);
        let mut other = Evidence::new(0.01, T);
        assert!(other.restore(&evidence.save()));
        assert_eq!(other, evidence);
        for bad in [vec![], vec![1.0; 8], vec![f64::NAN; 9], vec![-1.0; 9]] {
            assert!(!other.restore(&Wealth(bad)));
        }
        assert_eq!(other, evidence);
    }
}
