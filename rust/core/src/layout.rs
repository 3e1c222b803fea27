//! The byte layout, format version 1: little-endian 64-bit words, every offset below in words.
//!
//! ```text
//! file    header (whole pages) | slot 0 | slot 1 | ...                    each slot in whole pages of its own
//! pages   skew: (rank mod skews) lines of 64 bytes | slot | padding       so that heads do not share one cache set
//! slot    head, epoch, ... (16 words) | cell 0 | cell 1 | ...             cell n mod cells holds version n
//! cell    seq | version, epoch, origin (3), monotonic ns, wall ns, length | payload words
//! ```
//!
//! A change of any number here raises [`FORMAT`]; a golden file in `tests/data` holds the bytes.

use crate::error::Error;

/// First word of a ring: the bytes `SNAPRING`.
pub const MAGIC: u64 = u64::from_le_bytes(*b"SNAPRING");
/// Version of this layout.
pub const FORMAT: u64 = 1;
/// Alignment of the header's end and of every slot, in bytes.
pub const PAGE: usize = 4096;
/// A line of a processor's cache, bytes.
pub const LINE: usize = 64;
/// Most ranks that a ring may have.
pub const MAX_RANKS: u32 = 65_536;
/// Fewest cells that let a reader finish while the writer is busy with the next one.
pub const MIN_CELLS: u32 = 2;
/// Most cells of one slot.
pub const MAX_CELLS: u32 = 65_536;
/// Largest payload of one cell, in bytes.
pub const MAX_PAYLOAD: usize = 1 << 24;
/// Longest schema text, in bytes.
pub const MAX_SCHEMA: usize = 1 << 20;
/// Longest job id, in bytes.
pub const MAX_JOB: usize = 64;
/// Without another wish, cells are doubled from 4 to 64 while the file stays at or below this many bytes.
pub const DEFAULT_FILE_BYTES: usize = 8 << 20;
/// First byte of the claim range: rank `r` is claimed by a lock on byte `CLAIM_BASE + r`, far past any file's end.
pub const CLAIM_BASE: i64 = 1 << 62;

/// Words of the header.
pub mod header {
    /// [`super::MAGIC`].
    pub const MAGIC: usize = 0;
    /// [`super::FORMAT`].
    pub const FORMAT: usize = 1;
    /// Bytes before the first slot.
    pub const HEADER_BYTES: usize = 2;
    /// Bytes of the whole file.
    pub const FILE_BYTES: usize = 3;
    /// Number of slots.
    pub const RANKS: usize = 4;
    /// Cells of each slot.
    pub const CELLS: usize = 5;
    /// Bytes from slot to slot.
    pub const SLOT_STRIDE: usize = 6;
    /// Bytes from cell to cell.
    pub const CELL_STRIDE: usize = 7;
    /// Largest payload, bytes.
    pub const PAYLOAD_BYTES: usize = 8;
    /// Wall clock at creation, ns since 1970; for display.
    pub const CREATED_NS: usize = 9;
    /// Two words: the kernel's boot id.
    pub const BOOT_ID: usize = 10;
    /// Two words: random identity of this generation.
    pub const NONCE: usize = 12;
    /// Bytes of the job id.
    pub const JOB_LEN: usize = 14;
    /// Eight words: the job id, zero padded.
    pub const JOB: usize = 15;
    /// BLAKE2b-64 of the schema text.
    pub const FINGERPRINT: usize = 23;
    /// Byte offset of the schema text.
    pub const SCHEMA_OFFSET: usize = 24;
    /// Bytes of the schema text.
    pub const SCHEMA_LEN: usize = 25;
    /// Slot r begins `(r mod skews) * 64` bytes into its pages.
    pub const SKEWS: usize = 26;
    /// Non-zero once a newer generation replaces this file.
    pub const RETIRED: usize = 30;
    /// 1 once everything above is in place; stored last.
    pub const READY: usize = 31;
    /// Words of the fixed part; the schema text follows.
    pub const WORDS: usize = 32;
}

/// Words of a slot, before its cells.
pub mod slot {
    /// Last complete version of this generation; 0 means none yet.
    pub const HEAD: usize = 0;
    /// Writer incarnation; each claim adds one.
    pub const EPOCH: usize = 1;
    /// Version inherited from the generation before; the first publish is `BASE + 1`.
    pub const BASE: usize = 2;
    /// Monotonic ns of the last sign of life that is not a publish.
    pub const BEAT_NS: usize = 3;
    /// Inode of the writer's time namespace; monotonic stamps compare only inside one.
    pub const TIME_NS: usize = 4;
    /// Writer's pid as it sees itself; for display.
    pub const PID: usize = 5;
    /// Writer's start time in clock ticks since boot; for display.
    pub const START: usize = 6;
    /// Who fills the slot: [`super::FILLER_LOCAL`] and its siblings.
    pub const FILLER: usize = 7;
    /// First word of cell 0.
    pub const CELLS: usize = 16;
}

