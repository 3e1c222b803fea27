//! `Document` and `Exposition`: the text of a view, compiled for one schema.

use crate::error::{InvalidValue, LayoutMismatch};
use crate::view::View;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};
use snapring_core::text::{self, Family, Part, Sample, SampleValue, Source};
use snapring_core::{Schema, watch};
use std::sync::atomic::{AtomicU64, Ordering};

/// JSON of the ranks of a view. Constructed by `snapring.formats.as_json`, which says what it holds; any thread may use
/// it, and a child of a fork.
#[pyclass(frozen, module = "snapring._core")]
pub(crate) struct Document {
    core: text::Document,
    schema_text: String,
    contended: AtomicU64,
}

#[pymethods]
impl Document {
    #[new]
    fn new(schema_text: String, items: &Bound<'_, PyList>) -> PyResult<Self> {
        let core = text::Document::new(parts(items, &parse(&schema_text)?)?);
        Ok(Self { core, schema_text, contended: AtomicU64::new(0) })
    }

    /// Whether the view's ring has the schema that this was compiled for; true of a view of no ring.
    fn fits(&self, view: &View) -> bool {
        view.schema_text().is_none_or(|text| text == self.schema_text)
    }

    /// `head`, the objects of the ranks that have published with commas between them, `tail`; and 16 hex digits that
    /// differ where the generation or any chosen rank's epoch, version or state does.
    ///
    /// Ages and states are those of this moment, and cost what `View.states` costs.
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
    ///     The view does not fit.
    #[pyo3(signature = (view, head, tail, *, ranks = None, max_age = None))]
    #[expect(clippy::needless_pass_by_value, reason = "what PyO3 takes out of Python")]
    fn render<'py>(
        &self,
        py: Python<'py>,
        view: &View,
        head: &[u8],
        tail: &[u8],
        ranks: Option<Vec<u32>>,
        max_age: Option<f64>,
    ) -> PyResult<(Bound<'py, PyBytes>, String)> {
        if !self.fits(view) {
            return Err(unfit());
        }
        let mut out = Vec::new();
        out.reserve(head.len() + tail.len() + 1200 * view.ranks()); // of a full load; for others it grows
        out.extend_from_slice(head);
        let tag = view
            .with_rows(max_age.map(watch::seconds_to_ns), |rows| self.core.render(rows, ranks.as_deref(), &mut out))?;
        out.extend_from_slice(tail);
        self.contended.fetch_add(view.contended_rows(), Ordering::Relaxed);
        Ok((PyBytes::new(py, &out), tag))
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
    fn new(schema_text: String, families: Vec<(Vec<u8>, bool, Samples)>) -> PyResult<Self> {
        let schema = parse(&schema_text)?;
        let family = |(header, is_counter, samples): (Vec<u8>, bool, Samples)| {
            let samples = samples.into_iter().map(|sample| self::sample(sample, &schema)).collect::<PyResult<_>>()?;
            Ok(Family { header: header.into(), is_counter, samples })
        };
        let families = families.into_iter().map(family).collect::<PyResult<_>>()?;
        Ok(Self { core: text::Exposition::new(families), schema_text, contended: AtomicU64::new(0) })
    }

    /// As `Document.fits`.
    fn fits(&self, view: &View) -> bool {
        view.schema_text().is_none_or(|text| text == self.schema_text)
    }

    /// The lines of all families that have a sample; options and LayoutMismatch as for `Document.render`.
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
    LayoutMismatch::new_err("the view is of another ring than this was compiled for; compile it for View.schema_text")
}
