//! The Python face of `snapring-core`: translation only.
#![deny(unsafe_code)]
#![allow(clippy::doc_markdown, clippy::doc_link_with_quotes, reason = "numpydoc for Python's help(), not Markdown")]

mod admin;
mod buffer;
mod codec;
mod error;
mod feed;
mod generation;
mod heartbeat;
mod keys;
mod plan;
mod reader;
mod relay;
mod remote;
mod slots;
mod snapshot;
mod state;
mod text;
mod view;
mod waiting;
mod whole;
mod writer;

/// The native half of `snapring`. Its classes are reached through the package: `snapring.Writer`, `snapring.Reader`.
#[pyo3::pymodule(gil_used = false)]
mod _core {
    use pyo3::prelude::*;

    #[pymodule_export]
    use super::admin::{directory, geometry, inspect, kernel, leftovers, remove, rings};
    #[pymodule_export]
    use super::buffer::Words;
    #[pymodule_export]
    use super::feed::Feed;
    #[pymodule_export]
    use super::keys::{make_keys, read_public_key};
    #[pymodule_export]
    use super::reader::Reader;
    #[pymodule_export]
    use super::relay::Relay;
    #[pymodule_export]
    use super::remote::RemoteWriter;
    #[pymodule_export]
    use super::snapshot::Snapshot;
    #[pymodule_export]
    use super::text::{Document, Exposition};
    #[pymodule_export]
    use super::view::View;
    #[pymodule_export]
    use super::writer::Writer;

    /// A legal ring name for any instance id, such as a URL.
    ///
    /// The last part of its path with "_" for what a name may not hold, 64 characters at most, and a hash of the whole
    /// id, so that ids which differ get names which differ. The same id gives the same name in every process.
    ///
    /// Examples
    /// --------
    /// >>> import snapring
    /// >>> snapring.ring_name("http://10.0.0.7:30000/llama 70b")
    /// '...'
    #[pyfunction]
    fn ring_name(instance: &str) -> String {
        snapring_core::ring_name(instance)
    }

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
