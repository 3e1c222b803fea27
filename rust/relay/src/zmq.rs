//! libzmq made safe: contexts, sockets, messages and monitors. No policy; see `push` and `pull` for that.
//!
//! # Fork
//!
//! libzmq's threads do not exist in a child, and its locks may be held there. So a context and its sockets belong to the
//! process that made them: in a child every call returns [`Error::Forked`], and drop leaks instead of closing.
//!
//! # Threads
//!
//! A socket may move between threads (`Send`), but only one may use it at a time (not `Sync`).
#![allow(unsafe_code, reason = "calls of libzmq; every block names its fact")]

use crate::ffi;
use core::ffi::{c_int, c_void};
use core::ptr::{self, NonNull};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::{BorrowedFd, OwnedFd};
use snapring_core::Error;
use snapring_core::fork::Token;
use std::ffi::CString;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

mod library;
mod message;

pub use crate::monitor::{Event, Monitored};
pub(crate) use library::{KEY_TEXT, curve_keypair, curve_public, z85_key};
pub use library::{has_curve, version};
use library::{last_errno, last_error};
pub use message::Message;

/// Socket options, by libzmq's names; times are milliseconds.
#[allow(missing_docs, reason = "libzmq's manual explains them")]
pub mod option {
    pub const FD: i32 = 14;
    pub const EVENTS: i32 = 15;
    pub const LINGER: i32 = 17;
    pub const RECONNECT_IVL: i32 = 18;
    pub const BACKLOG: i32 = 19;
    pub const RECONNECT_IVL_MAX: i32 = 21;
    /// Eight bytes: see [`super::Socket::set_long`].
    pub const MAXMSGSIZE: i32 = 22;
    pub const SNDHWM: i32 = 23;
    pub const RCVHWM: i32 = 24;
    pub const LAST_ENDPOINT: i32 = 32;
    pub const TCP_KEEPALIVE: i32 = 34;
    pub const TCP_KEEPALIVE_CNT: i32 = 35;
    pub const TCP_KEEPALIVE_IDLE: i32 = 36;
    pub const TCP_KEEPALIVE_INTVL: i32 = 37;
    pub const IMMEDIATE: i32 = 39;
    pub const IPV6: i32 = 42;
    pub const CURVE_SERVER: i32 = 47;
    pub const CURVE_PUBLICKEY: i32 = 48;
    pub const CURVE_SECRETKEY: i32 = 49;
    pub const CURVE_SERVERKEY: i32 = 50;
    pub const ZAP_DOMAIN: i32 = 55;
    pub const HANDSHAKE_IVL: i32 = 66;
    pub const TCP_MAXRT: i32 = 80;
    pub const CONNECT_TIMEOUT: i32 = 79;
    pub const ZAP_ENFORCE_DOMAIN: i32 = 93;
}

/// Descriptors that must be free before libzmq opens any: it ends the process when one of its own calls finds none.
const SPARE_DESCRIPTORS: usize = 32;
const OLDEST: (i32, i32, i32) = (4, 3, 5);
/// A call that signals interrupt this often is given up.
const INTERRUPTS: usize = 1000;

/// The endpoint or option as C wants it.
fn c_text(text: &str) -> Result<CString, Error> {
    CString::new(text).map_err(|_| Error::Invalid(format!("{text:?} has a zero byte in it; leave it out")))
}

/// Refuses while libzmq could find no descriptor: takes as many as it may need, and gives them back.
fn check_descriptors() -> Result<(), Error> {
    let taken: Result<Vec<OwnedFd>, _> = (0..SPARE_DESCRIPTORS).map(|_| eventfd(0, EventfdFlags::CLOEXEC)).collect();
    taken.map(drop).map_err(|error| {
        Error::io(
            format!("libzmq needs {SPARE_DESCRIPTORS} free descriptors; raise the limit (ulimit -n), or close some"),
            error,
        )
    })
}

/// libzmq's context: its I/O thread and all sockets made of it. Cloning shares it; the last owner ends it.
#[derive(Clone, Debug)]
pub struct Context(Arc<RawContext>);

#[derive(Debug)]
struct RawContext {
    raw: NonNull<c_void>,
    token: Token,
}

// SAFETY: libzmq's contexts may be used from any thread at any time.
unsafe impl Send for RawContext {}
// SAFETY: as above.
unsafe impl Sync for RawContext {}

