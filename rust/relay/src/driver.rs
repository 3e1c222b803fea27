//! The relay as a state machine: stands by, owns, and does a bounded piece of work whenever its descriptor is readable.
//!
//! It does not know who drives it: a native thread of its own, or the host's event loop. Everything that can make work
//! is in one epoll set: the socket, what a standby listens to, and a timer for what is due later.

use crate::counters::{Counters, count};
use crate::curve::PublicKey;
use crate::endpoint::Endpoint;
use crate::gate::Admission;
use crate::intake::{self, Intake, Peer};
use crate::lease::Lease;
use crate::pull::{Pull, PullOptions};
use crate::timer::Timer;
use crate::transport::{self, LinkEvent, Received, Source};
use rustix::event::epoll;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use snapring_core::dir::check_name;
use snapring_core::{DirOptions, Directory, Error, Relayed, WriterOptions, clock};
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Suffix of the lock's file beside the ring.
const OWNER: &str = ".owner";
/// Suffix of the lock's file beside a socket.
const LOCK: &str = ".lock";
/// Pause after a ring that could not be written, and after the first take-over in a row that failed; each further one is
/// twice as long.
const RETRY_NS: u64 = 20_000_000;
/// Longest pause between take-overs that fail.
const LONGEST_RETRY_NS: u64 = 1_000_000_000;
/// Tries to own before the opener is told that it cannot, and the pause between them.
const DYING_TRIES: u32 = 10;
/// As [`DYING_TRIES`].
const DYING_PAUSE: Duration = Duration::from_millis(5);
/// So many frames in a row share a moment of receipt, that of the first one: they wait for microseconds, and a value may
/// be taken for older than it is, but never for younger.
const SAME_RECEIPT: usize = 16;
/// In a flood that never ends, a connection's end counts after so long.
const FLOOD_NS: u64 = 1_000_000_000;

/// What a relay is asked for.
#[derive(Debug)]
pub struct RelayOptions {
    /// The ring to fill; its rank is not used, and `keep` leaves it behind when the relay closes.
    pub ring: WriterOptions,
    /// The socket to bind.
    pub pull: PullOptions,
    /// Wait while another process owns the relay, instead of an error.
    pub standby: bool,
    /// A standby ends an owner that has not worked for so long, ns.
    pub kill_hung_ns: Option<u64>,
}

/// What anybody may know of a relay at any time, without a lock that its work waits for.
#[derive(Debug, Default)]
pub struct Status {
    /// True while this process holds the lock and the socket.
    pub is_owner: AtomicBool,
    /// How many owners there were, in any process, when this one last looked.
    pub term: AtomicU64,
    /// Every frame's fate.
    pub counters: Arc<Counters>,
    /// Keys to list from the next turn on.
    clients: Mutex<Option<HashSet<PublicKey>>>,
    endpoint: Mutex<Option<Endpoint>>,
    peers: Mutex<transport::LinkCounters>,
    error: Mutex<Option<String>>,
}

