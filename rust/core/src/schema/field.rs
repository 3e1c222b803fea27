//! One field of a record: what it holds, and where.

use serde::{Deserialize, Serialize};

use super::WORD_BYTES;
use crate::record::{ABSENT_FLOAT, ABSENT_INT, Place};

/// What a field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A signed 64-bit integer other than `INT64_MIN`.
    Int,
    /// A 64-bit float; NaN and infinities count as present.
    Float,
    /// 0 or 1.
    Bool,
    /// UTF-8 text of at most `max` bytes.
    Str,
    /// At most `max` bytes.
    Bytes,
    /// At most `max` integers.
    ListInt,
    /// At most `max` floats.
    ListFloat,
    /// One of `choices`, stored as its position.
    Enum,
    /// A nested section; its fields follow with dotted names.
    Struct,
}

impl Kind {
    /// Whether `max` bounds a length.
    pub const fn is_sized(self) -> bool {
        matches!(self, Self::Str | Self::Bytes | Self::ListInt | Self::ListFloat)
    }
}

/// Who fills a field that the publisher leaves out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fill {
    /// The writer's rank; a value given must equal it.
    Rank,
    /// Wall-clock seconds at publish.
    Timestamp,
}

/// One value that an enum field may take.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Choice {
    /// A number.
    Int(i64),
    /// A text.
    Str(String),
}

/// One field of a record. `offset` and `bit` are given by [`super::Builder`] or by the text that was parsed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Field {
    /// Dotted path: `memory.weight_gb` is the field `weight_gb` of section `memory`.
    pub name: String,
    /// What it holds.
    pub kind: Kind,
    /// Bytes from the start of the record, a multiple of 8.
    pub offset: u32,
    /// Presence bit.
    pub bit: u32,
    /// Most bytes of a text or bytes field, most items of a list; 0 for the others.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub max: u32,
    /// Values of an enum, in the order of their stored positions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub choices: Vec<Choice>,
    /// Unit of the value, empty if it has none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub unit: String,
    /// One line for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub doc: String,
    /// Who fills it when the publisher does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fill: Option<Fill>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
const fn is_zero(max: &u32) -> bool {
    *max == 0
}

impl Field {
    /// A field of a kind without a length.
    pub fn new(name: &str, kind: Kind) -> Self {
        Self {
            name: name.to_owned(),
            kind,
            offset: 0,
            bit: 0,
            max: 0,
            choices: Vec::new(),
            unit: String::new(),
            doc: String::new(),
            fill: None,
        }
    }

    /// A text, bytes or list field of at most `max` bytes or items.
    pub fn sized(name: &str, kind: Kind, max: u32) -> Self {
        Self { max, ..Self::new(name, kind) }
    }

    /// A field that takes one of `choices`; a later version may add some.
    pub fn choice(name: &str, choices: &[&str]) -> Self {
        let choices = choices.iter().map(|&text| Choice::Str(text.to_owned())).collect();
        Self { choices, ..Self::new(name, Kind::Enum) }
    }

    /// The same field with a unit.
    #[must_use]
    pub fn unit(self, unit: &str) -> Self {
        Self { unit: unit.to_owned(), ..self }
    }

    /// The same field with a line for people.
    #[must_use]
    pub fn doc(self, doc: &str) -> Self {
        Self { doc: doc.to_owned(), ..self }
    }

    /// The same field, filled by the writer when left out.
    #[must_use]
    pub fn fill(self, fill: Fill) -> Self {
        Self { fill: Some(fill), ..self }
    }

    /// Words that the value takes.
    pub const fn words(&self) -> usize {
        let max = self.max as usize;
        match self.kind {
            Kind::Int | Kind::Float | Kind::Bool | Kind::Enum => 1,
            Kind::Str | Kind::Bytes => 1 + max.div_ceil(WORD_BYTES),
            Kind::ListInt | Kind::ListFloat => 1 + max,
            Kind::Struct => 0,
        }
    }

    /// Where the value stands, for the functions of [`crate::record`].
    pub const fn place(&self) -> Place {
        Place {
            word: self.offset / WORD_BYTES as u32,
            bit_word: self.bit / u64::BITS,
            bit_mask: 1 << (self.bit % u64::BITS),
            max: self.max,
        }
    }

    /// Writes the words of an absent value.
    pub(super) fn clear(&self, words: &mut [u64]) {
        let start = self.offset as usize / WORD_BYTES;
        let words = &mut words[start..start + self.words()];
        words.fill(match self.kind {
            Kind::Float | Kind::ListFloat => ABSENT_FLOAT,
            Kind::Str | Kind::Bytes => 0,
            _ => ABSENT_INT,
        });
        if self.kind.is_sized() {
            words[0] = ABSENT_INT;
        }
    }
}
