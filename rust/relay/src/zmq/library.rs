//! libzmq as a whole: its version, its errors, its keys.
#![allow(unsafe_code, reason = "calls of libzmq; every block names its fact")]

use crate::ffi;
use core::ffi::{CStr, c_char, c_int};
use snapring_core::Error;
use std::io;

pub(super) fn last_error(what: impl Into<String>) -> Error {
    // SAFETY: both functions may be called at any time; the text is static and ends with a zero.
    let (errno, text) = unsafe {
        let errno = ffi::zmq_errno();
        (errno, CStr::from_ptr(ffi::zmq_strerror(errno)))
    };
    if errno < ffi::OWN_ERRORS {
        return Error::io(what, io::Error::from_raw_os_error(errno));
    }
    Error::io(what, io::Error::other(text.to_string_lossy().into_owned()))
}

pub(super) fn last_errno() -> c_int {
    // SAFETY: reads the calling thread's own error number.
    unsafe { ffi::zmq_errno() }
}

/// Version of the libzmq that is linked in.
pub fn version() -> (i32, i32, i32) {
    let (mut major, mut minor, mut patch) = (0, 0, 0);
    // SAFETY: three pointers to living integers.
    unsafe { ffi::zmq_version(&raw mut major, &raw mut minor, &raw mut patch) };
    (major, minor, patch)
}

/// Whether the libzmq that is linked in can do CURVE.
pub fn has_curve() -> bool {
    // SAFETY: a text that ends with a zero.
    unsafe { ffi::zmq_has(c"curve".as_ptr()) == 1 }
}

/// Length of a key in Z85 text.
pub(crate) const KEY_TEXT: usize = 40;

/// A new pair of CURVE keys, public and secret, in Z85.
pub(crate) fn curve_keypair() -> Result<([u8; KEY_TEXT + 1], [u8; KEY_TEXT + 1]), Error> {
    let (mut public, mut secret) = ([0; KEY_TEXT + 1], [0; KEY_TEXT + 1]);
    // SAFETY: two buffers of the 41 bytes that the function writes.
    let done = unsafe { ffi::zmq_curve_keypair(public.as_mut_ptr().cast(), secret.as_mut_ptr().cast()) };
    if done == 0 { Ok((public, secret)) } else { Err(last_error("making CURVE keys")) }
}

/// The public key that belongs to `secret`; `None` when that is no Z85.
pub(crate) fn curve_public(secret: &[u8; KEY_TEXT + 1]) -> Option<[u8; KEY_TEXT + 1]> {
    let mut public = [0; KEY_TEXT + 1];
    (secret[KEY_TEXT] == 0).then_some(())?;
    // SAFETY: a buffer of the 41 bytes that the function writes, and a text that ends with a zero.
    let done = unsafe { ffi::zmq_curve_public(public.as_mut_ptr().cast(), secret.as_ptr().cast::<c_char>()) };
    (done == 0).then_some(public)
}

/// The 32 bytes of a key; `None` when the text is no Z85.
pub(crate) fn z85_key(text: &[u8; KEY_TEXT + 1]) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    // The function takes its length from the text.
    (text[KEY_TEXT] == 0 && !text[..KEY_TEXT].contains(&0)).then_some(())?;
    // SAFETY: 40 characters and a zero decode to the 32 bytes of the buffer.
    let done = unsafe { ffi::zmq_z85_decode(bytes.as_mut_ptr(), text.as_ptr().cast::<c_char>()) };
    (!done.is_null()).then_some(bytes)
}
