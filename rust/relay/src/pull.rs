//! The receiving end: one PULL socket that admits whom its gate lets in, behind one level-triggered descriptor.
//!
//! libzmq's own descriptors are edge-triggered. So they stand in an epoll set together with an eventfd that
//! [`Source::rearm`] keeps readable while anything waits inside libzmq.
//!
//! Each question to libzmq that ends with "nothing there" costs a system call, and most turns bring frames only. So a
//! turn asks the epoll set once what there is, and then only those sockets that may have something: one whose descriptor
//! is readable, or one that was left before it said "nothing there". After that answer the next message makes the
//! descriptor readable.

use crate::curve::PublicKey;
use crate::endpoint::{Endpoint, check_ipc_place, inode};
use crate::gate::{Admission, Gate, Net, Verdict};
use crate::link::{Descriptors, configure};
use crate::monitor::event;
use crate::quota::Quota;
use crate::transport::{LinkCounters, LinkEvent, Received, Source};
use crate::zmq::{Context, Message, Monitored, Socket, SocketKind, option};
use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use snapring_core::Error;
use snapring_core::fork::Token;
use std::collections::{HashSet, VecDeque};
use std::fs::{Permissions, remove_file, set_permissions};
use std::os::fd::RawFd;
use std::os::unix::fs::PermissionsExt;

/// Frames of one connection that wait inside libzmq at most; the rest waits in the kernel, then at the sender.
pub const RCVHWM: i32 = 256;
/// Connections that wait to be accepted; the system may take fewer.
pub const BACKLOG: i32 = 1024;
/// Questions, and events, that one turn answers at most.
const TURN: usize = 256;
/// Bytes that CURVE adds to a message: its name, a nonce, a code and flags.
const CURVE_BYTES: usize = 33;
/// Bytes of the longest step of a handshake are fewer: some 600, with keys.
const HANDSHAKE_BYTES: usize = 1024;
/// ZAP's name for what this gate guards; any will do.
const DOMAIN: &[u8] = b"snapring";

/// Names in the epoll set of what a turn need not always ask.
const OTHERS: u64 = 0;
const EVENTS: u64 = 1;
const QUESTIONS: u64 = 2;
const WATCHED: usize = 4;
const AT_ONCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// Where to listen, and to whom.
#[derive(Clone, Debug)]
pub struct PullOptions {
    /// Where; port 0 takes a free one. The directory of an ipc socket must be there, own and 0700, and the caller must
    /// hold a lock that lets nobody else bind it.
    pub endpoint: Endpoint,
    /// Bytes of the longest message; one that is longer, and longer than a step of a handshake may be, ends its
    /// connection.
    pub max_message: usize,
    /// Connections at most, those in their handshake (at most 2 s) included.
    pub max_peers: usize,
    /// Keys that may connect.
    pub admission: Admission,
    /// Addresses that may connect, over TCP; `None` lists all.
    pub addresses: Option<Vec<Net>>,
}

impl PullOptions {
    /// Refuses what could never be bound.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let Endpoint::Ipc(path) = &self.endpoint else { return Ok(()) };
        if self.addresses.is_some() {
            return Err(Error::Invalid(
                "an ipc socket has no addresses to list; its directory says who may connect".into(),
            ));
        }
        check_ipc_place(path)
    }
}

/// The receiving end of many connections.
#[derive(Debug)]
pub struct Pull {
    // Dropped in this order: sockets close before their descriptors are forgotten.
    socket: Monitored,
    gate: Gate,
    descriptors: Descriptors,
    peers: HashSet<i32>,
    quota: Quota,
    max_peers: usize,
    pending: VecDeque<LinkEvent>,
    counters: LinkCounters,
    message: Message,
    all: OwnedFd,
    sticky: OwnedFd,
    raised: bool,
    /// What may have something, as far as this value has heard.
    due: Due,
    endpoint: Endpoint,
    // Of an ipc socket, else 0.
    inode: u64,
    token: Token,
}

#[derive(Debug)]
struct Due {
    frames: bool,
    events: bool,
    questions: bool,
}

