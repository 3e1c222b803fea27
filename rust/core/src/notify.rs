//! Change as a readable descriptor: level-triggered, for `select`, epoll and event loops.
//!
//! The descriptor is an epoll set of two others. The first is an inotify descriptor on the bell's file: a writer that
//! finds the bell armed writes one byte to it, which wakes the loop in one hop. The second is an eventfd of a helper
//! thread that looks every 25 ms for what rings no bell (changes of state, a replaced ring), which also keeps the
//! kernel's answers about claims recent for everybody else in the process. Where inotify cannot be
//! had (its instances are few), or the bell cannot be armed, the thread does all the waiting and wakes cost two hops.

use crate::bell::BY_FILE;
use crate::error::Error;
use crate::reader::Reader;
use crate::ring::{Ask, Ring};
use crate::watch::{Cursor, changes, pause, take_changes};
use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::inotify;
use std::mem::MaybeUninit;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

/// The thread looks this often; twice within the life of a claim's answer.
const KEEP_WARM: Duration = Duration::from_millis(25);

/// What the thread and [`Watch::poll`] share.
#[derive(Debug, Default)]
struct Progress {
    cursor: Cursor,
    /// The eventfd is set and nobody has polled since.
    signalled: bool,
    /// A writer's ring reaches the loop by itself; the thread need not wait for it.
    direct: bool,
}

#[derive(Debug, Default)]
struct Shared {
    progress: Mutex<Progress>,
    polled: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A descriptor that is readable while a change waits for [`Watch::poll`].
#[derive(Debug)]
pub struct Watch {
    set: OwnedFd,
    ready: Arc<OwnedFd>,
    bells: Option<OwnedFd>,
    shared: Arc<Shared>,
    max_age_ns: u64,
}

impl Watch {
    /// Makes the descriptor and starts its thread, which ends when the watch is dropped or the reader closed.
    pub fn start(reader: &Arc<Reader>, cursor: Cursor, max_age_ns: u64) -> Result<Self, Error> {
        let what = |error| Error::io("making a descriptor to wait on", error);
        let set = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(what)?;
        let ready = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(what)?);
        // Instances of inotify are limited per user; the thread serves without.
        let bells = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK).ok();
        for fd in [Some(ready.as_fd()), bells.as_ref().map(AsFd::as_fd)].into_iter().flatten() {
            epoll::add(&set, fd, epoll::EventData::new_u64(0), epoll::EventFlags::IN).map_err(what)?;
        }
        let shared = Arc::new(Shared { progress: Mutex::new(Progress { cursor, ..Progress::default() }), ..Shared::default() });
        let watch = Self { set, ready, bells, shared, max_age_ns };
        watch.arm(reader, &mut watch.shared.lock())?;
        let (reader, shared, ready) = (Arc::downgrade(reader), Arc::downgrade(&watch.shared), Arc::clone(&watch.ready));
        thread::Builder::new()
            .name("snapring-watch".into())
            .spawn(move || while turn(&reader, &shared, &ready, max_age_ns).is_some() {})
            .map_err(|error| Error::io("starting the watch thread", error))?;
        Ok(watch)
    }

    /// The changed ranks since the last poll; the descriptor is not readable after it until the next change.
    pub fn poll(&self, reader: &Reader) -> Result<Vec<u32>, Error> {
        let mut progress = self.shared.lock();
        // Drained before the look: a change in between is seen by the look, or makes the descriptor readable again.
        let _ = rustix::io::read(&*self.ready, &mut [0; 8]);
        if let Some(bells) = &self.bells {
            let mut events = [MaybeUninit::<u8>::uninit(); 1024];
            while rustix::io::read(bells, &mut events).is_ok() {}
        }
        progress.signalled = false;
        let changed = take_changes(reader, &mut progress.cursor, self.max_age_ns)?;
        self.arm(reader, &mut progress)?;
        self.shared.polled.notify_all();
        Ok(changed)
    }

    /// Arms the bell for the next change, and signals one that came before the bell was armed.
    fn arm(&self, reader: &Reader, progress: &mut Progress) -> Result<(), Error> {
        let attached = reader.ring()?;
        let armed = attached.as_ref().and_then(|ring| Some((ring, self.arm_ring(reader, ring)?)));
        progress.direct = matches!(armed, Some((_, true)));
        if armed.is_some_and(|(ring, _)| progress.cursor.versions_moved(ring)) {
            signal(&self.ready, progress);
        }
        Ok(())
    }

    /// Arms the ring's bell; `None` when this descriptor cannot hear it, false when writers may be late to see it armed.
    fn arm_ring(&self, reader: &Reader, ring: &Ring) -> Option<bool> {
        let (bells, bell) = (self.bells.as_ref()?, reader.bell(ring)?);
        // Adding a watch that exists already changes nothing, and costs less than a wake.
        let path = format!("/proc/self/fd/{}", bell.as_fd().as_raw_fd());
        inotify::add_watch(bells, path, inotify::WatchFlags::MODIFY).ok()?;
        Some(bell.arm(BY_FILE).1)
    }

    /// What the last poll saw.
    pub fn cursor(&self) -> Cursor {
        self.shared.lock().cursor.clone()
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.set.as_fd()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.polled.notify_all();
    }
}

fn signal(ready: &OwnedFd, progress: &mut Progress) {
    progress.signalled = true;
    // A full counter is a set one.
    let _ = rustix::io::write(ready, &1u64.to_ne_bytes());
}

/// One turn of the thread; `None` ends it.
fn turn(reader: &Weak<Reader>, shared: &Weak<Shared>, ready: &OwnedFd, max_age_ns: u64) -> Option<()> {
    let (reader, shared) = (reader.upgrade()?, shared.upgrade()?);
    let cursor = shared.lock().cursor.clone();
    let news = match changes(&reader, &cursor, max_age_ns, Ask::Ahead) {
        Ok(changed) => !changed.is_empty(),
        Err(_) => true, // an error is news too: `poll` raises it
    };
    let mut progress = shared.lock();
    if news && !progress.signalled {
        signal(ready, &mut progress);
    }
    if reader.is_closed() {
        return None; // whoever waits learns it from `poll`
    }
    if progress.signalled || progress.direct {
        drop(shared.polled.wait_timeout(progress, KEEP_WARM));
    } else {
        drop(progress);
        if pause(&reader, &cursor, KEEP_WARM).is_err() {
            thread::sleep(KEEP_WARM);
        }
    }
    Some(())
}
