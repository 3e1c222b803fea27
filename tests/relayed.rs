//! A ring as a relay fills it: stamps from elsewhere, claims one by one, and what readers make of each step.
#![cfg(not(loom))]

mod support;

use snapring_core::layout::cell;
use snapring_core::record::Checks;
use snapring_core::relayed::Value;
use snapring_core::{
    Ask, Error, Field, Kind, Origin, Reader, ReaderOptions, Reading, Record, RecordMut, Relayed, Schema, State, Writer,
    WriterOptions,
};
use std::path::Path;
use std::sync::Arc;
use support::Place;

const LIMIT_NS: u64 = 2_000_000_000;

fn dir(path: &Path) -> snapring_core::DirOptions {
    snapring_core::DirOptions { path: Some(path.to_owned()), allow_disk: false }
}

fn schema() -> Arc<Schema> {
    Arc::new(Schema::builder("Load").with(Field::new("running", Kind::Int)).build().unwrap())
}

fn words(running: i64) -> Vec<u64> {
    let schema = schema();
    let mut words = schema.absent().to_vec();
    RecordMut::new(&schema, &mut words).unwrap().set("running", Some(&snapring_core::Value::Int(running))).unwrap();
    words
}

fn options(place: &Place) -> WriterOptions {
    WriterOptions { dir: dir(place.path()), ..WriterOptions::new("far", 0, 4, schema()) }
}

fn put(relayed: &mut Relayed, rank: u32, version: u64, age_ns: u64) -> Option<u64> {
    let payload = words(version as i64);
    let mono_ns = snapring_core::clock::mono_ns() - age_ns;
    let origin = Origin { start: 7, random: 8, version };
    relayed.put(rank, &Value { origin, mono_ns, wall_ns: 5, payload: &payload, len: payload.len() * 8 }).unwrap()
}

struct Seen {
    origin: Origin,
    version: u64,
    age_ns: u64,
    running: Option<snapring_core::Value>,
    state: State,
}

fn seen(place: &Place, rank: u32) -> Option<Seen> {
    let reader =
        Reader::open(ReaderOptions { name: "far".into(), dir: dir(place.path()), ..ReaderOptions::default() }).unwrap();
    let attached = reader.ring().unwrap();
    let ring = attached.as_ref()?;
    let mut row = vec![0; ring.row_words()];
    ring.read(rank, &mut row).unwrap();
    let reading = Reading::of(&row)?;
    Some(Seen {
        origin: reading.stamp.origin,
        version: reading.stamp.version,
        age_ns: reading.age_ns(),
        running: Record::new(&ring.header.schema, &row[cell::PAYLOAD..]).unwrap().get("running").unwrap(),
        state: ring.state(rank, Some(&reading), LIMIT_NS, Ask::Now).unwrap(),
    })
}

/// Values keep the origin and the age that they came with, and versions are the slot's own.
#[test]
fn a_value_keeps_origin_and_age() {
    let place = Place::new();
    let mut relayed = Relayed::open(options(&place)).unwrap();
    assert!(seen(&place, 2).is_none());

    assert!(relayed.hold(2).unwrap());
    assert_eq!(put(&mut relayed, 2, 40, 1_000_000_000), Some(1));
    assert_eq!(put(&mut relayed, 2, 44, 1_000_000_000), Some(2));

    let seen = seen(&place, 2).unwrap();
    assert_eq!((seen.origin.version, seen.version, seen.state), (44, 2, State::Live));
    assert!(seen.age_ns >= 1_000_000_000);
    assert_eq!(seen.running, Some(snapring_core::Value::Int(44)));
}

