//! What a sender does to its process, measured in a process of its own.

use crate::collector::{Collector, connected, open, publish};
use crate::support::{Place, Role, role, until};
use crate::{BOTH, resident_kb};
use snapring_relay::sender::Latency;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::thread;
use std::time::{Duration, Instant};

/// Runs `body` in a process of its own; `name` is the test that calls this.
fn alone(name: &str, body: impl FnOnce()) {
    match role::<0>() {
        Some([]) => body(),
        None => Role::start(name, &[]).finish(),
    }
}

/// How often the sending thread went to sleep since it started.
fn sleeps() -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let mut statuses = tasks.filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("status")).ok());
    let status = statuses.find(|status| status.starts_with("Name:\tsnapring-send\n")).expect("the sending thread");
    let line = status.lines().find(|line| line.starts_with("voluntary_ctxt_switches")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// How often it goes to sleep while `what` runs, and how many milliseconds that takes, rounded up.
fn sleeps_during(what: impl FnOnce()) -> (u64, u64) {
    let (before, start) = (sleeps(), Instant::now());
    what();
    (sleeps() - before, start.elapsed().as_millis() as u64 + 1)
}

fn a_second() {
    thread::sleep(Duration::from_secs(1));
}

/// A sender that has nothing to send sleeps: connected or not, it wakes only to repeat its newest snapshot once a second.
#[test]
fn an_idle_sender_sleeps() {
    alone("alone::an_idle_sender_sleeps", || {
        for latency in BOTH {
            let mut collector = Collector::new();
            let sender = open(&collector.endpoint, latency);
            connected(&sender);
            let (fresh, _) = sleeps_during(a_second); // 20 looks before it parks
            let (parked, _) = sleeps_during(a_second);
            publish(&sender);
            collector.drain_to(1);
            let (published, _) = sleeps_during(a_second);
            let (repeating, took_ms) = sleeps_during(a_second);

            assert!(fresh <= 40, "{fresh} sleeps after the start");
            assert_eq!(parked, 0, "sleeps before the first publish");
            assert!(published <= 40, "{published} sleeps after a publish");
            assert!(repeating <= took_ms / 500, "{repeating} sleeps in {took_ms} ms");
        }
    });
}

/// Without a connection no publish wakes the sending thread; only tries to connect do.
#[test]
fn publishes_without_a_collector_wake_nobody() {
    alone("alone::publishes_without_a_collector_wake_nobody", || {
        for latency in BOTH {
            let endpoint = Collector::new().endpoint;
            let sender = open(&endpoint, latency);
            publish(&sender);
            thread::sleep(Duration::from_millis(100));
            let (slept, took_ms) = sleeps_during(|| {
                for _ in 0..500 {
                    publish(&sender);
                    thread::sleep(Duration::from_millis(1));
                }
            });

            // A try every 10 ms at most, and two events of each.
            assert!(slept <= took_ms / 5 + 2, "{slept} sleeps in {took_ms} ms");
            assert_eq!(sender.stats().would_block, 0);
        }
    });
}

/// A collector that does not read stops no publish and no memory is taken meanwhile; once it reads, the newest arrives.
#[test]
fn a_collector_that_does_not_read_costs_nothing() {
    alone("alone::a_collector_that_does_not_read_costs_nothing", || {
        for latency in BOTH {
            let place = Place::new(); // buffers of ipc sockets are small
            DirBuilder::new().mode(0o700).create(place.path()).unwrap();
            let mut collector = Collector::bind(&format!("ipc://{}/socket", place.path().display()));
            let sender = open(&collector.endpoint, latency);
            connected(&sender);
            until("a full socket", || {
                publish(&sender);
                sender.stats().would_block > 0
            });
            thread::sleep(Duration::from_millis(100)); // what is on its way fills the last buffers
            let before = resident_kb();

            let last = (0..200_000).map(|_| publish(&sender)).last().unwrap();

            let after = resident_kb();
            assert!(after < before + 2_048, "grew from {before} to {after} kB");
            collector.wait_for(last);
            assert!(sender.stats().replaced > 0);
        }
    });
}

/// While publishes come all the time the sending thread looks about once a millisecond, however many these are.
#[test]
fn a_busy_sender_ticks() {
    alone("alone::a_busy_sender_ticks", || {
        let mut collector = Collector::new();
        let sender = open(&collector.endpoint, Latency::Tick);
        connected(&sender);
        let (slept, took_ms) = sleeps_during(|| {
            for _ in 0..5_000 {
                publish(&sender);
                while collector.try_next().is_some() {}
                thread::sleep(Duration::from_micros(50));
            }
        });

        assert!(slept <= took_ms + 20, "{slept} sleeps in {took_ms} ms");
    });
}
