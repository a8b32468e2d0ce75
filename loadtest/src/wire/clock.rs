//! The system's monotonic clock as nanoseconds, and a timer that epoll can wait for.
//!
//! Equal in all processes, so that a stamp of one can be read by another.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_settime,
};

const NANOS: u64 = 1_000_000_000;

/// Nanoseconds since the machine started.
pub fn now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * NANOS + now.tv_nsec as u64
}

/// Wakes an epoll at a given time, without the slack that a sleep has.
pub struct Timer(OwnedFd);

impl Timer {
    /// Not armed yet.
    pub fn new(registry: &Registry, token: Token) -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        registry.register(&mut SourceFd(&timer.as_raw_fd()), token, Interest::READABLE)?;
        Ok(Self(timer))
    }

    /// Wakes once, at `at` or at once if that has passed.
    pub fn wake_at(&self, at: u64) -> io::Result<()> {
        let at = at.max(1); // Zero would disarm it.
        let value =
            Timespec { tv_sec: (at / NANOS).cast_signed(), tv_nsec: (at % NANOS).cast_signed() };
        let once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let when = Itimerspec { it_interval: once, it_value: value };
        timerfd_settime(&self.0, TimerfdTimerFlags::ABSTIME, &when)?;
        Ok(())
    }
}
