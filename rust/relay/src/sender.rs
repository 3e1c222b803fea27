//! A writer whose ring is on another node: it publishes into a private slot, and a thread sends what is newest there.
//!
//! # What is promised
//!
//! * **The newest wins.** Nothing queues but what the socket already took; the last snapshot of a burst always goes out.
//! * **No publish waits** for a socket, a peer or the sending thread. With [`Latency::Tick`] it makes no system call, but
//!   one to wake a thread that has slept for want of publishes.
//! * **Frames leave in the order of their versions**; a snapshot goes out again after each new connection and when
//!   nothing went out for a second, with its age as of then, so a receiver may see a version twice.
//!
//! # What it costs
//!
//! A thread (`snapring-send`) and those of libzmq. While publishes come it looks every millisecond, else it sleeps.
//!
//! *Sent* means that the socket took a frame, not that the relay has it: what was on its way is lost with a connection,
//! which is why the next one begins with the newest snapshot.

mod courier;
mod doorbell;
mod shared;
mod thread;

use crate::frame::HEADER_BYTES;
use crate::push::{Push, PushOptions};
use crate::transport::{Refusal, Sink};
use shared::{Counters, Desk, Life, Shared, locked};
use snapring_core::clock::Clocks;
use snapring_core::fork::Token;
use snapring_core::layout::{Geometry, MAX_JOB, MAX_RANKS};
use snapring_core::options::DEFAULT_PAYLOAD;
use snapring_core::sync::{AtomicU64, Ordering};
use snapring_core::{Codec, Error, Now, Origin, Schema, Stamp};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

/// Cells of the private slot: as many as a tight loop publishes, on another core, while the thread copies one.
const CELLS: u32 = 16;

/// Who sends a snapshot, and when.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Latency {
    /// The sending thread, within a millisecond; a publish costs as much as one into a ring.
    #[default]
    Tick,
    /// The publishing thread, at once; a publish costs a send on top, a few microseconds with the kernel's wake-up.
    Wake,
}

/// What a sender wants.
#[derive(Clone, Debug)]
pub struct SenderOptions {
    /// Where to.
    pub push: PushOptions,
    /// Rank to publish, below `ranks`.
    pub rank: u32,
    /// Ranks of the ring.
    pub ranks: u32,
    /// What the payloads are.
    pub schema: Arc<Schema>,
    /// Largest payload in bytes, for free payloads; `None` for 4,096.
    pub payload: Option<usize>,
    /// Job id, up to 64 bytes; empty for none.
    pub job: String,
    /// Who sends.
    pub latency: Latency,
}

/// What became of the snapshots so far. All counters only grow, except `replaced`, which a publish may raise by one for
/// a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SenderStats {
    /// Snapshots published.
    pub published: u64,
    /// Snapshots that the socket took, each counted once.
    pub sent: u64,
    /// Snapshots that were never sent, because a newer one was there.
    pub replaced: u64,
    /// Sends of a snapshot that had been sent before.
    pub repeated: u64,
    /// Tries that found no room in a connected socket.
    pub would_block: u64,
    /// Connections after the first one.
    pub reconnects: u64,
    /// Connections that did not come up.
    pub refused: u64,
}

/// Publishes the snapshots of one rank to a relay.
///
/// Threads may share it: each publish is whole. A child of a fork may not: its calls give [`Error::Forked`], and nothing
/// is closed there.
pub struct Sender {
    shared: Arc<Shared>,
    schema: Arc<Schema>,
    latency: Latency,
    clocks: Clocks,
    token: Token,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Sender {
    /// Begins to connect, and starts the sending thread. The relay need not be there yet.
    pub fn open(options: &SenderOptions) -> Result<Self, Error> {
        let geometry = check(options)?;
        let push = Push::connect_for(&options.push, HEADER_BYTES + geometry.payload_bytes)?;
        Self::over(Box::new(push), options)
    }

    /// [`Self::open`] over another transport than the one that the options name.
    pub fn over(sink: Box<dyn Sink>, options: &SenderOptions) -> Result<Self, Error> {
        let geometry = check(options)?;
        let token = Token::current()?;
        let schema = Arc::clone(&options.schema);
        let shared = Arc::new(Shared::new(options, geometry, sink)?);
        let (latency, own) = (options.latency, Arc::clone(&shared));
        let thread = std::thread::Builder::new()
            .name("snapring-send".into())
            .spawn(move || thread::run(&own, latency))
            .map_err(|error| Error::io("starting the sending thread", error))?;
        Ok(Self { shared, schema, latency, clocks: Clocks::default(), token, thread: Mutex::new(Some(thread)) })
    }

    fn desk(&self) -> Result<MutexGuard<'_, Desk>, Error> {
        if !self.token.is_here() {
            return Err(Error::Forked("remote writer"));
        }
        let desk = locked(&self.shared.desk);
        desk.check_open()?;
        Ok(desk)
    }

    /// This moment, for the price of one clock.
    #[inline]
    pub fn now(&self) -> Now {
        self.clocks.now()
    }

