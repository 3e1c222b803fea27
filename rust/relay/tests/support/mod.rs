//! What the tests of the transport share: a relay that is driven, senders of every kind.
#![allow(dead_code, reason = "each test file is a program of its own and takes what it needs")]
#![allow(unused_imports, reason = "as above")]

#[path = "../../../../tests/support/mod.rs"]
mod core;

pub(crate) use core::{DEADLINE, Place, Rng, Role, role, until};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::BorrowedFd;
use snapring_relay::{
    Admission, Endpoint, Host, LinkEvent, Pull, PullOptions, Push, PushOptions, Received, Sink, Source,
};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::DirBuilderExt;
use std::time::Instant;

pub(crate) const LOCAL: &str = "tcp://127.0.0.1:*";

pub(crate) fn pull_options(endpoint: &str) -> PullOptions {
    PullOptions {
        endpoint: Endpoint::parse(endpoint).unwrap(),
        max_message: 4096,
        max_peers: 16,
        admission: Admission::Anyone,
        addresses: None,
    }
}

pub(crate) fn push_options(endpoint: &Endpoint) -> PushOptions {
    PushOptions { endpoint: endpoint.clone(), curve: None, source_address: None }
}

/// A place whose directory is there, as a relay's must be.
pub(crate) fn made_place() -> Place {
    let place = Place::new();
    std::fs::DirBuilder::new().mode(0o700).create(place.path()).unwrap();
    place
}

/// Everything that a relay has said.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    pub(crate) frames: Vec<Vec<u8>>,
    pub(crate) peers: Vec<i32>,
    pub(crate) links: Vec<LinkEvent>,
    pub(crate) multiparts: usize,
}

/// One turn as a relay takes it: at most `most` messages; how many came.
pub(crate) fn turn(pull: &mut Pull, heard: &mut Heard, most: usize) -> usize {
    pull.serve_gate().unwrap();
    pull.links(&mut |event| heard.links.push(event)).unwrap();
    let mut count = 0;
    while count < most {
        match pull.recv().unwrap() {
            Some(Received::Frame { bytes, peer }) => {
                heard.frames.push(bytes.to_vec());
                heard.peers.push(peer);
            }
            Some(Received::Multipart) => heard.multiparts += 1,
            None => break,
        }
        count += 1;
    }
    pull.rearm().unwrap();
    count
}

/// Whether `fd` becomes readable within `millis`.
#[allow(unsafe_code, reason = "borrows the descriptor of a living socket")]
pub(crate) fn readable(fd: i32, millis: i64) -> bool {
    // SAFETY: callers hold the socket that owns the descriptor.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    let timeout = Timespec { tv_sec: millis / 1000, tv_nsec: millis % 1000 * 1_000_000 };
    poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)).is_ok_and(|ready| ready > 0)
}

/// Drives the relay by its descriptor until `enough`.
pub(crate) fn drive(pull: &mut Pull, heard: &mut Heard, what: &str, mut enough: impl FnMut(&Heard, &Pull) -> bool) {
    let end = Instant::now() + DEADLINE;
    while !enough(heard, pull) {
        assert!(Instant::now() < end, "no end of waiting for {what}: {heard:?} {:?}", pull.counters());
        if readable(pull.fd(), 20) {
            turn(pull, heard, 64);
        }
    }
}

/// Drives both ends until the sender is up.
pub(crate) fn bring_up(pull: &mut Pull, heard: &mut Heard, push: &mut Push) {
    drive(pull, heard, "a connection", |_, _| {
        push.links().unwrap();
        push.is_up()
    });
}

/// Bytes of memory that this process has resident.
pub(crate) fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// A connection of a stranger that is past its handshake: both ends have said all that goes before the first message.
pub(crate) fn shaken(pull: &mut Pull, heard: &mut Heard) -> TcpStream {
    let Endpoint::Tcp(Host::Address(address), port) = *pull.endpoint() else { panic!("{}", pull.endpoint()) };
    let mut stream = TcpStream::connect((address, port)).unwrap();
    let mut greeting = [0; 64];
    (greeting[0], greeting[9], greeting[10]) = (0xff, 0x7f, 3);
    greeting[12..16].copy_from_slice(b"NULL");
    let ready = b"\x04\x1a\x05READY\x0bSocket-Type\0\0\0\x04PUSH";
    stream.write_all(&greeting).and_then(|()| stream.write_all(ready)).unwrap();
    stream.set_nonblocking(true).unwrap();
    let mut missing = greeting.len() + ready.len();
    until("the relay's half of the handshake", || {
        turn(pull, heard, 64);
        missing -= stream.read(&mut vec![0; missing]).unwrap_or(0); // nothing yet
        missing == 0
    });
    stream.set_nonblocking(false).unwrap();
    stream
}
