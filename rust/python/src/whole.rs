//! Whole numbers from Python, of any size: what does not fit is out of some range, and the range's owner says which.

use pyo3::exceptions::PyOverflowError;
use pyo3::prelude::*;

/// An integer, cut off at the ends of 64 bits; no range of snapring's reaches that far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Whole(pub(crate) i64);

impl<'py> FromPyObject<'_, 'py> for Whole {
    type Error = PyErr;

    fn extract(value: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        match value.extract::<i64>() {
            Ok(number) => Ok(Self(number)),
            Err(error) if error.is_instance_of::<PyOverflowError>(value.py()) => {
                Ok(Self(if value.lt(0)? { i64::MIN } else { i64::MAX }))
            }
            Err(error) => Err(error),
        }
    }
}

impl Whole {
    /// As a count that some range is then held against.
    pub(crate) fn count<T: TryFrom<i64>>(self, what: &str) -> PyResult<T> {
        let refuse = |_| crate::error::InvalidValue::new_err(format!("{what} is {}, which no ring can have", self.0));
        T::try_from(self.0).map_err(refuse)
    }
}
