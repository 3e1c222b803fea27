//! `Relay`: snapshots of remote ranks, into a ring of this host.

use crate::error::{InvalidValue, OrRaise};
use crate::whole::Whole;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use snapring_core::{DirOptions, Schema, WriterOptions};
use snapring_relay::curve::{KeyPair, PublicKey};
use snapring_relay::driver::RelayOptions;
use snapring_relay::endpoint::Endpoint;
use snapring_relay::frame::HEADER_BYTES;
use snapring_relay::gate::{Admission, Net};
use snapring_relay::pull::PullOptions;
use snapring_relay::relay::Drain;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

/// Connections beyond twice the ranks that a relay takes by default: senders that restart, and tools.
const SPARE_PEERS: usize = 64;

/// The native half of `snapring.Relay`, which says how to open one.
#[pyclass(frozen, subclass, weakref, module = "snapring._core", name = "Relay")]
pub(crate) struct Relay {
    core: snapring_relay::relay::Relay,
    name: String,
    /// The own one; None without keys.
    public_key: Option<PublicKey>,
    /// Keys that are admitted; None where anybody is.
    clients: Mutex<Option<HashSet<PublicKey>>>,
}

#[pymethods]
impl Relay {
    #[new]
    #[pyo3(signature = (name, endpoint, ranks, schema, *, cells, payload, job, drain, standby, kill_hung, key, clients, allow, insecure, max_peers, keep, dir, allow_disk))]
    #[expect(
        clippy::needless_pass_by_value,
        clippy::too_many_arguments,
        clippy::fn_params_excessive_bools,
        reason = "one call from snapring.relay, by keyword"
    )]
    fn new(
        py: Python<'_>,
        name: &str,
        endpoint: Option<&str>,
        ranks: Whole,
        schema: &str,
        cells: Option<Whole>,
        payload: Option<Whole>,
        job: String,
        drain: &str,
        standby: bool,
        kill_hung: Option<f64>,
        key: Option<PathBuf>,
        clients: Vec<String>,
        allow: Option<Vec<String>>,
        insecure: bool,
        max_peers: Option<Whole>,
        keep: bool,
        dir: Option<PathBuf>,
        allow_disk: bool,
    ) -> PyResult<Self> {
        let schema = Schema::parse(schema).map_err(|error| InvalidValue::new_err(error.to_string()))?;
        let ranks = ranks.count("ranks")?;
        let dir = DirOptions { path: dir, allow_disk }.resolved();
        let ring = WriterOptions {
            cells: cells.map(|cells| cells.count("cells")).transpose()?,
            payload: payload.map(|payload| payload.count("payload")).transpose()?,
            job,
            keep,
            dir,
            ..WriterOptions::new(name, 0, ranks, Arc::new(schema))
        };
        let endpoint = match endpoint {
            Some(text) => Endpoint::parse(text),
            None => Endpoint::parse(&format!("ipc://{}/{name}.sock", ring.dir.path().display())),
        };
        let endpoint = endpoint.or_raise()?;
        let max_peers = max_peers.map(|peers| peers.count("max_peers")).transpose()?;
        let admission = admission(&endpoint, key.as_deref(), &clients, insecure)?;
        let (public_key, clients) = match &admission {
            Admission::Curve { own, clients } => (Some(*own.public()), Some(clients.clone())),
            Admission::Anyone => (None, None),
        };
        let pull = PullOptions {
            admission,
            endpoint,
            max_message: HEADER_BYTES + ring.payload_room(),
            max_peers: max_peers.unwrap_or(2 * ranks as usize + SPARE_PEERS),
            addresses: allow.map(|nets| nets.iter().map(|net| Net::parse(net)).collect()).transpose().or_raise()?,
        };
        let kill_hung_ns = kill_hung.map(seconds).transpose()?;
        let options = RelayOptions { ring, pull, standby, kill_hung_ns };
        let drain = match drain {
            "thread" => Drain::Thread,
            "poll" => Drain::Poll,
            other => return Err(InvalidValue::new_err(format!("drain is \"thread\" or \"poll\", not {other:?}"))),
        };
        let core = py.detach(|| snapring_relay::relay::Relay::open(options, drain)).or_raise()?;
        Ok(Self { core, name: name.to_owned(), public_key, clients: Mutex::new(clients) })
    }

    /// Name of the ring.
    #[getter]
    fn name(&self) -> &str {
        &self.name
    }

    /// True while this process holds the lock and the socket.
    #[getter]
    fn is_owner(&self) -> PyResult<bool> {
        Ok(self.core.status().or_raise()?.is_owner.load(Ordering::Acquire))
    }

    /// How many owners the relay of this ring had on this host so far, when this process last looked; for display
    /// and counters.
    #[getter]
    fn term(&self) -> PyResult<u64> {
        Ok(self.core.status().or_raise()?.term.load(Ordering::Relaxed))
    }

    /// Where the socket is bound, with its real port; None while standing by and after the close.
    #[getter]
    fn endpoint(&self) -> PyResult<Option<String>> {
        Ok(self.core.status().or_raise()?.endpoint().map(|endpoint| endpoint.to_string()))
    }

    /// The public half of its key, 40 characters, as writers need it for `server_key`; None for a relay without keys.
    #[getter]
    fn public_key(&self) -> Option<&str> {
        self.public_key.as_ref().map(PublicKey::as_str)
    }

    /// What last went wrong after the start, or None; it was tried again since.
    #[getter]
    fn last_error(&self) -> PyResult<Option<String>> {
        Ok(self.core.status().or_raise()?.last_error())
    }

    /// Count of every frame's fate and every connection's, from the start of this relay.
    ///
    /// Returns
    /// -------
    /// dict
    ///     `received` is the sum of `published`, `repeated` (the newest one, sent again), `beats`, `goodbyes` and the
    ///     dropped ones: `undecodable`, `multipart`, `foreign_job`, `foreign_schema`, `out_of_range`, `unsound`,
    ///     `older`, `replaced` (by a newer sender of the rank), `held_locally`, `failed`. Of connections: `refused_key`,
    ///     `refused_address`, `too_many_peers`, `handshakes_failed`, `endless` (ended because they poured in bytes without
    ///     finishing a message), `disconnects`. `takes` counts this process's takes of the lock.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let status = self.core.status().or_raise()?;
        let counts = PyDict::new(py);
        for (name, value) in status.counters.all() {
            counts.set_item(name, value)?;
        }
        let peers = status.peers();
        for (name, value) in [
            ("refused_key", peers.refused_key),
            ("refused_address", peers.refused_address),
            ("too_many_peers", peers.too_many_peers),
            ("handshakes_failed", peers.handshakes_failed),
            ("endless", peers.endless),
            ("disconnects", peers.disconnects),
        ] {
            counts.set_item(name, value)?;
        }
        Ok(counts)
    }

    /// Admit senders with these public keys, besides those of `clients`; for keys that come by a rendezvous.
    ///
    /// Parameters
    /// ----------
    /// clients
    ///     As `clients` of the constructor.
    ///
    /// Raises InvalidValue where the relay has no key of its own, and for what is no key; RingUntrusted for a file that
    /// others may write; HandleClosed and ForkedHandle.
    fn admit(&self, clients: Vec<String>) -> PyResult<()> {
        let mut listed = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(keys) = &mut *listed else {
            return Err(InvalidValue::new_err("this relay has no key, so it admits anybody; open it with key="));
        };
        let mut more = Vec::new();
        for client in clients {
            collect(&client, &mut more)?;
        }
        keys.extend(more);
        self.core.set_clients(keys.clone()).or_raise()
    }

    /// Descriptor that is readable while `poll` has something to do, with `drain="poll"`: level-triggered, the same for
    /// the relay's life, for `loop.add_reader(relay.fileno(), relay.poll)`, select and epoll.
    ///
    /// Raises InvalidValue with `drain="thread"`, HandleClosed, ForkedHandle.
    fn fileno(&self) -> PyResult<i32> {
        self.core.fd().or_raise()
    }

    /// Do what there is to do, without waiting and at most 256 messages of it; the descriptor stays readable while there
    /// is more. With `drain="thread"` there is nothing to do.
    ///
    /// Raises HandleClosed and ForkedHandle; everything else is counted, kept in `last_error` and tried again.
    fn poll(&self) -> PyResult<()> {
        // No detach: coming back would cost more than the work, which waits for nobody.
        self.core.poll().or_raise()
    }

    /// Let go of the socket, the ring and the lock; a standby takes over. The ring is removed where nobody else uses it,
    /// unless it was opened with `keep`.
    ///
    /// Closing twice is no error. Any thread may close; in a child of a fork it raises ForkedHandle.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.core.close()).or_raise()
    }

    fn __repr__(&self) -> String {
        let state = match self.core.status().map(|status| (status.endpoint(), status.term.load(Ordering::Relaxed))) {
            Ok((Some(endpoint), term)) => format!("owner at {endpoint}, term {term}"),
            Ok((None, _)) => "not the owner".to_owned(),
            Err(_) => "of the parent process".to_owned(),
        };
        format!("<Relay of ring {:?}: {state}>", self.name)
    }
}

