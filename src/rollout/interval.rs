//! Between which bounds a rate may lie, by all that was counted so far.
//!
//! Never a decision by itself: it is what a person reads beside the evidence.

use crate::units::Ratio;

/// ln(1/0.05): the interval misses the true rate with a chance of 5 % over its whole life.
const LN_TRUST: f64 = 2.995_732_273_553_991;

/// Halvings until a bound is exact to about 1e-15.
const HALVINGS: usize = 50;

/// The rates that fit a count. Anytime-valid: it covers the true rate at every moment at once
/// with a chance of 95 %, so it may be looked at after every request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// The lowest rate that fits.
    pub low: Ratio,
    /// The highest.
    pub high: Ratio,
}

impl Interval {
    /// Of `bad` among `total` (at least `bad`). Nothing counted fits every rate.
    ///
    /// Keeps every rate p against which a Beta(½, ½) mixture has won less than 20 times its
    /// stake: lnB(s+½, n-s+½) - lnB(½,½) - s·ln p - (n-s)·ln(1-p) ≤ ln 20 (Robbins' method
    /// of mixtures).
    pub fn of(bad: u64, total: u64) -> Self {
        let (bad, good) = (bad as f64, total.saturating_sub(bad) as f64);
        let won = ln_beta(bad + 0.5, good + 0.5) - ln_beta(0.5, 0.5);
        let fits = |p: f64| won - times_ln(bad, p) - times_ln(good, 1.0 - p) <= LN_TRUST;
        let seen = if bad + good > 0.0 { bad / (bad + good) } else { 0.5 };
        Self { low: bound(seen, 0.0, fits), high: bound(seen, 1.0, fits) }
    }
}

/// The last rate that `fits` on the way from `inside`, which does, to `end`.
fn bound(inside: f64, end: f64, fits: impl Fn(f64) -> bool) -> Ratio {
    let (mut inside, mut outside) = (inside, end);
    if fits(end) {
        inside = end;
    }
    for _ in 0..HALVINGS {
        let middle = f64::midpoint(inside, outside);
        if fits(middle) {
            inside = middle;
        } else {
            outside = middle;
        }
    }
    Ratio::new(inside).unwrap_or_default()
}

/// count · ln p, where nothing times minus infinity is nothing.
fn times_ln(count: f64, p: f64) -> f64 {
    if count > 0.0 { count * p.ln() } else { 0.0 }
}

/// ln B(a, b) = ln Γ(a) + ln Γ(b) - ln Γ(a+b), for a, b > 0.
fn ln_beta(a: f64, b: f64) -> f64 {
    ln_gamma(a) + ln_gamma(b) - ln_gamma(a + b)
}

/// ln Γ(x) for x > 0, to about 1e-14 of it: Stirling's series (Abramowitz & Stegun 6.1.41)
/// from 10 upwards, reached by Γ(x+1) = x·Γ(x).
fn ln_gamma(x: f64) -> f64 {
    let (mut x, mut product) = (x, 1.0);
    while x < 10.0 {
        product *= x;
        x += 1.0;
    }
    let y = 1.0 / (x * x);
    let series =
        [1.0 / 12.0, -1.0 / 360.0, 1.0 / 1260.0, -1.0 / 1680.0, 1.0 / 1188.0, -691.0 / 360_360.0];
    let series = series.iter().rev().fold(0.0, |sum, term| sum * y + term) / x;
    let half_ln_two_pi = 0.5 * std::f64::consts::TAU.ln();
    (x - 0.5) * x.ln() - x + half_ln_two_pi + series - product.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bad: u64, total: u64, low: f64, high: f64) {
        let found = Interval::of(bad, total);
        let near = |a: Ratio, b: f64| (a.get() - b).abs() <= 1e-4 * b.max(1e-9);
        assert!(near(found.low, low) && near(found.high, high), "{bad}/{total}: {found:?}");
    }

    #[test]
    fn ln_gamma_agrees_with_known_values() {
        let half_ln_pi = 0.5 * std::f64::consts::PI.ln();
        let factorial = |n: u32| (1..=n).map(|one| f64::from(one).ln()).sum::<f64>();
        let known = [
            (0.5, half_ln_pi),
            (1.0, 0.0),
            (1.5, half_ln_pi - 2f64.ln()),
            (2.0, 0.0),
            (11.0, factorial(10)),
            (101.0, factorial(100)),
            (100_001.0, factorial(100_000)),
        ];
        for (x, expected) in known {
            let error = (ln_gamma(x) - expected).abs();
            assert!(error <= 1e-12 * expected.abs().max(1.0), "{x}: {error}");
        }
    }

    #[test]
    fn intervals_agree_with_known_ones() {
        check(4, 4, 0.341_946, 1.0);
        check(5, 5, 0.414_968, 1.0);
        check(0, 0, 0.0, 1.0);
    }

    #[test]
    fn more_counts_make_it_narrower_and_the_ratio_stays_inside() {
        let mut width = 1.0;
        for scale in [1, 10, 100, 10_000, 1_000_000_000] {
            let Interval { low, high } = Interval::of(3 * scale, 100 * scale);
            assert!(low.get() <= 0.03 && 0.03 <= high.get());
            assert!(high.get() - low.get() < width);
            width = high.get() - low.get();
        }
        assert_eq!(Interval::of(0, 1000).low, Ratio::ZERO);
        assert_eq!(Interval::of(1000, 1000).high, Ratio::ONE);
    }
}
