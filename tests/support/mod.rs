//! What the tests on real files share: a directory that goes away, children that end, payloads that prove themselves.
#![allow(dead_code, reason = "each test file is a program of its own and takes what it needs")]

use snapring_core::layout::cell;
use snapring_core::{DirOptions, Reader, ReaderOptions, Ring, Schema, Writer, WriterOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Name of the ring in every test.
pub(crate) const NAME: &str = "test";
/// Ends a hang; nothing that works comes near it.
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);

/// A directory of its own on tmpfs, removed with all that is in it.
pub(crate) struct Place(PathBuf);

impl Place {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self(PathBuf::from(format!("/dev/shm/snapring-test-{}-{number}", std::process::id())))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Names of the files in it, sorted; none when nobody made it yet.
    pub(crate) fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.0).into_iter().flatten();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0); // never made, when the test fails early
    }
}

fn dir(path: &Path) -> DirOptions {
    DirOptions { path: Some(path.to_owned()), allow_disk: false }
}

/// Options of a writer of free bytes.
pub(crate) fn writer_options(path: &Path, rank: u32, ranks: u32) -> WriterOptions {
    let options = WriterOptions::new(NAME, rank, ranks, Arc::new(Schema::bytes()));
    WriterOptions { payload: Some(WORDS * 8), dir: dir(path), ..options }
}

pub(crate) fn reader(path: &Path) -> Reader {
    Reader::open(ReaderOptions { name: NAME.into(), dir: dir(path), ..ReaderOptions::default() }).unwrap()
}

/// Words of a self-describing payload: odd, so that copying by steps has a rest.
pub(crate) const WORDS: usize = 61;
/// Words of a row that holds one.
pub(crate) const ROW: usize = cell::PAYLOAD + WORDS;

/// A bijection of words without structure (the finalizer of `SplitMix64`), so that no word of a payload resembles another.
pub(crate) fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// The payload that belongs to `version`.
pub(crate) fn payload(version: u64) -> [u64; WORDS] {
    std::array::from_fn(|word| mix(version + word as u64))
}

/// Publishes the payload of the version to come; the version.
pub(crate) fn publish(writer: &Writer) -> u64 {
    let version = writer.position().unwrap().1 + 1;
    let nonce = writer.header().unwrap().nonce;
    let published = writer.publish(nonce, &payload(version), WORDS * 8).unwrap();
    assert_eq!(published, snapring_core::Published::Version(version));
    version
}

/// Version of a row, whose every word must be of that version.
pub(crate) fn whole(row: &[u64]) -> u64 {
    let version = row[cell::VERSION];
    assert_eq!(row[cell::ORIGIN_VERSION], version, "a torn stamp");
    assert_eq!(row[cell::LEN], WORDS as u64 * 8, "a torn stamp");
    assert_eq!(row[cell::PAYLOAD..], payload(version), "a torn payload of version {version}");
    version
}

/// The ring that `reader` is attached to, which must be there.
pub(crate) fn attached(reader: &Reader) -> Arc<Ring> {
    Arc::clone(reader.ring().unwrap().as_ref().expect("a ring"))
}

/// Random numbers from a printed seed; `SNAPRING_TEST_SEED` repeats them.
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new() -> Self {
        let given = std::env::var("SNAPRING_TEST_SEED").ok().map(|seed| seed.parse().expect("a number"));
        let seed = given.unwrap_or_else(|| snapring_core::clock::random().unwrap()[0] >> 32);
        println!("repeat with SNAPRING_TEST_SEED={seed}");
        Self(seed)
    }

    /// Below `limit`, which is far below 2^64.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0) % limit
    }
}

/// Turns until `ready`; a hang ends in a panic.
pub(crate) fn until(what: &str, mut ready: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !ready() {
        assert!(Instant::now() < end, "no end of waiting for {what}");
        std::thread::sleep(Duration::from_micros(20)); // leaves the processor to whoever is waited for
    }
}

/// A child that runs one test of this program; killed when dropped.
pub(crate) struct Role(pub(crate) Child);

impl Role {
    /// Starts the test `name` in a process of its own, which finds `arguments` by [`role`].
    pub(crate) fn start(name: &str, arguments: &[String]) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", name, "--nocapture", "--test-threads=1"]).env("SNAPRING_ROLE", arguments.join(" "));
        Self(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap())
    }

    /// Waits for its end, which must be a good one.
    pub(crate) fn finish(mut self) {
        drop(self.0.stdin.take());
        let status = self.0.wait().unwrap();
        assert!(status.success(), "a child failed: {status}");
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        let _ = self.0.kill(); // it may have ended
        let _ = self.0.wait();
    }
}

/// The arguments of a child, `None` in the test program itself. A child dies with the thread that started it.
pub(crate) fn role<const N: usize>() -> Option<[String; N]> {
    let arguments = std::env::var("SNAPRING_ROLE").ok()?;
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL)).unwrap();
    let arguments: Vec<_> = arguments.split_whitespace().map(str::to_owned).collect();
    Some(arguments.try_into().expect("as many arguments as the role takes"))
}
