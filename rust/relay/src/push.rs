//! The sending end: one PUSH socket that connects to a relay, again and again, and never blocks.

use crate::curve::{KeyPair, PublicKey};
use crate::endpoint::Endpoint;
use crate::link::{Descriptors, configure};
use crate::monitor::event;
use crate::transport::{Links, Refusal, Sink};
use crate::zmq::{Context, Monitored, SocketKind, option};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use snapring_core::Error;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Frames that wait inside libzmq at least and at most. Few, because a newer snapshot makes them worthless; but libzmq's
/// own thread takes them in turns, and a tight loop of small frames gets more through with 128 than with 8: the test
/// `what_a_sender_costs` measures it.
const QUEUE_FRAMES: (usize, usize) = (8, 128);
/// Bytes that they may be together, unless fewer than the least.
const QUEUE_BYTES: usize = 128 * 1024;
/// First and longest pause before the next try to connect, in milliseconds.
pub const RECONNECT_IVL: i32 = 10;
/// As [`RECONNECT_IVL`].
pub const RECONNECT_IVL_MAX: i32 = 80;
/// A connect without an answer is given up after this long; milliseconds.
pub const CONNECT_TIMEOUT: i32 = 500;
/// Pause after a refusal, in seconds.
pub const REFUSED_PAUSE: i64 = 1;

/// Nobody answered for this long: that is told once; shorter ones are restarts.
pub const UNANSWERED: Duration = Duration::from_secs(2);

/// Whom to trust, and who to be.
#[derive(Clone, Debug)]
pub struct ClientCurve {
    /// The relay's key.
    pub server: PublicKey,
    /// The sender's own keys.
    pub own: KeyPair,
}

/// Where to connect, and how.
#[derive(Clone, Debug)]
pub struct PushOptions {
    /// The relay's endpoint.
    pub endpoint: Endpoint,
    /// Keys; `None` speaks in the clear.
    pub curve: Option<ClientCurve>,
    /// Address of this machine to connect from; `None` leaves it to the system.
    pub source_address: Option<IpAddr>,
}

/// The sending end of a connection.
#[derive(Debug)]
pub struct Push {
    // Dropped in this order: sockets close before their descriptors are forgotten.
    socket: Monitored,
    descriptors: Descriptors,
    timer: OwnedFd,
    target: String,
    up: bool,
    // libzmq never again connects after it took offence, at a refusal say.
    given_up: bool,
    outage: Outage,
}

/// How long nobody has answered.
#[derive(Debug, Default)]
struct Outage {
    since: Option<Instant>,
    told: bool,
}

impl Outage {
    /// Notes a try without an answer; true once, when that has been so for [`UNANSWERED`].
    fn goes_on(&mut self) -> bool {
        let is_long = self.since.get_or_insert_with(Instant::now).elapsed() >= UNANSWERED;
        is_long && !std::mem::replace(&mut self.told, is_long)
    }
}

impl Push {
    /// Begins to connect; the relay need not be there yet. Opens about a dozen descriptors and two threads.
    pub fn connect(options: &PushOptions) -> Result<Self, Error> {
        Self::connect_for(options, QUEUE_BYTES)
    }

