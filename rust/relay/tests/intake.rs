//! Frames against the ring: each fate, origin rules across restarts of senders and of the relay, and rank by rank.

#[path = "support/bench.rs"]
mod bench;

use bench::{Bench, RANKS, SECOND, encoded, good, head, schema, sign, words};
use proptest::prelude::*;
use snapring_core::{State, Value, Writer, WriterOptions, clock};
use snapring_relay::frame::{self, Frame};
use snapring_relay::intake::ENDED;

/// The first thing that readers ever see of a rank is its first snapshot.
#[test]
fn nothing_precedes_the_first_snapshot() {
    let mut bench = Bench::new();
    assert!(bench.seen(1).is_none());
    assert_eq!(bench.fate(&good(1, 10, 33)), "published");
    let seen = bench.seen(1).unwrap();
    assert_eq!(
        (seen.version, seen.origin.version, seen.running, seen.state),
        (1, 33, Some(Value::Int(33)), State::Live)
    );
}

/// Whatever is wrong with a frame is counted by its reason, and the ring stays as it was.
#[test]
fn bad_frames_are_counted_and_do_not_touch_the_ring() {
    let mut bench = Bench::new();
    bench.take(&good(1, 10, 5), 5);
    let nan = schema().field("at").unwrap().place().word as usize;
    let with = |word: usize, value: u64| {
        let mut words = words(1, 6);
        words[word] = value;
        encoded(&head(1, 10, 6), &words)
    };
    let long = encoded(&Frame { payload_bytes: 800, ..head(1, 10, 6) }, &[0; 100]);
    for (bytes, fate) in [
        (Vec::new(), "undecodable"),
        (good(1, 10, 6)[..40].to_vec(), "undecodable"),
        ([good(1, 10, 6), vec![0]].concat(), "undecodable"),
        (b"SNAPWIRE".repeat(20), "undecodable"),
        (encoded(&Frame { job: 1, ..head(1, 10, 6) }, &words(1, 6)), "foreign_job"),
        (encoded(&Frame { fingerprint: 1, ..head(1, 10, 6) }, &words(1, 6)), "foreign_schema"),
        (good(RANKS, 10, 6), "out_of_range"),
        (good(u32::MAX, 10, 6), "out_of_range"),
        (encoded(&head(1, 10, 6), &words(2, 6)), "unsound"),
        (with(nan, f64::NAN.to_bits()), "unsound"),
        (with(nan, f64::INFINITY.to_bits()), "unsound"),
        (with(0, 0), "unsound"),
        (long, "unsound"),
        (good(1, 10, 4), "older"),
        (good(1, 9, 99), "replaced"),
        (sign(frame::Kind::Beat, 1, 9), "replaced"),
        (sign(frame::Kind::Goodbye, 1, 9), "replaced"),
        (good(1, 10, 5), "repeated"),
        (sign(frame::Kind::Beat, 1, 10), "beats"),
    ] {
        assert_eq!(bench.fate(&bytes), fate);
        let seen = bench.seen(1).unwrap();
        assert_eq!((seen.version, seen.origin.version, seen.running), (1, 5, Some(Value::Int(5))), "after {fate}");
    }
    for rank in [0, 2, 3] {
        assert!(bench.seen(rank).is_none());
    }
}

/// A restarted sender goes on at once under a new epoch; what the old one still has in the pipe comes too late.
#[test]
fn a_new_life_takes_over_and_the_old_one_is_dropped() {
    let mut bench = Bench::new();
    bench.take(&good(2, 10, 500), 5);
    let before = bench.seen(2).unwrap();
    assert_eq!(bench.fate(&good(2, 11, 1)), "published");
    assert_eq!(bench.fate(&good(2, 10, 501)), "replaced");
    let after = bench.seen(2).unwrap();
    assert_eq!((after.version, after.origin.version, after.epoch), (2, 1, before.epoch + 1));
    assert_eq!(after.state, State::Live);
}

