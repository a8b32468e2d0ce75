//! What a worker keeps of all its requests' bodies, to send them again.
//!
//! Never shared between workers: each is one thread, and has a budget of its own.

use std::cell::Cell;

/// Bytes that one worker keeps. When full, nothing more is kept of any request: it is then
/// sent once.
pub const HELD_BYTES_MAX: usize = 16 << 20;

thread_local! {
    static HELD: Cell<usize> = const { Cell::new(0) };
}

/// What one request holds of the budget; given back when dropped.
#[derive(Debug, Default)]
pub struct Held(Cell<usize>);

impl Held {
    /// Whether `bytes` more may be held; if so, they are.
    pub fn takes(&self, bytes: usize) -> bool {
        let all = HELD.get().saturating_add(bytes);
        if all > HELD_BYTES_MAX {
            return false;
        }
        HELD.set(all);
        self.0.set(self.0.get() + bytes);
        true
    }

    /// Nothing is held any more.
    pub fn give_back(&self) {
        HELD.set(HELD.get() - self.0.take());
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.give_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_shared_and_comes_back() {
        let (one, other) = (Held::default(), Held::default());
        assert!(one.takes(HELD_BYTES_MAX - 1) && other.takes(1));
        assert!(!other.takes(1));
        one.give_back();
        assert!(other.takes(HELD_BYTES_MAX - 1));
        drop(other);
        assert!(one.takes(HELD_BYTES_MAX) && !one.takes(1));
    }
}
