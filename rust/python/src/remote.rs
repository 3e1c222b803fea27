//! `RemoteWriter`: publishes Python values as one rank of a ring on another node.

use crate::codec::{Packer, Source};
use crate::error::{InvalidValue, OrRaise};
use crate::plan::Filler;
use crate::relay::public_key;
use crate::whole::Whole;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyType};
use snapring_core::Schema;
use snapring_relay::curve::KeyPair;
use snapring_relay::endpoint::Endpoint;
use snapring_relay::push::{ClientCurve, PushOptions};
use snapring_relay::sender::{Latency, Sender, SenderOptions};
use snapring_relay::transport::Refusal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The native half of `snapring.RemoteWriter`, which says how to open one.
#[pyclass(frozen, subclass, weakref, module = "snapring._core", name = "RemoteWriter")]
pub(crate) struct RemoteWriter {
    core: Sender,
    packer: Packer,
    endpoint: Endpoint,
    has_keys: bool,
    rank: u32,
    ranks: u32,
}

#[pymethods]
impl RemoteWriter {
    // For annotations: `RemoteWriter[LoadSnapshot]`.
    #[classmethod]
    fn __class_getitem__(class: &Bound<'_, PyType>, item: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        Ok(class.py().import("types")?.getattr("GenericAlias")?.call1((class, item))?.unbind())
    }

