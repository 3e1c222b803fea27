//! What senders and relays need of a transport, so that a test can stand in for `ZeroMQ`.

use rustix::fd::BorrowedFd;
use snapring_core::Error;
use std::os::fd::RawFd;
use std::time::Duration;

/// Why a connection did not come up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The relay does not admit this key or address, or has as many peers as it takes.
    Denied,
    /// The other end speaks another protocol, or one of both uses CURVE and the other does not.
    Protocol,
    /// The other end left or stayed silent during the handshake: it does not have the key that was expected, is
    /// stopping or busy, or saw first what [`Refusal::Protocol`] means.
    Dropped,
    /// Nobody answers: nothing listens there, or the network loses what is sent.
    Unanswered,
}

/// What became of a sender's connection since it was last asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Links {
    /// A new connection came up; what was sent before may be lost.
    pub up: bool,
    /// A connection went down.
    pub down: bool,
    /// The last of the connections that did not come up.
    pub refused: Option<Refusal>,
}

/// Where a sender's frames go; used by one thread at a time, and never blocks.
pub trait Sink: Send {
    /// Sends a frame; false when it would have to wait, or no connection is up.
    fn send(&mut self, frame: &[u8]) -> Result<bool, Error>;
    /// What became of the connection; to be called whenever one of [`Sink::link_fds`] is readable.
    fn links(&mut self) -> Result<Links, Error>;
    /// Whether a connection was up when [`Sink::links`] last looked.
    fn is_up(&self) -> bool;
    /// Readable when [`Sink::links`] may say something new. Edge-triggered: wait only after a call of that.
    fn link_fds(&self) -> Result<[BorrowedFd<'_>; 2], Error>;
    /// Readable when there may be room again. Edge-triggered: wait only after [`Sink::send`] found none.
    fn room_fd(&self) -> Result<BorrowedFd<'_>, Error>;
    /// Lets what was sent go on its way for up to `longest` when this value is dropped, which waits for that; else it
    /// is lost then.
    fn linger(&mut self, longest: Duration) -> Result<(), Error>;
}

/// One received message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received<'a> {
    /// A frame, and the descriptor of the connection that brought it.
    Frame {
        /// The bytes.
        bytes: &'a [u8],
        /// Descriptor of the connection, as in [`LinkEvent`].
        peer: i32,
    },
    /// A message of several parts, which no sender sends; none is shown.
    Multipart,
}

/// A connection came or went. Its descriptor may be that of a later one soon, and frames that it brought may still
/// follow its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// A peer connected; it is not admitted yet.
    Up(i32),
    /// The connection ended.
    Down(i32),
}

/// What a relay refused, and how often connections failed; all counters only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkCounters {
    /// Connections with a key that is not listed.
    pub refused_key: u64,
    /// Connections from an address that is not listed.
    pub refused_address: u64,
    /// Connections beyond the limit of peers.
    pub too_many_peers: u64,
    /// Handshakes that failed otherwise: another protocol, the wrong relay key, silence.
    pub handshakes_failed: u64,
    /// Connections that were ended because they poured in bytes without finishing a message.
    pub endless: u64,
    /// Connections that ended, for whatever reason; an oversized frame is one.
    pub disconnects: u64,
}

/// Where a relay's frames come from; used by one thread at a time, and never blocks.
///
/// A turn is: [`Source::serve_gate`], [`Source::links`], any number of [`Source::recv`], and [`Source::rearm`] last.
pub trait Source: Send {
    /// Admits or refuses the peers that wait for it.
    fn serve_gate(&mut self) -> Result<(), Error>;
    /// Tells which connections came and went, in their order.
    fn links(&mut self, tell: &mut dyn FnMut(LinkEvent)) -> Result<(), Error>;
    /// The next message, `None` when there is none.
    fn recv(&mut self) -> Result<Option<Received<'_>>, Error>;
    /// Ends a turn: from here on [`Source::fd`] is readable exactly while there is something to do.
    fn rearm(&mut self) -> Result<(), Error>;
    /// A level-triggered descriptor, the same for the source's life; only to be waited on.
    fn fd(&self) -> RawFd;
    /// What was refused so far.
    fn counters(&self) -> LinkCounters;
}
