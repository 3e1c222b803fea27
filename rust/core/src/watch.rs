//! Waiting for change: a cursor over all ranks, a blocking wait, and a thread that turns change into a readable
//! descriptor.

use crate::bell::BY_FUTEX;
use crate::error::Error;
use crate::layout::cell;
use crate::reader::{Reader, Reading, State};
use crate::ring::Ring;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

/// A waiter looks again this often: changes of state ring no bell, and a lost ring must not matter.
pub const RECHECK: Duration = Duration::from_millis(100);
/// The same where there is no bell.
pub const POLL: Duration = Duration::from_millis(10);

/// What was last seen of one rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    version: u64,
    state: State,
}

/// What was last seen of all ranks of one generation.
#[derive(Clone, Debug, Default)]
pub struct Cursor {
    nonce: [u64; 2],
    seen: Vec<Seen>,
}

impl Cursor {
    fn fits(&self, ring: &Ring) -> bool {
        self.nonce == ring.header.nonce && self.seen.len() == ring.ranks() as usize
    }

    fn version(&self, ring: &Ring, rank: usize) -> Seen {
        if self.fits(ring) { self.seen[rank] } else { Seen { version: 0, state: State::Never } }
    }

    /// True when a version moved; loads only.
    fn versions_moved(&self, ring: &Ring) -> bool {
        (0..ring.ranks()).any(|rank| ring.slot(rank).head() != self.version(ring, rank as usize).version)
    }
}

fn look(ring: &Ring, rank: u32, max_age_ns: u64) -> Result<Seen, Error> {
    let mut row = [0; cell::PAYLOAD]; // the stamp is enough
    match ring.read(rank, &mut row) {
        Ok(true) => {}
        Ok(false) => return Ok(Seen { version: 0, state: State::Never }),
        // Being written all the time is a sign of life; the version tells the change.
        Err(Error::Contended { .. }) => return Ok(Seen { version: ring.slot(rank).head(), state: State::Live }),
        Err(error) => return Err(error),
    }
    let state = ring.state(rank, Reading::of(&row).as_ref(), max_age_ns, false)?;
    Ok(Seen { version: row[cell::VERSION], state })
}

/// Ranks whose version or state differs from `cursor`'s; moves the cursor when `consume`.
pub fn changes(reader: &Reader, cursor: &mut Cursor, max_age_ns: u64, consume: bool) -> Result<Vec<u32>, Error> {
    let attached = reader.ring()?;
    let Some(ring) = &*attached else {
        let gone = (0..cursor.seen.len() as u32).filter(|&rank| cursor.seen[rank as usize].state != State::Never).collect();
        if consume {
            *cursor = Cursor::default();
        }
        return Ok(gone);
    };
    let mut next = Vec::with_capacity(ring.ranks() as usize);
    let mut changed = Vec::new();
    for rank in 0..ring.ranks() {
        let seen = look(ring, rank, max_age_ns)?;
        if seen != cursor.version(ring, rank as usize) {
            changed.push(rank);
        }
        next.push(seen);
    }
    // Ranks that the generation before had and this one has not.
    let ranks = ring.ranks();
    changed.extend((ranks..cursor.seen.len() as u32).filter(|&rank| cursor.seen[rank as usize].state != State::Never));
    if consume {
        *cursor = Cursor { nonce: ring.header.nonce, seen: next };
    }
    Ok(changed)
}

/// Sleeps until something may have changed against `cursor`, at most `timeout` and at most [`RECHECK`].
pub fn pause(reader: &Reader, cursor: &Cursor, timeout: Duration) -> Result<(), Error> {
    let attached = reader.ring()?;
    let bell = match &*attached {
        Some(ring) => {
            let bell = ring.bell(|| reader.directory().ok().flatten(), &reader.options().name);
            bell.map(|bell| (ring, bell))
        }
        None => None,
    };
    let Some((ring, bell)) = bell else {
        thread::sleep(timeout.min(POLL));
        return Ok(());
    };
    let (noted, heard) = bell.arm(BY_FUTEX);
    // The look after arming: whoever published before the bell was armed is seen here, whoever does after rings.
    if cursor.versions_moved(ring) {
        return Ok(());
    }
    bell.sleep(noted, timeout.min(if heard { RECHECK } else { POLL }));
    Ok(())
}

