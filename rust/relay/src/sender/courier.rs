//! The hands of a sender: takes the newest snapshot out of the slot and gives it to the socket.

use super::shared::{Shared, locked};
use crate::frame::{Frame, Kind};
use crate::transport::Sink;
use snapring_core::layout::cell;
use snapring_core::sync::Ordering;
use snapring_core::{Error, Newest, Stamp, clock};

/// What became of a try to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// There was nothing to send.
    Nothing,
    /// The socket took a frame that it had not taken before.
    Sent,
    /// The socket took a snapshot that it had taken before.
    Repeated,
    /// The socket has no room.
    Later,
    /// The slot has no rest: all tries to copy met a publish. The next look may have more luck.
    Contended,
}

/// The socket, and what it was given. Used by one thread at a time; frames leave in the order of their versions,
/// because whoever holds the courier sends what is newest then.
pub(super) struct Courier {
    sink: Box<dyn Sink>,
    row: Vec<u64>,
    bytes: Vec<u8>,
    /// When a snapshot was last sent, monotonic ns.
    sent_ns: Option<u64>,
    /// The newest snapshot must go out even if it did before.
    again: bool,
}

impl Courier {
    pub(super) fn new(sink: Box<dyn Sink>, payload_words: usize) -> Self {
        Self { sink, row: vec![0; cell::PAYLOAD + payload_words], bytes: Vec::new(), sent_ns: None, again: false }
    }

    /// The socket.
    pub(super) fn sink(&mut self) -> &mut dyn Sink {
        &mut *self.sink
    }

    /// When a snapshot was last sent, monotonic ns; `None` before the first.
    pub(super) fn sent_ns(&self) -> Option<u64> {
        self.sent_ns
    }

    /// Sends the newest snapshot at the next occasion, even if it went out before.
    pub(super) fn repeat(&mut self) {
        self.again = true;
    }

    /// Takes note of what happened to the connection. What was on its way may be lost with it, so a new one begins
    /// with the newest snapshot.
    pub(super) fn look_at_links(&mut self, shared: &Shared) -> Result<(), Error> {
        let links = self.sink.links()?;
        if links.up {
            self.again = true;
            shared.counters.handshakes.fetch_add(1, Ordering::Relaxed);
        }
        if links.refused.is_some() {
            shared.counters.refused.fetch_add(1, Ordering::Relaxed);
            *locked(&shared.last_refusal) = links.refused;
        }
        shared.connected.store(self.sink.is_up(), Ordering::Relaxed);
        Ok(())
    }

    /// Sends the newest snapshot, unless it was sent and need not be again.
    pub(super) fn send_newest(&mut self, shared: &Shared) -> Result<Outcome, Error> {
        let slot = shared.slot();
        let sent = shared.sent.load(Ordering::Relaxed); // written under the same lock
        if slot.head() == sent && !self.again {
            return Ok(Outcome::Nothing);
        }
        match slot.newest(&mut self.row) {
            Newest::Never => return Ok(Outcome::Nothing),
            Newest::Contended => return Ok(Outcome::Contended),
            Newest::Complete { .. } => {}
        }
        let stamp = Stamp::of(&self.row);
        let now_ns = clock::mono_ns();
        let frame = Frame {
            origin: stamp.origin,
            wall_ns: stamp.wall_ns,
            age_ns: now_ns.saturating_sub(stamp.mono_ns),
            payload_bytes: stamp.len as u32,
            ..shared.frame(Kind::Snapshot)
        };
        frame.encode(&self.row[cell::PAYLOAD..], &mut self.bytes);
        if !self.give(shared)? {
            return Ok(Outcome::Later);
        }
        (self.again, self.sent_ns) = (false, Some(now_ns));
        shared.sent.store(stamp.version, Ordering::Release);
        let (counter, outcome) = if stamp.version == sent {
            (&shared.counters.repeated, Outcome::Repeated)
        } else {
            (&shared.counters.sent, Outcome::Sent)
        };
        counter.fetch_add(1, Ordering::Relaxed);
        Ok(outcome)
    }