/// A process of this host fills the slot: no claim means dead.
pub const FILLER_LOCAL: u64 = 0;
/// A relay fills the slot: no claim means that the relay died, not the rank.
pub const FILLER_RELAY: u64 = 1;
/// A relay saw the rank go.
pub const FILLER_RELAY_DEAD: u64 = 2;

/// Words of a cell.
pub mod cell {
    /// `2n - 1` while version n is written, `2n` once it is complete.
    pub const SEQ: usize = 0;
    /// Version n.
    pub const VERSION: usize = 1;
    /// Epoch of the writer.
    pub const EPOCH: usize = 2;
    /// Origin: incarnation of the sender, wall-clock part; for a local writer its epoch.
    pub const ORIGIN_START: usize = 3;
    /// Origin: incarnation of the sender, random part; for a local writer 0.
    pub const ORIGIN_RANDOM: usize = 4;
    /// Origin: the sender's own version; for a local writer the slot's.
    pub const ORIGIN_VERSION: usize = 5;
    /// `CLOCK_MONOTONIC` at publish, ns.
    pub const MONO_NS: usize = 6;
    /// Wall clock at publish, ns since 1970.
    pub const WALL_NS: usize = 7;
    /// Bytes of the payload.
    pub const LEN: usize = 8;
    /// First payload word.
    pub const PAYLOAD: usize = 9;
    /// Words between `SEQ` and the payload.
    pub const STAMP_WORDS: usize = PAYLOAD - VERSION;
}

const _: () = {
    assert!(header::JOB + MAX_JOB / 8 == header::FINGERPRINT);
    assert!(header::SKEWS < header::RETIRED && header::READY + 1 == header::WORDS);
    assert!(slot::FILLER < slot::CELLS && slot::CELLS * 8 == 128);
    assert!(cell::STAMP_WORDS == 8);
    assert!(PAGE.is_multiple_of(8) && size_of::<usize>() == 8);
    assert!(cfg!(target_endian = "little"), "the format is little-endian and so is every supported machine");
};

/// Sizes of one ring, all derived from four numbers and checked against overflow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Number of slots, 1 to [`MAX_RANKS`].
    pub ranks: u32,
    /// Cells of each slot, [`MIN_CELLS`] to [`MAX_CELLS`].
    pub cells: u32,
    /// Largest payload, bytes; a multiple of 8.
    pub payload_bytes: usize,
    /// Bytes before slot 0.
    pub header_bytes: usize,
    /// Bytes from slot to slot.
    pub slot_stride: usize,
    /// Bytes from cell to cell.
    pub cell_stride: usize,
    /// Slots begin at so many different places in their pages, [`LINE`] apart: the largest power of two that the
    /// padding allows, at most one a line of a page. Words that all ranks share an offset of would fight for one set of a processor's cache.
    pub skews: usize,
    /// Bytes of the whole file.
    pub file_bytes: usize,
}

impl Geometry {
    /// Sizes for `ranks` slots of payloads up to `payload_bytes`, with a schema text of `schema_len` bytes.
    ///
    /// `cells = None` takes the largest power of two in 4..=64 that keeps the file at [`DEFAULT_FILE_BYTES`] or less.
    pub fn new(ranks: u32, cells: Option<u32>, payload_bytes: usize, schema_len: usize) -> Result<Self, Error> {
        if let Some(cells) = cells {
            return Self::with_cells(ranks, cells, payload_bytes, schema_len);
        }
        let mut best = Self::with_cells(ranks, 4, payload_bytes, schema_len)?;
        for cells in [8, 16, 32, 64] {
            match Self::with_cells(ranks, cells, payload_bytes, schema_len) {
                Ok(next) if next.file_bytes <= DEFAULT_FILE_BYTES => best = next,
                _ => break,
            }
        }
        Ok(best)
    }

