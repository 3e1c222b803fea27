//! A snapshot: one copy of one rank's cell, decoded when asked.

use crate::error::{InvalidValue};
use crate::generation::Generation;
use crate::state::state_object;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyString, PyType};
use snapring_core::{Reading, clock};
use std::sync::Arc;

/// Readings and payloads of one pass over all ranks; its snapshots share it.
pub(crate) struct Batch {
    pub(crate) generation: Arc<Generation>,
    pub(crate) rows: Vec<Row>,
    pub(crate) payload: Vec<u64>,
}

/// One rank of a batch: where its payload stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) rank: u32,
    pub(crate) reading: Reading,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

enum Body {
    Own { generation: Arc<Generation>, rank: u32, reading: Reading, payload: Vec<u64> },
    Shared { batch: Arc<Batch>, index: usize },
}

#[pyclass(frozen, module = "snapring", name = "Snapshot")]
pub(crate) struct Snapshot {
    body: Body,
    value: PyOnceLock<Py<PyAny>>,
}

impl Snapshot {
    #[inline]
    pub(crate) fn own(generation: Arc<Generation>, rank: u32, reading: Reading, payload: Vec<u64>) -> Self {
        Self { body: Body::Own { generation, rank, reading, payload }, value: PyOnceLock::new() }
    }

    #[inline]
    pub(crate) fn shared(batch: Arc<Batch>, index: usize) -> Self {
        Self { body: Body::Shared { batch, index }, value: PyOnceLock::new() }
    }

    #[inline]
    fn parts(&self) -> (&Generation, u32, &Reading, &[u64]) {
        match &self.body {
            Body::Own { generation, rank, reading, payload } => (generation, *rank, reading, payload),
            Body::Shared { batch, index } => {
                let row = &batch.rows[*index];
                (&batch.generation, row.rank, &row.reading, &batch.payload[row.start..row.end])
            }
        }
    }

    fn reading(&self) -> &Reading {
        self.parts().2
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
            let (generation, _, reading, payload) = self.parts();
            generation.unpacker.unpack(py, payload, reading.stamp.len)
        };
        Ok(self.value.get_or_try_init(py, make)?.clone_ref(py))
    }

    fn __getitem__(&self, py: Python<'_>, name: &Bound<'_, PyString>) -> PyResult<Py<PyAny>> {
        let (generation, _, _, payload) = self.parts();
        generation.unpacker.field(py, payload, name)
    }

    #[getter]
    fn rank(&self) -> u32 {
        self.parts().1
    }

    #[getter]
    fn version(&self) -> u64 {
        self.reading().stamp.version
    }

    #[getter]
    fn epoch(&self) -> u64 {
        self.reading().stamp.epoch
    }

    #[getter]
    fn generation(&self) -> String {
        self.parts().0.name()
    }

    #[getter]
    fn origin(&self) -> (u64, u64, u64) {
        let origin = self.reading().stamp.origin;
        (origin.start, origin.random, origin.version)
    }

    #[getter]
    fn timestamp(&self) -> f64 {
        self.reading().stamp.wall_ns as f64 / 1e9
    }

    #[getter]
    fn age(&self) -> f64 {
        self.reading().age_ns() as f64 / 1e9
    }

    #[getter]
    fn beat_age(&self) -> f64 {
        let (generation, rank, reading, _) = self.parts();
        let last = generation.ring.last_sign_ns(rank, reading);
        clock::mono_ns().saturating_sub(last) as f64 / 1e9
    }

    #[getter]
    fn contended(&self) -> bool {
        self.reading().contended
    }

    #[getter]
    fn state(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let (generation, rank, reading, _) = self.parts();
        state_object(py, generation.state(rank, Some(reading), false)?)
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let state = self.state(py)?.bind(py).getattr("name")?.extract::<String>()?;
        let contended = if self.contended() { ", contended" } else { "" };
        Ok(format!("<Snapshot of rank {}: version {}, {:.3} s old, {state}{contended}>", self.rank(), self.version(), self.age()))
    }

    fn __reduce__(&self) -> PyResult<()> {
        Err(InvalidValue::new_err("a Snapshot is tied to its ring and cannot be pickled; send .value"))
    }
}
