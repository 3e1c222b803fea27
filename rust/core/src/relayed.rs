//! A ring as a relay holds it: one handle that fills the slots of any ranks, with stamps that came from elsewhere.
//!
//! Where a [`crate::Writer`] is one rank of this host, a relay speaks for ranks of others. It claims a rank when it has
//! something to say for it and gives it back when that rank is gone; in between, the slot says who fills it, so that
//! readers can tell a relay that died from a rank that did.

use crate::attachment::{Attachment, Taken, Taking, slot_in};
use crate::claim::{self, Range};
use crate::error::Error;
use crate::file::{Legacy, WHOLE};
use crate::fork::Token;
use crate::header::Header;
use crate::layout::{FILLER_RELAY, FILLER_RELAY_DEAD, cell, header as header_word, slot as word};
use crate::mapping::{Access, Mapping};
use crate::options::WriterOptions;
use crate::settle::{Origins, ROUNDS, settle};
use crate::slot::{Newest, Origin, Slot, Stamp};
use crate::sync::Ordering;
use std::sync::Arc;

/// Rounds of following a ring that another process is replacing: a relay tries again soon, and whoever drives it is not
/// to wait.
const FOLLOW_ROUNDS: u32 = 20;

/// The slots of one ring, filled by a relay. Not shared between threads; closed by [`Self::close`] or by drop.
#[derive(Debug)]
pub struct Relayed {
    options: WriterOptions,
    token: Token,
    attached: Option<Attached>,
}

#[derive(Debug)]
struct Attached {
    ring: Attachment,
    /// The whole file.
    map: Mapping,
    /// Of each rank; `None` where it is not held.
    held: Vec<Option<Held>>,
    /// A publish since the bell was last rung.
    silent: bool,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    version: u64,
    epoch: u64,
}

/// A value from elsewhere, and when it was made there.
#[derive(Clone, Copy, Debug)]
pub struct Value<'a> {
    /// The sender's incarnation and version.
    pub origin: Origin,
    /// Moment of the publish on this host's monotonic clock, ns.
    pub mono_ns: u64,
    /// The sender's wall clock at the publish, ns since 1970.
    pub wall_ns: u64,
    /// Words of the payload.
    pub payload: &'a [u64],
    /// Its bytes.
    pub len: usize,
}

impl Attached {
    fn open(options: &WriterOptions, origins: &Origins, rounds: u32) -> Result<Self, Error> {
        settle(options, origins, rounds, |directory, file| {
            let map = Mapping::new(&file.fd, 0, file.header.geometry.file_bytes, Access::Write)?;
            let mut ring = Attachment::new(directory, file)?;
            if map.words()[header_word::RETIRED].load(Ordering::Acquire) != 0 {
                return Ok(None);
            }
            ring.find_bell(options)?;
            let held = vec![None; ring.header.geometry.ranks as usize];
            Ok(Some(Self { ring, map, held, silent: false }))
        })
    }

    fn slot(&self, rank: u32) -> Slot<'_> {
        let geometry = &self.ring.header.geometry;
        slot_in(&self.map.words()[geometry.slot_pages(rank) / 8..], geometry, rank)
    }

    /// Copies the newest value of `rank` into `row`; false where there is none.
    fn newest(&self, rank: u32, row: &mut [u64]) -> bool {
        matches!(self.slot(rank).newest(row), Newest::Complete { .. })
    }

    fn hold(&mut self, options: &WriterOptions, rank: u32, own: Legacy) -> Result<bool, Error> {
        let taking = Taking { header_page: &self.map, own, filler: FILLER_RELAY };
        match self.ring.claim_slot(options, rank, &self.slot(rank), &taking) {
            Ok(Some(Taken { version, epoch })) => {
                self.held[rank as usize] = Some(Held { version, epoch });
                Ok(true)
            }
            Err(Error::WriterBusy { .. }) => Ok(false),
            Ok(None) => Err(Error::LayoutMismatch(format!("ring {:?} is being replaced or removed", options.name))),
            Err(error) => Err(error),
        }
    }

    fn holds(&self, rank: u32) -> bool {
        matches!(self.held.get(rank as usize), Some(Some(_)))
    }

    fn put(&mut self, rank: u32, value: &Value<'_>) -> Option<u64> {
        let held = self.held[rank as usize].as_mut()?;
        held.version += 1;
        let Held { version, epoch } = *held;
        let Value { origin, mono_ns, wall_ns, payload, len } = *value;
        let slot = self.slot(rank);
        slot.own_clock(self.ring.time_namespace);
        slot.publish(&Stamp { version, epoch, origin, mono_ns, wall_ns, len: len as u64 }, payload);
        self.silent = true;
        Some(version)
    }
}