    fn with_cells(ranks: u32, cells: u32, payload_bytes: usize, schema_len: usize) -> Result<Self, Error> {
        let bounds = [
            ("ranks", ranks as usize, 1, MAX_RANKS as usize),
            ("cells", cells as usize, MIN_CELLS as usize, MAX_CELLS as usize),
            ("payload", payload_bytes, 0, MAX_PAYLOAD),
            ("schema length", schema_len, 0, MAX_SCHEMA),
        ];
        for (what, value, least, most) in bounds {
            if value < least || value > most {
                return Err(Error::Invalid(format!("{what} is {value}; it must be {least} to {most}")));
            }
        }
        let payload_bytes = payload_bytes.next_multiple_of(8);
        let header_bytes = (header::WORDS * 8 + schema_len).next_multiple_of(PAGE);
        let cell_stride = (cell::PAYLOAD * 8 + payload_bytes).next_multiple_of(LINE);
        let sizes = cell_stride
            .checked_mul(cells as usize)
            .and_then(|cells| cells.checked_add(slot::CELLS * 8))
            .and_then(|slot| slot.checked_next_multiple_of(PAGE))
            .and_then(|slot| Some((slot, slot.checked_mul(ranks as usize)?.checked_add(header_bytes)?)))
            .filter(|&(_, file)| i64::try_from(file).is_ok_and(|file| file < CLAIM_BASE));
        let Some((slot_stride, file_bytes)) = sizes else {
            return Err(Error::Invalid(format!(
                "{ranks} ranks of {cells} cells of {payload_bytes} bytes are more than a file can hold"
            )));
        };
        let padding = slot_stride - slot::CELLS * 8 - cells as usize * cell_stride;
        let most = (padding / LINE + 1).min(PAGE / LINE);
        let skews = 1 << most.ilog2();
        Ok(Self { ranks, cells, payload_bytes, header_bytes, slot_stride, cell_stride, skews, file_bytes })
    }

    /// First byte of the pages of `rank`'s slot.
    #[inline]
    pub fn slot_pages(&self, rank: u32) -> usize {
        self.header_bytes + rank as usize * self.slot_stride
    }

    /// Bytes from there to the slot itself.
    #[inline]
    pub fn slot_skew(&self, rank: u32) -> usize {
        (rank as usize & (self.skews - 1)) * LINE
    }

    /// First byte of `rank`'s slot.
    #[inline]
    pub fn slot_offset(&self, rank: u32) -> usize {
        self.slot_pages(rank) + self.slot_skew(rank)
    }

    /// Words of one slot that are in use: its head and cells, without the padding to the page.
    pub fn slot_words(&self) -> usize {
        slot::CELLS + self.cells as usize * self.cell_words()
    }

    /// Words from cell to cell.
    pub fn cell_words(&self) -> usize {
        self.cell_stride / 8
    }

    /// Words of the largest payload.
    pub fn payload_words(&self) -> usize {
        self.payload_bytes / 8
    }

    /// Refuses `len` bytes of `payload` that do not fit a cell, or are less than a whole value: the rest would be an
    /// older version's. `record_bytes` is 0 where payloads are free.
    #[inline]
    pub fn check_payload(&self, record_bytes: usize, payload: &[u64], len: usize) -> Result<(), Error> {
        let held = payload.len() * 8;
        if len > self.payload_bytes || held > self.payload_bytes {
            return Err(Error::PayloadTooLarge { got: len.max(held), max: self.payload_bytes });
        }
        if len > held || (record_bytes != 0 && len != record_bytes) {
            return Err(short(len, payload.len()));
        }
        Ok(())
    }
}

#[cold]
fn short(len: usize, words: usize) -> Error {
    Error::Invalid(format!("a payload of {len} bytes in {words} words is not a whole one; pass all of its words"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_cells_keep_the_file_small() {
        let small = Geometry::new(8, None, 416, 4000).unwrap();
        assert_eq!(small.cells, 64);
        let large = Geometry::new(1000, None, 416, 4000).unwrap();
        assert!(large.cells >= 4 && large.file_bytes <= DEFAULT_FILE_BYTES);
        assert_eq!(Geometry::new(MAX_RANKS, None, 416, 4000).unwrap().cells, 4);
    }

    #[test]
    fn sizes_out_of_range_are_refused() {
        for (ranks, cells, payload) in
            [(0, 4, 8), (MAX_RANKS + 1, 4, 8), (1, 1, 8), (1, MAX_CELLS + 1, 8), (1, 4, MAX_PAYLOAD + 1)]
        {
            assert!(Geometry::new(ranks, Some(cells), payload, 0).is_err(), "{ranks} {cells} {payload}");
        }
    }

    #[test]
    fn the_largest_ring_overflows_nothing() {
        let largest = Geometry::new(MAX_RANKS, Some(MAX_CELLS), MAX_PAYLOAD, MAX_SCHEMA);
        assert!(largest.is_err() || largest.unwrap().file_bytes < CLAIM_BASE as usize);
    }
}
