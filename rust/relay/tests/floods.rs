//! One bad peer among good ones: it may be loud, or claim or begin what never ends, and the others go on.

mod support;

use snapring_relay::zmq::{Context, SocketKind};
use snapring_relay::{LinkEvent, Pull, Push, Sink, Source};
use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use support::{Heard, LOCAL, bring_up, drive, pull_options, push_options, resident, shaken, until};

/// Bytes that memory may grow by while a peer pours in many times as much.
const GROWTH: u64 = 64 << 20;

/// A sender that is up, and a relay that heard nothing yet.
fn good() -> (Pull, Heard, Push) {
    let (mut pull, mut heard) = (Pull::bind(&pull_options(LOCAL)).unwrap(), Heard::default());
    let mut push = Push::connect(&push_options(pull.endpoint())).unwrap();
    bring_up(&mut pull, &mut heard, &mut push);
    heard.links.clear();
    (pull, heard, push)
}

/// A message that says it has a gibibyte ends the connection that brings it before there is any room made for it.
#[test]
fn a_claim_of_a_gibibyte_is_not_believed() {
    let (mut pull, mut heard, mut push) = good();
    let mut bad = shaken(&mut pull, &mut heard);
    let before = resident();
    bad.write_all(b"\x02").and_then(|()| bad.write_all(&(1_u64 << 30).to_be_bytes())).unwrap();

    drive(&mut pull, &mut heard, "the end of one", |heard, _| heard.links.len() == 2);

    let _ = bad.read_to_end(&mut Vec::new()); // a reset is an end too
    assert!(resident().saturating_sub(before) < GROWTH);
    assert!(push.send(b"good").unwrap());
    drive(&mut pull, &mut heard, "the frame of the other", |heard, _| heard.frames == [b"good".to_vec()]);
    assert_eq!(pull.counters().handshakes_failed, 0);
    assert!(matches!(heard.links[..], [LinkEvent::Up(up), LinkEvent::Down(down)] if up == down), "{:?}", heard.links);
}

/// While one peer sends as fast as it can, each frame of another arrives.
#[test]
fn a_flood_starves_nobody() {
    let (mut pull, mut heard, mut push) = good();
    let (before, endpoint) = (resident(), pull.endpoint().to_string());
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let socket = Context::new().unwrap().socket(SocketKind::Push).unwrap();
            socket.connect(&endpoint).unwrap();
            while !done.load(Ordering::Relaxed) {
                let _ = socket.send(&[7; 4000], false).unwrap(); // full most of the time
            }
        });
        drive(&mut pull, &mut heard, "the flood", |heard, _| heard.frames.len() > 1000);
        for number in 0..20_u64 {
            heard.frames.clear();
            until("room", || push.send(&number.to_le_bytes()).unwrap());
            drive(&mut pull, &mut heard, "a frame in the flood", |heard, _| {
                heard.frames.iter().any(|frame| *frame == number.to_le_bytes())
            });
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(resident().saturating_sub(before) < GROWTH);
}