    /// [`Self::connect`] for frames of up to so many bytes: of small ones more may wait inside libzmq.
    pub fn connect_for(options: &PushOptions, frame_bytes: usize) -> Result<Self, Error> {
        let (least, most) = QUEUE_FRAMES;
        let queue = (QUEUE_BYTES / frame_bytes.max(1)).clamp(least, most);
        let target = options.endpoint.to_connect(options.source_address)?;
        let socket = Context::new()?.socket(SocketKind::Push)?;
        let ipv6 = options.endpoint.needs_ipv6() || options.source_address.is_some_and(|source| source.is_ipv6());
        configure(&socket, ipv6)?;
        let own = [
            (option::IMMEDIATE, 1),
            (option::SNDHWM, queue as i32),
            (option::RECONNECT_IVL, RECONNECT_IVL),
            (option::RECONNECT_IVL_MAX, RECONNECT_IVL_MAX),
            (option::CONNECT_TIMEOUT, CONNECT_TIMEOUT),
        ];
        own.iter().try_for_each(|(option, value)| socket.set_int(*option, *value))?;
        if let Some(curve) = &options.curve {
            socket.set_bytes(option::CURVE_SERVERKEY, &curve.server.bytes())?;
            socket.set_bytes(option::CURVE_PUBLICKEY, &curve.own.public().bytes())?;
            socket.set_bytes(option::CURVE_SECRETKEY, curve.own.secret().reveal().as_bytes())?;
        }
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, flags).map_err(|error| Error::io("making a timer", error))?;
        let socket = socket.monitor(event::DESCRIPTORS | event::HANDSHAKES | event::CONNECT_RETRIED)?;
        socket.socket().connect(&target)?;
        Ok(Self {
            socket,
            descriptors: Descriptors::default(),
            timer,
            target,
            up: false,
            given_up: false,
            outage: Outage::default(),
        })
    }

    /// Connects anew where libzmq does not, after a pause.
    fn retry(&mut self) -> Result<(), Error> {
        match rustix::io::read(&self.timer, &mut [0; 8]) {
            Ok(_) if self.given_up => {
                self.given_up = false;
                self.socket.socket().disconnect(&self.target)?;
                self.socket.socket().connect(&self.target)
            }
            Ok(_) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(Error::io("reading a timer", error)),
        }
    }

    fn pause(&self) -> Result<(), Error> {
        let once = Itimerspec {
            it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
            it_value: Timespec { tv_sec: REFUSED_PAUSE, tv_nsec: 0 },
        };
        let set = timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once);
        set.map(drop).map_err(|error| Error::io("setting a timer", error))
    }
}

impl Sink for Push {
    fn send(&mut self, frame: &[u8]) -> Result<bool, Error> {
        let socket = self.socket.socket();
        // A send looks for room that became free every millisecond or so only; asking for it always does.
        Ok(socket.send(frame, false)? || (self.up && socket.has_room()? && socket.send(frame, false)?))
    }

    fn links(&mut self) -> Result<Links, Error> {
        let mut links = Links::default();
        let given_up = self.given_up;
        while let Some(event) = self.socket.next_event()? {
            self.descriptors.follow(event)?;
            match event.kind {
                event::HANDSHAKE_SUCCEEDED => (links.up, self.up) = (true, true),
                event::CONNECTED => (self.given_up, self.outage) = (false, Outage::default()),
                event::CONNECT_RETRIED => {
                    self.given_up = false;
                    if self.outage.goes_on() {
                        links.refused = Some(Refusal::Unanswered);
                    }
                }
                event::DISCONNECTED => {
                    links.down |= self.up;
                    (self.up, self.given_up) = (false, true);
                }
                event::HANDSHAKE_FAILED_AUTH => links.refused = Some(Refusal::Denied),
                event::HANDSHAKE_FAILED_PROTOCOL => links.refused = Some(Refusal::Protocol),
                event::HANDSHAKE_FAILED_NO_DETAIL => links.refused = Some(Refusal::Dropped),
                _ => {}
            }
        }
        if self.given_up && !given_up {
            self.pause()?;
        }
        self.retry()?;
        Ok(links)
    }

    fn is_up(&self) -> bool {
        self.up
    }

    fn link_fds(&self) -> Result<[BorrowedFd<'_>; 2], Error> {
        Ok([self.socket.events_fd()?, self.timer.as_fd()])
    }

    fn room_fd(&self) -> Result<BorrowedFd<'_>, Error> {
        self.socket.socket().fd()
    }

    fn linger(&mut self, longest: Duration) -> Result<(), Error> {
        self.socket.socket().set_int(option::LINGER, longest.as_millis() as i32)
    }
}
