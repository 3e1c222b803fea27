//! A native thread that shows life while Python is busy elsewhere.

use crate::error::{InvalidValue, OrRaise};
use pyo3::prelude::*;
use snapring_core::fork::Token;
use std::mem;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

/// At most one such thread of a writer.
#[derive(Default)]
pub(crate) struct Heartbeat(Mutex<Option<Thread>>);

struct Thread {
    token: Token,
    stop: Arc<(Mutex<bool>, Condvar)>,
    handle: Option<JoinHandle<()>>,
}

impl Heartbeat {
    /// Calls `beat` now and every `interval` seconds, until it gives false or [`Self::stop`] is called. Takes the place
    /// of an earlier one.
    pub(crate) fn start(&self, interval: f64, beat: impl Fn() -> bool + Send + 'static) -> PyResult<()> {
        if !(interval > 0.0 && interval < 1e6) {
            return Err(InvalidValue::new_err(format!("a heartbeat's interval is in seconds above 0, not {interval}")));
        }
        let started = Thread::start(Duration::from_secs_f64(interval), beat)?;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(started);
        Ok(())
    }

    /// Ends the thread and waits for it.
    pub(crate) fn stop(&self) {
        drop(self.0.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

impl Thread {
    fn start(interval: Duration, beat: impl Fn() -> bool + Send + 'static) -> PyResult<Self> {
        let stop = Arc::new((Mutex::new(false), Condvar::new()));
        let told = Arc::clone(&stop);
        let run = move || {
            let (flag, changed) = &*told;
            let mut stopped = flag.lock().unwrap_or_else(PoisonError::into_inner);
            while !*stopped && beat() {
                stopped = changed.wait_timeout(stopped, interval).unwrap_or_else(PoisonError::into_inner).0;
            }
        };
        let token = Token::current().or_raise()?;
        let handle = Builder::new().name("snapring-beat".into()).spawn(run);
        let handle = handle.map_err(|error| snapring_core::Error::io("starting the heartbeat", error)).or_raise()?;
        Ok(Self { token, stop, handle: Some(handle) })
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        if !self.token.is_here() {
            // A child of a fork has neither the thread nor anybody to free a lock that it may have held.
            mem::forget(self.handle.take());
            return;
        }
        *self.stop.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.stop.1.notify_all();
        if let Some(handle) = self.handle.take() {
            // It takes no lock of Python's, so this wait is short.
            let _ = handle.join();
        }
    }
}