impl Status {
    /// Where the socket is bound; `None` while standing by.
    pub fn endpoint(&self) -> Option<Endpoint> {
        self.endpoint.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What became of connections.
    pub fn peers(&self) -> transport::LinkCounters {
        *self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What last went wrong while nobody could be told.
    pub fn last_error(&self) -> Option<String> {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lists other keys from the next turn on, also for a take-over to come.
    pub fn set_clients(&self, clients: HashSet<PublicKey>) {
        *self.clients.lock().unwrap_or_else(PoisonError::into_inner) = Some(clients);
    }

    fn note(&self, error: &Error) {
        *self.error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
    }

    /// The relay ended by a panic.
    pub(crate) fn fall(&self) {
        self.owns(None, self.term.load(Ordering::Relaxed));
        self.note(&Error::Invalid("the relay's thread panicked; this is a bug: please report it".into()));
    }

    fn owns(&self, endpoint: Option<&Endpoint>, term: u64) {
        *self.endpoint.lock().unwrap_or_else(PoisonError::into_inner) = endpoint.cloned();
        self.term.store(term, Ordering::Relaxed);
        self.is_owner.store(endpoint.is_some(), Ordering::Release);
    }
}

struct Owner {
    pull: Pull,
    intake: Intake,
}

/// A relay that somebody else drives. Dropping it lets go of everything and keeps the ring.
pub struct Driver {
    options: RelayOptions,
    status: Arc<Status>,
    set: OwnedFd,
    timer: Arc<Timer>,
    endings: Endings,
    /// When to try to own again after a failure, and the pause before it; 0 for now.
    own_at_ns: u64,
    own_pause_ns: u64,
    // Dropped in this order: nobody may bind the socket before it is unbound.
    owner: Option<Owner>,
    socket_lease: Option<Lease>,
    lease: Lease,
}

impl Driver {
    /// Takes the lock and the socket, or stands by; at once in either case.
    pub fn open(options: RelayOptions) -> Result<Self, Error> {
        let ring = WriterOptions { dir: options.ring.dir.resolved(), ..options.ring };
        let options = RelayOptions { ring, ..options };
        check_name(&options.ring.name)?; // before it becomes part of a path
        let what = |error| Error::io("making a descriptor to wait on", error);
        let set = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(what)?;
        let timer = Arc::new(Timer::new()?);
        watch(&set, timer.as_fd())?;
        let directory = Directory::open_or_create(&options.ring.dir)?;
        let lease = Lease::open(&directory, &format!("{}{OWNER}", options.ring.name))?;
        let socket_lease = socket_lease(&options.pull.endpoint)?;
        let status = Arc::new(Status::default());
        let mut driver = Self {
            options,
            status,
            set,
            timer,
            endings: Endings::default(),
            own_at_ns: 0,
            own_pause_ns: RETRY_NS,
            owner: None,
            socket_lease,
            lease,
        };
        driver.options.pull.check()?; // for a standby too, which would find out too late
        if driver.lease.try_take()? {
            driver.own_soon()?;
        } else if driver.options.standby {
            Relayed::check(&driver.options.ring)?;
            driver.lease.stand_by()?;
            driver.lease.watch_in(&driver.set)?;
            snapring_core::wake::prepare();
            driver.status.term.store(driver.lease.term(), Ordering::Relaxed);
        } else {
            return Err(driver.lease.busy(&format!("the relay of ring {:?}", driver.options.ring.name)));
        }
        driver.timer.set(Some(clock::mono_ns()));
        Ok(driver)
    }

    /// What everybody may know.
    pub fn status(&self) -> &Arc<Status> {
        &self.status
    }

    /// By which any thread may have the descriptor readable, and so a turn made, now.
    pub fn timer(&self) -> Arc<Timer> {
        Arc::clone(&self.timer)
    }

    /// As [`Self::own`], for one who opens, with some patience: who is just dying loses its lock before its socket.
    fn own_soon(&mut self) -> Result<(), Error> {
        for _ in 0..DYING_TRIES {
            match self.own(false) {
                Err(Error::OwnerBusy { .. } | Error::Io { .. }) => std::thread::sleep(DYING_PAUSE),
                done => return done,
            }
        }
        self.own(true)
    }

    /// Binds the socket and opens the ring, under the lock.
    fn own(&mut self, opening: bool) -> Result<(), Error> {
        if let Some(lease) = &mut self.socket_lease
            && !lease.try_take()?
        {
            return Err(lease.busy(&format!("the socket {}", self.options.pull.endpoint)));
        }
        // The ring first: senders are not to be let in while there is nowhere to put what they send.
        let ring = Relayed::open(self.options.ring.clone())?;
        let fingerprint = self.options.ring.schema.fingerprint();
        let intake = Intake::new(ring, &self.options.ring.job, fingerprint, Arc::clone(&self.status.counters))?;
        let pull = match self.bind(opening) {
            Ok(pull) => pull,
            Err(error) => {
                // Who could not even open leaves no ring behind that nobody uses.
                let _ = intake.close(!opening || self.options.ring.keep || self.lease.has_standby()?);
                return Err(error);
            }
        };
        self.lease.begin(pull.endpoint().port())?;
        watch(&self.set, pull.as_fd())?;
        count(&self.status.counters.takes);
        self.status.owns(Some(pull.endpoint()), self.lease.term());
        self.owner = Some(Owner { pull, intake });
        Ok(())
    }

    /// Binds the socket: a free port is taken once, and then kept from owner to owner, because senders know no other.
    /// One who opens, and takes over from nobody, may have to take another.
    fn bind(&self, opening: bool) -> Result<Pull, Error> {
        let kept = self.options.pull.endpoint.with_port(self.lease.port());
        let Some(endpoint) = kept else { return Pull::bind(&self.options.pull) };
        let bound = Pull::bind(&PullOptions { endpoint, ..self.options.pull.clone() });
        if opening && bound.is_err() { Pull::bind(&self.options.pull) } else { bound }
    }

    /// Works until there is nothing to do, or `frames` messages were taken. Readable again at once if there is more.
    ///
    /// What goes wrong is noted in the status and tried again; a relay does not end by itself.
    pub fn turn(&mut self, frames: usize) {
        let now_ns = clock::mono_ns();
        self.timer.hear(now_ns);
        let next = if self.owner.is_some() { self.serve(frames, now_ns) } else { self.stand_by(now_ns) };
        let next = next.unwrap_or_else(|error| {
            self.status.note(&error);
            count(&self.status.counters.failed);
            Some(now_ns + RETRY_NS)
        });
        self.timer.set(next);
    }

    fn stand_by(&mut self, now_ns: u64) -> Result<Option<u64>, Error> {
        if now_ns < self.own_at_ns {
            return Ok(Some(self.own_at_ns));
        }
        let Some(again_ns) = self.lease.wait_turn(now_ns)? else {
            if let Err(error) = self.own(false) {
                self.give_way(now_ns)?;
                return Err(error);
            }
            self.own_pause_ns = RETRY_NS;
            return Ok(Some(now_ns)); // what was queued before the bind is served at once
        };
        self.status.term.store(self.lease.term(), Ordering::Relaxed);
        if let Some(limit_ns) = self.options.kill_hung_ns {
            self.lease.end_hung(limit_ns, now_ns)?;
        }
        Ok(Some(again_ns))
    }

    /// Lets other standbys try what this process failed at, and tries again later.
    fn give_way(&mut self, now_ns: u64) -> Result<(), Error> {
        if let Some(lease) = &mut self.socket_lease {
            lease.release()?;
        }
        self.lease.release()?;
        self.lease.stand_by()?;
        self.lease.watch_in(&self.set)?;
        self.own_at_ns = now_ns + self.own_pause_ns;
        self.own_pause_ns = LONGEST_RETRY_NS.min(self.own_pause_ns * 2);
        Ok(())
    }

    fn serve(&mut self, frames: usize, now_ns: u64) -> Result<Option<u64>, Error> {
        let Some(Owner { pull, intake }) = &mut self.owner else { return Ok(None) };
        let beat_ns = self.lease.beat(now_ns)?;
        if let Some(clients) = self.status.clients.lock().unwrap_or_else(PoisonError::into_inner).take() {
            pull.set_clients(&clients);
            if let Admission::Curve { clients: listed, .. } = &mut self.options.pull.admission {
                *listed = clients;
            }
        }
        pull.serve_gate()?;
        // Asked before the frames: of a connection that is seen to end here, all frames are in the queue already.
        self.endings.note(pull, now_ns)?;
        let mut left = frames;
        let mut receipt_ns = now_ns;
        while left > 0 {
            match pull.recv()? {
                Some(Received::Frame { bytes, peer }) => {
                    if left.is_multiple_of(SAME_RECEIPT) {
                        receipt_ns = clock::mono_ns();
                    }
                    intake.take(bytes, self.endings.name(peer), receipt_ns);
                }
                Some(Received::Multipart) => intake.take_multipart(),
                None => break,
            }
            left -= 1;
        }
        self.endings.apply(left > 0, pull, intake, now_ns)?;
        let next = intake.turn(now_ns);
        pull.rearm()?; // also when the ring is at fault: what waits would have the descriptor readable for ever
        if let Some(error) = intake.take_error() {
            self.status.note(&error);
        }
        let next = next?;
        *self.status.peers.lock().unwrap_or_else(PoisonError::into_inner) = pull.counters();
        Ok(Some(next.map_or(beat_ns, |next| next.min(beat_ns))))
    }

    /// Lets go in order: socket, ring, locks. The ring is removed where nobody else uses it, nobody stands by, and it is
    /// not to be kept.
    pub fn close(mut self) -> Result<(), Error> {
        let Some(Owner { pull, intake }) = self.owner.take() else { return Ok(()) };
        self.status.owns(None, self.lease.term());
        drop(pull);
        intake.close(self.options.ring.keep || self.lease.has_standby()?)
    }
}

/// Connections that ended, until all that came in on them was taken.
#[derive(Default)]
struct Endings {
    /// Descriptor, when it was noted, and whether it is in use again.
    noted: Vec<(Peer, u64, bool)>,
}

impl Endings {
    /// The connection of that descriptor, or [`intake::ENDED`] where it ended and the descriptor is not in use again.
    fn name(&self, peer: Peer) -> Peer {
        let ended = self.noted.iter().any(|&(ended, _, again)| ended == peer && !again);
        if ended { intake::ENDED } else { peer }
    }

    fn note(&mut self, pull: &mut Pull, now_ns: u64) -> Result<(), Error> {
        pull.links(&mut |event| match event {
            LinkEvent::Down(peer) => self.noted.push((peer, now_ns, false)),
            LinkEvent::Up(peer) => {
                for (_, _, again) in self.noted.iter_mut().filter(|(ended, ..)| *ended == peer) {
                    *again = true;
                }
            }
        })
    }

    /// Tells the intake of those noted before the queue was `drained`; in a flood that never ends, of those a second old.
    fn apply(&mut self, drained: bool, pull: &mut Pull, intake: &mut Intake, now_ns: u64) -> Result<(), Error> {
        let ready = self.noted.len();
        if ready == 0 {
            return Ok(());
        }
        // A descriptor that is used again by now may have carried frames of its new connection just now.
        pull.look()?;
        self.note(pull, now_ns)?;
        let mut index = 0;
        self.noted.retain(|&(peer, noted_ns, again)| {
            let due = index < ready && (drained || now_ns > noted_ns + FLOOD_NS);
            index += 1;
            if due {
                intake.disconnected(peer, again || !drained, now_ns);
            }
            !due
        });
        Ok(())
    }
}

impl AsFd for Driver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.set.as_fd()
    }
}

fn watch(set: &OwnedFd, fd: BorrowedFd<'_>) -> Result<(), Error> {
    let flags = epoll::EventFlags::IN;
    epoll::add(set, fd, epoll::EventData::new_u64(0), flags)
        .map_err(|error| Error::io("waiting for a relay's work", error))
}

/// The lock beside an ipc socket: libzmq would take the path from a living owner without a word.
fn socket_lease(endpoint: &Endpoint) -> Result<Option<Lease>, Error> {
    let Endpoint::Ipc(path) = endpoint else { return Ok(None) };
    let (Some(parent), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return Err(Error::Invalid(format!("{endpoint} names no file")));
    };
    let options = DirOptions { path: Some(parent.to_owned()), allow_disk: true };
    let directory = Directory::open_or_create(&options)?;
    Lease::open(&directory, &format!("{name}{LOCK}")).map(Some)
}
