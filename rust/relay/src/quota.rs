//! Ends connections that pour in bytes and never finish a message.
//!
//! libzmq bounds the size of one part, and how many whole messages wait; but the parts of a message without end pile up
//! inside it, in any number and unseen. The kernel knows how much a TCP connection brought, and the relay which ones
//! brought messages: one that brought too much for none is ended. An ipc socket has no such count, and only processes
//! of the same user reach it.
#![allow(unsafe_code, reason = "options of connections that libzmq holds; every block names its fact")]

use core::ffi::c_int;
use snapring_core::clock;
use std::collections::HashMap;
use std::os::fd::RawFd;

/// Pause between two looks at all connections, ns: at least so long, and so long for each connection, so that looking
/// takes less than a hundredth of a processor.
const LOOK_NS: u64 = 100_000_000;
/// As above.
const LOOK_NS_EACH: u64 = 100_000;
/// Bytes beyond those of the messages that may wait: the signs of life of a connection that is idle for half a day, after
/// which it has to connect again.
const SPARE_BYTES: u64 = 4 << 20;
/// Place of `tcpi_bytes_received` in the kernel's `struct tcp_info`, in words of 64 bits.
const BYTES_RECEIVED: usize = 16;

/// A connection as it was when it last brought a message.
#[derive(Clone, Copy, Debug)]
struct Mark {
    /// The kernel's number of the socket, never used twice. A descriptor's number is, and whoever else has it by then
    /// is not ours to end.
    cookie: u64,
    /// Bytes of it that libzmq had taken.
    bytes: u64,
}

/// What all connections of one socket brought.
#[derive(Debug)]
pub(crate) struct Quota {
    limit: u64,
    marks: HashMap<RawFd, Mark>,
    /// By descriptor: brought a message since the last look.
    spoke: Vec<bool>,
    look_at_ns: u64,
}

impl Quota {
    /// For connections of which libzmq keeps up to `waiting` messages of up to `longest` bytes.
    pub(crate) fn new(waiting: u64, longest: u64) -> Self {
        let limit = waiting.saturating_mul(longest).saturating_add(SPARE_BYTES);
        Self { limit, marks: HashMap::new(), spoke: Vec::new(), look_at_ns: 0 }
    }

    /// A connection came.
    pub(crate) fn begin(&mut self, fd: RawFd) {
        let Some(index) = usize::try_from(fd).ok() else { return };
        self.spoke.resize(self.spoke.len().max(index + 1), false);
        if let (Some(cookie), Some(bytes)) = (cookie(fd), bytes_taken(fd)) {
            self.marks.insert(fd, Mark { cookie, bytes });
        }
    }

    /// A connection ended.
    pub(crate) fn end(&mut self, fd: RawFd) {
        self.marks.remove(&fd);
    }

    /// A connection brought a whole message.
    pub(crate) fn heard(&mut self, fd: RawFd) {
        if let Some(spoke) = usize::try_from(fd).ok().and_then(|index| self.spoke.get_mut(index)) {
            *spoke = true;
        }
    }

    /// Ends those that brought too much since their last message; how many. Looks now and then only, so call it often.
    pub(crate) fn enforce(&mut self) -> u64 {
        let now_ns = clock::mono_ns();
        if now_ns < self.look_at_ns {
            return 0;
        }
        self.look_at_ns = now_ns + LOOK_NS.max(self.marks.len() as u64 * LOOK_NS_EACH);
        let mut ended = 0;
        for (&fd, mark) in &mut self.marks {
            let Some(bytes) = bytes_taken(fd) else { continue };
            if self.spoke.get(fd as usize).is_some_and(|spoke| *spoke) {
                mark.bytes = bytes;
            } else if bytes.saturating_sub(mark.bytes) > self.limit && cookie(fd) == Some(mark.cookie) {
                reset(fd);
                mark.bytes = u64::MAX; // once
                ended += 1;
            }
        }
        self.spoke.fill(false);
        ended
    }
}

/// Resets a connection. A shutdown would not do: the kernel goes on taking what comes.
fn reset(fd: RawFd) {
    let nowhere = libc::sa_family_t::try_from(libc::AF_UNSPEC).unwrap_or_default();
    let len = size_of_val(&nowhere) as libc::socklen_t;
    // SAFETY: an address of `len` bytes, which has no more than its family; libzmq, which owns the descriptor, sees a
    // connection that is gone.
    unsafe { libc::connect(fd, (&raw const nowhere).cast(), len) };
}

/// The kernel's number of a socket.
fn cookie(fd: RawFd) -> Option<u64> {
    option::<1>(fd, libc::SOL_SOCKET, libc::SO_COOKIE).map(|[cookie]| cookie)
}

/// What libzmq has taken from a TCP connection so far; `None` for every other descriptor.
fn bytes_taken(fd: RawFd) -> Option<u64> {
    let received =
        option::<{ BYTES_RECEIVED + 1 }>(fd, libc::IPPROTO_TCP, libc::TCP_INFO).map(|words| words[BYTES_RECEIVED])?;
    let mut unread: c_int = 0;
    // SAFETY: a pointer to a living integer; a descriptor that is none is an error.
    let done = unsafe { libc::ioctl(fd, libc::FIONREAD, &raw mut unread) };
    (done == 0).then(|| received.saturating_sub(u64::try_from(unread).unwrap_or(0)))
}

/// The first words of an option's value, if it has as many.
fn option<const WORDS: usize>(fd: RawFd, level: c_int, name: c_int) -> Option<[u64; WORDS]> {
    let mut words = [0_u64; WORDS];
    let mut len = size_of_val(&words) as libc::socklen_t;
    // SAFETY: a buffer of `len` bytes, any content of which is numbers; a descriptor that is no socket is an error.
    let done = unsafe { libc::getsockopt(fd, level, name, words.as_mut_ptr().cast(), &raw mut len) };
    (done == 0 && len as usize == size_of_val(&words)).then_some(words)
}
