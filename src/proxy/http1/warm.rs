//! Large buffers to read into, which go from one connection to the next.
//!
//! Never keeps many: the one whose bytes were just written out lies in the processor's cache, and
//! is to be read into next, whosever connection that is for.

use std::cell::RefCell;

use bytes::BytesMut;

/// A buffer of at least this size is passed on. Smaller ones stay with their connections.
pub const WARM_BYTES_MIN: usize = 32 << 10;

/// Buffers that a worker keeps. When full, the one that was given first goes.
const SPARE_MAX: usize = 4;

thread_local! {
    /// The warmest last. Bytes that were read into one may still be on their way.
    static SPARE: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer with room for `bytes`: the one that was given last of those from which all is
/// gone, or a new one.
pub fn take(bytes: usize) -> BytesMut {
    SPARE.with_borrow_mut(|spare| {
        let free = (0..spare.len()).rev().find(|at| spare[*at].try_reclaim(bytes));
        free.map_or_else(|| BytesMut::with_capacity(bytes), |at| spare.remove(at))
    })
}

/// Nothing more is read into `buffer` here. What was may be used for as long as it is needed:
/// until then nobody is given it.
pub fn give(buffer: BytesMut) {
    debug_assert!(buffer.is_empty(), "somebody else would read what is left");
    SPARE.with_borrow_mut(|spare| {
        if spare.len() == SPARE_MAX {
            spare.remove(0);
        }
        spare.push(buffer);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_given_again_when_all_that_was_read_is_gone() {
        let mut buffer = take(WARM_BYTES_MIN);
        let at = buffer.as_ptr();
        buffer.extend_from_slice(&[7; 100]);
        let read = buffer.split().freeze();
        give(buffer);
        let other = take(WARM_BYTES_MIN);
        assert!(other.as_ptr() != at && other.capacity() >= WARM_BYTES_MIN);
        assert_eq!(read[..], [7; 100]);
        drop(read);
        let same = take(WARM_BYTES_MIN);
        assert!(same.as_ptr() == at && same.is_empty() && same.capacity() >= WARM_BYTES_MIN);
    }

    #[test]
    fn the_last_one_goes_first_and_few_are_kept() {
        let buffers: Vec<_> = (0..SPARE_MAX + 2).map(|_| take(WARM_BYTES_MIN)).collect();
        let places: Vec<_> = buffers.iter().map(|buffer| buffer.as_ptr()).collect();
        buffers.into_iter().for_each(give);
        // Held, or each would be taken again.
        let taken: Vec<_> = (0..SPARE_MAX).map(|_| take(WARM_BYTES_MIN)).collect();
        let again: Vec<_> = taken.iter().map(|buffer| buffer.as_ptr()).collect();
        assert!(again.iter().eq(places.iter().rev().take(SPARE_MAX)));
        SPARE.with_borrow(|spare| assert!(spare.is_empty()));
    }
}
