//! The only place that chooses between real atomics and loom's.
//!
//! Under `--cfg loom` the seqlock, the slot and the bell run on loom's atomics, so the model checker executes the very
//! files that ship. A test sees to it that nothing else names the raw ones.

#[cfg(not(loom))]
pub use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering, compiler_fence, fence};

#[cfg(loom)]
pub use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
