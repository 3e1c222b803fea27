//! One attached generation, as a reader sees it: mapped read-only, claims asked for rarely, ages on the own clock.

use crate::claim::{self, Range};
use crate::clock;
use crate::dir::Directory;
use crate::error::Error;
use crate::file::RingFile;
use crate::fork::Token;
use crate::header::Header;
use crate::layout::{FILLER_LOCAL, FILLER_RELAY_DEAD, slot as word};
use crate::mapping::{Access, Mapping};
use crate::slot::{Newest, Slot, Stamp, TRIES, Take};
use crate::sync::{AtomicU64, Ordering};
use crate::wake::BellFile;
use rustix::fd::OwnedFd;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// A claim's answer is good for this long, and a snapshot younger than this needs none.
pub const CLAIM_FRESH_NS: u64 = 50_000_000;

/// What is known of a rank's writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum State {
    /// Nothing was published yet.
    Never = 0,
    /// Claimed, and the newest snapshot is no older than `max_age`.
    Live = 1,
    /// Claimed, but the newest snapshot is older, or from an earlier writer.
    Stale = 2,
    /// Nobody claims the slot.
    Dead = 3,
}

/// A snapshot's stamp and what the reader adds to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// As stored.
    pub stamp: Stamp,
    /// When it was published by this process's monotonic clock, ns; where the writer lives in another time namespace,
    /// when this reader first saw it.
    pub since_ns: u64,
    /// The newest could not be had in the bounded tries: this is the last good one.
    pub contended: bool,
}

impl Reading {
    /// Age now, ns; a stamp from the future counts as now.
    pub fn age_ns(&self) -> u64 {
        clock::mono_ns().saturating_sub(self.since_ns)
    }
}

/// A claim's last answer: ns of the question, lowest bit set when claimed.
type Answer = AtomicU64;

/// An attached ring file.
#[derive(Debug)]
pub struct Ring {
    /// Its header.
    pub header: Arc<Header>,
    /// Its inode.
    pub inode: u64,
    fd: OwnedFd,
    map: Mapping,
    token: Token,
    time_namespace: u64,
    answers: Vec<Answer>,
    /// Newest version that a read returned, per rank: no later read may return an older one.
    returned: Vec<AtomicU64>,
    last_good: Mutex<HashMap<u32, (Reading, Vec<u64>)>>,
    foreign: Mutex<HashMap<u32, (u64, u64)>>,
    bell: OnceLock<BellFile>,
}

impl Ring {
    /// Maps an opened file.
    pub fn attach(file: RingFile) -> Result<Self, Error> {
        let RingFile { fd, inode, header } = file;
        let map = Mapping::new(&fd, 0, header.geometry.file_bytes, Access::Read)?;
        let words = || (0..header.geometry.ranks).map(|_| AtomicU64::new(0)).collect::<Vec<_>>();
        Ok(Self {
            answers: words(),
            returned: words(),
            header: Arc::new(header),
            inode,
            fd,
            map,
            token: Token::current()?,
            time_namespace: clock::time_namespace(),
            last_good: Mutex::default(),
            foreign: Mutex::default(),
            bell: OnceLock::new(),
        })
    }

    /// True in the process that attached.
    #[inline]
    pub fn is_here(&self) -> bool {
        self.token.is_here()
    }

    /// Number of ranks.
    #[inline]
    pub fn ranks(&self) -> u32 {
        self.header.geometry.ranks
    }