/// A life that began "earlier", since its host's clock went back, is admitted once the later one's connection is gone.
#[test]
fn an_earlier_life_waits_until_the_later_one_is_gone() {
    let mut bench = Bench::new();
    bench.take(&good(2, 20, 5), 5);
    assert_eq!(bench.fate(&good(2, 10, 1)), "replaced");
    let now_ns = clock::mono_ns();
    bench.intake.as_mut().unwrap().disconnected(5, false, now_ns);
    assert_eq!(bench.fate(&good(2, 10, 2)), "published");
    assert_eq!(bench.seen(2).unwrap().origin.start, 10);
}

/// Gone and silent is DEAD; gone and back is not; a goodbye is DEAD at once.
#[test]
fn a_rank_dies_by_silence_after_its_connection_or_by_goodbye() {
    let mut bench = Bench::new();
    for (rank, peer) in [(0, 5), (1, 6), (2, 7), (3, 7)] {
        bench.take(&good(rank, 10, 1), peer);
    }
    let state = |bench: &Bench, rank| bench.seen(rank).unwrap().state;
    let now_ns = clock::mono_ns();
    let intake = bench.intake.as_mut().unwrap();
    intake.disconnected(5, false, now_ns);
    intake.disconnected(6, false, now_ns);
    intake.disconnected(7, true, now_ns);
    assert!(intake.turn(now_ns).unwrap().unwrap() <= now_ns + SECOND);
    bench.take_at(&good(1, 10, 1), 8, now_ns); // repeated on a new connection
    bench.intake.as_mut().unwrap().turn(now_ns + SECOND).unwrap();
    assert_eq!(state(&bench, 0), State::Dead);
    assert_eq!(state(&bench, 1), State::Live);
    assert_eq!(state(&bench, 2), State::Live, "its descriptor was in use again: not sure yet");
    bench.take(&sign(frame::Kind::Goodbye, 1, 10), 8);
    assert_eq!(state(&bench, 1), State::Dead);
    bench.intake.as_mut().unwrap().turn(now_ns + 4 * SECOND).unwrap();
    assert_eq!(state(&bench, 2), State::Dead);
    assert_eq!(bench.fate(&good(0, 10, 1)), "published", "back after all: shown again");
    assert_eq!(state(&bench, 0), State::Live);
}

/// Connections that come and go under the number of a dead one's do not keep its rank from being DEAD.
#[test]
fn strangers_with_the_number_of_a_dead_connection_change_nothing() {
    let mut bench = Bench::new();
    bench.take(&good(0, 10, 1), 5);
    let now_ns = clock::mono_ns();
    for step in 0..4 {
        let intake = bench.intake.as_mut().unwrap();
        intake.disconnected(5, false, now_ns + step * SECOND / 5);
        intake.turn(now_ns + step * SECOND / 5).unwrap();
    }
    assert_eq!(bench.seen(0).unwrap().state, State::Dead);
}

/// What an ended connection left in the queue is taken, but neither keeps its rank alive nor takes it from a living
/// connection.
#[test]
fn last_words_of_an_ended_connection_keep_nobody_alive() {
    let mut bench = Bench::new();
    bench.take(&good(0, 10, 2), 8); // back already, on another connection
    bench.take(&good(0, 10, 2), ENDED);
    bench.take(&good(1, 10, 1), ENDED);
    assert_eq!(bench.seen(1).unwrap().origin.version, 1);
    let now_ns = clock::mono_ns();
    let intake = bench.intake.as_mut().unwrap();
    intake.turn(now_ns).unwrap();
    intake.turn(now_ns + SECOND).unwrap();
    assert_eq!(bench.seen(0).unwrap().state, State::Live);
    assert_eq!(bench.seen(1).unwrap().state, State::Dead);
}

