//! What publishers and the sending thread share: the private slot, the bell and the courier.

use super::SenderOptions;
use super::courier::{Courier, Outcome};
use super::doorbell::Doorbell;
use crate::frame::{Frame, Kind, job_hash};
use crate::transport::{Refusal, Sink};
use snapring_core::layout::Geometry;
use snapring_core::sync::{AtomicBool, AtomicU64, Ordering};
use snapring_core::{Error, Origin, Slot, clock};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

/// Of a mutex whose data is whole between any two statements, so a panic elsewhere did no harm.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What [`super::SenderStats`] are read from.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) sent: AtomicU64,
    pub(super) repeated: AtomicU64,
    pub(super) would_block: AtomicU64,
    pub(super) handshakes: AtomicU64,
    pub(super) refused: AtomicU64,
}

/// How far a sender's life has come.
#[derive(Debug)]
pub(super) enum Life {
    Open,
    Closed,
    /// The socket cannot be used any more, for this reason.
    Broken(String),
}

/// The writing end of the slot.
#[derive(Debug)]
pub(super) struct Desk {
    pub(super) life: Life,
    pub(super) version: u64,
}

impl Desk {
    pub(super) fn check_open(&self) -> Result<(), Error> {
        match &self.life {
            Life::Open => Ok(()),
            Life::Closed => Err(Error::Closed("remote writer")),
            Life::Broken(why) => {
                Err(Error::Invalid(format!("this remote writer stopped sending: {why}; close it and open a new one")))
            }
        }
    }
}

/// Everything of a sender but its thread.
pub(super) struct Shared {
    pub(super) rank: u32,
    pub(super) job: u64,
    pub(super) fingerprint: u64,
    /// The incarnation; its version is not used.
    pub(super) origin: Origin,
    pub(super) geometry: Geometry,
    pub(super) words: Box<[AtomicU64]>,
    pub(super) desk: Mutex<Desk>,
    pub(super) bell: Doorbell,
    /// `None` once closed.
    pub(super) courier: Mutex<Option<Courier>>,
    /// Last version that the socket took; written under the courier's lock.
    pub(super) sent: AtomicU64,
    pub(super) connected: AtomicBool,
    pub(super) closing: AtomicBool,
    /// Somebody asked for a beat.
    pub(super) beat: AtomicBool,
    /// Time from beat to beat, ns; 0 for none.
    pub(super) beat_every_ns: AtomicU64,
    pub(super) counters: Counters,
    pub(super) last_refusal: Mutex<Option<Refusal>>,
}

impl Shared {
    pub(super) fn new(options: &SenderOptions, geometry: Geometry, sink: Box<dyn Sink>) -> Result<Self, Error> {
        let bell = Doorbell::new()?;
        bell.listen(&sink.link_fds()?, sink.room_fd()?)?;
        Ok(Self {
            rank: options.rank,
            job: job_hash(&options.job),
            fingerprint: options.schema.fingerprint(),
            origin: Origin { start: clock::wall_ns(), random: clock::random()?[0], version: 0 },
            geometry,
            words: (0..geometry.slot_words()).map(|_| AtomicU64::new(0)).collect(),
            desk: Mutex::new(Desk { life: Life::Open, version: 0 }),
            bell,
            courier: Mutex::new(Some(Courier::new(sink, geometry.payload_words()))),
            sent: AtomicU64::new(0),
            connected: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            beat: AtomicBool::new(false),
            beat_every_ns: AtomicU64::new(0),
            counters: Counters::default(),
            last_refusal: Mutex::new(None),
        })
    }

    /// The private slot.
    #[inline]
    pub(super) fn slot(&self) -> Slot<'_> {
        Slot::new(&self.words, &self.geometry)
    }

    /// A frame of this sender that says nothing yet.
    pub(super) fn frame(&self, kind: Kind) -> Frame {
        let (rank, job, fingerprint, origin) = (self.rank, self.job, self.fingerprint, self.origin);
        Frame { kind, rank, job, fingerprint, origin, wall_ns: 0, age_ns: 0, payload_bytes: 0 }
    }

    /// Whether the thread has anything to do but wait for a moment or the connection.
    pub(super) fn has_work(&self) -> bool {
        self.slot().head() != self.sent.load(Ordering::Acquire)
            || self.beat.load(Ordering::Relaxed)
            || self.closing.load(Ordering::Relaxed)
    }

    /// Sends from the publishing thread; false when that is left to the sending thread, because the courier is out, has
    /// no connection, or found no room.
    pub(super) fn send_now(&self) -> bool {
        let mut courier = match self.courier.try_lock() {
            Ok(courier) => courier,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return false,
        };
        match courier.as_mut() {
            Some(courier) if self.connected.load(Ordering::Relaxed) => match courier.send_newest(self) {
                Ok(outcome) => !matches!(outcome, Outcome::Later | Outcome::Contended),
                Err(_) => false, // the thread meets the error too, and has the time to note it
            },
            _ => false,
        }
    }

    /// Notes that nothing can be sent any more, so that publishers learn of it.
    pub(super) fn fail(&self, error: &Error) {
        let mut desk = locked(&self.desk);
        if matches!(desk.life, Life::Open) {
            desk.life = Life::Broken(error.to_string());
        }
        self.connected.store(false, Ordering::Relaxed);
    }
}
