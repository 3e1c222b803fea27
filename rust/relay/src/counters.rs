//! What a relay counts: every frame ends in exactly one of these.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident)+) => {
        /// Counters of one relay, from its start; all threads may look at any time.
        #[derive(Debug, Default)]
        pub struct Counters { $($(#[doc = $doc])+ pub $name: AtomicU64,)+ }

        impl Counters {
            /// Names and values, in the order of declaration.
            pub fn all(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name.load(Ordering::Relaxed)),)+]
            }
        }
    };
}

counters! {
    /// Frames and multi-part messages that came in, of any fate.
    received
    /// Snapshots that were published into the ring.
    published
    /// The newest snapshot of a rank, sent again; nothing to do.
    repeated
    /// Signs of life without a snapshot.
    beats
    /// Ranks that said that they close.
    goodbyes
    /// Dropped: no frame at all (magic, version, kind or length).
    undecodable
    /// Dropped: a message of several parts.
    multipart
    /// Dropped: a frame of another job.
    foreign_job
    /// Dropped: a frame of another schema.
    foreign_schema
    /// Dropped: a rank that the ring does not have.
    out_of_range
    /// Dropped: words that no writer would have stored, such as another rank's, or a moment that is no number.
    unsound
    /// Dropped: older than what the slot holds, of the same sender.
    older
    /// Dropped: from a sender that a newer one of the same rank has replaced.
    replaced
    /// Dropped: a local writer holds the rank.
    held_locally
    /// Dropped: the ring could not be written.
    failed
    /// Take-overs of the lock by this process.
    takes
}

/// Adds one.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
