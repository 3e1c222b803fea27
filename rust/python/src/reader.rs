//! `Reader`: reads any rank as Python values, and waits for change.

use crate::buffer::Words;
use crate::codec::Source;
use crate::error::{InvalidValue, OrRaise};
use crate::generation::{Generation, foreign_rank, row_dtype};
use crate::snapshot::{Batch, Snapshot};
use crate::state::state_object;
use crate::view::{self, View, frombuffer};
use crate::waiting::Waiting;
use crate::whole::Whole;
use arc_swap::ArcSwapOption;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyString, PyType};
use snapring_core::layout::cell;
use snapring_core::reader::check_rank;
use snapring_core::{Ask, Codec, DirOptions, Error, ReaderOptions, Reading, Schema, State, watch};
use std::path::PathBuf;
use std::sync::Arc;

/// Words of a copy above which other threads may run meanwhile: half a megabyte.
const DETACHED_WORDS: usize = 64 * 1024;

/// The native half of `snapring.Reader`, which says how to open one.
///
/// Until there is a ring, reading gives None, an empty list or no rows. What is there but unfit raises LayoutMismatch
/// or RingUntrusted on every call, until a good ring appears; a closed reader raises HandleClosed. Threads may share a
/// reader. In a child of a fork it attaches anew by itself.
#[pyclass(frozen, subclass, weakref, module = "snapring._core", name = "Reader")]
pub(crate) struct Reader {
    core: Arc<snapring_core::Reader>,
    /// `schema text -> (compiled, decode)`, asked once per generation.
    source: Py<PyAny>,
    max_age_ns: u64,
    generation: ArcSwapOption<Py<Generation>>,
    waiting: ArcSwapOption<Waiting>,
}

impl Reader {
    /// The generation to read now.
    #[inline]
    pub(crate) fn generation(&self, py: Python<'_>) -> PyResult<Option<Py<Generation>>> {
        match &*self.generation.load() {
            Some(generation) if self.core.is_fresh(&generation.get().ring) => Ok(Some(generation.clone_ref(py))),
            _ => self.look(py),
        }
    }

    #[cold]
    fn look(&self, py: Python<'_>) -> PyResult<Option<Py<Generation>>> {
        let attached = self.core.ring().or_raise()?;
        let Some(ring) = &*attached else {
            self.generation.store(None); // nothing keeps a removed ring mapped
            return Ok(None);
        };
        if let Some(generation) = &*self.generation.load()
            && Arc::ptr_eq(&generation.get().ring, ring)
        {
            return Ok(Some(generation.clone_ref(py)));
        }
        let (compiled, convert) = self.source.bind(py).call1((&ring.header.schema_text,))?.extract()?;
        let source = Source { compiled, convert };
        let generation = Py::new(py, Generation::new(py, Arc::clone(ring), &source, self.max_age_ns)?)?;
        self.generation.store(Some(Arc::new(generation.clone_ref(py))));
        Ok(Some(generation))
    }

    /// What this reader decodes is a record, as far as it knows without a ring.
    fn is_record(&self) -> bool {
        self.core.options().schema.as_ref().is_none_or(|schema| schema.codec() == Codec::Record)
    }

    /// No rows of this reader's own records; without a class of its own, of no fields.
    fn no_records<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let schema = self.core.options().schema.as_ref().filter(|schema| schema.codec() == Codec::Record);
        let dtype = schema.map(|schema| row_dtype(py, &schema.to_json())).transpose()?;
        let dtype = dtype.unwrap_or_else(|| PyString::new(py, "V8").into_any().unbind());
        py.import("numpy")?.call_method1("empty", (0, dtype))
    }

    /// What this process knows of changes; one for all threads.
    fn waiting(&self) -> PyResult<Arc<Waiting>> {
        loop {
            let current = self.waiting.load();
            if let Some(waiting) = &*current
                && waiting.is_here()
            {
                return Ok(Arc::clone(waiting));
            }
            self.waiting.compare_and_swap(&current, Some(Arc::new(Waiting::new(self.max_age_ns)?)));
        }
    }
}

