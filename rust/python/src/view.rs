//! All ranks at once: one copy, looked at as columns.

use crate::buffer::Words;
use crate::error::{InvalidValue};
use crate::generation::Generation;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyString};
use snapring_core::layout::cell;
use snapring_core::record::is_present;
use snapring_core::{Reading, State};
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
    pub(crate) generation: Option<Py<Generation>>,
    pub(crate) rows: Arc<Vec<u64>>,
    pub(crate) records: PyOnceLock<Py<PyAny>>,
}

impl View {
    fn rows(&self) -> std::slice::Chunks<'_, u64> {
        self.rows.chunks(self.generation.as_ref().map_or(1, |generation| generation.get().row_words))
    }

    fn states(&self) -> PyResult<Vec<State>> {
        let Some(generation) = &self.generation else {
            return Ok(Vec::new());
        };
        let generation = generation.get();
        (0u32..).zip(self.rows()).map(|(rank, row)| generation.state(rank, Reading::of(row).as_ref(), false)).collect()
    }
}

#[pymethods]
impl View {
    #[getter]
    fn records(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let make = || match &self.generation {
            Some(generation) => {
                let words = Words::new(Arc::clone(&self.rows));
                Ok::<_, PyErr>(frombuffer(py, words, generation.get().dtype(py)?.bind(py))?.unbind())
            }
            None => Ok(column(py, "V8", std::iter::empty())?.unbind()),
        };
        Ok(self.records.get_or_try_init(py, make)?.clone_ref(py))
    }

    #[getter]
    fn versions<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        column(py, "<u8", self.rows().flat_map(|row| row[cell::VERSION].to_le_bytes()))
    }

    #[getter]
    fn ages<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let age = |row| Reading::of(row).map_or(f64::NAN, |reading| reading.age_ns() as f64 / 1e9);
        column(py, "<f8", self.rows().flat_map(|row| age(row).to_le_bytes()))
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
        column(py, "?", self.rows().map(|row| u8::from(Reading::of(row).is_some_and(|reading| reading.contended))))
    }

    fn present<'py>(&self, py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyAny>> {
        let Some(generation) = &self.generation else {
            return column(py, "?", std::iter::empty());
        };
        let Some(field) = generation.get().ring.header.schema.field(name) else {
            return Err(InvalidValue::new_err(format!("the ring's records have no field {name:?}")));
        };
        let place = field.place();
        column(py, "?", self.rows().map(|row| u8::from(is_present(&row[cell::PAYLOAD..], place))))
    }

    fn __len__(&self) -> usize {
        self.rows().len()
    }

    fn __repr__(&self) -> PyResult<String> {
        let states = self.states()?;
        let count = |wanted: State| states.iter().filter(|&&state| state == wanted).count();
        let (live, stale, dead) = (count(State::Live), count(State::Stale), count(State::Dead));
        Ok(format!("<View of {} ranks: {live} live, {stale} stale, {dead} dead>", states.len()))
    }
}
