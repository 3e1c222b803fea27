//! The two ends together: what arrives, what is refused, and that nothing waits unnoticed.

mod support;

use proptest::prelude::*;
use snapring_relay::Source;
use snapring_relay::push::UNANSWERED;
use snapring_relay::zmq::{Context, Socket, SocketKind, option};
use snapring_relay::{
    Admission, ClientCurve, Endpoint, KeyPair, LinkEvent, Net, Pull, PullOptions, Push, PushOptions, Refusal, Sink,
};
use std::collections::HashSet;
use std::time::{Duration, Instant};
use support::{DEADLINE, Heard, LOCAL, bring_up, drive, made_place, pull_options, push_options, readable, turn, until};

/// A sender without manners: what a stranger's program may send.
fn stranger(endpoint: &Endpoint) -> Socket {
    let socket = Context::new().unwrap().socket(SocketKind::Push).unwrap();
    socket.set_int(option::IPV6, 1).unwrap();
    socket.connect(&endpoint.to_string()).unwrap();
    socket
}

/// Frames arrive in order over tcp, tcp of version 6 and ipc; the connection that brings them is the one told of.
#[test]
fn frames_arrive_over_every_transport() {
    let place = made_place();
    let ipc = format!("ipc://{}/socket", place.path().display());
    for endpoint in [LOCAL, "tcp://[::1]:0", "tcp://localhost:0", &ipc] {
        let (mut pull, mut heard) = (Pull::bind(&pull_options(endpoint)).unwrap(), Heard::default());
        let mut push = Push::connect(&push_options(pull.endpoint())).unwrap();
        bring_up(&mut pull, &mut heard, &mut push);
        assert!(push.send(b"first").unwrap() && push.send(b"").unwrap());

        drive(&mut pull, &mut heard, "two frames", |heard, _| heard.frames.len() == 2);

        assert_eq!(heard.frames, [b"first".to_vec(), vec![]], "{endpoint}");
        assert_eq!(heard.links, [LinkEvent::Up(heard.peers[0])], "{endpoint}");
        drop(push);
        drive(&mut pull, &mut heard, "the end", |heard, _| heard.links.len() == 2);
        assert_eq!(heard.links[1], LinkEvent::Down(heard.peers[0]), "{endpoint}");
    }
    assert!(place.files().is_empty(), "closing leaves no socket behind");
}

/// Taking three messages per wake-up finds all of 20,000: the descriptor is level-triggered.
#[test]
fn nothing_waits_unnoticed() {
    const ALL: usize = 20_000;
    let (mut pull, mut heard) = (Pull::bind(&pull_options(LOCAL)).unwrap(), Heard::default());
    let mut push = Push::connect(&push_options(pull.endpoint())).unwrap();
    bring_up(&mut pull, &mut heard, &mut push);
    let sending = std::thread::spawn(move || {
        for number in 0..ALL as u64 {
            until("room", || push.send(&number.to_le_bytes()).unwrap());
        }
        push
    });

    while heard.frames.len() < ALL {
        assert!(readable(pull.fd(), DEADLINE.as_millis() as i64), "stuck at {} of {ALL}", heard.frames.len());
        turn(&mut pull, &mut heard, 3);
    }

    let sent: Vec<_> = (0..ALL as u64).map(|number| number.to_le_bytes().to_vec()).collect();
    assert!(heard.frames == sent);
    turn(&mut pull, &mut heard, 3);
    assert!(!readable(pull.fd(), 0), "readable with nothing to do");
    drop(sending.join().unwrap());
}

/// A message of several parts is consumed whole and shown to nobody; what follows it arrives.
#[test]
fn multipart_is_skipped_whole() {
    let (mut pull, mut heard) = (Pull::bind(&pull_options(LOCAL)).unwrap(), Heard::default());
    let push = stranger(pull.endpoint());
    for part in 0..5 {
        assert!(push.send(b"part", part < 4).unwrap());
    }
    assert!(push.send(b"after", false).unwrap());

    drive(&mut pull, &mut heard, "the frame after", |heard, _| !heard.frames.is_empty());

    assert_eq!((heard.multiparts, heard.frames), (1, vec![b"after".to_vec()]));
}