/// Waits until `reader` differs from `cursor`, in slices of at most [`RECHECK`]; false at the deadline, or when `stop`
/// says so after a slice.
pub fn wait(
    reader: &Reader,
    cursor: &Cursor,
    max_age_ns: u64,
    deadline: Option<Instant>,
    mut stop: impl FnMut() -> bool,
) -> Result<bool, Error> {
    loop {
        if !changes(reader, &mut cursor.clone(), max_age_ns, false)?.is_empty() {
            return Ok(true);
        }
        let left = deadline.map_or(RECHECK, |deadline| deadline.saturating_duration_since(Instant::now()));
        if left.is_zero() || stop() {
            return Ok(false);
        }
        pause(reader, cursor, left)?;
    }
}

#[derive(Debug, Default)]
struct Shared {
    cursor: Mutex<(Cursor, bool)>,
    consumed: Condvar,
}

/// A level-triggered descriptor that is readable while a change waits for [`Watch::poll`].
#[derive(Debug)]
pub struct Watch {
    ready: Arc<OwnedFd>,
    shared: Arc<Shared>,
    max_age_ns: u64,
}

impl Watch {
    /// Starts the thread behind the descriptor; it ends when the watch is dropped or the reader closed.
    pub fn start(reader: &Arc<Reader>, cursor: Cursor, max_age_ns: u64) -> Result<Self, Error> {
        let ready = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(|error| Error::io("making an eventfd", error))?;
        let ready = Arc::new(ready);
        let shared = Arc::new(Shared { cursor: Mutex::new((cursor, false)), consumed: Condvar::new() });
        let (weak_reader, weak_shared, signal) = (Arc::downgrade(reader), Arc::downgrade(&shared), Arc::clone(&ready));
        thread::Builder::new()
            .name("snapring-watch".into())
            .spawn(move || {
                while let Some(true) = turn(&weak_reader, &weak_shared, &signal, max_age_ns) {}
            })
            .map_err(|error| Error::io("starting the watch thread", error))?;
        Ok(Self { ready, shared, max_age_ns })
    }

    /// The changed ranks since the last poll; the descriptor is not readable after it until the next change.
    pub fn poll(&self, reader: &Reader) -> Result<Vec<u32>, Error> {
        let mut guard = self.shared.cursor.lock().unwrap_or_else(PoisonError::into_inner);
        // Drained before the look: a change in between is seen by the look or by the thread's next one.
        let _ = rustix::io::read(&*self.ready, &mut [0; 8]);
        let changed = changes(reader, &mut guard.0, self.max_age_ns, true)?;
        guard.1 = false;
        self.shared.consumed.notify_all();
        Ok(changed)
    }

    /// What the last poll saw.
    pub fn cursor(&self) -> Cursor {
        self.shared.cursor.lock().unwrap_or_else(PoisonError::into_inner).0.clone()
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ready.as_fd()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.consumed.notify_all();
    }
}

/// One turn of the thread: `None` or `Some(false)` ends it.
fn turn(reader: &Weak<Reader>, shared: &Weak<Shared>, ready: &OwnedFd, max_age_ns: u64) -> Option<bool> {
    let (reader, shared) = (reader.upgrade()?, shared.upgrade()?);
    if reader.is_closed() {
        let _ = rustix::io::write(ready, &1u64.to_ne_bytes()); // whoever waits learns it from `poll`
        return Some(false);
    }
    let guard = shared.cursor.lock().unwrap_or_else(PoisonError::into_inner);
    if guard.1 {
        // A change is signalled already; nothing to do until somebody polls.
        drop(shared.consumed.wait_timeout(guard, RECHECK));
        return Some(true);
    }
    let mut cursor = guard.0.clone();
    drop(guard);
    match changes(&reader, &mut cursor, max_age_ns, false) {
        Ok(changed) if changed.is_empty() => {
            if pause(&reader, &cursor, RECHECK).is_err() {
                thread::sleep(RECHECK);
            }
        }
        // An error is news too: `poll` will raise it.
        _ => {
            let mut guard = shared.cursor.lock().unwrap_or_else(PoisonError::into_inner);
            guard.1 = true;
            let _ = rustix::io::write(ready, &1u64.to_ne_bytes());
        }
    }
    Some(true)
}

/// Seconds to ns, saturating; NaN and negatives are refused by the caller.
pub fn seconds_to_ns(seconds: f64) -> u64 {
    (seconds * 1e9) as u64
}

