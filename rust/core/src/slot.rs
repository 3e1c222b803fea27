//! One rank's slot: a ring of cells with one writer, over borrowed atomic words and free of `unsafe`.
//!
//! The writer never touches the newest complete cell, so a reader of a dead writer succeeds at the first try, and a
//! reader of a busy one is only turned away when `cells - 1` further publishes happen during one copy.

use crate::error::Error;
use crate::layout::{Geometry, cell, slot};
use crate::seqlock;
use crate::sync::{AtomicU64, Ordering};

/// Tries of one read before it gives up; a try fails only when the writer laps the whole slot during one copy.
pub const TRIES: u32 = 64;

/// Versions and epochs from here on are refused at a claim: `2n` must fit a word for as long as anyone publishes.
const VERSION_LIMIT: u64 = 1 << 62;

/// Where a value comes from, before any relay: the sender's incarnation and its own version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    /// Incarnation: wall clock of the sender's start, ns; for a local writer its epoch.
    pub start: u64,
    /// Incarnation: random part; for a local writer 0.
    pub random: u64,
    /// The sender's own version.
    pub version: u64,
}

/// Everything about a value but the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Version in this slot: 1, 2, 3 ..., dense.
    pub version: u64,
    /// Incarnation of the slot's writer.
    pub epoch: u64,
    /// Where it comes from.
    pub origin: Origin,
    /// `CLOCK_MONOTONIC` of the writer at publish, ns.
    pub mono_ns: u64,
    /// Wall clock of the writer at publish, ns since 1970.
    pub wall_ns: u64,
    /// Bytes of the payload.
    pub len: u64,
}

impl Stamp {
    #[inline]
    fn to_words(self) -> [u64; cell::STAMP_WORDS] {
        let Origin { start, random, version } = self.origin;
        [self.version, self.epoch, start, random, version, self.mono_ns, self.wall_ns, self.len]
    }

    /// The stamp of a row that a read filled.
    ///
    /// # Panics
    /// When the row is shorter than [`cell::PAYLOAD`].
    #[inline]
    pub fn of(row: &[u64]) -> Self {
        let row = &row[..cell::PAYLOAD];
        Self {
            version: row[cell::VERSION],
            epoch: row[cell::EPOCH],
            origin: Origin {
                start: row[cell::ORIGIN_START],
                random: row[cell::ORIGIN_RANDOM],
                version: row[cell::ORIGIN_VERSION],
            },
            mono_ns: row[cell::MONO_NS],
            wall_ns: row[cell::WALL_NS],
            len: row[cell::LEN],
        }
    }
}

/// Outcome of a read into a *row*: words laid out like a cell, so stamp and payload by the offsets of [`cell`]. The
/// first word, the cell's sequence, is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Newest {
    /// Nothing was published yet; the row is as it was.
    Never,
    /// The row holds a complete value, had after `retries` failed tries.
    Complete {
        /// Tries that failed before.
        retries: u32,
    },
    /// Each try met a writer; the row holds nothing of use.
    Contended,
}

/// A slot's words, borrowed from a mapping or, in tests, from a vector.
#[derive(Clone, Copy, Debug)]
pub struct Slot<'a> {
    words: &'a [AtomicU64],
    cells: u64,
    cell_words: usize,
}

impl<'a> Slot<'a> {
    /// The slot that starts at `words[0]`.
    ///
    /// # Panics
    /// When `words` are fewer than the geometry says.
    #[inline]
    pub fn new(words: &'a [AtomicU64], geometry: &Geometry) -> Self {
        Self {
            words: &words[..geometry.slot_words()],
            cells: u64::from(geometry.cells),
            cell_words: geometry.cell_words(),
        }
    }

    /// Last complete version, 0 for none.
    #[inline]
    pub fn head(&self) -> u64 {
        // Pairs with `publish`'s release store. The proof needs no order here, progress does: who sees head n also sees
        // the sequence 2n, so the first try is not wasted.
        self.words[slot::HEAD].load(Ordering::Acquire) // order: head-load
    }

    /// One of the slot's own words, [`slot::EPOCH`] to [`slot::FILLER`].
    #[inline]
    pub fn load(&self, word: usize) -> u64 {
        debug_assert!(word < slot::CELLS);
        self.words[word].load(Ordering::Acquire)
    }

    /// Stores one of the slot's own words; for the holder of the claim.
    #[inline]
    pub fn store(&self, word: usize, value: u64) {
        debug_assert!(word < slot::CELLS && word != slot::HEAD);
        self.words[word].store(value, Ordering::Release);
    }

    /// Says whose clock stamps the slot from now on; before the first publish, because until then it holds somebody
    /// else's stamps.
    #[inline]
    pub(crate) fn own_clock(&self, time_namespace: u64) {
        if self.load(slot::TIME_NS) != time_namespace {
            self.store(slot::TIME_NS, time_namespace);
            self.store(slot::BEAT_NS, 0);
        }
    }

