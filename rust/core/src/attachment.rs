//! A ring as its writers hold it: found, made or replaced where that is needed, watched for a replacement, left.

use crate::claim::{self, Range};
use crate::clock;
use crate::dir::{BELL, Directory, RING};
use crate::error::Error;
use crate::file::{self, Fresh, Legacy, RingFile, WHOLE};
use crate::fork::ClaimFile;
use crate::header::Header;
use crate::layout::{Geometry, MAX_RANKS, header as header_word, slot as word};
use crate::mapping::{Access, Mapping};
use crate::options::WriterOptions;
use crate::schema::{Codec, Schema};
use crate::slot::Slot;
use crate::sync::Ordering;
use crate::wake::BellFile;
use std::sync::Arc;
use std::time::Duration;

/// How long an own path may be wrong before a publish notices.
const LOOK_EVERY_NS: u64 = 1_000_000_000;
/// Rounds of opening, creating and replacing before a claim gives up.
pub(crate) const ROUNDS: u32 = 1_000;
/// Rounds in which a process waits for another to make the ring. Ranks that start together need room for one ring, not
/// for one each; but the maker may be stopped.
const PATIENCE: u32 = 300;
/// Pause after a round that met a replacement or a removal.
const PAUSE: Duration = Duration::from_millis(1);

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

/// What a new file inherits.
#[derive(Debug, Default)]
pub(crate) struct Origins {
    legacies: Vec<Legacy>,
    /// Of the rank that is claimed next.
    pub(crate) own: Legacy,
}

/// Finds the ring that `options` name, making or replacing it where that is needed, until `take` has what it wants of it.
///
/// `take` gives `None` when the ring changed meanwhile. Gives up after so many `rounds` of at most about a millisecond;
/// each lost one is one that another process won.
pub(crate) fn settle<T>(
    options: &WriterOptions,
    origins: &Origins,
    rounds: u32,
    take: impl Fn(Directory, RingFile) -> Result<Option<T>, Error>,
) -> Result<T, Error> {
    let name = &options.name;
    let mut made = Vec::new(); // nobody removes these before `take` has a claim
    for round in 0..rounds {
        let directory = Directory::open_or_create(&options.dir)?;
        let Some(ring) = RingFile::open(&directory, name, Access::Write)? else {
            if !directory.try_lock() && round < PATIENCE {
                std::thread::sleep(PAUSE);
            } else if directory.inode(&format!("{name}{RING}")) == 0 {
                let fresh = Fresh::create(&directory, name, &new_header(options)?, &origins.legacies)?;
                if fresh.install(&directory, name)? {
                    made.push(fresh);
                }
            }
            continue; // whoever gave it its name, the next round finds it
        };
        if let Some(reason) = misfit(options, &ring)? {
            match file::replace(&directory, name, &ring, &new_header(options)?, &reason)? {
                Some(fresh) => made.push(fresh),
                None => std::thread::sleep(PAUSE),
            }
            continue;
        }
        if let Some(taken) = take(directory, ring)? {
            return Ok(taken);
        }
        std::thread::sleep(PAUSE);
    }
    Err(Error::LayoutMismatch(format!(
        "ring {name:?} is being made, replaced or removed by another process, for {rounds} rounds now; is that one stopped?"
    )))
}

/// Refuses the ring that `options` name where there is one and it does not fit.
pub(crate) fn check(options: &WriterOptions) -> Result<(), Error> {
    let Some(directory) = Directory::open(&options.dir)? else { return Ok(()) };
    let Some(ring) = RingFile::open(&directory, &options.name, Access::Read)? else { return Ok(()) };
    if ring.is_retired()? {
        return Ok(());
    }
    misfit(options, &ring)?.map_or(Ok(()), |reason| {
        Err(Error::LayoutMismatch(format!("ring {:?} does not fit: {reason}", options.name)))
    })
}

fn new_header(options: &WriterOptions) -> Result<Header, Error> {
    let schema_text = options.schema.to_json();
    if options.ranks > MAX_RANKS {
        return Err(Error::Invalid(format!("ranks is {}; a ring has at most {MAX_RANKS}", options.ranks)));
    }
    Ok(Header {
        geometry: Geometry::new(options.ranks, options.cells, options.payload_room(), schema_text.len())?,
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
    } else if options.exact && header.schema.fingerprint() != options.schema.fingerprint() {
        Some("its schema is another one, and a relay stores records as they come: run the same classes on all nodes".to_owned())
    } else {
        Schema::compatible(&header.schema, &options.schema).err()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{admin, dir::DirOptions};
    use std::cell::Cell;

    /// A removal at the worst moment, after the maker named its file and before it has its claim, finds the ring in use;
    /// so a removal that never pauses cannot starve the maker.
    #[test]
    fn a_new_ring_outlives_removals_until_its_maker_has_a_claim() {
        let path = std::path::PathBuf::from(format!("/dev/shm/snapring-test-fresh-{}", std::process::id()));
        let dir = DirOptions { path: Some(path.clone()), allow_disk: false };
        let options = WriterOptions { dir: dir.clone(), ..WriterOptions::new("box", 0, 1, Arc::new(Schema::bytes())) };
        let tries = Cell::new(0);
        let take = |_: Directory, ring: RingFile| {
            tries.set(tries.get() + 1);
            assert!(!admin::remove(&dir, "box", false)?, "try {}", tries.get());
            Ok((tries.get() == 3).then_some(ring))
        };

        let made = settle(&options, &Origins::default(), ROUNDS, take).unwrap();
        assert_eq!(tries.get(), 3);

        made.retire().unwrap(); // the next is a replacement, and lasts as well
        tries.set(0);
        let replaced = settle(&options, &Origins::default(), ROUNDS, take).unwrap();
        assert_ne!(replaced.inode, made.inode);
        assert_eq!(tries.get(), 3);

        assert!(admin::remove(&dir, "box", false).unwrap(), "nobody is at it any more");
        std::fs::remove_dir_all(path).unwrap();
    }
}
