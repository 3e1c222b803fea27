//! The writer of one rank.

use crate::claimed::{Claimed, claim_rank};
use crate::clock::{Clocks, Now};
use crate::dir::check_name;
use crate::error::Error;
use crate::fork::Token;
use crate::header::Header;
use crate::layout::MAX_JOB;
use crate::options::WriterOptions;
use crate::settle::Origins;
use crate::slot::{Origin, Stamp};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Outcome of a publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    /// Visible as this version.
    Version(u64),
    /// The ring was replaced; nothing was written. Call [`Writer::reattach`], pack by the new header, publish again.
    Moved,
}

/// Publishes the snapshots of one rank; at most one living writer per rank, in any process.
///
/// Threads may share it: each publish is whole. A child of a fork may not: its calls give [`Error::Forked`].
#[derive(Debug)]
pub struct Writer {
    options: WriterOptions,
    token: Token,
    claimed: Mutex<Option<Claimed>>,
    clocks: Clocks,
}

impl Writer {
    /// Claims the rank, making the ring where there is none.
    pub fn open(options: WriterOptions) -> Result<Self, Error> {
        check_name(&options.name)?;
        let options = WriterOptions { dir: options.dir.resolved(), ..options };
        if options.rank >= options.ranks {
            return Err(Error::RankOutOfRange { rank: i64::from(options.rank), ranks: options.ranks });
        }
        if options.job.len() > MAX_JOB {
            return Err(Error::Invalid(format!("job is {} bytes long; at most {MAX_JOB} fit the header", options.job.len())));
        }
        let token = Token::current()?;
        let claimed = claim_rank(&options, &Origins::default())?;
        Ok(Self { options, token, claimed: Mutex::new(Some(claimed)), clocks: Clocks::default() })
    }

    /// What this writer was opened with.
    pub fn options(&self) -> &WriterOptions {
        &self.options
    }

    fn lock(&self) -> Result<MutexGuard<'_, Option<Claimed>>, Error> {
        if !self.token.is_here() {
            return Err(Error::Forked("writer"));
        }
        Ok(self.claimed.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Header of the ring that the writer is attached to: what to pack by.
    pub fn header(&self) -> Result<Arc<Header>, Error> {
        self.lock()?.as_ref().map(|claimed| Arc::clone(&claimed.ring.header)).ok_or(Error::Closed("writer"))
    }

    /// Epoch of this incarnation and the last version, published or inherited.
    pub fn position(&self) -> Result<(u64, u64), Error> {
        self.lock()?.as_ref().map(|claimed| (claimed.epoch, claimed.version)).ok_or(Error::Closed("writer"))
    }

    /// Publishes `len` bytes of `payload`, packed by the ring whose nonce is `packed_for`.
    ///
    /// No system call, but one `stat` a second and a wake when somebody waits.
    pub fn publish(&self, packed_for: [u64; 2], payload: &[u64], len: usize) -> Result<Published, Error> {
        self.publish_at(packed_for, payload, len, self.now())
    }

    /// This moment, for the price of one clock.
    #[inline]
    pub fn now(&self) -> Now {
        self.clocks.now()
    }

    /// [`Self::publish`] as of a moment that the payload may hold already.
    #[inline]
    pub fn publish_at(&self, packed_for: [u64; 2], payload: &[u64], len: usize, now: Now) -> Result<Published, Error> {
        let mut guard = self.lock()?;
        let claimed = guard.as_mut().ok_or(Error::Closed("writer"))?;
        if claimed.ring.header.nonce != packed_for {
            return Ok(Published::Moved);
        }
        claimed.ring.header.geometry.check_payload(claimed.record_bytes, payload, len)?;
        let Now { mono_ns, wall_ns } = now;
        if claimed.has_moved(&self.options, mono_ns) {
            return Ok(Published::Moved);
        }
        let version = claimed.version + 1;
        let origin = Origin { start: claimed.epoch, random: 0, version };
        let stamp = Stamp { version, epoch: claimed.epoch, origin, mono_ns, wall_ns, len: len as u64 };
        let slot = claimed.slot();
        slot.own_clock(claimed.ring.time_namespace);
        slot.publish(&stamp, payload);
        claimed.version = version;
        if let Some(bell) = &claimed.ring.bell {
            bell.ring();
        }
        Ok(Published::Version(version))
    }

    /// Attaches and claims again after [`Published::Moved`]; versions go on from where they were.
    pub fn reattach(&self) -> Result<(), Error> {
        let mut guard = self.lock()?;
        let claimed = guard.as_mut().ok_or(Error::Closed("writer"))?;
        if !claimed.is_retired() && claimed.ring.is_current(&self.options) {
            return Ok(()); // another thread was faster
        }
        *claimed = claim_rank(&self.options, &claimed.origins()?)?;
        Ok(())
    }

    /// Stores a sign of life that is no publish: [`crate::ring::Ring::last_sign_ns`] moves, no age does.
    pub fn beat(&self) -> Result<(), Error> {
        let guard = self.lock()?;
        let claimed = guard.as_ref().ok_or(Error::Closed("writer"))?;
        claimed.beat();
        Ok(())
    }

    /// Frees the claim; the last writer to close removes the ring, unless `keep`. Closing twice is fine.
    pub fn close(&self) -> Result<(), Error> {
        let claimed = self.lock()?.take();
        claimed.map_or(Ok(()), |claimed| claimed.leave(&self.options))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // In a child of a fork this is an error by design, and elsewhere a file that stays is what `gc` is for.
        let _ = self.close();
    }
}
