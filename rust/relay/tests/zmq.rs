//! The safe wrapper over libzmq: what is linked in, and what its sockets do.

use snapring_relay::zmq::{Context, Message, SocketKind, has_curve, version};
use std::time::{Duration, Instant};

/// Ends a hang; judges no speed.
const LONG: Duration = Duration::from_secs(60);

/// libzmq is no older than 4.3.5, with CURVE.
#[test]
fn a_sound_libzmq_is_linked_in() {
    assert!(version() >= (4, 3, 5), "{:?}", version());
    assert!(has_curve());
}

/// What is sent arrives, part by part, with the connection that brought it; nothing waits where nothing is.
#[test]
fn parts_arrive_as_sent() {
    let context = Context::new().unwrap();
    let pull = context.socket(SocketKind::Pull).unwrap();
    let push = context.socket(SocketKind::Push).unwrap();
    let mut message = Message::new();
    assert!(!pull.recv(&mut message).unwrap());
    assert!(!push.send(b"nobody is there", false).unwrap());

    let endpoint = pull.bind("tcp://127.0.0.1:*").unwrap();
    push.connect(&endpoint).unwrap();
    assert!(push.send(b"one", true).unwrap());
    assert!(push.send(b"", false).unwrap());

    let end = Instant::now() + LONG;
    while !pull.recv(&mut message).unwrap() {
        assert!(Instant::now() < end, "nothing arrived");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(message.data(), b"one");
    assert!(message.more());
    assert!(message.source() > 2);
    assert!(pull.recv(&mut message).unwrap());
    assert_eq!(message.data(), b"");
    assert!(!message.more());
    assert!(!pull.recv(&mut message).unwrap());
}