impl Relayed {
    /// Finds the ring, or makes it; no rank is claimed yet. The rank in `options` is not used.
    pub fn open(options: WriterOptions) -> Result<Self, Error> {
        crate::dir::check_name(&options.name)?;
        let options = WriterOptions { dir: options.dir.resolved(), exact: true, ..options };
        let token = Token::current()?;
        let attached = Attached::open(&options, &Origins::default(), ROUNDS)?;
        Ok(Self { options, token, attached: Some(attached) })
    }

    /// Refuses what a ring that is there already has otherwise, without taking anything: for a relay that may have to go
    /// on with it later, when nobody is left to say so.
    pub fn check(options: &WriterOptions) -> Result<(), Error> {
        crate::dir::check_name(&options.name)?;
        crate::settle::check(&WriterOptions { exact: true, ..options.clone() })
    }

    fn attached(&mut self) -> Result<&mut Attached, Error> {
        if !self.token.is_here() {
            return Err(Error::Forked("relay"));
        }
        self.attached.as_mut().ok_or(Error::Closed("relay"))
    }

    /// Header of the ring.
    pub fn header(&mut self) -> Result<Arc<Header>, Error> {
        Ok(Arc::clone(&self.attached()?.ring.header))
    }

    /// Origin of the newest value of `rank`, `None` where there is none (or none can be had from a busy local writer).
    pub fn newest_origin(&mut self, rank: u32) -> Result<Option<Origin>, Error> {
        let mut row = [0; cell::PAYLOAD]; // the stamp is enough
        Ok(self.attached()?.newest(rank, &mut row).then(|| Stamp::of(&row).origin))
    }

    /// Claims `rank`; false when a local writer holds it.
    ///
    /// # Panics
    /// When the rank is not in the ring; so do the others that take one.
    pub fn hold(&mut self, rank: u32) -> Result<bool, Error> {
        let options = self.options.clone();
        self.attached()?.hold(&options, rank, Legacy::default())
    }

    /// True while this relay claims `rank`.
    #[inline]
    pub fn holds(&self, rank: u32) -> bool {
        self.attached.as_ref().is_some_and(|attached| attached.holds(rank))
    }

    /// True where a relay filled the slot of `rank`, never said that it is dead, and is not this one.
    pub fn is_orphan(&mut self, rank: u32) -> Result<bool, Error> {
        let attached = self.attached()?;
        let slot = attached.slot(rank);
        Ok(slot.head() != 0 && slot.load(word::FILLER) == FILLER_RELAY && !attached.holds(rank))
    }

    /// Says that another incarnation of the rank writes from now on.
    pub fn raise_epoch(&mut self, rank: u32) -> Result<(), Error> {
        let attached = self.attached()?;
        if let Some(held) = &mut attached.held[rank as usize] {
            held.epoch += 1;
            let epoch = held.epoch;
            attached.slot(rank).store(word::EPOCH, epoch);
        }
        Ok(())
    }

    /// Publishes a value as the next version of `rank`; `None` where the rank is not held. Readers that wait are woken
    /// by [`Self::ring_bell`].
    ///
    /// # Panics
    /// When the payload is larger than a cell.
    #[inline]
    pub fn put(&mut self, rank: u32, value: &Value<'_>) -> Result<Option<u64>, Error> {
        Ok(self.attached()?.put(rank, value))
    }

