//! The wake-up protocol: one armed word, one futex word, over borrowed atomics and free of `unsafe`.
//!
//! A waiter notes the futex word, arms, fences, looks at the heads once more and only then sleeps on the noted word. A
//! writer stores its head, fences, and rings if the bell is armed. Of the two fences one comes first: either the writer
//! sees the bell armed, or the waiter sees the new head. Arming is one-shot, so a waiter that dies costs one wake.
//!
//! Both fences must be full ones: this is store-then-load on both sides, which release and acquire do not order. A
//! writer whose process is registered for global expedited membarriers needs only a compiler fence: the waiter's
//! barrier runs on the writer's processor then.

use crate::sync::{AtomicU32, AtomicU64, Ordering, fence};

/// Bit of the armed word: somebody sleeps on the futex word.
pub const BY_FUTEX: u64 = 1;
/// Bit of the armed word: somebody polls an inotify descriptor of the bell's file.
pub const BY_FILE: u64 = 2;

/// The two words of a bell.
#[derive(Clone, Copy, Debug)]
pub struct Bell<'a> {
    /// Ways in which somebody waits; 0 for nobody.
    pub armed: &'a AtomicU64,
    /// Changes with each ring.
    pub count: &'a AtomicU32,
}

impl Bell<'_> {
    /// First half of a wait: what to sleep on. Look at the heads after this, then sleep while the word is unchanged.
    #[inline]
    pub fn arm(&self, way: u64) -> u32 {
        let noted = self.count.load(Ordering::Acquire);
        self.armed.fetch_or(way, Ordering::Relaxed);
        // Pairs with `ring`'s fence.
        fence(Ordering::SeqCst); // order: bell-waiter
        noted
    }

    /// Called after the head store; returns the ways in which sleepers must be woken, 0 for none.
    #[inline]
    pub fn ring(&self, fence: impl FnOnce()) -> u64 {
        fence();
        if self.armed.load(Ordering::Relaxed) == 0 {
            return 0;
        }
        let ways = self.armed.swap(0, Ordering::Relaxed);
        if ways != 0 {
            // Pairs with `arm`'s load; the kernel compares the word again before it lets anybody sleep.
            self.count.fetch_add(1, Ordering::Release);
        }
        ways
    }
}

/// The fence of a writer without membarrier; pairs with the one in [`Bell::arm`].
#[inline]
pub fn full_fence() {
    fence(Ordering::SeqCst); // order: bell-writer
}
