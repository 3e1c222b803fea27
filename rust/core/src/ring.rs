//! One attached generation, as a reader sees it: mapped read-only, claims asked for rarely, ages on the own clock.

use crate::claim::{self, Range};
use crate::clock;
use crate::error::Error;
use crate::file::RingFile;
use crate::fork::Token;
use crate::header::Header;
use crate::layout::{Geometry, FILLER_LOCAL, FILLER_RELAY_DEAD, cell, slot as word};
use crate::mapping::{Access, Mapping};
use crate::slot::{Newest, Slot, Stamp, TRIES};
use crate::sync::{AtomicBool, AtomicU64, Ordering};
use crate::wake::BellFile;
use arc_swap::ArcSwapOption;
use rustix::fd::OwnedFd;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// A claim's answer is good for this long, and a snapshot younger than this needs none.
pub const CLAIM_FRESH_NS: u64 = 50_000_000;

/// How recent the kernel's answer about a claim must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// At most 50 ms old: what looks at a state asks rarely.
    Recent,
    /// Less than half of that: a thread that looks this often keeps the answers of all others recent.
    Ahead,
    /// Of this moment.
    Now,
}

impl Ask {
    fn fresh_ns(self) -> u64 {
        match self {
            Self::Recent => CLAIM_FRESH_NS,
            Self::Ahead => CLAIM_FRESH_NS / 2 - CLAIM_FRESH_NS / 10,
            Self::Now => 0,
        }
    }
}

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

/// Value of a row's first word when the newest could not be had and the row holds the last good one.
pub const CONTENDED: u64 = 1;

/// What a row that [`Ring::read`] filled says about itself. Its stamp's `mono_ns` is on this process's clock: where the
/// writer lives in another time namespace, when this reader first saw the version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The stamp.
    pub stamp: Stamp,
    /// The newest could not be had in the bounded tries: this is the last good one.
    pub contended: bool,
}

impl Reading {
    /// Of a filled row; `None` of one that [`Ring::read`] left empty.
    #[inline]
    pub fn of(row: &[u64]) -> Option<Self> {
        let stamp = Stamp::of(row);
        (stamp.version != 0).then_some(Self { stamp, contended: row[0] == CONTENDED })
    }