/// After a change of the relay the newest value, sent again, makes its rank LIVE; it is no younger than it was.
#[test]
fn a_new_relay_goes_on_from_the_slots() {
    let mut bench = Bench::new();
    bench.take(&good(1, 10, 7), 5);
    bench.take(&good(2, 10, 7), 5);
    bench.restart();
    assert_eq!(bench.seen(1).unwrap().state, State::Stale);
    assert_eq!(bench.fate(&good(1, 10, 6)), "older");
    let old = encoded(&Frame { age_ns: SECOND, ..head(1, 10, 7) }, &words(1, 7));
    assert_eq!(bench.fate(&old), "published");
    assert_eq!(bench.fate(&old), "repeated");
    let seen = bench.seen(1).unwrap();
    assert_eq!((seen.version, seen.origin.version, seen.state), (2, 7, State::Live));
    assert!(seen.age_ns >= SECOND);
    assert_eq!(bench.fate(&good(1, 9, 9)), "replaced", "an older life, and the newer one is connected");
    assert_eq!(bench.seen(2).unwrap().state, State::Stale);
    bench.intake.as_mut().unwrap().turn(clock::mono_ns() + 4 * SECOND).unwrap();
    assert_eq!(bench.seen(2).unwrap().state, State::Dead, "its sender did not come back");
    assert_eq!(bench.seen(1).unwrap().state, State::Live);
}

/// Both the sender and the relay are new: the later life is taken, whoever comes first.
#[test]
fn sender_and_relay_restart_together() {
    let mut bench = Bench::new();
    bench.take(&good(1, 10, 70), 5);
    bench.restart();
    assert_eq!(bench.fate(&good(1, 11, 1)), "published");
    assert_eq!(bench.fate(&good(1, 10, 71)), "replaced");
    assert_eq!(bench.seen(1).unwrap().origin.start, 11);
}

/// A value keeps its age however late, and however often, it is sent.
#[test]
fn a_value_sent_again_after_a_minute_is_a_minute_old() {
    let mut bench = Bench::new();
    bench.take(&good(1, 10, 7), 5);
    bench.restart();
    let old = encoded(&Frame { age_ns: 60 * SECOND, ..head(1, 10, 7) }, &words(1, 7));
    bench.take(&old, 5);
    let seen = bench.seen(1).unwrap();
    assert!(seen.age_ns >= 60 * SECOND && seen.age_ns < 3600 * SECOND);
    assert_eq!(seen.state, State::Stale);
}

/// A rank of a local writer is not the relay's; the next frame after that writer closed is.
#[test]
fn a_local_writer_keeps_its_rank() {
    let mut bench = Bench::new();
    let local = Writer::open(WriterOptions { rank: 3, ..bench.options() }).unwrap();
    let nonce = local.header().unwrap().nonce;
    let payload = words(3, -1);
    local.publish(nonce, &payload, payload.len() * 8).unwrap();
    assert_eq!(bench.fate(&good(3, 10, 1)), "held_locally");
    assert_eq!(bench.fate(&good(2, 10, 1)), "published", "the others go on");
    assert_eq!(bench.seen(3).unwrap().running, Some(Value::Int(-1)));
    drop(local);
    assert_eq!(bench.fate(&good(3, 10, 2)), "published");
    assert_eq!(bench.seen(3).unwrap().running, Some(Value::Int(2)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Any bytes, and any change of a good frame, end in exactly one counter and leave the other ranks alone.
    #[test]
    fn mutated_frames_are_counted_once(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        changes in prop::collection::vec((0usize..160, any::<u8>()), 1..4),
    ) {
        let mut bench = Bench::new();
        bench.take(&good(0, 10, 1), 5);
        let mut changed = good(1, 10, 1);
        for (at, byte) in changes {
            let at = at % changed.len();
            changed[at] ^= byte;
        }
        for (number, message) in (1..).zip([&bytes, &changed]) {
            bench.take(message, 6);
            let all = bench.counters.all();
            let sum: u64 = all.iter().filter(|(name, _)| !matches!(*name, "received" | "takes")).map(|pair| pair.1).sum();
            prop_assert_eq!(all[0], ("received", number + 1));
            prop_assert_eq!(sum, number + 1);
        }
        if !matches!(Frame::decode(&changed), Ok((Frame { rank: 0, .. }, _))) {
            let first = bench.seen(0).unwrap();
            prop_assert_eq!((first.origin.version, first.version, first.running), (1, 1, Some(Value::Int(1))));
        }
    }
}
