//! Time limits of one worker: a list that is looked through every 20 ms.
//!
//! Never a timer per phase of a request: a limit costs a store, and passes up to two
//! looks late, never early.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use slab::Slab;
use tokio::sync::Notify;

use crate::clock::Clock;
use crate::proxy::error::Timeout;
use crate::telemetry::sample::OpenAttempts;
use crate::units::Tick;

/// How often the list is looked through while there is something in it.
pub const LOOK: Duration = Duration::from_millis(20);

/// All time limits of one worker.
#[derive(Debug)]
pub struct Deadlines {
    clock: Clock,
    /// The time of the last look: coarse, and free.
    now: Cell<Tick>,
    entries: RefCell<Slab<Entry>>,
    asleep: Cell<bool>,
    woken: Notify,
}

#[derive(Debug, Default)]
struct Entry {
    phase: Option<(Tick, Timeout)>,
    total: Option<(Tick, Timeout)>,
    passed: Option<Timeout>,
    waker: Option<Waker>,
}

/// The time limits of one exchange; gone when dropped.
#[derive(Debug)]
pub struct Deadline {
    all: Rc<Deadlines>,
    key: usize,
}

impl Deadlines {
    /// None yet.
    pub fn new(clock: Clock) -> Self {
        Self {
            clock,
            now: Cell::new(clock.now()),
            entries: RefCell::default(),
            asleep: Cell::new(false),
            woken: Notify::new(),
        }
    }

    /// A new exchange, which began at `started` and may take `total`.
    pub fn open(self: &Rc<Self>, started: Tick, total: Option<Duration>) -> Deadline {
        self.open_named(started, total.map(|total| (total, Timeout::Request)))
    }

    /// The same, where the limit of the whole is not the config's.
    pub fn open_named(
        self: &Rc<Self>,
        started: Tick,
        total: Option<(Duration, Timeout)>,
    ) -> Deadline {
        // The last look may be long ago, after a sleep or a stall.
        self.now.set(self.now.get().max(started));
        if self.asleep.replace(false) {
            self.woken.notify_one();
        }
        // What has passed since `started` counts.
        let total = total.map(|(span, which)| (started.after(span).after(LOOK), which));
        let key = self.entries.borrow_mut().insert(Entry { total, ..Entry::default() });
        Deadline { all: Rc::clone(self), key }
    }

    /// The process's time, exact.
    pub fn now(&self) -> Tick {
        self.clock.now()
    }

    /// The time of the last look, or of the last exchange's start.
    pub fn coarse_now(&self) -> Tick {
        self.now.get()
    }

    /// Looks through the list, and for attempts that have become slow, until dropped.
    pub async fn run(&self, open_attempts: &OpenAttempts) {
        loop {
            if self.entries.borrow().is_empty() {
                self.asleep.set(true);
                self.woken.notified().await;
            }
            tokio::time::sleep(LOOK).await;
            self.look(self.clock.now());
            open_attempts.sweep(self.now.get());
        }
    }

    fn look(&self, now: Tick) {
        self.now.set(now);
        for (_, entry) in self.entries.borrow_mut().iter_mut() {
            let phase = entry.phase.filter(|(end, _)| *end <= now).map(|(_, which)| which);
            let total = entry.total.filter(|(end, _)| *end <= now).map(|(_, which)| which);
            if entry.passed.is_none()
                && let Some(which) = phase.or(total)
            {
                entry.passed = Some(which);
                if let Some(waker) = entry.waker.take() {
                    waker.wake();
                }
            }
        }
    }

    /// The present is up to one look later than `now` says.
    fn end_of(&self, span: Duration) -> Tick {
        self.now.get().after(span).after(LOOK)
    }
}

impl Entry {
    /// The phase before is over, also when its limit passed just as it ended; the limit of
    /// the whole exchange stays passed.
    fn enter(&mut self, phase: Option<(Tick, Timeout)>) {
        self.phase = phase;
        self.passed = self.passed.filter(|which| which.is_whole());
    }
}

impl Deadline {
    /// From here on the phase `which` may take `span`.
    pub fn set(&self, which: Timeout, span: Duration) {
        let end = self.all.end_of(span);
        self.all.entries.borrow_mut()[self.key].enter(Some((end, which)));
    }

    /// The time of the last look at the limits.
    pub fn now(&self) -> Tick {
        self.all.coarse_now()
    }

    /// No phase is under way; the limit of the whole exchange stays.
    pub fn clear(&self) {
        self.all.entries.borrow_mut()[self.key].enter(None);
    }

    /// The limit of the whole exchange, if it has passed.
    pub fn whole_passed(&self) -> Option<Timeout> {
        self.all.entries.borrow()[self.key].passed.filter(|which| which.is_whole())
    }

    /// Whether the limit of the whole exchange has passed; wakes the task when it does. No phase
    /// is under way.
    pub fn poll_whole(&self, cx: &Context<'_>) -> Poll<Timeout> {
        self.clear();
        self.poll(cx)
    }

    /// The exchange as a whole has no limit from here on.
    pub fn end_whole(&self) {
        let entry = &mut self.all.entries.borrow_mut()[self.key];
        (entry.total, entry.passed) = (None, None);
    }

