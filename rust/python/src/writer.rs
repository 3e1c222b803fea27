//! `Writer`: publishes Python values as one rank.

use crate::codec::{Packer, Source};
use crate::error::{InvalidValue, LayoutMismatch, OrRaise};
use crate::heartbeat::Heartbeat;
use crate::plan::Filler;
use crate::whole::Whole;
use arc_swap::ArcSwap;
use pyo3::prelude::*;
use pyo3::types::PyType;
use snapring_core::{DirOptions, Header, Published, Schema, WriterOptions};
use std::path::PathBuf;
use std::sync::Arc;

/// Generations that one publish follows before it gives up; each is one that somebody replaced meanwhile.
const ROUNDS: u32 = 16;

/// A packer and the header that it packs for.
struct Packed {
    header: Arc<Header>,
    packer: Packer,
}

impl Packed {
    fn new(py: Python<'_>, core: &snapring_core::Writer, source: &Source) -> PyResult<Self> {
        let header = core.header().or_raise()?;
        let packer = Packer::new(py, source, &header.schema)?;
        if let Packer::Record { plan, .. } = &packer
            && !plan.dropped().is_empty()
        {
            let text = format!(
                "ring {:?} was made by an older class: it has no room for {}; these are not published until its writers have all closed, or snapring gc --yes removed it after they died",
                core.options().name,
                plan.dropped().join(", ")
            );
            py.import("logging")?.call_method1("getLogger", ("snapring.ring",))?.call_method1("warning", (text,))?;
        }
        Ok(Self { header, packer })
    }
}

/// The native half of `snapring.Writer`, which says how to open one.
#[pyclass(frozen, subclass, weakref, module = "snapring._core", name = "Writer")]
pub(crate) struct Writer {
    core: Arc<snapring_core::Writer>,
    source: Source,
    packed: ArcSwap<Packed>,
    heartbeat: Heartbeat,
}

#[pymethods]
impl Writer {
    // For annotations: `Writer[LoadSnapshot]`.
    #[classmethod]
    fn __class_getitem__(class: &Bound<'_, PyType>, item: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        Ok(class.py().import("types")?.getattr("GenericAlias")?.call1((class, item))?.unbind())
    }

    #[new]
    #[pyo3(signature = (name, rank, ranks, schema, compiled, encode, *, cells, payload, job, keep, wake, dir, allow_disk))]
    #[expect(clippy::too_many_arguments, reason = "one call from snapring.ring, by keyword")]
    fn new(
        py: Python<'_>,
        name: &str,
        rank: Whole,
        ranks: Whole,
        schema: &str,
        compiled: Option<Py<PyAny>>,
        encode: Option<Py<PyAny>>,
        cells: Option<Whole>,
        payload: Option<Whole>,
        job: String,
        keep: bool,
        wake: bool,
        dir: Option<PathBuf>,
        allow_disk: bool,
    ) -> PyResult<Self> {
        let schema = Schema::parse(schema).map_err(|error| InvalidValue::new_err(error.to_string()))?;
        let ranks = ranks.count("ranks")?;
        let cells = cells.map(|cells| cells.count("cells")).transpose()?;
        let payload = payload.map(|payload| payload.count("payload")).transpose()?;
        let rank = snapring_core::reader::check_rank(rank.0, ranks).or_raise()?;
        let dir = DirOptions { path: dir, allow_disk };
        let schema = Arc::new(schema);
        let options =
            WriterOptions { cells, payload, job, keep, wake, dir, ..WriterOptions::new(name, rank, ranks, schema) };
        let core = Arc::new(py.detach(|| snapring_core::Writer::open(options)).or_raise()?);
        let source = Source { compiled, convert: encode };
        let packed = ArcSwap::from_pointee(Packed::new(py, &core, &source)?);
        Ok(Self { core, source, packed, heartbeat: Heartbeat::default() })
    }

