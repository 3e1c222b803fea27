//! What both ends of a connection have in common: options, and descriptors that a child must not keep.

use crate::monitor::{Event, event};
use crate::zmq::{Socket, option};
use snapring_core::Error;
use snapring_core::fork::{adopt, disown};
use std::collections::HashSet;

/// A connection that does not finish its handshake in this time ends; milliseconds.
pub(crate) const HANDSHAKE_IVL: i32 = 2000;
/// A peer that acknowledges nothing for this long is gone; milliseconds.
const SILENCE: i32 = 2000;
// Seconds: an idle connection asks for a sign of life by itself. The kernel answers, so a process that is stopped lives.
//
// libzmq has heartbeats of its own, which are not used: in 4.3.5 one that is due while input is held back, on a
// connection that has ended, is a failed assertion, and it ends the process of either side.
const KEEPALIVE_IDLE: i32 = 1;
const KEEPALIVE_INTVL: i32 = 1;
const KEEPALIVE_CNT: i32 = 2;

/// Sets the options that both ends share.
pub(crate) fn configure(socket: &Socket, ipv6: bool) -> Result<(), Error> {
    let options = [
        (option::IPV6, i32::from(ipv6)),
        (option::HANDSHAKE_IVL, HANDSHAKE_IVL),
        (option::TCP_MAXRT, SILENCE),
        (option::TCP_KEEPALIVE, 1),
        (option::TCP_KEEPALIVE_IDLE, KEEPALIVE_IDLE),
        (option::TCP_KEEPALIVE_INTVL, KEEPALIVE_INTVL),
        (option::TCP_KEEPALIVE_CNT, KEEPALIVE_CNT),
    ];
    options.iter().try_for_each(|(option, value)| socket.set_int(*option, *value))
}

/// Descriptors that libzmq opened for one socket, closed in children of a fork. They are known from the socket's events,
/// so a fork between an accept and the next look at the events misses that connection.
#[derive(Debug, Default)]
pub(crate) struct Descriptors(HashSet<i32>);

impl Descriptors {
    /// Follows one event.
    pub(crate) fn follow(&mut self, event: Event) -> Result<(), Error> {
        match event.kind {
            event::LISTENING | event::ACCEPTED | event::CONNECTED if adopt(event.value)? => {
                self.0.insert(event.value);
            }
            event::CLOSED | event::DISCONNECTED if self.0.remove(&event.value) => disown(event.value),
            _ => {}
        }
        Ok(())
    }
}

impl Drop for Descriptors {
    fn drop(&mut self) {
        self.0.iter().for_each(|fd| disown(*fd));
    }
}
