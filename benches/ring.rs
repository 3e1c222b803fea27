//! What the core costs without Python: publish and read of 512 bytes, and sweeps over all ranks.
//!
//! `cargo bench`, or `cargo bench -- --test` to run each once as a test. Every operation's answer is asserted before it
//! is timed. Beside each stands the floor: a plain copy of the same bytes.

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use snapring_core::layout::cell;
use snapring_core::{DirOptions, Published, Reader, ReaderOptions, Schema, Writer, WriterOptions};
use std::hint::black_box;
use std::path::PathBuf;
use std::sync::Arc;

/// Payload of each snapshot.
const BYTES: usize = 512;
const WORDS: usize = BYTES / 8;
/// A row: stamp and payload.
const ROW: usize = cell::PAYLOAD + WORDS;

/// A ring of free bytes in a directory of its own, every rank published once, all in this process.
struct Fixture {
    place: PathBuf,
    writers: Vec<Writer>,
    reader: Reader,
    words: Vec<u64>,
}

impl Fixture {
    fn new(ranks: u32) -> Self {
        let place = PathBuf::from(format!("/dev/shm/snapring-bench-{}-{ranks}", std::process::id()));
        let dir = DirOptions { path: Some(place.clone()), allow_disk: false };
        let schema = Arc::new(Schema::bytes());
        let open = |rank| {
            let options = WriterOptions::new("bench", rank, ranks, Arc::clone(&schema));
            Writer::open(WriterOptions { payload: Some(BYTES), dir: dir.clone(), ..options }).expect("a fresh ring")
        };
        let writers: Vec<_> = (0..ranks).map(open).collect();
        let options = ReaderOptions { name: "bench".into(), dir, ..ReaderOptions::default() };
        let reader = Reader::open(options).expect("a legal name");
        let fixture = Self { place, writers, reader, words: (0..WORDS as u64).collect() };
        for writer in &fixture.writers {
            assert_eq!(fixture.publish(writer), Published::Version(1));
        }
        fixture
    }

    fn publish(&self, writer: &Writer) -> Published {
        let nonce = writer.header().expect("open").nonce;
        writer.publish(nonce, &self.words, BYTES).expect("fits")
    }

    /// Reads every rank into `rows`, having checked the last word of each.
    fn sweep(&self, rows: &mut [u64]) {
        let attached = self.reader.ring().expect("healthy");
        let ring = attached.as_ref().expect("the writers made it");
        for (rank, row) in (0..).zip(rows.chunks_exact_mut(ROW)) {
            assert!(ring.read(rank, row).expect("healthy"));
            assert_eq!(row[ROW - 1], WORDS as u64 - 1);
        }
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.reader.close();
        for writer in &self.writers {
            writer.close().expect("open until now");
        }
        std::fs::remove_dir_all(&self.place).expect("made by this bench");
    }
}

fn one(criterion: &mut Criterion) {
    let fixture = Fixture::new(8);
    let writer = &fixture.writers[3];
    let nonce = writer.header().expect("open").nonce;
    let mut row = vec![0; ROW];
    let mut read = || {
        let attached = fixture.reader.ring().expect("healthy");
        let ring = attached.as_ref().expect("the writers made it");
        ring.read(3, &mut row).expect("healthy")
    };
    assert!(read());

    let mut group = criterion.benchmark_group("512 bytes");
    group.bench_function("publish", |bencher| {
        bencher.iter(|| writer.publish(nonce, black_box(&fixture.words), BYTES).expect("fits"));
    });
    group.bench_function("read", |bencher| bencher.iter(&mut read));
    let mut copy = vec![0; WORDS];
    group.bench_function("floor: copy", |bencher| {
        bencher.iter(|| black_box(&mut copy).copy_from_slice(black_box(&fixture.words)));
    });
    group.finish();
    assert_eq!(row[cell::PAYLOAD..], fixture.words);
}

fn all(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("sweep");
    for ranks in [8, 64, 256] {
        let fixture = Fixture::new(ranks);
        let mut rows = vec![0; ranks as usize * ROW];
        fixture.sweep(&mut rows);
        let from = rows.clone();
        group.bench_function(BenchmarkId::new("read", ranks), |bencher| bencher.iter(|| fixture.sweep(&mut rows)));
        group.bench_function(BenchmarkId::new("floor: copy", ranks), |bencher| {
            bencher.iter(|| black_box(&mut rows).copy_from_slice(black_box(&from)));
        });
    }
    group.finish();
}

criterion_group!(benches, one, all);
criterion_main!(benches);