impl Context {
    /// A context; its two threads start with the first socket.
    pub fn new() -> Result<Self, Error> {
        if version() < OLDEST || !has_curve() {
            return Err(Error::Invalid(format!(
                "libzmq {:?} is older than {OLDEST:?} or has no CURVE; build snapring anew",
                version()
            )));
        }
        check_descriptors()?;
        let token = Token::current()?;
        // SAFETY: takes nothing, and gives null or a context that is ours.
        let raw = NonNull::new(unsafe { ffi::zmq_ctx_new() }).ok_or_else(|| last_error("making a ZeroMQ context"))?;
        // SAFETY: the context just made. Not blocky: sockets linger for nothing unless told to.
        unsafe { ffi::zmq_ctx_set(raw.as_ptr(), ffi::BLOCKY, 0) };
        Ok(Self(Arc::new(RawContext { raw, token })))
    }

    /// A new socket, which lingers for nothing.
    pub fn socket(&self, kind: SocketKind) -> Result<Socket, Error> {
        self.here()?;
        check_descriptors()?;
        // SAFETY: the context lives as long as this value.
        let raw = NonNull::new(unsafe { ffi::zmq_socket(self.0.raw.as_ptr(), kind as c_int) })
            .ok_or_else(|| last_error("making a ZeroMQ socket"))?;
        let socket = Socket { raw, context: self.clone() };
        socket.set_int(option::LINGER, 0)?;
        Ok(socket)
    }

    fn here(&self) -> Result<(), Error> {
        if self.0.token.is_here() { Ok(()) } else { Err(Error::Forked("ZeroMQ socket")) }
    }
}

impl Drop for RawContext {
    fn drop(&mut self) {
        if self.token.is_here() {
            // SAFETY: every socket holds its context, so none is left; a signal may interrupt the wait for the threads.
            let end = || unsafe { ffi::zmq_ctx_term(self.raw.as_ptr()) } == 0 || last_errno() != libc::EINTR;
            (0..INTERRUPTS).any(|_| end());
        }
    }
}

/// Kinds of sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum SocketKind {
    /// Both ends of a monitor.
    Pair = ffi::PAIR,
    /// Sends to all subscribers.
    Pub = ffi::PUB,
    /// Answers requests, such as the gate's.
    Rep = ffi::REP,
    /// Receives from all that push.
    Pull = ffi::PULL,
    /// Sends to one of those that pull.
    Push = ffi::PUSH,
}

/// One socket; never blocks.
#[derive(Debug)]
pub struct Socket {
    raw: NonNull<c_void>,
    context: Context,
}

// SAFETY: libzmq lets a socket move to another thread when memory is synchronised, as moving a value does.
unsafe impl Send for Socket {}

impl Socket {
    /// Sets an option whose value is an `int`.
    pub fn set_int(&self, option: i32, value: i32) -> Result<(), Error> {
        self.set_bytes(option, &value.to_ne_bytes())
    }

    /// Sets an option whose value is 64 bits wide.
    pub fn set_long(&self, option: i32, value: i64) -> Result<(), Error> {
        self.set_bytes(option, &value.to_ne_bytes())
    }

    /// Sets an option whose value is text or bytes.
    pub fn set_bytes(&self, option: i32, value: &[u8]) -> Result<(), Error> {
        self.context.here()?;
        // SAFETY: a living socket, and the bytes of `value`, which are copied.
        let done = unsafe { ffi::zmq_setsockopt(self.raw.as_ptr(), option, value.as_ptr().cast(), value.len()) };
        if done == 0 { Ok(()) } else { Err(last_error(format!("setting ZeroMQ option {option}"))) }
    }

    /// Value of an option that is an `int`.
    pub fn get_int(&self, option: i32) -> Result<i32, Error> {
        let mut value = [0; size_of::<c_int>()];
        self.get(option, &mut value)?;
        Ok(i32::from_ne_bytes(value))
    }

    fn get(&self, option: i32, into: &mut [u8]) -> Result<usize, Error> {
        self.context.here()?;
        let mut len = into.len();
        // SAFETY: a living socket, and a buffer of `len` bytes.
        let done = unsafe { ffi::zmq_getsockopt(self.raw.as_ptr(), option, into.as_mut_ptr().cast(), &raw mut len) };
        if done == 0 { Ok(len) } else { Err(last_error(format!("reading ZeroMQ option {option}"))) }
    }

    /// Binds, and returns the endpoint with the port that it got.
    pub fn bind(&self, endpoint: &str) -> Result<String, Error> {
        self.context.here()?;
        let text = c_text(endpoint)?;
        // SAFETY: a living socket and a text that ends with a zero.
        if unsafe { ffi::zmq_bind(self.raw.as_ptr(), text.as_ptr()) } != 0 {
            return Err(last_error(format!("binding {endpoint}")));
        }
        let mut bound = [0; 512];
        let len = self.get(option::LAST_ENDPOINT, &mut bound)?;
        Ok(String::from_utf8_lossy(&bound[..len.saturating_sub(1)]).into_owned())
    }

