//! From the words of a record to an object, or to one of its fields.

mod compile;

use pyo3::exceptions::PyKeyError;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple, PyType};
use snapring_core::record::{self, Fault, Place};

use super::{InvalidValue, LayoutMismatch, RingUntrusted, corrupt};
use crate::slots;

/// Builds objects of one class from records of one file, and reads single fields of them.
pub(crate) struct UnpackPlan {
    /// All fields, sections before what they hold.
    fields: Vec<Field>,
    root: Section,
    /// Dotted name to index in `fields`. A Python dict compares interned names by identity and knows their hashes.
    index: Py<PyDict>,
    /// Words of a record.
    words: usize,
}

/// A class and how its objects are built.
struct Section {
    class: Py<PyType>,
    /// One per field, in the class's order.
    steps: Vec<Step>,
    /// Names of the trailing fields that are given by keyword.
    keywords: Option<Py<PyTuple>>,
}

/// What suffices to read a reported number: small, so that a snapshot's steps share few cache lines.
struct Step {
    place: Place,
    yields: Yields,
    /// Index of the field, which knows the rest.
    field: usize,
}

enum Yields {
    Int,
    Float,
    Other,
}

/// All that is known of a field.
struct Field {
    /// `Class.field`, for messages.
    label: String,
    /// The section that holds it, as index in `fields`.
    holder: Option<usize>,
    source: Source,
    place: Place,
    absent: Absent,
}

enum Source {
    /// The file does not have the field.
    Missing,
    Int,
    Float,
    Bool,
    Text,
    Bytes,
    Ints,
    Floats,
    /// The class's value for each position in the file, `None` where the class does not know one.
    Choice(Vec<Option<Py<PyAny>>>),
    Section(Section),
}

/// What stands for a value that is not there.
enum Absent {
    Value(Py<PyAny>),
    Factory(Py<PyAny>),
    /// The class demands one.
    Required,
}

impl UnpackPlan {
    /// The object that `words` describe.
    ///
    /// Raises `RingUntrusted` for words that no writer stores, and `LayoutMismatch` where a field that the class demands
    /// is not reported.
    pub(crate) fn unpack<'py>(&self, py: Python<'py>, words: &[u64]) -> PyResult<Bound<'py, PyAny>> {
        let words = self.checked(words)?;
        self.root.build(py, &self.fields, words)
    }

    /// One field by dotted name: its value as in the object, `None` where the section that holds it, or a value that
    /// the class demands, is not reported.
    ///
    /// Raises `InvalidValue` for an unknown name, naming close ones.
    pub(crate) fn field<'py>(
        &self,
        py: Python<'py>,
        words: &[u64],
        name: &Bound<'py, PyString>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let Some(index) = self.index.bind(py).get_item(name)? else { return Err(self.unknown(name)) };
        let field = &self.fields[index.extract::<usize>()?];
        let words = self.checked(words)?;
        if let Some(value) = field.reported(py, &self.fields, words)? {
            return Ok(value);
        }
        let mut holder = field.holder;
        while let Some(section) = holder.map(|index| &self.fields[index]) {
            if !section.is_reported(words) {
                return Ok(py.None().into_bound(py));
            }
            holder = section.holder;
        }
        if matches!(field.absent, Absent::Required) { Ok(py.None().into_bound(py)) } else { field.missing(py) }
    }

    fn checked<'a>(&self, words: &'a [u64]) -> PyResult<&'a [u64]> {
        words.get(..self.words).ok_or_else(|| RingUntrusted::new_err("a record of the ring is cut short"))
    }

    #[cold]
    fn unknown(&self, name: &Bound<'_, PyString>) -> PyErr {
        let py = name.py();
        let close = || -> PyResult<Vec<String>> {
            let matches = py.import("difflib")?.getattr("get_close_matches")?;
            matches.call1((name, self.index.bind(py).keys()))?.extract()
        };
        let close = close().unwrap_or_default();
        let hint = if close.is_empty() { String::new() } else { format!("; did you mean {}?", close.join(" or ")) };
        let error = InvalidValue::new_err(format!("the record has no field {:?}{hint}", name.to_string()));
        error.set_cause(py, Some(PyKeyError::new_err(name.to_string())));
        error
    }
}

