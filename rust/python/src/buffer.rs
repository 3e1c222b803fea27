//! Private words as a read-only Python buffer, so that numpy can look at them without another copy.
#![allow(unsafe_code, reason = "the buffer protocol is a C interface; every block names the fact that it rests on")]

use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;
use std::ffi::c_int;

/// The memory behind `View.records`: a read-only buffer of 64-bit words that nobody changes.
#[pyclass(frozen, module = "snapring._core")]
#[derive(Debug)]
pub(crate) struct Words {
    words: Vec<u64>,
}

impl Words {
    /// Takes `words`, which nobody changes any more.
    pub(crate) fn new(words: Vec<u64>) -> Self {
        Self { words }
    }

    pub(crate) fn words(&self) -> &[u64] {
        &self.words
    }
}

#[pymethods]
impl Words {
    #[expect(clippy::needless_pass_by_value, reason = "the slot's signature")]
    // SAFETY: the interpreter calls this with a valid view to fill, and keeps `slf` alive while the view is in use.
    unsafe fn __getbuffer__(slf: PyRef<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        if view.is_null() {
            return Err(PyBufferError::new_err("no view to fill"));
        }
        let bytes = slf.words.as_ptr().cast_mut().cast();
        let len = (slf.words.len() * 8) as ffi::Py_ssize_t;
        // SAFETY: `view` is valid as above; the words live as long as `slf`, which the view holds a reference to; the
        // class is frozen and the buffer read-only, so nobody writes through it.
        let filled = unsafe { ffi::PyBuffer_FillInfo(view, slf.as_ptr(), bytes, len, 1, flags) };
        if filled == 0 { Ok(()) } else { Err(PyErr::fetch(slf.py())) }
    }
}