    /// Connects, now or whenever the peer appears.
    pub fn connect(&self, endpoint: &str) -> Result<(), Error> {
        self.context.here()?;
        let text = c_text(endpoint)?;
        // SAFETY: a living socket and a text that ends with a zero.
        let done = unsafe { ffi::zmq_connect(self.raw.as_ptr(), text.as_ptr()) };
        if done == 0 { Ok(()) } else { Err(last_error(format!("connecting to {endpoint}"))) }
    }

    /// Ends the connection to `endpoint`, if there is any.
    pub fn disconnect(&self, endpoint: &str) -> Result<(), Error> {
        self.context.here()?;
        let text = c_text(endpoint)?;
        // SAFETY: a living socket and a text that ends with a zero.
        let done = unsafe { ffi::zmq_disconnect(self.raw.as_ptr(), text.as_ptr()) };
        if done == 0 || last_errno() == libc::ENOENT { Ok(()) } else { Err(last_error(format!("leaving {endpoint}"))) }
    }

    /// Sends one part; `more` says that another follows. False when it would have to wait.
    pub fn send(&self, data: &[u8], more: bool) -> Result<bool, Error> {
        self.context.here()?;
        let flags = ffi::DONTWAIT | if more { ffi::SNDMORE } else { 0 };
        // SAFETY: a living socket, and the bytes of `data`, which are copied.
        retried("sending", || unsafe { ffi::zmq_send(self.raw.as_ptr(), data.as_ptr().cast(), data.len(), flags) })
    }

    /// Receives one part into `message`, whose former content is gone then. False when there is none.
    pub fn recv(&self, message: &mut Message) -> Result<bool, Error> {
        self.context.here()?;
        let raw = message.0.as_mut();
        // SAFETY: a living socket and an initialised message.
        retried("receiving", || unsafe { ffi::zmq_msg_recv(raw, self.raw.as_ptr(), ffi::DONTWAIT) })
    }

    /// What can be done now: bit 0 to receive, bit 1 to send. Clears the edge of [`Socket::fd`].
    pub fn events(&self) -> Result<i32, Error> {
        self.get_int(option::EVENTS)
    }

    /// Whether something can be sent. Clears the edge of [`Socket::fd`].
    pub fn has_room(&self) -> Result<bool, Error> {
        Ok(self.events()? & ffi::POLLOUT != 0)
    }

    /// Whether something waits to be received. Clears the edge of [`Socket::fd`].
    pub fn has_input(&self) -> Result<bool, Error> {
        Ok(self.events()? & ffi::POLLIN != 0)
    }

    /// A descriptor that becomes readable when [`Socket::events`] may have changed: edge-triggered, so wait on it only
    /// after a receive found nothing, or `events` said so, with no other call since. It belongs to libzmq: never read,
    /// write or close it.
    pub fn fd(&self) -> Result<BorrowedFd<'_>, Error> {
        let fd = self.get_int(option::FD)?;
        // SAFETY: libzmq keeps the descriptor open as long as the socket, which the result borrows.
        Ok(unsafe { BorrowedFd::borrow_raw(fd) })
    }

    /// Lets `events` (of [`crate::monitor::event`]) be followed.
    pub fn monitor(self, events: i32) -> Result<Monitored, Error> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        self.context.here()?;
        let endpoint = format!("inproc://snapring-monitor-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let text = c_text(&endpoint)?;
        check_descriptors()?;
        // SAFETY: a living socket and a text that ends with a zero.
        if unsafe { ffi::zmq_socket_monitor(self.raw.as_ptr(), text.as_ptr(), events) } != 0 {
            return Err(last_error("following the events of a ZeroMQ socket"));
        }
        let follower = self.context.socket(SocketKind::Pair)?;
        // Unlimited: libzmq's I/O thread would wait for room, and every connection with it.
        follower.set_int(option::RCVHWM, 0)?;
        follower.connect(&endpoint)?;
        Ok(Monitored::new(self, follower))
    }
}

/// Repeats a call that signals interrupt; false when it would have to wait.
fn retried(what: &str, mut call: impl FnMut() -> c_int) -> Result<bool, Error> {
    for _ in 0..INTERRUPTS {
        if call() >= 0 {
            return Ok(true);
        }
        match last_errno() {
            libc::EAGAIN => return Ok(false),
            libc::EINTR => {}
            _ => break,
        }
    }
    Err(last_error(what))
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.context.here().is_ok() {
            // SAFETY: the socket is ours and is not used after. A monitor is stopped first: libzmq's I/O thread would
            // wait for ever on a monitor that nobody follows any more.
            unsafe {
                ffi::zmq_socket_monitor(self.raw.as_ptr(), ptr::null(), 0);
                ffi::zmq_close(self.raw.as_ptr());
            }
        }
    }
}
