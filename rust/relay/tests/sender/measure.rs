//! What a sender costs and carries. `cargo test --release -p snapring-relay --test sender -- --ignored --nocapture`
//! prints it.

use crate::BOTH;
use crate::collector::{Collector, connected, open};
use crate::support::{WORDS, payload};
use snapring_core::clock;
use snapring_relay::sender::Sender;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How long each figure is measured.
const TIME: Duration = Duration::from_secs(2);
/// From publish to publish where single ones are timed: at each time of a tick in turn.
const PACE: Duration = Duration::from_micros(1_300);

/// Publishes for [`TIME`], `pace` apart, while the collector takes what comes; publishes, and the ages at receipt, ns.
fn run(collector: &mut Collector, sender: &Sender, pace: Option<Duration>) -> (u64, Vec<u64>) {
    let done = AtomicBool::new(false);
    let words = payload(1);
    thread::scope(|scope| {
        let publisher = scope.spawn(|| {
            let (start, mut count) = (Instant::now(), 0);
            while start.elapsed() < TIME {
                for _ in 0..if pace.is_some() { 1 } else { 1_000 } {
                    sender.publish_at(&words, WORDS * 8, sender.now()).unwrap();
                    count += 1;
                }
                thread::sleep(pace.unwrap_or_default());
            }
            done.store(true, Ordering::Relaxed);
            count
        });
        let mut ages = Vec::new();
        while !done.load(Ordering::Relaxed) {
            match collector.try_next() {
                Some(arrived) => ages.push(clock::wall_ns().saturating_sub(arrived.frame.wall_ns)),
                None => thread::yield_now(),
            }
        }
        (publisher.join().unwrap(), ages)
    })
}

#[test]
#[ignore = "prints figures, which mean something in a release build on a quiet machine"]
fn what_a_sender_costs() {
    for latency in BOTH {
        let mut collector = Collector::roomy();
        let sender = open(&collector.endpoint, latency);
        connected(&sender);
        let (count, ages) = run(&mut collector, &sender, None);
        let cost_ns = TIME.as_nanos() as f64 / count as f64;
        println!(
            "{latency:?}: {cost_ns:.0} ns a publish, {:.0} snapshots/s received",
            ages.len() as f64 / TIME.as_secs_f64()
        );
        println!("{:?}", sender.stats());
        let (_, mut ages) = run(&mut collector, &sender, Some(PACE));
        ages.sort_unstable();
        let at = |percent: usize| ages[ages.len() * percent / 100] / 1_000;
        println!("{latency:?}: publish to receipt {} us median, {} us p99", at(50), at(99));
    }
}
