//! The part of libzmq's C interface that [`crate::zmq`] uses; declarations and numbers as in `zmq.h` 4.3.5.
#![allow(unsafe_code, reason = "declarations of C functions")]

use core::ffi::{c_char, c_int, c_void};
use libsodium_sys as _; // linked in for libzmq

/// `zmq_msg_t`: 64 bytes that only libzmq reads, aligned as a pointer.
#[repr(C, align(8))]
pub(crate) struct RawMessage(pub(crate) [u8; 64]);

// SAFETY: the signatures are those of zmq.h of libzmq 4.3.5, which `build.rs` compiles and `zmq` checks at first use.
unsafe extern "C" {
    pub(crate) fn zmq_version(major: *mut c_int, minor: *mut c_int, patch: *mut c_int);
    pub(crate) fn zmq_has(capability: *const c_char) -> c_int;
    pub(crate) fn zmq_errno() -> c_int;
    pub(crate) fn zmq_strerror(errno: c_int) -> *const c_char;

    pub(crate) fn zmq_ctx_new() -> *mut c_void;
    pub(crate) fn zmq_ctx_set(context: *mut c_void, option: c_int, value: c_int) -> c_int;
    pub(crate) fn zmq_ctx_term(context: *mut c_void) -> c_int;

    pub(crate) fn zmq_socket(context: *mut c_void, kind: c_int) -> *mut c_void;
    pub(crate) fn zmq_close(socket: *mut c_void) -> c_int;
    pub(crate) fn zmq_setsockopt(socket: *mut c_void, option: c_int, value: *const c_void, len: usize) -> c_int;
    pub(crate) fn zmq_getsockopt(socket: *mut c_void, option: c_int, value: *mut c_void, len: *mut usize) -> c_int;
    pub(crate) fn zmq_bind(socket: *mut c_void, endpoint: *const c_char) -> c_int;
    pub(crate) fn zmq_connect(socket: *mut c_void, endpoint: *const c_char) -> c_int;
    pub(crate) fn zmq_disconnect(socket: *mut c_void, endpoint: *const c_char) -> c_int;
    pub(crate) fn zmq_send(socket: *mut c_void, data: *const c_void, len: usize, flags: c_int) -> c_int;
    pub(crate) fn zmq_socket_monitor(socket: *mut c_void, endpoint: *const c_char, events: c_int) -> c_int;

    pub(crate) fn zmq_msg_init(message: *mut RawMessage) -> c_int;
    pub(crate) fn zmq_msg_recv(message: *mut RawMessage, socket: *mut c_void, flags: c_int) -> c_int;
    pub(crate) fn zmq_msg_close(message: *mut RawMessage) -> c_int;
    pub(crate) fn zmq_msg_data(message: *mut RawMessage) -> *mut c_void;
    pub(crate) fn zmq_msg_size(message: *const RawMessage) -> usize;
    pub(crate) fn zmq_msg_more(message: *const RawMessage) -> c_int;
    pub(crate) fn zmq_msg_get(message: *const RawMessage, property: c_int) -> c_int;

    pub(crate) fn zmq_curve_keypair(public: *mut c_char, secret: *mut c_char) -> c_int;
    pub(crate) fn zmq_curve_public(public: *mut c_char, secret: *const c_char) -> c_int;
    pub(crate) fn zmq_z85_decode(bytes: *mut u8, text: *const c_char) -> *mut u8;
}

pub(crate) const PAIR: c_int = 0;
pub(crate) const PUB: c_int = 1;
pub(crate) const REP: c_int = 4;
pub(crate) const PULL: c_int = 7;
pub(crate) const PUSH: c_int = 8;

pub(crate) const DONTWAIT: c_int = 1;
pub(crate) const SNDMORE: c_int = 2;
pub(crate) const SRCFD: c_int = 2;
pub(crate) const POLLIN: c_int = 1;
pub(crate) const POLLOUT: c_int = 2;
pub(crate) const BLOCKY: c_int = 70;
/// libzmq's own error numbers begin here.
pub(crate) const OWN_ERRORS: c_int = 156_384_712;
