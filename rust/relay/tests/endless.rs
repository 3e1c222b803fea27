//! A message that never ends, alone in its program because it is a matter of memory.

mod support;

use snapring_relay::{LinkEvent, Pull, Push, Sink, Source};
use std::io::Write;
use support::{Heard, LOCAL, bring_up, drive, pull_options, push_options, resident, shaken, turn, until};

/// Bytes of one part of the message on the wire: a header of two and a short content.
const PART: [u8; 202] = {
    let mut part = [0; 202];
    (part[0], part[1]) = (1, 200); // another follows; its length
    part
};
/// Bytes that are poured in unless somebody stops it.
const POURED: usize = 1 << 30;
/// Bytes that memory may grow by until then.
const GROWTH: u64 = 512 << 20;

/// A peer whose message has parts without end loses its connection long before it has the memory; the others go on.
#[test]
fn a_message_without_end_is_ended() {
    let (mut pull, mut heard) = (Pull::bind(&pull_options(LOCAL)).unwrap(), Heard::default());
    let mut push = Push::connect(&push_options(pull.endpoint())).unwrap();
    bring_up(&mut pull, &mut heard, &mut push);
    let mut bad = shaken(&mut pull, &mut heard);
    let (before, mut poured) = (resident(), 0);
    let parts = PART.repeat(1000);

    while poured < POURED && bad.write_all(&parts).is_ok() {
        poured += parts.len();
        turn(&mut pull, &mut heard, 64); // as a relay does now and then, and at every message of others
    }

    assert!(poured < POURED, "all of it was taken");
    let growth = resident().saturating_sub(before);
    assert!(growth < GROWTH, "{growth} bytes more after {poured}");
    drive(&mut pull, &mut heard, "the end of one", |heard, _| heard.links.len() == 3);
    assert!(matches!(heard.links[1..], [LinkEvent::Up(up), LinkEvent::Down(down)] if up == down), "{:?}", heard.links);
    assert_eq!(pull.counters().endless, 1);
    until("room", || push.send(b"good").unwrap());
    drive(&mut pull, &mut heard, "the frame of the other", |heard, _| heard.frames == [b"good".to_vec()]);
}

/// A connection that brings much and whole messages stays, however much that is.
#[test]
fn much_is_no_offence() {
    let (mut pull, mut heard) = (Pull::bind(&pull_options(LOCAL)).unwrap(), Heard::default());
    let mut push = Push::connect(&push_options(pull.endpoint())).unwrap();
    bring_up(&mut pull, &mut heard, &mut push);
    let mut received = 0;

    while received < 100 << 20 {
        let _ = push.send(&[1; 4096]).unwrap(); // full now and then
        turn(&mut pull, &mut heard, 64);
        received += heard.frames.drain(..).map(|frame| frame.len()).sum::<usize>();
        heard.peers.clear();
    }

    assert_eq!((pull.counters().endless, pull.counters().disconnects), (0, 0));
}
