//! One cell: a payload under a sequence word, over borrowed atomic words and free of `unsafe`.
//!
//! The writer of version n stores `2n - 1`, the words, then `2n`; a reader takes the words only when it saw `2n` before
//! and after. Every access is an atomic one, so a copy that races with a writer is not undefined, only rejected.
//!
//! # The interleavings
//!
//! Call the reader's two loads of the sequence word A and B, and let the writer start version m > n in the same cell.
//!
//! 1. The writer starts after B: the words are n's. Taken, rightly.
//! 2. The writer starts before A: A is `2m - 1` or `2m`. Rejected by A.
//! 3. The writer starts between A and B and the reader saw one of m's words: the reader's acquire fence pairs with the
//!    writer's release fence (both through that word), so B sees `2m - 1` or later. Rejected by B.
//! 4. The writer starts between A and B and the reader saw none of m's words: they are n's, whatever B says.
//!
//! What is read under A alone is n's words or newer ones, never older: A acquires the writer's final release store.

use crate::sync::{AtomicU64, Ordering, fence};

/// Writes `words` as version `n`. One writer per cell at a time; the claim sees to that.
///
/// # Panics
/// When `stamp` and `payload` are more words than the cell has after its sequence word.
#[inline]
pub fn write(cell: &[AtomicU64], n: u64, stamp: &[u64], payload: &[u64]) {
    let (seq, body) = cell.split_first().expect("a cell has a sequence word");
    seq.store(2 * n - 1, Ordering::Relaxed); // the fence below orders it before every word
    // Pairs with `read`'s acquire fence: whoever sees a word below also sees the odd mark above.
    fence(Ordering::Release); // order: writer-odd-mark
    let (stamp_words, payload_words) = body.split_at(stamp.len());
    copy_in(stamp_words, stamp);
    copy_in(payload_words, payload);
    // Pairs with `read`'s acquire load: whoever sees 2n also sees every word of n.
    seq.store(2 * n, Ordering::Release); // order: writer-complete
}

/// Copies version `n` into `row`, as many words as both have; false when the cell does not hold it complete.
///
/// What stands in `row` after a false is of no version.
///
/// # Panics
/// When the cell has no word.
#[inline]
pub fn read(cell: &[AtomicU64], n: u64, row: &mut [u64]) -> bool {
    let (seq, body) = cell.split_first().expect("a cell has a sequence word");
    let complete = n.wrapping_mul(2); // n may be any word of a hostile file
    // Pairs with `write`'s final release store.
    let first = seq.load(Ordering::Acquire); // order: reader-first
    if first != complete {
        return false;
    }
    copy_out(body, row);
    // Pairs with `write`'s release fence. An acquire load below would not do: it orders what follows it, not the copy.
    fence(Ordering::Acquire); // order: reader-fence
    seq.load(Ordering::Relaxed) == complete // the fence above orders it after every word
}

/// Sequence word of a cell, for recovery under a claim.
#[inline]
pub fn sequence(cell: &[AtomicU64]) -> u64 {
    cell[0].load(Ordering::Acquire)
}

// Eight words at a time: LLVM does not join atomic accesses, so a fixed count is what unrolls.
const STEP: usize = 8;

#[inline]
fn copy_in(to: &[AtomicU64], from: &[u64]) {
    let to = &to[..from.len()];
    let (to_steps, to_rest) = to.as_chunks::<STEP>();
    let (from_steps, from_rest) = from.as_chunks::<STEP>();
    for (to, from) in to_steps.iter().zip(from_steps) {
        for (to, from) in to.iter().zip(from) {
            to.store(*from, Ordering::Relaxed);
        }
    }
    for (to, from) in to_rest.iter().zip(from_rest) {
        to.store(*from, Ordering::Relaxed);
    }
}

#[inline]
fn copy_out(from: &[AtomicU64], to: &mut [u64]) {
    let len = from.len().min(to.len());
    let (from_steps, from_rest) = from[..len].as_chunks::<STEP>();
    let (to_steps, to_rest) = to[..len].as_chunks_mut::<STEP>();
    for (to, from) in to_steps.iter_mut().zip(from_steps) {
        for (to, from) in to.iter_mut().zip(from) {
            *to = from.load(Ordering::Relaxed);
        }
    }
    for (to, from) in to_rest.iter_mut().zip(from_rest) {
        *to = from.load(Ordering::Relaxed);
    }
}