/// A message beyond the limit ends the connection that brought it, and no other.
#[test]
fn oversized_disconnects_only_its_sender() {
    let (mut pull, mut heard) = (Pull::bind(&pull_options(LOCAL)).unwrap(), Heard::default());
    let mut good = Push::connect(&push_options(pull.endpoint())).unwrap();
    bring_up(&mut pull, &mut heard, &mut good);
    let bad = stranger(pull.endpoint());
    bad.set_int(option::RECONNECT_IVL, -1).unwrap();
    assert!(bad.send(&[0; 4097], false).unwrap());

    drive(&mut pull, &mut heard, "the end of one", |heard, _| heard.links.len() == 3);
    assert!(good.send(&[1; 4096]).unwrap());
    drive(&mut pull, &mut heard, "the frame of the other", |heard, _| !heard.frames.is_empty());

    assert_eq!(heard.frames, [vec![1; 4096]]);
    let ended = heard.links[1..].iter().collect::<Vec<_>>();
    assert!(matches!(ended[..], [LinkEvent::Up(up), LinkEvent::Down(down)] if up == down), "{ended:?}");
    assert_eq!(good.links().unwrap(), snapring_relay::Links::default());
}

fn curve(server: &KeyPair, clients: &[&KeyPair]) -> Admission {
    Admission::Curve { own: server.clone(), clients: clients.iter().map(|pair| *pair.public()).collect() }
}

fn with_keys(pull: &Pull, server: &KeyPair, own: &KeyPair) -> PushOptions {
    PushOptions {
        curve: Some(ClientCurve { server: *server.public(), own: own.clone() }),
        ..push_options(pull.endpoint())
    }
}

/// Of those who connect only a listed key gets a frame through; the others learn that and why they are refused.
#[test]
fn only_listed_keys_send() {
    let [server, listed, unlisted, other] = std::array::from_fn(|_| KeyPair::generate().unwrap());
    let options = PullOptions { admission: curve(&server, &[&listed]), ..pull_options(LOCAL) };
    let (mut pull, mut heard) = (Pull::bind(&options).unwrap(), Heard::default());
    let cases = [
        (with_keys(&pull, &server, &unlisted), &[Refusal::Denied][..]),
        (with_keys(&pull, &other, &listed), &[Refusal::Dropped]),
        // Both ends see that only one uses keys; the first to see it hangs up on the other.
        (push_options(pull.endpoint()), &[Refusal::Protocol, Refusal::Dropped]),
    ];
    for (options, expected) in cases {
        let mut push = Push::connect(&options).unwrap();
        let mut refused = None;
        drive(&mut pull, &mut heard, "a refusal", |_, _| {
            assert!(!push.send(b"wrong").unwrap());
            refused = refused.or(push.links().unwrap().refused);
            refused.is_some()
        });
        assert!(refused.is_some_and(|refused| expected.contains(&refused)), "{refused:?}, not {expected:?}");
    }

    let mut push = Push::connect(&with_keys(&pull, &server, &listed)).unwrap();
    bring_up(&mut pull, &mut heard, &mut push);
    assert!(push.send(b"right").unwrap());
    drive(&mut pull, &mut heard, "the right frame", |heard, _| !heard.frames.is_empty());

    assert_eq!(heard.frames, [b"right".to_vec()]);
    let counters = pull.counters();
    assert!(counters.refused_key >= 1 && counters.handshakes_failed >= 2, "{counters:?}");
}

