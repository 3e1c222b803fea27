//! One attached generation with what decodes it; snapshots and views hold it for as long as they live.

use crate::codec::{Source, Unpacker};
use crate::error::{OrRaise, from_core};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use snapring_core::layout::cell;
use snapring_core::record::{self, Place};
use snapring_core::schema::Fill;
use snapring_core::text::Rows;
use snapring_core::{Ask, Codec, Error, Field, Reading, Ring, State};
use std::sync::Arc;

/// First word of a row whose rank published but cannot be read.
pub(crate) const FAULT: u64 = 2;

/// A ring and how its payloads become Python values. A Python object, because its references are counted without the
/// bus lock of an `Arc`; Python code never sees it.
#[pyclass(frozen, module = "snapring._core")]
pub(crate) struct Generation {
    pub(crate) ring: Arc<Ring>,
    pub(crate) unpacker: Unpacker,
    /// Words of a row: stamp and payload.
    pub(crate) row_words: usize,
    pub(crate) max_age_ns: u64,
    /// The field that must equal the slot's rank.
    rank_place: Option<Place>,
    dtype: PyOnceLock<Py<PyAny>>,
}

impl Generation {
    pub(crate) fn new(py: Python<'_>, ring: Arc<Ring>, source: &Source, max_age_ns: u64) -> PyResult<Self> {
        let schema = &ring.header.schema;
        let is_record = schema.codec() == Codec::Record;
        let row_words = if is_record { cell::PAYLOAD + schema.words() } else { ring.row_words() };
        let rank_place = schema.fields().iter().find(|field| field.fill == Some(Fill::Rank)).map(Field::place);
        Ok(Self {
            unpacker: Unpacker::new(py, source, schema)?,
            row_words,
            max_age_ns,
            rank_place,
            ring,
            dtype: PyOnceLock::new(),
        })
    }

    /// The dtype of rows as numpy sees them: the record's fields behind the stamp.
    pub(crate) fn dtype(&self, py: Python<'_>) -> PyResult<&Py<PyAny>> {
        self.dtype.get_or_try_init(py, || row_dtype(py, &self.ring.header.schema_text))
    }

    /// Words for `count` rows.
    #[inline]
    pub(crate) fn rows(&self, count: u32) -> Vec<u64> {
        // Not zeros: those come from calloc, which passes glibc's thread cache by and costs as much as a read.
        vec![u64::MAX; self.row_words * count as usize]
    }

    /// Reads all ranks into new rows; one that never published has version 0 and an absent record, and so has one that
    /// cannot be read, whose first word is [`FAULT`] then.
    pub(crate) fn read_all(&self) -> Vec<u64> {
        let mut rows = self.rows(self.ring.ranks());
        let absent = self.ring.header.schema.absent();
        self.ring.read_all(&mut rows, self.row_words, |rank, row, outcome| {
            let good = matches!(outcome, Ok(true)) && self.names_itself(rank, row);
            if !good {
                row[0] = if matches!(outcome, Ok(false)) { 0 } else { FAULT };
                row[cell::VERSION] = 0;
                row[cell::PAYLOAD..][..absent.len()].copy_from_slice(absent);
            }
        });
        rows
    }

    /// The stamps of all ranks, as [`Self::read_all`] has them before the payloads; whether a payload is sound shows only
    /// there.
    pub(crate) fn stamps(&self) -> Vec<u64> {
        let mut rows = vec![u64::MAX; cell::PAYLOAD * self.ring.ranks() as usize];
        self.ring.read_all(&mut rows, cell::PAYLOAD, |_, row, outcome| {
            if !matches!(outcome, Ok(true)) {
                row[0] = if matches!(outcome, Ok(false)) { 0 } else { FAULT };
                row[cell::VERSION] = 0;
            }
        });
        rows
    }

    /// Shows `look` rows of `row_words` words with their states as of `now_ns`, where a living rank is STALE from
    /// `max_age_ns` on.
    pub(crate) fn with_rows<T>(
        &self,
        words: &[u64],
        row_words: usize,
        max_age_ns: Option<u64>,
        now_ns: u64,
        look: impl FnOnce(&Rows<'_>) -> T,
    ) -> PyResult<T> {
        let states = self.states(words, row_words, max_age_ns.unwrap_or(self.max_age_ns), now_ns)?;
        Ok(look(&Rows { words, row_words, states: &states, nonce: self.ring.header.nonce, now_ns }))
    }

    /// Reads `rank` into `row`, false when it never published; refuses a record that names another rank than its slot's.
    #[inline]
    pub(crate) fn read(&self, rank: u32, row: &mut [u64]) -> PyResult<bool> {
        let published = self.ring.read(rank, row).or_raise()?;
        if published && !self.names_itself(rank, row) {
            return Err(foreign_rank(rank));
        }
        Ok(published)
    }

    /// False when the record says that it is another rank's.
    #[inline]
    pub(crate) fn names_itself(&self, rank: u32, row: &[u64]) -> bool {
        self.rank_place.is_none_or(|place| {
            let payload = &row[cell::PAYLOAD..];
            !record::is_present(payload, place) || record::get_int(payload, place) == i64::from(rank)
        })
    }

    /// State of a rank, asked of the kernel as rarely as the ring allows.
    pub(crate) fn state(&self, rank: u32, reading: Option<&Reading>, ask: Ask) -> PyResult<State> {
        self.ring.state(rank, reading, self.max_age_ns, ask).or_raise()
    }

    /// States of all rows, of `row_words` words each, as of `now_ns`.
    pub(crate) fn states(&self, rows: &[u64], row_words: usize, max_age_ns: u64, now_ns: u64) -> PyResult<Vec<State>> {
        let state = |(rank, row): (u32, &[u64])| {
            if row[0] == FAULT {
                // It published something: a living writer's rank is STALE, any other's DEAD.
                return Ok(if self.ring.is_claimed(rank, Ask::Recent).or_raise()? {
                    State::Stale
                } else {
                    State::Dead
                });
            }
            let reading = Reading::of(row);
            self.ring.state_at(rank, reading.as_ref(), max_age_ns, Ask::Recent, now_ns).or_raise()
        };
        (0u32..).zip(rows.chunks_exact(row_words)).map(state).collect()
    }

    /// Identity of the file, 32 hex digits.
    pub(crate) fn name(&self) -> String {
        let [low, high] = self.ring.header.nonce;
        format!("{high:016x}{low:016x}")
    }
}

/// The dtype of rows of records that `text` describes.
pub(crate) fn row_dtype(py: Python<'_>, text: &str) -> PyResult<Py<PyAny>> {
    let layout = py.import("snapring.layout")?;
    Ok(layout.call_method1("dtype_from_schema", (text, cell::PAYLOAD * 8))?.unbind())
}

#[cold]
pub(crate) fn foreign_rank(rank: u32) -> PyErr {
    from_core(Error::Untrusted(format!(
        "the record in slot {rank} names another rank: something else wrote to this ring"
    )))
}
