//! From frames to slots: every check, then the origin rules, then the ring.
//!
//! Nothing reaches the ring before the whole frame was checked, and no frame of one rank touches another. A rank is
//! claimed at its first frame, so readers never see a placeholder; it is given back, and DEAD, once its sender said
//! goodbye, or its connection is gone and it stays silent.

use crate::counters::{Counters, count};
use crate::frame::{Frame, Kind, job_hash};
use crate::origin::{Verdict, incarnation, judge};
use snapring_core::record::Checks;
use snapring_core::relayed::Value;
use snapring_core::{Codec, Error, Header, Origin, Relayed, clock};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// A rank whose connection is gone is dead after so much silence: longer than a sender takes to reconnect.
const GONE_NS: u64 = 500_000_000;
/// As above, when its descriptor was used again so soon that the end may have been an older connection's: longer than
/// a sender waits before it repeats itself.
const UNSURE_NS: u64 = 3_000_000_000;
/// Pause after a try to follow a ring that moved.
const FOLLOW_AGAIN_NS: u64 = 100_000_000;
/// So long after its start a relay takes the senders that its predecessor knew for connected.
const SETTLE_NS: u64 = 1_000_000_000;

/// A connection, by its descriptor; -1 is no connection.
pub type Peer = i32;
const NOBODY: Peer = -1;
/// A connection that ended already, though what came in on it is taken only now.
pub const ENDED: Peer = -2;

#[derive(Clone, Copy, Debug)]
struct Rank {
    peer: Peer,
    /// When its connection ended, and after how much silence since that is final.
    gone: Option<(u64, u64)>,
    /// Of the newest value that this relay published.
    newest: Option<Origin>,
    /// Something was published since the claim.
    spoke: bool,
}

const UNKNOWN: Rank = Rank { peer: NOBODY, gone: None, newest: None, spoke: false };

/// The relay's end of all ranks.
#[derive(Debug)]
pub struct Intake {
    ring: Relayed,
    header: Arc<Header>,
    /// Of a record; `None` for free payloads.
    checks: Option<Checks>,
    fingerprint: u64,
    job: u64,
    ranks: Vec<Rank>,
    /// Ranks with a connection that ended.
    going: Vec<u32>,
    started_ns: u64,
    /// When to look for ranks that an earlier relay left, once.
    orphans_at_ns: Option<u64>,
    /// When a ring that moved may be followed at the earliest.
    follow_at_ns: u64,
    error: Option<Error>,
    counters: Arc<Counters>,
    words: Vec<u64>,
}

impl Intake {
    /// Takes frames of `job` for `ring`.
    pub fn new(mut ring: Relayed, job: &str, fingerprint: u64, counters: Arc<Counters>) -> Result<Self, Error> {
        let header = ring.header()?;
        let ranks = vec![UNKNOWN; header.geometry.ranks as usize];
        let started_ns = clock::mono_ns();
        let words = Vec::with_capacity(header.geometry.payload_words());
        let orphans_at_ns = Some(started_ns + UNSURE_NS);
        let job = job_hash(job);
        Ok(Self {
            ring,
            checks: checks(&header),
            header,
            fingerprint,
            job,
            ranks,
            going: Vec::new(),
            started_ns,
            orphans_at_ns,
            follow_at_ns: 0,
            error: None,
            counters,
            words,
        })
    }

    /// Takes one message. Whatever is wrong with it is counted and ends with it.
    pub fn take(&mut self, bytes: &[u8], peer: Peer, now_ns: u64) {
        count(&self.counters.received);
        match self.admit(bytes, peer, now_ns) {
            Ok(()) => {}
            Err(Fate::Dropped(reason)) => count(reason(&self.counters)),
            Err(Fate::Failed(error)) => self.fail(error),
        }
    }

    fn fail(&mut self, error: Error) {
        count(&self.counters.failed);
        self.error = Some(error);
    }

    /// What last went wrong, once.
    pub fn take_error(&mut self) -> Option<Error> {
        self.error.take()
    }

    /// Counts a message of several parts, of which nothing is taken.
    pub fn take_multipart(&self) {
        count(&self.counters.received);
        count(&self.counters.multipart);
    }

