//! How many requests of one backend are under way, over all workers, and who waits.
//!
//! Never waits for a lock unless somebody is in line: then it is held for as long as it takes
//! to add one to the line or to take one from it.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::telemetry::counts::Counter;
use crate::traffic::limit::Seen;
use crate::units::Tick;

/// Lets so many requests of a backend through at once, and so many wait, first come, first
/// served. One for all workers: what a model server can do does not depend on which worker a
/// client was dealt to.
#[derive(Debug)]
pub struct Gate {
    limit: AtomicU32,
    line_max: AtomicU32,
    under_way: AtomicU32,
    /// The most that were under way since somebody looked.
    most: AtomicU32,
    /// Beside `line`, to be read without the lock.
    waiting: AtomicU32,
    line: Mutex<VecDeque<Arc<Waiter>>>,
    workers: Box<[Answers]>,
}

/// One worker's answers; on cache lines of their own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Answers {
    count: Counter,
    micros: Counter,
}

/// Somebody in line.
#[derive(Debug)]
struct Waiter {
    /// A place was taken for it.
    let_in: AtomicBool,
    waker: Mutex<Waker>,
}

/// One request under way; over when dropped.
#[derive(Debug)]
pub struct Pass {
    gate: Arc<Gate>,
    began: Option<Tick>,
    waited_ms: u32,
}

/// The line is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl Gate {
    /// Nobody is under way.
    pub fn new(limit: u32, line_max: u32, workers: usize) -> Self {
        Self {
            limit: AtomicU32::new(limit),
            line_max: AtomicU32::new(line_max),
            under_way: AtomicU32::new(0),
            most: AtomicU32::new(0),
            waiting: AtomicU32::new(0),
            line: Mutex::default(),
            workers: (0..workers).map(|_| Answers::default()).collect(),
        }
    }

    /// From here on so many; those who are through stay.
    pub fn set(&self, limit: u32, line_max: u32) {
        self.line_max.store(line_max, SeqCst);
        if self.limit.swap(limit, SeqCst) < limit {
            self.let_in();
        }
    }

    /// Requests that may be under way.
    pub fn limit(&self) -> u32 {
        self.limit.load(SeqCst)
    }

    /// Requests in line.
    pub fn waiting(&self) -> u32 {
        self.waiting.load(SeqCst)
    }

    /// Through at once, or not at all.
    pub fn try_enter(self: &Arc<Self>) -> Option<Pass> {
        (self.waiting() == 0 && self.take_place()).then(|| self.pass())
    }

    fn pass(self: &Arc<Self>) -> Pass {
        Pass { gate: Arc::clone(self), began: None, waited_ms: 0 }
    }

    /// Waits for a place in the line, unless that is full. What it returns leaves the line when
    /// it is dropped.
    pub fn enter(self: &Arc<Self>) -> Enter {
        Enter { gate: Arc::clone(self), waiter: None }
    }

    /// What came since the last look.
    pub fn look(&self, read: &mut (u64, u64)) -> Seen {
        let sum = |of: fn(&Answers) -> &Counter| self.workers.iter().map(|one| of(one).get()).sum();
        let now = (sum(|one| &one.count), sum(|one| &one.micros));
        let before = std::mem::replace(read, now);
        Seen {
            answers: now.0 - before.0,
            took: Duration::from_micros(now.1 - before.1),
            most: self.most.swap(self.under_way.load(SeqCst), SeqCst),
        }
    }

    fn take_place(&self) -> bool {
        let limit = self.limit();
        let taken = self.under_way.fetch_update(SeqCst, SeqCst, |n| (n < limit).then_some(n + 1));
        if let Ok(before) = taken {
            self.most.fetch_max(before + 1, SeqCst);
        }
        taken.is_ok()
    }

    fn give_back(&self) {
        self.under_way.fetch_sub(1, SeqCst);
        if self.waiting() > 0 {
            self.let_in();
        }
    }

    /// Lets those in for whom there are places.
    fn let_in(&self) {
        let mut line = self.line();
        while !line.is_empty() && self.take_place() {
            if let Some(first) = line.pop_front() {
                self.waiting.fetch_sub(1, SeqCst);
                first.let_in.store(true, SeqCst);
                first.waker.lock().unwrap_or_else(PoisonError::into_inner).wake_by_ref();
            }
        }
    }

    fn line(&self) -> MutexGuard<'_, VecDeque<Arc<Waiter>>> {
        // A line is whole even if a thread panicked beside it.
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits to be let in.
#[derive(Debug)]
pub struct Enter {
    gate: Arc<Gate>,
    waiter: Option<Arc<Waiter>>,
}

impl Future for Enter {
    type Output = Result<Pass, Full>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if self.waiter.is_none() {
            match Waiter::line_up(&self.gate, cx) {
                Ok(None) => return Poll::Ready(Ok(self.gate.pass())),
                Ok(waiter) => self.waiter = waiter,
                Err(full) => return Poll::Ready(Err(full)),
            }
            // Whoever left in between did not see us.
            self.gate.let_in();
        }
        if self.waiter.as_ref().is_some_and(|waiter| !waiter.is_in(cx)) {
            return Poll::Pending;
        }
        self.waiter = None;
        Poll::Ready(Ok(self.gate.pass()))
    }
}

