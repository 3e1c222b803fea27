//! Clocks and identities that the kernel gives.

use crate::error::Error;
use crate::sync::{AtomicU64, Ordering};
use rustix::time::{ClockId, clock_gettime};

fn ns(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    (time.tv_sec * 1_000_000_000 + time.tv_nsec) as u64
}

/// `CLOCK_MONOTONIC`, ns: the clock of all ages.
#[inline]
pub fn mono_ns() -> u64 {
    ns(ClockId::Monotonic)
}

/// The same clock at the last timer tick (1 to 10 ms old) for a quarter of the cost: good enough for rate limits.
#[inline]
pub fn coarse_ns() -> u64 {
    ns(ClockId::MonotonicCoarse)
}

/// Wall clock, ns since 1970; for people and for other hosts, never for ages.
#[inline]
pub fn wall_ns() -> u64 {
    ns(ClockId::Realtime)
}

/// How long the difference of the clocks is taken for true.
const WALL_TRUE_NS: u64 = 1_000_000_000;

/// One moment by both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// `CLOCK_MONOTONIC`, ns.
    pub mono_ns: u64,
    /// Wall clock, ns since 1970; a step of it shows within a second.
    pub wall_ns: u64,
}

/// Both clocks for the price of one. Threads may share it.
#[derive(Debug, Default)]
pub struct Clocks {
    wall_minus_mono_ns: AtomicU64,
    /// Until when that is taken for true.
    wall_until_ns: AtomicU64,
}

impl Clocks {
    /// This moment.
    #[inline]
    pub fn now(&self) -> Now {
        let mono_ns = mono_ns();
        if mono_ns >= self.wall_until_ns.load(Ordering::Acquire) {
            // In this order: who sees the new limit sees a difference no older than it.
            self.wall_minus_mono_ns.store(wall_minus_mono_ns(), Ordering::Relaxed);
            self.wall_until_ns.store(mono_ns + WALL_TRUE_NS, Ordering::Release);
        }
        Now { mono_ns, wall_ns: mono_ns.wrapping_add(self.wall_minus_mono_ns.load(Ordering::Relaxed)) }
    }
}

/// Wall clock less monotonic clock, ns, wrapping.
pub fn wall_minus_mono_ns() -> u64 {
    wall_ns().wrapping_sub(mono_ns())
}

/// Inode of this process's time namespace, or 0 where the kernel has none: monotonic stamps compare only inside one.
pub fn time_namespace() -> u64 {
    rustix::fs::stat("/proc/self/ns/time").map_or(0, |stat| stat.st_ino)
}

/// The kernel's boot id; claims and monotonic stamps mean nothing across boots.
pub fn boot_id() -> Result<[u64; 2], Error> {
    let path = "/proc/sys/kernel/random/boot_id";
    let text = std::fs::read_to_string(path).map_err(|error| Error::io(path, error))?;
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    let id = u128::from_str_radix(&digits, 16).map_err(|_| Error::Invalid(format!("{path} holds no id: {text:?}")))?;
    Ok([id as u64, (id >> 64) as u64])
}

/// Start time of this process in clock ticks since boot, 0 when unknown; with the pid a name for display.
pub fn process_start() -> u64 {
    start_of(u64::from(std::process::id()))
}

/// Start time of the process that has `pid` now, in clock ticks since boot; 0 when unknown.
pub fn start_of(pid: u64) -> u64 {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|stat| stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok())
        .unwrap_or(0)
}

/// 128 random bits from the kernel.
pub fn random() -> Result<[u64; 2], Error> {
    let mut bytes = [0; 16];
    let got = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|error| Error::io("getrandom", error))?;
    if got != bytes.len() {
        return Err(Error::Invalid(format!("getrandom gave {got} bytes of {}", bytes.len())));
    }
    let id = u128::from_le_bytes(bytes);
    Ok([id as u64, (id >> 64) as u64])
}
