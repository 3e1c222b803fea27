//! What the relay costs without sockets and without Python: frames to bytes and back, and from bytes into the ring.
//!
//! `cargo bench --package snapring-relay`, or with `-- --test` to run each once as a test. Every operation's answer is
//! asserted before it is timed. The payload has the shape of a full load snapshot: 45 values, most of them present.

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use snapring_core::record::Checks;
use snapring_core::{
    DirOptions, Field, Kind, Origin, Reader, ReaderOptions, Reading, RecordMut, Relayed, Schema, Value, WriterOptions,
    clock,
};
use snapring_relay::counters::Counters;
use snapring_relay::frame::{self, Frame, job_hash};
use snapring_relay::intake::Intake;
use std::hint::black_box;
use std::path::PathBuf;
use std::sync::Arc;

/// Fields of the record, and how many of them are integers; the others are floats.
const FIELDS: usize = 45;
const INTEGERS: usize = 28;
/// A connection.
const PEER: i32 = 7;

fn name(index: usize) -> String {
    format!("value{index}")
}

fn schema() -> Arc<Schema> {
    let fields =
        (0..FIELDS).map(|index| Field::new(&name(index), if index < INTEGERS { Kind::Int } else { Kind::Float }));
    Arc::new(
        fields.fold(Schema::builder("Load"), snapring_core::schema::Builder::with).build().expect("a sound schema"),
    )
}

/// A record with every field reported.
fn words(schema: &Schema) -> Vec<u64> {
    let mut words = schema.absent().to_vec();
    let mut record = RecordMut::new(schema, &mut words).expect("the schema's own words");
    for index in 0..FIELDS {
        let value = if index < INTEGERS { Value::Int(index as i64) } else { Value::Float(index as f64) };
        record.set(&name(index), Some(&value)).expect("of the field's kind");
    }
    words
}

fn head(schema: &Schema, rank: u32, version: u64) -> Frame {
    Frame {
        kind: frame::Kind::Snapshot,
        rank,
        job: job_hash(""),
        fingerprint: schema.fingerprint(),
        origin: Origin { start: 1, random: 1, version },
        wall_ns: 7,
        age_ns: 0,
        payload_bytes: schema.record_bytes() as u32,
    }
}

/// A ring in a directory of its own, and the relay's end of it.
struct Fixture {
    place: PathBuf,
    counters: Arc<Counters>,
    intake: Option<Intake>,
}

impl Fixture {
    fn new(schema: &Arc<Schema>, ranks: u32) -> Self {
        let place = PathBuf::from(format!("/dev/shm/snapring-bench-relay-{}-{ranks}", std::process::id()));
        let dir = DirOptions { path: Some(place.clone()), allow_disk: false };
        let options = WriterOptions { dir, ..WriterOptions::new("bench", 0, ranks, Arc::clone(schema)) };
        let counters = Arc::<Counters>::default();
        let ring = Relayed::open(options).expect("a fresh ring");
        let intake = Intake::new(ring, "", schema.fingerprint(), Arc::clone(&counters)).expect("a fresh ring");
        Self { place, counters, intake: Some(intake) }
    }

    fn take(&mut self, bytes: &[u8]) {
        self.intake.as_mut().expect("until dropped").take(bytes, PEER, clock::mono_ns());
    }

    fn turn(&mut self) {
        self.intake.as_mut().expect("until dropped").turn(clock::mono_ns()).expect("a healthy ring");
    }

    fn published(&self) -> u64 {
        let all = self.counters.all();
        all.iter().find(|(name, _)| *name == "published").expect("a counter").1
    }

    /// Origin's version of `rank`, as a reader sees it.
    fn seen(&self, rank: u32) -> u64 {
        let dir = DirOptions { path: Some(self.place.clone()), allow_disk: false };
        let reader = Reader::open(ReaderOptions { name: "bench".into(), dir, ..ReaderOptions::default() });
        let reader = reader.expect("a legal name");
        let attached = reader.ring().expect("healthy");
        let ring = attached.as_ref().expect("the relay made it");
        let mut row = vec![0; ring.row_words()];
        assert!(ring.read(rank, &mut row).expect("healthy"));
        Reading::of(&row).expect("complete").stamp.origin.version
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.intake = None;
        std::fs::remove_dir_all(&self.place).expect("made by this bench");
    }
}

fn frames(criterion: &mut Criterion) {
    let schema = schema();
    let (words, frame) = (words(&schema), head(&schema, 3, 1));
    let mut bytes = Vec::new();
    frame.encode(&words, &mut bytes);
    assert_eq!(bytes.len(), frame::HEADER_BYTES + schema.record_bytes());
    let (again, payload) = Frame::decode(&bytes).expect("just encoded");
    assert_eq!((again, payload.len()), (frame, schema.record_bytes()));
    let checks = Checks::of(&schema);
    assert_eq!(checks.check(&words, 3), Ok(()));

    let mut group = criterion.benchmark_group("frame");
    let mut into = Vec::new();
    group.bench_function("encode", |bencher| bencher.iter(|| black_box(&frame).encode(black_box(&words), &mut into)));
    group.bench_function("decode", |bencher| bencher.iter(|| Frame::decode(black_box(&bytes)).map(|(frame, _)| frame)));
    group.bench_function("check", |bencher| bencher.iter(|| checks.check(black_box(&words), 3)));
    group.finish();
    assert_eq!(into, bytes);
}

/// Of a frame, where its version stands.
const VERSION: std::ops::Range<usize> = 56..64;

fn intake(criterion: &mut Criterion) {
    let schema = schema();
    let words = words(&schema);
    let mut group = criterion.benchmark_group("intake");
    for ranks in [1, 8, 64] {
        let mut fixture = Fixture::new(&schema, ranks);
        let mut frames: Vec<Vec<u8>> = vec![Vec::new(); ranks as usize];
        for (rank, bytes) in (0..).zip(&mut frames) {
            head(&schema, rank, 1).encode(&words, bytes);
            fixture.take(bytes);
        }
        assert_eq!((fixture.published(), fixture.seen(ranks - 1)), (u64::from(ranks), 1));
        let mut version = 1;
        group.bench_function(BenchmarkId::new("a newer snapshot of each rank, and the bell", ranks), |bencher| {
            bencher.iter(|| {
                version += 1_u64;
                for bytes in &mut frames {
                    bytes[VERSION].copy_from_slice(&version.to_le_bytes());
                    fixture.take(bytes);
                }
                fixture.turn();
            });
        });
        assert_eq!((fixture.published(), fixture.seen(0)), (version * u64::from(ranks), version));
    }
    group.finish();
}

criterion_group!(benches, frames, intake);
criterion_main!(benches);
