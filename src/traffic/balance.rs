//! Chooses one endpoint of a backend.
//!
//! Never counts requests: the caller says how many are in flight where.

/// Power of two choices (Mitzenmacher 1996): of two different endpoints, drawn by the two
/// halves of `draw`, the one with fewer requests in flight; the first on a tie.
///
/// `count` endpoints, `in_flight` tells the load of each; `None` when there is none.
pub fn choose(count: usize, draw: u64, in_flight: impl Fn(usize) -> u32) -> Option<usize> {
    if count < 2 {
        return count.checked_sub(1);
    }
    let scale = |half: u64, range: usize| ((half * range as u64) >> 32) as usize;
    let first = scale(draw >> 32, count);
    // One of the others: skips the first.
    let second = (first + 1 + scale(draw & 0xffff_ffff, count - 1)) % count;
    Some(if in_flight(second) < in_flight(first) { second } else { first })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn none_and_one_need_no_draw() {
        assert_eq!(choose(0, 42, |_| 0), None);
        assert_eq!(choose(1, 42, |_| 9), Some(0));
    }

    #[test]
    fn the_idle_one_of_two_is_always_chosen() {
        let mut draws = fastrand::Rng::with_seed(1);
        for _ in 0..1000 {
            assert_eq!(choose(2, draws.u64(..), |index| [5, 1][index]), Some(1));
        }
    }

    #[test]
    fn equals_get_equal_shares() {
        let mut draws = fastrand::Rng::with_seed(2);
        let mut counts = [0u32; 5];
        for _ in 0..50_000 {
            counts[choose(5, draws.u64(..), |_| 0).unwrap()] += 1;
        }
        // Mean 10,000, standard deviation 89.
        assert!(counts.iter().all(|count| (9_600..10_400).contains(count)), "{counts:?}");
    }

    #[test]
    fn a_busy_one_is_spared_but_the_ends_of_the_draws_are_safe() {
        for draw in [0, u64::MAX, u64::MAX << 32, u64::MAX >> 32] {
            assert!(choose(3, draw, |_| 0).unwrap() < 3);
        }
        let mut draws = fastrand::Rng::with_seed(3);
        assert!((0..1000).all(|_| choose(3, draws.u64(..), |i| [0, 0, 9][i]) != Some(2)));
    }
}