    /// The slot of `rank`, which the caller has checked.
    #[inline]
    pub fn slot(&self, rank: u32) -> Slot<'_> {
        let geometry = &self.header.geometry;
        Slot::new(&self.map.words()[geometry.slot_offset(rank) / 8..], geometry)
    }

    /// The bell, once this generation has one that this process may write.
    pub fn bell(&self, directory: impl FnOnce() -> Option<Directory>, name: &str) -> Option<&BellFile> {
        if let Some(bell) = self.bell.get() {
            return Some(bell);
        }
        // A bell that may not be opened is one that waiters do without; they poll.
        let found = BellFile::open(&directory()?, name, self.header.nonce).ok().flatten()?;
        Some(self.bell.get_or_init(|| found))
    }

    /// Appends the newest payload of `rank` to `payload`; `None` when it never published.
    #[inline]
    pub fn read(&self, rank: u32, take: Take, payload: &mut Vec<u64>) -> Result<Option<Reading>, Error> {
        let slot = self.slot(rank);
        let start = payload.len();
        match slot.newest(take, payload) {
            Newest::Never => Ok(None),
            Newest::Complete { stamp, retries } => {
                let reading = Reading { stamp, since_ns: self.since_ns(rank, &slot, &stamp), contended: false };
                self.returned[rank as usize].store(stamp.version, Ordering::Relaxed);
                if retries > 0 {
                    self.keep(rank, reading, &payload[start..]);
                }
                Ok(Some(reading))
            }
            Newest::Contended => self.fall_back(rank, take, payload).map(Some),
        }
    }

    /// Remembers a value that was hard to get: the next may be impossible to get.
    #[cold]
    fn keep(&self, rank: u32, reading: Reading, payload: &[u64]) {
        let mut last_good = self.last_good.lock().unwrap_or_else(PoisonError::into_inner);
        last_good.insert(rank, (reading, payload.to_vec()));
    }

    /// The last good value, unless a newer one was returned since: a reader never goes back.
    #[cold]
    fn fall_back(&self, rank: u32, take: Take, payload: &mut Vec<u64>) -> Result<Reading, Error> {
        let last_good = self.last_good.lock().unwrap_or_else(PoisonError::into_inner);
        let returned = self.returned[rank as usize].load(Ordering::Relaxed);
        match last_good.get(&rank) {
            Some((reading, words)) if reading.stamp.version >= returned => {
                let count = if let Take::Words(count) = take { count.min(words.len()) } else { words.len() };
                payload.extend_from_slice(&words[..count]);
                Ok(Reading { contended: true, ..*reading })
            }
            _ => Err(Error::Contended { rank, tries: TRIES }),
        }
    }

    /// See [`Reading::since_ns`].
    #[inline]
    pub fn since_ns(&self, rank: u32, slot: &Slot<'_>, stamp: &Stamp) -> u64 {
        if slot.load(word::TIME_NS) == self.time_namespace { stamp.mono_ns } else { self.first_seen_ns(rank, stamp.version) }
    }

    #[cold]
    fn first_seen_ns(&self, rank: u32, version: u64) -> u64 {
        let mut foreign = self.foreign.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = foreign.entry(rank).or_insert((0, 0));
        if version > seen.0 {
            *seen = (version, clock::mono_ns());
        }
        seen.1
    }

    /// Last sign of life of `rank`'s writer, a publish or a heartbeat, ns on this process's monotonic clock.
    ///
    /// Across time namespaces only publishes count: a heartbeat there cannot be dated.
    pub fn last_sign_ns(&self, rank: u32, reading: &Reading) -> u64 {
        let slot = self.slot(rank);
        if slot.load(word::TIME_NS) == self.time_namespace { reading.since_ns.max(slot.load(word::BEAT_NS)) } else { reading.since_ns }
    }

    /// True when a living process claims `rank`; asks the kernel when the last answer is older than 50 ms, or `now`.
    pub fn is_claimed(&self, rank: u32, now: bool) -> Result<bool, Error> {
        let answer = &self.answers[rank as usize];
        let (last, asked_ns) = (answer.load(Ordering::Relaxed), clock::mono_ns());
        if !now && last != 0 && asked_ns.saturating_sub(last & !1) < CLAIM_FRESH_NS {
            return Ok(last & 1 == 1);
        }
        let claimed = claim::is_claimed(&self.fd, Range::one(rank))?;
        answer.store((asked_ns & !1) | u64::from(claimed), Ordering::Relaxed);
        Ok(claimed)
    }

    /// State of `rank` given its newest reading (`None` for never published).
    pub fn state(&self, rank: u32, reading: Option<&Reading>, max_age_ns: u64, now: bool) -> Result<State, Error> {
        let Some(reading) = reading else {
            return Ok(State::Never);
        };
        let (slot, age_ns) = (self.slot(rank), reading.age_ns());
        let same_writer = slot.load(word::EPOCH) == reading.stamp.epoch;
        let on_time = if same_writer && age_ns <= max_age_ns { State::Live } else { State::Stale };
        // A snapshot this young was published by somebody who lived; the kernel need not be asked.
        if !now && same_writer && age_ns < CLAIM_FRESH_NS {
            return Ok(on_time);
        }
        if self.is_claimed(rank, now)? {
            return Ok(on_time);
        }
        // An unclaimed slot that a relay filled says that the relay went, not the rank; unless it said so.
        let filler = slot.load(word::FILLER);
        Ok(if filler == FILLER_LOCAL || filler == FILLER_RELAY_DEAD { State::Dead } else { State::Stale })
    }
}
