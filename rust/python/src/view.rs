//! All ranks at once: one copy, looked at as columns.

use crate::buffer::Words;
use crate::error::{InvalidValue};
use crate::generation::Generation;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyString};
use snapring_core::{Reading, State, clock};
use std::sync::Arc;

static NUMPY: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

/// `numpy.frombuffer(buffer, dtype)`.
pub(crate) fn frombuffer<'py>(py: Python<'py>, buffer: impl IntoPyObject<'py>, dtype: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let function = NUMPY.get_or_try_init(py, || py.import("numpy")?.getattr("frombuffer").map(Bound::unbind))?;
    function.bind(py).call1((buffer, dtype))
}

fn column<'py>(py: Python<'py>, dtype: &str, bytes: impl Iterator<Item = u8>) -> PyResult<Bound<'py, PyAny>> {
    let bytes: Vec<u8> = bytes.collect();
    if bytes.is_empty() {
        // numpy refuses an empty buffer.
        return py.import("numpy")?.call_method1("empty", (0, dtype));
    }
    frombuffer(py, PyBytes::new(py, &bytes), PyString::new(py, dtype).as_any())
}

#[pyclass(frozen, module = "snapring", name = "View")]
pub(crate) struct View {
    /// `None` while there is no ring: no rows.
    pub(crate) generation: Option<Arc<Generation>>,
    pub(crate) readings: Vec<Option<Reading>>,
    pub(crate) payload: Arc<Vec<u64>>,
    pub(crate) records: PyOnceLock<Py<PyAny>>,
}

impl View {
    fn states(&self) -> PyResult<Vec<State>> {
        let Some(generation) = &self.generation else {
            return Ok(Vec::new());
        };
        (0u32..).zip(&self.readings).map(|(rank, reading)| generation.state(rank, reading.as_ref(), false)).collect()
    }
}

#[pymethods]
impl View {
    #[getter]
    fn records(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let make = || match &self.generation {
            Some(generation) => {
                let words = Words::new(Arc::clone(&self.payload));
                Ok::<_, PyErr>(frombuffer(py, words, generation.dtype(py)?.bind(py))?.unbind())
            }
            None => Ok(column(py, "V8", std::iter::empty())?.unbind()),
        };
        Ok(self.records.get_or_try_init(py, make)?.clone_ref(py))
    }

    #[getter]
    fn versions<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let version = |reading: &Option<Reading>| reading.map_or(0, |reading| reading.stamp.version).to_le_bytes();
        column(py, "<u8", self.readings.iter().flat_map(version))
    }

    #[getter]
    fn ages<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let now_ns = clock::mono_ns();
        let age = |reading: &Option<Reading>| {
            reading.map_or(f64::NAN, |reading| now_ns.saturating_sub(reading.since_ns) as f64 / 1e9).to_le_bytes()
        };
        column(py, "<f8", self.readings.iter().flat_map(age))
    }

    #[getter(states)]
    fn states_column<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        column(py, "u1", self.states()?.into_iter().map(|state| state as u8))
    }

    #[getter]
    fn ok<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        column(py, "?", self.states()?.into_iter().map(|state| u8::from(state == State::Live)))
    }

    #[getter]
    fn contended<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        column(py, "?", self.readings.iter().map(|reading| u8::from(reading.is_some_and(|reading| reading.contended))))
    }

    fn present<'py>(&self, py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyAny>> {
        let Some(generation) = &self.generation else {
            return column(py, "?", std::iter::empty());
        };
        let Some(field) = generation.ring.header.schema.field(name) else {
            return Err(InvalidValue::new_err(format!("the ring's records have no field {name:?}")));
        };
        let words = generation.record_words();
        let bits = self.payload.chunks(words.max(1)).map(|row| u8::from(snapring_core::record::is_present(row, field.place())));
        column(py, "?", bits)
    }

    fn __len__(&self) -> usize {
        self.readings.len()
    }

    fn __repr__(&self) -> PyResult<String> {
        let states = self.states()?;
        let count = |wanted: State| states.iter().filter(|&&state| state == wanted).count();
        let (live, stale, dead) = (count(State::Live), count(State::Stale), count(State::Dead));
        Ok(format!("<View of {} ranks: {live} live, {stale} stale, {dead} dead>", states.len()))
    }
}