/// Released because it is gone: DEAD. Left by a relay that closed: STALE, because another may go on.
#[test]
fn a_gone_rank_is_dead_and_a_gone_relay_leaves_stale() {
    let place = Place::new();
    let mut relayed = Relayed::open(options(&place)).unwrap();
    for rank in [0, 1] {
        assert!(relayed.hold(rank).unwrap());
        put(&mut relayed, rank, 1, 0);
    }

    relayed.release_dead(0).unwrap();
    assert_eq!(seen(&place, 0).unwrap().state, State::Dead);
    assert_eq!(seen(&place, 1).unwrap().state, State::Live);
    assert_eq!(put(&mut relayed, 0, 2, 0), None);

    relayed.close(true).unwrap();
    assert_eq!(seen(&place, 0).unwrap().state, State::Dead);
    assert_eq!(seen(&place, 1).unwrap().state, State::Stale);
    let mut next = Relayed::open(options(&place)).unwrap();
    assert_eq!(next.newest_origin(1).unwrap(), Some(Origin { start: 7, random: 8, version: 1 }));
    assert!(next.hold(0).unwrap());
    assert_eq!(put(&mut next, 0, 3, 0), Some(2));
    assert_eq!(seen(&place, 0).unwrap().state, State::Live);
}

/// A rank has one writer: a local one keeps the relay out, the relay keeps a local one out, others are not touched.
#[test]
fn local_writers_and_the_relay_exclude_each_other() {
    let place = Place::new();
    let local = Writer::open(WriterOptions { rank: 1, ..options(&place) }).unwrap();
    let mut relayed = Relayed::open(options(&place)).unwrap();

    assert!(!relayed.hold(1).unwrap());
    assert!(relayed.hold(3).unwrap());
    assert!(matches!(
        Writer::open(WriterOptions { rank: 3, ..options(&place) }),
        Err(Error::WriterBusy { rank: 3, .. })
    ));

    local.close().unwrap();
    assert!(relayed.hold(1).unwrap());
}

/// A ring that was removed under the relay is made anew, with the newest value of each held rank and versions that go on.
#[test]
fn a_removed_ring_is_followed_with_all_it_held() {
    let place = Place::new();
    let mut relayed = Relayed::open(options(&place)).unwrap();
    for rank in [0, 3] {
        assert!(relayed.hold(rank).unwrap());
        for version in 1..=5 {
            put(&mut relayed, rank, version, 0);
        }
    }
    std::fs::remove_file(place.path().join("far.ring")).unwrap();
    assert!(seen(&place, 0).is_none());

    assert!(relayed.follow(snapring_core::clock::mono_ns() + 3_000_000_000).unwrap());

    for rank in [0, 3] {
        let seen = seen(&place, rank).unwrap();
        assert_eq!((seen.origin.version, seen.version, seen.state), (5, 6, State::Live));
    }
    assert_eq!(put(&mut relayed, 0, 6, 0), Some(7));
}

/// The last one to leave takes the ring along; a claimed ring stays.
#[test]
fn the_last_to_close_removes_the_ring() {
    let place = Place::new();
    let local = Writer::open(WriterOptions { rank: 1, ..options(&place) }).unwrap();
    let mut relayed = Relayed::open(options(&place)).unwrap();
    assert!(relayed.hold(3).unwrap());
    relayed.close(false).unwrap();
    assert!(place.path().join("far.ring").exists());
    drop(local);
    let mut relayed = Relayed::open(options(&place)).unwrap();
    assert!(relayed.hold(3).unwrap());
    relayed.close(false).unwrap();
    assert!(!place.path().join("far.ring").exists());
    assert!(matches!(relayed.hold(0), Err(Error::Closed(_))));
}

