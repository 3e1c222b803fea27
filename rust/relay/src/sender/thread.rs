//! The sending thread: what it does, and how long it sleeps.
//!
//! | state | it sleeps until |
//! | --- | --- |
//! | no connection | the monitor tells of one; publishes do not wake it |
//! | no room in the socket | there is room, or 1, 2, 4 .. 20 ms passed; then it sends what is newest by then |
//! | publishes come, [`Latency::Tick`] | the next millisecond |
//! | nothing came for 20 ms, or [`Latency::Wake`] | a publish rings, or the newest is due for a repeat, or a beat is |
//!
//! After a send it looks again at once, so while versions come faster than they can be sent it does not sleep at all.

use super::Latency;
use super::courier::{Courier, Outcome};
use super::shared::{Shared, locked};
use crate::frame::Kind;
use snapring_core::sync::Ordering;
use snapring_core::{Error, clock};
use std::time::{Duration, Instant};

/// From look to look while publishes come.
const TICK: Duration = Duration::from_millis(1);
/// Looks without a publish before the thread parks.
const QUIET_TICKS: u32 = 20;
/// Longest wait for room before another try; the first is a [`TICK`], each further one twice as long.
const LONGEST_BACK_OFF: Duration = Duration::from_millis(20);
/// The newest snapshot is sent again when none was for so long, so that it survives whatever happened on its way.
const REPEAT_NS: u64 = 1_000_000_000;
/// Frames in a row before the thread looks at anything else.
const BURST: u32 = 256;
/// How long a close may take to get the last frames out.
const FAREWELL: Duration = Duration::from_millis(100);

/// What to do after a turn.
enum Next {
    /// Go on at once.
    Again,
    /// Sleep, deaf for publishers.
    Sleep(Option<Duration>),
    /// Sleep until a publish, or for so long.
    Park(Option<Duration>),
    /// Say goodbye.
    Close,
}

/// The thread's own memory.
struct Worker<'a> {
    shared: &'a Shared,
    latency: Latency,
    look_at_links: bool,
    quiet_ticks: u32,
    back_off: Duration,
    beat_ns: u64,
}

/// Runs until the sender closes or its socket breaks; the socket is closed then.
pub(super) fn run(shared: &Shared, latency: Latency) {
    let mut worker = Worker { shared, latency, look_at_links: true, quiet_ticks: 0, back_off: TICK, beat_ns: 0 };
    if let Err(error) = worker.work() {
        shared.fail(&error);
    }
    let courier = locked(&shared.courier).take();
    if let Some(courier) = courier {
        worker.farewell(courier);
    }
    shared.connected.store(false, Ordering::Relaxed);
}

impl Worker<'_> {
    fn work(&mut self) -> Result<(), Error> {
        loop {
            let bell = &self.shared.bell;
            let woken = match self.turn()? {
                Next::Close => return Ok(()),
                Next::Again => bell.sleep(Some(Duration::ZERO))?,
                Next::Sleep(timeout) => bell.sleep(timeout)?,
                Next::Park(timeout) => bell.park(timeout, || self.shared.has_work())?,
            };
            self.look_at_links = woken.links;
        }
    }

    fn turn(&mut self) -> Result<Next, Error> {
        let shared = self.shared;
        let mut guard = locked(&shared.courier);
        let Some(courier) = guard.as_mut() else { return Ok(Next::Close) };
        if self.look_at_links {
            courier.look_at_links(shared)?;
        }
        if shared.closing.load(Ordering::Relaxed) {
            return Ok(Next::Close);
        }
        if !courier.sink().is_up() {
            return Ok(Next::Sleep(None));
        }
        let now_ns = clock::mono_ns();
        if courier.sent_ns().is_some_and(|sent_ns| now_ns >= sent_ns + REPEAT_NS) {
            courier.repeat();
        }
        let mut fresh = 0;
        for _ in 0..BURST {
            match courier.send_newest(shared)? {
                Outcome::Sent | Outcome::Contended => fresh += 1,
                Outcome::Repeated => {} // no publish, so no reason to stay awake
                Outcome::Nothing => break,
                Outcome::Later => return self.wait_for_room(courier),
            }
        }
        if !self.send_beat(courier, now_ns)? {
            return self.wait_for_room(courier);
        }
        self.back_off = TICK;
        Ok(self.pace(fresh, courier.sent_ns(), now_ns))
    }

    /// Sends the beat that is due, if one is; false when there is no room for it.
    fn send_beat(&mut self, courier: &mut Courier, now_ns: u64) -> Result<bool, Error> {
        let asked = self.shared.beat.swap(false, Ordering::Relaxed);
        if !asked && self.next_beat_ns().is_none_or(|due| now_ns < due) {
            return Ok(true);
        }
        self.beat_ns = now_ns;
        if courier.send_sign(self.shared, Kind::Beat)? == Outcome::Later {
            self.shared.beat.store(true, Ordering::Relaxed);
            return Ok(false);
        }
        Ok(true)
    }

    fn next_beat_ns(&self) -> Option<u64> {
        let every_ns = self.shared.beat_every_ns.load(Ordering::Relaxed);
        (every_ns > 0).then_some(self.beat_ns.saturating_add(every_ns))
    }

    fn wait_for_room(&mut self, courier: &mut Courier) -> Result<Next, Error> {
        let pause = self.back_off;
        self.back_off = LONGEST_BACK_OFF.min(pause * 2);
        self.shared.bell.await_room(courier.sink().room_fd()?)?;
        Ok(Next::Sleep(Some(pause)))
    }

    /// How long to sleep after a turn that left nothing to do.
    fn pace(&mut self, fresh: u32, sent_ns: Option<u64>, now_ns: u64) -> Next {
        if fresh == BURST {
            return Next::Again;
        }
        self.quiet_ticks = if fresh > 0 { 0 } else { self.quiet_ticks + 1 };
        if self.latency == Latency::Tick && self.quiet_ticks < QUIET_TICKS {
            return Next::Sleep(Some(TICK)); // later than a beat or a repeat by no more than that
        }
        let due_ns = [sent_ns.map(|sent_ns| sent_ns + REPEAT_NS), self.next_beat_ns()].into_iter().flatten().min();
        Next::Park(due_ns.map(|due_ns| Duration::from_nanos(due_ns.saturating_sub(now_ns))))
    }

    /// Sends what is newest, then goodbye, and closes the socket; gives up after [`FAREWELL`].
    fn farewell(&self, mut courier: Courier) {
        let end = Instant::now() + FAREWELL;
        let left = || end.saturating_duration_since(Instant::now());
        while !left().is_zero() && courier.sink().is_up() {
            match self.last_words(&mut courier) {
                Ok(Outcome::Later) => {}
                Ok(_) => {
                    // Refused only for a socket that is gone, and then there is nothing to wait for.
                    let _ = courier.sink().linger(left());
                    return;
                }
                Err(_) => return, // a broken socket sends nothing more
            }
            if self.shared.bell.sleep(Some(TICK)).is_err() || courier.look_at_links(self.shared).is_err() {
                return;
            }
        }
    }

    fn last_words(&self, courier: &mut Courier) -> Result<Outcome, Error> {
        match courier.send_newest(self.shared)? {
            Outcome::Later | Outcome::Contended => Ok(Outcome::Later),
            _ => courier.send_sign(self.shared, Kind::Goodbye),
        }
    }
}
