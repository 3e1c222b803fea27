//! Snapshots of remote ranks over `ZeroMQ`.
//!
//! libzmq 4.3.5 is linked statically, with CURVE; `zmq` is the only module that calls it. [`Push`] sends and [`Pull`]
//! receives, behind the traits of `transport`. Nothing here opens a descriptor or starts a thread before the first of
//! them is made.

#![deny(unsafe_code)]

pub mod counters;
pub mod curve;
pub mod driver;
pub mod endpoint;
pub mod feed;
mod ffi;
pub mod frame;
pub mod gate;
pub mod intake;
pub mod lease;
mod link;
pub mod monitor;
pub mod origin;
pub mod pull;
pub mod push;
mod quota;
pub mod relay;
pub mod sender;
pub mod timer;
pub mod transport;
pub mod zmq;

pub use curve::{KeyPair, PublicKey, SecretKey};
pub use endpoint::{Endpoint, Host};
pub use feed::{Feed, FeedOptions};
pub use gate::{Admission, Net};
pub use pull::{Pull, PullOptions};
pub use push::{ClientCurve, Push, PushOptions};
pub use sender::{Latency, Sender, SenderOptions, SenderStats};
pub use snapring_core::Error;
pub use transport::{LinkCounters, LinkEvent, Links, Received, Refusal, Sink, Source};
