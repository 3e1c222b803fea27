//! Fork safety: who am I, and what must a child close.
//!
//! A word in a page that the kernel zeroes in every child (`MADV_WIPEONFORK`) tells parent from child with one load;
//! each handle keeps the word's value from its birth. A claim's descriptor must not live on in a child, or the claim
//! would outlive its writer: an atfork handler closes those.
#![allow(unsafe_code, reason = "madvise, pthread_atfork and close in the child; every block names its fact")]

use crate::claim;
use crate::error::Error;
use crate::file::WHOLE;
use crate::sync::{AtomicI32, AtomicU64, Ordering};
use rustix::fd::{AsRawFd, BorrowedFd, OwnedFd};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous};
use std::sync::OnceLock;

/// Which process a handle belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token(u64);

// The page is mapped once and never unmapped.
static PAGE: OnceLock<&'static AtomicU64> = OnceLock::new();
// Plain memory, so a child inherits its value and counts on from it.
static LAST: AtomicU64 = AtomicU64::new(0);

fn page() -> Result<&'static AtomicU64, Error> {
    if let Some(page) = PAGE.get() {
        return Ok(page);
    }
    let len = crate::layout::PAGE;
    // SAFETY: a new anonymous mapping at the kernel's choice touches no memory that Rust knows of.
    let start = unsafe { mmap_anonymous(core::ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE) }
        .map_err(|error| Error::io("mapping the fork guard", error))?;
    // SAFETY: the range is the mapping just made.
    unsafe { madvise(start, len, Advice::LinuxWipeOnFork) }.map_err(|error| Error::io("guarding against forks", error))?;
    // SAFETY: `start` is a page-aligned mapping that is never unmapped unless this thread lost the race below (then it
    // stays unused), and zero bytes are a valid AtomicU64.
    let word = unsafe { &*start.cast::<AtomicU64>() };
    Ok(PAGE.get_or_init(|| word))
}

impl Token {
    /// This process's token.
    pub fn current() -> Result<Self, Error> {
        let page = page()?;
        match page.load(Ordering::Relaxed) {
            0 => {
                let fresh = LAST.fetch_add(1, Ordering::Relaxed) + 1;
                let now = page.compare_exchange(0, fresh, Ordering::Relaxed, Ordering::Relaxed);
                Ok(Self(now.map_or_else(|other| other, |_| fresh)))
            }
            token => Ok(Self(token)),
        }
    }

    /// True in the process that made the token, false in its children: one load.
    #[inline]
    pub fn is_here(self) -> bool {
        PAGE.get().is_some_and(|page| page.load(Ordering::Relaxed) == self.0)
    }
}

const FREE: i32 = -1;
// A fixed table, because the handler runs between fork and exec, where nothing may allocate or lock.
static CLAIMS: [AtomicI32; 4096] = [const { AtomicI32::new(FREE) }; 4096];
static HANDLER: OnceLock<i32> = OnceLock::new();

/// Descriptors from this number on cannot be adopted.
pub const MAX_ADOPTED: usize = 1 << 16;
// Inode of the adopted socket, by descriptor, 0 for none. Pages that no number of an adopted one falls in cost nothing.
static ADOPTED: [AtomicU64; MAX_ADOPTED] = [const { AtomicU64::new(0) }; MAX_ADOPTED];
// One more than the highest number that was ever adopted, so that the handler need not look at all.
static ADOPTED_END: AtomicU64 = AtomicU64::new(0);

/// Inode of the socket that `fd` names, 0 when it names something else or nothing. Safe between fork and exec.
fn socket_inode(fd: i32) -> u64 {
    let mut stat = core::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: fstat fills the struct when it returns 0, and fails for a number that names nothing.
    let stat = unsafe {
        if libc::fstat(fd, stat.as_mut_ptr()) != 0 {
            return 0;
        }
        stat.assume_init()
    };
    if stat.st_mode & libc::S_IFMT == libc::S_IFSOCK { stat.st_ino } else { 0 }
}

