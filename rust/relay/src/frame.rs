//! What a sender puts on the wire: one `ZeroMQ` message of one part, fixed little-endian, decoded defensively.
//!
//! ```text
//! byte  size  content
//!    0     8  magic, the bytes "SNAPWIRE"
//!    8     4  format, 1
//!   12     4  kind: 0 snapshot, 1 beat (a sign of life), 2 goodbye (the sender closed)
//!   16     4  rank
//!   20     4  bytes of the payload; 0 unless a snapshot
//!   24     8  job: BLAKE2b-64 of the job id, of no bytes when there is none
//!   32     8  fingerprint of the schema
//!   40     8  origin: wall clock of the sender's start, ns since 1970
//!   48     8  origin: random
//!   56     8  origin: the sender's own version, 1, 2, 3 ...; in a beat or goodbye the last one sent
//!   64     8  wall clock at publish, ns since 1970; in a beat or goodbye at send
//!   72     8  age at send, ns: time since publish by the sender's monotonic clock; in a beat or goodbye 0
//!   80        payload: the words of a record, or free bytes
//! ```
//!
//! A receiver cannot compare clocks of two hosts, so it dates a value by its receipt less the age. An age is taken anew
//! for every send: a value that waited for a connection arrives as old as it is.

use blake2::digest::consts::U8;
use blake2::{Blake2b, Digest};
use snapring_core::Origin;

/// Bytes before the payload.
pub const HEADER_BYTES: usize = 80;
/// Version of the frame; a receiver refuses every other one.
pub const FORMAT: u32 = 1;

const MAGIC: u64 = u64::from_le_bytes(*b"SNAPWIRE");

/// What a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Carries a value.
    Snapshot = 0,
    /// The sender lives, although it publishes nothing.
    Beat = 1,
    /// The sender closed in good order.
    Goodbye = 2,
}

/// Everything in a frame but its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it is for.
    pub kind: Kind,
    /// Rank of the sender, not checked against any ring.
    pub rank: u32,
    /// [`job_hash`] of the sender's job.
    pub job: u64,
    /// Fingerprint of the sender's schema.
    pub fingerprint: u64,
    /// The sender's incarnation and version.
    pub origin: Origin,
    /// Wall clock at publish, ns since 1970.
    pub wall_ns: u64,
    /// Time since publish, ns, when the frame was sent.
    pub age_ns: u64,
    /// Bytes of the payload; 0 unless a snapshot.
    pub payload_bytes: u32,
}

/// Why bytes are no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Malformed {
    /// Shorter than a header.
    #[error("{0} bytes are too few for a frame, which has at least {HEADER_BYTES}")]
    Short(usize),
    /// Something else than a frame.
    #[error("it does not begin with the bytes SNAPWIRE")]
    Magic,
    /// From a snapring that writes frames another way.
    #[error("its format is {0}, known is {FORMAT}; run the same snapring on all nodes")]
    Format(u32),
    /// No such kind.
    #[error("its kind is {0}, which means nothing in format {FORMAT}")]
    Kind(u32),
    /// The payload is not as long as the header says, or a sign of life has one.
    #[error("it says {says} bytes of payload and has {has}; only a snapshot has any")]
    Length {
        /// What the header says.
        says: u32,
        /// What follows it.
        has: usize,
    },
}

impl Frame {
    /// Puts the frame into `into`, in place of what is there. The payload is the first `payload_bytes` bytes of the
    /// words, little-endian; words that are missing are 0.
    pub fn encode(&self, payload: &[u64], into: &mut Vec<u8>) {
        let Origin { start, random, version } = self.origin;
        let header = [
            MAGIC,
            pair(FORMAT, self.kind as u32),
            pair(self.rank, self.payload_bytes),
            self.job,
            self.fingerprint,
            start,
            random,
            version,
            self.wall_ns,
            self.age_ns,
        ];
        let bytes = self.payload_bytes as usize;
        let words = &payload[..payload.len().min(bytes.div_ceil(8))];
        into.clear();
        into.extend(header.iter().chain(words).flat_map(|word| word.to_le_bytes()));
        into.resize(HEADER_BYTES + bytes, 0);
    }

    /// The frame that `bytes` are, and its payload. Rank, job, fingerprint and origin are as the sender wrote them:
    /// whoever stores the value checks them.
    pub fn decode(bytes: &[u8]) -> Result<(Self, &[u8]), Malformed> {
        let (header, payload) = bytes.split_at_checked(HEADER_BYTES).ok_or(Malformed::Short(bytes.len()))?;
        let (header, _) = header.as_chunks::<8>();
        let word = |index: usize| u64::from_le_bytes(header[index]);
        let halves = |index: usize| (word(index) as u32, (word(index) >> 32) as u32);
        if word(0) != MAGIC {
            return Err(Malformed::Magic);
        }
        let ((format, kind), (rank, payload_bytes)) = (halves(1), halves(2));
        if format != FORMAT {
            return Err(Malformed::Format(format));
        }
        let kind = match kind {
            0 => Kind::Snapshot,
            1 => Kind::Beat,
            2 => Kind::Goodbye,
            unknown => return Err(Malformed::Kind(unknown)),
        };
        if payload.len() != payload_bytes as usize || (kind != Kind::Snapshot && !payload.is_empty()) {
            return Err(Malformed::Length { says: payload_bytes, has: payload.len() });
        }
        let frame = Self {
            kind,
            rank,
            job: word(3),
            fingerprint: word(4),
            origin: Origin { start: word(5), random: word(6), version: word(7) },
            wall_ns: word(8),
            age_ns: word(9),
            payload_bytes,
        };
        Ok((frame, payload))
    }
}

/// BLAKE2b-64 of a job id, as a little-endian number: a frame has room for no text.
pub fn job_hash(job: &str) -> u64 {
    u64::from_le_bytes(Blake2b::<U8>::digest(job.as_bytes()).into())
}

/// Two halves of a word, the first one at the lower address.
fn pair(first: u32, second: u32) -> u64 {
    u64::from(second) << 32 | u64::from(first)
}
