//! Looking after rings: what is there, what is known of each, and removal of what nobody uses.
//!
//! Nothing here waits for a writer or disturbs one. A ring that any living process claims is never removed.

use crate::claim;
use crate::clock;
use crate::dir::{BELL, DirOptions, Directory, NEW, RING, check_name};
use crate::error::Error;
use crate::file::{self, RingFile, WHOLE};
use crate::header::Header;
use crate::layout::{cell, slot as word};
use crate::mapping::Access;
use crate::ring::{Ask, Reading, Ring, State};
use crate::sync::AtomicU32;
use rustix::fs::{AtFlags, FileType, OFlags, statat};
use rustix::thread::{MembarrierQuery, futex, membarrier_query};
use std::sync::Arc;

/// What is known of one rank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RankInfo {
    /// State, as a reader with the same `max_age` sees it.
    pub state: State,
    /// Last complete version, 0 for none in this generation.
    pub version: u64,
    /// Writer incarnation, 0 before the first.
    pub epoch: u64,
    /// Pid of the last writer as it saw itself; for display.
    pub pid: u64,
    /// Its start in clock ticks since boot, 0 when unknown; for display.
    pub start_ticks: u64,
    /// A living process claims the rank.
    pub claimed: bool,
    /// Age of the newest snapshot, ns; `None` when there is none.
    pub age_ns: Option<u64>,
    /// Since the last sign of life, a publish or a heartbeat, ns; `None` when there is no snapshot.
    pub beat_age_ns: Option<u64>,
}

/// What is known of one ring.
#[derive(Clone, Debug)]
pub struct RingInfo {
    /// Its header.
    pub header: Arc<Header>,
    /// Made since the kernel booted; ages of other rings come from the wall clock, and nobody claims them.
    pub this_boot: bool,
    /// Replaced or removed, and about to vanish.
    pub retired: bool,
    /// Every rank, in order.
    pub ranks: Vec<RankInfo>,
}

/// Names of the rings in a directory, sorted; none where there is no directory.
pub fn rings(options: &DirOptions) -> Result<Vec<String>, Error> {
    Directory::open(options)?.map_or_else(|| Ok(Vec::new()), |directory| directory.rings())
}

/// What is known of ring `name`; `max_age_ns` divides LIVE from STALE. Asks the kernel once per rank.
pub fn inspect(options: &DirOptions, name: &str, max_age_ns: u64) -> Result<RingInfo, Error> {
    check_name(name)?;
    let missing = || not_found(options, name);
    let directory = Directory::open(options)?.ok_or_else(missing)?;
    let file = RingFile::open(&directory, name, Access::Read)?.ok_or_else(missing)?;
    let this_boot = file.header.boot_id == clock::boot_id()?;
    let retired = file.is_retired()?;
    let ring = Ring::attach(file)?;
    let ranks =
        (0..ring.ranks()).map(|rank| rank_info(&ring, rank, max_age_ns, this_boot)).collect::<Result<_, _>>()?;
    Ok(RingInfo { header: Arc::clone(&ring.header), this_boot, retired, ranks })
}

fn rank_info(ring: &Ring, rank: u32, max_age_ns: u64, this_boot: bool) -> Result<RankInfo, Error> {
    let slot = ring.slot(rank);
    let claimed = ring.is_claimed(rank, Ask::Now)?;
    let mut row = [0; cell::PAYLOAD]; // the stamp is enough
    let (state, age_ns, beat_age_ns) = match ring.read(rank, &mut row) {
        // Written so fast that no copy could be had, or never again: the claim tells which.
        Err(Error::Contended { .. }) if claimed => (State::Live, Some(0), Some(0)),
        Err(Error::Contended { .. }) => (State::Dead, None, None),
        Err(error) => return Err(error),
        Ok(_) => match Reading::of(&row) {
            None => (State::Never, None, None),
            Some(reading) if this_boot => {
                let beat_age_ns = clock::mono_ns().saturating_sub(ring.last_sign_ns(rank, &reading));
                (ring.state(rank, Some(&reading), max_age_ns, Ask::Recent)?, Some(reading.age_ns()), Some(beat_age_ns))
            }
            Some(reading) => {
                let age_ns = clock::wall_ns().saturating_sub(reading.stamp.wall_ns);
                (State::Dead, Some(age_ns), Some(age_ns))
            }
        },
    };
    Ok(RankInfo {
        state,
        version: slot.head(),
        epoch: slot.load(word::EPOCH),
        pid: slot.load(word::PID),
        start_ticks: slot.load(word::START),
        claimed,
        age_ns,
        beat_age_ns,
    })
}

