//! The Python face of `snapring-core`: translation only.
#![deny(unsafe_code)]

mod admin;
mod buffer;
mod codec;
mod error;
mod generation;
mod plan;
mod reader;
mod slots;
mod snapshot;
mod state;
mod view;
mod writer;

/// Native half of `snapring`.
#[pyo3::pymodule(gil_used = false)]
mod _core {
    use pyo3::prelude::*;

    #[pymodule_export]
    use super::admin::{directory, geometry, inspect, kernel, leftovers, remove, rings};
    #[pymodule_export]
    use super::buffer::Words;
    #[pymodule_export]
    use super::reader::Reader;
    #[pymodule_export]
    use super::snapshot::Snapshot;
    #[pymodule_export]
    use super::view::View;
    #[pymodule_export]
    use super::writer::Writer;

    /// A legal ring name for any instance id.
    #[pyfunction]
    fn ring_name(instance: &str) -> String {
        snapring_core::ring_name(instance)
    }

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