    /// Stores a sign of life at `mono_ns`, where readers can date it.
    pub(crate) fn beat(&self, time_namespace: u64, mono_ns: u64) {
        if self.load(slot::TIME_NS) == time_namespace {
            self.store(slot::BEAT_NS, mono_ns);
        }
    }

    #[inline]
    fn cell(&self, version: u64) -> &'a [AtomicU64] {
        // A division costs as much as the rest of finding a cell; the default is a power of two.
        let mask = self.cells - 1;
        let index = if self.cells & mask == 0 { version & mask } else { version % self.cells };
        let start = slot::CELLS + index as usize * self.cell_words;
        &self.words[start..start + self.cell_words]
    }

    /// Publishes `payload` as version `stamp.version`, which must be the one after the last complete one.
    ///
    /// # Panics
    /// When the payload is larger than a cell.
    #[inline]
    pub fn publish(&self, stamp: &Stamp, payload: &[u64]) {
        seqlock::write(self.cell(stamp.version), stamp.version, &stamp.to_words(), payload);
        // Pairs with `head`'s acquire load.
        self.words[slot::HEAD].store(stamp.version, Ordering::Release); // order: head-store
    }

    /// Copies the newest complete value into `row`, as much of it as fits.
    #[inline]
    pub fn newest(&self, row: &mut [u64]) -> Newest {
        self.newest_within(TRIES, row)
    }

    /// [`Self::newest`] with its own bound on the tries.
    #[inline]
    pub fn newest_within(&self, tries: u32, row: &mut [u64]) -> Newest {
        for retries in 0..tries {
            let head = self.head();
            if head == 0 {
                return Newest::Never;
            }
            if self.version(head, row) {
                return Newest::Complete { retries };
            }
            core::hint::spin_loop();
        }
        Newest::Contended
    }

    /// Sequence word of the newest cell, for its side effect: the caches hold both words afterwards.
    #[inline]
    pub fn touch(&self) -> u64 {
        seqlock::sequence(self.cell(self.head()))
    }

    /// Copies exactly `version` into `row`; false when it is not complete in its cell.
    #[inline]
    pub fn version(&self, version: u64, row: &mut [u64]) -> bool {
        let accepted = seqlock::read(self.cell(version), version, &mut row[1..]) && row[cell::VERSION] == version;
        row[0] = 0;
        accepted
    }

    /// Up to `last` of the newest versions as rows of `row_words` words, oldest first and without a gap.
    ///
    /// At most `cells - 1`: the cell of the one before may be written any time. What the writer laps meanwhile is
    /// dropped from the old end.
    pub fn history(&self, last: usize, row_words: usize) -> Vec<u64> {
        let head = self.head();
        let count = (last as u64).min(self.cells - 1).min(head.saturating_sub(self.load(slot::BASE)));
        let mut rows = Vec::with_capacity(count as usize * row_words);
        let mut row = vec![0; row_words];
        for version in head - count..head {
            if self.version(version + 1, &mut row) {
                rows.extend_from_slice(&row);
            } else {
                rows.clear();
            }
        }
        rows
    }

    /// Makes a claimed slot ready for its new writer; returns the last used version.
    ///
    /// Scans every cell: one counts when sequence, version word and index agree. The highest must be head or the one
    /// after (the old writer died between its two last stores). Sequences never restart, so a complete version is never
    /// used again; an incomplete one is.
    pub fn recover(&self) -> Result<u64, Error> {
        let (head, base, highest) = (self.head(), self.load(slot::BASE), self.highest());
        let limit = head.max(base).max(self.load(slot::EPOCH)) >= VERSION_LIMIT;
        let last = if head == 0 { base } else { head };
        let expected = (head == 0 && highest == 0) || highest == head || (!limit && highest == last + 1);
        if !expected || limit {
            return Err(Error::Untrusted(format!(
                "a slot's head word is {head}, its base {base} and its newest complete cell {highest}: something else than \
                 snapring wrote to this ring; remove it (snapring gc --force)"
            )));
        }
        if highest != head {
            // As `publish`'s: who sees this head also sees what the dead writer stored before.
            self.words[slot::HEAD].store(highest, Ordering::Release); // order: recovered-head
        }
        Ok(highest.max(base))
    }

    /// Last version that anybody used, for a generation that inherits this slot.
    pub fn last_used(&self) -> u64 {
        self.highest().max(self.head()).max(self.load(slot::BASE))
    }

    fn highest(&self) -> u64 {
        (0..self.cells).filter_map(|index| self.complete_at(index)).max().unwrap_or(0)
    }

    fn complete_at(&self, index: u64) -> Option<u64> {
        let cell = self.cell(index);
        let sequence = seqlock::sequence(cell);
        let version = cell[cell::VERSION].load(Ordering::Relaxed);
        (sequence != 0 && sequence.is_multiple_of(2) && sequence / 2 == version && version % self.cells == index)
            .then_some(version)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const ROW: usize = cell::PAYLOAD + 2;

    fn geometry(cells: u32) -> Geometry {
        Geometry::new(1, Some(cells), 16, 0).unwrap()
    }

    fn words(geometry: &Geometry) -> Vec<AtomicU64> {
        (0..geometry.slot_words()).map(|_| AtomicU64::new(0)).collect()
    }

    fn stamp(version: u64) -> Stamp {
        let origin = Origin { start: 1, random: 0, version };
        Stamp { version, epoch: 1, origin, mono_ns: 7, wall_ns: 8, len: 16 }
    }

    #[test]
    fn a_fresh_slot_was_never_published() {
        let geometry = geometry(4);
        let words = words(&geometry);
        assert_eq!(Slot::new(&words, &geometry).newest(&mut [0; ROW]), Newest::Never);
    }

    #[test]
    fn history_is_dense_bounded_and_oldest_first() {
        for cells in [2, 3, 4, 7] {
            let geometry = geometry(cells);
            let words = words(&geometry);
            let slot = Slot::new(&words, &geometry);
            for version in 1..=10 {
                slot.publish(&stamp(version), &[version, version]);
                let rows = slot.history(99, ROW);
                let seen: Vec<u64> = rows.chunks(ROW).map(|row| Stamp::of(row).version).collect();
                let kept = version.min(u64::from(cells) - 1);
                assert_eq!(seen, (version + 1 - kept..=version).collect::<Vec<_>>());
                assert!(rows.chunks(ROW).all(|row| row[cell::PAYLOAD..] == [row[cell::VERSION]; 2]));
            }
        }
    }

    /// Whatever store of a publish is the last one that a killed writer makes, the next writer goes on densely and
    /// the last complete value stays readable.
    #[test]
    fn recovery_after_a_kill_at_each_store() {
        let geometry = geometry(3);
        // The stores of one publish, in order: odd mark, 8 stamp words, 2 payload words, even mark, head.
        for kept in 0..=13 {
            let words = words(&geometry);
            let slot = Slot::new(&words, &geometry);
            for version in 1..=5 {
                slot.publish(&stamp(version), &[version, version]);
            }
            let before: Vec<u64> = words.iter().map(|word| word.load(Ordering::Relaxed)).collect();
            slot.publish(&stamp(6), &[6, 6]);
            let start = slot::CELLS; // 6 mod 3 is cell 0
            let order: Vec<usize> =
                [start].into_iter().chain(start + 1..start + 11).chain([start, slot::HEAD]).collect();
            let after: Vec<u64> = words.iter().map(|word| word.load(Ordering::Relaxed)).collect();
            for (index, word) in words.iter().enumerate() {
                word.store(before[index], Ordering::Relaxed);
            }
            for (step, &index) in order.iter().take(kept).enumerate() {
                words[index].store(if step == 0 { 11 } else { after[index] }, Ordering::Relaxed);
            }
            let complete = if kept >= 12 { 6 } else { 5 };
            let mut row = [0; ROW];
            let seen = if kept >= 13 { 6 } else { 5 };
            assert_eq!(slot.newest(&mut row), Newest::Complete { retries: 0 });
            assert_eq!(row[cell::VERSION], seen);
            assert_eq!(slot.recover().unwrap(), complete, "after {kept} stores");
            slot.publish(&stamp(complete + 1), &[complete + 1, complete + 1]);
            assert_eq!(slot.newest(&mut row), Newest::Complete { retries: 0 });
            assert_eq!(row[cell::PAYLOAD..], [complete + 1; 2]);
        }
    }

    #[test]
    fn a_scribbled_slot_is_not_claimed() {
        let geometry = geometry(4);
        for (word, value) in [
            (slot::HEAD, 9),
            (slot::HEAD, u64::MAX),
            (slot::CELLS, 2 * 8),
            (slot::BASE, 1 << 62),
            (slot::EPOCH, u64::MAX),
        ] {
            let words = words(&geometry);
            let slot = Slot::new(&words, &geometry);
            for version in 1..=3 {
                slot.publish(&stamp(version), &[0, 0]);
            }
            words[word].store(value, Ordering::Relaxed);
            if word == slot::CELLS {
                words[word + cell::VERSION].store(value / 2, Ordering::Relaxed);
            }
            assert!(matches!(slot.recover(), Err(Error::Untrusted(_))), "word {word}");
        }
    }

    #[test]
    fn hostile_words_end_in_contended() {
        let geometry = geometry(4);
        let words = words(&geometry);
        for head in [1, u64::MAX, 1 << 63, (1 << 63) + 1] {
            words[slot::HEAD].store(head, Ordering::Relaxed);
            let slot = Slot::new(&words, &geometry);
            assert_eq!(slot.newest(&mut [0; ROW]), Newest::Contended);
        }
    }
}