    fn admit(&mut self, bytes: &[u8], peer: Peer, now_ns: u64) -> Result<(), Fate> {
        let (frame, payload) = Frame::decode(bytes).map_err(|_| Fate::Dropped(|counters| &counters.undecodable))?;
        if frame.job != self.job {
            return Err(Fate::Dropped(|counters| &counters.foreign_job));
        }
        if frame.fingerprint != self.fingerprint {
            return Err(Fate::Dropped(|counters| &counters.foreign_schema));
        }
        if frame.rank >= self.header.geometry.ranks {
            return Err(Fate::Dropped(|counters| &counters.out_of_range));
        }
        match frame.kind {
            Kind::Snapshot => self.snapshot(&frame, payload, peer, now_ns),
            Kind::Beat => self.beat(&frame, peer, now_ns),
            Kind::Goodbye => self.goodbye(&frame),
        }
    }

    fn snapshot(&mut self, frame: &Frame, payload: &[u8], peer: Peer, now_ns: u64) -> Result<(), Fate> {
        self.unpack(frame, payload)?;
        let verdict = self.judge(frame, now_ns)?;
        match verdict {
            Verdict::Older => return Err(Fate::Dropped(|counters| &counters.older)),
            Verdict::Replaced => return Err(Fate::Dropped(|counters| &counters.replaced)),
            Verdict::Repeat => count(&self.counters.repeated),
            Verdict::Newer | Verdict::Successor => self.publish(frame, verdict, payload.len(), now_ns)?,
        }
        self.heard(frame.rank, peer, now_ns);
        Ok(())
    }

    fn heard(&mut self, rank: u32, peer: Peer, now_ns: u64) {
        let state = &mut self.ranks[rank as usize];
        if peer != ENDED {
            (state.peer, state.gone) = (peer, None);
        } else if state.peer == NOBODY && state.gone.is_none() {
            // Its last words; a connection that came after it would have a number.
            state.gone = Some((now_ns, GONE_NS));
            self.going.push(rank);
        }
    }

    /// Checks the payload and lays it out as words.
    fn unpack(&mut self, frame: &Frame, payload: &[u8]) -> Result<(), Fate> {
        const UNSOUND: Fate = Fate::Dropped(|counters| &counters.unsound);
        let (words, rest) = payload.as_chunks::<8>();
        self.words.clear();
        self.words.extend(words.iter().map(|word| u64::from_le_bytes(*word)));
        if !rest.is_empty() {
            let mut last = [0; 8];
            last[..rest.len()].copy_from_slice(rest);
            self.words.push(u64::from_le_bytes(last));
        }
        let sound = match &self.checks {
            Some(checks) => rest.is_empty() && checks.check(&self.words, frame.rank).is_ok(),
            None => payload.len() <= self.header.geometry.payload_bytes,
        };
        if sound { Ok(()) } else { Err(UNSOUND) }
    }

    /// Origin of the newest value in the slot: known while the rank is held, because nobody else can write it then.
    fn newest(&mut self, rank: u32) -> Result<Option<Origin>, Error> {
        match self.ranks[rank as usize] {
            Rank { newest, spoke: true, .. } if self.ring.holds(rank) => Ok(newest),
            _ => self.ring.newest_origin(rank),
        }
    }

    /// Judges the frame, and claims its rank where that is needed to publish it.
    fn judge(&mut self, frame: &Frame, now_ns: u64) -> Result<Verdict, Fate> {
        let held = self.ring.holds(frame.rank);
        let newest = self.newest(frame.rank)?;
        let state = self.ranks[frame.rank as usize];
        let same_sender = newest.map(incarnation) == state.newest.map(incarnation);
        let connected = match state.peer {
            NOBODY => now_ns < self.started_ns + SETTLE_NS,
            _ => same_sender && state.gone.is_none(),
        };
        let verdict = judge(newest, frame.origin, !(held && state.spoke), connected);
        if !held && matches!(verdict, Verdict::Newer | Verdict::Successor) {
            if !self.ring.hold(frame.rank)? {
                return Err(Fate::Dropped(|counters| &counters.held_locally));
            }
            self.ranks[frame.rank as usize].spoke = false;
        }
        Ok(verdict)
    }

    fn publish(&mut self, frame: &Frame, verdict: Verdict, len: usize, now_ns: u64) -> Result<(), Fate> {
        let rank = &mut self.ranks[frame.rank as usize];
        // A claim raised the epoch already.
        if verdict == Verdict::Successor && rank.spoke {
            self.ring.raise_epoch(frame.rank)?;
        }
        let Frame { origin, wall_ns, age_ns, .. } = *frame;
        let value = Value { origin, mono_ns: now_ns.saturating_sub(age_ns).max(1), wall_ns, payload: &self.words, len };
        self.ring.put(frame.rank, &value)?;
        (rank.newest, rank.spoke) = (Some(origin), true);
        count(&self.counters.published);
        Ok(())
    }

