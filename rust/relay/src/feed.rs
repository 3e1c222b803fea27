//! The load of ranks for routers that know only an address: one PUB socket per rank.
//!
//! A message has three parts: the topic `load`, the sequence as 8 bytes, big-endian, and the payload. Sequences are 1, 2,
//! 3 ... per socket; a subscriber that sees a gap was too slow, or was not there. Nothing that a subscriber does or
//! leaves undone holds up a send: beyond [`SNDHWM`] messages that wait for it, it misses the newest, and learns that value
//! with the next heartbeat.

use crate::endpoint::Endpoint;
use crate::gate::Admission;
use crate::link::{Descriptors, configure};
use crate::monitor::event;
use crate::zmq::{Monitored, Socket, SocketKind, option};
use snapring_core::Error;
use snapring_core::fork::Token;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

mod keeper;

use keeper::Keeper;

/// First part of every message.
pub const TOPIC: &[u8] = b"load";
/// Messages that wait for one subscriber at most, besides what the kernel holds.
pub const SNDHWM: i32 = 8;
/// Bytes of the longest message from a subscriber: a step of a CURVE handshake, which has at most some 600.
const MAX_INCOMING: i64 = 1024;
/// ZAP's name for what the gate guards; any will do.
const DOMAIN: &[u8] = b"snapring-feed";

/// Where to publish, and to whom.
#[derive(Clone, Debug)]
pub struct FeedOptions {
    /// A TCP address of this machine; port 0 takes a free one.
    pub endpoint: Endpoint,
    /// Keys that may subscribe.
    pub admission: Admission,
    /// Publish off this host without keys.
    pub insecure: bool,
}

/// What one rank publishes to. All methods may be called from any thread; in a child of a fork they give
/// [`Error::Forked`], and the child keeps neither the port nor, but for one accepted that very moment, a connection.
#[derive(Debug)]
pub struct Feed {
    // `None` only while it is dropped.
    open: Option<Open>,
    endpoint: Endpoint,
    token: Token,
}

/// Dropped in this order: the socket closes before the keeper ends its context.
#[derive(Debug)]
struct Open {
    line: Arc<Mutex<Line>>,
    keeper: Arc<Keeper>,
}

impl Feed {
    /// Binds. Opens about 20 descriptors and three threads, one of which looks after connections and heartbeats.
    pub fn bind(options: &FeedOptions) -> Result<Self, Error> {
        check(options)?;
        Self::of(Arc::new(Keeper::start(&options.admission)?), options)
    }

    /// Binds another, which shares this one's threads and admission. The drop of the last of them waits until all their
    /// ports are free; that of another frees its own a moment later.
    pub fn beside(&self, endpoint: Endpoint, insecure: bool) -> Result<Self, Error> {
        let keeper = &self.open()?.keeper;
        let options = FeedOptions { endpoint, admission: keeper.admission().clone(), insecure };
        check(&options)?;
        Self::of(Arc::clone(keeper), &options)
    }

    fn of(keeper: Arc<Keeper>, options: &FeedOptions) -> Result<Self, Error> {
        let socket = keeper.context().socket(SocketKind::Pub)?;
        restrict(&socket, options)?;
        let socket = socket.monitor(event::DESCRIPTORS)?;
        let bound = socket.socket().bind(&options.endpoint.to_bind()?).map_err(|error| explain(error, options))?;
        let mut line = Line::new(socket);
        // A fork may come at any time: the listening descriptor must be known before.
        line.follow()?;
        let line = Arc::new(Mutex::new(line));
        keeper.keep(&line)?;
        let endpoint = Endpoint::parse(&bound)?;
        Ok(Self { open: Some(Open { line, keeper }), endpoint, token: Token::current()? })
    }

    /// Sends a message to all that subscribe now, and returns its sequence.
    pub fn send(&self, payload: &[u8]) -> Result<u64, Error> {
        lock(&self.open()?.line).send(payload)
    }

    /// Sends the last message again, under a new sequence, whenever `interval` passed without any.
    pub fn start_heartbeat(&self, interval: Duration) -> Result<(), Error> {
        let open = self.open()?;
        lock(&open.line).heartbeat = Some(interval);
        open.keeper.wake()
    }

    /// Sequence of the last message, 0 before the first.
    pub fn sequence(&self) -> Result<u64, Error> {
        Ok(lock(&self.open()?.line).sequence)
    }

