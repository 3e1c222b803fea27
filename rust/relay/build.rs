//! Builds libzmq 4.3.5 with CURVE, both static.
#![allow(unsafe_code, reason = "setting a variable of this process; the block names its fact")]

use std::env;

/// What a configure script would find out about Linux. `zeromq-src` runs none, and without these libzmq aborts after a
/// fork, leaks descriptors to programs it starts, and ignores keepalive.
const FOUND: [&str; 13] = [
    "HAVE_FORK",
    "ZMQ_HAVE_EVENTFD",
    "ZMQ_HAVE_EVENTFD_CLOEXEC",
    "ZMQ_IOTHREAD_POLLER_USE_EPOLL_CLOEXEC",
    "ZMQ_HAVE_SOCK_CLOEXEC",
    "ZMQ_HAVE_O_CLOEXEC",
    "HAVE_ACCEPT4",
    "ZMQ_HAVE_SO_KEEPALIVE",
    "ZMQ_HAVE_TCP_KEEPCNT",
    "ZMQ_HAVE_TCP_KEEPIDLE",
    "ZMQ_HAVE_TCP_KEEPINTVL",
    "HAVE_MKDTEMP",
    "HAVE_CLOCK_GETTIME",
];

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|error| panic!("cargo and libsodium set {name}: {error}"))
}

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let flags = format!("CXXFLAGS_{}", variable("TARGET").replace('-', "_"));
    let mut words: Vec<String> = env::var(&flags).into_iter().collect();
    words.extend(FOUND.map(|name| format!("-D{name}=1")));
    // SAFETY: this program has one thread, so nobody reads the environment meanwhile.
    unsafe { env::set_var(&flags, words.join(" ")) };
    let sodium = zeromq_src::LibLocation::new(variable("DEP_SODIUM_LIB"), variable("DEP_SODIUM_INCLUDE"));
    zeromq_src::Build::new().with_libsodium(Some(sodium)).build();
}
