//! What happens to a socket's connections, as libzmq's monitor tells it.

use crate::zmq::{Message, Socket};
use rustix::fd::BorrowedFd;
use snapring_core::Error;

/// Kinds of events, by libzmq's names.
#[allow(missing_docs, reason = "libzmq's manual explains them")]
pub mod event {
    pub const CONNECTED: i32 = 0x0001;
    /// Another try to connect is planned.
    pub const CONNECT_RETRIED: i32 = 0x0004;
    pub const LISTENING: i32 = 0x0008;
    pub const ACCEPTED: i32 = 0x0020;
    pub const CLOSED: i32 = 0x0080;
    pub const DISCONNECTED: i32 = 0x0200;
    pub const HANDSHAKE_FAILED_NO_DETAIL: i32 = 0x0800;
    pub const HANDSHAKE_SUCCEEDED: i32 = 0x1000;
    pub const HANDSHAKE_FAILED_PROTOCOL: i32 = 0x2000;
    pub const HANDSHAKE_FAILED_AUTH: i32 = 0x4000;
    /// Those by which descriptors come and go.
    pub const DESCRIPTORS: i32 = CONNECTED | LISTENING | ACCEPTED | CLOSED | DISCONNECTED;
    /// How handshakes end.
    pub const HANDSHAKES: i32 =
        HANDSHAKE_FAILED_NO_DETAIL | HANDSHAKE_SUCCEEDED | HANDSHAKE_FAILED_PROTOCOL | HANDSHAKE_FAILED_AUTH;
}

/// One event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// One of [`event`].
    pub kind: i32,
    /// The descriptor for those of [`event::DESCRIPTORS`], else a reason.
    pub value: i32,
}

/// A socket whose events are followed.
#[derive(Debug)]
pub struct Monitored {
    // Dropped in this order: the socket must stop telling before its follower goes.
    socket: Socket,
    follower: Socket,
    message: Message,
}

impl Monitored {
    pub(crate) fn new(socket: Socket, follower: Socket) -> Self {
        Self { socket, follower, message: Message::new() }
    }

    /// The socket.
    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// The next event, `None` when there is none yet. Take all before waiting on [`Monitored::events_fd`].
    pub fn next_event(&mut self) -> Result<Option<Event>, Error> {
        if !self.follower.recv(&mut self.message)? {
            return Ok(None);
        }
        let strange =
            || Error::Invalid("an event of libzmq has another size than in 4.3.5; build snapring anew".into());
        let (kind, value) = self.message.data().split_first_chunk().ok_or_else(strange)?;
        let value = i32::from_ne_bytes(value.try_into().map_err(|_| strange())?);
        let event = Event { kind: u16::from_ne_bytes(*kind).into(), value };
        // The endpoint follows; the parts of a message arrive together.
        while self.message.more() {
            if !self.follower.recv(&mut self.message)? {
                break;
            }
        }
        Ok(Some(event))
    }

    /// As [`Socket::fd`], for events.
    pub fn events_fd(&self) -> Result<BorrowedFd<'_>, Error> {
        self.follower.fd()
    }
}
