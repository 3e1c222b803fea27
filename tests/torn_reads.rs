//! Writers and readers at full speed, in threads and in processes: no read is torn, stale by more than it says, or older
//! than the one before.

mod support;

use snapring_core::{Error, Reader, Writer, WriterOptions};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};
use support::{DEADLINE, Place, ROW, Rng, Role, attached, publish, reader, role, whole, writer_options};

const PUBLISHES: u64 = 20_000;
const RANKS: u32 = 2;

/// Publishes up to [`PUBLISHES`], now and then with a pause in between.
fn write(path: &Path, rank: u32, cells: u32, mut random: Rng) {
    let options = WriterOptions { cells: Some(cells), keep: true, ..writer_options(path, rank, RANKS) };
    let writer = Writer::open(options).unwrap();
    while publish(&writer) < PUBLISHES {
        match random.below(1_000) {
            0 => thread::sleep(Duration::from_micros(random.below(200))),
            1..20 => thread::yield_now(),
            _ => {}
        }
    }
    writer.close().unwrap();
}

/// Reads all ranks until each has made its last publish; every value whole, no value older than the one before.
fn read(reader: &Reader, mut random: Rng) {
    let ring = attached(reader);
    let (mut row, mut last) = ([0; ROW], [0; RANKS as usize]);
    let end = Instant::now() + DEADLINE;
    while last.iter().any(|&version| version < PUBLISHES) {
        assert!(Instant::now() < end, "no end of reading: {last:?}");
        for (rank, last) in (0..).zip(&mut last) {
            match ring.read(rank, &mut row) {
                Ok(true) => {
                    let version = whole(&row);
                    assert!(version >= *last, "{version} after {last} of rank {rank}");
                    *last = version;
                }
                Ok(false) => assert_eq!(*last, 0, "rank {rank} had published"),
                Err(Error::Contended { .. }) => {}
                Err(error) => panic!("{error}"),
            }
            if random.below(16) == 0 {
                let versions: Vec<u64> = ring.slot(rank).history(usize::MAX, ROW).chunks(ROW).map(whole).collect();
                assert!(versions.windows(2).all(|pair| pair[1] == pair[0] + 1), "{versions:?}");
            }
        }
    }
}

/// The children of the test below.
#[test]
fn a_party_in_a_child() {
    let Some([path, part, cells]) = role() else { return };
    let path = Path::new(&path);
    match part.as_str() {
        "write" => write(path, 1, cells.parse().unwrap(), Rng::new()),
        _ => read(&reader(path), Rng::new()),
    }
}

/// With as few cells as there may be, and with counts that are no power of two, each read is whole and none goes back;
/// the last publish of every writer is seen.
#[test]
fn no_read_is_torn_or_goes_back() {
    for cells in [2, 3, 4, 7] {
        let place = Place::new();
        let path = place.path();
        let options = WriterOptions { cells: Some(cells), keep: true, ..writer_options(path, 0, RANKS) };
        Writer::open(options).unwrap().close().unwrap(); // the file, with nothing published
        let child = |part: &str| {
            Role::start("a_party_in_a_child", &[path.display().to_string(), part.into(), cells.to_string()])
        };

        let children = [child("read"), child("write")];
        thread::scope(|scope| {
            scope.spawn(|| write(path, 0, cells, Rng::new()));
            scope.spawn(|| read(&reader(path), Rng::new()));
            scope.spawn(|| read(&reader(path), Rng::new()));
        });

        children.into_iter().for_each(Role::finish);
    }
}