#[pymethods]
impl Reader {
    // For annotations: `Reader[LoadSnapshot]`.
    #[classmethod]
    fn __class_getitem__(class: &Bound<'_, PyType>, item: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        Ok(class.py().import("types")?.getattr("GenericAlias")?.call1((class, item))?.unbind())
    }

    #[new]
    #[pyo3(signature = (name, schema, source, *, max_age, job, dir, allow_disk))]
    fn new(
        name: String,
        schema: Option<&str>,
        source: Py<PyAny>,
        max_age: f64,
        job: Option<String>,
        dir: Option<PathBuf>,
        allow_disk: bool,
    ) -> PyResult<Self> {
        if max_age.is_nan() || max_age < 0.0 {
            return Err(InvalidValue::new_err(format!("max_age is in seconds, 0 or more, not {max_age}")));
        }
        let parse = |text| Schema::parse(text).map_err(|error| InvalidValue::new_err(error.to_string()));
        let schema = schema.map(parse).transpose()?.map(Arc::new);
        let options = ReaderOptions { name, job, schema, dir: DirOptions { path: dir, allow_disk } };
        Ok(Self {
            core: Arc::new(snapring_core::Reader::open(options).or_raise()?),
            source,
            max_age_ns: watch::seconds_to_ns(max_age),
            generation: ArcSwapOption::empty(),
            waiting: ArcSwapOption::empty(),
        })
    }

    /// Copy the newest snapshot of `rank`; None where it never published, and while there is no ring.
    ///
    /// One copy out of shared memory, no lock, and no system call but one look at the ring's path per second. What one
    /// reader returns for a rank never goes back to an older version.
    ///
    /// Raises
    /// ------
    /// RankOutOfRange
    ///     The ring has ranks 0 to `ranks` - 1 only.
    /// Contended
    ///     A writer that never paused kept each of a bounded number of tries from a whole copy, and no earlier copy is
    ///     at hand. Where one is, it is returned, with `Snapshot.contended` set.
    /// HandleClosed, LayoutMismatch, RingUntrusted
    ///     As every call.
    ///
    /// Examples
    /// --------
    /// >>> import snapring
    /// >>> with snapring.Writer("reading", rank=0, ranks=2) as writer, snapring.Reader("reading") as reader:
    /// ...     _ = writer.publish(snapring.LoadSnapshot(num_running_reqs=12))
    /// ...     snap = reader.read(0)
    /// ...     snap["num_running_reqs"], snap.version, reader.read(1)
    /// (12, 1, None)
    fn read(&self, py: Python<'_>, rank: Whole) -> PyResult<Option<Snapshot>> {
        let Some(generation) = self.generation(py)? else {
            // Nothing says yet how many ranks there are.
            return if rank.0 < 0 {
                Err(Error::RankOutOfRange { rank: rank.0, ranks: 0 }).or_raise()
            } else {
                Ok(None)
            };
        };
        let at = generation.get();
        let rank = check_rank(rank.0, at.ring.ranks()).or_raise()?;
        let mut row = at.rows(1);
        let published = at.read(rank, &mut row)?;
        Ok(published.then(|| Snapshot::own(generation, rank, row)))
    }

