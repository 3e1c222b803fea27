//! Writers killed at random instructions: nothing torn, nothing lost, nothing backward.
//!
//! 2,000 kills; `SNAPRING_KILLS=1000000 cargo test --release --test kill` takes its time.

mod support;

use snapring_core::layout::{cell, slot};
use snapring_core::{Error, Newest, Reading, Ring, Slot, Writer, WriterOptions};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use support::{Place, ROW, Rng, Role, attached, publish, reader, role, until, whole, writer_options};

const CELLS: u32 = 5;
const SIGKILL: i32 = 9;

fn options(path: &Path, wake: bool) -> WriterOptions {
    WriterOptions { cells: Some(CELLS), keep: true, wake, ..writer_options(path, 0, 1) }
}

/// The child of the test below: claims the slot where the last writer left it, and publishes until it is killed.
#[test]
fn a_writer_in_a_child() {
    let Some([path, epoch, version, wake]) = role() else { return };
    let number = |text: String| text.parse::<u64>().unwrap();

    let writer = Writer::open(options(Path::new(&path), wake == "true")).unwrap();

    assert_eq!(writer.position().unwrap(), (number(epoch) + 1, number(version)));
    loop {
        publish(&writer);
    }
}

/// What a dead writer's slot holds.
#[derive(Clone, Copy, Debug)]
struct Left {
    epoch: u64,
    head: u64,
    /// The head, or the one after: a writer may die between its two last stores.
    complete: u64,
}

/// Looks at the slot of a dead writer: its head is had at the first try, and so is all history before it.
fn inspect(slot: Slot<'_>) -> Left {
    let mut row = [0; ROW];
    let head = slot.head();
    assert_eq!(slot.newest(&mut row), Newest::Complete { retries: 0 });
    assert_eq!(whole(&row), head);

    let rows = slot.history(usize::MAX, ROW);
    let versions: Vec<u64> = rows.chunks(ROW).map(whole).collect();
    let kept = head.min(u64::from(CELLS) - 1);
    assert_eq!(versions, (head + 1 - kept..=head).collect::<Vec<_>>());
    assert!(rows.chunks(ROW).map(|row| row[cell::EPOCH]).is_sorted(), "an older writer after a newer one");

    let complete = head + u64::from(slot.version(head + 1, &mut row));
    Left { epoch: slot.load(slot::EPOCH), head, complete }
}

/// Reads until told to stop; how often.
fn observe(ring: &Ring, stop: &AtomicBool, newest: &AtomicU64) -> u64 {
    let (mut row, mut reads) = ([0; ROW], 0);
    while !stop.load(Ordering::Relaxed) {
        match ring.read(0, &mut row) {
            Ok(true) => {
                let version = whole(&row);
                let before = newest.swap(version, Ordering::Relaxed);
                assert!(before <= version, "{version} after {before}: {:?}", Reading::of(&row));
                reads += 1;
                if reads % 256 == 0 {
                    thread::sleep(Duration::from_micros(20)); // else it takes a processor from the writers
                }
            }
            Ok(false) => panic!("it never published, but it had"),
            Err(Error::Contended { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    reads
}

/// Starts a writer, lets it run into a random instruction and kills it there.
fn kill_one(path: &Path, ring: &Ring, left: Left, random: &mut Rng) {
    let wake = random.below(8) == 0; // seldom: to register a process for membarriers takes longer than all the rest
    let arguments = [path.display().to_string(), left.epoch.to_string(), left.complete.to_string(), wake.to_string()];
    let mut child = Role::start("a_writer_in_a_child", &arguments);
    if random.below(4) == 0 {
        thread::sleep(Duration::from_micros(random.below(4_000))); // often before or within its claim
    } else {
        let target = left.complete + 1 + random.below(200);
        until("a publish", || {
            assert!(child.0.try_wait().unwrap().is_none(), "the writer ended by itself");
            ring.slot(0).head() >= target
        });
    }
    child.0.kill().unwrap();
    let status = child.0.wait().unwrap();
    assert_eq!(status.signal(), Some(SIGKILL), "the writer ended by itself: {status}");
}

/// Whatever instruction a writer dies at: readers meet whole values that never go back, all that was complete stays,
/// versions go on without a gap, and each heir has the next epoch.
#[test]
fn a_killed_writer_loses_nothing() {
    let kills = std::env::var("SNAPRING_KILLS").map_or(2_000, |kills| kills.parse::<u64>().expect("a number"));
    let (place, mut random) = (Place::new(), Rng::new());
    let first = Writer::open(options(place.path(), true)).unwrap();
    publish(&first);
    first.close().unwrap();
    let ring = attached(&reader(place.path()));
    let (stop, newest) = (AtomicBool::new(false), AtomicU64::new(1));
    let started = Instant::now();

    let reads = thread::scope(|scope| {
        let observer = scope.spawn(|| observe(&ring, &stop, &newest));
        let mut left = inspect(ring.slot(0));
        for _ in 0..kills {
            if observer.is_finished() {
                break; // its panic is reported below
            }
            kill_one(place.path(), &ring, left, &mut random);
            let now = inspect(ring.slot(0));
            // A claim first shows what the dead one had completed, then raises the epoch, then publishes.
            assert!(now.head >= left.head.max(newest.load(Ordering::Relaxed)), "{now:?} after {left:?}");
            let claimed = now.epoch - left.epoch;
            assert!(claimed <= 1 && (claimed == 1 || now.complete == left.complete), "{now:?} after {left:?}");
            left = now;
        }
        stop.store(true, Ordering::Relaxed);
        observer.join().unwrap()
    });

    let seconds = started.elapsed().as_secs_f64();
    println!("{kills} kills, {reads} reads, {} versions; {:.0} kills/s", ring.slot(0).head(), kills as f64 / seconds);
}
