//! From an object to the words of a record.

mod compile;
mod value;

use pyo3::exceptions::PyAttributeError;
use pyo3::prelude::*;
use pyo3::types::PyString;
use snapring_core::record::{self, Fault, Place};

use super::{InvalidValue, refused};
use crate::slots::{Layout, Seen};

/// What the writer puts into fields that ask for it.
#[derive(Clone, Copy)]
pub(crate) struct Filler {
    /// Rank of the writer.
    pub(crate) rank: u32,
    /// Wall clock, Unix seconds.
    pub(crate) now_s: f64,
}

/// Packs objects of one class into records of one file.
pub(crate) struct PackPlan {
    root: Section,
    /// A record with every absent word in place, and the presence bit of every field that the class has set: a field
    /// that is given then costs one store, and only `None` touches a presence word.
    template: Box<[u64]>,
    dropped: Vec<String>,
}

/// The fields of a class, or of a class nested in it, that the file has too. `layout` and `fields` go by the same index.
///
/// Plain numbers are packed kind by kind: loops that do one thing are faster than a branch on the kind of each field,
/// which the processor mostly guesses wrong.
struct Section {
    name: String,
    layout: Layout,
    fields: Vec<Field>,
    ints: Vec<Step>,
    floats: Vec<Step>,
    /// Indices of all other fields.
    others: Vec<usize>,
}

/// What suffices to pack a plain number: small, so that a snapshot's steps share few cache lines. A scheduler publishes
/// once a step, when its caches hold other things.
#[derive(Clone, Copy)]
struct Step {
    index: u32,
    word: u32,
}

/// All that is known of a field.
struct Field {
    attribute: Py<PyString>,
    /// `Class.field`, for messages.
    label: String,
    place: Place,
    /// `msgspec.UNSET` if the field may be left out; it then means the same as None.
    unset: Option<Py<PyAny>>,
    action: Action,
}

enum Action {
    Int,
    Float,
    Bool,
    Text,
    Bytes,
    Ints,
    Floats,
    /// The class's values with their positions in the file, `None` where the file does not know one.
    Choice(Vec<(Py<PyAny>, Option<usize>)>),
    /// A nested section, and its presence bits with those of all it holds.
    Section(Section, Vec<(usize, u64)>),
    Rank,
    Timestamp,
}

impl PackPlan {
    /// Dotted names of the class's fields that the file does not know; a section is named once.
    pub(crate) fn dropped(&self) -> &[String] {
        &self.dropped
    }

    /// Packs `object` into `words`, all of which are written. Python code may run (`__index__` of a number that is
    /// none of Python's own), so `words` must be private to the caller. After an error they are meaningless.
    ///
    /// Raises `InvalidValue`, which names class and field.
    pub(crate) fn pack(&self, object: &Bound<'_, PyAny>, filler: Filler, words: &mut [u64]) -> PyResult<()> {
        let words = words.get_mut(..self.template.len()).ok_or_else(|| refused(&self.root.name, Fault::Short))?;
        words.copy_from_slice(&self.template);
        self.root.pack(object, filler, words)
    }
}

impl Section {
    fn pack(&self, object: &Bound<'_, PyAny>, filler: Filler, words: &mut [u64]) -> PyResult<()> {
        let Some(slots) = self.layout.slots(object) else { return self.pack_attributes(object, filler, words) };
        for &Step { index, word } in &self.ints {
            let index = index as usize;
            if slots.int(index).is_none_or(|value| record::put_int(words, word, value).is_err()) {
                self.fields[index].pack(slots.read(index), filler, words)?;
            }
        }
        for &Step { index, word } in &self.floats {
            let index = index as usize;
            match slots.float(index) {
                Some(value) => record::put_float(words, word, value),
                None => self.fields[index].pack(slots.read(index), filler, words)?,
            }
        }
        for &index in &self.others {
            self.fields[index].pack(slots.read(index), filler, words)?;
        }
        Ok(())
    }

    /// The slow way, for subclasses and for classes whose slots cannot be read.
    #[cold]
    fn pack_attributes(&self, object: &Bound<'_, PyAny>, filler: Filler, words: &mut [u64]) -> PyResult<()> {
        let py = object.py();
        if !object.is_instance(self.layout.class(py))? {
            let given = object.get_type().name()?;
            return Err(InvalidValue::new_err(format!("expected an object of {}, not {given}", self.name)));
        }
        for field in &self.fields {
            let seen = match object.getattr(&field.attribute) {
                Ok(value) if value.is_none() => Seen::None,
                Ok(value) => Seen::Value(value),
                Err(error) if error.is_instance_of::<PyAttributeError>(py) => Seen::Unset,
                Err(error) => return Err(error),
            };
            field.pack(seen, filler, words)?;
        }
        Ok(())
    }
}
