//! The reader of all ranks: attaches when there is something to attach to, and again when that was replaced.

use crate::clock;
use crate::dir::{BELL, DirOptions, Directory, RING, check_name};
use crate::error::Error;
use crate::file::RingFile;
use crate::mapping::Access;
use crate::ring::Ring;
use crate::schema::Schema;
use crate::sync::{AtomicBool, AtomicU64, Ordering};
use crate::wake::BellFile;
use arc_swap::{ArcSwapOption, Guard};
use std::sync::Arc;

pub use crate::ring::{Reading, State};

/// How long a reader may go on with a file that was replaced.
const LOOK_EVERY_NS: u64 = 1_000_000_000;
/// Rounds of opening a file that changes meanwhile.
const ROUNDS: u32 = 100;

/// What a reader wants.
#[derive(Clone, Debug, Default)]
pub struct ReaderOptions {
    /// Ring.
    pub name: String,
    /// Job that the ring must belong to; `None` takes any.
    pub job: Option<String>,
    /// Schema that the ring's must be compatible with; `None` takes any.
    pub schema: Option<Arc<Schema>>,
    /// Where.
    pub dir: DirOptions,
}

/// The attached generation, held for the length of one call.
pub type Attached = Guard<Option<Arc<Ring>>>;

/// What stands at the ring's path.
enum Found {
    /// What is attached.
    Same,
    /// Nothing to read.
    Nothing,
    /// Something new.
    Ring(Arc<Ring>),
}

/// Reads any rank of one ring. Threads may share it; a child of a fork re-attaches by itself.
#[derive(Debug)]
pub struct Reader {
    options: ReaderOptions,
    current: ArcSwapOption<Ring>,
    look_at_ns: AtomicU64,
    closed: AtomicBool,
}

impl Reader {
    /// A reader of ring `options.name`, which need not exist yet.
    pub fn open(options: ReaderOptions) -> Result<Self, Error> {
        check_name(&options.name)?;
        Ok(Self {
            options: ReaderOptions { dir: options.dir.resolved(), ..options },
            current: ArcSwapOption::empty(),
            look_at_ns: AtomicU64::new(0),
            closed: AtomicBool::new(false),
        })
    }

    /// What this reader was opened with.
    pub fn options(&self) -> &ReaderOptions {
        &self.options
    }

    /// The directory of the ring, `None` where there is none yet.
    pub fn directory(&self) -> Result<Option<Directory>, Error> {
        Directory::open(&self.options.dir)
    }

    /// True while `ring`, which [`Self::ring`] gave, need not be asked for again: loads only.
    #[inline]
    pub fn is_fresh(&self, ring: &Ring) -> bool {
        ring.is_here() && !ring.is_left() && clock::coarse_ns() < self.look_at_ns.load(Ordering::Relaxed)
    }

    /// The generation to read now; holds `None` while there is no ring. Looks at the path at most once a second.
    #[inline]
    pub fn ring(&self) -> Result<Attached, Error> {
        let current = self.current.load();
        match &*current {
            Some(ring) if self.is_fresh(ring) => Ok(current),
            _ => self.look(),
        }
    }

    /// The ring's bell, once it has one that this process may write.
    pub fn bell(&self, ring: &Ring) -> Option<Arc<BellFile>> {
        if let Some(bell) = ring.bell.load_full() {
            return Some(bell);
        }
        // A bell that may not be opened is one that waiters do without; they poll.
        let directory = self.directory().ok().flatten()?;
        let found = Arc::new(BellFile::open(&directory, &self.options.name, ring.header.nonce).ok().flatten()?);
        ring.bell.store(Some(Arc::clone(&found)));
        Some(found)
    }

    #[cold]
    fn look(&self) -> Result<Attached, Error> {
        if self.is_closed() {
            return Err(Error::Closed("reader")); // whatever stands at the path now
        }
        // No lock: two threads that attach at once make one mapping too many, and a child of a fork can never meet a
        // lock that nobody is left to free.
        for _ in 0..ROUNDS {
            let next = self.attach()?;
            // Only now: while there is nothing to attach to, each call looks again.
            self.look_at_ns.store(clock::coarse_ns() + LOOK_EVERY_NS, Ordering::SeqCst);
            let inode = match next {
                Found::Same => break,
                Found::Nothing => {
                    self.put(None);
                    break;
                }
                Found::Ring(ring) => {
                    let inode = ring.inode;
                    self.put(Some(ring));
                    inode
                }
            };
            // Another thread may have attached to something newer meanwhile, which this one just displaced.
            if self.options.dir.names(&format!("{}{RING}", self.options.name), inode) {
                break;
            }
        }
        if self.closed.load(Ordering::SeqCst) {
            self.look_at_ns.store(0, Ordering::SeqCst);
            self.put(None);
            return Err(Error::Closed("reader"));
        }
        Ok(self.current.load())
    }

    /// Puts `next` in the place of what was attached, and tells whoever still holds that one.
    fn put(&self, next: Option<Arc<Ring>>) {
        if let Some(old) = self.current.swap(next) {
            old.leave();
        }
    }

    fn attach(&self) -> Result<Found, Error> {
        let name = &self.options.name;
        let file_name = format!("{name}{RING}");
        for _ in 0..ROUNDS {
            if let Some(ring) = &*self.current.load()
                && ring.is_here()
                && self.options.dir.names(&file_name, ring.inode)
            {
                if let Some(bell) = &*ring.bell.load()
                    && !self.options.dir.names(&format!("{name}{BELL}"), bell.inode())
                {
                    ring.bell.store(None); // a writer makes another; the next wait looks for it
                }
                return Ok(Found::Same);
            }
            let Some(directory) = self.directory()? else {
                return Ok(Found::Nothing);
            };
            // Whatever comes next, the old generation is no answer any more.
            self.put(None);
            let Some(file) = RingFile::open(&directory, name, Access::Read)? else {
                return Ok(Found::Nothing);
            };
            if file.header.boot_id != clock::boot_id()? {
                return Ok(Found::Nothing); // nobody of this boot has written it
            }
            self.check(&file)?;
            let ring = Ring::attach(file)?;
            if directory.inode(&file_name) == ring.inode {
                return Ok(Found::Ring(Arc::new(ring)));
            }
        }
        Ok(Found::Nothing)
    }

    fn check(&self, file: &RingFile) -> Result<(), Error> {
        let (name, header) = (&self.options.name, &file.header);
        if let Some(job) = self.options.job.as_ref().filter(|&job| *job != header.job) {
            return Err(Error::LayoutMismatch(format!(
                "ring {name:?} belongs to job {:?}, this reader wants job {job:?}; choose another name for one of them",
                header.job
            )));
        }
        match &self.options.schema {
            Some(schema) => Schema::compatible(&header.schema, schema)
                .map_err(|reason| Error::LayoutMismatch(format!("ring {name:?} does not fit this reader: {reason}"))),
            None => Ok(()),
        }
    }

    /// Forgets the mapping; it is unmapped when the last call that holds it returns. Later reads give [`Error::Closed`].
    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.look_at_ns.store(0, Ordering::SeqCst);
        self.put(None);
    }

    /// True after [`Self::close`].
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }
}

/// Checks a rank that came from outside.
#[inline]
pub fn check_rank(rank: i64, ranks: u32) -> Result<u32, Error> {
    u32::try_from(rank).ok().filter(|&rank| rank < ranks).ok_or(Error::RankOutOfRange { rank, ranks })
}
