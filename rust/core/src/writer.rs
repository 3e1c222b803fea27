//! The writer of one rank.

use crate::claim::{self, Range};
use crate::clock;
use crate::dir::{BELL, DirOptions, Directory, RING, check_name};
use crate::error::Error;
use crate::file::{self, Legacy, MAINTENANCE, RingFile, Unnamed, WHOLE};
use crate::fork::{ClaimFile, Token};
use crate::header::Header;
use crate::layout::{FILLER_LOCAL, Geometry, MAX_JOB, MAX_RANKS, PAGE, header as header_word, slot as word};
use crate::mapping::{Access, Mapping};
use crate::schema::{Codec, Schema};
use crate::slot::{Origin, Slot, Stamp};
use crate::sync::Ordering;
use crate::wake::BellFile;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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

/// What a writer wants.
#[derive(Clone, Debug)]
pub struct WriterOptions {
    /// Ring.
    pub name: String,
    /// Rank to write, below `ranks`.
    pub rank: u32,
    /// Ranks of the ring.
    pub ranks: u32,
    /// Cells of each slot; `None` takes what the ring has, or the default.
    pub cells: Option<u32>,
    /// Largest payload in bytes, for free payloads; `None` takes what the ring has, or the default of 4,096.
    pub payload: Option<usize>,
    /// What the payloads are.
    pub schema: Arc<Schema>,
    /// Job id, up to 64 bytes; empty for none.
    pub job: String,
    /// Leave the file behind when the last writer closes.
    pub keep: bool,
    /// Ring a bell for waiters.
    pub wake: bool,
    /// Where.
    pub dir: DirOptions,
}

impl WriterOptions {
    /// Defaults for everything but the essentials.
    pub fn new(name: &str, rank: u32, ranks: u32, schema: Arc<Schema>) -> Self {
        Self {
            name: name.to_owned(),
            rank,
            ranks,
            cells: None,
            payload: None,
            schema,
            job: String::new(),
            keep: false,
            wake: true,
            dir: DirOptions::default(),
        }
    }
}

/// Largest free payload when nobody says otherwise, bytes.
pub const DEFAULT_PAYLOAD: usize = 4096;

/// A slot, claimed.
#[derive(Debug)]
struct Claimed {
    directory: Directory,
    claim: ClaimFile,
    inode: u64,
    header: Arc<Header>,
    header_page: Mapping,
    slot_map: Mapping,
    rank: u32,
    bell: Option<BellFile>,
    epoch: u64,
    version: u64,
    look_at_ns: u64,
}

impl Claimed {
    fn slot(&self) -> Slot<'_> {
        slot_in(&self.slot_map, &self.header.geometry, self.rank)
    }
}

/// The slot inside its own pages.
fn slot_in<'a>(pages: &'a Mapping, geometry: &Geometry, rank: u32) -> Slot<'a> {
    Slot::new(&pages.words()[geometry.slot_skew(rank) / 8..], geometry)
}

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
}

impl Writer {
    /// Claims the rank, making the ring where there is none.
    pub fn open(options: WriterOptions) -> Result<Self, Error> {
        check_name(&options.name)?;
        if options.rank >= options.ranks {
            return Err(Error::RankOutOfRange { rank: i64::from(options.rank), ranks: options.ranks });
        }
        if options.job.len() > MAX_JOB {
            return Err(Error::Invalid(format!("job is {} bytes long; at most {MAX_JOB} fit the header", options.job.len())));
        }
        let token = Token::current()?;
        let claimed = claim_rank(&options, &Origins::default())?;
        Ok(Self { options, token, claimed: Mutex::new(Some(claimed)) })
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
        self.lock()?.as_ref().map(|claimed| Arc::clone(&claimed.header)).ok_or(Error::Closed("writer"))
    }

    /// Epoch of this incarnation and the last version, published or inherited.
    pub fn position(&self) -> Result<(u64, u64), Error> {
        self.lock()?.as_ref().map(|claimed| (claimed.epoch, claimed.version)).ok_or(Error::Closed("writer"))
    }

    /// Publishes `len` bytes of `payload`, packed by the ring whose nonce is `packed_for`.
    ///
    /// No system call, but one `stat` a second and a wake when somebody waits.
    pub fn publish(&self, packed_for: [u64; 2], payload: &[u64], len: usize) -> Result<Published, Error> {
        self.publish_at(packed_for, payload, len, clock::wall_ns())
    }

    /// [`Self::publish`] with the wall clock's time that the payload may hold already, ns since 1970.
    #[inline]
    pub fn publish_at(&self, packed_for: [u64; 2], payload: &[u64], len: usize, wall_ns: u64) -> Result<Published, Error> {
        let mut guard = self.lock()?;
        let claimed = guard.as_mut().ok_or(Error::Closed("writer"))?;
        if claimed.header.nonce != packed_for {
            return Ok(Published::Moved);
        }
        let room = claimed.header.geometry.payload_bytes;
        if len > room || payload.len() * 8 > room {
            return Err(Error::PayloadTooLarge { got: len.max(payload.len() * 8), max: room });
        }
        if len > payload.len() * 8 {
            return Err(short(len, payload.len())); // the rest would be an older version's
        }
        let mono_ns = clock::mono_ns();
        if self.has_moved(claimed, mono_ns) {
            return Ok(Published::Moved);
        }
        let version = claimed.version + 1;
        let origin = Origin { start: claimed.epoch, random: 0, version };
        let stamp = Stamp { version, epoch: claimed.epoch, origin, mono_ns, wall_ns, len: len as u64 };
        claimed.slot().publish(&stamp, payload);
        claimed.version = version;
        if let Some(bell) = &claimed.bell {
            bell.ring();
        }
        Ok(Published::Version(version))
    }

