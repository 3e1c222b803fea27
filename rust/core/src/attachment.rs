//! A ring as its writers hold it: claimed, watched for a replacement, left.

use crate::claim::{self, Range};
use crate::clock;
use crate::dir::{BELL, Directory, RING};
use crate::error::Error;
use crate::file::{self, Legacy, RingFile};
use crate::fork::ClaimFile;
use crate::header::Header;
use crate::layout::{Geometry, header as header_word, slot as word};
use crate::mapping::Mapping;
use crate::options::WriterOptions;
use crate::settle::Origins;
use crate::slot::Slot;
use crate::sync::Ordering;
use crate::wake::BellFile;
use std::sync::Arc;

/// How long an own path may be wrong before a publish notices.
const LOOK_EVERY_NS: u64 = 1_000_000_000;
/// A ring that its holder may write to, rank by rank as it claims them.
#[derive(Debug)]
pub(crate) struct Attachment {
    directory: Directory,
    /// Holds the claims.
    pub(crate) claim: ClaimFile,
    inode: u64,
    pub(crate) header: Arc<Header>,
    pub(crate) bell: Option<BellFile>,
    look_at_ns: u64,
    pub(crate) time_namespace: u64,
}

impl Attachment {
    /// Takes a fitting ring, without a claim yet.
    pub(crate) fn new(directory: Directory, ring: RingFile) -> Result<Self, Error> {
        let RingFile { fd, inode, header } = ring;
        Ok(Self {
            directory,
            claim: ClaimFile::new(file::reopen(&fd)?)?,
            inode,
            header: Arc::new(header),
            bell: None,
            look_at_ns: clock::mono_ns() + LOOK_EVERY_NS,
            time_namespace: clock::time_namespace(),
        })
    }

    /// Claims `rank` and readies its slot for the next writer. `None` when the ring was replaced or removed meanwhile,
    /// or somebody is at it; `Err(WriterBusy)` when a living writer holds the rank.
    pub(crate) fn claim_slot(&self, options: &WriterOptions, rank: u32, slot: &Slot<'_>, take: &Taking<'_>) -> Result<Option<Taken>, Error> {
        let fd = self.claim.fd()?;
        if !claim::try_claim(fd, Range::one(rank))? {
            let passing = claim::is_claimed(fd, file::MAINTENANCE)?;
            if passing || !self.has_name(options) {
                return Ok(None);
            }
            return Err(Error::WriterBusy { name: options.name.clone(), rank, pid: slot.load(word::PID) });
        }
        if take.header_page.words()[header_word::RETIRED].load(Ordering::Acquire) != 0 || !self.has_name(options) {
            claim::release(fd, Range::one(rank))?;
            return Ok(None);
        }
        // A claim on a slot that cannot be used would keep it from everybody.
        let mut version = slot.recover().inspect_err(|_| drop(claim::release(fd, Range::one(rank))))?;
        if slot.head() == 0 {
            version = version.max(take.own.version);
            slot.store(word::BASE, version);
        } // else somebody published into this generation before: the slot stays dense, and its nonce tells it from the last
        let epoch = slot.load(word::EPOCH).max(take.own.epoch) + 1;
        for (index, value) in [
            (word::FILLER, take.filler),
            (word::PID, u64::from(std::process::id())),
            (word::START, clock::process_start()),
            (word::EPOCH, epoch),
        ] {
            slot.store(index, value);
        }
        Ok(Some(Taken { version, epoch }))
    }

    /// Opens the bell, or makes it. One that cannot be had for want of space is asked for again in a second; waiters
    /// poll meanwhile.
    pub(crate) fn find_bell(&mut self, options: &WriterOptions) -> Result<(), Error> {
        if options.wake {
            self.bell = match BellFile::open_or_create(&self.directory, &options.name, self.header.nonce) {
                Err(Error::Full { .. }) => None,
                bell => bell?,
            };
        }
        Ok(())
    }

    fn has_name(&self, options: &WriterOptions) -> bool {
        self.directory.inode(&format!("{}{RING}", options.name)) == self.inode
    }

    /// True while the ring's path names this file, as far as is known.
    pub(crate) fn is_current(&self, options: &WriterOptions) -> bool {
        options.dir.names(&format!("{}{RING}", options.name), self.inode)
    }

    /// True once the ring was replaced or removed: looks at its path at most once a second.
    #[inline]
    pub(crate) fn has_moved(&mut self, options: &WriterOptions, now_ns: u64) -> bool {
        now_ns >= self.look_at_ns && self.look(options, now_ns)
    }

    #[cold]
    fn look(&mut self, options: &WriterOptions, now_ns: u64) -> bool {
        self.look_at_ns = now_ns + LOOK_EVERY_NS;
        if !self.is_current(options) {
            return true;
        }
        let lost = |bell: &BellFile| !options.dir.names(&format!("{}{BELL}", options.name), bell.inode());
        if options.wake && self.bell.as_ref().is_none_or(lost) {
            // A bell that cannot be had now is asked for again in a second; waiters poll meanwhile.
            let nonce = self.header.nonce;
            self.bell = BellFile::open_or_create(&self.directory, &options.name, nonce).ok().flatten();
        }
        false
    }

    /// What the next generation inherits when this one lost its name; `own` of the rank that its writer holds.
    pub(crate) fn origins(&self, own: Legacy) -> Result<Origins, Error> {
        let fd = file::reopen(self.claim.fd()?)?;
        let old = RingFile { fd, inode: self.inode, header: Header::clone(&self.header) };
        // First, so that the others stop at their next publish: what they wrote later nobody would inherit.
        old.retire()?;
        Ok(Origins { legacies: old.legacies()?, own })
    }

    /// Frees the claims on `held`; the last claim of a ring takes the ring along, unless it is to be kept.
    pub(crate) fn leave(self, options: &WriterOptions, held: Range) -> Result<(), Error> {
        if options.keep {
            return Ok(());
        }
        let fd = self.claim.fd()?;
        // Its own claims first: of writers that close at once, the one that frees its claim last meets no other.
        claim::release(fd, held)?;
        if self.is_current(options) {
            file::remove(&self.directory, &options.name, fd, self.inode)?;
        }
        Ok(())
    }
}

/// How a slot is to be taken.
pub(crate) struct Taking<'a> {
    /// First page of the file.
    pub(crate) header_page: &'a Mapping,
    /// What the taker brings from a generation before.
    pub(crate) own: Legacy,
    /// [`crate::layout::FILLER_LOCAL`] or its sibling.
    pub(crate) filler: u64,
}

/// A slot, taken.
pub(crate) struct Taken {
    /// Last used version.
    pub(crate) version: u64,
    /// The taker's epoch.
    pub(crate) epoch: u64,
}

/// The slot of `rank` in `pages`, which begin with the slot's own.
pub(crate) fn slot_in<'a>(pages: &'a [crate::sync::AtomicU64], geometry: &Geometry, rank: u32) -> Slot<'a> {
    Slot::new(&pages[geometry.slot_skew(rank) / 8..], geometry)
}