/// Of 100,000 frames that a stranger has ready, with keys that are not listed, none gets through.
#[test]
fn nothing_of_an_unlisted_key_arrives() {
    const READY: i32 = 100_000;
    let [server, unlisted] = std::array::from_fn(|_| KeyPair::generate().unwrap());
    let options = PullOptions { admission: curve(&server, &[&server]), ..pull_options(LOCAL) };
    let (mut pull, mut heard) = (Pull::bind(&options).unwrap(), Heard::default());
    let push = Context::new().unwrap().socket(SocketKind::Push).unwrap();
    push.set_int(option::SNDHWM, READY).unwrap();
    push.set_bytes(option::CURVE_SERVERKEY, server.public().as_str().as_bytes()).unwrap();
    push.set_bytes(option::CURVE_PUBLICKEY, unlisted.public().as_str().as_bytes()).unwrap();
    push.set_bytes(option::CURVE_SECRETKEY, unlisted.secret().reveal().as_bytes()).unwrap();
    push.connect(&pull.endpoint().to_string()).unwrap();
    for _ in 0..READY {
        assert!(push.send(b"wrong", false).unwrap());
    }

    drive(&mut pull, &mut heard, "the end of the connection", |_, pull| pull.counters().disconnects > 0);

    assert!(heard.frames.is_empty() && pull.counters().refused_key == 1, "{:?}", pull.counters());
}

/// The limit is one of messages: what keys and a handshake add on the wire takes nothing from it.
#[test]
fn keys_leave_messages_their_room() {
    let [server, client] = std::array::from_fn(|_| KeyPair::generate().unwrap());
    for max_message in [88, 4096] {
        let options = PullOptions { admission: curve(&server, &[&client]), max_message, ..pull_options(LOCAL) };
        let (mut pull, mut heard) = (Pull::bind(&options).unwrap(), Heard::default());
        let mut push = Push::connect(&with_keys(&pull, &server, &client)).unwrap();
        bring_up(&mut pull, &mut heard, &mut push);

        assert!(push.send(&vec![1; max_message]).unwrap());

        drive(&mut pull, &mut heard, "the longest frame", |heard, _| !heard.frames.is_empty());
        assert_eq!(heard.frames, [vec![1; max_message]]);
    }
}

/// A sender that was refused gets in by itself once its key is listed.
#[test]
fn a_refused_sender_tries_again() {
    let [server, client] = std::array::from_fn(|_| KeyPair::generate().unwrap());
    let options = PullOptions { admission: curve(&server, &[]), ..pull_options(LOCAL) };
    let (mut pull, mut heard) = (Pull::bind(&options).unwrap(), Heard::default());
    let mut push = Push::connect(&with_keys(&pull, &server, &client)).unwrap();
    drive(&mut pull, &mut heard, "a refusal", |_, pull| pull.counters().refused_key == 1);

    pull.set_clients(&HashSet::from([*client.public()]));

    bring_up(&mut pull, &mut heard, &mut push);
}

/// The limit of peers holds, and a place that becomes free is taken by whoever was refused.
#[test]
fn peers_are_limited() {
    let options = PullOptions { max_peers: 2, ..pull_options(LOCAL) };
    let (mut pull, mut heard) = (Pull::bind(&options).unwrap(), Heard::default());
    let mut within: Vec<_> = (0..2).map(|_| Push::connect(&push_options(pull.endpoint())).unwrap()).collect();
    for push in &mut within {
        bring_up(&mut pull, &mut heard, push);
    }
    let mut beyond = Push::connect(&push_options(pull.endpoint())).unwrap();
    drive(&mut pull, &mut heard, "a refusal", |_, pull| pull.counters().too_many_peers > 0);
    assert!(!beyond.send(b"too many").unwrap());

    drop(within.pop());

    bring_up(&mut pull, &mut heard, &mut beyond);
    assert!(heard.frames.is_empty());
}

