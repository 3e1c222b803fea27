//! The thread that looks after the connections of feeds: answers the gate, notes descriptors, sends heartbeats.

use super::{Line, lock};
use crate::gate::{Admission, Gate};
use crate::zmq::Context;
use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use snapring_core::Error;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::thread::{Builder, JoinHandle, sleep};
use std::time::{Duration, Instant};

/// Pause after something failed, so that a lasting failure does not keep a core busy.
const RETRY: Duration = Duration::from_millis(100);
/// Questions that one turn answers at most.
const QUESTIONS: usize = 256;

/// Feeds that share a context, a gate and this thread. Dropping it ends the thread and waits for the ports to be free.
#[derive(Debug)]
pub(super) struct Keeper {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    context: Context,
    admission: Admission,
}

#[derive(Debug)]
struct Shared {
    lines: Mutex<Vec<Weak<Mutex<Line>>>>,
    stopped: AtomicBool,
    // Readable: look at everything again.
    bell: OwnedFd,
    // Of the bell, the gate's descriptor and one of each line, which belong to libzmq and leave the set before they close.
    set: OwnedFd,
}

impl Keeper {
    pub(super) fn start(admission: &Admission) -> Result<Self, Error> {
        let what = |error| Error::io("making a descriptor to wait on", error);
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(what)?;
        let set = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(what)?;
        watch(&set, bell.as_fd())?;
        let context = Context::new()?;
        let gate = match admission {
            Admission::Anyone => None,
            Admission::Curve { .. } => Some(Gate::open(&context, admission, None)?),
        };
        if let Some(gate) = &gate {
            watch(&set, gate.fd()?)?;
        }
        let shared = Arc::new(Shared { lines: Mutex::default(), stopped: AtomicBool::new(false), bell, set });
        let served = Arc::clone(&shared);
        let thread = Builder::new()
            .name("snapring-feed".into())
            .spawn(move || served.run(gate))
            .map_err(|error| Error::io("starting the feed's thread", error))?;
        Ok(Self { shared, thread: Some(thread), context, admission: admission.clone() })
    }

    pub(super) fn context(&self) -> &Context {
        &self.context
    }

    pub(super) fn admission(&self) -> &Admission {
        &self.admission
    }

    /// Looks after `line` from now on.
    pub(super) fn keep(&self, line: &Arc<Mutex<Line>>) -> Result<(), Error> {
        watch(&self.shared.set, lock(line).socket.events_fd()?)?;
        lock(&self.shared.lines).push(Arc::downgrade(line));
        self.wake()
    }

    /// Looks after `line` no more; to be called before it is dropped.
    pub(super) fn forget(&self, line: &Arc<Mutex<Line>>) {
        // Held all along: the thread keeps no line longer than this lock.
        let mut lines = lock(&self.shared.lines);
        lines.retain(|kept| !std::ptr::eq(kept.as_ptr(), Arc::as_ptr(line)));
        // A child of a fork may still have the descriptor open, so closing it would not take it out of the set.
        if let Ok(fd) = lock(line).socket.events_fd() {
            let _ = epoll::delete(&self.shared.set, fd);
        }
    }

    /// Has the thread look at everything now.
    pub(super) fn wake(&self) -> Result<(), Error> {
        rustix::io::write(&self.shared.bell, &1_u64.to_ne_bytes())
            .map(drop)
            .map_err(|error| Error::io("waking the feed's thread", error))
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Release);
        // An eventfd refuses only at its largest value, which is readable too.
        let _ = self.wake();
        if let Some(thread) = self.thread.take() {
            // It takes no lock of the caller's, so this wait is short.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn run(&self, mut gate: Option<Gate>) {
        let mut events = Vec::with_capacity(16);
        while !self.stopped.load(Ordering::Acquire) {
            let due = self.turn(gate.as_mut()).unwrap_or_else(|_| {
                // Nobody to tell; the next send meets the same cause and tells.
                sleep(RETRY);
                Some(Instant::now())
            });
            let pause = due.and_then(|due| Timespec::try_from(due.saturating_duration_since(Instant::now())).ok());
            events.clear();
            // An interrupted wait is a turn without work.
            let _ = epoll::wait(&self.set, rustix::buffer::spare_capacity(&mut events), pause.as_ref());
        }
        // Ends with the thread, and before the context, which waits for it.
        drop(gate);
    }

    /// Does what there is to do, without waiting; when the next heartbeat is due.
    fn turn(&self, gate: Option<&mut Gate>) -> Result<Option<Instant>, Error> {
        // Would block when nobody rang.
        let _ = rustix::io::read(&self.bell, &mut [0; 8]);
        if let Some(gate) = gate {
            for _ in 0..QUESTIONS {
                if gate.answer(false)?.is_none() {
                    break;
                }
            }
        }
        let mut next: Option<Instant> = None;
        for line in lock(&self.lines).iter().filter_map(Weak::upgrade) {
            let mut line = lock(&line);
            line.follow()?;
            let due = line.beat(Instant::now())?;
            next = next.into_iter().chain(due).min();
        }
        Ok(next)
    }
}

fn watch(set: &OwnedFd, fd: BorrowedFd<'_>) -> Result<(), Error> {
    let nothing = epoll::EventData::new_u64(0);
    epoll::add(set, fd, nothing, epoll::EventFlags::IN).map_err(|error| Error::io("filling an epoll set", error))
}
