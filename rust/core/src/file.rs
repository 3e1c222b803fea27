//! The ring's file: made in full before it has a name, opened with every check, replaced only when nobody claims it.

use crate::claim::{self, Range};
use crate::clock;
use crate::dir::{BELL, Directory, FILE_MODE, NEW, RING};
use crate::error::Error;
use crate::header::{self, Header, untrusted};
use crate::layout::{MAX_RANKS, PAGE, header as word, slot};
use crate::mapping::{Access, Mapping};
use crate::slot::Slot;
use crate::sync::Ordering;
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, FallocateFlags, Mode, OFlags, fallocate, fchmod, fstat, linkat, openat, renameat};
use rustix::io::{Errno, pread, pwrite};

/// Every rank's claim and, behind them, a byte that only a replacement or a removal claims: who meets it knows that the
/// claim is there for microseconds; so is the last closer's. A writer that makes a file shares that byte until it has its
/// own claim.
pub const WHOLE: Range = Range { first: 0, count: MAX_RANKS + 1 };
/// That byte.
pub const MAINTENANCE: Range = Range { first: MAX_RANKS, count: 1 };

/// What a generation hands to the next, per rank.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Legacy {
    /// Epoch of the last writer.
    pub epoch: u64,
    /// Last used version.
    pub version: u64,
}

/// An open, checked ring file.
#[derive(Debug)]
pub struct RingFile {
    /// Its descriptor.
    pub fd: OwnedFd,
    /// Its inode: the same path with another inode is another generation.
    pub inode: u64,
    /// Its header.
    pub header: Header,
}

impl RingFile {
    /// Opens ring `name`, or gives `None` where there is none.
    pub fn open(directory: &Directory, name: &str, access: Access) -> Result<Option<Self>, Error> {
        let flags = if access == Access::Write { OFlags::RDWR } else { OFlags::RDONLY };
        let Some((fd, stat)) = directory.open_file(&format!("{name}{RING}"), flags)? else {
            return Ok(None);
        };
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        if (stat.st_blocks as u64) * 512 < size {
            return Err(untrusted("part of it has no memory behind it"));
        }
        let fixed = read_words(&fd, word::WORDS)?;
        let header = Header::from_words(&read_words(&fd, header::header_bytes(&fixed)? / 8)?, size)?;
        Ok(Some(Self { fd, inode: stat.st_ino, header }))
    }

    /// True while the path names this file.
    pub fn is_current(&self, directory: &Directory, name: &str) -> bool {
        directory.inode(&format!("{name}{RING}")) == self.inode
    }

    /// True once a newer generation, or a removal, retired the file.
    pub fn is_retired(&self) -> Result<bool, Error> {
        Ok(read_words(&self.fd, word::WORDS)?[word::RETIRED] != 0)
    }

    /// Marks the file retired; the caller holds [`WHOLE`], or is a writer whose file lost its name.
    pub fn retire(&self) -> Result<(), Error> {
        retire(&self.fd)
    }

    /// What the next generation inherits; the caller holds [`WHOLE`], or is a writer whose file lost its name.
    pub fn legacies(&self) -> Result<Vec<Legacy>, Error> {
        let geometry = &self.header.geometry;
        let map = Mapping::new(&self.fd, 0, geometry.file_bytes, Access::Read)?;
        let legacy = |rank| {
            let slot = Slot::new(&map.words()[geometry.slot_offset(rank) / 8..], geometry);
            Legacy { epoch: slot.load(slot::EPOCH), version: slot.last_used() }
        };
        Ok((0..geometry.ranks).map(legacy).collect())
    }
}