/// Seconds as nanoseconds, for a limit that lets an owner live that is merely busy.
fn seconds(seconds: f64) -> PyResult<u64> {
    if !(1.0..1e6).contains(&seconds) {
        let text = format!("kill_hung is in seconds from 1 up, so that a busy owner lives; not {seconds}");
        return Err(InvalidValue::new_err(text));
    }
    Ok((seconds * 1e9) as u64)
}

fn admission(endpoint: &Endpoint, key: Option<&Path>, clients: &[String], insecure: bool) -> PyResult<Admission> {
    let Some(key) = key else {
        if !clients.is_empty() {
            return Err(InvalidValue::new_err("clients= lists who may connect, which takes keys: pass key= too"));
        }
        if matches!(endpoint, Endpoint::Ipc(_)) || insecure {
            return Ok(Admission::Anyone);
        }
        return Err(InvalidValue::new_err(format!(
            "{endpoint} without keys lets anybody who reaches it forge the load of every rank: make keys with snapring keys, pass key= and clients=, or say insecure=True"
        )));
    };
    let mut listed = Vec::new();
    for client in clients {
        collect(client, &mut listed)?;
    }
    Ok(Admission::Curve { own: KeyPair::load(key).or_raise()?, clients: listed.into_iter().collect() })
}

/// The public key that `text` is, or that the file of that path holds, or all of the `.pub` files in that directory.
pub(crate) fn collect(text: &str, keys: &mut Vec<PublicKey>) -> PyResult<()> {
    let path = Path::new(text);
    if path.is_dir() {
        let listing = |error| snapring_core::Error::io(format!("listing {text}"), error);
        for entry in path.read_dir().map_err(listing).or_raise()? {
            let path = entry.map_err(listing).or_raise()?.path();
            if path.extension().is_some_and(|extension| extension == "pub") {
                keys.push(PublicKey::load(&path).or_raise()?);
            }
        }
        return Ok(());
    }
    keys.push(public_key(text)?);
    Ok(())
}

/// The public key that `text` is, or that the file of that path holds.
pub(crate) fn public_key(text: &str) -> PyResult<PublicKey> {
    PublicKey::parse(text).or_else(|_| PublicKey::load(Path::new(text))).or_raise()
}
