//! `Feed`: the load of one rank for routers that know only an address.

use crate::error::{HandleClosed, InvalidValue, OrRaise};
use crate::relay::collect;
use pyo3::prelude::*;
use snapring_core::fork::Token;
use snapring_relay::KeyPair;
use snapring_relay::endpoint::Endpoint;
use snapring_relay::feed::FeedOptions;
use snapring_relay::gate::Admission;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The native half of `snapring.feed.LoadFeed`, which says how to open one.
#[pyclass(frozen, module = "snapring._core", name = "Feed")]
pub(crate) struct Feed {
    core: Mutex<Option<snapring_relay::Feed>>,
    endpoint: String,
    token: Token,
}

#[pymethods]
impl Feed {
    #[new]
    #[pyo3(signature = (endpoint, *, key, clients, insecure, beside))]
    #[expect(clippy::needless_pass_by_value, reason = "what PyO3 takes out of Python")]
    fn new(
        py: Python<'_>,
        endpoint: &str,
        key: Option<PathBuf>,
        clients: Vec<String>,
        insecure: bool,
        beside: Option<&Self>,
    ) -> PyResult<Self> {
        let endpoint = Endpoint::parse(endpoint).or_raise()?;
        let core = if let Some(other) = beside {
            // No detach under a lock: a thread that waits for it may hold the GIL.
            other.open()?.as_ref().ok_or_else(closed)?.beside(endpoint, insecure).or_raise()?
        } else {
            let options = FeedOptions { endpoint, admission: admission(key.as_deref(), &clients)?, insecure };
            py.detach(|| snapring_relay::Feed::bind(&options)).or_raise()?
        };
        let endpoint = core.endpoint().to_string();
        Ok(Self { core: Mutex::new(Some(core)), endpoint, token: Token::current().or_raise()? })
    }

    /// Where it is bound, with its real port.
    #[getter]
    fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Sequence of the last message, 0 before the first. Raises HandleClosed and ForkedHandle.
    #[getter]
    fn sequence(&self) -> PyResult<u64> {
        self.open()?.as_ref().ok_or_else(closed)?.sequence().or_raise()
    }

    /// Send a message to all that subscribe, and return its sequence: 1, 2, 3 ...
    ///
    /// Never waits for a subscriber. Any thread may call it. Raises HandleClosed, ForkedHandle and SystemRefused.
    fn send(&self, payload: &[u8]) -> PyResult<u64> {
        self.open()?.as_ref().ok_or_else(closed)?.send(payload).or_raise()
    }

    /// Send the last message again, under a new sequence, whenever `interval` seconds passed without one.
    ///
    /// Raises InvalidValue, HandleClosed and ForkedHandle.
    fn start_heartbeat(&self, interval: f64) -> PyResult<()> {
        if !(interval > 0.0 && interval < 1e6) {
            return Err(InvalidValue::new_err(format!("a heartbeat's interval is in seconds above 0, not {interval}")));
        }
        let interval = Duration::from_secs_f64(interval);
        self.open()?.as_ref().ok_or_else(closed)?.start_heartbeat(interval).or_raise()
    }

    /// Free the port. Closing twice is no error; in a child of a fork it raises ForkedHandle.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let core = self.open()?.take();
        py.detach(|| drop(core));
        Ok(())
    }
}

impl Feed {
    /// The feed, `None` once closed.
    fn open(&self) -> PyResult<MutexGuard<'_, Option<snapring_relay::Feed>>> {
        // Asked first: in a child nobody may be left to free the lock.
        if !self.token.is_here() {
            return Err(snapring_core::Error::Forked("feed")).or_raise();
        }
        Ok(self.core.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cold]
fn closed() -> PyErr {
    HandleClosed::new_err("the feed was closed; open a new one")
}

fn admission(key: Option<&Path>, clients: &[String]) -> PyResult<Admission> {
    let Some(key) = key else {
        if clients.is_empty() {
            return Ok(Admission::Anyone);
        }
        return Err(InvalidValue::new_err(
            "clients= goes with key=, the feed's own key file; make one with: snapring keys",
        ));
    };
    if clients.is_empty() {
        return Err(InvalidValue::new_err("key= without clients= would admit nobody; list the routers' public keys"));
    }
    let mut listed = Vec::new();
    clients.iter().try_for_each(|client| collect(client, &mut listed))?;
    Ok(Admission::Curve { own: KeyPair::load(key).or_raise()?, clients: listed.into_iter().collect() })
}