    /// Publishes `len` bytes of `payload` as of a moment that it may hold already; the version. After an error the
    /// snapshot before is still the newest.
    #[inline]
    pub fn publish_at(&self, payload: &[u64], len: usize, now: Now) -> Result<u64, Error> {
        let shared = &*self.shared;
        let version = {
            let mut desk = self.desk()?;
            shared.geometry.check_payload(self.schema.record_bytes(), payload, len)?;
            let version = desk.version + 1;
            let origin = Origin { version, ..shared.origin };
            let Now { mono_ns, wall_ns } = now;
            shared
                .slot()
                .publish(&Stamp { version, epoch: origin.start, origin, mono_ns, wall_ns, len: len as u64 }, payload);
            desk.version = version;
            version
        };
        if self.latency == Latency::Tick || !shared.send_now() {
            shared.bell.ring();
        }
        Ok(version)
    }

    /// The incarnation of this sender, and the last version that it published.
    pub fn position(&self) -> Result<Origin, Error> {
        Ok(Origin { version: self.desk()?.version, ..self.shared.origin })
    }

    /// What the payloads are.
    pub fn schema(&self) -> &Arc<Schema> {
        &self.schema
    }

    /// Sizes of the private slot: what to pack by.
    pub fn geometry(&self) -> &Geometry {
        &self.shared.geometry
    }

    /// Sends a sign of life soon, which is no publish; before the first publish there is nobody to show it for. Beats
    /// that are asked for before one could be sent are one beat.
    pub fn beat(&self) -> Result<(), Error> {
        drop(self.desk()?);
        if !self.shared.beat.swap(true, Ordering::Relaxed) {
            self.shared.bell.signal();
        }
        Ok(())
    }

    /// Sends a sign of life every `interval` from now on, until the sender closes; at least a millisecond.
    pub fn start_heartbeat(&self, interval: Duration) -> Result<(), Error> {
        if interval < Duration::from_millis(1) {
            return Err(Error::Invalid(format!("a heartbeat's interval is {interval:?}; take a millisecond or more")));
        }
        let interval_ns = u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX); // 500 years are for ever
        self.shared.beat_every_ns.store(interval_ns, Ordering::Relaxed);
        self.beat()
    }

    /// Whether a connection is up, as far as the sending thread has heard; false in a child of a fork.
    pub fn is_connected(&self) -> bool {
        self.token.is_here() && self.shared.connected.load(Ordering::Relaxed)
    }

    /// Why a connection last did not come up; `None` when that never happened.
    pub fn last_refusal(&self) -> Result<Option<Refusal>, Error> {
        if !self.token.is_here() {
            return Err(Error::Forked("remote writer"));
        }
        Ok(*locked(&self.shared.last_refusal))
    }

    /// What became of the snapshots so far; also after the close.
    pub fn stats(&self) -> SenderStats {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Counters { sent, repeated, would_block, handshakes, refused } = &self.shared.counters;
        // In this order, so that no version counts as sent before it counts as published.
        let (sent, last_sent) = (load(sent), self.shared.sent.load(Ordering::Acquire));
        SenderStats {
            published: self.shared.slot().head(),
            sent,
            replaced: last_sent.saturating_sub(sent),
            repeated: load(repeated),
            would_block: load(would_block),
            reconnects: load(handshakes).saturating_sub(1),
            refused: load(refused),
        }
    }

    /// Sends the newest snapshot if that is still to be done, then a goodbye, and closes. Waits for a connected relay to
    /// take them, 0.1 s at most, and for nothing when there is no connection. Closing twice is fine.
    pub fn close(&self) -> Result<(), Error> {
        if !self.token.is_here() {
            return Err(Error::Forked("remote writer"));
        }
        locked(&self.shared.desk).life = Life::Closed;
        self.shared.closing.store(true, Ordering::Relaxed);
        self.shared.bell.signal();
        let thread = locked(&self.thread).take();
        // A thread that panicked has left nothing to wait for.
        thread.map_or(Ok(()), |thread| thread.join().or(Ok(())))
    }
}

/// Sizes of the private slot, if the options make sense.
fn check(options: &SenderOptions) -> Result<Geometry, Error> {
    let SenderOptions { rank, ranks, schema, job, .. } = options;
    if *ranks > MAX_RANKS {
        return Err(Error::Invalid(format!("ranks is {ranks}; a ring has at most {MAX_RANKS}")));
    }
    if rank >= ranks {
        return Err(Error::RankOutOfRange { rank: i64::from(*rank), ranks: *ranks });
    }
    if job.len() > MAX_JOB {
        return Err(Error::Invalid(format!(
            "job is {} bytes long; at most {MAX_JOB} fit the ring's header",
            job.len()
        )));
    }
    let payload = match schema.codec() {
        Codec::Record => schema.record_bytes(),
        Codec::Bytes | Codec::Msgpack => options.payload.unwrap_or(DEFAULT_PAYLOAD),
    };
    Geometry::new(1, Some(CELLS), payload, 0)
}

impl std::fmt::Debug for Sender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let connected = self.is_connected();
        f.debug_struct("Sender").field("rank", &self.shared.rank).field("connected", &connected).finish_non_exhaustive()
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        if self.token.is_here() {
            let _ = self.close(); // refused only in a child
        } else if let Ok(thread) = self.thread.get_mut() {
            // Not even detached: the thread is the parent's. It holds what is shared, so nothing of that closes here.
            std::mem::forget(thread.take());
        }
    }
}