/// A second description of the file behind `fd`, with locks of its own.
///
/// Claims need one: a mapping holds on to its description, so a claim on a mapped one would outlive its writer in every
/// child of a fork, which inherits the mapping.
pub fn reopen(fd: impl AsFd) -> Result<OwnedFd, Error> {
    let path = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
    openat(CWD, &path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(|error| Error::io(format!("opening {path}"), error))
}

/// Marks the ring behind `fd` retired.
pub fn retire(fd: impl AsFd) -> Result<(), Error> {
    let map = Mapping::new(fd, 0, PAGE, Access::Write)?;
    map.words()[word::RETIRED].store(1, Ordering::Release);
    Ok(())
}

/// Removes the ring behind `fd`, of `inode`, and its bell. False, and nothing is touched, where another description
/// claims or shares part of [`WHOLE`], or the ring's name is another file's.
///
/// The claim on [`WHOLE`] stays until the description closes: nobody can claim a rank of what was removed.
pub fn remove(directory: &Directory, name: &str, fd: impl AsFd, inode: u64) -> Result<bool, Error> {
    if !claim::try_claim(&fd, WHOLE)? || directory.inode(&format!("{name}{RING}")) != inode {
        return Ok(false);
    }
    retire(&fd)?;
    unlink(directory, name)?;
    Ok(true)
}

/// Takes the names of a ring and of its bell away.
pub fn unlink(directory: &Directory, name: &str) -> Result<(), Error> {
    // The bell first: once the ring's name is free, the next bell is somebody else's.
    directory.unlink(&format!("{name}{BELL}"))?;
    directory.unlink(&format!("{name}{RING}"))
}

/// A finished file, without a name at first.
///
/// While this lives nobody removes or replaces the file: else a removal that never pauses could always win between the
/// name and the maker's claim, and its maker would starve.
#[derive(Debug)]
pub struct Fresh {
    fd: OwnedFd,
    inode: u64,
}

impl Drop for Fresh {
    fn drop(&mut self) {
        // Explicitly: a child of a fork may hold the description open. What the kernel refuses, closing does.
        let _ = claim::release(&self.fd, MAINTENANCE);
    }
}

impl Fresh {
    /// Makes the file of `header` in full: reserved, every page touched, slots inherited, header complete.
    pub fn create(directory: &Directory, name: &str, header: &Header, legacies: &[Legacy]) -> Result<Self, Error> {
        let what = |step: &str| format!("{step} ring {name:?} in {}", directory.path().display());
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let geometry = &header.geometry;
        let fd = match openat(directory, ".", flags, FILE_MODE) {
            Ok(fd) => fd,
            Err(Errno::NOSPC | Errno::DQUOT) => return Err(full(directory, name, geometry.file_bytes as u64)),
            Err(error) => return Err(Error::io(what("making"), error)),
        };
        fchmod(&fd, FILE_MODE).map_err(|error| Error::io(what("setting the mode of"), error))?;
        reserve(directory, name, &fd, geometry.file_bytes as u64)?;
        {
            let map = Mapping::new(&fd, 0, geometry.file_bytes, Access::Write)?;
            for (rank, legacy) in (0..geometry.ranks).zip(legacies) {
                let slot = Slot::new(&map.words()[geometry.slot_offset(rank) / 8..], geometry);
                slot.store(slot::EPOCH, legacy.epoch);
                slot.store(slot::BASE, legacy.version);
            }
        }
        let bytes: Vec<u8> = header.to_words().iter().flat_map(|word| word.to_le_bytes()).collect();
        match pwrite(&fd, &bytes, 0) {
            Ok(written) if written == bytes.len() => {
                claim::share(&fd, MAINTENANCE)?; // nobody else has the file yet, so nobody is in the way
                let inode = fstat(&fd).map_err(|error| Error::io(what("looking at"), error))?.st_ino;
                Ok(Self { fd, inode })
            }
            Ok(_) => Err(Error::Invalid(what("the header was cut off while writing"))),
            Err(error) => Err(Error::io(what("writing the header of"), error)),
        }
    }

    /// Gives the file its name; false when the name is taken.
    pub fn install(&self, directory: &Directory, name: &str) -> Result<bool, Error> {
        self.link(directory, &format!("{name}{RING}"))
    }

    /// Puts the file in the place of another generation. The caller holds [`WHOLE`] of that one and retired it.
    pub fn replace(&self, directory: &Directory, name: &str) -> Result<(), Error> {
        let passing = format!("{name}.{:016x}{NEW}", clock::random()?[0]);
        if !self.link(directory, &passing)? {
            return Err(Error::Invalid(format!("{passing} exists already")));
        }
        renameat(directory, &passing, directory, format!("{name}{RING}"))
            .map_err(|error| Error::io(format!("replacing ring {name:?}"), error))
    }

    /// Removes the file again, unless somebody claims a rank of it: for a maker that could take nothing.
    pub fn withdraw(self, directory: &Directory, name: &str) -> Result<bool, Error> {
        remove(directory, name, &self.fd, self.inode)
    }

    fn link(&self, directory: &Directory, file: &str) -> Result<bool, Error> {
        // An unnamed file has no link yet, so this one is its only one, ever.
        let from = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
        match linkat(CWD, from, directory, file, AtFlags::SYMLINK_FOLLOW) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            Err(error) => Err(Error::io(format!("naming {file}"), error)),
        }
    }
}

