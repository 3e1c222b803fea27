//! One attached generation with what decodes it; snapshots and views hold it for as long as they live.

use crate::codec::{Source, Unpacker};
use crate::error::{OrRaise, Raised, from_core};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use snapring_core::layout::cell;
use snapring_core::record::{self, Place};
use snapring_core::schema::Fill;
use snapring_core::{Ask, Codec, Error, Field, Reading, Ring, State};
use std::sync::Arc;

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

    /// Reads all ranks into new rows; one that never published has version 0 and an absent record.
    pub(crate) fn read_all(&self) -> PyResult<Vec<u64>> {
        let mut rows = self.rows(self.ring.ranks());
        let absent = self.ring.header.schema.absent();
        self.ring
            .read_all(&mut rows, self.row_words, |rank, row, published| {
                if published {
                    self.check(rank, row)?;
                } else {
                    row[cell::PAYLOAD..][..absent.len()].copy_from_slice(absent);
                }
                Ok::<_, Raised>(())
            })
            .map_err(|raised| raised.0)?;
        Ok(rows)
    }

    /// Reads `rank` into `row`, false when it never published; refuses a record that names another rank than its slot's.
    #[inline]
    pub(crate) fn read(&self, rank: u32, row: &mut [u64]) -> PyResult<bool> {
        let published = self.ring.read(rank, row).or_raise()?;
        if published {
            self.check(rank, row)?;
        }
        Ok(published)
    }

    #[inline]
    fn check(&self, rank: u32, row: &[u64]) -> PyResult<()> {
        if let Some(place) = self.rank_place {
            let payload = &row[cell::PAYLOAD..];
            if record::is_present(payload, place) && record::get_int(payload, place) != i64::from(rank) {
                return Err(foreign_rank(rank));
            }
        }
        Ok(())
    }

    /// State of a rank, asked of the kernel as rarely as the ring allows.
    pub(crate) fn state(&self, rank: u32, reading: Option<&Reading>, ask: Ask) -> PyResult<State> {
        self.ring.state(rank, reading, self.max_age_ns, ask).or_raise()
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
fn foreign_rank(rank: u32) -> PyErr {
    from_core(Error::Untrusted(format!(
        "the record in slot {rank} names another rank: something else wrote to this ring"
    )))
}
