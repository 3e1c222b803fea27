//! What a process knows of changes on one ring: the cursor behind `wait`, `fileno` and `poll`.

use crate::error::{InvalidValue, OrRaise};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use snapring_core::fork::Token;
use snapring_core::{Cursor, Reader, Watch, watch};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Later than any process lives, and still a `Duration`.
const FOREVER_S: f64 = 1e9;

/// One cursor, in a descriptor's watch once there is one. A child of a fork starts anew: it has neither the watch's
/// thread nor, perhaps, a holder of the lock.
pub(crate) struct Waiting {
    token: Token,
    cursor: Mutex<Cursor>,
    watch: PyOnceLock<Watch>,
    max_age_ns: u64,
}

impl Waiting {
    pub(crate) fn new(max_age_ns: u64) -> PyResult<Self> {
        let token = Token::current().or_raise()?;
        Ok(Self { token, cursor: Mutex::default(), watch: PyOnceLock::new(), max_age_ns })
    }

    /// False in a child of the process that made it.
    pub(crate) fn is_here(&self) -> bool {
        self.token.is_here()
    }

    fn cursor(&self) -> MutexGuard<'_, Cursor> {
        self.cursor.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a change that the last poll has not seen; false at the timeout.
    pub(crate) fn wait(&self, py: Python<'_>, reader: &Reader, timeout_s: Option<f64>) -> PyResult<bool> {
        let deadline = match timeout_s {
            None => None,
            Some(timeout) if timeout >= 0.0 => Some(Instant::now() + Duration::from_secs_f64(timeout.min(FOREVER_S))),
            Some(timeout) => {
                return Err(InvalidValue::new_err(format!("timeout is in seconds, 0 or more, not {timeout}")));
            }
        };
        let cursor = self.watch.get(py).map_or_else(|| self.cursor().clone(), Watch::cursor);
        loop {
            let slice = Instant::now() + watch::RECHECK;
            let until = deadline.map_or(slice, |deadline| deadline.min(slice));
            if py.detach(|| watch::wait(reader, &cursor, self.max_age_ns, until)).or_raise()? {
                return Ok(true);
            }
            py.check_signals()?;
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Ok(false);
            }
        }
    }

    /// The watch's descriptor; starts the watch.
    pub(crate) fn fileno(&self, py: Python<'_>, reader: &Arc<Reader>) -> PyResult<i32> {
        let start = || Watch::start(reader, self.cursor().clone(), self.max_age_ns).or_raise();
        Ok(self.watch.get_or_try_init(py, start)?.as_fd().as_raw_fd())
    }

    /// The ranks that changed since the last poll.
    pub(crate) fn poll(&self, py: Python<'_>, reader: &Reader) -> PyResult<Vec<u32>> {
        match self.watch.get(py) {
            Some(watch) => py.detach(|| watch.poll(reader)).or_raise(),
            None => watch::take_changes(reader, &mut self.cursor(), self.max_age_ns).or_raise(),
        }
    }
}
