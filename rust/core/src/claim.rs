//! Claims: kernel locks by which exactly one living process may write a slot.
//!
//! An open-file-description lock on byte `CLAIM_BASE + rank`. The kernel frees it when the last descriptor of the
//! description closes, so at any death; it is blind to pids, so it holds across pid namespaces; and a read-only
//! descriptor may ask about it.
#![allow(unsafe_code, reason = "fcntl with OFD locks has no wrapper in rustix")]

use crate::error::Error;
use crate::layout::CLAIM_BASE;
use rustix::fd::{AsFd, AsRawFd};
use std::io;

/// A range of ranks.
#[derive(Clone, Copy, Debug)]
pub struct Range {
    /// First rank.
    pub first: u32,
    /// Number of ranks.
    pub count: u32,
}

impl Range {
    /// One rank.
    pub fn one(rank: u32) -> Self {
        Self { first: rank, count: 1 }
    }
}

fn request(range: Range, kind: i32) -> libc::flock {
    libc::flock {
        l_type: kind as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: CLAIM_BASE + i64::from(range.first),
        l_len: i64::from(range.count),
        l_pid: 0,
    }
}

fn fcntl(file: impl AsFd, command: i32, lock: &mut libc::flock) -> io::Result<()> {
    // SAFETY: the descriptor is open for the call's length (`AsFd` borrows it), and `lock` is a valid flock that the
    // kernel reads and, for the query, writes.
    let answer = unsafe { libc::fcntl(file.as_fd().as_raw_fd(), command, core::ptr::from_mut(lock)) };
    if answer == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Claims `range` without waiting; false when another description holds part of it.
pub fn try_claim(file: impl AsFd, range: Range) -> Result<bool, Error> {
    try_lock(file, range, libc::F_WRLCK)
}

/// Shares `range` with others that share it; false when a description has claimed part of it.
pub fn share(file: impl AsFd, range: Range) -> Result<bool, Error> {
    try_lock(file, range, libc::F_RDLCK)
}

fn try_lock(file: impl AsFd, range: Range, kind: i32) -> Result<bool, Error> {
    match fcntl(file, libc::F_OFD_SETLK, &mut request(range, kind)) {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(false),
        Err(error) => Err(Error::io("locking the claim", error)),
    }
}

/// Gives `range` back.
pub fn release(file: impl AsFd, range: Range) -> Result<(), Error> {
    fcntl(file, libc::F_OFD_SETLK, &mut request(range, libc::F_UNLCK)).map_err(|error| Error::io("unlocking the claim", error))
}

/// True when another description claims part of `range`; needs read access only.
pub fn is_claimed(file: impl AsFd, range: Range) -> Result<bool, Error> {
    // Asked as a read lock, which is what a read-only descriptor could take; writers hold write locks.
    is_locked(file, range, libc::F_RDLCK)
}

/// True when another description claims or shares part of `range`.
pub fn is_shared(file: impl AsFd, range: Range) -> Result<bool, Error> {
    is_locked(file, range, libc::F_WRLCK)
}

fn is_locked(file: impl AsFd, range: Range, kind: i32) -> Result<bool, Error> {
    let mut query = request(range, kind);
    fcntl(file, libc::F_OFD_GETLK, &mut query).map_err(|error| Error::io("asking for the claim", error))?;
    Ok(i32::from(query.l_type) != libc::F_UNLCK)
}