impl Section {
    fn build<'py>(&self, py: Python<'py>, all: &[Field], words: &[u64]) -> PyResult<Bound<'py, PyAny>> {
        match self.steps.len() {
            0..=8 => self.call(py, all, words, &mut [const { None }; 8]),
            9..=32 => self.call(py, all, words, &mut [const { None }; 32]),
            more => self.call(py, all, words, &mut vec![None; more]),
        }
    }

    /// Calls the class with its fields, gathered in `room`: on the stack for most classes.
    #[inline]
    fn call<'py>(
        &self,
        py: Python<'py>,
        all: &[Field],
        words: &[u64],
        room: &mut [Option<Bound<'py, PyAny>>],
    ) -> PyResult<Bound<'py, PyAny>> {
        for (argument, step) in room.iter_mut().zip(&self.steps) {
            let place = step.place;
            *argument = Some(match step.yields {
                Yields::Int if record::is_present(words, place) => {
                    PyInt::new(py, record::get_int(words, place)).into_any()
                }
                Yields::Float if record::is_present(words, place) => {
                    PyFloat::new(py, record::get_float(words, place)).into_any()
                }
                _ => all[step.field].value(py, all, words)?,
            });
        }
        let args = &room[..self.steps.len()];
        slots::call(self.class.bind(py), args, self.keywords.as_ref().map(|names| names.bind(py)))
    }
}

impl Field {
    /// The value, or what the class has in its place.
    fn value<'py>(&self, py: Python<'py>, all: &[Self], words: &[u64]) -> PyResult<Bound<'py, PyAny>> {
        match self.reported(py, all, words)? {
            Some(value) => Ok(value),
            None => self.missing(py),
        }
    }

    #[inline]
    fn is_reported(&self, words: &[u64]) -> bool {
        record::is_present(words, self.place)
    }

    /// The value, if it is reported and, for a choice, known to the class.
    fn reported<'py>(&self, py: Python<'py>, all: &[Self], words: &[u64]) -> PyResult<Option<Bound<'py, PyAny>>> {
        if !self.is_reported(words) {
            return Ok(None);
        }
        let place = self.place;
        Ok(Some(match &self.source {
            Source::Int => PyInt::new(py, record::get_int(words, place)).into_any(),
            Source::Float => PyFloat::new(py, record::get_float(words, place)).into_any(),
            Source::Bool => PyBool::new(py, record::get_int(words, place) != 0).to_owned().into_any(),
            Source::Section(section) => section.build(py, all, words)?,
            Source::Choice(values) => {
                let position = usize::try_from(record::get_int(words, place)).ok();
                let Some(value) = position.and_then(|position| values.get(position)) else {
                    return Err(corrupt(&self.label, Fault::Corrupt));
                };
                return Ok(value.as_ref().map(|value| value.bind(py).clone()));
            }
            Source::Text => {
                let text = record::get_text(words, place).map_err(|fault| corrupt(&self.label, fault))?;
                PyString::new(py, &text).into_any()
            }
            Source::Bytes => {
                let bytes = record::get_bytes(words, place).map_err(|fault| corrupt(&self.label, fault))?;
                PyBytes::new(py, &bytes).into_any()
            }
            Source::Ints => PyList::new(py, self.items(words)?.iter().map(|&word| word as i64))?.into_any(),
            Source::Floats => PyList::new(py, self.items(words)?.iter().map(|&word| f64::from_bits(word)))?.into_any(),
            Source::Missing => return Ok(None),
        }))
    }

    fn items<'a>(&self, words: &'a [u64]) -> PyResult<&'a [u64]> {
        record::get_items(words, self.place).map_err(|fault| corrupt(&self.label, fault))
    }

    fn missing<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        match &self.absent {
            Absent::Value(value) => Ok(value.bind(py).clone()),
            Absent::Factory(factory) => factory.bind(py).call0(),
            Absent::Required => Err(LayoutMismatch::new_err(format!(
                "{} is not reported by the writer, and has neither a default nor None; give the field one",
                self.label
            ))),
        }
    }
}
