//! When a relay is next due, as a descriptor.

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use snapring_core::Error;
use std::sync::{Mutex, PoisonError};

const NEVER: u64 = u64::MAX;

/// A descriptor that is readable from a moment on.
pub struct Timer {
    fd: OwnedFd,
    /// When, on the monotonic clock; [`NEVER`] until it is set, and once that was heard. Known here, so that turns which
    /// change nothing make no system call. Held while the descriptor is set, so that both say the same.
    at_ns: Mutex<u64>,
}

impl Timer {
    pub(crate) fn new() -> Result<Self, Error> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags);
        let fd = timer.map_err(|error| Error::io("making a timer", error))?;
        Ok(Self { fd, at_ns: Mutex::new(NEVER) })
    }

    /// Readable from `at_ns` on the monotonic clock, or never for `None`; in the place of what was set before.
    pub fn set(&self, at_ns: Option<u64>) {
        let at_ns = at_ns.map_or(NEVER, |at_ns| at_ns.max(1)); // 0 would disarm it
        let mut known_ns = self.at_ns.lock().unwrap_or_else(PoisonError::into_inner);
        if *known_ns == at_ns {
            return;
        }
        *known_ns = at_ns;
        let at_ns = if at_ns == NEVER { 0 } else { at_ns };
        let it_value = Timespec { tv_sec: (at_ns / 1_000_000_000) as i64, tv_nsec: (at_ns % 1_000_000_000) as i64 };
        let it_interval = Timespec { tv_sec: 0, tv_nsec: 0 };
        // Only a bad descriptor or a bad time could make this fail.
        let _ = timerfd_settime(&self.fd, TimerfdTimerFlags::ABSTIME, &Itimerspec { it_interval, it_value });
    }

    /// Makes it unreadable if it is readable at `now_ns`.
    pub(crate) fn hear(&self, now_ns: u64) {
        let mut known_ns = self.at_ns.lock().unwrap_or_else(PoisonError::into_inner);
        if *known_ns <= now_ns {
            *known_ns = NEVER;
            let _ = rustix::io::read(&self.fd, &mut [0; 8]);
        }
    }
}

impl AsFd for Timer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