    /// Age now, ns; a stamp from the future counts as now.
    pub fn age_ns(&self) -> u64 {
        clock::mono_ns().saturating_sub(self.stamp.mono_ns)
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
    /// The header's, without the way there.
    geometry: Geometry,
    fd: OwnedFd,
    map: Mapping,
    token: Token,
    time_namespace: u64,
    answers: Vec<Answer>,
    /// Newest version that a read returned, per rank: no later read may return an older one.
    returned: Vec<AtomicU64>,
    last_good: Mutex<HashMap<u32, Vec<u64>>>,
    foreign: Mutex<HashMap<u32, (u64, u64)>>,
    /// Its reader went on to another, or to none.
    left: AtomicBool,
    /// Filled by [`crate::reader::Reader::bell`].
    pub(crate) bell: ArcSwapOption<BellFile>,
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
            geometry: header.geometry,
            header: Arc::new(header),
            inode,
            fd,
            map,
            token: Token::current()?,
            time_namespace: clock::time_namespace(),
            last_good: Mutex::default(),
            foreign: Mutex::default(),
            left: AtomicBool::new(false),
            bell: ArcSwapOption::empty(),
        })
    }

    /// Its reader goes on to another, or to none: whoever holds this one beside the reader must ask it again.
    pub(crate) fn leave(&self) {
        self.left.store(true, Ordering::Relaxed);
    }

    /// True once the reader that attached it went on.
    #[inline]
    pub fn is_left(&self) -> bool {
        self.left.load(Ordering::Relaxed)
    }

    /// True in the process that attached.
    #[inline]
    pub fn is_here(&self) -> bool {
        self.token.is_here()
    }

    /// Number of ranks.
    #[inline]
    pub fn ranks(&self) -> u32 {
        self.geometry.ranks
    }

    /// The slot of `rank`, which the caller has checked.
    #[inline]
    pub fn slot(&self, rank: u32) -> Slot<'_> {
        Slot::new(&self.map.words()[self.geometry.slot_offset(rank) / 8..], &self.geometry)
    }

    /// Words of a row that takes any value of this ring.
    pub fn row_words(&self) -> usize {
        cell::PAYLOAD + self.header.geometry.payload_words()
    }

    /// Reads every rank into rows of `row_words` words; `filled` is told of each whether it published, or
    /// what is wrong with it: a rank that cannot be read takes no other along.
    #[inline]
    pub fn read_all(
        &self,
        rows: &mut [u64],
        row_words: usize,
        mut filled: impl FnMut(u32, &mut [u64], Result<bool, Error>),
    ) {
        // A cold head, and then a cold cell found through it, are two waits for memory. Asked for ahead, and with little
        // else in between, those of many ranks overlap.
        let touched = (0..self.ranks()).fold(0, |all, rank| all ^ self.slot(rank).touch());
        core::hint::black_box(touched);
        for (rank, row) in (0..self.ranks()).zip(rows.chunks_exact_mut(row_words)) {
            let outcome = self.read(rank, row);
            filled(rank, row, outcome);
        }
    }

    /// Copies the newest value of `rank` into `row`; when it never published, sets the row's version to 0 and gives
    /// false.
    #[inline]
    pub fn read(&self, rank: u32, row: &mut [u64]) -> Result<bool, Error> {
        let slot = self.slot(rank);
        match slot.newest(row) {
            Newest::Complete { retries } => {
                if slot.load(word::TIME_NS) != self.time_namespace {
                    row[cell::MONO_NS] = self.first_seen_ns(rank, row[cell::VERSION]);
                }
                self.remember(rank, row[cell::VERSION]);
                if retries > 0 {
                    self.keep(rank, row);
                }
                Ok(true)
            }
            Newest::Never => {
                row[cell::VERSION] = 0;
                Ok(false)
            }
            Newest::Contended => self.fall_back(rank, row),
        }
    }

    /// Remembers which version was returned. Never an older one: another thread may have read faster.
    #[inline]
    fn remember(&self, rank: u32, version: u64) {
        let returned = &self.returned[rank as usize];
        // Mostly nothing is new; then a load is all that it costs.
        if returned.load(Ordering::Relaxed) < version {
            returned.fetch_max(version, Ordering::Relaxed);
        }
    }

    /// Remembers a value that was hard to get: the next may be impossible to get.
    #[cold]
    fn keep(&self, rank: u32, row: &[u64]) {
        let mut last_good = self.last_good.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = last_good.entry(rank).or_default();
        // Neither a look at the stamp alone nor a slower thread may displace a whole, newer value.
        if row.len() > kept.len() || row.len() == kept.len() && row[cell::VERSION] > kept[cell::VERSION] {
            row.clone_into(kept);
        }
    }

    /// The last good value, unless a newer one was returned since: a reader never goes back.
    #[cold]
    fn fall_back(&self, rank: u32, row: &mut [u64]) -> Result<bool, Error> {
        let last_good = self.last_good.lock().unwrap_or_else(PoisonError::into_inner);
        let returned = self.returned[rank as usize].load(Ordering::Relaxed);
        match last_good.get(&rank) {
            Some(kept) if kept[cell::VERSION] >= returned && kept.len() >= row.len() => {
                row.copy_from_slice(&kept[..row.len()]);
                row[0] = CONTENDED;
                Ok(true)
            }
            _ => Err(Error::Contended { rank, tries: TRIES }),
        }
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
        if slot.load(word::TIME_NS) == self.time_namespace { reading.stamp.mono_ns.max(slot.load(word::BEAT_NS)) } else { reading.stamp.mono_ns }
    }

    /// True when a living process claims `rank`.
    pub fn is_claimed(&self, rank: u32, ask: Ask) -> Result<bool, Error> {
        self.is_claimed_at(rank, ask, clock::mono_ns())
    }

    #[inline]
    fn is_claimed_at(&self, rank: u32, ask: Ask, asked_ns: u64) -> Result<bool, Error> {
        let answer = &self.answers[rank as usize];
        let last = answer.load(Ordering::Relaxed);
        if last != 0 && asked_ns.saturating_sub(last & !1) < ask.fresh_ns() {
            return Ok(last & 1 == 1);
        }
        let claimed = claim::is_claimed(&self.fd, Range::one(rank))?;
        answer.store((asked_ns & !1) | u64::from(claimed), Ordering::Relaxed);
        Ok(claimed)
    }

    /// State of `rank` given its newest reading (`None` for never published).
    pub fn state(&self, rank: u32, reading: Option<&Reading>, max_age_ns: u64, ask: Ask) -> Result<State, Error> {
        self.state_at(rank, reading, max_age_ns, ask, clock::mono_ns())
    }

    /// [`Self::state`] as of `now_ns` on the monotonic clock, for callers that ask about many ranks.
    #[inline]
    pub fn state_at(
        &self,
        rank: u32,
        reading: Option<&Reading>,
        max_age_ns: u64,
        ask: Ask,
        now_ns: u64,
    ) -> Result<State, Error> {
        let Some(reading) = reading else {
            return Ok(State::Never);
        };
        let (slot, age_ns) = (self.slot(rank), now_ns.saturating_sub(reading.stamp.mono_ns));
        let same_writer = slot.load(word::EPOCH) == reading.stamp.epoch;
        let on_time = if same_writer && age_ns <= max_age_ns { State::Live } else { State::Stale };
        // A snapshot this young was published by somebody who lived; the kernel need not be asked. An age that counts
        // from when it was first seen says nothing of the kind.
        let dated = slot.load(word::TIME_NS) == self.time_namespace;
        if ask != Ask::Now && same_writer && dated && age_ns < CLAIM_FRESH_NS {
            return Ok(on_time);
        }
        if self.is_claimed_at(rank, ask, now_ns)? {
            return Ok(on_time);
        }
        // An unclaimed slot that a relay filled says that the relay went, not the rank; unless it said so.
        let filler = slot.load(word::FILLER);
        Ok(if filler == FILLER_LOCAL || filler == FILLER_RELAY_DEAD { State::Dead } else { State::Stale })
    }
}
