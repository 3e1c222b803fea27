//! The header: who made this file, how large its parts are, and what its records mean.
//!
//! The file is hostile input: the header is copied once, by `pread`, so that neither a second look nor a truncation can
//! play tricks, and checked against the file's true size.

use crate::error::Error;
use crate::layout::{FORMAT, Geometry, MAGIC, MAX_JOB, header};
use crate::schema::Schema;
use std::sync::Arc;

/// A checked header.
#[derive(Clone, Debug)]
pub struct Header {
    /// Sizes.
    pub geometry: Geometry,
    /// Wall clock at creation, ns since 1970.
    pub created_ns: u64,
    /// Kernel boot in which it was made.
    pub boot_id: [u64; 2],
    /// Identity of this generation.
    pub nonce: [u64; 2],
    /// Job, empty for none.
    pub job: String,
    /// What the payloads are.
    pub schema: Arc<Schema>,
    /// The schema's text, as it stands in the file.
    pub schema_text: String,
}

impl Header {
    /// The header's words, whole pages, as they stand in a finished file.
    ///
    /// They go into a file that nobody can name yet, so no order among them matters; the ready word only tells a whole
    /// header from a torn copy of one.
    pub fn to_words(&self) -> Vec<u64> {
        let geometry = &self.geometry;
        let mut words = vec![0; geometry.header_bytes / 8];
        for (index, value) in [
            (header::MAGIC, MAGIC),
            (header::FORMAT, FORMAT),
            (header::HEADER_BYTES, geometry.header_bytes as u64),
            (header::FILE_BYTES, geometry.file_bytes as u64),
            (header::RANKS, u64::from(geometry.ranks)),
            (header::CELLS, u64::from(geometry.cells)),
            (header::SLOT_STRIDE, geometry.slot_stride as u64),
            (header::CELL_STRIDE, geometry.cell_stride as u64),
            (header::PAYLOAD_BYTES, geometry.payload_bytes as u64),
            (header::CREATED_NS, self.created_ns),
            (header::BOOT_ID, self.boot_id[0]),
            (header::BOOT_ID + 1, self.boot_id[1]),
            (header::NONCE, self.nonce[0]),
            (header::NONCE + 1, self.nonce[1]),
            (header::JOB_LEN, self.job.len() as u64),
            (header::FINGERPRINT, self.schema.fingerprint()),
            (header::SCHEMA_OFFSET, header::WORDS as u64 * 8),
            (header::SCHEMA_LEN, self.schema_text.len() as u64),
            (header::SKEWS, geometry.skews as u64),
            (header::READY, 1),
        ] {
            words[index] = value;
        }
        store_bytes(&mut words[header::JOB..], self.job.as_bytes());
        store_bytes(&mut words[header::WORDS..], self.schema_text.as_bytes());
        words
    }

    /// Checks the header of a file of `file_bytes` bytes; `words` is a private copy of its first [`header_bytes`].
    pub fn from_words(words: &[u64], file_bytes: u64) -> Result<Self, Error> {
        let load = |index: usize| words[index];
        if words.len() < header::WORDS || load(header::MAGIC) != MAGIC || load(header::READY) != 1 {
            return Err(untrusted("it does not begin like a ring"));
        }
        let format = load(header::FORMAT);
        if format != FORMAT {
            return Err(Error::LayoutMismatch(format!(
                "the ring has format {format}, this snapring reads format {FORMAT}; run one version of snapring on both sides"
            )));
        }
        let schema_len = load(header::SCHEMA_LEN) as usize;
        let narrow = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        let geometry = Geometry::new(
            narrow(load(header::RANKS)),
            Some(narrow(load(header::CELLS))),
            load(header::PAYLOAD_BYTES) as usize,
            schema_len,
        )
        .map_err(|error| untrusted(&error.to_string()))?;
        let sizes = [
            (header::HEADER_BYTES, geometry.header_bytes),
            (header::SLOT_STRIDE, geometry.slot_stride),
            (header::CELL_STRIDE, geometry.cell_stride),
            (header::PAYLOAD_BYTES, geometry.payload_bytes),
            (header::FILE_BYTES, geometry.file_bytes),
            (header::SCHEMA_OFFSET, header::WORDS * 8),
            (header::SKEWS, geometry.skews),
        ];
        if sizes.iter().any(|&(index, size)| load(index) != size as u64) || file_bytes != geometry.file_bytes as u64 {
            return Err(untrusted("its sizes do not agree with each other or with the file's length"));
        }
        let job_len = load(header::JOB_LEN) as usize;
        if job_len > MAX_JOB || words.len() * 8 < geometry.header_bytes {
            return Err(untrusted("its header is cut off"));
        }
        let text = |start, len| String::from_utf8(load_bytes(words, start, len)).map_err(|_| untrusted("its text is not UTF-8"));
        let (job, schema_text) = (text(header::JOB, job_len)?, text(header::WORDS, schema_len)?);
        let schema = Schema::parse(&schema_text).map_err(|error| untrusted(&format!("its schema is bad: {error}")))?;
        if schema.fingerprint() != load(header::FINGERPRINT) || schema.record_bytes() > geometry.payload_bytes {
            return Err(untrusted("its schema does not fit its fingerprint or its cells"));
        }
        Ok(Self {
            geometry,
            created_ns: load(header::CREATED_NS),
            boot_id: [load(header::BOOT_ID), load(header::BOOT_ID + 1)],
            nonce: [load(header::NONCE), load(header::NONCE + 1)],
            job,
            schema: Arc::new(schema),
            schema_text,
        })
    }
}

/// Bytes of the whole header, given a private copy of its fixed part; bounded by what a header may be.
pub fn header_bytes(words: &[u64]) -> Result<usize, Error> {
    let schema_len = words[header::SCHEMA_LEN] as usize;
    if words[header::MAGIC] != MAGIC || schema_len > crate::layout::MAX_SCHEMA {
        return Err(untrusted("it does not begin like a ring"));
    }
    Ok((header::WORDS * 8 + schema_len).next_multiple_of(crate::layout::PAGE))
}

pub(crate) fn untrusted(reason: &str) -> Error {
    Error::Untrusted(format!("this is no ring that snapring made: {reason}; remove the file (snapring gc --force)"))
}

fn store_bytes(words: &mut [u64], bytes: &[u8]) {
    for (word, bytes) in words.iter_mut().zip(bytes.chunks(8)) {
        let mut padded = [0; 8];
        padded[..bytes.len()].copy_from_slice(bytes);
        *word = u64::from_le_bytes(padded);
    }
}

fn load_bytes(words: &[u64], start: usize, len: usize) -> Vec<u8> {
    let words = &words[start..start + len.div_ceil(8)];
    words.iter().flat_map(|word| word.to_le_bytes()).take(len).collect()
}
