//! The bytes of a frame, held by a golden file, and what becomes of bytes that are none.
//!
//! `SNAPRING_BLESS=1 cargo test -p snapring-relay --test frame` writes the file anew.

use proptest::prelude::*;
use snapring_core::Origin;
use snapring_relay::frame::{Frame, HEADER_BYTES, Kind, Malformed, job_hash};
use std::path::PathBuf;

/// Words of the golden payload, of which the frame takes 12 bytes.
const PAYLOAD: [u64; 2] = [0x0807_0605_0403_0201, 0x100f_0e0d_0c0b_0a09];

fn golden_path() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", "..", "tests", "data", "wire_v1.bin"].iter().collect()
}

fn golden_frame() -> Frame {
    Frame {
        kind: Kind::Snapshot,
        rank: 3,
        job: job_hash("golden job"),
        fingerprint: 0x1112_1314_1516_1718,
        origin: Origin { start: 1_000, random: 2_000, version: 3 },
        wall_ns: 4_000,
        age_ns: 5_000,
        payload_bytes: 12,
    }
}

fn encoded(frame: &Frame, payload: &[u64]) -> Vec<u8> {
    let mut bytes = b"what was there before".to_vec();
    frame.encode(payload, &mut bytes);
    bytes
}

/// A frame of today has the bytes of a frame of format 1.
#[test]
fn a_frame_has_the_golden_bytes() {
    let bytes = encoded(&golden_frame(), &PAYLOAD);

    if std::env::var_os("SNAPRING_BLESS").is_some() {
        std::fs::write(golden_path(), &bytes).unwrap();
    }
    assert_eq!(bytes, std::fs::read(golden_path()).unwrap());
}

/// Every number stands where the documentation says.
#[test]
fn numbers_stand_where_they_are_documented() {
    let bytes = std::fs::read(golden_path()).unwrap();
    let half = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());

    assert_eq!(&bytes[..8], b"SNAPWIRE");
    assert_eq!([half(8), half(12), half(16), half(20)], [1, 0, 3, 12]);
    assert_eq!([word(32), word(40), word(48), word(56)], [0x1112_1314_1516_1718, 1_000, 2_000, 3]);
    assert_eq!([word(64), word(72)], [4_000, 5_000]);
    assert_eq!(bytes[80..], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
}

/// A job is known by what `BLAKE2b` with a digest of 8 bytes gives, here as Python's hashlib says.
#[test]
fn a_job_hash_is_what_other_languages_compute() {
    // int.from_bytes(hashlib.blake2b(b"job-1", digest_size=8).digest(), "little")
    assert_eq!(job_hash("job-1"), 0x6bb5_0753_a636_e601);
    assert_eq!(job_hash(""), 0xb4b2_7974_57a0_a6e4);
}

/// What is no frame is refused for the first thing that is wrong with it.
#[test]
fn each_reason_has_its_name() {
    let good = encoded(&golden_frame(), &PAYLOAD);
    let with = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        bytes
    };
    let beat_with_payload = with(12, Kind::Beat as u8);
    let cases = [
        (Vec::new(), Malformed::Short(0)),
        (good[..79].to_vec(), Malformed::Short(79)),
        (with(7, b'X'), Malformed::Magic),
        (with(8, 2), Malformed::Format(2)),
        (with(12, 3), Malformed::Kind(3)),
        (with(20, 13), Malformed::Length { says: 13, has: 12 }),
        (beat_with_payload, Malformed::Length { says: 12, has: 12 }),
    ];

    for (bytes, reason) in cases {
        assert_eq!(Frame::decode(&bytes), Err(reason));
    }
}

/// A payload of fewer words than said is filled up with zeros, never with what was sent before.
#[test]
fn missing_words_are_zero() {
    let bytes = encoded(&golden_frame(), &PAYLOAD[..1]);

    assert_eq!(bytes[HEADER_BYTES..], [1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0]);
}

fn frames() -> impl Strategy<Value = (Frame, Vec<u64>)> {
    let kinds = prop_oneof![Just(Kind::Snapshot), Just(Kind::Beat), Just(Kind::Goodbye)];
    let words = prop::collection::vec(any::<u64>(), 0..40);
    (kinds, words, any::<[u64; 7]>(), any::<u32>(), 0..8u32).prop_map(|(kind, words, numbers, rank, cut)| {
        let [job, fingerprint, start, random, version, wall_ns, age_ns] = numbers;
        let whole = kind == Kind::Snapshot;
        let payload_bytes = if whole { (words.len() as u32 * 8).saturating_sub(cut) } else { 0 };
        let origin = Origin { start, random, version };
        (Frame { kind, rank, job, fingerprint, origin, wall_ns, age_ns, payload_bytes }, words)
    })
}

fn words_of(payload: &[u8]) -> Vec<u64> {
    let word = |chunk: &[u8]| chunk.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte));
    payload.chunks(8).map(word).collect()
}

proptest! {
    /// A frame survives its bytes.
    #[test]
    fn decoding_undoes_encoding((frame, words) in frames()) {
        let bytes = encoded(&frame, &words);

        let (again, payload) = Frame::decode(&bytes).unwrap();

        let expected: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        prop_assert_eq!(again, frame);
        prop_assert_eq!(payload, &expected[..frame.payload_bytes as usize]);
    }

    /// No frame is a prefix of another: whatever is cut off or added is noticed.
    #[test]
    fn every_other_length_is_refused((frame, words) in frames(), cut in any::<prop::sample::Index>(), more in 1..100usize) {
        let bytes = encoded(&frame, &words);
        let longer = [&bytes[..], &vec![0; more]].concat();

        prop_assert!(Frame::decode(&bytes[..cut.index(bytes.len())]).is_err());
        prop_assert!(Frame::decode(&longer).is_err());
    }

    /// Whatever arrives, decoding returns; what it accepts is a frame of its own bytes.
    #[test]
    fn any_bytes_are_decoded_or_refused(
        mut bytes in prop::collection::vec(any::<u8>(), 0..200),
        near in any::<bool>(),
        kind in 0..4u8,
    ) {
        if near && bytes.len() >= HEADER_BYTES {
            let says = (bytes.len() - HEADER_BYTES) as u32;
            bytes[..16].copy_from_slice(b"SNAPWIRE\x01\0\0\0\0\0\0\0");
            bytes[12] = kind;
            bytes[20..24].copy_from_slice(&says.to_le_bytes());
        }

        if let Ok((frame, payload)) = Frame::decode(&bytes) {
            prop_assert_eq!(encoded(&frame, &words_of(payload)), bytes);
        }
    }
}