    #[new]
    #[pyo3(signature = (endpoint, rank, ranks, schema, compiled, encode, *, payload, job, latency, key, server_key, insecure))]
    #[expect(
        clippy::needless_pass_by_value,
        clippy::too_many_arguments,
        reason = "one call from snapring.relay, by keyword"
    )]
    fn new(
        py: Python<'_>,
        endpoint: &str,
        rank: Whole,
        ranks: Whole,
        schema: &str,
        compiled: Option<Py<PyAny>>,
        encode: Option<Py<PyAny>>,
        payload: Option<Whole>,
        job: String,
        latency: &str,
        key: Option<PathBuf>,
        server_key: Option<PathBuf>,
        insecure: bool,
    ) -> PyResult<Self> {
        let schema = Arc::new(Schema::parse(schema).map_err(|error| InvalidValue::new_err(error.to_string()))?);
        let ranks = ranks.count("ranks")?;
        let rank = snapring_core::reader::check_rank(rank.0, ranks).or_raise()?;
        let payload = payload.map(|payload| payload.count("payload")).transpose()?;
        let latency = match latency {
            "tick" => Latency::Tick,
            "wake" => Latency::Wake,
            other => return Err(InvalidValue::new_err(format!("latency is \"tick\" or \"wake\", not {other:?}"))),
        };
        let endpoint = Endpoint::parse(endpoint).or_raise()?;
        let curve = curve(&endpoint, key.as_deref(), server_key.as_deref(), insecure)?;
        let has_keys = curve.is_some();
        let push = PushOptions { endpoint: endpoint.clone(), curve, source_address: None };
        let options = SenderOptions { push, rank, ranks, schema: Arc::clone(&schema), payload, job, latency };
        let packer = Packer::new(py, &Source { compiled, convert: encode }, &schema)?;
        let core = py.detach(|| Sender::open(&options)).or_raise()?;
        Ok(Self { core, packer, endpoint, has_keys, rank, ranks })
    }

    /// Publish `value` as the newest snapshot of this rank, as `Writer.publish` does.
    ///
    /// Parameters
    /// ----------
    /// value
    ///     As for `Writer.publish`.
    ///
    /// Returns
    /// -------
    /// int
    ///     The sender's own version: 1, 2, 3 ... from its opening on. The ring on the other node has versions of its own.
    ///
    /// Raises
    /// ------
    /// InvalidValue, PayloadTooLarge, HandleClosed, ForkedHandle
    ///     As `Writer.publish`.
    ///
    /// Notes
    /// -----
    /// After an error the previous snapshot is still the newest. Never waits for the network: the return says that the
    /// snapshot will be sent unless a newer one comes first, not that it was received.
    fn publish(&self, value: &Bound<'_, PyAny>) -> PyResult<u64> {
        let now = self.core.now();
        let fill = Filler { rank: self.rank, now_s: now.wall_ns as f64 / 1e9 };
        let geometry = self.core.geometry();
        self.packer.pack(value, fill, geometry, |words, len| self.core.publish_at(words, len, now).or_raise())
    }

    /// Where the relay is.
    #[getter]
    fn endpoint(&self) -> String {
        self.endpoint.to_string()
    }

    /// The rank that this writer publishes, 0 to `ranks` - 1.
    #[getter]
    fn rank(&self) -> u32 {
        self.rank
    }

    /// Number of ranks of the ring, 1 to 65,536.
    #[getter]
    fn ranks(&self) -> u32 {
        self.ranks
    }

    /// Version of the newest snapshot that was published here; 0 before the first.
    ///
    /// Raises HandleClosed and ForkedHandle, as `publish` does.
    #[getter]
    fn version(&self) -> PyResult<u64> {
        Ok(self.core.position().or_raise()?.version)
    }

    /// True while a connection to the relay is up.
    #[getter]
    fn is_connected(&self) -> bool {
        self.core.is_connected()
    }

    /// Why the relay last turned this writer away, or None: keys or addresses that it does not list, another protocol,
    /// or the wrong key of the relay; also that it has not answered at all for 2 s. The connection is tried again all
    /// the time, and this stays when one is up.
    #[getter]
    fn last_refusal(&self) -> PyResult<Option<String>> {
        Ok(self.core.last_refusal().or_raise()?.map(|refusal| {
            let reason = match refusal {
                Refusal::Denied => "does not admit this writer's key or address, or has as many peers as it takes",
                Refusal::Unanswered => "does not answer: does it run, and does the network reach it?",
                Refusal::Protocol => "speaks another protocol, or one of both ends has keys and the other has none",
                Refusal::Dropped if self.has_keys => {
                    "went away during the handshake: is server_key its key, or has it no keys at all?"
                }
                Refusal::Dropped => "went away during the handshake: does it want key= and server_key=?",
            };
            format!("the relay at {} {reason}", self.endpoint)
        }))
    }

    /// Count of what became of the snapshots so far.
    ///
    /// Returns
    /// -------
    /// dict
    ///     `published`; `sent` (each once); `replaced` (never sent, because a newer one was there); `repeated` (sent
    ///     again); `would_block` (tries that found the socket full); `reconnects`; `refused`.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let stats = self.core.stats();
        let dict = PyDict::new(py);
        for (name, value) in [
            ("published", stats.published),
            ("sent", stats.sent),
            ("replaced", stats.replaced),
            ("repeated", stats.repeated),
            ("would_block", stats.would_block),
            ("reconnects", stats.reconnects),
            ("refused", stats.refused),
        ] {
            dict.set_item(name, value)?;
        }
        Ok(dict)
    }

    /// Show life without publishing: `Snapshot.beat_age` on the other node starts from 0 again.
    ///
    /// Any thread may call it. Raises HandleClosed and ForkedHandle.
    fn beat(&self) -> PyResult<()> {
        self.core.beat().or_raise()
    }

    /// Beat now, and again every `interval` seconds from the sending thread, also while Python is blocked.
    ///
    /// Parameters
    /// ----------
    /// interval
    ///     Seconds, from 0.001 up and below 1,000,000.
    ///
    /// Raises
    /// ------
    /// InvalidValue
    ///     `interval` is out of range.
    /// HandleClosed, ForkedHandle
    ///     As `publish`.
    fn start_heartbeat(&self, interval: f64) -> PyResult<()> {
        if !(0.001..1e6).contains(&interval) {
            return Err(InvalidValue::new_err(format!(
                "a heartbeat's interval is in seconds from 0.001 up, not {interval}"
            )));
        }
        self.core.start_heartbeat(Duration::from_secs_f64(interval)).or_raise()
    }

    /// Send the newest snapshot if it was not sent yet, say goodbye, and close: readers on the other node see the rank
    /// DEAD.
    ///
    /// Waits 0.1 s at most, and only while connected. Closing twice is no error. Any thread may close; in a child of a
    /// fork it raises ForkedHandle.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.core.close()).or_raise()
    }

    fn __repr__(&self) -> String {
        let state = match self.core.position() {
            Ok(origin) => format!("version {}", origin.version),
            Err(snapring_core::Error::Forked(_)) => "of the parent process".to_owned(),
            Err(_) => "closed".to_owned(),
        };
        let link = if self.core.is_connected() { "connected" } else { "not connected" };
        format!("<RemoteWriter to {}, rank {} of {}: {state}, {link}>", self.endpoint, self.rank, self.ranks)
    }
}

fn curve(
    endpoint: &Endpoint,
    key: Option<&Path>,
    server_key: Option<&Path>,
    insecure: bool,
) -> PyResult<Option<ClientCurve>> {
    match (key, server_key) {
        (Some(key), Some(server)) => {
            let server = public_key(&server.to_string_lossy())?;
            Ok(Some(ClientCurve { server, own: KeyPair::load(key).or_raise()? }))
        }
        (None, None) if insecure || matches!(endpoint, Endpoint::Ipc(_)) => Ok(None),
        (None, None) => Err(InvalidValue::new_err(format!(
            "{endpoint} without keys can be read and forged on the way: pass key= and server_key= (snapring keys makes them), or say insecure=True"
        ))),
        _ => {
            Err(InvalidValue::new_err("key= and server_key= go together: the own key file, and the relay's public key"))
        }
    }
}
