//! The model check: every interleaving and every stale load that the memory model allows, within stated bounds.
//!
//! Built with `--cfg loom`, the core runs on loom's atomics, so these tests judge the very files that ship. A cell by
//! itself is checked without a bound; what would take hours, with a bound on how often threads are interrupted. Each
//! marked ordering of the core is needed for one of these tests: `tests/mutants.py` proves it.
#![cfg(loom)]

use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;
use snapring_core::bell::{BY_FUTEX, Bell, full_fence};
use snapring_core::layout::{Geometry, cell, slot};
use snapring_core::sync::{AtomicU32, AtomicU64, Ordering, fence};
use snapring_core::{Newest, Origin, Slot, Stamp, seqlock};

/// Words that a reader copies: sequence, version, epoch and one word that follows from these two. A copy of the whole
/// cell has the same races and takes loom hours.
const ROW: usize = cell::ORIGIN_START + 1;

fn check(preemptions: Option<usize>, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    builder.check(model);
}

/// A slot without a file.
struct Memory {
    words: Vec<AtomicU64>,
    geometry: Geometry,
}

impl Memory {
    fn new(cells: u32) -> Arc<Self> {
        let geometry = Geometry::new(1, Some(cells), 16, 0).unwrap();
        let words = (0..geometry.slot_words()).map(|_| AtomicU64::new(0)).collect();
        Arc::new(Self { words, geometry })
    }

    fn slot(&self) -> Slot<'_> {
        Slot::new(&self.words, &self.geometry)
    }

    fn publish(&self, version: u64, epoch: u64) {
        self.slot().publish(&stamp(version, epoch), &[]);
    }

    /// Makes the first `kept` stores of a publish, in program order, as a writer that is killed then does.
    fn die_in_publish(&self, version: u64, epoch: u64, kept: usize) {
        let Stamp { origin, mono_ns, wall_ns, len, .. } = stamp(version, epoch);
        let start = slot::CELLS + (version % u64::from(self.geometry.cells)) as usize * self.geometry.cell_words();
        let mut stores = vec![(start + cell::SEQ, 2 * version - 1)];
        let words = [version, epoch, origin.start, origin.random, origin.version, mono_ns, wall_ns, len];
        stores.extend((start + cell::VERSION..).zip(words));
        stores.extend([(start + cell::SEQ, 2 * version), (slot::HEAD, version)]);
        assert_eq!(stores.len(), STORES);
        for (step, &(index, value)) in stores.iter().take(kept).enumerate() {
            let last_two = step >= STORES - 2;
            self.words[index].store(value, if last_two { Ordering::Release } else { Ordering::Relaxed });
            if step == 0 {
                fence(Ordering::Release);
            }
        }
    }
}

/// Stores of one publish without a payload: odd mark, stamp, even mark, head.
const STORES: usize = 1 + cell::STAMP_WORDS + 2;

/// The word that proves a row whole.
fn proof(version: u64, epoch: u64) -> u64 {
    100 * version + epoch
}

fn stamp(version: u64, epoch: u64) -> Stamp {
    let origin = Origin { start: proof(version, epoch), random: 0, version };
    Stamp { version, epoch, origin, mono_ns: 0, wall_ns: 0, len: 0 }
}

/// Version and epoch of a row, which must be whole.
fn whole(row: &[u64]) -> (u64, u64) {
    let (version, epoch) = (row[cell::VERSION], row[cell::EPOCH]);
    assert_eq!(row[cell::ORIGIN_START], proof(version, epoch), "a torn row: {row:?}");
    (version, epoch)
}

/// Reads with two tries; `None` when there was nothing, or nothing to be had.
fn read(slot: Slot<'_>) -> Option<(u64, u64)> {
    let mut row = [0; ROW];
    matches!(slot.newest_within(2, &mut row), Newest::Complete { .. }).then(|| whole(&row))
}

/// No interleaving of a cell's writer and a reader, however often either is interrupted, gives a mixed value.
#[test]
fn a_cell_is_never_torn() {
    check(None, || {
        let cell: Arc<Vec<AtomicU64>> = Arc::new((0..3).map(|_| AtomicU64::new(0)).collect());
        let writer = {
            let cell = Arc::clone(&cell);
            thread::spawn(move || {
                seqlock::write(&cell, 1, &[11], &[12]);
                seqlock::write(&cell, 3, &[31], &[32]);
            })
        };

        for n in [1, 3] {
            let mut row = [0; 2];
            if seqlock::read(&cell, n, &mut row) {
                assert_eq!(row, [10 * n + 1, 10 * n + 2]);
            }
        }

        writer.join().unwrap();
    });
}

/// A read gives a whole value, none older than what was complete when it began, and none older than the one before.
#[test]
fn a_slot_never_goes_back() {
    check(Some(3), || {
        let memory = Memory::new(2);
        let told = Arc::new(AtomicU64::new(0));
        let writer = {
            let (memory, told) = (Arc::clone(&memory), Arc::clone(&told));
            thread::spawn(move || {
                for version in 1..=3 {
                    memory.publish(version, 1);
                    told.store(version, Ordering::Release);
                }
            })
        };

        let mut least = 0;
        for _ in 0..2 {
            least = told.load(Ordering::Acquire).max(least);
            if let Some((version, _)) = read(memory.slot()) {
                assert!(version >= least, "{version} after {least}");
                least = version;
            }
        }

        writer.join().unwrap();
        assert_eq!(read(memory.slot()), Some((3, 1)));
    });
}

