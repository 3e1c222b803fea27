//! What may reach an open port: noise, silence, half a greeting, and peers that come and go while the relay closes.

mod support;

use snapring_relay::{Endpoint, Host, Pull, Push, Sink, Source};
use std::io::{Read, Write};
use std::net::TcpStream;
use support::{Heard, LOCAL, Rng, bring_up, drive, pull_options, push_options, turn, until};

/// How a peer that speaks the protocol begins, up to the name of its mechanism.
const GREETING: [u8; 12] = [0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 3, 0];

fn raw(endpoint: &Endpoint) -> TcpStream {
    let Endpoint::Tcp(Host::Address(address), port) = endpoint else { panic!("{endpoint}") };
    TcpStream::connect((*address, *port)).unwrap()
}

/// Noise ends the connection that makes it and is counted; the frames of others arrive all the while.
#[test]
fn noise_disturbs_nobody() {
    let mut rng = Rng::new();
    let options = snapring_relay::PullOptions { max_peers: 200, ..pull_options(LOCAL) };
    let (mut pull, mut heard) = (Pull::bind(&options).unwrap(), Heard::default());
    let mut push = Push::connect(&push_options(pull.endpoint())).unwrap();
    bring_up(&mut pull, &mut heard, &mut push);
    for round in 0..100_u64 {
        let mut stream = raw(pull.endpoint());
        let honest = rng.below(GREETING.len() as u64 + 1) as usize;
        let noise: Vec<u8> = (0..rng.below(300)).map(|_| rng.below(256) as u8).collect();
        let sent = [&GREETING[..honest], &noise].concat();
        // The relay may hang up in the middle of it.
        let _ = stream.write_all(&sent).and_then(|()| stream.shutdown(std::net::Shutdown::Write));
        until("room", || push.send(&round.to_le_bytes()).unwrap());
        turn(&mut pull, &mut heard, 64);
    }

    drive(&mut pull, &mut heard, "all frames", |heard, _| heard.frames.len() == 100);

    drive(&mut pull, &mut heard, "the end of the noise", |_, pull| pull.counters().disconnects == 100);
    assert!(pull.counters().handshakes_failed > 0, "{:?}", pull.counters());
    assert!(push.send(b"still here").unwrap());
    drive(&mut pull, &mut heard, "one more frame", |heard, _| heard.frames.len() == 101);
}

/// A peer that connects and says nothing, or stops in its greeting, loses its connection.
#[test]
fn silence_ends() {
    let (mut pull, mut heard) = (Pull::bind(&pull_options(LOCAL)).unwrap(), Heard::default());
    let silent = raw(pull.endpoint());
    let mut halting = raw(pull.endpoint());
    halting.write_all(&GREETING[..5]).unwrap();

    drive(&mut pull, &mut heard, "both ends", |heard, _| heard.links.len() == 4);

    for mut stream in [silent, halting] {
        // What the relay greeted with, and then the end.
        let _ = stream.read_to_end(&mut Vec::new()); // a reset is an end too
    }
    assert_eq!(pull.counters().handshakes_failed, 2);
}

/// A relay closes at once, however many peers come and go meanwhile and whatever nobody took.
#[test]
fn closing_waits_for_nobody() {
    let mut rng = Rng::new();
    for _ in 0..30 {
        let mut pull = Pull::bind(&pull_options(LOCAL)).unwrap();
        let mut heard = Heard::default();
        let mut senders: Vec<_> = (0..4).map(|_| Push::connect(&push_options(pull.endpoint())).unwrap()).collect();
        let noise: Vec<_> = (0..rng.below(8)).map(|_| raw(pull.endpoint())).collect();
        for _ in 0..rng.below(400) {
            turn(&mut pull, &mut heard, 1);
            for sender in &mut senders {
                let _ = sender.send(b"frame").unwrap();
            }
        }
        drop(senders.pop());

        drop(pull);

        drop(noise);
    }
}
