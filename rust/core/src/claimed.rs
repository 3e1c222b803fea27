//! A slot, claimed: how a writer comes by one, notices that it lost it, and gives it back.

use crate::claim::{self, Range};
use crate::clock;
use crate::dir::{BELL, Directory, RING};
use crate::error::Error;
use crate::file::{self, Legacy, MAINTENANCE, RingFile, Unnamed, WHOLE};
use crate::fork::ClaimFile;
use crate::header::Header;
use crate::layout::{FILLER_LOCAL, Geometry, MAX_RANKS, PAGE, header as header_word, slot as word};
use crate::mapping::{Access, Mapping};
use crate::options::{DEFAULT_PAYLOAD, WriterOptions};
use crate::schema::{Codec, Schema};
use crate::slot::Slot;
use crate::sync::Ordering;
use crate::wake::BellFile;
use std::sync::Arc;
use std::time::Duration;

/// How long an own path may be wrong before a publish notices.
const LOOK_EVERY_NS: u64 = 1_000_000_000;
/// Rounds of opening, creating and replacing before a claim gives up; each lost round is one that another process won.
const ROUNDS: u32 = 1_000;
/// Rounds in which a process waits for another to make the ring. Ranks that start together need room for one ring, not
/// for one each; but the maker may be stopped.
const PATIENCE: u32 = 300;
/// Pause after a round that met a replacement or a removal.
const PAUSE: Duration = Duration::from_millis(1);

/// A slot, claimed.
#[derive(Debug)]
pub(crate) struct Claimed {
    directory: Directory,
    claim: ClaimFile,
    inode: u64,
    pub(crate) header: Arc<Header>,
    header_page: Mapping,
    slot_map: Mapping,
    rank: u32,
    pub(crate) bell: Option<BellFile>,
    pub(crate) epoch: u64,
    /// Last version, published or inherited.
    pub(crate) version: u64,
    look_at_ns: u64,
    time_namespace: u64,
    /// Bytes of every payload, 0 where they are free.
    pub(crate) record_bytes: usize,
}

impl Claimed {
    pub(crate) fn slot(&self) -> Slot<'_> {
        slot_in(&self.slot_map, &self.header.geometry, self.rank)
    }

    /// Says whose clock stamps the slot from now on; before the first publish, because until then it holds somebody
    /// else's stamps.
    #[inline]
    pub(crate) fn own_clock(&self) {
        let slot = self.slot();
        if slot.load(word::TIME_NS) != self.time_namespace {
            slot.store(word::TIME_NS, self.time_namespace);
            slot.store(word::BEAT_NS, 0);
        }
    }

    /// Stores a sign of life, where readers can date it.
    pub(crate) fn beat(&self) {
        let slot = self.slot();
        if slot.load(word::TIME_NS) == self.time_namespace {
            slot.store(word::BEAT_NS, clock::mono_ns());
        }
    }

    /// True once the file was marked; the word only says "look again", so it needs no order.
    pub(crate) fn is_retired(&self) -> bool {
        self.header_page.words()[header_word::RETIRED].load(Ordering::Relaxed) != 0
    }

    /// True while the ring's path names this file.
    pub(crate) fn is_current(&self, options: &WriterOptions) -> bool {
        options.dir.names(&format!("{}{RING}", options.name), self.inode)
    }

    /// True once the ring was replaced or removed: looks at its path at most once a second.
    #[inline]
    pub(crate) fn has_moved(&mut self, options: &WriterOptions, now_ns: u64) -> bool {
        if self.is_retired() {
            return true;
        }
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

    /// What the next generation inherits when this one lost its name.
    pub(crate) fn origins(&self) -> Result<Origins, Error> {
        let fd = file::reopen(self.claim.fd()?)?;
        let old = RingFile { fd, inode: self.inode, header: Header::clone(&self.header) };
        // First, so that the others stop at their next publish: what they wrote later nobody would inherit.
        old.retire()?;
        let own = Legacy { epoch: self.epoch, version: self.version };
        Ok(Origins { legacies: old.legacies()?, own })
    }

    /// Frees the claim; the last claim of a ring takes the ring along, unless it is to be kept.
    pub(crate) fn leave(self, options: &WriterOptions) -> Result<(), Error> {
        if options.keep {
            return Ok(());
        }
        let fd = self.claim.fd()?;
        // Its own claim first: of writers that close at once, the one that frees its claim last meets no other.
        claim::release(fd, Range::one(self.rank))?;
        // Whoever holds every claim is alone: nobody can claim until the description closes, below.
        if claim::try_claim(fd, WHOLE)? && self.is_current(options) {
            file::retire(fd)?;
            // The bell first: once the ring's name is free, the next bell is somebody else's.
            self.directory.unlink(&format!("{}{BELL}", options.name))?;
            self.directory.unlink(&format!("{}{RING}", options.name))?;
        }
        Ok(())
    }
}

/// The slot inside its own pages.
fn slot_in<'a>(pages: &'a Mapping, geometry: &Geometry, rank: u32) -> Slot<'a> {
    Slot::new(&pages.words()[geometry.slot_skew(rank) / 8..], geometry)
}

/// What a new file inherits.
#[derive(Debug, Default)]
pub(crate) struct Origins {
    legacies: Vec<Legacy>,
    own: Legacy,
}

