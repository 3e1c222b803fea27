//! The members of `snapring.State`, made once.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use snapring_core::State;

static STATES: PyOnceLock<[Py<PyAny>; 4]> = PyOnceLock::new();

/// The member of `snapring.state.State` for `state`.
pub(crate) fn state_object(py: Python<'_>, state: State) -> PyResult<Py<PyAny>> {
    let make = || -> PyResult<[Py<PyAny>; 4]> {
        let class = py.import("snapring.state")?.getattr("State")?;
        let member = |state: State| class.call1((state as u8,)).map(Bound::unbind);
        Ok([member(State::Never)?, member(State::Live)?, member(State::Stale)?, member(State::Dead)?])
    };
    Ok(STATES.get_or_try_init(py, make)?[state as usize].clone_ref(py))
}
