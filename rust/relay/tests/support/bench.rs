//! An intake on a ring of its own, frames for it, and what readers see then.
#![allow(dead_code, reason = "each test file is a program of its own and takes what it needs")]

use snapring_core::layout::cell;
use snapring_core::schema::Fill;
use snapring_core::{
    Ask, DirOptions, Field, Kind, Origin, Reader, ReaderOptions, Reading, Record, RecordMut, Relayed, Schema, State,
    Value, WriterOptions, clock,
};
use snapring_relay::counters::Counters;
use snapring_relay::frame::{self, Frame, job_hash};
use snapring_relay::intake::Intake;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

pub(crate) const SECOND: u64 = 1_000_000_000;
pub(crate) const RANKS: u32 = 4;
pub(crate) const JOB: &str = "job";

pub(crate) struct Bench {
    pub(crate) dir: PathBuf,
    pub(crate) counters: Arc<Counters>,
    pub(crate) intake: Option<Intake>,
}

impl Bench {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = PathBuf::from(format!("/dev/shm/snapring-intake-{}-{number}", std::process::id()));
        let mut bench = Self { dir, counters: Arc::default(), intake: None };
        bench.restart();
        bench
    }

    pub(crate) fn options(&self) -> WriterOptions {
        let dir = DirOptions { path: Some(self.dir.clone()), allow_disk: false };
        WriterOptions { dir, ..WriterOptions::new("far", 0, RANKS, schema()) }
    }

    /// Another relay in the place of the last one, which dies without a word.
    pub(crate) fn restart(&mut self) {
        self.intake = None;
        let ring = Relayed::open(self.options()).unwrap();
        self.intake = Some(Intake::new(ring, JOB, schema().fingerprint(), Arc::clone(&self.counters)).unwrap());
    }

    pub(crate) fn take_at(&mut self, bytes: &[u8], peer: i32, now_ns: u64) {
        self.intake.as_mut().unwrap().take(bytes, peer, now_ns);
    }

    pub(crate) fn take(&mut self, bytes: &[u8], peer: i32) {
        self.take_at(bytes, peer, clock::mono_ns());
    }

    /// Name of the one counter, besides that of all frames, that moves.
    pub(crate) fn fate(&mut self, bytes: &[u8]) -> &'static str {
        let before = self.counters.all();
        self.take(bytes, 5);
        let moved: Vec<_> =
            self.counters.all().into_iter().zip(before).filter(|(after, before)| after != before).collect();
        assert_eq!(moved.len(), 2, "{moved:?}");
        assert_eq!(moved[0].0.0, "received");
        moved[1].0.0
    }

    pub(crate) fn seen(&self, rank: u32) -> Option<Seen> {
        let dir = DirOptions { path: Some(self.dir.clone()), allow_disk: false };
        let reader = Reader::open(ReaderOptions { name: "far".into(), dir, ..ReaderOptions::default() }).unwrap();
        let attached = reader.ring().unwrap();
        let ring = attached.as_ref()?;
        let mut row = vec![0; ring.row_words()];
        ring.read(rank, &mut row).unwrap();
        let reading = Reading::of(&row)?;
        let record = Record::new(&ring.header.schema, &row[cell::PAYLOAD..]).unwrap();
        Some(Seen {
            origin: reading.stamp.origin,
            version: reading.stamp.version,
            epoch: reading.stamp.epoch,
            age_ns: reading.age_ns(),
            running: record.get("running").unwrap(),
            state: ring.state(rank, Some(&reading), 2 * SECOND, Ask::Now).unwrap(),
        })
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.intake = None;
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

pub(crate) struct Seen {
    pub(crate) origin: Origin,
    pub(crate) version: u64,
    pub(crate) epoch: u64,
    pub(crate) age_ns: u64,
    pub(crate) running: Option<Value>,
    pub(crate) state: State,
}

pub(crate) fn schema() -> Arc<Schema> {
    let rank = Field::new("rank", Kind::Int).fill(Fill::Rank);
    let at = Field::new("at", Kind::Float).fill(Fill::Timestamp);
    Arc::new(Schema::builder("Load").with(Field::new("running", Kind::Int)).with(rank).with(at).build().unwrap())
}

pub(crate) fn words(rank: u32, running: i64) -> Vec<u64> {
    let schema = schema();
    let mut words = schema.absent().to_vec();
    let mut record = RecordMut::new(&schema, &mut words).unwrap();
    record.set("running", Some(&Value::Int(running))).unwrap();
    record.set("rank", Some(&Value::Int(i64::from(rank)))).unwrap();
    record.set("at", Some(&Value::Float(1e9))).unwrap();
    words
}

pub(crate) fn head(rank: u32, start: u64, version: u64) -> Frame {
    Frame {
        kind: frame::Kind::Snapshot,
        rank,
        job: job_hash(JOB),
        fingerprint: schema().fingerprint(),
        origin: Origin { start, random: 1, version },
        wall_ns: 7,
        age_ns: 0,
        payload_bytes: schema().record_bytes() as u32,
    }
}

pub(crate) fn encoded(frame: &Frame, words: &[u64]) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame.encode(words, &mut bytes);
    bytes
}

/// A good frame of `rank` by the life that began at `start`.
pub(crate) fn good(rank: u32, start: u64, version: u64) -> Vec<u8> {
    encoded(&head(rank, start, version), &words(rank, version as i64))
}

pub(crate) fn sign(kind: frame::Kind, rank: u32, start: u64) -> Vec<u8> {
    encoded(&Frame { kind, payload_bytes: 0, ..head(rank, start, 0) }, &[])
}