    /// Wakes the readers that wait, if anything was published since the last time: once for many ranks.
    pub fn ring_bell(&mut self) -> Result<(), Error> {
        let attached = self.attached()?;
        if std::mem::take(&mut attached.silent)
            && let Some(bell) = &attached.ring.bell
        {
            bell.ring();
        }
        Ok(())
    }

    /// Stores a sign of life of `rank`, seen at `mono_ns`; nothing where the rank is not held.
    pub fn beat(&mut self, rank: u32, mono_ns: u64) -> Result<(), Error> {
        let attached = self.attached()?;
        if attached.holds(rank) {
            attached.slot(rank).beat(attached.ring.time_namespace, mono_ns);
        }
        Ok(())
    }

    /// Gives `rank` back because it is gone: readers see it DEAD. Nothing where it is not held.
    pub fn release_dead(&mut self, rank: u32) -> Result<(), Error> {
        let attached = self.attached()?;
        if attached.held[rank as usize].take().is_some() {
            // In this order: without a claim and without the word, a reader would take the rank for STALE.
            attached.slot(rank).store(word::FILLER, FILLER_RELAY_DEAD);
            claim::release(attached.ring.claim.fd()?, Range::one(rank))?;
        }
        Ok(())
    }

    fn has_moved(&mut self, now_ns: u64) -> Result<bool, Error> {
        if !self.token.is_here() {
            return Err(Error::Forked("relay"));
        }
        let attached = self.attached.as_mut().ok_or(Error::Closed("relay"))?;
        let retired = attached.map.words()[header_word::RETIRED].load(Ordering::Relaxed) != 0;
        Ok(retired || attached.ring.has_moved(&self.options, now_ns))
    }

    /// Follows a ring that was replaced or removed, and takes along what it holds; looks at most once a second. True
    /// when it moved.
    pub fn follow(&mut self, now_ns: u64) -> Result<bool, Error> {
        if !self.has_moved(now_ns)? {
            return Ok(false);
        }
        let options = self.options.clone();
        let attached = self.attached()?;
        let mut next = Attached::open(&options, &attached.ring.origins(Legacy::default())?, FOLLOW_ROUNDS)?;
        let room = next.ring.header.geometry.payload_bytes;
        let mut row = vec![0; cell::PAYLOAD + attached.ring.header.geometry.payload_words()];
        for (rank, held) in (0..).zip(&attached.held).filter_map(|(rank, held)| Some((rank, held.as_ref()?))) {
            let own = Legacy { epoch: held.epoch, version: held.version };
            if attached.newest(rank, &mut row) && next.hold(&options, rank, own)? {
                let Stamp { origin, mono_ns, wall_ns, len, .. } = Stamp::of(&row);
                let len = len as usize;
                let payload = row[cell::PAYLOAD..].get(..len.div_ceil(8)).filter(|_| len <= room);
                let Some(payload) = payload else { continue }; // another size of free payloads; its sender repeats it
                next.put(rank, &Value { origin, mono_ns, wall_ns, payload, len });
            }
        }
        *attached = next;
        Ok(true)
    }

    /// Frees all claims. Removes the ring where nobody else claims a rank of it, unless `keep`. Closing twice is fine.
    ///
    /// Ranks that were held are STALE then, not DEAD: another relay may go on.
    pub fn close(&mut self, keep: bool) -> Result<(), Error> {
        if !self.token.is_here() {
            return Err(Error::Forked("relay"));
        }
        let options = WriterOptions { keep: keep || self.options.keep, ..self.options.clone() };
        self.attached.take().map_or(Ok(()), |attached| attached.ring.leave(&options, WHOLE))
    }
}

impl Drop for Relayed {
    fn drop(&mut self) {
        // In a child of a fork this is an error by design, and elsewhere a file that stays is what `gc` is for.
        let _ = self.close(true);
    }
}
