//! What a writer is asked for.

use crate::dir::DirOptions;
use crate::schema::{Codec, Schema};
use std::sync::Arc;

/// What a writer wants.
#[derive(Clone, Debug)]
pub struct WriterOptions {
    /// Ring.
    pub name: String,
    /// Rank to write, below `ranks`.
    pub rank: u32,
    /// Ranks of the ring.
    pub ranks: u32,
    /// Cells of each slot; `None` takes what the ring has, or the default.
    pub cells: Option<u32>,
    /// Largest payload in bytes, for free payloads; `None` takes what the ring has, or the default of 4,096.
    pub payload: Option<usize>,
    /// What the payloads are.
    pub schema: Arc<Schema>,
    /// Job id, up to 64 bytes; empty for none.
    pub job: String,
    /// Leave the file behind when the last writer closes.
    pub keep: bool,
    /// Take a ring of this very schema only, however compatible another one is: for who stores records as they come.
    pub exact: bool,
    /// Ring a bell for waiters.
    pub wake: bool,
    /// Where.
    pub dir: DirOptions,
}

impl WriterOptions {
    /// Defaults for everything but the essentials.
    pub fn new(name: &str, rank: u32, ranks: u32, schema: Arc<Schema>) -> Self {
        Self {
            name: name.to_owned(),
            rank,
            ranks,
            cells: None,
            payload: None,
            schema,
            job: String::new(),
            keep: false,
            exact: false,
            wake: true,
            dir: DirOptions::default(),
        }
    }
}

impl WriterOptions {
    /// Bytes that a payload may have at most, unless the ring is there already and has other cells.
    pub fn payload_room(&self) -> usize {
        match self.schema.codec() {
            Codec::Record => self.schema.record_bytes(),
            Codec::Bytes | Codec::Msgpack => self.payload.unwrap_or(DEFAULT_PAYLOAD),
        }
    }
}

/// Largest free payload when nobody says otherwise, bytes.
pub const DEFAULT_PAYLOAD: usize = 4096;