    /// Publish `value` as the newest snapshot of this rank.
    ///
    /// Fields that the schema marks are filled where they are None: in `LoadSnapshot`, `dp_rank` with this rank and
    /// `timestamp` with the wall clock. NaN and infinities are published as they are.
    ///
    /// Parameters
    /// ----------
    /// value
    ///     An object of the schema's class; for bytes, a contiguous bytes-like object; for msgpack, what msgspec
    ///     encodes.
    ///
    /// Returns
    /// -------
    /// int
    ///     The version: 1 for the rank's first publish ever, then one more for each, also after a restart of the writer
    ///     or a replacement of the ring.
    ///
    /// Raises
    /// ------
    /// InvalidValue
    ///     Another class; an integer outside -2**63 + 1 to 2**63 - 1; a text, bytes or list longer than its field; a
    ///     rank that is not this writer's.
    /// PayloadTooLarge
    ///     More bytes than a cell takes (bytes and msgpack).
    /// HandleClosed, ForkedHandle
    ///     The writer was closed, or belongs to the parent process.
    /// LayoutMismatch, WriterBusy, RingFull, RingUntrusted
    ///     The ring was replaced or removed meanwhile, and the rank could not be claimed anew.
    ///
    /// Notes
    /// -----
    /// After an error the previous snapshot is still the newest. Threads may share a writer: each publish is whole and
    /// has its own version. Readers never delay it. It makes no system call, but one look at the ring's path per second
    /// and a wake when somebody waits.
    ///
    /// Examples
    /// --------
    /// >>> import snapring
    /// >>> with snapring.Writer("publishing", rank=0, ranks=1) as writer:
    /// ...     writer.publish(snapring.LoadSnapshot(num_running_reqs=12)), writer.publish(snapring.LoadSnapshot())
    /// (1, 2)
    fn publish(&self, py: Python<'_>, value: &Bound<'_, PyAny>) -> PyResult<u64> {
        for _ in 0..ROUNDS {
            let packed = self.packed.load();
            let header = &packed.header;
            let now = self.core.now();
            let fill = Filler { rank: self.core.options().rank, now_s: now.wall_ns as f64 / 1e9 };
            let outcome = packed.packer.pack(value, fill, &header.geometry, |words, len| {
                self.core.publish_at(header.nonce, words, len, now).or_raise()
            })?;
            match outcome {
                Published::Version(version) => return Ok(version),
                Published::Moved => self.follow(py)?,
            }
        }
        Err(LayoutMismatch::new_err(format!("the ring was replaced {ROUNDS} times during one publish")))
    }

    /// Name of the ring.
    #[getter]
    fn name(&self) -> &str {
        &self.core.options().name
    }

    /// The rank that this writer publishes, 0 to `ranks` - 1.
    #[getter]
    fn rank(&self) -> u32 {
        self.core.options().rank
    }

    /// Number of ranks of the ring, 1 to 65,536.
    #[getter]
    fn ranks(&self) -> u32 {
        self.core.options().ranks
    }

    /// Incarnation of the rank's writer: 1 for the first that ever claimed it, one more for each claim since.
    ///
    /// Raises HandleClosed and ForkedHandle, as `publish` does.
    #[getter]
    fn epoch(&self) -> PyResult<u64> {
        Ok(self.core.position().or_raise()?.0)
    }

    /// Version of the newest snapshot of this rank, this writer's or one before it; 0 before the first.
    ///
    /// Raises HandleClosed and ForkedHandle, as `publish` does.
    #[getter]
    fn version(&self) -> PyResult<u64> {
        Ok(self.core.position().or_raise()?.1)
    }

    /// Show life without publishing: `Snapshot.beat_age` starts from 0 again, `Snapshot.age` runs on.
    ///
    /// No system call. Any thread may call it. Raises HandleClosed and ForkedHandle.
    fn beat(&self) -> PyResult<()> {
        self.core.beat().or_raise()
    }

    /// Beat now, and again every `interval` seconds from a native thread, also while Python is blocked.
    ///
    /// Parameters
    /// ----------
    /// interval
    ///     Seconds, above 0 and below 1,000,000.
    ///
    /// Raises
    /// ------
    /// InvalidValue
    ///     `interval` is out of range.
    /// HandleClosed, ForkedHandle
    ///     As `publish`.
    /// SystemRefused
    ///     The thread could not be started.
    ///
    /// Notes
    /// -----
    /// The thread ends when the writer is closed or collected. Calling again changes the interval. A child of a fork
    /// has no such thread.
    fn start_heartbeat(&self, interval: f64) -> PyResult<()> {
        self.core.beat().or_raise()?; // closed or forked handles say so here, not in the thread
        let core = Arc::downgrade(&self.core);
        // A writer that is gone or closed ends the thread.
        self.heartbeat.start(interval, move || core.upgrade().is_some_and(|core| core.beat().is_ok()))
    }

    /// Give the rank back: readers see it DEAD, and another writer may claim it.
    ///
    /// Ends the heartbeat. The last writer of a ring to close removes the file, unless it was opened with `keep`.
    /// Closing twice is no error. Any thread may close; in a child of a fork it raises ForkedHandle.
    fn close(&self) -> PyResult<()> {
        self.core
            .header()
            .map(drop)
            .or_else(|error| match error {
                snapring_core::Error::Closed(_) => Ok(()),
                other => Err(other),
            })
            .or_raise()?;
        self.heartbeat.stop();
        self.core.close().or_raise()
    }

    fn __repr__(&self) -> String {
        let options = self.core.options();
        let state = match self.core.position() {
            Ok((epoch, version)) => format!("epoch {epoch}, version {version}"),
            Err(snapring_core::Error::Forked(_)) => "of the parent process".to_owned(),
            Err(_) => "closed".to_owned(),
        };
        format!("<Writer of ring {:?}, rank {} of {}: {state}>", options.name, options.rank, options.ranks)
    }
}

impl Writer {
    #[cold]
    fn follow(&self, py: Python<'_>) -> PyResult<()> {
        // Another process may be at it; other threads need not wait for that.
        py.detach(|| self.core.reattach()).or_raise()?;
        self.packed.store(Arc::new(Packed::new(py, &self.core, &self.source)?));
        Ok(())
    }
}
