//! What can go wrong, one variant per thing that a caller can do about it.
//!
//! One enum rather than a type per operation: the binding maps each variant to one exception class in one place, and
//! every operation that opens a ring can meet nearly all of them.

use std::io;

/// An error of the ring; the text names the fix.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An option, a name or a value that no ring accepts.
    #[error("{0}")]
    Invalid(String),
    /// No ring of that name.
    #[error("no ring {name:?} in {dir}; start a writer for it, or set SNAPRING_DIR to where its writers run")]
    NotFound {
        /// Name of the ring.
        name: String,
        /// Directory that was looked in.
        dir: String,
    },
    /// Geometry, job or field types differ.
    #[error("{0}")]
    LayoutMismatch(String),
    /// A living writer holds the rank.
    #[error(
        "rank {rank} of ring {name:?} is claimed by a living writer (pid {pid} as it sees itself); stop it, or choose another rank"
    )]
    WriterBusy {
        /// Name of the ring.
        name: String,
        /// The claimed rank.
        rank: u32,
        /// Holder's pid, for display only.
        pid: u64,
    },
    /// Another process owns the relay, and the caller did not want to stand by.
    #[error("{what} is owned by a living process (pid {pid} as it sees itself); stop it, or stand by (standby=True)")]
    OwnerBusy {
        /// What is owned, with its path.
        what: String,
        /// Holder's pid, for display only.
        pid: u64,
    },
    /// The rank is not in the ring.
    #[error("rank {rank} is out of range: ranks go from 0 up to, not including, {ranks}")]
    RankOutOfRange {
        /// What was asked for.
        rank: i64,
        /// Ranks of the ring.
        ranks: u32,
    },
    /// The payload does not fit a cell.
    #[error("a payload of {got} bytes does not fit a cell of {max}; open the writer with payload={got} or more")]
    PayloadTooLarge {
        /// Bytes offered.
        got: usize,
        /// Bytes of a cell.
        max: usize,
    },
    /// The handle was closed.
    #[error("the {0} is closed; open a new one")]
    Closed(&'static str),
    /// The file system has no room.
    #[error(
        "{dir} has too little space for ring {name:?}: {needed} bytes and an inode needed, {free} bytes free; enlarge it (containers: --shm-size), \
         remove stale rings (snapring gc), or take fewer cells"
    )]
    Full {
        /// Name of the ring.
        name: String,
        /// Directory of the ring.
        dir: String,
        /// Bytes of the file.
        needed: u64,
        /// Bytes that the file system has left.
        free: u64,
    },
    /// Something at the path that snapring would not have made.
    #[error("{0}")]
    Untrusted(String),
    /// All tries met a writer, and no earlier value is known.
    #[error(
        "rank {rank} was being written at each of {tries} tries, and no value is kept that is not older than one already read; read again"
    )]
    Contended {
        /// The rank that was read.
        rank: u32,
        /// Tries that were made.
        tries: u32,
    },
    /// Used in a child of the process that opened it.
    #[error("this {0} was opened before a fork and belongs to the parent; open a new one in the child")]
    Forked(&'static str),
    /// The operating system refused.
    #[error("{what}: {source}")]
    Io {
        /// What was tried, with its path.
        what: String,
        /// The system's answer.
        source: io::Error,
    },
}

#[cfg(not(loom))]
impl Error {
    /// What the system answered, and to what.
    pub fn io(what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Io { what: what.into(), source: source.into() }
    }
}