/// Who sees a head also sees its cell complete: no try is wasted while nobody laps it.
#[test]
fn a_seen_head_is_had_at_the_first_try() {
    check(None, || {
        let memory = Memory::new(2);
        let writer = {
            let memory = Arc::clone(&memory);
            thread::spawn(move || (1..=2).for_each(|version| memory.publish(version, 1)))
        };

        let mut row = [0; ROW];
        let newest = memory.slot().newest_within(1, &mut row);

        assert!(matches!(newest, Newest::Never | Newest::Complete { retries: 0 }), "{newest:?}");
        writer.join().unwrap();
    });
}

// Loom weighs an access of a word against the last one only, so a thread that loads a word before it stores there hides
// an earlier load by another thread. Recovery does that: below, the heir runs in the thread that starts, and the reader
// in the other, whose every load is weighed against the heir's stores.

/// A writer killed after any of its stores loses nothing that was complete: its heir goes on densely, and a reader
/// meets neither a torn value nor one version with two contents, and never goes back.
#[test]
fn a_killed_writer_loses_nothing() {
    for kept in 0..=STORES {
        check(Some(3), move || {
            let memory = Memory::new(2);
            (1..=2).for_each(|version| memory.publish(version, 1));
            let reader = {
                let memory = Arc::clone(&memory);
                thread::spawn(move || (0..2).filter_map(|_| read(memory.slot())).collect::<Vec<_>>())
            };

            memory.die_in_publish(3, 1, kept);
            let last = memory.slot().recover().unwrap();
            memory.publish(last + 1, 2);

            assert_eq!(last, if kept >= STORES - 1 { 3 } else { 2 }, "after {kept} stores");
            assert_eq!(read(memory.slot()), Some((last + 1, 2)));
            let reads = reader.join().unwrap();
            assert!(reads.iter().all(|read| read.0 >= 2), "{reads:?}");
            for pair in reads.windows(2) {
                assert!(pair[0].0 < pair[1].0 || pair[0] == pair[1], "{pair:?}");
            }
        });
    }
}

/// Recovery shows the cell before the head that names it.
#[test]
fn a_recovered_head_is_had_at_the_first_try() {
    check(None, || {
        let memory = Memory::new(2);
        let reader = {
            let memory = Arc::clone(&memory);
            thread::spawn(move || memory.slot().newest_within(1, &mut [0; ROW]))
        };

        memory.die_in_publish(1, 1, STORES - 1);
        assert_eq!(memory.slot().recover().unwrap(), 1);

        let newest = reader.join().unwrap();
        assert!(matches!(newest, Newest::Never | Newest::Complete { retries: 0 }), "{newest:?}");
    });
}

/// History holds whole values without a gap, up to the head that it began with.
#[test]
fn history_is_whole_and_dense() {
    check(None, || {
        let memory = Memory::new(3);
        (1..=2).for_each(|version| memory.publish(version, 1));
        let writer = {
            let memory = Arc::clone(&memory);
            thread::spawn(move || (3..=4).for_each(|version| memory.publish(version, 1)))
        };

        let rows = memory.slot().history(9, ROW);

        let versions: Vec<u64> = rows.chunks(ROW).map(|row| whole(row).0).collect();
        assert!(versions.windows(2).all(|pair| pair[1] == pair[0] + 1), "{versions:?}");
        writer.join().unwrap();
    });
}

/// What a waiter and a writer share, and a futex made of a lock: the kernel compares the word and sleeps as one step.
struct Waiting {
    heads: [AtomicU64; 2],
    armed: AtomicU64,
    count: AtomicU32,
    kernel: Mutex<()>,
    sleepers: Condvar,
}

impl Waiting {
    fn new() -> Arc<Self> {
        let zero = || AtomicU64::new(0);
        let (heads, count) = ([zero(), zero()], AtomicU32::new(0));
        Arc::new(Self { heads, armed: zero(), count, kernel: Mutex::new(()), sleepers: Condvar::new() })
    }

    fn bell(&self) -> Bell<'_> {
        Bell { armed: &self.armed, count: &self.count }
    }

    fn publish(&self, rank: usize) {
        self.heads[rank].store(1, Ordering::Release);
        if self.bell().ring(full_fence) != 0 {
            let _kernel = self.kernel.lock().unwrap();
            self.sleepers.notify_all();
        }
    }

    fn saw(&self, ranks: usize) -> bool {
        self.heads[..ranks].iter().all(|head| head.load(Ordering::Acquire) == 1)
    }

    /// Sleeps until all of `ranks` have published. A wake-up that is lost ends in a deadlock, which loom reports.
    fn wait(&self, ranks: usize) {
        while !self.saw(ranks) {
            let noted = self.bell().arm(BY_FUTEX);
            if self.saw(ranks) {
                return;
            }
            let kernel = self.kernel.lock().unwrap();
            if self.count.load(Ordering::Relaxed) == noted {
                drop(self.sleepers.wait(kernel).unwrap());
            }
        }
    }
}

/// A waiter that armed the bell is woken by any publish that it did not see, however many writers ring at once.
#[test]
fn no_wake_up_is_lost_among_writers() {
    for writers in [1, 2] {
        check(Some(3), move || {
            let waiting = Waiting::new();
            let threads: Vec<_> = (0..writers)
                .map(|rank| {
                    let waiting = Arc::clone(&waiting);
                    thread::spawn(move || waiting.publish(rank))
                })
                .collect();

            waiting.wait(writers);

            threads.into_iter().for_each(|thread| thread.join().unwrap());
        });
    }
}

/// One ring wakes every waiter.
#[test]
fn no_wake_up_is_lost_among_waiters() {
    check(Some(3), || {
        let waiting = Waiting::new();
        let other = {
            let waiting = Arc::clone(&waiting);
            thread::spawn(move || waiting.wait(1))
        };
        let writer = {
            let waiting = Arc::clone(&waiting);
            thread::spawn(move || waiting.publish(0))
        };

        waiting.wait(1);

        other.join().unwrap();
        writer.join().unwrap();
    });
}
