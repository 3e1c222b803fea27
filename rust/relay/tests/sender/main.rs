//! A sender and what arrives of it: the newest, in order, whatever happens to the other end.

mod alone;
mod collector;
mod fork;
mod measure;
#[path = "../../../../tests/support/mod.rs"]
mod support;

use collector::{Collector, connected, open, publish};
use snapring_relay::frame::{Kind, job_hash};
use snapring_relay::sender::Latency;
use std::thread;
use std::time::Duration;
use support::{Rng, WORDS, payload, until};

const BOTH: [Latency; 2] = [Latency::Tick, Latency::Wake];

/// The last snapshot of a burst arrives, however long the burst and the pause before it.
#[test]
fn the_last_of_a_burst_arrives() {
    let mut rng = Rng::new();
    for latency in BOTH {
        let mut collector = Collector::new();
        let sender = open(&collector.endpoint, latency);
        for _ in 0..100 {
            thread::sleep(Duration::from_micros(rng.below(3) * rng.below(20_000)));
            let last = (0..=rng.below(300)).map(|_| publish(&sender)).last().unwrap();

            collector.drain_to(last);
        }

        // A frame may arrive before it is counted.
        until("the counts", || {
            let stats = sender.stats();
            stats.sent + stats.replaced == stats.published && stats.replaced == sender.stats().replaced
        });
    }
}

/// A frame says who sent it, what it holds, and how old that is.
#[test]
fn a_frame_tells_its_origin() {
    let mut collector = Collector::new();
    let sender = open(&collector.endpoint, Latency::Tick);
    publish(&sender);
    let position = sender.position().unwrap();

    let frame = collector.next(Kind::Snapshot).frame;

    assert_eq!((frame.rank, frame.job, frame.fingerprint), (3, job_hash("test"), sender.schema().fingerprint()));
    assert_eq!(frame.origin, position);
    assert_eq!(frame.payload_bytes as usize, WORDS * 8);
}

/// A snapshot that waited for the collector arrives once that is there, and as old as it is; of several the newest.
#[test]
fn a_late_collector_gets_the_newest_and_its_age() {
    for latency in BOTH {
        let endpoint = Collector::new().endpoint; // free again
        let sender = open(&endpoint, latency);
        let newest = (0..10).map(|_| publish(&sender)).last().unwrap();
        thread::sleep(Duration::from_millis(50)); // least age, not a limit

        let mut collector = Collector::bind(&endpoint);
        let arrived = collector.next(Kind::Snapshot);

        assert_eq!(arrived.whole(), newest);
        assert!(arrived.frame.age_ns >= 50_000_000, "age {} ns", arrived.frame.age_ns);
    }
}

/// A collector that starts anew gets the newest snapshot although nothing was published since, and its age has gone on.
#[test]
fn a_restarted_collector_gets_the_newest_again() {
    for latency in BOTH {
        let mut collector = Collector::new();
        let endpoint = collector.endpoint.clone();
        let sender = open(&endpoint, latency);
        publish(&sender);
        let first = collector.next(Kind::Snapshot);
        drop(collector);

        let mut collector = Collector::bind(&endpoint);
        let second = collector.next(Kind::Snapshot);

        assert_eq!((first.whole(), second.whole()), (1, 1));
        assert_eq!(first.frame.wall_ns, second.frame.wall_ns);
        let (aged, passed) = (second.frame.age_ns - first.frame.age_ns, second.at_ns - first.at_ns);
        assert!(aged > 0 && aged.abs_diff(passed) < passed, "aged {aged} ns in {passed} ns");
        assert_eq!(sender.stats().reconnects, 1);
        let last = publish(&sender);
        collector.drain_to(last);
    }
}

/// When nothing is published, the newest goes out again after a second, with its age as of then.
#[test]
fn the_newest_is_repeated() {
    let mut collector = Collector::new();
    let sender = open(&collector.endpoint, Latency::Tick);
    publish(&sender);
    let first = collector.next(Kind::Snapshot);

    let second = collector.next(Kind::Snapshot);

    assert_eq!((first.whole(), second.whole()), (1, 1));
    assert!(second.frame.age_ns - first.frame.age_ns >= 999_000_000);
    until("the count", || sender.stats().repeated >= 1);
    assert_eq!(sender.stats().sent, 1);
}

