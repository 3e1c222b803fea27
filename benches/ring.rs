//! What the core costs without Python: publish and read of 512 bytes, and sweeps over all ranks.
//!
//! `cargo bench`, or `cargo bench -- --test` to run each once as a test. Every operation's answer is asserted before it
//! is timed. Beside each stands the floor: a plain copy of the same bytes.

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use snapring_core::{DirOptions, Published, Reader, ReaderOptions, Schema, Take, Writer, WriterOptions};
use std::hint::black_box;
use std::path::PathBuf;
use std::sync::Arc;

/// Payload of each snapshot.
const BYTES: usize = 512;
const WORDS: usize = BYTES / 8;

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

    /// Reads every rank into `payload`; returns how many words were got, having checked the last of each rank.
    fn sweep(&self, payload: &mut Vec<u64>) -> usize {
        payload.clear();
        let attached = self.reader.ring().expect("healthy");
        let ring = attached.as_ref().expect("the writers made it");
        for rank in 0..ring.ranks() {
            ring.read(rank, Take::Words(WORDS), payload).expect("healthy").expect("published");
            assert_eq!(payload.last(), Some(&(WORDS as u64 - 1)));
        }
        payload.len()
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
    let mut payload = Vec::with_capacity(WORDS);
    let mut read = || {
        payload.clear();
        let attached = fixture.reader.ring().expect("healthy");
        let ring = attached.as_ref().expect("the writers made it");
        ring.read(3, Take::Words(WORDS), &mut payload).expect("healthy");
        payload.len()
    };
    assert_eq!(read(), WORDS);

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
    assert_eq!(payload, fixture.words);
}

fn all(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("sweep");
    for ranks in [8, 64, 256] {
        let fixture = Fixture::new(ranks);
        let mut payload = Vec::new();
        assert_eq!(fixture.sweep(&mut payload), ranks as usize * WORDS);
        let from = payload.clone();
        group.bench_function(BenchmarkId::new("read", ranks), |bencher| {
            bencher.iter(|| fixture.sweep(&mut payload));
        });
        group.bench_function(BenchmarkId::new("floor: copy", ranks), |bencher| {
            bencher.iter(|| black_box(&mut payload).copy_from_slice(black_box(&from)));
        });
    }
    group.finish();
}

criterion_group!(benches, one, all);
criterion_main!(benches);
