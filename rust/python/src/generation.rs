//! One attached generation with what decodes it; snapshots and views hold it for as long as they live.

use crate::codec::{Source, Unpacker};
use crate::error::{OrRaise, from_core};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use snapring_core::record::Place;
use snapring_core::schema::Fill;
use snapring_core::{Codec, Error, Reading, Ring, State, Take};
use std::sync::Arc;

/// A ring and how its payloads become Python values.
pub(crate) struct Generation {
    pub(crate) ring: Arc<Ring>,
    pub(crate) unpacker: Unpacker,
    pub(crate) take: Take,
    pub(crate) max_age_ns: u64,
    /// The field that must equal the slot's rank.
    rank_place: Option<Place>,
    dtype: PyOnceLock<Py<PyAny>>,
}

impl Generation {
    pub(crate) fn new(py: Python<'_>, ring: Arc<Ring>, source: &Source, max_age_ns: u64) -> PyResult<Self> {
        let schema = &ring.header.schema;
        let take = if schema.codec() == Codec::Record { Take::Words(schema.words()) } else { Take::Length };
        let rank_place = schema.fields().iter().find(|field| field.fill == Some(Fill::Rank)).map(|field| field.place());
        Ok(Self { unpacker: Unpacker::new(py, source, schema)?, take, max_age_ns, rank_place, ring, dtype: PyOnceLock::new() })
    }

    /// Words of one record, 0 for free payloads.
    pub(crate) fn record_words(&self) -> usize {
        if let Take::Words(words) = self.take { words } else { 0 }
    }

    /// The records' numpy dtype.
    pub(crate) fn dtype(&self, py: Python<'_>) -> PyResult<&Py<PyAny>> {
        let make = || -> PyResult<Py<PyAny>> {
            let layout = py.import("snapring.layout")?;
            Ok(layout.call_method1("dtype_from_schema", (&self.ring.header.schema_text,))?.unbind())
        };
        self.dtype.get_or_try_init(py, make)
    }

    /// Reads `rank`, appending its payload; refuses a record that names another rank than its slot's.
    #[inline]
    pub(crate) fn read(&self, rank: u32, payload: &mut Vec<u64>) -> PyResult<Option<Reading>> {
        let start = payload.len();
        let reading = self.ring.read(rank, self.take, payload).or_raise()?;
        if let (Some(_), Some(place)) = (reading, self.rank_place) {
            let words = &payload[start..];
            if snapring_core::record::is_present(words, place)
                && snapring_core::record::get_int(words, place) != i64::from(rank)
            {
                return Err(foreign_rank(rank));
            }
        }
        Ok(reading)
    }

    /// State of a rank, asked of the kernel as rarely as the ring allows.
    pub(crate) fn state(&self, rank: u32, reading: Option<&Reading>, now: bool) -> PyResult<State> {
        self.ring.state(rank, reading, self.max_age_ns, now).or_raise()
    }

    /// Identity of the file, 32 hex digits.
    pub(crate) fn name(&self) -> String {
        let [low, high] = self.ring.header.nonce;
        format!("{high:016x}{low:016x}")
    }
}

#[cold]
fn foreign_rank(rank: u32) -> PyErr {
    from_core(Error::Untrusted(format!("the record in slot {rank} names another rank: something else wrote to this ring")))
}