fn resident_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Threads may publish at once: each publish is whole, versions are dense, and the last one arrives.
#[test]
fn threads_publish_at_once() {
    const THREADS: u64 = 4;
    const EACH: u64 = 20_000;
    for latency in BOTH {
        let mut collector = Collector::new();
        let sender = open(&collector.endpoint, latency);
        let mut versions = thread::scope(|scope| {
            let publish_all =
                || (0..EACH).map(|mark| sender.publish_at(&[mark; 5], 40, sender.now()).unwrap()).collect();
            let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(publish_all)).collect();
            let mut last = 0;
            while last < THREADS * EACH {
                let arrived = collector.next(Kind::Snapshot);
                assert!(arrived.frame.origin.version >= last);
                assert!(arrived.payload.chunks(8).all(|word| word == &arrived.payload[..8]), "a mixed payload");
                last = arrived.frame.origin.version;
            }
            threads.into_iter().flat_map(|thread| -> Vec<u64> { thread.join().unwrap() }).collect::<Vec<u64>>()
        });

        versions.sort_unstable();
        assert!(versions.into_iter().eq(1..=THREADS * EACH));
    }
}

/// A close sends what is newest and then a goodbye.
#[test]
fn a_close_says_goodbye() {
    for latency in BOTH {
        let mut collector = Collector::new();
        let sender = open(&collector.endpoint, latency);
        connected(&sender);
        let last = (0..3).map(|_| publish(&sender)).last().unwrap();

        sender.close().unwrap();

        collector.drain_to(last);
        let goodbye = collector.next(Kind::Goodbye).frame;
        assert_eq!((goodbye.rank, goodbye.origin.version, goodbye.payload_bytes), (3, last, 0));
        assert!(!sender.is_connected());
        assert!(sender.publish_at(&[], 0, sender.now()).is_err());
        sender.close().unwrap();
    }
}

/// A beat is sent when one is asked for, and again and again by a heartbeat; it names the version that was sent last.
#[test]
fn beats_are_sent() {
    let mut collector = Collector::new();
    let sender = open(&collector.endpoint, Latency::Tick);
    connected(&sender);
    sender.beat().unwrap(); // nothing to be alive for yet
    publish(&sender);
    collector.drain_to(1);

    sender.beat().unwrap();
    let asked = collector.next(Kind::Beat).frame;
    sender.start_heartbeat(Duration::from_millis(5)).unwrap();

    assert_eq!((asked.origin.version, asked.payload_bytes), (1, 0));
    (0..5).for_each(|_| drop(collector.next(Kind::Beat)));
    assert_eq!(sender.stats().published, 1);
}

/// Nothing at all is sent before the first publish, not even a goodbye.
#[test]
fn nothing_is_sent_before_a_publish() {
    let mut collector = Collector::new();
    let quiet = open(&collector.endpoint, Latency::Tick);
    connected(&quiet);
    quiet.beat().unwrap();
    quiet.close().unwrap();
    let loud = open(&collector.endpoint, Latency::Tick);
    publish(&loud);

    let mut first = None;
    until("a frame", || {
        first = collector.try_next();
        first.is_some()
    });

    assert_eq!(first.unwrap().frame.origin, loud.position().unwrap());
}

/// A payload that does not fit is refused, and the snapshot before stays the newest.
#[test]
fn a_refused_publish_changes_nothing() {
    let mut collector = Collector::new();
    let sender = open(&collector.endpoint, Latency::Tick);
    publish(&sender);

    let refused = sender.publish_at(&[0; WORDS + 1], WORDS * 8 + 8, sender.now()).unwrap_err();

    assert!(matches!(refused, snapring_core::Error::PayloadTooLarge { .. }), "{refused}");
    assert_eq!(sender.position().unwrap().version, 1);
    assert_eq!(collector.next(Kind::Snapshot).whole(), 1);
    assert_eq!(payload(1).len(), WORDS);
}
