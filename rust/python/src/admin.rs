//! Looking after rings, for the command line: plain dictionaries, which `snapring.cli.rings` turns into classes.

use crate::error::{InvalidValue, OrRaise};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use snapring_core::admin::{self, RankInfo};
use snapring_core::layout::{self, Geometry};
use snapring_core::{DirOptions, Schema, watch};
use std::path::PathBuf;

/// Commands look at any directory: it is publishing to a disk that stalls.
fn at(dir: Option<PathBuf>) -> DirOptions {
    DirOptions { path: dir, allow_disk: true }
}

/// Names of the rings in `dir`, sorted.
#[pyfunction]
#[pyo3(signature = (dir = None))]
pub(crate) fn rings(dir: Option<PathBuf>) -> PyResult<Vec<String>> {
    admin::rings(&at(dir)).or_raise()
}

/// The directory that `dir` means: itself, else `$SNAPRING_DIR`, else `/dev/shm/snapring-<uid>`.
#[pyfunction]
#[pyo3(signature = (dir = None))]
pub(crate) fn directory(dir: Option<PathBuf>) -> PathBuf {
    at(dir).path()
}

/// What is known of ring `name`; times in seconds, sizes in bytes.
#[pyfunction]
#[pyo3(signature = (name, dir = None, *, max_age))]
pub(crate) fn inspect<'py>(
    py: Python<'py>,
    name: &str,
    dir: Option<PathBuf>,
    max_age: f64,
) -> PyResult<Bound<'py, PyDict>> {
    let max_age_ns = watch::seconds_to_ns(max_age);
    let info = py.detach(|| admin::inspect(&at(dir), name, max_age_ns)).or_raise()?;
    let header = &info.header;
    let [low, high] = header.nonce;
    let dict = PyDict::new(py);
    dict.set_item("name", name)?;
    dict.set_item("geometry", geometry_dict(py, &header.geometry)?)?;
    dict.set_item("created", header.created_ns as f64 / 1e9)?;
    dict.set_item("this_boot", info.this_boot)?;
    dict.set_item("retired", info.retired)?;
    dict.set_item("job", &header.job)?;
    dict.set_item("generation", format!("{high:016x}{low:016x}"))?;
    dict.set_item("schema_text", &header.schema_text)?;
    let ranks =
        info.ranks.iter().enumerate().map(|(rank, info)| rank_dict(py, rank, info)).collect::<PyResult<Vec<_>>>()?;
    dict.set_item("ranks", PyList::new(py, ranks)?)?;
    Ok(dict)
}

fn rank_dict<'py>(py: Python<'py>, rank: usize, info: &RankInfo) -> PyResult<Bound<'py, PyDict>> {
    let seconds = |ns: Option<u64>| ns.map(|ns| ns as f64 / 1e9);
    let dict = PyDict::new(py);
    dict.set_item("rank", rank)?;
    dict.set_item("state", info.state as u8)?;
    dict.set_item("version", info.version)?;
    dict.set_item("epoch", info.epoch)?;
    dict.set_item("pid", info.pid)?;
    dict.set_item("start_ticks", info.start_ticks)?;
    dict.set_item("claimed", info.claimed)?;
    dict.set_item("age", seconds(info.age_ns))?;
    dict.set_item("beat_age", seconds(info.beat_age_ns))?;
    Ok(dict)
}

/// Sizes of a ring for records of the schema `schema`, in bytes.
#[pyfunction]
#[pyo3(signature = (schema, ranks, cells = None))]
pub(crate) fn geometry<'py>(
    py: Python<'py>,
    schema: &str,
    ranks: u32,
    cells: Option<u32>,
) -> PyResult<Bound<'py, PyDict>> {
    let parsed = Schema::parse(schema).map_err(|error| InvalidValue::new_err(error.to_string()))?;
    geometry_dict(py, &Geometry::new(ranks, cells, parsed.record_bytes(), schema.len()).or_raise()?)
}

/// Where everything stands, so that a file can be read by its description alone.
fn geometry_dict<'py>(py: Python<'py>, geometry: &Geometry) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    for (name, value) in [
        ("format", layout::FORMAT as usize),
        ("file_bytes", geometry.file_bytes),
        ("header_bytes", geometry.header_bytes),
        ("ranks", geometry.ranks as usize),
        ("slot_stride", geometry.slot_stride),
        ("skews", geometry.skews),
        ("cells", geometry.cells as usize),
        ("cells_offset", layout::slot::CELLS * 8),
        ("cell_stride", geometry.cell_stride),
        ("payload_offset", layout::cell::PAYLOAD * 8),
        ("payload_bytes", geometry.payload_bytes),
    ] {
        dict.set_item(name, value)?;
    }
    dict.set_item("slot", word_offsets(py, &SLOT_WORDS)?)?;
    dict.set_item("cell", word_offsets(py, &CELL_WORDS)?)?;
    Ok(dict)
}

const SLOT_WORDS: [(&str, usize); 8] = [
    ("head", layout::slot::HEAD),
    ("epoch", layout::slot::EPOCH),
    ("base", layout::slot::BASE),
    ("beat_ns", layout::slot::BEAT_NS),
    ("time_namespace", layout::slot::TIME_NS),
    ("pid", layout::slot::PID),
    ("start_ticks", layout::slot::START),
    ("filler", layout::slot::FILLER),
];

const CELL_WORDS: [(&str, usize); 9] = [
    ("seq", layout::cell::SEQ),
    ("version", layout::cell::VERSION),
    ("epoch", layout::cell::EPOCH),
    ("origin_start", layout::cell::ORIGIN_START),
    ("origin_random", layout::cell::ORIGIN_RANDOM),
    ("origin_version", layout::cell::ORIGIN_VERSION),
    ("mono_ns", layout::cell::MONO_NS),
    ("wall_ns", layout::cell::WALL_NS),
    ("payload_len", layout::cell::LEN),
];

/// Byte offsets of named words.
fn word_offsets<'py>(py: Python<'py>, words: &[(&str, usize)]) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    words.iter().try_for_each(|(name, index)| dict.set_item(name, index * 8))?;
    Ok(dict)
}

/// Removes ring `name`; False, and nothing is touched, when a living process claims it or has just made
/// it, or it was replaced meanwhile.
#[pyfunction]
#[pyo3(signature = (name, dir = None, *, force = false))]
pub(crate) fn remove(name: &str, dir: Option<PathBuf>, force: bool) -> PyResult<bool> {
    admin::remove(&at(dir), name, force).or_raise()
}

/// Files that kills left behind, unchanged for `older_than` seconds; removed when `remove`.
#[pyfunction]
#[pyo3(signature = (dir = None, *, older_than, remove = false))]
pub(crate) fn leftovers(dir: Option<PathBuf>, older_than: f64, remove: bool) -> PyResult<Vec<String>> {
    admin::leftovers(&at(dir), watch::seconds_to_ns(older_than), remove).or_raise()
}

/// What the kernel offers: `membarrier`, `futex`, and the inode of the `time_namespace`.
#[pyfunction]
pub(crate) fn kernel(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let kernel = admin::kernel();
    let dict = PyDict::new(py);
    dict.set_item("membarrier", kernel.membarrier)?;
    dict.set_item("futex", kernel.futex)?;
    dict.set_item("time_namespace", kernel.time_namespace)?;
    Ok(dict)
}
