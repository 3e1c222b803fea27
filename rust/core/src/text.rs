//! Snapshots as text, straight from their rows: JSON and what Prometheus scrapes.
//!
//! What the text says is the caller's: literals and, between them, values that a [`Source`] names. Here is only how a
//! value is taken out of a row and written, because that is most of the work of a request for all ranks.

mod document;
mod exposition;
mod source;

use crate::layout::cell;
use crate::ring::State;
use crate::slot::Stamp;
use blake2::digest::consts::U8;
use blake2::{Blake2b, Digest};

pub use document::{Document, Part, Rendered};
pub use exposition::{Exposition, Family, Sample, SampleValue};
pub use source::Source;

/// The rows of all ranks, in order of rank, with what else is known of each as of one moment.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// Stamps and payloads, `row_words` words each; a rank without a snapshot has version 0.
    pub words: &'a [u64],
    /// Words of a row.
    pub row_words: usize,
    /// A state per row.
    pub states: &'a [State],
    /// The generation.
    pub nonce: [u64; 2],
    /// The moment, on the monotonic clock.
    pub now_ns: u64,
}

/// One of the [`Rows`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row<'a> {
    rank: u32,
    state: State,
    words: &'a [u64],
    now_ns: u64,
}

impl<'a> Rows<'a> {
    /// The row of `rank`.
    fn get(&self, rank: u32) -> Option<Row<'a>> {
        let state = *self.states.get(rank as usize)?;
        let words = self.words.get(rank as usize * self.row_words..)?.get(..self.row_words)?;
        Some(Row { rank, state, words, now_ns: self.now_ns })
    }

    fn iter(&self) -> impl Iterator<Item = Row<'a>> + '_ {
        (0..self.states.len() as u32).filter_map(|rank| self.get(rank))
    }
}

impl Row<'_> {
    fn version(&self) -> u64 {
        self.words[cell::VERSION]
    }

    fn epoch(&self) -> u64 {
        self.words[cell::EPOCH]
    }

    /// What differs where the rank's snapshot or state does, within a generation; never all zeros. Who scribbles over its
    /// own slot without a new version may go on being shown as before.
    fn identity(&self) -> [u64; 3] {
        [self.state as u64 + 1, self.epoch(), self.version()]
    }

    fn payload(&self) -> &[u64] {
        &self.words[cell::PAYLOAD..]
    }

    /// When it was published, on this process's monotonic clock.
    fn mono_ns(&self) -> u64 {
        Stamp::of(self.words).mono_ns
    }
}

/// 16 hex digits that differ where the generation or any rank's identity does.
fn tag(nonce: [u64; 2], identities: impl Iterator<Item = [u64; 3]>) -> String {
    let mut hash = Blake2b::<U8>::new();
    for word in nonce.into_iter().chain(identities.flatten()) {
        hash.update(word.to_le_bytes());
    }
    format!("{:016x}", u64::from_be_bytes(hash.finalize().into()))
}

fn push_int(out: &mut Vec<u8>, value: i64) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

fn push_unsigned(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// The shortest digits that read back as the same float; JSON has no other numbers, so the caller deals with those.
fn push_finite(out: &mut Vec<u8>, value: f64) {
    out.extend_from_slice(zmij::Buffer::new().format_finite(value).as_bytes());
}

/// Seconds since `mono_ns`, to the microsecond: no clock here tells more.
fn age_s(now_ns: u64, mono_ns: u64) -> f64 {
    (now_ns.saturating_sub(mono_ns) / 1_000) as f64 / 1e6
}
