//! Mapped files as borrowed atomic words: the one place where memory that other processes write becomes Rust.
//!
//! No reference to the mapping but `&AtomicU64` and `&AtomicU32` ever exists, so a write by another process is a race
//! between atomics, which is defined.
#![allow(unsafe_code, reason = "mmap; every block names the fact that it rests on")]

use crate::error::Error;
use crate::sync::{AtomicU32, AtomicU64};
use core::ffi::c_void;
use core::ptr::NonNull;
use rustix::fd::AsFd;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// A shared mapping of part of a file, unmapped when dropped.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<c_void>,
    len: usize,
}

// SAFETY: the mapping is plain memory of this process until drop, and is only ever reached through atomics.
unsafe impl Send for Mapping {}
// SAFETY: as above; atomics are made for shared access.
unsafe impl Sync for Mapping {}

/// What a mapping may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Loads only; a store would be a fault.
    Read,
    /// Loads and stores.
    Write,
}

impl Mapping {
    /// Maps `len` bytes of `file` from `offset`, both whole pages, with every page present.
    ///
    /// The caller has seen that the file is that long and backed in full; snapring itself never shrinks a file.
    pub fn new(file: impl AsFd, offset: usize, len: usize, access: Access) -> Result<Self, Error> {
        let protection = match access {
            Access::Read => ProtFlags::READ,
            Access::Write => ProtFlags::READ | ProtFlags::WRITE,
        };
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory that Rust knows of.
        let start = unsafe {
            mmap(core::ptr::null_mut(), len, protection, MapFlags::SHARED | MapFlags::POPULATE, file, offset as u64)
        }
        .map_err(|error| Error::io(format!("mapping {len} bytes of the ring"), error))?;
        let start = NonNull::new(start).ok_or_else(|| Error::Invalid("the kernel mapped page zero".into()))?;
        Ok(Self { start, len })
    }

    /// The mapping as 64-bit words.
    #[inline]
    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: `start` is page-aligned and `len` bytes are mapped until drop, which the borrow of self outlasts not;
        // any bytes are a valid AtomicU64; nothing else than atomics reaches them. A mapping made with `Access::Read`
        // is only loaded from: its owners hand out no writer.
        unsafe { core::slice::from_raw_parts(self.start.as_ptr().cast::<AtomicU64>(), self.len / 8) }
    }

    /// One 32-bit word, for the kernel's futexes; `index` counts 32-bit words.
    ///
    /// # Panics
    /// When the word is not inside the mapping.
    #[inline]
    pub fn word32(&self, index: usize) -> &AtomicU32 {
        assert!(index < self.len / 4, "a futex word inside the mapping");
        // SAFETY: as `words`; the index is inside, just checked, and no code reads these four bytes as part of a word.
        unsafe { &*self.start.as_ptr().cast::<AtomicU32>().add(index) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `new` and is unmapped once; no borrow of `words` outlives self.
        let unmapped = unsafe { munmap(self.start.as_ptr(), self.len) };
        debug_assert!(unmapped.is_ok(), "munmap of an own range");
    }
}