    fn has_moved(&self, claimed: &mut Claimed, now_ns: u64) -> bool {
        // Acquire is not needed: the word only says "look again".
        if claimed.header_page.words()[header_word::RETIRED].load(Ordering::Relaxed) != 0 {
            return true;
        }
        if now_ns < claimed.look_at_ns {
            return false;
        }
        claimed.look_at_ns = now_ns + LOOK_EVERY_NS;
        let path = format!("{}{RING}", self.options.name);
        if claimed.directory.inode(&path) != claimed.inode {
            return true;
        }
        let lost = |bell: &BellFile| {
            let named = claimed.directory.inode(&format!("{}{BELL}", self.options.name));
            rustix::fs::fstat(bell).map_or(0, |stat| stat.st_ino) != named
        };
        if self.options.wake && claimed.bell.as_ref().is_none_or(lost) {
            // A bell that cannot be had now is asked for again in a second; waiters poll meanwhile.
            let nonce = claimed.header.nonce;
            claimed.bell = BellFile::open_or_create(&claimed.directory, &self.options.name, nonce).ok().flatten();
        }
        false
    }

    /// Attaches and claims again after [`Published::Moved`]; versions go on from where they were.
    pub fn reattach(&self) -> Result<(), Error> {
        let mut guard = self.lock()?;
        let claimed = guard.as_mut().ok_or(Error::Closed("writer"))?;
        let path = format!("{}{RING}", self.options.name);
        let retired = claimed.header_page.words()[header_word::RETIRED].load(Ordering::Relaxed) != 0;
        if !retired && claimed.directory.inode(&path) == claimed.inode {
            return Ok(()); // another thread was faster
        }
        let old = RingFile {
            fd: file::reopen(claimed.claim.fd()?)?,
            inode: claimed.inode,
            header: Header::clone(&claimed.header),
        };
        // First, so that the others stop at their next publish: what they wrote later nobody would inherit.
        old.retire()?;
        let legacies = old.legacies()?;
        let own = Legacy { epoch: claimed.epoch, version: claimed.version };
        *claimed = claim_rank(&self.options, &Origins { legacies, own })?;
        Ok(())
    }

    /// Stores a sign of life that is no publish: [`crate::ring::Ring::last_sign_ns`] moves, no age does.
    pub fn beat(&self) -> Result<(), Error> {
        let guard = self.lock()?;
        let claimed = guard.as_ref().ok_or(Error::Closed("writer"))?;
        claimed.slot().store(word::BEAT_NS, clock::mono_ns());
        Ok(())
    }

    /// Frees the claim; the last writer to close removes the ring, unless `keep`. Closing twice is fine.
    pub fn close(&self) -> Result<(), Error> {
        let Some(claimed) = self.lock()?.take() else {
            return Ok(());
        };
        let fd = claimed.claim.fd()?;
        let path = format!("{}{RING}", self.options.name);
        if self.options.keep {
            return Ok(());
        }
        // Its own claim first: of writers that close at once, the one that frees its claim last meets no other.
        claim::release(fd, Range::one(self.options.rank))?;
        // Whoever holds every claim is alone: nobody can claim until the description closes, below.
        if claim::try_claim(fd, WHOLE)? && claimed.directory.inode(&path) == claimed.inode {
            file::retire(fd)?;
            // The bell first: once the ring's name is free, the next bell is somebody else's.
            claimed.directory.unlink(&format!("{}{BELL}", self.options.name))?;
            claimed.directory.unlink(&path)?;
        }
        Ok(())
    }
}

#[cold]
fn short(len: usize, words: usize) -> Error {
    Error::Invalid(format!("a payload of {len} bytes cannot be in {words} words; pass all of its words"))
}

impl Drop for Writer {
    fn drop(&mut self) {
        // In a child of a fork this is an error by design, and elsewhere a file that stays is what `gc` is for.
        let _ = self.close();
    }
}

/// What a new file inherits.
#[derive(Debug, Default)]
struct Origins {
    legacies: Vec<Legacy>,
    own: Legacy,
}

fn claim_rank(options: &WriterOptions, origins: &Origins) -> Result<Claimed, Error> {
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
    Err(Error::Invalid(format!("ring {name:?} was replaced {ROUNDS} times while rank {} tried to claim it", options.rank)))
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
    let version = slot.recover()?.max(own.version);
    if slot.head() == 0 {
        slot.store(word::BASE, version);
    }
    let epoch = slot.load(word::EPOCH).max(own.epoch) + 1;
    for (index, value) in [
        (word::FILLER, FILLER_LOCAL),
        (word::PID, u64::from(std::process::id())),
        (word::START, clock::process_start()),
        (word::TIME_NS, clock::time_namespace()),
        (word::BEAT_NS, clock::mono_ns()),
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
    Ok(Some(Claimed { directory, claim, inode, header, header_page, slot_map, rank, bell, epoch, version, look_at_ns }))
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
