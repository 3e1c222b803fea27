//! Received parts.
#![allow(unsafe_code, reason = "calls of libzmq; every block names its fact")]

use crate::ffi;

/// One received part, reusable; its content is plain memory of this process, so a fork does not matter.
pub struct Message(pub(super) Box<ffi::RawMessage>);

// SAFETY: a message is memory with a reference count that libzmq keeps atomically.
unsafe impl Send for Message {}

impl Message {
    /// An empty one.
    pub fn new() -> Self {
        let mut raw = Box::new(ffi::RawMessage([0; 64]));
        // SAFETY: memory of a message's size and alignment; the function cannot fail.
        unsafe { ffi::zmq_msg_init(raw.as_mut()) };
        Self(raw)
    }

    /// The bytes.
    pub fn data(&mut self) -> &[u8] {
        let raw = self.0.as_mut();
        // SAFETY: an initialised message; libzmq gives the start and the length of its content, which stays until the
        // message is next changed, for which the borrow must end. Empty content may have no address.
        unsafe {
            let (start, len) = (ffi::zmq_msg_data(raw), ffi::zmq_msg_size(raw));
            if len == 0 { &[] } else { core::slice::from_raw_parts(start.cast::<u8>(), len) }
        }
    }

    /// Whether more parts of the same message follow.
    pub fn more(&self) -> bool {
        // SAFETY: an initialised message.
        unsafe { ffi::zmq_msg_more(self.0.as_ref()) != 0 }
    }

    /// Descriptor of the connection that brought it, -1 when there is none. A later connection may have the same.
    pub fn source(&self) -> i32 {
        // SAFETY: an initialised message.
        unsafe { ffi::zmq_msg_get(self.0.as_ref(), ffi::SRCFD) }
    }
}

impl Default for Message {
    fn default() -> Self {
        Self::new()
    }
}

impl core::fmt::Debug for Message {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Message").field("more", &self.more()).finish_non_exhaustive()
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        // SAFETY: an initialised message that is not used after.
        unsafe { ffi::zmq_msg_close(self.0.as_mut()) };
    }
}