/// Only listed addresses send.
#[test]
fn addresses_are_limited() {
    let listed = Some(vec![Net::parse("127.0.0.2").unwrap()]);
    let options = PullOptions { addresses: listed, ..pull_options("tcp://127.0.0.1:0") };
    let (mut pull, mut heard) = (Pull::bind(&options).unwrap(), Heard::default());
    let mut wrong = Push::connect(&push_options(pull.endpoint())).unwrap();
    drive(&mut pull, &mut heard, "a refusal", |_, pull| pull.counters().refused_address > 0);
    assert!(!wrong.send(b"wrong").unwrap());

    let from = PushOptions { source_address: Some("127.0.0.2".parse().unwrap()), ..push_options(pull.endpoint()) };
    let mut right = Push::connect(&from).unwrap();

    bring_up(&mut pull, &mut heard, &mut right);
}

/// While nobody serves the gate, nobody gets in.
#[test]
fn an_unserved_gate_is_closed() {
    let mut pull = Pull::bind(&pull_options(LOCAL)).unwrap();
    let mut push = Push::connect(&push_options(pull.endpoint())).unwrap();
    let mut refused = None;

    until("the end of a handshake", || {
        assert!(!push.send(b"early").unwrap());
        refused = refused.or(push.links().unwrap().refused);
        refused.is_some()
    });

    assert_eq!(refused, Some(Refusal::Dropped));
    assert!(pull.recv().unwrap().is_none());
}

/// That nobody answers is told once in an outage, and not in a short one.
#[test]
fn an_outage_is_told() {
    let pull = Pull::bind(&pull_options(LOCAL)).unwrap();
    let options = push_options(pull.endpoint());
    drop(pull);
    let start = Instant::now();
    let mut push = Push::connect(&options).unwrap();
    let mut refused = None;

    until("word of an outage", || {
        refused = push.links().unwrap().refused;
        refused.is_some()
    });

    assert_eq!(refused, Some(Refusal::Unanswered));
    assert!(start.elapsed() >= UNANSWERED);
    let later = Instant::now() + UNANSWERED;
    while Instant::now() < later {
        assert_eq!(push.links().unwrap().refused, None);
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A relay that ends and comes back at the same port is found again.
#[test]
fn a_sender_finds_its_relay_again() {
    let (mut pull, mut heard) = (Pull::bind(&pull_options(LOCAL)).unwrap(), Heard::default());
    let endpoint = pull.endpoint().to_string();
    let mut push = Push::connect(&push_options(pull.endpoint())).unwrap();
    bring_up(&mut pull, &mut heard, &mut push);
    drop(pull);
    until("the loss of the connection", || push.links().unwrap().down);
    assert!(!push.is_up());

    let mut pull = Pull::bind(&pull_options(&endpoint)).unwrap();

    bring_up(&mut pull, &mut heard, &mut push);
    assert!(push.send(b"again").unwrap());
    drive(&mut pull, &mut heard, "a frame", |heard, _| !heard.frames.is_empty());
}

proptest! {
    /// A range holds exactly the addresses that share its leading bits.
    #[test]
    fn ranges_hold_what_they_name(address: u32, other: u32, bits in 0_u32..=32) {
        let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
        let net = Net::parse(&format!("{}/{bits}", std::net::Ipv4Addr::from(address & mask))).unwrap();

        let inside = net.contains(std::net::Ipv4Addr::from(other).into());

        prop_assert_eq!(inside, other & mask == address & mask);
        let mapped = std::net::Ipv4Addr::from(other).to_ipv6_mapped();
        prop_assert_eq!(net.contains(mapped.into()), inside);
    }
}

/// Ranges that are none are refused.
#[test]
fn malformed_ranges_are_refused() {
    for bad in ["", "10.0.0.0/33", "10.0.0.1/8", "::1/129", "host", "10.0.0.0/", "10.0.0.0/-1", "::/1/2"] {
        assert!(Net::parse(bad).is_err(), "{bad:?}");
    }
}