    /// What is no snapshot counts only from the sender whose value the slot holds.
    fn is_from_sender(&mut self, frame: &Frame) -> Result<(), Fate> {
        if self.newest(frame.rank)?.map(incarnation) == Some(incarnation(frame.origin)) {
            return Ok(());
        }
        Err(Fate::Dropped(|counters| &counters.replaced))
    }

    fn beat(&mut self, frame: &Frame, peer: Peer, now_ns: u64) -> Result<(), Fate> {
        self.is_from_sender(frame)?;
        self.heard(frame.rank, peer, now_ns);
        self.ring.beat(frame.rank, now_ns)?;
        count(&self.counters.beats);
        Ok(())
    }

    fn goodbye(&mut self, frame: &Frame) -> Result<(), Fate> {
        self.is_from_sender(frame)?;
        self.bury(frame.rank)?;
        count(&self.counters.goodbyes);
        Ok(())
    }

    /// Shows `rank` as DEAD, unless a local writer has it by now.
    fn bury(&mut self, rank: u32) -> Result<(), Error> {
        if self.ring.holds(rank) || self.ring.hold(rank)? {
            self.ring.release_dead(rank)?;
        }
        let state = &mut self.ranks[rank as usize];
        (state.peer, state.gone, state.spoke) = (NOBODY, None, false);
        Ok(())
    }

    /// Buries the ranks that an earlier relay filled and whose senders did not come back. One that cannot be buried now
    /// holds up no other; all are looked at again later.
    fn bury_orphans(&mut self, now_ns: u64) -> Result<(), Error> {
        self.orphans_at_ns = None;
        for rank in 0..self.header.geometry.ranks {
            if self.ring.is_orphan(rank)?
                && let Err(error) = self.bury(rank)
            {
                self.orphans_at_ns = Some(now_ns + UNSURE_NS);
                self.fail(error);
            }
        }
        Ok(())
    }

    /// Notes that the connection of `peer` ended at `now_ns`. `unsure`: its descriptor is in use again already, so ranks
    /// that seem to be on it may have come back.
    pub fn disconnected(&mut self, peer: Peer, unsure: bool, now_ns: u64) {
        for (rank, state) in (0..).zip(&mut self.ranks) {
            // The first end counts: later ones of that number are of connections that brought nothing of this rank.
            if state.peer == peer && peer != NOBODY && state.gone.is_none() {
                state.gone = Some((now_ns, if unsure { UNSURE_NS } else { GONE_NS }));
                self.going.push(rank);
            }
        }
    }

    /// Gives up ranks that stay silent, wakes readers, follows a ring that moved. Says when to call again at the latest.
    pub fn turn(&mut self, now_ns: u64) -> Result<Option<u64>, Error> {
        self.ring.ring_bell()?;
        if now_ns >= self.follow_at_ns {
            self.follow_at_ns = now_ns + FOLLOW_AGAIN_NS; // unless it works
            if self.ring.follow(now_ns)? {
                self.header = self.ring.header()?;
                self.checks = checks(&self.header);
            }
            self.follow_at_ns = 0;
        }
        if self.orphans_at_ns.is_some_and(|at_ns| at_ns <= now_ns) {
            self.bury_orphans(now_ns)?;
        }
        let gone = self.bury_gone(now_ns);
        Ok([self.orphans_at_ns, gone].into_iter().flatten().min())
    }

    /// Buries the ranks that were silent for long enough since their connection ended; when the next one is due.
    fn bury_gone(&mut self, now_ns: u64) -> Option<u64> {
        let mut next: Option<u64> = None;
        for rank in std::mem::take(&mut self.going) {
            let Some((since_ns, limit_ns)) = self.ranks[rank as usize].gone else { continue }; // it came back
            let mut over_ns = since_ns + limit_ns;
            if over_ns <= now_ns {
                let Err(error) = self.bury(rank) else { continue };
                self.fail(error);
                over_ns = now_ns + GONE_NS;
            }
            next = Some(next.map_or(over_ns, |next| next.min(over_ns)));
            self.going.push(rank);
        }
        next
    }

    /// Gives everything back; removes the ring where nobody else uses it, unless `keep`.
    pub fn close(mut self, keep: bool) -> Result<(), Error> {
        self.ring.close(keep)
    }
}

fn checks(header: &Header) -> Option<Checks> {
    (header.schema.codec() == Codec::Record).then(|| Checks::of(&header.schema))
}

/// Why a message was not taken.
enum Fate {
    Dropped(fn(&Counters) -> &AtomicU64),
    Failed(Error),
}

impl From<Error> for Fate {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}
