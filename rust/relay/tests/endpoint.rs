//! Endpoints: what is one, what is none and why, and what may stand where an ipc socket will.

mod support;

use proptest::prelude::*;
use snapring_relay::endpoint::MAX_IPC_PATH;
use snapring_relay::{Endpoint, Error, Pull};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use support::{made_place, pull_options};

/// Endpoints mean what they say, and are shown as they are read.
#[test]
fn endpoints_mean_what_they_say() {
    let table = [
        ("ipc:///run/x/relay", "ipc:///run/x/relay", true),
        ("tcp://127.0.0.1:5555", "tcp://127.0.0.1:5555", true),
        ("tcp://127.9.9.9:*", "tcp://127.9.9.9:0", true),
        ("tcp://localhost:0", "tcp://localhost:0", true),
        ("tcp://[::1]:1", "tcp://[::1]:1", true),
        ("tcp://[::ffff:127.0.0.1]:1", "tcp://[::ffff:127.0.0.1]:1", true),
        ("tcp://0.0.0.0:5555", "tcp://0.0.0.0:5555", false),
        ("tcp://[::]:5555", "tcp://[::]:5555", false),
        ("tcp://10.0.0.1:65535", "tcp://10.0.0.1:65535", false),
        ("tcp://node-7.rack_2.example:80", "tcp://node-7.rack_2.example:80", false),
        ("tcp://localhost.example:80", "tcp://localhost.example:80", false),
    ];
    for (text, shown, loopback) in table {
        let endpoint = Endpoint::parse(text).unwrap();
        assert_eq!(endpoint.to_string(), shown);
        assert_eq!(endpoint.is_loopback(), loopback, "{text}");
    }
}

/// What is no endpoint is refused, and the message says what to write.
#[test]
fn others_are_refused_with_the_fix() {
    let table = [
        ("", "write ipc:///"),
        ("udp://1.2.3.4:5", "write ipc:///"),
        ("TCP://1.2.3.4:5", "write ipc:///"),
        ("inproc://x", "write ipc:///"),
        ("ipc://relative/path", "must begin with /"),
        ("ipc://@abstract", "must begin with /"),
        ("ipc://*", "must begin with /"),
        ("ipc:///folder/", "must name a file"),
        ("ipc:///a\0b", "must name a file"),
        ("tcp://1.2.3.4", "port is missing"),
        ("tcp://1.2.3.4:", "port is a number"),
        ("tcp://1.2.3.4:65536", "port is a number"),
        ("tcp://1.2.3.4:+5", "port is a number"),
        ("tcp://*:5555", "0.0.0.0"),
        ("tcp://::1:5555", "brackets"),
        ("tcp://[1.2.3.4]:5555", "no IPv6 address"),
        ("tcp://[::1:5555", "brackets"),
        ("tcp://1.2.3:5", "name or an address"),
        ("tcp://256.1.1.1:5", "name or an address"),
        ("tcp://:5555", "name or an address"),
        ("tcp://a..b:5", "name or an address"),
        ("tcp://-a:5", "name or an address"),
        ("tcp://a;b:5", "name or an address"),
        ("tcp://1.2.3.4:0;5.6.7.8:9", "brackets"),
    ];
    for (text, fix) in table {
        match Endpoint::parse(text) {
            Err(Error::Invalid(message)) => assert!(message.contains(fix), "{text:?}: {message}"),
            other => panic!("{text:?}: {other:?}"),
        }
    }
}

/// A path of 107 bytes is one; of 108 it is refused, with both numbers.
#[test]
fn the_length_of_an_ipc_path_is_checked() {
    let longest = format!("ipc:///{}", "x".repeat(MAX_IPC_PATH - 1));
    assert!(Endpoint::parse(&longest).is_ok());

    let Err(Error::Invalid(message)) = Endpoint::parse(&format!("{longest}x")) else { panic!("taken") };

    assert!(message.contains("108") && message.contains("107"), "{message}");
}

/// The directory of an ipc socket must be there, own and closed to others; a left-over socket is replaced, and
/// nothing else ever is.
#[test]
fn an_ipc_socket_replaces_nothing_but_a_socket() {
    let place = made_place();
    let at = |name: &str| format!("ipc://{}/{name}", place.path().display());
    let bind = |endpoint: &str| Pull::bind(&pull_options(endpoint));
    std::fs::write(place.path().join("file"), "precious").unwrap();
    std::fs::DirBuilder::new().mode(0o755).create(place.path().join("open")).unwrap();
    drop(std::os::unix::net::UnixListener::bind(place.path().join("left")).unwrap());

    assert!(matches!(bind(&at("file")), Err(Error::Untrusted(_))));
    assert!(matches!(bind(&at("open/socket")), Err(Error::Untrusted(_))));
    assert!(matches!(bind(&at("none/socket")), Err(Error::Invalid(_))));
    let pull = bind(&at("left")).unwrap();

    let mode = std::fs::metadata(place.path().join("left")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(std::fs::read(place.path().join("file")).unwrap(), b"precious");
    drop(pull);
    assert_eq!(place.files(), ["file", "open"]);
}

/// A port that is taken is a typed error that names the endpoint.
#[test]
fn a_busy_port_is_named() {
    let pull = Pull::bind(&pull_options("tcp://127.0.0.1:0")).unwrap();
    let endpoint = pull.endpoint().to_string();

    let Err(Error::Io { what, source }) = Pull::bind(&pull_options(&endpoint)) else { panic!("bound twice") };

    assert_eq!((what, source.kind()), (format!("binding {endpoint}"), std::io::ErrorKind::AddrInUse));
}

proptest! {
    /// Any text is an endpoint or a typed error, and an endpoint is shown as a text that means the same.
    #[test]
    fn any_text_is_answered(text in "(tcp://|ipc:///|ipc:/|)[-a-z0-9.:*@/\\[\\]é%;]{0,40}") {
        match Endpoint::parse(&text) {
            Ok(endpoint) => prop_assert_eq!(Endpoint::parse(&endpoint.to_string()).unwrap(), endpoint),
            Err(error) => prop_assert!(matches!(error, Error::Invalid(_))),
        }
    }
}
