//! The bell's file, and the system calls behind the protocol of [`crate::bell`].

use crate::bell::{BY_FILE, BY_FUTEX, Bell, full_fence};
use crate::clock;
use crate::dir::{BELL, Directory, FILE_MODE, NEW};
use crate::error::Error;
use crate::file::{full, reserve};
use crate::layout::PAGE;
use crate::mapping::{Access, Mapping};
use crate::sync::{Ordering, compiler_fence};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, OFlags, fchmod, linkat, openat, renameat};
use rustix::io::{Errno, pwrite};
use rustix::thread::futex;
use rustix::thread::{MembarrierCommand, membarrier};
use std::sync::OnceLock;
use std::time::Duration;

const MAGIC: u64 = u64::from_le_bytes(*b"SNAPBELL");
const NONCE: usize = 1; // two words
const ARMED: usize = 3;
const COUNT: usize = 4; // its low half
const TOUCH: u64 = 64; // byte written to wake inotify watchers; holds nothing

static REGISTERED: OnceLock<bool> = OnceLock::new();

/// Does now what the first ring that this process writes would wait for: the kernel takes milliseconds to register a
/// process for barriers, on a busy machine tens of them.
pub fn prepare() {
    registered();
}

/// True when waiters' barriers reach this process, so that its writers need no fence of their own.
fn registered() -> bool {
    *REGISTERED.get_or_init(|| membarrier(MembarrierCommand::RegisterGlobalExpedited).is_ok())
}

/// A mapped bell.
#[derive(Debug)]
pub struct BellFile {
    map: Mapping,
    fd: OwnedFd,
    inode: u64,
    fenced: bool,
}

impl BellFile {
    /// Opens the bell of the generation `nonce` for a waiter; `None` when there is none, or one of another generation.
    pub fn open(directory: &Directory, name: &str, nonce: [u64; 2]) -> Result<Option<Self>, Error> {
        Self::open_as(directory, name, nonce, || false)
    }

    /// Inode of the file: the same path with another one is another bell.
    pub fn inode(&self) -> u64 {
        self.inode
    }

    fn open_as(
        directory: &Directory,
        name: &str,
        nonce: [u64; 2],
        registered: impl FnOnce() -> bool,
    ) -> Result<Option<Self>, Error> {
        let Some((fd, stat)) = directory.open_file(&format!("{name}{BELL}"), OFlags::RDWR)? else {
            return Ok(None);
        };
        if stat.st_size != PAGE as i64 || stat.st_blocks == 0 {
            return Ok(None);
        }
        let map = Mapping::new(&fd, 0, PAGE, Access::Write)?;
        let load = |index: usize| map.words()[index].load(Ordering::Relaxed);
        let fits = load(0) == MAGIC && [load(NONCE), load(NONCE + 1)] == nonce;
        Ok(fits.then(|| Self { map, fd, inode: stat.st_ino, fenced: !registered() }))
    }

    /// Opens the bell of the generation `nonce`, making it where there is none.
    ///
    /// Two writers that replace another generation's at once may end with one bell each; the one that lost its name is
    /// found by the once-a-second look at the path, and waiters look at the heads every 100 ms in any case.
    pub fn open_or_create(directory: &Directory, name: &str, nonce: [u64; 2]) -> Result<Option<Self>, Error> {
        if let Some(bell) = Self::open_as(directory, name, nonce, registered)? {
            return Ok(Some(bell));
        }
        let what = |error| Error::io(format!("making the bell of ring {name:?}"), error);
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let fd = match openat(directory, ".", flags, FILE_MODE) {
            Ok(fd) => fd,
            Err(Errno::NOSPC | Errno::DQUOT) => return Err(full(directory, name, PAGE as u64)),
            Err(error) => return Err(what(error)),
        };
        fchmod(&fd, FILE_MODE).map_err(what)?; // whatever the umask
        reserve(directory, name, &fd, PAGE as u64)?;
        let mut bytes = [0; 24];
        for (chunk, word) in bytes.chunks_mut(8).zip([MAGIC, nonce[0], nonce[1]]) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        pwrite(&fd, &bytes, 0).map_err(what)?;
        let from = format!("/proc/self/fd/{}", fd.as_raw_fd());
        let file = format!("{name}{BELL}");
        if let Err(error) = linkat(CWD, &from, directory, &file, AtFlags::SYMLINK_FOLLOW) {
            if error != Errno::EXIST {
                return Err(what(error));
            }
            if let Some(faster) = Self::open_as(directory, name, nonce, registered)? {
                return Ok(Some(faster));
            }
            let passing = format!("{name}.{:016x}{NEW}", clock::random()?[0]);
            linkat(CWD, &from, directory, &passing, AtFlags::SYMLINK_FOLLOW).map_err(what)?;
            renameat(directory, &passing, directory, &file).map_err(what)?;
        }
        Self::open_as(directory, name, nonce, registered)
    }

    /// The protocol's words.
    pub fn bell(&self) -> Bell<'_> {
        Bell { armed: &self.map.words()[ARMED], count: self.map.word32(COUNT * 2) }
    }

    /// Wakes whoever waits; a load and a compare when nobody does.
    #[inline]
    pub fn ring(&self) {
        let fence = || if self.fenced { full_fence() } else { compiler_fence(Ordering::SeqCst) };
        let ways = self.bell().ring(fence);
        if ways != 0 {
            self.wake(ways);
        }
    }

    #[cold]
    fn wake(&self, ways: u64) {
        // Neither call can fail in a way that matters: a waiter looks again every 100 ms.
        if ways & BY_FUTEX != 0 {
            let _ = futex::wake(self.bell().count, futex::Flags::empty(), i32::MAX as u32);
        }
        if ways & BY_FILE != 0 {
            let _ = pwrite(&self.fd, &[0], TOUCH);
        }
    }

    /// Arms the bell; false when writers may not see it at once, so that the caller must poll.
    pub fn arm(&self, way: u64) -> (u32, bool) {
        let noted = self.bell().arm(way);
        // Stands in for the fence that registered writers leave out.
        (noted, membarrier(MembarrierCommand::GlobalExpedited).is_ok())
    }

    /// Sleeps until rung, while the word is `noted`, for at most `timeout`. Spurious returns are possible.
    pub fn sleep(&self, noted: u32, timeout: Duration) {
        let timeout = rustix::time::Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: i64::from(timeout.subsec_nanos()) };
        let _ = futex::wait(self.bell().count, futex::Flags::empty(), noted, Some(&timeout));
    }
}

impl AsFd for BellFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