    /// Sends a sign: a beat or a goodbye. It names the last version that was sent, so none goes before the first one.
    pub(super) fn send_sign(&mut self, shared: &Shared, kind: Kind) -> Result<Outcome, Error> {
        let version = shared.sent.load(Ordering::Relaxed);
        if version == 0 {
            return Ok(Outcome::Nothing);
        }
        let mut frame = Frame { wall_ns: clock::wall_ns(), ..shared.frame(kind) };
        frame.origin.version = version;
        frame.encode(&[], &mut self.bytes);
        Ok(if self.give(shared)? { Outcome::Sent } else { Outcome::Later })
    }

    /// Gives the encoded frame to the socket; false when that has no room.
    fn give(&mut self, shared: &Shared) -> Result<bool, Error> {
        let taken = self.sink.send(&self.bytes)?;
        if !taken {
            shared.counters.would_block.fetch_add(1, Ordering::Relaxed);
        }
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sender::{Latency, SenderOptions, check};
    use crate::transport::Links;
    use crate::{Endpoint, PushOptions};
    use rustix::event::{EventfdFlags, eventfd};
    use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
    use snapring_core::Schema;
    use std::sync::Arc;
    use std::time::Duration;

    /// Comes up anew at each look, and takes every other frame.
    struct Fake {
        fds: [OwnedFd; 3],
        tries: u32,
    }

    impl Sink for Fake {
        fn send(&mut self, _: &[u8]) -> Result<bool, Error> {
            self.tries += 1;
            Ok(self.tries.is_multiple_of(2))
        }

        fn links(&mut self) -> Result<Links, Error> {
            Ok(Links { up: true, ..Links::default() })
        }

        fn is_up(&self) -> bool {
            true
        }

        fn link_fds(&self) -> Result<[BorrowedFd<'_>; 2], Error> {
            Ok([self.fds[0].as_fd(), self.fds[1].as_fd()])
        }

        fn room_fd(&self) -> Result<BorrowedFd<'_>, Error> {
            Ok(self.fds[2].as_fd())
        }

        fn linger(&mut self, _: Duration) -> Result<(), Error> {
            Ok(())
        }
    }

    fn fake() -> Box<dyn Sink> {
        Box::new(Fake { fds: [(); 3].map(|()| eventfd(0, EventfdFlags::CLOEXEC).unwrap()), tries: 0 })
    }

    /// A snapshot goes out once, again after each new connection, and is not forgotten when there was no room for it.
    #[test]
    fn a_new_connection_begins_with_the_newest() {
        let endpoint = Endpoint::parse("tcp://127.0.0.1:1").unwrap();
        let push = PushOptions { endpoint, curve: None, source_address: None };
        let (schema, latency) = (Arc::new(Schema::bytes()), Latency::Tick);
        let options = SenderOptions { push, rank: 0, ranks: 1, schema, payload: Some(8), job: String::new(), latency };
        let geometry = check(&options).unwrap();
        let shared = Shared::new(&options, geometry, fake()).unwrap();
        let mut courier = Courier::new(fake(), geometry.payload_words());
        let origin = shared.origin;
        let stamp = Stamp { version: 1, epoch: 1, origin, mono_ns: clock::mono_ns(), wall_ns: 1, len: 8 };
        let send = |courier: &mut Courier| courier.send_newest(&shared).unwrap();

        assert_eq!(send(&mut courier), Outcome::Nothing);
        shared.slot().publish(&stamp, &[7]);
        assert_eq!([(); 3].map(|()| send(&mut courier)), [Outcome::Later, Outcome::Sent, Outcome::Nothing]);
        courier.look_at_links(&shared).unwrap();
        assert_eq!([(); 3].map(|()| send(&mut courier)), [Outcome::Later, Outcome::Repeated, Outcome::Nothing]);
    }
}
