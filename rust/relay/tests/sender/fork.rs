//! A sender in a child of a fork.
#![allow(unsafe_code, reason = "fork and waitpid; every block names its fact")]

use crate::BOTH;
use crate::collector::{Collector, open, publish};
use snapring_core::Error;
use snapring_relay::frame::Kind;
use std::time::Duration;

/// A child's handle says that it is the parent's, and its end takes nothing from the parent.
#[test]
fn a_child_has_no_sender() {
    for latency in BOTH {
        let mut collector = Collector::new();
        let sender = open(&collector.endpoint, latency);
        publish(&sender);
        collector.next(Kind::Snapshot);

        // SAFETY: the child calls nothing that takes a lock which another thread may have held: each call looks at the
        // token first, and the rest is `_exit`.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let now = snapring_core::Now { mono_ns: 1, wall_ns: 1 };
            let refused = [
                sender.publish_at(&[], 0, now).err(),
                sender.beat().err(),
                sender.start_heartbeat(Duration::from_secs(1)).err(),
                sender.position().err(),
                sender.last_refusal().err(),
                sender.close().err(),
            ];
            let all = refused.iter().all(|error| matches!(error, Some(Error::Forked(_))));
            let right = all && !sender.is_connected();
            drop(sender);
            // SAFETY: ends the child without running what the test program registered.
            unsafe { libc::_exit(i32::from(!right)) };
        }
        let mut status = 0;
        // SAFETY: the child was just made, and the status is a living integer.
        let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };

        assert_eq!((waited, status), (child, 0), "the child's calls");
        let last = publish(&sender);
        collector.drain_to(last);
        assert_eq!(sender.stats().reconnects, 0);
    }
}