    /// Where it is bound, with the port that it got.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Asked before any lock is taken: in a child nobody may be left to free it.
    fn open(&self) -> Result<&Open, Error> {
        match &self.open {
            Some(open) if self.token.is_here() => Ok(open),
            _ => Err(Error::Forked("feed")),
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        let open = self.open.take();
        match open {
            Some(open) if self.token.is_here() => open.keeper.forget(&open.line),
            // What the parent uses is left alone.
            other => mem::forget(other),
        }
    }
}

/// One socket and what was sent last.
#[derive(Debug)]
struct Line {
    // Dropped in this order: the socket closes before its descriptors are forgotten.
    socket: Monitored,
    descriptors: Descriptors,
    sequence: u64,
    last: Vec<u8>,
    sent: Instant,
    heartbeat: Option<Duration>,
}

impl Line {
    fn new(socket: Monitored) -> Self {
        let descriptors = Descriptors::default();
        Self { socket, descriptors, sequence: 0, last: Vec::new(), sent: Instant::now(), heartbeat: None }
    }

    fn send(&mut self, payload: &[u8]) -> Result<u64, Error> {
        if self.last != payload {
            payload.clone_into(&mut self.last);
        }
        self.send_last()
    }

    fn send_last(&mut self) -> Result<u64, Error> {
        let (socket, sequence) = (self.socket.socket(), self.sequence + 1);
        // Has the socket hear first which messages are gone: by itself it looks once a millisecond, and would drop
        // what there is room for.
        socket.events()?;
        // Never false: a PUB socket drops what a subscriber has no room for, and always all parts of it.
        socket.send(TOPIC, true)?;
        socket.send(&sequence.to_be_bytes(), true)?;
        socket.send(&self.last, false)?;
        self.sequence = sequence;
        self.sent = Instant::now();
        Ok(sequence)
    }

    /// Sends the heartbeat if it is due; when the next will be.
    fn beat(&mut self, now: Instant) -> Result<Option<Instant>, Error> {
        let Some(interval) = self.heartbeat.filter(|_| self.sequence > 0) else { return Ok(None) };
        if now.saturating_duration_since(self.sent) >= interval {
            self.send_last()?;
        }
        Ok(self.sent.checked_add(interval))
    }

    /// Takes what the monitor tells.
    fn follow(&mut self) -> Result<(), Error> {
        while let Some(event) = self.socket.next_event()? {
            self.descriptors.follow(event)?;
        }
        // Has the socket take in who came and went, which else it does only when it sends.
        self.socket.socket().events().map(drop)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn check(options: &FeedOptions) -> Result<(), Error> {
    let endpoint = &options.endpoint;
    if matches!(endpoint, Endpoint::Ipc(_)) {
        return Err(Error::Invalid(format!(
            "{endpoint} is no port: a feed is for routers that know an address; write tcp://host:port"
        )));
    }
    if matches!(options.admission, Admission::Anyone) && !options.insecure && !endpoint.is_loopback() {
        return Err(Error::Invalid(format!(
            "{endpoint} can be reached from other hosts: name the feed's key file and the routers' public keys (key=, clients=), or let anybody read it in the clear (insecure=True)"
        )));
    }
    Ok(())
}

fn restrict(socket: &Socket, options: &FeedOptions) -> Result<(), Error> {
    configure(socket, options.endpoint.needs_ipv6())?;
    socket.set_int(option::SNDHWM, SNDHWM)?;
    socket.set_long(option::MAXMSGSIZE, MAX_INCOMING)?;
    if let Admission::Curve { own, .. } = &options.admission {
        socket.set_int(option::ZAP_ENFORCE_DOMAIN, 1)?;
        socket.set_bytes(option::ZAP_DOMAIN, DOMAIN)?;
        socket.set_int(option::CURVE_SERVER, 1)?;
        socket.set_bytes(option::CURVE_SECRETKEY, own.secret().reveal().as_bytes())?;
    }
    Ok(())
}

/// Says what to do about a port that cannot be had.
fn explain(error: Error, options: &FeedOptions) -> Error {
    match error {
        Error::Io { source, .. } => {
            let endpoint = &options.endpoint;
            Error::io(format!("binding {endpoint} for a feed; choose a free port and an address of this host"), source)
        }
        other => other,
    }
}
