//! `Document` and `Exposition`: the text of all ranks, compiled for one schema.

use crate::error::{InvalidValue, LayoutMismatch};
use crate::generation::Generation;
use crate::reader::Reader;
use crate::view::View;
use arc_swap::ArcSwapOption;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyTuple};
use snapring_core::layout::cell;
use snapring_core::text::{self, Family, Part, Rendered, Rows, Sample, SampleValue, Source};
use snapring_core::{Header, Reading, Schema, clock, watch};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// JSON of the ranks of a ring. Constructed by `snapring.formats.as_json`, which says what it holds; any thread may use
/// it, and a child of a fork.
#[pyclass(frozen, module = "snapring._core")]
pub(crate) struct Document {
    core: text::Document,
    schema_text: String,
    /// The header that was found to fit last: comparing texts would cost more than the rest of a request.
    fits: ArcSwapOption<Header>,
    contended: AtomicU64,
    last: Mutex<Option<Last>>,
}

/// The last answer and what it was to.
struct Last {
    head: Py<PyBytes>,
    middle: Vec<u8>,
    chosen: Chosen,
    edition: u64,
    answer: Py<PyTuple>,
}

/// What is to be shown of the ranks.
#[derive(PartialEq, Eq)]
struct Chosen {
    ranks: Option<Vec<u32>>,
    max_age_ns: Option<u64>,
}

impl Document {
    /// Refuses a ring with another schema.
    fn check(&self, generation: &Generation) -> PyResult<()> {
        let header = &generation.ring.header;
        if self.fits.load().as_ref().is_some_and(|known| Arc::ptr_eq(known, header)) {
            return Ok(());
        }
        if header.schema_text != self.schema_text {
            return Err(unfit());
        }
        self.fits.store(Some(Arc::clone(header)));
        Ok(())
    }

    /// Appends the ranks as of `now_ns`, from their stamps where their texts are kept.
    fn write(
        &self,
        at: &Generation,
        stamps: &[u64],
        chosen: &Chosen,
        now_ns: u64,
        out: &mut Vec<u8>,
    ) -> PyResult<Rendered> {
        let (ranks, max_age_ns) = (chosen.ranks.as_deref(), chosen.max_age_ns);
        let look = |rows: &Rows<'_>| self.core.render_kept(rows, ranks, out);
        if let Some(rendered) = at.with_rows(stamps, cell::PAYLOAD, max_age_ns, now_ns, look)? {
            return Ok(rendered);
        }
        at.with_rows(&at.read_all(), at.row_words, max_age_ns, now_ns, |rows| self.core.render(rows, ranks, out))
    }

    /// The last answer. Nothing of Python's may be made while it is locked: a thread that waits for it has the GIL.
    fn last(&self) -> MutexGuard<'_, Option<Last>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count_contended(&self, stamps: &[u64]) {
        let is_contended = |row: &&[u64]| Reading::of(row).is_some_and(|reading| reading.contended);
        let contended = stamps.chunks(cell::PAYLOAD).filter(is_contended).count();
        if contended > 0 {
            self.contended.fetch_add(contended as u64, Ordering::Relaxed);
        }
    }
}

#[pymethods]
impl Document {
    #[new]
    fn new(schema_text: String, items: &Bound<'_, PyList>) -> PyResult<Self> {
        let core = text::Document::new(parts(items, &parse(&schema_text)?)?);
        let (fits, last) = (ArcSwapOption::empty(), Mutex::new(None));
        Ok(Self { core, schema_text, fits, contended: AtomicU64::new(0), last })
    }

    /// Read the ring, and give `head`, the number of its ranks, `middle`, the objects of those that have published with
    /// commas between them, and `]}`; and 16 hex digits that differ where the generation or any chosen rank's epoch,
    /// version or state does, with `salt` behind them.
    ///
    /// Ages and states are those of this moment, and cost what `View.states` costs. While no rank changes only stamps
    /// are read; who asks again with the same `head` object, which has the time, then gets the same bytes.
    ///
    /// Parameters
    /// ----------
    /// ranks
    ///     Only these, in this order; None means all. Ranks that do not exist are passed over.
    /// max_age
    ///     Seconds after which a living rank is STALE here; by default the reader's.
    ///
    /// Raises
    /// ------
    /// LayoutMismatch
    ///     There is no ring, or it has another schema than this was compiled for, or none that the reader takes.
    #[pyo3(signature = (reader, head, middle, salt, *, ranks = None, max_age = None))]
    #[expect(clippy::too_many_arguments, reason = "keyword options cost nothing in Python")]
    fn render<'py>(
        &self,
        py: Python<'py>,
        reader: &Bound<'py, Reader>,
        head: &Bound<'py, PyBytes>,
        middle: &[u8],
        salt: &str,
        ranks: Option<Vec<u32>>,
        max_age: Option<f64>,
    ) -> PyResult<Bound<'py, PyTuple>> {
        let Some(generation) = reader.get().generation(py)? else {
            return Err(unfit());
        };
        let at = generation.get();
        self.check(at)?;
        let chosen = Chosen { ranks, max_age_ns: max_age.map(watch::seconds_to_ns) };
        let now_ns = clock::mono_ns();
        let stamps = at.stamps();
        self.count_contended(&stamps);
        let look = |rows: &Rows<'_>| self.core.edition(rows);
        let edition = at.with_rows(&stamps, cell::PAYLOAD, chosen.max_age_ns, now_ns, look)?;
        if let Some(last) = &*self.last()
            && Some(last.edition) == edition
            && last.head.is(head)
            && last.chosen == chosen
            && last.middle == middle
        {
            return Ok(last.answer.clone_ref(py).into_bound(py));
        }
        let mut out = head.as_bytes().to_vec();
        out.extend_from_slice(at.ring.ranks().to_string().as_bytes());
        out.extend_from_slice(middle);
        let Rendered { tag, edition } = self.write(at, &stamps, &chosen, now_ns, &mut out)?;
        out.extend_from_slice(b"]}");
        let answer = (PyBytes::new(py, &out), tag + salt).into_pyobject(py)?;
        let kept = answer.clone().unbind();
        let last = Last { head: head.clone().unbind(), middle: middle.to_vec(), chosen, edition, answer: kept };
        let older = self.last().replace(last); // let go of outside of the lock
        drop(older);
        Ok(answer)
    }

    /// Rows rendered so far whose newest version could not be had for a writer that never paused.
    #[getter]
    fn contended(&self) -> u64 {
        self.contended.load(Ordering::Relaxed)
    }
}

