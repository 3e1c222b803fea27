//! Bytes that no honest sender sends, in great number: each ends in one counter, the ring stays sound, memory stays flat.
//!
//! `SNAPRING_FRAMES` says how many; the seed is printed.

#[path = "support/bench.rs"]
mod bench;
mod support;

use bench::{Bench, JOB, RANKS, SECOND, good, sign};
use snapring_core::{WriterOptions, clock};
use snapring_relay::counters::Counters;
use snapring_relay::driver::RelayOptions;
use snapring_relay::frame::{HEADER_BYTES, Kind};
use snapring_relay::relay::{Drain, Relay};
use snapring_relay::zmq::{Context, Socket, SocketKind};
use snapring_relay::{Endpoint, PullOptions};
use support::{LOCAL, Rng, pull_options, resident, until};

/// Bytes that memory may grow by however many frames came: what an allocator keeps back.
const GROWTH: u64 = 16 << 20;
/// Start of a life that is later than those of the other frames.
const LATE: u64 = 1 << 62;
/// Words that mean something somewhere: borders of integers, floats that are none, small and large counts.
const ODD_WORDS: [u64; 10] =
    [0, 1, 4, u64::MAX, i64::MIN as u64, i64::MAX as u64, 0x7ff8_0000_0000_0000, 0x7ff0_0000_0000_0000, 1 << 32, 80];

fn frames() -> u64 {
    std::env::var("SNAPRING_FRAMES").map_or(200_000, |count| count.parse().expect("a number of frames"))
}

/// Every fate but that of all frames; takes of the lock are no frames.
fn fates(counters: &Counters) -> u64 {
    counters.all().iter().filter(|(name, _)| !matches!(*name, "received" | "takes")).map(|(_, count)| count).sum()
}

fn received(counters: &Counters) -> u64 {
    counters.all()[0].1
}

/// Frames as an honest sender would send them, of some rank and life.
fn honest(rng: &mut Rng, version: u64) -> Vec<u8> {
    let (rank, start) = (rng.below(u64::from(RANKS)) as u32, 1 + rng.below(4));
    match rng.below(8) {
        0 => sign(Kind::Beat, rank, start),
        1 => sign(Kind::Goodbye, rank, start),
        _ => good(rank, start, version),
    }
}

fn mutate(frame: &mut Vec<u8>, rng: &mut Rng) {
    let at = rng.below(frame.len() as u64 + 1) as usize;
    let word = at / 8 * 8;
    match rng.below(7) {
        0 => frame.truncate(at),
        1 => frame.extend((0..rng.below(64)).map(|_| rng.below(256) as u8)),
        2 if word + 8 <= frame.len() => {
            let odd = ODD_WORDS[rng.below(ODD_WORDS.len() as u64) as usize];
            frame[word..word + 8].copy_from_slice(&odd.to_le_bytes());
        }
        3 if word + 4 <= frame.len() => {
            frame[word..word + 4].copy_from_slice(&(rng.below(70_000) as u32).to_le_bytes());
        }
        4 if at < frame.len() => frame[at] = rng.below(256) as u8,
        5 => drop(frame.splice(at.., (0..rng.below(32)).map(|_| rng.below(256) as u8))),
        _ if at < frame.len() => frame[at] ^= 1 << rng.below(8),
        _ => {}
    }
}

/// A frame with up to three faults.
fn bad(rng: &mut Rng, version: u64) -> Vec<u8> {
    let mut frame = honest(rng, version);
    for _ in 0..rng.below(4) {
        mutate(&mut frame, rng);
    }
    frame
}

/// Where each rank's slot stands: epoch and version.
fn positions(bench: &Bench) -> Vec<(u64, u64)> {
    (0..RANKS).map(|rank| bench.seen(rank).map_or((0, 0), |seen| (seen.epoch, seen.version))).collect()
}

