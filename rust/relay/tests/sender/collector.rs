//! The other end in tests: a bare PULL socket, so that what is proved is on the wire.

use crate::support::{WORDS, payload, until};
use snapring_core::{Schema, clock};
use snapring_relay::endpoint::Endpoint;
use snapring_relay::frame::{Frame, Kind};
use snapring_relay::push::PushOptions;
use snapring_relay::sender::{Latency, Sender, SenderOptions};
use snapring_relay::zmq::{Context, Message, Socket, SocketKind, option};
use std::sync::Arc;

/// One frame as it came.
pub(crate) struct Arrived {
    pub(crate) frame: Frame,
    pub(crate) payload: Vec<u8>,
    /// Monotonic ns.
    pub(crate) at_ns: u64,
}

/// Receives what senders send.
pub(crate) struct Collector {
    socket: Socket,
    message: Message,
    pub(crate) endpoint: String,
}

impl Collector {
    /// On a port of the system's choice.
    pub(crate) fn new() -> Self {
        Self::bind("tcp://127.0.0.1:*")
    }

    pub(crate) fn bind(endpoint: &str) -> Self {
        Self::with_room(endpoint, 4)
    }

    /// As [`Self::new`], with as much room as a relay has.
    pub(crate) fn roomy() -> Self {
        Self::with_room("tcp://127.0.0.1:*", snapring_relay::pull::RCVHWM)
    }

    fn with_room(endpoint: &str, frames: i32) -> Self {
        let socket = Context::new().unwrap().socket(SocketKind::Pull).unwrap();
        socket.set_int(option::RCVHWM, frames).unwrap();
        // The port of a collector that just ended may be busy for a moment.
        let mut bound = None;
        until("the endpoint", || {
            bound = socket.bind(endpoint).ok();
            bound.is_some()
        });
        Self { socket, message: Message::new(), endpoint: bound.unwrap() }
    }

    /// The next frame, if one is there.
    pub(crate) fn try_next(&mut self) -> Option<Arrived> {
        self.socket.recv(&mut self.message).unwrap().then_some(())?;
        let at_ns = clock::mono_ns();
        let (frame, payload) = Frame::decode(self.message.data()).unwrap();
        Some(Arrived { frame, payload: payload.to_vec(), at_ns })
    }

    /// The next frame of the kind; others are dropped.
    pub(crate) fn next(&mut self, kind: Kind) -> Arrived {
        let mut found = None;
        until("a frame", || {
            found = self.try_next().filter(|arrived| arrived.frame.kind == kind);
            found.is_some()
        });
        found.unwrap()
    }

    /// Takes snapshots, each whole, until `version` comes. For what may take several connections, such as a socket that
    /// was not read for longer than a heartbeat: what an earlier one left in this end may come after a later one's.
    pub(crate) fn wait_for(&mut self, version: u64) {
        until("the version", || self.next(Kind::Snapshot).whole() == version);
    }

    /// Takes snapshots until `version` comes, each whole and none older than the one before; how many versions came.
    pub(crate) fn drain_to(&mut self, version: u64) -> u64 {
        let (mut last, mut count) = (0, 0);
        while last < version {
            let arrived = self.next(Kind::Snapshot);
            let came = arrived.whole();
            assert!(came >= last, "version {came} after {last}");
            count += u64::from(came > last);
            last = came;
        }
        assert_eq!(last, version);
        count
    }
}

impl Arrived {
    /// The version of a snapshot, whose payload must belong to it.
    pub(crate) fn whole(&self) -> u64 {
        let version = self.frame.origin.version;
        let expected: Vec<u8> = payload(version).iter().flat_map(|word| word.to_le_bytes()).collect();
        assert_eq!(self.payload, expected, "a torn payload of version {version}");
        version
    }
}

/// What a sender to `endpoint` takes.
pub(crate) fn options(endpoint: &str, latency: Latency) -> SenderOptions {
    let endpoint = Endpoint::parse(endpoint).unwrap();
    SenderOptions {
        push: PushOptions { endpoint, curve: None, source_address: None },
        rank: 3,
        ranks: 8,
        schema: Arc::new(Schema::bytes()),
        payload: Some(WORDS * 8),
        job: "test".into(),
        latency,
    }
}

pub(crate) fn open(endpoint: &str, latency: Latency) -> Sender {
    Sender::open(&options(endpoint, latency)).unwrap()
}

/// Publishes the payload of the version to come; the version. For tests in which one thread publishes.
pub(crate) fn publish(sender: &Sender) -> u64 {
    let next = sender.position().unwrap().version + 1;
    let version = sender.publish_at(&payload(next), WORDS * 8, sender.now()).unwrap();
    assert_eq!(version, next);
    version
}

pub(crate) fn connected(sender: &Sender) {
    until("the connection", || sender.is_connected());
}
