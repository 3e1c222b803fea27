//! A snapshot: one copy of one rank's cell, decoded when asked.

use crate::error::{InvalidValue};
use crate::generation::Generation;
use crate::state::state_object;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyString, PyType};
use snapring_core::layout::cell;
use snapring_core::{Reading, clock};

/// Rows of one pass over all ranks; its snapshots share it. A Python object for the same reason as [`Generation`].
#[pyclass(frozen, module = "snapring._core")]
pub(crate) struct Batch {
    pub(crate) generation: Py<Generation>,
    pub(crate) rows: Vec<u64>,
}

enum Body {
    Own { generation: Py<Generation>, row: Vec<u64> },
    Shared { batch: Py<Batch> },
}

#[pyclass(frozen, module = "snapring", name = "Snapshot")]
pub(crate) struct Snapshot {
    body: Body,
    rank: u32,
    value: PyOnceLock<Py<PyAny>>,
}

impl Snapshot {
    #[inline]
    pub(crate) fn own(generation: Py<Generation>, rank: u32, row: Vec<u64>) -> Self {
        Self { body: Body::Own { generation, row }, rank, value: PyOnceLock::new() }
    }

    /// The snapshot of `rank`, whose row stands at its index in the batch.
    #[inline]
    pub(crate) fn shared(batch: Py<Batch>, rank: u32) -> Self {
        Self { body: Body::Shared { batch }, rank, value: PyOnceLock::new() }
    }

    #[inline]
    fn parts(&self) -> (&Generation, &[u64]) {
        match &self.body {
            Body::Own { generation, row } => (generation.get(), row),
            Body::Shared { batch } => {
                let batch = batch.get();
                let generation = batch.generation.get();
                let words = generation.row_words;
                (generation, &batch.rows[self.rank as usize * words..][..words])
            }
        }
    }

    #[inline]
    fn word(&self, index: usize) -> u64 {
        self.parts().1[index]
    }

    fn reading(&self) -> Reading {
        Reading::of(self.parts().1).expect("a snapshot is of a rank that published")
    }
}

#[pymethods]
impl Snapshot {
    // For annotations: `Snapshot[LoadSnapshot]`.
    #[classmethod]
    fn __class_getitem__(class: &Bound<'_, PyType>, item: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        Ok(class.py().import("types")?.getattr("GenericAlias")?.call1((class, item))?.unbind())
    }

    #[getter]
    fn value(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let make = || {
            let (generation, row) = self.parts();
            generation.unpacker.unpack(py, &row[cell::PAYLOAD..], row[cell::LEN])
        };
        Ok(self.value.get_or_try_init(py, make)?.clone_ref(py))
    }

    fn __getitem__(&self, py: Python<'_>, name: &Bound<'_, PyString>) -> PyResult<Py<PyAny>> {
        let (generation, row) = self.parts();
        generation.unpacker.field(py, &row[cell::PAYLOAD..], name)
    }

    #[getter]
    fn rank(&self) -> u32 {
        self.rank
    }

    #[getter]
    fn version(&self) -> u64 {
        self.word(cell::VERSION)
    }

    #[getter]
    fn epoch(&self) -> u64 {
        self.word(cell::EPOCH)
    }

    #[getter]
    fn generation(&self) -> String {
        self.parts().0.name()
    }

    #[getter]
    fn origin(&self) -> (u64, u64, u64) {
        (self.word(cell::ORIGIN_START), self.word(cell::ORIGIN_RANDOM), self.word(cell::ORIGIN_VERSION))
    }

    #[getter]
    fn timestamp(&self) -> f64 {
        self.word(cell::WALL_NS) as f64 / 1e9
    }

    #[getter]
    fn age(&self) -> f64 {
        self.reading().age_ns() as f64 / 1e9
    }

    #[getter]
    fn beat_age(&self) -> f64 {
        let last = self.parts().0.ring.last_sign_ns(self.rank, &self.reading());
        clock::mono_ns().saturating_sub(last) as f64 / 1e9
    }

    #[getter]
    fn contended(&self) -> bool {
        self.reading().contended
    }

    #[getter]
    fn state(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        state_object(py, self.parts().0.state(self.rank, Some(&self.reading()), false)?)
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let state = self.state(py)?.bind(py).getattr("name")?.extract::<String>()?;
        let contended = if self.contended() { ", contended" } else { "" };
        let (version, age) = (self.version(), self.age());
        Ok(format!("<Snapshot of rank {}: version {version}, {age:.3} s old, {state}{contended}>", self.rank))
    }

    fn __reduce__(&self) -> PyResult<()> {
        Err(InvalidValue::new_err("a Snapshot is tied to its ring and cannot be pickled; send .value"))
    }
}
