//! Are these words a record that a writer would have stored? For words that come from elsewhere.

use super::{ABSENT_FLOAT, Fault, Place, RecordError, get_int, get_len, get_text, is_present};
use crate::schema::{Field, Fill, Kind, Schema};

/// Checks every field of `words`, a record of `schema` by the writer of `rank`.
///
/// Refused are: absent fields whose words are not those of an absent one, bools other than 0 and 1, choices that do not
/// exist, integers that mean *absent*, lengths over the field's, text that is not UTF-8, another rank, and a moment of
/// publish that is no finite number from 0 up. NaN and infinities of other fields are values, as they are for local
/// writers.
pub fn check(schema: &Schema, words: &[u64], rank: u32) -> Result<(), RecordError> {
    if words.len() != schema.words() {
        return Err(RecordError { field: schema.name().to_owned(), fault: Fault::Short });
    }
    for field in schema.fields() {
        if let Err(fault) = check_field(field, words, rank) {
            return Err(RecordError { field: field.name.clone(), fault });
        }
    }
    Ok(())
}

#[inline]
fn check_field(field: &Field, words: &[u64], rank: u32) -> Result<(), Fault> {
    let place = field.place();
    if !is_present(words, place) {
        return if is_cleared(field, words, place) { Ok(()) } else { Err(Fault::Corrupt) };
    }
    let word = place.word as usize;
    let sound = match field.kind {
        Kind::Int => words[word] != i64::MIN as u64,
        Kind::Bool => words[word] < 2,
        Kind::Enum => words[word] < field.choices.len() as u64,
        Kind::Float | Kind::Struct => true,
        Kind::Str => get_text(words, place).is_ok(),
        Kind::Bytes | Kind::ListFloat => get_len(words, place).is_ok(),
        Kind::ListInt => {
            let len = get_len(words, place)?;
            !words[word + 1..=word + len].contains(&(i64::MIN as u64))
        }
    };
    let filled = match field.fill {
        None => true,
        Some(Fill::Rank) => get_int(words, place) == i64::from(rank),
        Some(Fill::Timestamp) => {
            let moment = f64::from_bits(words[word]);
            moment.is_finite() && moment >= 0.0
        }
    };
    if sound && filled { Ok(()) } else { Err(Fault::Corrupt) }
}

/// Whether the words of an absent field are those that [`Field`] clears it to; the rest of a list or text does not
/// matter, since its length says that there is none.
fn is_cleared(field: &Field, words: &[u64], place: Place) -> bool {
    let absent_int = i64::MIN as u64;
    match field.kind {
        Kind::Float => words[place.word as usize] == ABSENT_FLOAT,
        Kind::Struct => true,
        _ => words[place.word as usize] == absent_int,
    }
}
