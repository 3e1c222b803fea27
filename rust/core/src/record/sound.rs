//! Are these words a record that a writer would have stored? For words that come from elsewhere.

use super::{ABSENT_FLOAT, Place, get_int, get_len, get_text, is_present};
use crate::schema::{Field, Fill, Kind, Schema};

/// The checks of one schema, compiled: a relay makes them for every snapshot, and a schema's own fields are spread over
/// so much memory that walking them would cost several times as much.
#[derive(Debug)]
pub struct Checks {
    words: usize,
    fields: Box<[Check]>,
}

/// What there is to know of one field.
#[derive(Debug)]
struct Check {
    place: Place,
    choices: u32,
    kind: Kind,
    fill: Option<Fill>,
}

impl Checks {
    /// The checks of `schema`.
    pub fn of(schema: &Schema) -> Self {
        Self { words: schema.words(), fields: schema.fields().iter().map(Check::of).collect() }
    }

    /// Checks that `words` are a record of the schema by the writer of `rank`. An error is the index of the first field
    /// that is wrong, or the number of fields when there are too few words or too many.
    ///
    /// Refused are: absent fields whose words are not those of an absent one, bools other than 0 and 1, choices that do
    /// not exist, integers that mean *absent*, lengths over the field's, text that is not UTF-8, another rank, and a
    /// moment of publish that is no finite number from 0 up. NaN and infinities of other fields are values, as they are
    /// for local writers.
    pub fn check(&self, words: &[u64], rank: u32) -> Result<(), usize> {
        if words.len() != self.words {
            return Err(self.fields.len());
        }
        self.fields.iter().position(|field| !field.passes(words, rank)).map_or(Ok(()), Err)
    }
}

impl Check {
    fn of(field: &Field) -> Self {
        Self { place: field.place(), choices: field.choices.len() as u32, kind: field.kind, fill: field.fill }
    }

    #[inline]
    fn passes(&self, words: &[u64], rank: u32) -> bool {
        if !is_present(words, self.place) {
            return self.is_cleared(words);
        }
        self.is_sound(words) && self.is_filled(words, rank)
    }

    #[inline]
    fn is_sound(&self, words: &[u64]) -> bool {
        let place = self.place;
        let word = place.word as usize;
        match self.kind {
            Kind::Int => words[word] != i64::MIN as u64,
            Kind::Bool => words[word] < 2,
            Kind::Enum => words[word] < u64::from(self.choices),
            Kind::Float | Kind::Struct => true,
            Kind::Str => get_text(words, place).is_ok(),
            Kind::Bytes | Kind::ListFloat => get_len(words, place).is_ok(),
            Kind::ListInt => get_len(words, place)
                .is_ok_and(|len| !words[word + 1..=word + len].contains(&(i64::MIN as u64))),
        }
    }

    #[inline]
    fn is_filled(&self, words: &[u64], rank: u32) -> bool {
        match self.fill {
            None => true,
            Some(Fill::Rank) => get_int(words, self.place) == i64::from(rank),
            Some(Fill::Timestamp) => {
                let moment = f64::from_bits(words[self.place.word as usize]);
                moment.is_finite() && moment >= 0.0
            }
        }
    }

    /// Whether the words of an absent field are those that [`Field`] clears it to; the rest of a list or text does not
    /// matter, since its length says that there is none.
    #[inline]
    fn is_cleared(&self, words: &[u64]) -> bool {
        let word = words[self.place.word as usize];
        match self.kind {
            Kind::Float => word == ABSENT_FLOAT,
            Kind::Struct => true,
            _ => word == i64::MIN as u64,
        }
    }
}