impl Pull {
    /// Binds. Opens about 16 descriptors and two threads.
    pub fn bind(options: &PullOptions) -> Result<Self, Error> {
        options.check()?;
        let context = Context::new()?;
        let gate = Gate::open(&context, &options.admission, options.addresses.clone())?;
        let socket = context.socket(SocketKind::Pull)?;
        restrict(&socket, options)?;
        // Without those of accepts that fail: where descriptors run out, libzmq sends them without end and without limit.
        let events = event::DESCRIPTORS | event::HANDSHAKES;
        let socket = socket.monitor(events)?;
        let sticky = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|error| Error::io("making an eventfd", error))?;
        let all =
            epoll::create(epoll::CreateFlags::CLOEXEC).map_err(|error| Error::io("making an epoll set", error))?;
        watch(&all, sticky.as_fd(), OTHERS)?;
        watch(&all, socket.socket().fd()?, OTHERS)?;
        watch(&all, socket.events_fd()?, EVENTS)?;
        watch(&all, gate.fd()?, QUESTIONS)?;
        let mut pull = Self {
            socket,
            gate,
            descriptors: Descriptors::default(),
            peers: HashSet::new(),
            quota: Quota::new(RCVHWM as u64, longest(options) as u64),
            max_peers: options.max_peers,
            pending: VecDeque::new(),
            counters: LinkCounters::default(),
            message: Message::new(),
            all,
            sticky,
            raised: false,
            due: Due { frames: true, events: true, questions: true },
            endpoint: options.endpoint.clone(),
            inode: 0,
            token: Token::current()?,
        };
        pull.listen()?;
        Ok(pull)
    }

    fn listen(&mut self) -> Result<(), Error> {
        let bound = self.socket.socket().bind(&self.endpoint.to_bind()?)?;
        self.endpoint = Endpoint::parse(&bound)?;
        if let Endpoint::Ipc(path) = &self.endpoint {
            self.inode = inode(path);
            let private = Permissions::from_mode(0o600);
            set_permissions(path, private)
                .map_err(|error| Error::io(format!("closing {} to others", path.display()), error))?;
        }
        self.follow()?;
        self.rearm()
    }

    /// Where it listens, with the port that it got.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Lists other keys from now on. Connections that are up stay; without CURVE, nothing changes.
    pub fn set_clients(&mut self, clients: &HashSet<PublicKey>) {
        self.gate.list(clients);
    }

    fn here(&self) -> Result<(), Error> {
        if self.token.is_here() { Ok(()) } else { Err(Error::Forked("relay's socket")) }
    }

    /// Hears which sockets may have something, for the calls that follow.
    pub fn look(&mut self) -> Result<(), Error> {
        self.here()?;
        let nothing = epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(OTHERS) };
        let mut ready = [nothing; WATCHED];
        let count = match epoll::wait(&self.all, &mut ready, Some(&AT_ONCE)) {
            Err(Errno::INTR) => return Ok(()), // they stay readable for the next turn
            count => count.map_err(|error| Error::io("looking at an epoll set", error))?,
        };
        for event in &ready[..count] {
            match event.data.u64() {
                EVENTS => self.due.events = true,
                QUESTIONS => self.due.questions = true,
                _ => {} // frames are always asked for
            }
        }
        Ok(())
    }

    /// Takes what the monitor tells.
    fn follow(&mut self) -> Result<(), Error> {
        for _ in 0..TURN {
            self.due.events = true;
            let Some(event) = self.socket.next_event()? else {
                self.due.events = false;
                break;
            };
            self.descriptors.follow(event)?;
            match event.kind {
                event::ACCEPTED => {
                    self.peers.insert(event.value);
                    self.quota.begin(event.value);
                    self.pending.push_back(LinkEvent::Up(event.value));
                }
                event::DISCONNECTED => {
                    self.peers.remove(&event.value);
                    self.quota.end(event.value);
                    self.counters.disconnects += 1;
                    self.pending.push_back(LinkEvent::Down(event.value));
                }
                event::HANDSHAKE_FAILED_PROTOCOL | event::HANDSHAKE_FAILED_NO_DETAIL => {
                    self.counters.handshakes_failed += 1;
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl Source for Pull {
    fn serve_gate(&mut self) -> Result<(), Error> {
        self.look()?;
        for _ in 0..TURN {
            if !self.due.questions {
                break;
            }
            // The connection in question is among the peers already: libzmq told of it before it asked.
            self.follow()?;
            match self.gate.answer(self.peers.len() > self.max_peers)? {
                None => self.due.questions = false,
                Some(Verdict::Granted) => {}
                Some(Verdict::UnknownKey) => self.counters.refused_key += 1,
                Some(Verdict::UnknownAddress) => self.counters.refused_address += 1,
                Some(Verdict::TooMany) => self.counters.too_many_peers += 1,
            }
        }
        Ok(())
    }

    fn links(&mut self, tell: &mut dyn FnMut(LinkEvent)) -> Result<(), Error> {
        self.here()?;
        if self.due.events {
            self.follow()?;
        }
        self.pending.drain(..).for_each(tell);
        Ok(())
    }

    fn recv(&mut self) -> Result<Option<Received<'_>>, Error> {
        self.due.frames = self.socket.socket().recv(&mut self.message)?;
        if !self.due.frames {
            return Ok(None);
        }
        let peer = self.message.source();
        self.quota.heard(peer);
        if !self.message.more() {
            return Ok(Some(Received::Frame { bytes: self.message.data(), peer }));
        }
        // The parts of a message arrive together, so the end is there.
        while self.message.more() && self.socket.socket().recv(&mut self.message)? {}
        Ok(Some(Received::Multipart))
    }

    fn rearm(&mut self) -> Result<(), Error> {
        self.here()?;
        self.counters.endless += self.quota.enforce();
        let due = self.due.frames || self.due.events || self.due.questions || !self.pending.is_empty();
        if due == self.raised {
            return Ok(());
        }
        let done = if due {
            rustix::io::write(&self.sticky, &1_u64.to_ne_bytes())
        } else {
            rustix::io::read(&self.sticky, &mut [0; 8])
        };
        done.map_err(|error| Error::io("raising an eventfd", error))?;
        self.raised = due;
        Ok(())
    }

    fn fd(&self) -> RawFd {
        self.all.as_raw_fd()
    }

    fn counters(&self) -> LinkCounters {
        self.counters
    }
}

impl AsFd for Pull {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.all.as_fd()
    }
}

impl Drop for Pull {
    fn drop(&mut self) {
        if let Endpoint::Ipc(path) = &self.endpoint
            && self.token.is_here()
            && self.inode != 0
            && inode(path) == self.inode
        {
            // Best effort: whoever binds next removes what is left.
            let _ = remove_file(path);
        }
    }
}

fn watch(all: &OwnedFd, fd: BorrowedFd<'_>, name: u64) -> Result<(), Error> {
    let name = epoll::EventData::new_u64(name);
    epoll::add(all, fd, name, epoll::EventFlags::IN).map_err(|error| Error::io("filling an epoll set", error))
}

fn restrict(socket: &Socket, options: &PullOptions) -> Result<(), Error> {
    configure(socket, options.endpoint.needs_ipv6())?;
    socket.set_long(option::MAXMSGSIZE, longest(options))?;
    socket.set_int(option::RCVHWM, RCVHWM)?;
    socket.set_int(option::BACKLOG, BACKLOG)?;
    // With a domain the gate is asked about peers without keys too; enforced, nobody enters while no gate is there.
    socket.set_int(option::ZAP_ENFORCE_DOMAIN, 1)?;
    socket.set_bytes(option::ZAP_DOMAIN, DOMAIN)?;
    if let Admission::Curve { own, .. } = &options.admission {
        socket.set_int(option::CURVE_SERVER, 1)?;
        socket.set_bytes(option::CURVE_SECRETKEY, own.secret().reveal().as_bytes())?;
    }
    Ok(())
}

/// What libzmq may take at most: it counts the bytes on the wire, those of the handshake too.
fn longest(options: &PullOptions) -> i64 {
    let added = if matches!(options.admission, Admission::Curve { .. }) { CURVE_BYTES } else { 0 };
    i64::try_from(options.max_message.saturating_add(added).max(HANDSHAKE_BYTES)).unwrap_or(i64::MAX)
}
