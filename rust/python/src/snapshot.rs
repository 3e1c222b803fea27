//! A snapshot: one copy of one rank's cell, decoded when asked.

use crate::error::InvalidValue;
use crate::generation::Generation;
use crate::state::state_object;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyString, PyType};
use snapring_core::layout::cell;
use snapring_core::{Ask, Reading, clock};

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

/// One published snapshot of one rank: a private copy, which nothing changes.
///
/// Fixed at the read: `value` and fields, `rank`, `version`, `epoch`, `generation`, `origin`, `timestamp`, `contended`.
/// Found anew at each look: `age`, `beat_age`, `state`. To learn of newer publishes, read again.
///
/// `snap["num_running_reqs"]` decodes that field only, much faster than `value`; fields of a section go by dotted
/// names, `snap["memory.weight_gb"]`, which are None where the section is not reported. An unknown name raises
/// InvalidValue, and so does any name for a ring of bytes or msgpack.
///
/// Any thread may use it, and a child of a fork. It keeps its ring mapped, even after the reader was closed. It cannot
/// be pickled; `value` can.
///
/// Examples
/// --------
/// >>> import snapring
/// >>> with snapring.Writer("one-rank", rank=0, ranks=1) as writer, snapring.Reader("one-rank") as reader:
/// ...     _ = writer.publish(snapring.LoadSnapshot(num_running_reqs=1))
/// ...     snap = reader.read(0)
/// ...     _ = writer.publish(snapring.LoadSnapshot(num_running_reqs=2))
/// ...     snap.value.num_running_reqs, snap.version, 0 <= snap.beat_age <= snap.age
/// (1, 1, True)
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

    /// The snapshot as an object: of the reader's schema, bytes, or what msgpack held.
    ///
    /// Decoded at the first look and kept. A field that the ring lacks has the class's default.
    ///
    /// Raises
    /// ------
    /// LayoutMismatch
    ///     The class demands a field that was not reported.
    /// RingUntrusted
    ///     The payload is nothing that a writer stores.
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

    /// The rank, 0 or more.
    #[getter]
    fn rank(&self) -> u32 {
        self.rank
    }

    /// Which publish of the rank this is: 1, 2, 3 ..., without a gap, over restarts of the writer and replacements of
    /// the ring.
    #[getter]
    fn version(&self) -> u64 {
        self.word(cell::VERSION)
    }

    /// Incarnation of the writer that published it, 1 or more.
    #[getter]
    fn epoch(&self) -> u64 {
        self.word(cell::EPOCH)
    }

    /// Identity of the ring file, 32 hex digits. With `epoch` and `version` it identifies the snapshot.
    #[getter]
    fn generation(&self) -> String {
        self.parts().0.name()
    }

    /// Whence it came: (incarnation in two numbers, version there). Of a local writer, (`epoch`, 0, `version`).
    #[getter]
    fn origin(&self) -> (u64, u64, u64) {
        (self.word(cell::ORIGIN_START), self.word(cell::ORIGIN_RANDOM), self.word(cell::ORIGIN_VERSION))
    }

    /// When it was published: seconds since 1970 on the writer's wall clock. For how old it is, look at `age`.
    #[getter]
    fn timestamp(&self) -> f64 {
        self.word(cell::WALL_NS) as f64 / 1e9
    }

    /// Seconds since it was published, 0 or more, at this moment.
    ///
    /// By the monotonic clock, so a jump of the wall clock changes nothing. Where the writer is in another time
    /// namespace, since this reader first saw the version.
    #[getter]
    fn age(&self) -> f64 {
        self.reading().age_ns() as f64 / 1e9
    }

    /// Seconds since the rank's writer last showed life, by a publish or a heartbeat, at this moment; never above
    /// `age`.
    #[getter]
    fn beat_age(&self) -> f64 {
        let last = self.parts().0.ring.last_sign_ns(self.rank, &self.reading());
        clock::mono_ns().saturating_sub(last) as f64 / 1e9
    }

    /// True if a newer publish could not be copied whole in a bounded number of tries, so that this is the last good
    /// one.
    #[getter]
    fn contended(&self) -> bool {
        self.reading().contended
    }

    /// State of the rank at this moment, as far as this snapshot tells: LIVE, STALE or DEAD.
    ///
    /// DEAD once nobody claims the rank. STALE if this snapshot, not a newer one, is older than the reader's `max_age`,
    /// or if another writer has claimed the rank since.
    ///
    /// Costs no system call below an age of 50 ms. Above, the kernel is asked at most once per 50 ms and rank, so that
    /// the death of a writer shows after 50 ms; `Reader.check` asks at once.
    #[getter]
    fn state(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        state_object(py, self.parts().0.state(self.rank, Some(&self.reading()), Ask::Recent)?)
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let state = self.state(py)?.bind(py).getattr("name")?.extract::<String>()?;
        let contended = if self.contended() { ", contended" } else { "" };
        let (version, age) = (self.version(), self.age());
        Ok(format!("<Snapshot of rank {}: version {version}, {age:.3} s old, {state}{contended}>", self.rank))
    }

    #[expect(clippy::unused_self, reason = "Python calls it on an object")]
    fn __reduce__(&self) -> PyResult<()> {
        Err(InvalidValue::new_err("a Snapshot is tied to its ring and cannot be pickled; send .value"))
    }
}
