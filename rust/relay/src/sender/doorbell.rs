//! How a publisher wakes the sending thread, and how that thread sleeps without missing a publish.
//!
//! The protocol is the ring's own ([`snapring_core::bell`], judged there by loom), with an eventfd in place of the
//! futex, because the thread waits for sockets too. A publisher stores its head, fences, and signals if the bell is
//! armed. The thread arms, fences, looks for work once more, and only then sleeps.
//!
//! 1. The publisher's fence comes first: the thread's look after its own fence sees the new head. It does not sleep.
//! 2. The thread's fence comes first: the publisher sees the bell armed and writes to the eventfd. If the thread sleeps
//!    already, that wakes it; if not yet, it will not, for the eventfd stays readable until the thread takes the signal.
//! 3. Two publishers see the bell armed: one of them disarms and signals, the other does nothing. Its head was stored
//!    before its swap, which came after the first one's and before the thread arms again; so the look that follows
//!    the next arming sees it.
//!
//! The thread takes a signal only as it wakes, and always looks for work before it sleeps again. While it does not sleep
//! the bell is not armed (or rings once for nothing), and a publish costs a fence and a load.

use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};
use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::io::Errno;
use snapring_core::Error;
use snapring_core::bell::{BY_FUTEX, Bell, full_fence};
use snapring_core::sync::{AtomicU32, AtomicU64};
use std::time::Duration;

const RUNG: u64 = 0;
const LINKS: u64 = 1;
const ROOM: u64 = 2;

/// Why the thread woke; nothing of it when time was up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Woken {
    /// Something may have happened to the connection.
    pub(super) links: bool,
}

/// The bell of one sending thread, and all else that may wake it.
#[derive(Debug)]
pub(super) struct Doorbell {
    armed: AtomicU64,
    count: AtomicU32,
    signal: OwnedFd,
    set: OwnedFd,
}

fn refused(error: Errno) -> Error {
    Error::io("waiting in the sending thread", error)
}

impl Doorbell {
    pub(super) fn new() -> Result<Self, Error> {
        let signal = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(refused)?;
        let set = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(refused)?;
        epoll::add(&set, &signal, epoll::EventData::new_u64(RUNG), epoll::EventFlags::IN).map_err(refused)?;
        Ok(Self { armed: AtomicU64::new(0), count: AtomicU32::new(0), signal, set })
    }

    /// Lets the thread wake when one of `links` is readable, and when `room` is once [`Self::await_room`] asked for it.
    pub(super) fn listen(&self, links: &[BorrowedFd<'_>], room: BorrowedFd<'_>) -> Result<(), Error> {
        for fd in links {
            epoll::add(&self.set, fd, epoll::EventData::new_u64(LINKS), epoll::EventFlags::IN).map_err(refused)?;
        }
        epoll::add(&self.set, room, epoll::EventData::new_u64(ROOM), epoll::EventFlags::empty()).map_err(refused)
    }

    /// Lets the next sleep, and no other, end when `room` is readable.
    pub(super) fn await_room(&self, room: BorrowedFd<'_>) -> Result<(), Error> {
        let once = epoll::EventFlags::IN | epoll::EventFlags::ONESHOT;
        epoll::modify(&self.set, room, epoll::EventData::new_u64(ROOM), once).map_err(refused)
    }

    fn bell(&self) -> Bell<'_> {
        Bell { armed: &self.armed, count: &self.count }
    }

    /// Wakes the thread if it is parked; for publishers, once their head is stored.
    #[inline]
    pub(super) fn ring(&self) {
        if self.bell().ring(full_fence) != 0 {
            self.signal();
        }
    }

    /// Wakes the thread whatever it waits for.
    #[cold]
    pub(super) fn signal(&self) {
        // The only refusal is of a full counter, which is a set one.
        let _ = rustix::io::write(&self.signal, &1u64.to_ne_bytes());
    }

    /// Sleeps until rung or signalled, or for `timeout`; not at all when there is `work`. For the thread.
    pub(super) fn park(&self, timeout: Option<Duration>, work: impl FnOnce() -> bool) -> Result<Woken, Error> {
        self.bell().arm(BY_FUTEX);
        self.sleep(if work() { Some(Duration::ZERO) } else { timeout })
    }

    /// Sleeps until signalled, or for `timeout`; publishers are not heard. For the thread.
    pub(super) fn sleep(&self, timeout: Option<Duration>) -> Result<Woken, Error> {
        let mut events = [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(RUNG) }; 3];
        let timeout = timeout
            .map(|timeout| Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: timeout.subsec_nanos().into() });
        let count = match epoll::wait(&self.set, &mut events, timeout.as_ref()) {
            Err(Errno::INTR) => 0, // the thread looks for work, and sleeps again
            count => count.map_err(refused)?,
        };
        let mut woken = Woken::default();
        for event in &events[..count] {
            match event.data.u64() {
                RUNG => drop(rustix::io::read(&self.signal, &mut [0; 8])),
                LINKS => woken.links = true,
                _ => {} // room: the next try finds it
            }
        }
        Ok(woken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use snapring_core::sync::Ordering;

    /// No publish is lost, however it meets the thread on its way to sleep: here the thread has no timeout that would
    /// save it, so a lost one would be waited for until the test is killed.
    #[test]
    fn every_ring_is_heard() {
        const ROUNDS: u64 = 200_000;
        let (bell, head, seen) = (Doorbell::new().unwrap(), AtomicU64::new(0), AtomicU64::new(0));

        std::thread::scope(|scope| {
            scope.spawn(|| {
                while seen.load(Ordering::Relaxed) < ROUNDS {
                    bell.park(None, || head.load(Ordering::Relaxed) != seen.load(Ordering::Relaxed)).unwrap();
                    seen.store(head.load(Ordering::Relaxed), Ordering::Relaxed);
                }
            });
            for round in 1..=ROUNDS {
                head.store(round, Ordering::Relaxed);
                bell.ring();
                // Long enough for the thread to be anywhere on its way: half of the rounds do not wait at all.
                while round % 2 == 0 && seen.load(Ordering::Relaxed) < round {
                    std::hint::spin_loop();
                }
            }
        });

        assert_eq!(seen.into_inner(), ROUNDS);
    }

    /// A signal that comes before the sleep ends it.
    #[test]
    fn a_signal_is_kept() {
        let bell = Doorbell::new().unwrap();

        bell.signal();

        assert_eq!(bell.park(None, || false).unwrap(), Woken::default());
    }
}