/// Whatever comes is counted once and only moves slots forward; readers read every rank all the while, and the memory
/// does not grow with the number of frames.
#[test]
fn mutated_frames_end_in_a_counter() {
    let (mut rng, mut bench) = (Rng::new(), Bench::new());
    let (mut before, mut memory) = (positions(&bench), 0);
    let all = frames();

    for number in 1..=all {
        let frame = bad(&mut rng, number);
        let peer = rng.below(8) as i32;
        bench.take(&frame, peer);
        if number % 64 == 0 {
            // A life that a mutation made up may seem to be the newest while its connection is there.
            bench.intake.as_mut().unwrap().disconnected(peer, false, clock::mono_ns());
        }
        if number % 4096 == 0 {
            let intake = bench.intake.as_mut().unwrap();
            intake.turn(clock::mono_ns() + SECOND * rng.below(2)).unwrap();
            let after = positions(&bench);
            assert!(after.iter().zip(&before).all(|(after, before)| after >= before), "{before:?} {after:?}");
            before = after;
            if memory == 0 {
                memory = resident(); // all that is made once is made by now
            }
        }
    }

    assert_eq!((received(&bench.counters), fates(&bench.counters)), (all, all));
    let growth = resident().saturating_sub(memory);
    assert!(memory == 0 || growth < GROWTH, "{growth} bytes more after {all} frames");
    println!("{all} frames, {growth} bytes of growth: {:?}", bench.counters.all());
}

/// Messages shuffled, repeated and replayed from earlier lives: exactly those that are newer than all before them are
/// published, so epoch and version of a slot strictly grow.
#[test]
fn replays_change_nothing() {
    let (mut rng, mut bench) = (Rng::new(), Bench::new());
    let all = frames();
    let mut newest = [(0, 0); RANKS as usize];
    let mut published = 0;
    let mut before = positions(&bench);

    for number in 0..all {
        let rank = rng.below(u64::from(RANKS)) as u32;
        let last_life = 4 + number * 64 / all;
        let origin = (last_life - rng.below(4), 1 + rng.below(1000));
        bench.take(&good(rank, origin.0, origin.1), rank as i32);
        if origin > newest[rank as usize] {
            newest[rank as usize] = origin;
            published += 1;
            let now = bench.seen(rank).unwrap();
            assert!((now.epoch, now.version) > before[rank as usize], "rank {rank}");
            assert_eq!((now.origin.start, now.origin.version), origin);
            before[rank as usize] = (now.epoch, now.version);
        }
    }

    let counted = bench.counters.all();
    assert!(counted.contains(&("published", published)), "{published}: {counted:?}");
    assert_eq!(positions(&bench), before, "the others moved no slot");
}

/// A program of a stranger, connected to the relay.
fn stranger(endpoint: &Endpoint) -> Socket {
    let socket = Context::new().unwrap().socket(SocketKind::Push).unwrap();
    socket.connect(&endpoint.to_string()).unwrap();
    socket
}

/// The same through a socket, from several connections at a time and with messages of several parts: every message is
/// counted once, and an honest one gets through
/// once those connections are gone.
#[test]
fn mutated_messages_through_a_socket() {
    let (mut rng, mut bench) = (Rng::new(), Bench::new());
    bench.intake = None; // it would hold the ranks
    let far = WriterOptions { job: JOB.into(), ..bench.options() };
    let pull = PullOptions { max_message: HEADER_BYTES + 1024, ..pull_options(LOCAL) };
    let options = RelayOptions { ring: far, pull, standby: false, kill_hung_ns: None };
    let relay = Relay::open(options, Drain::Thread).unwrap();
    let endpoint = relay.status().unwrap().endpoint().unwrap();
    let senders: Vec<_> = (0..4).map(|_| stranger(&endpoint)).collect();
    let all = frames() / 10;

    for number in 1..=all {
        let sender = &senders[rng.below(senders.len() as u64) as usize];
        let parts = if rng.below(10) == 0 { rng.below(5) } else { 0 };
        for _ in 0..parts {
            let part = bad(&mut rng, number);
            until("room", || sender.send(&part, true).unwrap());
        }
        let last = if rng.below(20) == 0 { Vec::new() } else { bad(&mut rng, number) };
        until("room", || sender.send(&last, false).unwrap());
    }

    let counters = &relay.status().unwrap().counters;
    until("all messages", || received(counters) >= all);
    assert_eq!((received(counters), fates(counters)), (all, all));
    drop(senders); // some life that a mutation made up may seem to be the newest while its connection is there
    let (honest, mut version) = (stranger(&endpoint), 0);
    until("an honest frame", || {
        version += 1;
        honest.send(&good(0, LATE, version), false).unwrap()
            && bench.seen(0).is_some_and(|seen| seen.origin.start == LATE)
    });
    relay.close().unwrap();
}
