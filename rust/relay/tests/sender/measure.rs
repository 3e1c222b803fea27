//! What a sender costs and carries. `cargo test --release -p snapring-relay --test sender -- --ignored --nocapture`
//! prints it; a plain run only sees that the answers are right.

use crate::collector::{Collector, connected, open, publish};
use crate::support::{WORDS, payload};
use snapring_core::clock;
use snapring_relay::frame::Kind;
use snapring_relay::sender::{Latency, Sender};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const BURST: u64 = 500_000;
const PACED: usize = 3_000;

/// ns per publish of a tight loop, on a thread of its own, while `collector` takes what comes; then how many came a second.
fn burst(collector: &mut Collector, sender: &Sender) -> (f64, f64) {
    let start = Instant::now();
    let words = payload(1);
    let (cost, came) = thread::scope(|scope| {
        let publisher = scope.spawn(|| {
            for _ in 0..BURST {
                sender.publish_at(&words, WORDS * 8, sender.now()).unwrap();
            }
            start.elapsed().as_nanos() as f64 / BURST as f64
        });
        let mut came = 0;
        while collector.next(Kind::Snapshot).frame.origin.version < BURST {
            came += 1;
        }
        (publisher.join().unwrap(), came)
    });
    (cost, f64::from(came) / start.elapsed().as_secs_f64())
}

/// Microseconds from before a publish to its receipt: median and 99th percentile.
fn latencies(collector: &mut Collector, sender: &Sender) -> (f64, f64) {
    let done = AtomicBool::new(false);
    let mut taken = thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..PACED {
                publish(sender);
                thread::sleep(Duration::from_micros(1_300));
            }
            done.store(true, Ordering::Relaxed);
        });
        let mut taken = Vec::new();
        while !done.load(Ordering::Relaxed) {
            match collector.try_next() {
                Some(arrived) => {
                    // The age was taken at send, so the moment of publish is known by this clock.
                    taken.push((clock::wall_ns() - arrived.frame.wall_ns) as f64 / 1e3);
                }
                None => thread::sleep(Duration::from_micros(5)),
            }
        }
        taken
    });
    taken.sort_by(f64::total_cmp);
    (taken[taken.len() / 2], taken[taken.len() * 99 / 100])
}

#[test]
#[ignore = "prints figures; they mean something in a release build on a quiet machine"]
fn what_a_sender_costs() {
    for latency in [Latency::Tick, Latency::Wake] {
        let mut collector = Collector::new();
        let sender = open(&collector.endpoint, latency);
        connected(&sender);
        let (cost, rate) = burst(&mut collector, &sender);
        println!("{latency:?}: {cost:.0} ns a publish, {:.0} thousand snapshots/s received", rate / 1e3);
        println!("{:?}", sender.stats());
        let (median, p99) = latencies(&mut collector, &sender);
        println!("{latency:?}: publish to receipt {median:.0} us median, {p99:.0} us p99");
    }
}