    /// Copy the newest snapshot of each rank that has published, in order of rank.
    ///
    /// Each is whole by itself; they are not of one instant. They share one block of memory. A rank that cannot be read is
    /// left out and takes no other along; `read` of it raises what is wrong, and `View.faults` shows it.
    fn read_all<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let snapshots = PyList::empty(py);
        let Some(generation) = self.generation(py)? else {
            return Ok(snapshots);
        };
        let at = generation.get();
        let words = at.row_words;
        let rows = at.read_all();
        let batch = Py::new(py, Batch { generation, rows })?;
        for (rank, row) in (0u32..).zip(batch.get().rows.chunks_exact(words)) {
            if row[cell::VERSION] != 0 {
                snapshots.append(Py::new(py, Snapshot::shared(batch.clone_ref(py), rank))?)?;
            }
        }
        Ok(snapshots)
    }

    /// Copy the newest record of every rank into arrays, a row per rank: the cheapest way to look at many.
    ///
    /// Raises as `read` does, and InvalidValue for a ring of bytes or msgpack.
    fn view(&self, py: Python<'_>) -> PyResult<View> {
        let Some(generation) = self.generation(py)? else {
            let records = self.no_records(py)?.unbind();
            return Ok(View { source: view::Source::Nothing { records }, words: Py::new(py, Words::new(Vec::new()))? });
        };
        let at = generation.get();
        let schema = &at.ring.header.schema;
        if schema.codec() != Codec::Record {
            return Err(InvalidValue::new_err("a view needs records; use read_all() for bytes and msgpack"));
        }
        let rows = at.read_all();
        let words = Py::new(py, Words::new(rows))?;
        Ok(View { source: view::Source::Ring(generation), words })
    }

    /// The last publishes of `rank`, oldest first and without a gap: a private copy.
    ///
    /// Parameters
    /// ----------
    /// rank
    ///     0 to `ranks` - 1.
    /// last
    ///     How many at most, 0 or more. A slot gives one less than it has cells, and fewer while its writer is fast.
    ///
    /// Returns
    /// -------
    /// numpy.ndarray or list
    ///     Of records a structured array of shape `(n,)` with the columns of `View.records`; of bytes and msgpack the
    ///     values. Empty where the rank never published. Raises as `read` does, but for Contended.
    ///
    /// Examples
    /// --------
    /// >>> import snapring
    /// >>> with snapring.Writer("past", rank=0, ranks=1) as writer, snapring.Reader("past") as reader:
    /// ...     for count in range(5):
    /// ...         _ = writer.publish(snapring.LoadSnapshot(num_running_reqs=count))
    /// ...     reader.history(0, last=3)["num_running_reqs"].tolist()
    /// [2, 3, 4]
    #[pyo3(signature = (rank, last = Whole(32)), text_signature = "($self, rank, last=32)")]
    fn history(&self, py: Python<'_>, rank: Whole, last: Whole) -> PyResult<Py<PyAny>> {
        let Some(generation) = self.generation(py)? else {
            return if self.is_record() {
                Ok(self.no_records(py)?.unbind())
            } else {
                Ok(PyList::empty(py).into_any().unbind())
            };
        };
        let generation = generation.get();
        let rank = check_rank(rank.0, generation.ring.ranks()).or_raise()?;
        let words = generation.row_words;
        let last = last.count("last")?;
        let copy = || generation.ring.slot(rank).history(last, words);
        // A copy of megabytes lets other threads run; a small one ends sooner than this one would have its turn again.
        let most = last.min(generation.ring.header.geometry.cells as usize);
        let rows = if most * words > DETACHED_WORDS { py.detach(copy) } else { copy() };
        if generation.ring.header.schema.codec() == Codec::Record {
            if !rows.chunks_exact(words).all(|row| generation.names_itself(rank, row)) {
                return Err(foreign_rank(rank));
            }
            let dtype = generation.dtype(py)?.bind(py);
            if rows.is_empty() {
                return Ok(py.import("numpy")?.call_method1("empty", (0, dtype))?.unbind());
            }
            return Ok(frombuffer(py, Words::new(rows), dtype)?.unbind());
        }
        let value = |row: &[u64]| generation.unpacker.unpack(py, &row[cell::PAYLOAD..], row[cell::LEN]);
        Ok(PyList::new(py, rows.chunks_exact(words).map(value).collect::<PyResult<Vec<_>>>()?)?.into_any().unbind())
    }

    /// Ask the kernel now whether `rank` has a living writer, and give its `State`; NEVER where it never published.
    ///
    /// `Snapshot.state` and `View.states` may go by an answer up to 50 ms old. Raises as `read` does.
    fn check(&self, py: Python<'_>, rank: Whole) -> PyResult<Py<PyAny>> {
        let Some(generation) = self.generation(py)? else {
            return state_object(py, State::Never);
        };
        let generation = generation.get();
        let rank = check_rank(rank.0, generation.ring.ranks()).or_raise()?;
        let mut row = generation.rows(1);
        generation.read(rank, &mut row)?;
        state_object(py, generation.state(rank, Reading::of(&row).as_ref(), Ask::Now)?)
    }

    /// Wait until the version or state of any rank differs from what the last `poll` saw; before the first, from
    /// nothing.
    ///
    /// Consumes nothing: only `poll` moves on. A publish wakes it. For what rings no bell (a death, an age that passes
    /// `max_age`) it looks every 100 ms; every 10 ms where there is no ring yet, or none with a bell. Meanwhile other
    /// Python threads run, and signals are handled.
    ///
    /// Parameters
    /// ----------
    /// timeout
    ///     Seconds, 0 or more; None waits without end. InvalidValue otherwise.
    ///
    /// Returns
    /// -------
    /// bool
    ///     True for a change, False at the timeout.
    ///
    /// Examples
    /// --------
    /// >>> import snapring
    /// >>> with snapring.Writer("waiting", rank=0, ranks=1) as writer, snapring.Reader("waiting") as reader:
    /// ...     _ = writer.publish(snapring.LoadSnapshot())
    /// ...     reader.wait(timeout=10.0), reader.poll()
    /// (True, [0])
    #[pyo3(signature = (timeout = None))]
    fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        self.waiting()?.wait(py, &self.core, timeout)
    }

    /// A descriptor that is readable while a change waits for `poll`: for select, epoll and event loops.
    ///
    /// Level-triggered: readable until `poll` is called. A wake without news is possible: `poll` then gives an empty
    /// list. Do not read the descriptor, and take it out of the loop before `close`, which closes it. Every call gives
    /// the same one, but a child of a fork has to ask for its own. The first starts a native thread that waits as `wait`
    /// does, until the reader is closed. SystemRefused where there is no descriptor or thread to be had.
    fn fileno(&self, py: Python<'_>) -> PyResult<i32> {
        if self.core.is_closed() {
            return Err(Error::Closed("reader")).or_raise();
        }
        self.waiting()?.fileno(py, &self.core)
    }

    /// The ranks whose version or state changed since the last poll, ascending; at first, every rank that has
    /// published.
    ///
    /// Never waits. Changes in between count once, and a rank that went with its ring counts too. Threads that poll one
    /// reader share the changes among them. Raises as `read` does, but for RankOutOfRange and Contended.
    fn poll(&self, py: Python<'_>) -> PyResult<Vec<u32>> {
        self.waiting()?.poll(py, &self.core)
    }

    /// Name of the ring.
    #[getter]
    fn name(&self) -> &str {
        &self.core.options().name
    }

    /// Seconds after which a snapshot of a living writer is STALE.
    #[getter]
    fn max_age(&self) -> f64 {
        self.max_age_ns as f64 / 1e9
    }

    /// Number of ranks of the ring, 1 to 65,536; None while there is no ring.
    #[getter]
    fn ranks(&self, py: Python<'_>) -> PyResult<Option<u32>> {
        Ok(self.generation(py)?.map(|generation| generation.get().ring.ranks()))
    }

    /// The ring's own description of its payload, the JSON of `snapring.layout`; None while there is no ring.
    #[getter]
    fn schema_text(&self, py: Python<'_>) -> PyResult<Option<String>> {
        Ok(self.generation(py)?.map(|generation| generation.get().ring.header.schema_text.clone()))
    }

    /// Let go of the ring. Snapshots and views that were read stay good. Closing twice is no error.
    fn close(&self) {
        self.core.close();
        self.generation.store(None);
        self.waiting.store(None);
    }

    fn __repr__(&self) -> String {
        let state = if self.core.is_closed() {
            "closed".to_owned()
        } else {
            match self.core.ring().as_deref() {
                Ok(Some(ring)) => format!("{} ranks", ring.ranks()),
                Ok(None) => "not attached yet".to_owned(),
                Err(error) => format!("not attached: {error}"),
            }
        };
        format!("<Reader of ring {:?}: {state}>", self.name())
    }
}
