//! All ranks at once: one copy, looked at as columns.

use crate::buffer::Words;
use crate::error::InvalidValue;
use crate::generation::{FAULT, Generation};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyString};
use snapring_core::layout::cell;
use snapring_core::record::is_present;
use snapring_core::text::Rows;
use snapring_core::{Reading, State, clock};

static NUMPY: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

/// `numpy.frombuffer(buffer, dtype)`.
pub(crate) fn frombuffer<'py>(
    py: Python<'py>,
    buffer: impl IntoPyObject<'py>,
    dtype: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
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

/// All ranks at one look: arrays with a row per rank, and no rows while there is no ring.
///
/// Fixed at the read: `records`, `versions`, `contended`, `present`. Found anew at each look: `ages`, `states`, `ok`.
/// Each row is whole by itself; the rows are not of one instant. `len(view)` is the number of ranks.
///
/// Arrays that were given out never change, so any thread may use them, and a child of a fork.
///
/// Examples
/// --------
/// >>> import snapring
/// >>> with snapring.Writer("arrays", rank=1, ranks=2) as writer, snapring.Reader("arrays", max_age=3600) as reader:
/// ...     _ = writer.publish(snapring.LoadSnapshot(num_running_reqs=3, gen_throughput=None))
/// ...     view = reader.view()
/// ...     int(view.records["num_running_reqs"][1]), view.present("gen_throughput").tolist(), view.states.tolist()
/// (3, [False, False], [0, 1])
#[pyclass(frozen, module = "snapring", name = "View")]
pub(crate) struct View {
    pub(crate) source: Source,
    pub(crate) words: Py<Words>,
}

/// What a view is of.
pub(crate) enum Source {
    Ring(Py<Generation>),
    /// There was no ring: no rows, and these are their records.
    Nothing {
        records: Py<PyAny>,
    },
}

impl View {
    fn generation(&self) -> Option<&Generation> {
        match &self.source {
            Source::Ring(generation) => Some(generation.get()),
            Source::Nothing { .. } => None,
        }
    }

    fn rows(&self) -> std::slice::Chunks<'_, u64> {
        self.words.get().words().chunks(self.generation().map_or(1, |generation| generation.row_words))
    }

    fn states(&self) -> PyResult<Vec<State>> {
        let now_ns = clock::mono_ns();
        let states = |at: &Generation| at.states(self.words.get().words(), at.row_words, at.max_age_ns, now_ns);
        self.generation().map_or(Ok(Vec::new()), states)
    }

    /// The ring's description of its records; `None` while there is no ring.
    pub(crate) fn schema_text(&self) -> Option<&str> {
        self.generation().map(|generation| generation.ring.header.schema_text.as_str())
    }

    pub(crate) fn ranks(&self) -> usize {
        self.rows().len()
    }

    /// Rows that are not the newest, for a writer that never paused.
    pub(crate) fn contended_rows(&self) -> u64 {
        self.rows().filter(|row| Reading::of(row).is_some_and(|reading| reading.contended)).count() as u64
    }

    /// Shows `look` the rows with their states as of now, where a living rank is STALE from `max_age_ns` on.
    pub(crate) fn with_rows<T>(&self, max_age_ns: Option<u64>, look: impl FnOnce(&Rows<'_>) -> T) -> PyResult<T> {
        let now_ns = clock::mono_ns();
        let Some(generation) = self.generation() else {
            return Ok(look(&Rows { words: &[], row_words: 1, states: &[], nonce: [0; 2], now_ns }));
        };
        generation.with_rows(self.words.get().words(), generation.row_words, max_age_ns, now_ns, look)
    }
}

#[pymethods]
impl View {
    /// The records as a read-only structured array of shape `(ranks,)`, a view of the copied memory.
    ///
    /// Columns are called by the fields' dotted names. What is not reported is NaN in a column of floats and -2**63 in
    /// one of integers; `present` tells for sure. Rows of ranks that never published are all absent. `snapring.layout`
    /// has the types.
    #[getter]
    fn records(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        match &self.source {
            Source::Ring(generation) => {
                let dtype = generation.get().dtype(py)?.bind(py);
                Ok(frombuffer(py, self.words.clone_ref(py), dtype)?.unbind())
            }
            Source::Nothing { records } => Ok(records.clone_ref(py)),
        }
    }

    /// The ring's own description of the records, the JSON of `snapring.layout`; None while there is no ring.
    #[getter(schema_text)]
    fn schema_text_object(&self) -> Option<&str> {
        self.schema_text()
    }

    /// Versions, uint64 of shape `(ranks,)`; 0 where the rank never published.
    #[getter]
    fn versions<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        column(py, "<u8", self.rows().flat_map(|row| row[cell::VERSION].to_le_bytes()))
    }

    /// Ages at this moment in seconds, float64 of shape `(ranks,)`; NaN where the rank never published. As
    /// `Snapshot.age`.
    #[getter]
    fn ages<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let age = |row| Reading::of(row).map_or(f64::NAN, |reading| reading.age_ns() as f64 / 1e9);
        column(py, "<f8", self.rows().flat_map(|row| age(row).to_le_bytes()))
    }

    /// States at this moment, uint8 of shape `(ranks,)`: the numbers of `snapring.State`.
    ///
    /// As `Snapshot.state`: for each rank whose row is older than 50 ms the kernel may be asked, at most once per 50 ms
    /// and rank. That is a system call each, so keep the array rather than looking twice.
    #[getter(states)]
    fn states_column<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        column(py, "u1", self.states()?.into_iter().map(|state| state as u8))
    }

    /// Where a rank published but what stands in its slot cannot be read: bool of shape `(ranks,)`. Its row is absent, its
    /// version 0, and `Reader.read` of it raises what is wrong.
    #[getter]
    fn faults<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        column(py, "?", self.rows().map(|row| u8::from(row[0] == FAULT)))
    }

    /// Where the state is LIVE at this moment: bool of shape `(ranks,)`. Costs what `states` costs.
    #[getter]
    fn ok<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        column(py, "?", self.states()?.into_iter().map(|state| u8::from(state == State::Live)))
    }

    /// Where the row is the last good one rather than the newest: bool of shape `(ranks,)`. As `Snapshot.contended`.
    #[getter]
    fn contended<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        column(py, "?", self.rows().map(|row| u8::from(Reading::of(row).is_some_and(|reading| reading.contended))))
    }

    /// Where a field is reported: bool of shape `(ranks,)`.
    ///
    /// Parameters
    /// ----------
    /// name
    ///     A field's dotted name, or a section's.
    ///
    /// Raises
    /// ------
    /// InvalidValue
    ///     The ring's records have no such field.
    fn present<'py>(&self, py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyAny>> {
        let Some(generation) = self.generation() else {
            return column(py, "?", std::iter::empty());
        };
        let Some(field) = generation.ring.header.schema.field(name) else {
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
