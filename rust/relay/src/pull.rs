//! The receiving end: one PULL socket that admits whom its gate lets in, behind one level-triggered descriptor.
//!
//! libzmq's own descriptors are edge-triggered. So they stand in an epoll set together with an eventfd that
//! [`Source::rearm`] keeps readable while anything waits inside libzmq.

use crate::curve::PublicKey;
use crate::endpoint::{Endpoint, check_ipc_place, inode};
use crate::gate::{Admission, Gate, Net, Verdict};
use crate::link::{Descriptors, configure};
use crate::monitor::event;
use crate::quota::Quota;
use crate::transport::{LinkCounters, LinkEvent, Received, Source};
use crate::zmq::{Context, Message, Monitored, Socket, SocketKind, option};
use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
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
    endpoint: Endpoint,
    // Of an ipc socket, else 0.
    inode: u64,
    token: Token,
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
        watch(&all, sticky.as_fd())?;
        watch(&all, socket.socket().fd()?)?;
        watch(&all, socket.events_fd()?)?;
        watch(&all, gate.fd()?)?;
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

    /// Takes what the monitor tells.
    fn follow(&mut self) -> Result<(), Error> {
        for _ in 0..TURN {
            let Some(event) = self.socket.next_event()? else { break };
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
        for _ in 0..TURN {
            // The connection in question is among the peers already: libzmq told of it before it asked.
            self.follow()?;
            match self.gate.answer(self.peers.len() > self.max_peers)? {
                None => break,
                Some(Verdict::Granted) => {}
                Some(Verdict::UnknownKey) => self.counters.refused_key += 1,
                Some(Verdict::UnknownAddress) => self.counters.refused_address += 1,
                Some(Verdict::TooMany) => self.counters.too_many_peers += 1,
            }
        }
        Ok(())
    }

    fn links(&mut self, tell: &mut dyn FnMut(LinkEvent)) -> Result<(), Error> {
        self.follow()?;
        self.pending.drain(..).for_each(tell);
        Ok(())
    }

    fn recv(&mut self) -> Result<Option<Received<'_>>, Error> {
        if !self.socket.socket().recv(&mut self.message)? {
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
        self.counters.endless += self.quota.enforce();
        // All three are asked, because asking clears their edges.
        let waiting = self.socket.socket().has_input()? | self.socket.has_event()? | self.gate.has_question()?;
        let due = waiting || !self.pending.is_empty();
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

fn watch(all: &OwnedFd, fd: BorrowedFd<'_>) -> Result<(), Error> {
    let nothing = epoll::EventData::new_u64(0);
    epoll::add(all, fd, nothing, epoll::EventFlags::IN).map_err(|error| Error::io("filling an epoll set", error))
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
