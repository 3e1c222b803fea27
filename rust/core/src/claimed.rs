//! A slot, claimed by the writer of its rank.

use crate::attachment::{Attachment, Taken, Taking, slot_in};
use crate::claim::Range;
use crate::clock;
use crate::dir::Directory;
use crate::error::Error;
use crate::file::{Legacy, RingFile};
use crate::layout::{FILLER_LOCAL, PAGE, header as header_word};
use crate::mapping::{Access, Mapping};
use crate::options::WriterOptions;
use crate::settle::{Origins, ROUNDS, settle};
use crate::slot::Slot;
use crate::sync::Ordering;

/// A slot, claimed.
#[derive(Debug)]
pub(crate) struct Claimed {
    pub(crate) ring: Attachment,
    header_page: Mapping,
    /// The slot's pages, and no other's, writable.
    slot_map: Mapping,
    rank: u32,
    pub(crate) epoch: u64,
    /// Last version, published or inherited.
    pub(crate) version: u64,
    /// Bytes of every payload, 0 where they are free.
    pub(crate) record_bytes: usize,
}

impl Claimed {
    pub(crate) fn slot(&self) -> Slot<'_> {
        slot_in(self.slot_map.words(), &self.ring.header.geometry, self.rank)
    }

    /// Stores a sign of life, where readers can date it.
    pub(crate) fn beat(&self) {
        self.slot().beat(self.ring.time_namespace, clock::mono_ns());
    }

    /// True once the file was marked; the word only says "look again", so it needs no order.
    pub(crate) fn is_retired(&self) -> bool {
        self.header_page.words()[header_word::RETIRED].load(Ordering::Relaxed) != 0
    }

    /// True once the ring was replaced or removed: looks at its path at most once a second.
    #[inline]
    pub(crate) fn has_moved(&mut self, options: &WriterOptions, now_ns: u64) -> bool {
        self.is_retired() || self.ring.has_moved(options, now_ns)
    }

    /// What the next generation inherits when this one lost its name.
    pub(crate) fn origins(&self) -> Result<Origins, Error> {
        self.ring.origins(Legacy { epoch: self.epoch, version: self.version })
    }

    /// Frees the claim; the last claim of a ring takes the ring along, unless it is to be kept.
    pub(crate) fn leave(self, options: &WriterOptions) -> Result<(), Error> {
        self.ring.leave(options, Range::one(self.rank))
    }
}

/// Claims the rank that `options` name, making or replacing the ring where that is needed.
pub(crate) fn claim_rank(options: &WriterOptions, origins: &Origins) -> Result<Claimed, Error> {
    settle(options, origins, ROUNDS, |directory, ring| claim_in(options, directory, ring, origins.own))
}

fn claim_in(options: &WriterOptions, directory: Directory, ring: RingFile, own: Legacy) -> Result<Option<Claimed>, Error> {
    let (geometry, rank) = (ring.header.geometry, options.rank);
    let slot_map = Mapping::new(&ring.fd, geometry.slot_pages(rank), geometry.slot_stride, Access::Write)?;
    let header_page = Mapping::new(&ring.fd, 0, PAGE, Access::Read)?;
    let mut ring = Attachment::new(directory, ring)?;
    let slot = slot_in(slot_map.words(), &geometry, rank);
    let taking = Taking { header_page: &header_page, own, filler: FILLER_LOCAL };
    let Some(Taken { version, epoch }) = ring.claim_slot(options, rank, &slot, &taking)? else {
        return Ok(None);
    };
    ring.find_bell(options)?;
    let record_bytes = ring.header.schema.record_bytes();
    Ok(Some(Claimed { ring, header_page, slot_map, rank, epoch, version, record_bytes }))
}
