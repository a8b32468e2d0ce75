//! How many clients one listener serves at once, over all workers.
//!
//! Never turns a client away: one too many waits, accepted, until another one leaves, and one
//! that asks nothing has to. Others wait in the kernel's queue behind it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use tokio::sync::Notify;

/// How often a place is looked for while there is none.
const LOOK: Duration = Duration::from_millis(50);

/// The places of one listener.
#[derive(Debug)]
pub struct Room {
    /// `None` is any number.
    places: Option<u32>,
    taken: AtomicU32,
    freed: Notify,
    wanted: Notify,
}

/// A place; free again when dropped.
#[derive(Debug)]
pub struct Place(Arc<Room>);

impl Room {
    /// With so many places.
    pub fn new(places: Option<u32>) -> Arc<Self> {
        Arc::new(Self {
            places,
            taken: AtomicU32::new(0),
            freed: Notify::new(),
            wanted: Notify::new(),
        })
    }

    /// Waits for a place; `None` where nobody counts. While there is none, `make_room` is to
    /// send away one that asks nothing; where it cannot, another worker is asked to.
    pub async fn enter(self: &Arc<Self>, make_room: impl Fn() -> bool) -> Option<Place> {
        let places = self.places?;
        loop {
            let more = |taken| (taken < places).then_some(taken + 1);
            if self.taken.fetch_update(SeqCst, SeqCst, more).is_ok() {
                return Some(Place(Arc::clone(self)));
            }
            if !make_room() {
                self.wanted.notify_one();
            }
            // A place that became free in between has left its word, but only for one.
            let _ = tokio::time::timeout(LOOK, self.freed.notified()).await;
        }
    }

    /// Waits until another worker needs a place, and has nobody to send away.
    pub async fn wanted(&self) {
        self.wanted.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, SeqCst);
        self.0.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_too_many_waits_until_another_one_leaves() {
        let room = Room::new(Some(2));
        let one = room.enter(|| false).await.unwrap();
        let _two = room.enter(|| false).await.unwrap();
        let mut third = Box::pin(room.enter(|| false));
        let waits = tokio::time::timeout(std::time::Duration::from_millis(20), &mut third).await;
        assert!(waits.is_err());
        // Somebody else is asked to make room.
        room.wanted().await;
        drop(one);
        assert!(third.await.is_some());
        assert!(Room::new(None).enter(|| false).await.is_none());
    }
}