impl Waiter {
    /// `None` when there is a place, which is taken.
    fn line_up(gate: &Gate, cx: &Context<'_>) -> Result<Option<Arc<Self>>, Full> {
        if gate.waiting() == 0 && gate.take_place() {
            return Ok(None);
        }
        let mut line = gate.line();
        if line.len() >= gate.line_max.load(SeqCst) as usize {
            return Err(Full);
        }
        let waker = Mutex::new(cx.waker().clone());
        let waiter = Arc::new(Self { let_in: AtomicBool::new(false), waker });
        line.push_back(Arc::clone(&waiter));
        gate.waiting.fetch_add(1, SeqCst);
        Ok(Some(waiter))
    }

    /// Whether a place was taken for it; if not, `cx` is woken when one is.
    fn is_in(&self, cx: &Context<'_>) -> bool {
        // Before the flag is read: whoever sets it wakes what is here then.
        self.waker.lock().unwrap_or_else(PoisonError::into_inner).clone_from(cx.waker());
        self.let_in.load(SeqCst)
    }
}

impl Drop for Enter {
    /// Whoever gives up leaves the line, or the place that was just taken for it.
    fn drop(&mut self) {
        let Some(waiter) = self.waiter.take() else { return };
        let mut line = self.gate.line();
        let found = line.iter().position(|one| Arc::ptr_eq(one, &waiter));
        if let Some(index) = found {
            line.remove(index);
            self.gate.waiting.fetch_sub(1, SeqCst);
        }
        drop(line);
        if found.is_none() {
            self.gate.give_back();
        }
    }
}

impl Pass {
    /// The request goes out `now`: from here on it is measured.
    #[must_use]
    pub fn begin(mut self, now: Tick) -> Self {
        self.began = Some(now);
        self
    }

    /// It was so long in line before.
    #[must_use]
    pub fn after(mut self, waited: Duration) -> Self {
        self.waited_ms = u32::try_from(waited.as_millis()).unwrap_or(u32::MAX);
        self
    }

    /// How long it was in line, in whole milliseconds.
    pub fn waited(&self) -> Duration {
        Duration::from_millis(self.waited_ms.into())
    }

    /// The head of the answer came `now`; from the thread of `worker` only.
    pub fn answered(&self, worker: usize, now: Tick) {
        let Some(began) = self.began else { return };
        let answers = &self.gate.workers[worker];
        answers.count.add(1);
        answers.micros.add(now.since(began).as_micros() as u64);
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.gate.give_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn poll(enter: &mut Enter) -> Poll<Result<Pass, Full>> {
        Pin::new(enter).poll(&mut Context::from_waker(Waker::noop()))
    }

    fn passed(enter: &mut Enter) -> Pass {
        match poll(enter) {
            Poll::Ready(Ok(pass)) => pass,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn so_many_are_through_and_so_many_wait_in_order() {
        let gate = Arc::new(Gate::new(1, 2, 1));
        let pass = gate.try_enter().unwrap();
        assert!(gate.try_enter().is_none());
        let (mut first, mut second) = (gate.enter(), gate.enter());
        assert!(poll(&mut first).is_pending() && poll(&mut second).is_pending());
        assert!(matches!(poll(&mut gate.enter()), Poll::Ready(Err(Full))));
        drop(pass);
        // Nobody comes before those who wait.
        assert!(gate.try_enter().is_none());
        assert!(poll(&mut second).is_pending());
        drop(passed(&mut first));
        drop(passed(&mut second));
        assert_eq!((gate.under_way.load(SeqCst), gate.waiting()), (0, 0));
    }

    #[test]
    fn whoever_gives_up_leaves_no_gap() {
        let gate = Arc::new(Gate::new(1, 9, 1));
        let pass = gate.try_enter().unwrap();
        let (mut gone, mut late, mut last) = (gate.enter(), gate.enter(), gate.enter());
        for one in [&mut gone, &mut late, &mut last] {
            assert!(poll(one).is_pending());
        }
        drop(gone);
        drop(pass);
        // Let in, and gone before it noticed.
        drop(late);
        drop(passed(&mut last));
        assert!(gate.try_enter().is_some());
    }

    #[test]
    fn a_higher_limit_lets_in_who_waits() {
        let gate = Arc::new(Gate::new(0, 9, 1));
        let mut one = gate.enter();
        assert!(poll(&mut one).is_pending());
        gate.set(1, 9);
        let pass = passed(&mut one).begin(Tick::ZERO);
        pass.answered(0, Tick::new(Duration::from_millis(3)));
        let seen = Seen { answers: 1, took: Duration::from_millis(3), most: 1 };
        assert_eq!(gate.look(&mut (0, 0)), seen);
    }

    #[test]
    fn no_place_is_lost_or_made_by_many_threads() {
        let gate = Arc::new(Gate::new(3, 1000, 4));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                    runtime.block_on(async {
                        for turn in 0..2000 {
                            let mut enter = gate.enter();
                            if turn % 7 == 0 {
                                // Some give up at once.
                                drop(poll(&mut enter));
                                continue;
                            }
                            let pass = enter.await.unwrap();
                            assert!(gate.under_way.load(SeqCst) <= 3);
                            tokio::task::yield_now().await;
                            drop(pass);
                        }
                    });
                });
            }
        });
        assert_eq!((gate.under_way.load(SeqCst), gate.waiting()), (0, 0));
    }
}