/// Claims the rank that `options` name, making or replacing the ring where that is needed.
pub(crate) fn claim_rank(options: &WriterOptions, origins: &Origins) -> Result<Claimed, Error> {
    let name = &options.name;
    for round in 0..ROUNDS {
        let directory = Directory::open_or_create(&options.dir)?;
        let Some(ring) = RingFile::open(&directory, name, Access::Write)? else {
            if !directory.try_lock() && round < PATIENCE {
                std::thread::sleep(PAUSE);
            } else if directory.inode(&format!("{name}{RING}")) == 0 {
                Unnamed::create(&directory, name, &new_header(options)?, &origins.legacies)?.install(&directory, name)?;
            }
            continue; // whoever gave it its name, the next round finds it
        };
        if let Some(reason) = misfit(options, &ring)? {
            if !file::replace(&directory, name, &ring, &new_header(options)?, &reason)? {
                std::thread::sleep(PAUSE);
            }
            continue;
        }
        if let Some(claimed) = claim_slot(options, directory, ring, origins.own)? {
            return Ok(claimed);
        }
        std::thread::sleep(PAUSE);
    }
    Err(Error::LayoutMismatch(format!(
        "ring {name:?} is being made, replaced or removed by another process, for {ROUNDS} rounds now; is that one stopped?"
    )))
}

/// Claims a slot of a fitting ring; `None` when the ring changed meanwhile.
fn claim_slot(options: &WriterOptions, directory: Directory, ring: RingFile, own: Legacy) -> Result<Option<Claimed>, Error> {
    let RingFile { fd, inode, header } = ring;
    let geometry = header.geometry;
    let claim = ClaimFile::new(file::reopen(&fd)?)?;
    let slot_map = Mapping::new(&fd, geometry.slot_pages(options.rank), geometry.slot_stride, Access::Write)?;
    let slot = slot_in(&slot_map, &geometry, options.rank);
    if !claim::try_claim(claim.fd()?, Range::one(options.rank))? {
        let passing = claim::is_claimed(claim.fd()?, MAINTENANCE)?;
        if passing || directory.inode(&format!("{}{RING}", options.name)) != inode {
            return Ok(None);
        }
        return Err(Error::WriterBusy { name: options.name.clone(), rank: options.rank, pid: slot.load(word::PID) });
    }
    let header_page = Mapping::new(&fd, 0, PAGE, Access::Read)?;
    let retired = header_page.words()[header_word::RETIRED].load(Ordering::Acquire) != 0;
    if retired || directory.inode(&format!("{}{RING}", options.name)) != inode {
        return Ok(None);
    }
    let mut version = slot.recover()?;
    if slot.head() == 0 {
        version = version.max(own.version);
        slot.store(word::BASE, version);
    } // else somebody published into this generation before: the slot stays dense, and its nonce tells it from the last
    let epoch = slot.load(word::EPOCH).max(own.epoch) + 1;
    for (index, value) in [
        (word::FILLER, FILLER_LOCAL),
        (word::PID, u64::from(std::process::id())),
        (word::START, clock::process_start()),
        (word::EPOCH, epoch),
    ] {
        slot.store(index, value);
    }
    let bell = if options.wake {
        match BellFile::open_or_create(&directory, &options.name, header.nonce) {
            Err(Error::Full { .. }) => None, // asked for again in a second; waiters poll meanwhile
            bell => bell?,
        }
    } else {
        None
    };
    let header = Arc::new(header);
    let look_at_ns = clock::mono_ns() + LOOK_EVERY_NS;
    let rank = options.rank;
    let record_bytes = header.schema.record_bytes();
    Ok(Some(Claimed {
        directory,
        claim,
        inode,
        header,
        header_page,
        slot_map,
        rank,
        bell,
        epoch,
        version,
        look_at_ns,
        time_namespace: clock::time_namespace(),
        record_bytes,
    }))
}

fn new_header(options: &WriterOptions) -> Result<Header, Error> {
    let schema_text = options.schema.to_json();
    let payload = match options.schema.codec() {
        Codec::Record => options.schema.record_bytes(),
        Codec::Bytes | Codec::Msgpack => options.payload.unwrap_or(DEFAULT_PAYLOAD),
    };
    if options.ranks > MAX_RANKS {
        return Err(Error::Invalid(format!("ranks is {}; a ring has at most {MAX_RANKS}", options.ranks)));
    }
    Ok(Header {
        geometry: Geometry::new(options.ranks, options.cells, payload, schema_text.len())?,
        created_ns: clock::wall_ns(),
        boot_id: clock::boot_id()?,
        nonce: clock::random()?,
        job: options.job.clone(),
        schema: Arc::clone(&options.schema),
        schema_text,
    })
}

/// Why the ring cannot take this writer, or `None`.
fn misfit(options: &WriterOptions, ring: &RingFile) -> Result<Option<String>, Error> {
    let header = &ring.header;
    let geometry = &header.geometry;
    let free = header.schema.codec() != Codec::Record;
    let differs = |what: &str, has: &dyn std::fmt::Display, wants: &dyn std::fmt::Display| {
        Some(format!("the ring has {what} {has}, this writer wants {wants}"))
    };
    Ok(if ring.is_retired()? {
        Some("it is retired".to_owned())
    } else if header.boot_id != clock::boot_id()? {
        Some("it was made before the last boot".to_owned())
    } else if header.job != options.job {
        differs("job", &format!("{:?}", header.job), &format!("{:?}", options.job))
    } else if geometry.ranks != options.ranks {
        differs("ranks", &geometry.ranks, &options.ranks)
    } else if let Some(cells) = options.cells.filter(|&cells| cells != geometry.cells) {
        differs("cells", &geometry.cells, &cells)
    } else if let Some(payload) =
        options.payload.map(|payload| payload.next_multiple_of(8)).filter(|&payload| free && payload != geometry.payload_bytes)
    {
        differs("payload", &geometry.payload_bytes, &payload)
    } else {
        Schema::compatible(&header.schema, &options.schema).err()
    })
}