/// What Prometheus scrapes of the ranks of a view. Constructed by `snapring.formats.as_prometheus`; any thread may use
/// it, and a child of a fork.
#[pyclass(frozen, module = "snapring._core")]
pub(crate) struct Exposition {
    core: text::Exposition,
    schema_text: String,
    contended: AtomicU64,
}

type Samples = Vec<(Vec<u8>, Vec<u8>, String, f64)>;

#[pymethods]
impl Exposition {
    #[new]
    fn new(schema_text: String, families: Vec<(Vec<u8>, bool, bool, Samples)>) -> PyResult<Self> {
        let schema = parse(&schema_text)?;
        let family = |(header, is_counter, is_load, samples): (Vec<u8>, bool, bool, Samples)| {
            let samples = samples.into_iter().map(|sample| self::sample(sample, &schema)).collect::<PyResult<_>>()?;
            Ok(Family { header: header.into(), is_counter, is_load, samples })
        };
        let families = families.into_iter().map(family).collect::<PyResult<_>>()?;
        Ok(Self { core: text::Exposition::new(families), schema_text, contended: AtomicU64::new(0) })
    }

    /// Whether the view's ring has the schema that this was compiled for; true of a view of no ring.
    fn fits(&self, view: &View) -> bool {
        view.schema_text().is_none_or(|text| text == self.schema_text)
    }

    /// The lines of all families that have a sample; options as for `Document.render`. Raises LayoutMismatch
    /// where the view does not fit.
    #[pyo3(signature = (view, *, ranks = None, max_age = None))]
    #[expect(clippy::needless_pass_by_value, reason = "what PyO3 takes out of Python")]
    fn render<'py>(
        &self,
        py: Python<'py>,
        view: &View,
        ranks: Option<Vec<u32>>,
        max_age: Option<f64>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        if !self.fits(view) {
            return Err(unfit());
        }
        let mut out = Vec::with_capacity(4096 + 2048 * view.ranks());
        view.with_rows(max_age.map(watch::seconds_to_ns), |rows| self.core.render(rows, ranks.as_deref(), &mut out))?;
        self.contended.fetch_add(view.contended_rows(), Ordering::Relaxed);
        Ok(PyBytes::new(py, &out))
    }

    /// As `Document.contended`.
    #[getter]
    fn contended(&self) -> u64 {
        self.contended.load(Ordering::Relaxed)
    }
}

fn parse(schema_text: &str) -> PyResult<Schema> {
    Schema::parse(schema_text).map_err(|error| InvalidValue::new_err(error.to_string()))
}

fn source(name: &str, schema: &Schema) -> PyResult<Source> {
    Source::parse(name, schema).ok_or_else(|| InvalidValue::new_err(format!("{name:?} names no value")))
}

/// `(literal, source)` is a value, `(literal, parts, section)` a section.
fn parts(items: &Bound<'_, PyList>, schema: &Schema) -> PyResult<Vec<Part>> {
    let mut parts = Vec::new();
    for item in items {
        if let Ok((literal, name)) = item.extract::<(Vec<u8>, String)>() {
            parts.push(Part::Value { literal: literal.into(), source: source(&name, schema)? });
            continue;
        }
        let (literal, inner, section): (Vec<u8>, Bound<'_, PyList>, String) = item.extract()?;
        if let Some(field) = schema.field(&section) {
            let parts_inside = self::parts(&inner, schema)?;
            parts.push(Part::Section { literal: literal.into(), place: field.place(), parts: parts_inside });
        }
    }
    Ok(parts)
}

fn sample((before, after, name, scale): (Vec<u8>, Vec<u8>, String, f64), schema: &Schema) -> PyResult<Sample> {
    // `$state=LIVE` ends in no "=", `mode=` does.
    let value = match name.strip_suffix('=') {
        Some(field) => SampleValue::Label(source(field, schema)?),
        None => SampleValue::Number { source: source(&name, schema)?, scale },
    };
    Ok(Sample { before: before.into(), after: after.into(), value })
}

#[cold]
fn unfit() -> PyErr {
    LayoutMismatch::new_err("the ring has another schema than this was compiled for, or is gone; compile it anew")
}