/// Reserves `bytes` for `fd`, so that no later store can fault for want of memory.
pub fn reserve(directory: &Directory, name: &str, fd: impl AsFd, bytes: u64) -> Result<(), Error> {
    // A signal may undo all of it on older kernels; its handler has run then, and the next try is a whole one.
    let outcome = rustix::io::retry_on_intr(|| fallocate(&fd, FallocateFlags::empty(), 0, bytes));
    match outcome {
        Ok(()) => Ok(()),
        Err(Errno::NOSPC | Errno::NOMEM | Errno::DQUOT | Errno::FBIG) => Err(full(directory, name, bytes)),
        Err(error) => Err(Error::io(format!("reserving {bytes} bytes in {}", directory.path().display()), error)),
    }
}

/// The error of a file system without room for a file of `needed` bytes.
pub fn full(directory: &Directory, name: &str, needed: u64) -> Error {
    let free = directory.space().map_or(0, |(free, _)| free);
    Error::Full { name: name.to_owned(), dir: directory.path().display().to_string(), needed, free }
}

/// Replaces `old`, which nobody may claim, by a file of `header`. `Ok(None)`: it changed meanwhile, look again.
///
/// `Err(LayoutMismatch)` with `reason` when a claim lives.
pub fn replace(directory: &Directory, name: &str, old: &RingFile, header: &Header, reason: &str) -> Result<Option<Fresh>, Error> {
    if !claim::try_claim(&old.fd, WHOLE)? {
        // The last closer holds everything too, for microseconds; it may have gone, and the file with it, by now.
        if claim::is_claimed(&old.fd, MAINTENANCE)? || !old.is_current(directory, name) {
            return Ok(None);
        }
        return Err(Error::LayoutMismatch(format!(
            "ring {name:?} in {} is in use and does not fit: {reason}; stop its writers, or choose another name",
            directory.path().display()
        )));
    }
    if !old.is_current(directory, name) {
        return Ok(None);
    }
    let new = Fresh::create(directory, name, header, &old.legacies()?)?;
    old.retire()?;
    new.replace(directory, name)?;
    Ok(Some(new)) // dropping `old` closes the description and so frees the range
}

fn read_words(fd: impl AsFd, count: usize) -> Result<Vec<u64>, Error> {
    let mut bytes = vec![0; count * 8];
    let mut filled = 0;
    while filled < bytes.len() {
        match pread(&fd, &mut bytes[filled..], filled as u64) {
            Ok(0) => return Err(untrusted("it is cut off")),
            Ok(read) => filled += read,
            Err(Errno::INTR) => {}
            Err(error) => return Err(Error::io("reading the ring's header", error)),
        }
    }
    let (chunks, _) = bytes.as_chunks::<8>();
    Ok(chunks.iter().map(|chunk| u64::from_le_bytes(*chunk)).collect())
}