/// Removes ring `name` and its bell. False, and nothing is touched, when a living process claims a rank of it or is
/// about to, having just made it, or when it was replaced meanwhile.
///
/// `force` also takes a regular file of this user whose header cannot be read; without it that is the header's error.
pub fn remove(options: &DirOptions, name: &str, force: bool) -> Result<bool, Error> {
    check_name(name)?;
    let directory = Directory::open(options)?.ok_or_else(|| not_found(options, name))?;
    match RingFile::open(&directory, name, Access::Write) {
        Ok(Some(ring)) => file::remove(&directory, name, &ring.fd, ring.inode),
        Ok(None) => Err(not_found(options, name)),
        Err(Error::Untrusted(_) | Error::LayoutMismatch(_)) if force => remove_unreadable(options, &directory, name),
        Err(error) => Err(error),
    }
}

fn remove_unreadable(options: &DirOptions, directory: &Directory, name: &str) -> Result<bool, Error> {
    let path = format!("{name}{RING}");
    let (fd, stat) = directory.open_file(&path, OFlags::RDWR)?.ok_or_else(|| not_found(options, name))?;
    // Not marked as retired, which may be outside of so short a file; claimers look at the inode too.
    if !claim::try_claim(&fd, WHOLE)? || directory.inode(&path) != stat.st_ino {
        return Ok(false);
    }
    file::unlink(directory, name)?;
    Ok(true)
}

/// Files that a kill within microseconds left behind: those on their way to replace another, and bells without a ring;
/// regular files of this user, unchanged for `older_than_ns`. Sorted; removed when `remove`.
pub fn leftovers(options: &DirOptions, older_than_ns: u64, remove: bool) -> Result<Vec<String>, Error> {
    let Some(directory) = Directory::open(options)? else {
        return Ok(Vec::new());
    };
    let (files, now_ns, uid) = (directory.files()?, clock::wall_ns(), rustix::process::geteuid().as_raw());
    let passing = |file: &str| file.ends_with(NEW);
    let orphan = |file: &str| {
        let ring = |name| format!("{name}{RING}");
        file.strip_suffix(BELL).is_some_and(|name| files.binary_search(&ring(name)).is_err())
    };
    let old = |file: &str| {
        statat(&directory, file, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|stat| {
            let changed_ns = u64::try_from(stat.st_mtime).unwrap_or(0).saturating_mul(1_000_000_000).saturating_add(stat.st_mtime_nsec);
            let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
            regular && stat.st_uid == uid && now_ns.saturating_sub(changed_ns) >= older_than_ns
        })
    };
    let found: Vec<String> =
        files.iter().filter(|file| (passing(file) || orphan(file)) && old(file)).cloned().collect();
    if remove {
        found.iter().try_for_each(|file| directory.unlink(file))?;
    }
    Ok(found)
}

/// What the kernel offers to waiting readers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Writers need no fence of their own; without it a publish costs some 20 ns more.
    pub membarrier: bool,
    /// Waiters can sleep; without it they are late by up to 100 ms.
    pub futex: bool,
    /// Inode of this process's time namespace, 0 where the kernel has none.
    pub time_namespace: u64,
}

/// Asks the kernel, without registering for anything.
pub fn kernel() -> Kernel {
    let needed = MembarrierQuery::GLOBAL_EXPEDITED | MembarrierQuery::REGISTER_GLOBAL_EXPEDITED;
    let word = AtomicU32::new(0);
    Kernel {
        membarrier: membarrier_query().contains(needed),
        futex: futex::wake(&word, futex::Flags::empty(), 1).is_ok(),
        time_namespace: clock::time_namespace(),
    }
}

fn not_found(options: &DirOptions, name: &str) -> Error {
    Error::NotFound { name: name.to_owned(), dir: options.path().display().to_string() }
}
