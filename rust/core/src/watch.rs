//! Waiting for change: a cursor over all ranks, and a blocking wait.

use crate::bell::BY_FUTEX;
use crate::error::Error;
use crate::layout::cell;
use crate::reader::{Reader, Reading, State};
use crate::ring::{Ask, Ring};
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
    pub(crate) fn versions_moved(&self, ring: &Ring) -> bool {
        (0..ring.ranks()).any(|rank| ring.slot(rank).head() != self.version(ring, rank as usize).version)
    }
}

fn look(ring: &Ring, rank: u32, max_age_ns: u64, ask: Ask) -> Result<Seen, Error> {
    let mut row = [0; cell::PAYLOAD]; // the stamp is enough
    match ring.read(rank, &mut row) {
        Ok(true) => {}
        Ok(false) => return Ok(Seen { version: 0, state: State::Never }),
        // Written all the time, or never again: the claim tells which, the version tells the change.
        Err(Error::Contended { .. }) => {
            let state = if ring.is_claimed(rank, ask)? { State::Live } else { State::Dead };
            return Ok(Seen { version: ring.slot(rank).head(), state });
        }
        Err(error) => return Err(error),
    }
    let state = ring.state(rank, Reading::of(&row).as_ref(), max_age_ns, ask)?;
    Ok(Seen { version: row[cell::VERSION], state })
}

/// Ranks whose version or state differs from `cursor`'s.
pub fn changes(reader: &Reader, cursor: &Cursor, max_age_ns: u64, ask: Ask) -> Result<Vec<u32>, Error> {
    Ok(look_at_all(reader, cursor, max_age_ns, ask)?.1)
}

/// The same, and moves the cursor.
pub fn take_changes(reader: &Reader, cursor: &mut Cursor, max_age_ns: u64) -> Result<Vec<u32>, Error> {
    let (next, changed) = look_at_all(reader, cursor, max_age_ns, Ask::Recent)?;
    *cursor = next;
    Ok(changed)
}

fn look_at_all(reader: &Reader, cursor: &Cursor, max_age_ns: u64, ask: Ask) -> Result<(Cursor, Vec<u32>), Error> {
    let attached = reader.ring()?;
    let mut next = Cursor::default();
    let mut changed = Vec::new();
    if let Some(ring) = &*attached {
        next.nonce = ring.header.nonce;
        next.seen.reserve(ring.ranks() as usize);
        for rank in 0..ring.ranks() {
            let seen = look(ring, rank, max_age_ns, ask)?;
            // Of another generation any rank that was or is there has changed.
            let was_there = || cursor.seen.get(rank as usize).is_some_and(|was| was.state != State::Never);
            let fits = cursor.fits(ring);
            if seen != cursor.version(ring, rank as usize) || !fits && was_there() {
                changed.push(rank);
            }
            next.seen.push(seen);
        }
    }
    // Ranks that went with their generation.
    let gone = (next.seen.len()..cursor.seen.len()).filter(|&rank| cursor.seen[rank].state != State::Never);
    changed.extend(gone.map(|rank| rank as u32));
    Ok((next, changed))
}

/// Sleeps until something may have changed against `cursor`, at most `timeout` and at most [`RECHECK`].
pub fn pause(reader: &Reader, cursor: &Cursor, timeout: Duration) -> Result<(), Error> {
    let attached = reader.ring()?;
    let bell = match &*attached {
        Some(ring) => {
            let bell = reader.bell(ring);
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

/// Waits until `reader` differs from `cursor`; false at the deadline.
pub fn wait(reader: &Reader, cursor: &Cursor, max_age_ns: u64, deadline: Instant) -> Result<bool, Error> {
    loop {
        if !changes(reader, cursor, max_age_ns, Ask::Recent)?.is_empty() {
            return Ok(true);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        pause(reader, cursor, left)?;
    }
}

/// Seconds to ns, saturating; NaN and negatives give 0, so a caller to whom that matters refuses them.
pub fn seconds_to_ns(seconds: f64) -> u64 {
    (seconds * 1e9) as u64
}

