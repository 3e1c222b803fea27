//! Wake-ups on a real bell, between threads and between processes: none is lost.

mod support;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, AsRawFd};
use rustix::fs::inotify;
use snapring_core::bell::{BY_FILE, BY_FUTEX};
use snapring_core::wake::BellFile;
use snapring_core::{Reader, Ring, Writer};
use std::path::Path;
use std::thread;
use std::time::Instant;
use support::{DEADLINE, Place, Rng, Role, attached, publish, reader, role, writer_options};

const ROUNDS: u64 = 20_000;

/// Sleeps until `rank` has published `version`. Nothing looks again by the clock here, so a wake-up that is lost shows.
fn sleep_until(ring: &Ring, bell: &BellFile, rank: u32, version: u64) {
    while ring.slot(rank).head() < version {
        let (noted, _) = bell.arm(BY_FUTEX);
        if ring.slot(rank).head() >= version {
            return;
        }
        let slept = Instant::now();
        bell.sleep(noted, DEADLINE);
        assert!(slept.elapsed() < DEADLINE, "the wake-up for version {version} of rank {rank} was lost");
    }
}

/// Publishes a version of rank `own` for each of the other rank's, after a random while.
fn play(path: &Path, own: u32, mut random: Rng) {
    let writer = Writer::open(writer_options(path, own, 3)).unwrap();
    let reader: Reader = reader(path);
    let ring = attached(&reader);
    let bell = reader.bell(&ring).expect("the writer's bell");
    for round in 1..=ROUNDS {
        if own == 0 {
            publish(&writer);
        }
        sleep_until(&ring, &bell, 1 - own, round);
        if own == 1 {
            (0..random.below(100)).for_each(|_| std::hint::spin_loop()); // now before, now after the other sleeps
            publish(&writer);
        }
    }
}

/// The child of the test below.
#[test]
fn a_player_in_a_child() {
    let Some([path]) = role() else { return };
    play(Path::new(&path), 1, Rng::new());
}

/// Two processes that publish only when the other has: one lost wake-up would leave both asleep.
#[test]
fn no_wake_up_is_lost_between_processes() {
    let place = Place::new();
    let keeper = Writer::open(writer_options(place.path(), 2, 3)).unwrap(); // its bell is there before either looks
    let other = Role::start("a_player_in_a_child", &[place.path().display().to_string()]);

    play(place.path(), 0, Rng::new());

    other.finish();
    keeper.close().unwrap();
}

/// One ring of the bell wakes every waiter.
#[test]
fn every_waiter_wakes() {
    const WAITERS: usize = 4;
    let place = Place::new();
    let writer = Writer::open(writer_options(place.path(), 0, 1)).unwrap();
    let reader = reader(place.path());
    let ring = attached(&reader);
    let bell = reader.bell(&ring).expect("the writer's bell");
    let together = std::sync::Barrier::new(WAITERS + 1);
    thread::scope(|scope| {
        for _ in 0..WAITERS {
            scope.spawn(|| {
                for round in 1..=ROUNDS / 10 {
                    sleep_until(&ring, &bell, 0, round);
                    together.wait();
                }
            });
        }
        let mut random = Rng::new();
        for _ in 1..=ROUNDS / 10 {
            (0..random.below(2_000)).for_each(|_| std::hint::spin_loop());
            publish(&writer);
            together.wait();
        }
    });
}

/// A publish wakes whoever polls an inotify descriptor of the bell's file, and only once it was armed for that.
#[test]
fn a_publish_touches_the_bells_file_once_it_is_armed() {
    let place = Place::new();
    let writer = Writer::open(writer_options(place.path(), 0, 1)).unwrap();
    publish(&writer);
    let reader: Reader = reader(place.path());
    let ring = attached(&reader);
    let bell = reader.bell(&ring).expect("the writer's bell");
    let notices = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK).unwrap();
    let file = format!("/proc/self/fd/{}", bell.as_fd().as_raw_fd());
    inotify::add_watch(&notices, file, inotify::WatchFlags::MODIFY).unwrap();
    let touched = |limit: Timespec| poll(&mut [PollFd::new(&notices, PollFlags::IN)], Some(&limit)).unwrap() == 1;

    publish(&writer);
    assert!(!touched(Timespec { tv_sec: 0, tv_nsec: 0 }));

    bell.arm(BY_FILE);
    publish(&writer);
    assert!(touched(Timespec { tv_sec: DEADLINE.as_secs() as i64, tv_nsec: 0 }));
}
