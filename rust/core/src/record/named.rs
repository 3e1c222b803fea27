//! Records by field name: slower than the free functions by a lookup, and enough for most Rust programs.

use std::fmt;

use super::{
    Fault, RecordError, get_bytes, get_float, get_int, get_items, get_text, is_present, mark, put_bool, put_bytes,
    put_choice, put_float, put_float_item, put_int, put_int_item, put_len, unmark,
};
use crate::schema::{Choice, Field, Kind, Schema, WORD_BYTES};

/// A value of any field, for code that handles fields by name.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// An integer, or a choice that is a number.
    Int(i64),
    /// A float.
    Float(f64),
    /// A bool.
    Bool(bool),
    /// A text, or a choice that is one.
    Text(String),
    /// Bytes.
    Bytes(Vec<u8>),
    /// A list of integers.
    Ints(Vec<i64>),
    /// A list of floats.
    Floats(Vec<f64>),
    /// A section that is reported, whatever its fields.
    Section,
}

/// A record that can be read by field name.
#[derive(Clone, Copy)]
pub struct Record<'a> {
    schema: &'a Schema,
    words: &'a [u64],
}

impl<'a> Record<'a> {
    /// Looks at `words` as a record of `schema`.
    pub fn new(schema: &'a Schema, words: &'a [u64]) -> Result<Self, RecordError> {
        check_len(schema, words)?;
        Ok(Self { schema, words })
    }

    /// The value of a field, `None` where it is not reported.
    pub fn get(&self, name: &str) -> Result<Option<Value>, RecordError> {
        let field = find(self.schema, name)?;
        if !is_present(self.words, field.place()) {
            return Ok(None);
        }
        get(self.words, field).map(Some).map_err(|fault| error(name, fault))
    }
}

impl fmt::Debug for Record<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reported =
            self.schema.fields().iter().filter_map(|field| Some((&field.name, self.get(&field.name).ok()??)));
        f.debug_map().entries(reported).finish()
    }
}

/// A record that can be filled by field name; it begins with nothing reported.
pub struct RecordMut<'a> {
    schema: &'a Schema,
    words: &'a mut [u64],
}

impl<'a> RecordMut<'a> {
    /// Clears `words` and makes them a record of `schema`.
    pub fn new(schema: &'a Schema, words: &'a mut [u64]) -> Result<Self, RecordError> {
        check_len(schema, words)?;
        words[..schema.words()].copy_from_slice(schema.absent());
        Ok(Self { schema, words })
    }

    /// Goes on with `words` that are a record of `schema` already.
    pub fn reopen(schema: &'a Schema, words: &'a mut [u64]) -> Result<Self, RecordError> {
        check_len(schema, words)?;
        Ok(Self { schema, words })
    }

    /// Sets a field and marks the sections that hold it; `None` takes it back, a section's fields with it.
    /// After an error the field is absent.
    pub fn set(&mut self, name: &str, value: Option<&Value>) -> Result<(), RecordError> {
        let field = find(self.schema, name)?;
        self.clear(field);
        let Some(value) = value else { return Ok(()) };
        if let Err(fault) = put(self.words, field, value) {
            self.clear(field);
            return Err(error(name, fault));
        }
        mark(self.words, field.place());
        for (end, _) in name.match_indices('.') {
            mark(self.words, find(self.schema, &name[..end])?.place());
        }
        Ok(())
    }

    fn clear(&mut self, field: &Field) {
        let inside = |name: &str| name.strip_prefix(&field.name).is_some_and(|rest| rest.starts_with('.'));
        for field in self.schema.fields().iter().filter(|other| other.name == field.name || inside(&other.name)) {
            let start = field.offset as usize / WORD_BYTES;
            let span = start..start + field.words();
            self.words[span.clone()].copy_from_slice(&self.schema.absent()[span]);
            unmark(self.words, field.place());
        }
    }
}

fn error(field: &str, fault: Fault) -> RecordError {
    RecordError { field: field.to_owned(), fault }
}

fn check_len(schema: &Schema, words: &[u64]) -> Result<(), RecordError> {
    if words.len() < schema.words() { Err(error(schema.name(), Fault::Short)) } else { Ok(()) }
}

fn find<'a>(schema: &'a Schema, name: &str) -> Result<&'a Field, RecordError> {
    schema.field(name).ok_or_else(|| error(name, Fault::Unknown))
}

fn put(words: &mut [u64], field: &Field, value: &Value) -> Result<(), Fault> {
    let place = field.place();
    let choice = |words: &mut [u64], wanted: &Choice| {
        let position = field.choices.iter().position(|choice| choice == wanted).ok_or(Fault::UnknownChoice)?;
        put_choice(words, place, position);
        Ok(())
    };
    match (field.kind, value) {
        (Kind::Int, Value::Int(value)) => put_int(words, place.word, *value),
        (Kind::Float, Value::Float(value)) => {
            put_float(words, place.word, *value);
            Ok(())
        }
        (Kind::Bool, Value::Bool(value)) => {
            put_bool(words, place, *value);
            Ok(())
        }
        (Kind::Str, Value::Text(value)) => put_bytes(words, place, value.as_bytes()),
        (Kind::Bytes, Value::Bytes(value)) => put_bytes(words, place, value),
        (Kind::Enum, Value::Int(value)) => choice(words, &Choice::Int(*value)),
        (Kind::Enum, Value::Text(value)) => choice(words, &Choice::Str(value.clone())),
        (Kind::Struct, Value::Section) => Ok(()),
        (Kind::ListInt, Value::Ints(values)) => {
            put_len(words, place, values.len())?;
            values.iter().enumerate().try_for_each(|(i, value)| put_int_item(words, place, i, *value))
        }
        (Kind::ListFloat, Value::Floats(values)) => {
            put_len(words, place, values.len())?;
            values.iter().enumerate().try_for_each(|(i, value)| put_float_item(words, place, i, *value))
        }
        _ => Err(Fault::Kind),
    }
}

fn get(words: &[u64], field: &Field) -> Result<Value, Fault> {
    let place = field.place();
    Ok(match field.kind {
        Kind::Int => Value::Int(get_int(words, place)),
        Kind::Float => Value::Float(get_float(words, place)),
        Kind::Bool => Value::Bool(get_int(words, place) != 0),
        Kind::Str => Value::Text(get_text(words, place)?),
        Kind::Bytes => Value::Bytes(get_bytes(words, place)?),
        Kind::ListInt => Value::Ints(get_items(words, place)?.iter().map(|&word| word as i64).collect()),
        Kind::ListFloat => Value::Floats(get_items(words, place)?.iter().map(|&word| f64::from_bits(word)).collect()),
        Kind::Struct => Value::Section,
        Kind::Enum => {
            let position = usize::try_from(get_int(words, place)).map_err(|_| Fault::Corrupt)?;
            match field.choices.get(position).ok_or(Fault::Corrupt)? {
                Choice::Int(value) => Value::Int(*value),
                Choice::Str(text) => Value::Text(text.clone()),
            }
        }
    })
}