    /// Whether a limit has passed; wakes the task when one does.
    pub fn poll(&self, cx: &Context<'_>) -> Poll<Timeout> {
        let entry = &mut self.all.entries.borrow_mut()[self.key];
        if let Some(which) = entry.passed {
            return Poll::Ready(which);
        }
        match &mut entry.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// As [`Self::poll`], in a phase that began with the first of these calls since
    /// [`Self::clear`]: nothing has come for up to `span`.
    pub fn poll_idle(&self, cx: &Context<'_>, span: Duration) -> Poll<Timeout> {
        let end = self.all.end_of(span);
        // One statement: a reference kept in a variable would keep the list borrowed.
        self.all.entries.borrow_mut()[self.key].phase.get_or_insert((end, Timeout::Idle));
        self.poll(cx)
    }

    /// Waits for `future`, or for a limit to pass.
    pub async fn within<F: Future>(&self, future: F) -> Result<F::Output, Timeout> {
        let mut future = pin!(future);
        poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Ok(output)),
            Poll::Pending => self.poll(cx).map(Err),
        })
        .await
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        self.all.entries.borrow_mut().remove(self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs `test` in virtual time beside the loop that looks.
    fn in_virtual_time<F: Future>(test: impl FnOnce(Rc<Deadlines>) -> F) -> F::Output {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.unwrap().block_on(async {
            let deadlines = Rc::new(Deadlines::new(Clock::start()));
            let open_attempts = OpenAttempts::default();
            tokio::select! {
                () = deadlines.run(&open_attempts) => unreachable!("it runs until dropped"),
                output = test(Rc::clone(&deadlines)) => output,
            }
        })
    }

    #[test]
    fn an_idle_phase_begins_with_its_first_poll() {
        in_virtual_time(|deadlines| async move {
            let began = deadlines.clock.now();
            let deadline = deadlines.open(deadlines.clock.now(), None);
            let span = Duration::from_millis(500);
            let passed = poll_fn(|cx| deadline.poll_idle(cx, span)).await;
            assert_eq!(passed, Timeout::Idle);
            assert!(deadlines.clock.now().since(began) >= span);
        });
    }

    #[test]
    fn a_limit_passes_a_little_late_and_never_early() {
        in_virtual_time(|deadlines| async move {
            for millis in [1u64, 19, 20, 500] {
                let span = Duration::from_millis(millis);
                let clock = deadlines.clock;
                // From sleep, and after a pause in which nobody looked.
                tokio::time::sleep(Duration::from_secs(7)).await;
                let began = clock.now();
                let deadline = deadlines.open(deadlines.clock.now(), None);
                deadline.set(Timeout::FirstByte, span);
                let passed = deadline.within(std::future::pending::<()>()).await;
                let took = clock.now().since(began);
                assert_eq!(passed, Err(Timeout::FirstByte));
                assert!(took >= span && took <= span + 3 * LOOK, "{took:?} for {span:?}");
            }
        });
    }

    #[test]
    fn the_whole_exchange_has_its_own_limit() {
        in_virtual_time(|deadlines| async move {
            let deadline = deadlines.open(deadlines.clock.now(), Some(Duration::from_secs(2)));
            deadline.set(Timeout::Idle, Duration::from_mins(1));
            let passed = deadline.within(std::future::pending::<()>()).await;
            assert_eq!(passed, Err(Timeout::Request));
        });
    }

    #[test]
    fn a_limit_that_passed_as_its_phase_ended_is_not_held_against_the_next() {
        in_virtual_time(|deadlines| async move {
            let deadline = deadlines.open(deadlines.clock.now(), None);
            deadline.set(Timeout::FirstByte, Duration::from_millis(100));
            tokio::time::sleep(Duration::from_secs(1)).await;
            deadline.clear();
            let slept = deadline.within(tokio::time::sleep(Duration::from_secs(1))).await;
            assert_eq!(slept, Ok(()));
        });
    }

    #[test]
    fn another_attempt_has_phases_of_its_own_but_no_other_whole() {
        in_virtual_time(|deadlines| async move {
            let deadline = deadlines.open(deadlines.clock.now(), Some(Duration::from_secs(2)));
            let never = || deadline.within(std::future::pending::<()>());
            for _ in 0..2 {
                deadline.set(Timeout::FirstByte, Duration::from_millis(100));
                assert_eq!(never().await, Err(Timeout::FirstByte));
                deadline.clear();
            }
            assert_eq!(never().await, Err(Timeout::Request));
            deadline.clear();
            assert_eq!(never().await, Err(Timeout::Request));
        });
    }

    #[test]
    fn what_is_in_time_or_has_no_limit_is_left_alone() {
        in_virtual_time(|deadlines| async move {
            let deadline = deadlines.open(deadlines.clock.now(), None);
            deadline.set(Timeout::Idle, Duration::from_secs(1));
            let slept = deadline.within(tokio::time::sleep(Duration::from_millis(900))).await;
            assert_eq!(slept, Ok(()));
            deadline.clear();
            let slept = deadline.within(tokio::time::sleep(Duration::from_hours(1))).await;
            assert_eq!(slept, Ok(()));
            drop(deadline);
            assert!(deadlines.entries.borrow().is_empty());
        });
    }
}
