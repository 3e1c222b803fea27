//! A relay and who drives it: a native thread, or the host's event loop.

use crate::curve::PublicKey;
use crate::driver::{Driver, RelayOptions, Status};
use crate::timer::Timer;
use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use snapring_core::Error;
use snapring_core::clock;
use snapring_core::fork::Token;
use std::collections::HashSet;
use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};

/// Messages that the thread takes before it looks after readers and connections.
const THREAD_FRAMES: usize = 512;
/// Messages that one [`Relay::poll`] takes, so that a flood does not hold the host's loop for long.
const POLL_FRAMES: usize = 256;

/// Who does the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drain {
    /// A native thread: the ring follows whatever the host does.
    Thread,
    /// The host, whenever [`Relay::fd`] is readable.
    Poll,
}

enum Engine {
    Thread { stop: Arc<Stop>, handle: JoinHandle<Result<(), Error>> },
    Poll(Box<Driver>),
    Closed,
}

struct Stop {
    asked: AtomicBool,
    wake: OwnedFd,
}

/// Receives the snapshots of ranks of other hosts and writes them into the ring of this one, or stands by to.
///
/// Threads may share it. In a child of a fork every call gives [`Error::Forked`].
pub struct Relay {
    token: Token,
    status: Arc<Status>,
    timer: Arc<Timer>,
    fd: Option<RawFd>,
    engine: Mutex<Engine>,
}

impl Relay {
    /// Takes the relay or stands by; returns at once.
    pub fn open(options: RelayOptions, drain: Drain) -> Result<Self, Error> {
        let token = Token::current()?;
        let driver = Box::new(Driver::open(options)?);
        let (status, timer) = (Arc::clone(driver.status()), driver.timer());
        let (fd, engine) = match drain {
            Drain::Poll => (Some(driver.as_fd().as_raw_fd()), Engine::Poll(driver)),
            Drain::Thread => (None, start(driver)?),
        };
        Ok(Self { token, status, timer, fd, engine: Mutex::new(engine) })
    }

    fn lock(&self) -> Result<MutexGuard<'_, Engine>, Error> {
        if !self.token.is_here() {
            return Err(Error::Forked("relay"));
        }
        Ok(self.engine.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What anybody may know, also after the close. Not in a child of a fork, which may have got its locks locked.
    pub fn status(&self) -> Result<&Status, Error> {
        if self.token.is_here() { Ok(&self.status) } else { Err(Error::Forked("relay")) }
    }

    /// Lists other keys of senders, from the next turn on. Those that are connected stay.
    pub fn set_clients(&self, clients: HashSet<PublicKey>) -> Result<(), Error> {
        if matches!(*self.lock()?, Engine::Closed) {
            return Err(Error::Closed("relay"));
        }
        self.status.set_clients(clients);
        self.timer.set(Some(clock::mono_ns()));
        Ok(())
    }

    /// Descriptor that is readable while [`Self::poll`] has something to do: level-triggered.
    pub fn fd(&self) -> Result<RawFd, Error> {
        match (&*self.lock()?, self.fd) {
            (Engine::Closed, _) => Err(Error::Closed("relay")),
            (_, Some(fd)) => Ok(fd),
            _ => Err(Error::Invalid(
                "a thread drains this relay; open it with drain=\"poll\" to drive it yourself".into(),
            )),
        }
    }

    /// Does what there is to do, at most a bounded piece of it; the descriptor stays readable while there is more.
    pub fn poll(&self) -> Result<(), Error> {
        match &mut *self.lock()? {
            Engine::Poll(driver) => driver.turn(POLL_FRAMES),
            Engine::Thread { .. } => {} // it is awake whenever there is anything
            Engine::Closed => return Err(Error::Closed("relay")),
        }
        Ok(())
    }

    /// Lets go of the socket, the ring and the lock, in this order. Closing twice is fine.
    pub fn close(&self) -> Result<(), Error> {
        let engine = mem::replace(&mut *self.lock()?, Engine::Closed);
        match engine {
            Engine::Closed => Ok(()),
            Engine::Poll(driver) => driver.close(),
            Engine::Thread { stop, handle } => {
                stop.ask();
                handle
                    .join()
                    .unwrap_or_else(|_| Err(Error::Invalid("the relay's thread panicked; this is a bug".into())))
            }
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if self.token.is_here() {
            let _ = self.close(); // nobody is left to be told
        } else if let Ok(engine) = self.engine.get_mut() {
            // A child of a fork has neither the thread nor a right to the sockets.
            mem::forget(mem::replace(engine, Engine::Closed));
        }
    }
}

impl Stop {
    fn ask(&self) {
        self.asked.store(true, Ordering::Release);
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }
}

/// Says that nobody owns any more when the thread panics, which would be a bug; the locks go with the thread's values.
struct Fallen(Arc<Status>);

impl Drop for Fallen {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fall();
        }
    }
}

fn start(mut driver: Box<Driver>) -> Result<Engine, Error> {
    let what = |error| Error::io("starting the relay's thread", error);
    let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(what)?;
    epoll::add(driver.as_fd(), &wake, epoll::EventData::new_u64(0), epoll::EventFlags::IN).map_err(what)?;
    let stop = Arc::new(Stop { asked: AtomicBool::new(false), wake });
    let told = Arc::clone(&stop);
    let fallen = Fallen(Arc::clone(driver.status()));
    let run = move || {
        let _fallen = fallen;
        let mut events = Vec::with_capacity(1);
        while !told.asked.load(Ordering::Acquire) {
            events.clear();
            // An interrupted wait is a turn without work.
            let _ = epoll::wait(driver.as_fd(), rustix::buffer::spare_capacity(&mut events), None);
            driver.turn(THREAD_FRAMES);
        }
        driver.close()
    };
    let handle = Builder::new()
        .name("snapring-relay".into())
        .spawn(run)
        .map_err(|error| Error::io("starting the relay's thread", error))?;
    Ok(Engine::Thread { stop, handle })
}