fn adopted(fd: i32) -> Option<&'static AtomicU64> {
    ADOPTED.get(usize::try_from(fd).ok()?)
}

/// Has the socket that a library opened as `fd` closed in children of this process. False when it is none (any more),
/// or its number is [`MAX_ADOPTED`] or more. A later [`adopt`] of the same number takes the place of this one.
pub fn adopt(fd: i32) -> Result<bool, Error> {
    watch_forks()?;
    let inode = socket_inode(fd);
    let Some(entry) = adopted(fd).filter(|_| inode != 0) else { return Ok(false) };
    ADOPTED_END.fetch_max(fd as u64 + 1, Ordering::Relaxed);
    entry.store(inode, Ordering::Relaxed);
    Ok(true)
}

/// Forgets `fd`, which the library has closed or will close by itself.
pub fn disown(fd: i32) {
    if let Some(entry) = adopted(fd) {
        entry.store(0, Ordering::Relaxed);
    }
}

fn watch_forks() -> Result<(), Error> {
    // SAFETY: the handler only touches static atomics and calls fstat and close, all allowed after a fork.
    let registered = *HANDLER.get_or_init(|| unsafe { libc::pthread_atfork(None, None, Some(close_in_child)) });
    match registered {
        0 => Ok(()),
        error => Err(Error::io("registering the fork handler", std::io::Error::from_raw_os_error(error))),
    }
}

extern "C" fn close_in_child() {
    for entry in &CLAIMS {
        let fd = entry.swap(FREE, Ordering::Relaxed);
        if fd != FREE {
            // SAFETY: the number came from an `OwnedFd` in a `ClaimFile` of the parent; in this child that value's drop
            // is told by its token not to close it again.
            unsafe { libc::close(fd) };
        }
    }
    for (fd, entry) in ADOPTED.iter().enumerate().take(ADOPTED_END.load(Ordering::Relaxed) as usize) {
        let inode = entry.swap(0, Ordering::Relaxed);
        // The library may have closed it unseen, and the number may name anything by now.
        if inode != 0 && socket_inode(fd as i32) == inode {
            // SAFETY: the very socket that was adopted, whose library does not run in this child.
            unsafe { libc::close(fd as i32) };
        }
    }
}

/// A descriptor that holds claims: closed in every child of a fork, so that claims end with their process.
#[derive(Debug)]
pub struct ClaimFile {
    fd: Option<OwnedFd>,
    entry: &'static AtomicI32,
    token: Token,
}

impl ClaimFile {
    /// Registers `fd`.
    pub fn new(fd: OwnedFd) -> Result<Self, Error> {
        let token = Token::current()?;
        watch_forks()?;
        let number = fd.as_raw_fd();
        let entry = CLAIMS
            .iter()
            .find(|entry| entry.compare_exchange(FREE, number, Ordering::Relaxed, Ordering::Relaxed).is_ok())
            .ok_or_else(|| Error::Invalid(format!("more than {} writers in one process", CLAIMS.len())))?;
        Ok(Self { fd: Some(fd), entry, token })
    }

    /// The descriptor, in the process that opened it.
    pub fn fd(&self) -> Result<BorrowedFd<'_>, Error> {
        match &self.fd {
            Some(fd) if self.token.is_here() => Ok(rustix::fd::AsFd::as_fd(fd)),
            _ => Err(Error::Forked("writer")),
        }
    }
}

impl Drop for ClaimFile {
    fn drop(&mut self) {
        if self.token.is_here() {
            if let Some(fd) = &self.fd {
                // The close alone would not do: a child on its way from a vfork to its exec shares the description. An
                // error leaves the claim to that close.
                let _ = claim::release(fd, WHOLE);
            }
            self.entry.store(FREE, Ordering::Relaxed);
        } else {
            // The child's handler closed the number already; it may name another file by now.
            core::mem::forget(self.fd.take());
        }
    }
}
