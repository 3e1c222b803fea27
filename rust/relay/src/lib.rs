//! Snapshots of remote ranks over `ZeroMQ`.
//!
//! libzmq 4.3.5 is linked statically, with CURVE; `zmq` is the only module that calls it.
//! Nothing here opens a descriptor or starts a thread before the first socket is made.

#![deny(unsafe_code)]

pub mod counters;
pub mod curve;
mod ffi;
pub mod frame;
pub mod intake;
pub mod lease;
pub mod monitor;
pub mod origin;
pub mod zmq;

pub use snapring_core::Error;
