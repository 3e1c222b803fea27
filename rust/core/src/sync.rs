//! The only place that chooses between real atomics and loom's.
//!
//! Under `--cfg loom` the seqlock, the slot and the bell run on loom's atomics, so the model checker executes the very
//! files that ship. `clippy.toml` bans the raw types everywhere else.
#![allow(clippy::disallowed_types, reason = "this module is the switch")]

#[cfg(not(loom))]
pub use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, compiler_fence, fence};

#[cfg(loom)]
pub use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
