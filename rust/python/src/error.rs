//! Core errors as Python exceptions: the one place that maps them, an arm per variant.

use pyo3::import_exception;
use pyo3::prelude::*;
use snapring_core::Error;

import_exception!(snapring.errors, Contended);
import_exception!(snapring.errors, ForkedHandle);
import_exception!(snapring.errors, HandleClosed);
import_exception!(snapring.errors, InvalidValue);
import_exception!(snapring.errors, LayoutMismatch);
import_exception!(snapring.errors, OwnerBusy);
import_exception!(snapring.errors, PayloadTooLarge);
import_exception!(snapring.errors, RankOutOfRange);
import_exception!(snapring.errors, RingFull);
import_exception!(snapring.errors, RingNotFound);
import_exception!(snapring.errors, RingUntrusted);
import_exception!(snapring.errors, SnapringError);
import_exception!(snapring.errors, SystemRefused);
import_exception!(snapring.errors, WriterBusy);

/// The errno of a full file system, on Linux.
const ENOSPC: i32 = 28;

/// Maps a core error.
#[expect(clippy::needless_pass_by_value, reason = "the signature of `map_err` and `From`")]
#[cold]
pub(crate) fn from_core(error: Error) -> PyErr {
    let text = error.to_string();
    match error {
        Error::Invalid(_) => InvalidValue::new_err(text),
        Error::NotFound { .. } => RingNotFound::new_err(text),
        Error::LayoutMismatch(_) => LayoutMismatch::new_err(text),
        Error::WriterBusy { .. } => WriterBusy::new_err(text),
        Error::OwnerBusy { .. } => OwnerBusy::new_err(text),
        Error::RankOutOfRange { .. } => RankOutOfRange::new_err(text),
        Error::PayloadTooLarge { .. } => PayloadTooLarge::new_err(text),
        Error::Closed(_) => HandleClosed::new_err(text),
        // Two arguments make an OSError set its errno.
        Error::Full { .. } => RingFull::new_err((ENOSPC, text)),
        Error::Untrusted(_) => RingUntrusted::new_err(text),
        Error::Contended { .. } => Contended::new_err(text),
        Error::Forked(_) => ForkedHandle::new_err(text),
        Error::Io { ref source, .. } => SystemRefused::new_err((source.raw_os_error(), text)),
        // The enum may grow; a new variant is shown, not lost.
        _ => SnapringError::new_err(text),
    }
}

/// `?` for core results.
pub(crate) trait OrRaise<T> {
    /// The value, or the mapped exception.
    fn or_raise(self) -> PyResult<T>;
}

impl<T> OrRaise<T> for Result<T, Error> {
    #[inline]
    fn or_raise(self) -> PyResult<T> {
        self.map_err(from_core)
    }
}
