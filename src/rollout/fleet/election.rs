//! Who holds the lease: by what was seen of it, never by what another machine's clock says.
//!
//! Never asks or writes: what the lease says comes in, what to do about it goes out.

use std::time::Duration;

use crate::units::Tick;

/// A lease that was not seen to change for so long is nobody's.
pub const LEASE_LASTS: Duration = Duration::from_secs(10);

/// How often its holder renews it.
pub const RENEW_EVERY: Duration = Duration::from_secs(2);

/// A holder that could not renew it for so long acts no more: before anybody else may.
const RENEW_LASTS: Duration = Duration::from_secs(7);

/// What a lease says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Empty is nobody.
    pub holder: String,
    /// Another one with each time that it is written.
    pub version: String,
}

/// What to do about the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Look again after this, or when it changes.
    Wait(Duration),
    /// Write one's own name into it, new or as it was seen.
    Take,
}

/// One candidate's view of the lease.
#[derive(Clone, Debug)]
pub struct Election {
    me: String,
    /// What was seen last, and since when it is so.
    seen: Option<(Seen, Tick)>,
    /// When the last renewal that worked was begun.
    renewed: Option<Tick>,
    /// How long it waits beyond the end, so that not all candidates write at once.
    patience: Duration,
}

impl Election {
    /// The view of `me`, that has seen nothing yet.
    pub fn new(me: String, patience: Duration) -> Self {
        Self { me, seen: None, renewed: None, patience }
    }

    /// The lease was seen; `None` is that there is none.
    pub fn see(&mut self, seen: Option<Seen>, now: Tick) {
        let Some(seen) = seen else {
            (self.seen, self.renewed) = (None, None);
            return;
        };
        if seen.holder != self.me {
            self.renewed = None;
        }
        if self.seen.as_ref().is_none_or(|(before, _)| *before != seen) {
            self.seen = Some((seen, now));
        }
    }

    /// One's own name was written; the call began at `begun`.
    pub fn written(&mut self, seen: Seen, begun: Tick, now: Tick) {
        self.renewed = Some(begun);
        self.seen = Some((seen, now));
    }

    /// What to do. To be asked only while the lease can be seen.
    pub fn act(&self, now: Tick) -> Act {
        let due = match (&self.seen, self.renewed) {
            (None, _) => return Act::Take,
            (Some(_), Some(renewed)) => renewed.after(RENEW_EVERY),
            (Some((seen, _)), None) if seen.holder.is_empty() || seen.holder == self.me => {
                return Act::Take;
            }
            (Some((_, since)), None) => since.after(LEASE_LASTS + self.patience),
        };
        if now >= due { Act::Take } else { Act::Wait(due.since(now)) }
    }

    /// Until when one may act as the holder; `None` is not at all.
    pub fn holds_until(&self) -> Option<Tick> {
        self.renewed.map(|renewed| renewed.after(RENEW_LASTS))
    }

    /// Who holds it, as far as was seen; empty is nobody.
    pub fn holder(&self) -> &str {
        self.seen.as_ref().map_or("", |(seen, _)| seen.holder.as_str())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(millis: u64) -> Tick {
        Tick::new(Duration::from_millis(millis))
    }

    fn seen(holder: &str, version: u64) -> Seen {
        Seen { holder: holder.to_owned(), version: version.to_string() }
    }

    #[test]
    fn a_lease_is_taken_when_it_is_free_or_was_not_seen_to_change() {
        let mut election = Election::new("a".to_owned(), Duration::from_millis(500));
        assert_eq!(election.act(at(0)), Act::Take, "there is none");
        election.see(Some(seen("b", 1)), at(1000));
        assert_eq!(election.act(at(1000)), Act::Wait(Duration::from_millis(10_500)));
        // Seen again, it is no younger.
        election.see(Some(seen("b", 1)), at(9000));
        assert_eq!(election.act(at(11_500)), Act::Take);
        // Renewed, it is.
        election.see(Some(seen("b", 2)), at(11_000));
        assert_eq!(election.act(at(11_500)), Act::Wait(Duration::from_secs(10)));
        // Given up.
        election.see(Some(seen("", 3)), at(12_000));
        assert_eq!((election.act(at(12_000)), election.holds_until()), (Act::Take, None));
    }

    #[test]
    fn a_holder_renews_in_time_and_stops_before_others_may_begin() {
        let mut election = Election::new("a".to_owned(), Duration::ZERO);
        election.written(seen("a", 1), at(1000), at(1200));
        assert_eq!(election.act(at(1500)), Act::Wait(Duration::from_millis(1500)));
        assert_eq!(election.act(at(3000)), Act::Take);
        assert_eq!(election.holds_until(), Some(at(8000)));
        // Somebody else was faster.
        election.see(Some(seen("b", 2)), at(4000));
        assert_eq!(election.holds_until(), None);
        assert_eq!(election.holder(), "b");
    }

    proptest! {
        /// Whatever is seen when, and however slow writes are: while one that has written may
        /// still act, none that saw that write is to take it.
        #[test]
        fn two_never_hold_it(begun in 0..5_000_u64, took in 0..5_000_u64, late in 0..5_000_u64) {
            let mut holder = Election::new("a".to_owned(), Duration::ZERO);
            let mut other = Election::new("b".to_owned(), Duration::ZERO);
            // Written somewhere between the call and its answer.
            let written = begun + took / 2;
            holder.written(seen("a", 1), at(begun), at(begun + took));
            other.see(Some(seen("a", 1)), at(written + late));
            let until = holder.holds_until().unwrap();
            let mut now = at(written + late);
            while now <= until {
                prop_assert_ne!(other.act(now), Act::Take);
                now = now.after(Duration::from_millis(100));
            }
        }
    }
}
