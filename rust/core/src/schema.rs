//! What a ring's payload is made of: the fields of a record, where each stands, and what it means.
//!
//! The canonical JSON text of a schema stands in the ring's header, so any tool can decode any ring with no other
//! source. A record is a row of 64-bit little-endian words:
//!
//! ```text
//! presence   one bit per field, bit b in word b / 64; nested sections have one too
//! fields     int, float, bool, enum      1 word        absent: INT64_MIN, or NaN for a float
//!            str, bytes                  1 + max/8     byte length, then the bytes, zero padded
//!            list of int or float        1 + max       item count, then the items, padded as if absent
//!            section (struct)            0             only its presence bit
//! ```
//!
//! The presence bit decides; the absent words are there so that a raw array cannot mistake *not reported* for 0.
//! An enum is stored as the position of its value among `choices`.

mod check;
mod field;

use std::collections::HashMap;

use blake2::digest::consts::U8;
use blake2::{Blake2b, Digest};
use serde::{Deserialize, Serialize};

pub use field::{Choice, Field, Fill, Kind};

/// Version of the JSON text; a reader refuses every other one.
pub const SCHEMA_FORMAT: u32 = 1;
/// Bytes of a word, the unit of every record.
pub const WORD_BYTES: usize = 8;
/// Most fields that a schema may have, sections included.
pub const MAX_FIELDS: usize = 1024;
/// Most bytes that a record may have.
pub const MAX_RECORD_BYTES: usize = 1 << 20;
/// Most bytes that the JSON text of a schema may have.
pub const MAX_SCHEMA_TEXT: usize = 1 << 20;

/// Why a text or a list of fields is no schema.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a valid schema: {0}")]
pub struct SchemaError(pub(crate) String);

/// How a payload is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Codec {
    /// Fixed words, described by the fields.
    Record,
    /// Free bytes.
    Bytes,
    /// One msgpack value.
    Msgpack,
}

/// A checked description of a ring's payload: fields do not overlap, lie inside the record and have unique names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schema {
    name: String,
    codec: Codec,
    bytes: u32,
    fields: Vec<Field>,
    index: HashMap<String, usize>,
    absent: Vec<u64>,
}

impl Schema {
    /// Starts a record schema.
    pub fn builder(name: &str) -> Builder {
        Builder { name: name.to_owned(), fields: Vec::new() }
    }

    /// The schema of free bytes.
    pub fn bytes() -> Self {
        Self::free("bytes", Codec::Bytes)
    }

    /// The schema of msgpack values; `type_name` is for display only.
    pub fn msgpack(type_name: &str) -> Self {
        Self::free(type_name, Codec::Msgpack)
    }

    fn free(name: &str, codec: Codec) -> Self {
        let name = name.to_owned();
        Self { name, codec, bytes: 0, fields: Vec::new(), index: HashMap::new(), absent: Vec::new() }
    }

    /// Takes fields that [`check`] has found sound.
    fn from_checked(name: String, codec: Codec, bytes: u32, fields: Vec<Field>) -> Self {
        let index = fields.iter().enumerate().map(|(i, field)| (field.name.clone(), i)).collect();
        let mut absent = vec![0; bytes as usize / WORD_BYTES];
        for field in &fields {
            field.clear(&mut absent);
        }
        Self { name, codec, bytes, fields, index, absent }
    }

    /// Name of the record's class, for display only.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How a payload is written.
    pub const fn codec(&self) -> Codec {
        self.codec
    }

    /// Bytes of a record; 0 where the codec is not [`Codec::Record`].
    pub const fn record_bytes(&self) -> usize {
        self.bytes as usize
    }

    /// Words of a record.
    pub const fn words(&self) -> usize {
        self.record_bytes() / WORD_BYTES
    }

    /// All fields, sections before what they hold.
    pub fn fields(&self) -> &[Field] {
        &self.fields
    }

    /// The field of that dotted name.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.index.get(name).map(|&i| &self.fields[i])
    }

    /// The words of a record in which nothing is reported; copy it to clear one.
    pub fn absent(&self) -> &[u64] {
        &self.absent
    }

    /// BLAKE2b-64 of the canonical text, read as a little-endian number.
    pub fn fingerprint(&self) -> u64 {
        let digest = Blake2b::<U8>::digest(self.to_json().as_bytes());
        u64::from_le_bytes(digest.into())
    }
}

/// Collects fields and lays them out: the presence words, then the fields in the order given; bit i is field i.
#[derive(Debug, Clone)]
pub struct Builder {
    name: String,
    fields: Vec<Field>,
}

impl Builder {
    /// Appends a field; a section comes before its fields.
    #[must_use]
    pub fn with(mut self, field: Field) -> Self {
        self.fields.push(field);
        self
    }

    /// Lays the fields out and checks them.
    pub fn build(self) -> Result<Schema, SchemaError> {
        let Self { name, mut fields } = self;
        check::counts(&fields)?;
        let mut word = fields.len().div_ceil(u64::BITS as usize);
        for (bit, field) in fields.iter_mut().enumerate() {
            field.bit = bit as u32;
            field.offset = u32::try_from(word * WORD_BYTES).map_err(|_| check::too_large())?;
            word += field.words();
        }
        let bytes = u32::try_from(word * WORD_BYTES).map_err(|_| check::too_large())?;
        check::record(&name, bytes, &fields)?;
        Ok(Schema::from_checked(name, Codec::Record, bytes, fields))
    }
}
