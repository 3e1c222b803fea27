//! Values in and out of a record's words.
//!
//! The free functions do one field each, by its [`Place`], in a nanosecond or two: a binding compiles its plan to them.
//! [`Record`] and [`RecordMut`] are the same by name. Every check of a value lives here, once.
//!
//! A `put` function stores a value over absent words and does not touch the presence bit: [`mark`] sets that. They are
//! apart because 40 read-modify-writes of one presence word cost more than the 40 stores. Neither function is
//! meaningful for a place of another schema; they stay memory-safe and panic if it lies outside `words`.

mod named;
mod sound;

use crate::schema::WORD_BYTES;

pub use named::{Record, RecordMut, Value};
pub use sound::Checks;

/// The word of an absent integer, bool or enum, and of the length of an absent text or list.
pub const ABSENT_INT: u64 = i64::MIN as u64;
/// The word of an absent float, a quiet NaN.
pub const ABSENT_FLOAT: u64 = 0x7ff8_0000_0000_0000;

/// Where a field stands in a record, computed once by [`crate::schema::Field::place`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Index of the first word of the value.
    pub word: u32,
    /// Index of the word with the presence bit.
    pub bit_word: u32,
    /// The presence bit in that word.
    pub bit_mask: u64,
    /// Most bytes or items, 0 where there is no length.
    pub max: u32,
}

/// What is wrong with a value; small, because it is on the hot path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// No field of that name.
    #[error("is not a field of this record")]
    Unknown,
    /// The value is of another kind than the field.
    #[error("does not take this kind of value")]
    Kind,
    /// `INT64_MIN`, which means *absent*.
    #[error("cannot be -2**63: that number stands for an absent value")]
    Reserved,
    /// Outside the 64-bit integers.
    #[error("is out of range: integers have 64 bits")]
    OutOfRange,
    /// Not among the field's choices.
    #[error("is none of the choices that the ring's schema has; recreate the ring with the newer class")]
    UnknownChoice,
    /// More bytes or items than the field has room for.
    #[error("has {got} bytes or items, more than its maximum of {max}")]
    TooLong {
        /// The field's limit.
        max: u32,
        /// What was given.
        got: usize,
    },
    /// Words that no writer stores: a bad length, or text that is not UTF-8.
    #[error("holds words that no writer stores")]
    Corrupt,
    /// The words are fewer than the record's.
    #[error("does not fit: the record's words are cut short")]
    Short,
}

/// A [`Fault`] and the field that has it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field:?} {fault}")]
pub struct RecordError {
    /// Dotted name of the field, or the schema's name.
    pub field: String,
    /// What is wrong.
    pub fault: Fault,
}

/// Whether the field is reported.
#[inline]
pub fn is_present(words: &[u64], place: Place) -> bool {
    words[place.bit_word as usize] & place.bit_mask != 0
}

/// Says that the field is reported.
#[inline]
pub fn mark(words: &mut [u64], place: Place) {
    words[place.bit_word as usize] |= place.bit_mask;
}

/// Says that the field is not reported. The value's words must still be, or be made, those of an absent value.
#[inline]
pub fn unmark(words: &mut [u64], place: Place) {
    words[place.bit_word as usize] &= !place.bit_mask;
}

/// Refuses the one integer that means *absent*.
#[inline]
fn integer(value: i64) -> Result<u64, Fault> {
    if value == i64::MIN { Err(Fault::Reserved) } else { Ok(value as u64) }
}

/// Stores an integer at [`Place::word`].
#[inline]
pub fn put_int(words: &mut [u64], word: u32, value: i64) -> Result<(), Fault> {
    words[word as usize] = integer(value)?;
    Ok(())
}

/// Stores a float, whatever its value, at [`Place::word`].
#[inline]
pub fn put_float(words: &mut [u64], word: u32, value: f64) {
    words[word as usize] = value.to_bits();
}

/// Stores a bool.
#[inline]
pub fn put_bool(words: &mut [u64], place: Place, value: bool) {
    words[place.word as usize] = u64::from(value);
}

/// Stores the position of a choice, which the caller has found among the field's.
#[inline]
pub fn put_choice(words: &mut [u64], place: Place, position: usize) {
    words[place.word as usize] = position as u64;
}

/// Stores a length of bytes or items and checks it; the items follow by [`put_int_item`] or [`put_float_item`].
#[inline]
pub fn put_len(words: &mut [u64], place: Place, len: usize) -> Result<(), Fault> {
    if len > place.max as usize {
        return Err(Fault::TooLong { max: place.max, got: len });
    }
    words[place.word as usize] = len as u64;
    Ok(())
}

/// Stores the bytes of a text or bytes field.
#[inline]
pub fn put_bytes(words: &mut [u64], place: Place, value: &[u8]) -> Result<(), Fault> {
    put_len(words, place, value.len())?;
    let first = place.word as usize + 1;
    for (word, chunk) in words[first..].iter_mut().zip(value.chunks(WORD_BYTES)) {
        let mut bytes = [0; WORD_BYTES];
        bytes[..chunk.len()].copy_from_slice(chunk);
        *word = u64::from_le_bytes(bytes);
    }
    Ok(())
}

/// Stores item `index` of a list whose length is stored already.
#[inline]
pub fn put_int_item(words: &mut [u64], place: Place, index: usize, value: i64) -> Result<(), Fault> {
    *item(words, place, index)? = integer(value)?;
    Ok(())
}

/// As [`put_int_item`], for floats.
#[inline]
pub fn put_float_item(words: &mut [u64], place: Place, index: usize, value: f64) -> Result<(), Fault> {
    *item(words, place, index)? = value.to_bits();
    Ok(())
}

#[inline]
fn item(words: &mut [u64], place: Place, index: usize) -> Result<&mut u64, Fault> {
    if index >= place.max as usize {
        return Err(Fault::TooLong { max: place.max, got: index + 1 });
    }
    Ok(&mut words[place.word as usize + 1 + index])
}

/// The integer, bool (not 0) or choice position of a reported field.
#[inline]
pub fn get_int(words: &[u64], place: Place) -> i64 {
    words[place.word as usize] as i64
}

/// The float of a reported field.
#[inline]
pub fn get_float(words: &[u64], place: Place) -> f64 {
    f64::from_bits(words[place.word as usize])
}

/// The checked length of a reported text, bytes or list field.
#[inline]
pub fn get_len(words: &[u64], place: Place) -> Result<usize, Fault> {
    let len = words[place.word as usize];
    if len > u64::from(place.max) { Err(Fault::Corrupt) } else { Ok(len as usize) }
}

/// The words of a reported list's items; those of floats are their bits.
#[inline]
pub fn get_items(words: &[u64], place: Place) -> Result<&[u64], Fault> {
    let first = place.word as usize + 1;
    Ok(&words[first..first + get_len(words, place)?])
}

/// The bytes of a reported text or bytes field.
pub fn get_bytes(words: &[u64], place: Place) -> Result<Vec<u8>, Fault> {
    let len = get_len(words, place)?;
    let first = place.word as usize + 1;
    let data = &words[first..first + len.div_ceil(WORD_BYTES)];
    let mut bytes: Vec<u8> = data.iter().flat_map(|word| word.to_le_bytes()).collect();
    bytes.truncate(len);
    Ok(bytes)
}

/// The text of a reported text field.
pub fn get_text(words: &[u64], place: Place) -> Result<String, Fault> {
    String::from_utf8(get_bytes(words, place)?).map_err(|_| Fault::Corrupt)
}