/// Words from elsewhere are a record only where a writer could have stored each of them.
#[test]
fn unsound_records_are_told_from_sound_ones() {
    let schema = Schema::builder("All")
        .with(Field::new("count", Kind::Int))
        .with(Field::new("rate", Kind::Float))
        .with(Field::new("on", Kind::Bool))
        .with(Field::choice("mode", &["a", "b"]))
        .with(Field::sized("name", Kind::Str, 8))
        .with(Field::sized("steps", Kind::ListInt, 2))
        .with(Field::new("rank", Kind::Int).fill(snapring_core::schema::Fill::Rank))
        .with(Field::new("at", Kind::Float).fill(snapring_core::schema::Fill::Timestamp))
        .build()
        .unwrap();
    let checks = Checks::of(&schema);
    let wrong = |words: &[u64]| schema.fields()[checks.check(words, 3).unwrap_err()].name.as_str();
    let mut sound = schema.absent().to_vec();
    let set = |words: &mut Vec<u64>, name: &str, value: snapring_core::Value| {
        RecordMut::reopen(&schema, words).unwrap().set(name, Some(&value)).unwrap();
    };
    assert!(checks.check(&sound, 3).is_ok());
    set(&mut sound, "count", snapring_core::Value::Int(-4));
    set(&mut sound, "rate", snapring_core::Value::Float(f64::NAN));
    set(&mut sound, "on", snapring_core::Value::Bool(true));
    set(&mut sound, "mode", snapring_core::Value::Text("b".into()));
    set(&mut sound, "name", snapring_core::Value::Text("llama".into()));
    set(&mut sound, "steps", snapring_core::Value::Ints(vec![1, 2]));
    set(&mut sound, "rank", snapring_core::Value::Int(3));
    set(&mut sound, "at", snapring_core::Value::Float(1e9));
    assert!(checks.check(&sound, 3).is_ok());
    assert!(checks.check(&sound, 2).is_err(), "another rank's");
    assert!(checks.check(&sound[1..], 3).is_err(), "cut short");
    for (field, word) in [
        ("count", i64::MIN as u64),
        ("on", 2),
        ("mode", 2),
        ("mode", u64::MAX),
        ("name", 9),
        ("steps", 3),
        ("at", f64::NAN.to_bits()),
        ("at", f64::INFINITY.to_bits()),
        ("at", (-1.0f64).to_bits()),
    ] {
        let mut bad = sound.clone();
        bad[schema.field(field).unwrap().place().word as usize] = word;
        assert_eq!(wrong(&bad), field);
    }
    let mut bad = sound.clone();
    bad[schema.field("name").unwrap().place().word as usize + 1] = u64::MAX;
    assert_eq!(wrong(&bad), "name", "not UTF-8");
    let mut bad = schema.absent().to_vec();
    bad[schema.field("rate").unwrap().place().word as usize] = 0;
    assert_eq!(wrong(&bad), "rate", "absent, yet a number");
}

/// A relay stores records as they come, so it takes no ring of another schema, however compatible: one that nobody uses
/// is replaced, one in use is refused.
#[test]
fn another_schema_is_not_taken() {
    let place = Place::new();
    let more = Schema::builder("Load").with(Field::new("waiting", Kind::Int)).with(Field::new("running", Kind::Int));
    let older = WriterOptions { schema: Arc::new(more.build().unwrap()), keep: true, ..options(&place) };
    let local = Writer::open(older).unwrap();
    assert!(matches!(Relayed::open(options(&place)), Err(Error::LayoutMismatch(_))));

    drop(local);
    let mut relayed = Relayed::open(options(&place)).unwrap();
    assert_eq!(relayed.header().unwrap().schema.fingerprint(), schema().fingerprint());
}

/// Following a ring of smaller free payloads takes along what fits and leaves the rest to the next send.
#[test]
fn a_ring_of_other_sizes_is_followed() {
    let place = Place::new();
    let free = |payload| WriterOptions {
        payload,
        dir: dir(place.path()),
        ..WriterOptions::new("far", 0, 4, Arc::new(Schema::bytes()))
    };
    let large = Writer::open(WriterOptions { rank: 3, ..free(Some(4096)) }).unwrap();
    let mut relayed = Relayed::open(free(None)).unwrap();
    for (rank, words) in [(0, 512), (1, 2)] {
        assert!(relayed.hold(rank).unwrap());
        let payload = vec![7; words];
        let origin = Origin { start: 7, random: 8, version: 1 };
        let value = Value { origin, mono_ns: 1, wall_ns: 5, payload: &payload, len: words * 8 };
        relayed.put(rank, &value).unwrap();
    }
    std::fs::remove_file(place.path().join("far.ring")).unwrap();
    let small = Writer::open(WriterOptions { rank: 2, ..free(Some(64)) }).unwrap();

    assert!(relayed.follow(snapring_core::clock::mono_ns() + 3_000_000_000).unwrap());

    assert_eq!(relayed.newest_origin(0).unwrap(), None);
    assert_eq!(relayed.newest_origin(1).unwrap(), Some(Origin { start: 7, random: 8, version: 1 }));
    drop((large, small));
}
