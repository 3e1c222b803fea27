//! From the words of a record to an object, or to one of its fields.

use std::collections::HashMap;

use pyo3::exceptions::PyKeyError;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple, PyType};
use snapring_core::record::{self, Fault, Place};
use snapring_core::schema::{Kind, Schema};

use super::{
    Described, DescribedField, InvalidValue, LayoutMismatch, RingUntrusted, corrupt, dotted, matched, refused,
};
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
    /// Plans for `compiled`, a `snapring.schema.CompiledSchema`, and the schema of a file.
    ///
    /// Raises `LayoutMismatch` where a common field differs in kind, maximum or choices, and where the class demands a
    /// field that the file lacks.
    pub(crate) fn compile(compiled: &Bound<'_, PyAny>, file: &Schema) -> PyResult<Self> {
        let class = matched(compiled, file)?;
        let mut plan = Compiler { file, class, fields: Vec::new(), index: PyDict::new(compiled.py()) };
        let root = plan.section(compiled, "", None)?;
        Ok(Self { fields: plan.fields, root, index: plan.index.unbind(), words: file.words() })
    }

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

struct Compiler<'a, 'py> {
    file: &'a Schema,
    class: Schema,
    fields: Vec<Field>,
    index: Bound<'py, PyDict>,
}

impl<'py> Compiler<'_, 'py> {
    fn section(&mut self, compiled: &Bound<'py, PyAny>, prefix: &str, holder: Option<usize>) -> PyResult<Section> {
        let described = Described::new(compiled)?;
        let name = described.class_name();
        let mut steps = Vec::new();
        let mut keywords = Vec::new();
        for field in described.fields {
            if field.keyword {
                keywords.push(field.name.clone());
            }
            let index = self.field(field, &name, prefix, holder)?;
            let Field { source, place, .. } = &self.fields[index];
            let yields = match source {
                Source::Int => Yields::Int,
                Source::Float => Yields::Float,
                _ => Yields::Other,
            };
            steps.push(Step { place: *place, yields, field: index });
        }
        let keywords = if keywords.is_empty() { None } else { Some(PyTuple::new(compiled.py(), keywords)?.unbind()) };
        Ok(Section { class: described.class.unbind(), steps, keywords })
    }

    /// Adds a field, and returns its index.
    fn field(
        &mut self,
        field: DescribedField<'py>,
        class: &str,
        prefix: &str,
        holder: Option<usize>,
    ) -> PyResult<usize> {
        let path = dotted(prefix, field.name.to_str()?);
        let label = format!("{class}.{}", field.name);
        let theirs = self.file.field(&path);
        // A field that the file lacks takes the class's default; one that is there and not reported is absent.
        let default = field.default.map(|value| Absent::Value(value.unbind()));
        let default = default.or(field.factory.map(|factory| Absent::Factory(factory.unbind())));
        let absent = field.absent.map(|value| Absent::Value(value.unbind()));
        let absent = if theirs.is_some() { absent.or(default) } else { default.or(absent) };
        let absent = absent.unwrap_or(Absent::Required);
        let Some(theirs) = theirs else {
            if matches!(absent, Absent::Required) {
                return Err(LayoutMismatch::new_err(format!(
                    "{label} has no default and the ring's {} has no field {path:?}; give the field a default",
                    self.file.name()
                )));
            }
            let place = Place { word: 0, bit_word: 0, bit_mask: 0, max: 0 };
            return self.add(&path, Field { label, holder, source: Source::Missing, place, absent });
        };
        let source = match theirs.kind {
            Kind::Int => Source::Int,
            Kind::Float => Source::Float,
            Kind::Bool => Source::Bool,
            Kind::Str => Source::Text,
            Kind::Bytes => Source::Bytes,
            Kind::ListInt => Source::Ints,
            Kind::ListFloat => Source::Floats,
            Kind::Enum => {
                let ours = self.class.field(&path).map_or(&[][..], |field| &field.choices);
                let known: HashMap<_, _> = ours.iter().zip(field.values).collect();
                let value = |choice| known.get(choice).map(|value| value.clone_ref(self.index.py()));
                Source::Choice(theirs.choices.iter().map(value).collect())
            }
            Kind::Struct => Source::Missing,
        };
        let index = self.add(&path, Field { label, holder, source, place: theirs.place(), absent })?;
        if theirs.kind == Kind::Struct {
            let compiled = field.section.ok_or_else(|| refused(&path, Fault::Kind))?;
            self.fields[index].source = Source::Section(self.section(&compiled, &path, Some(index))?);
        }
        Ok(index)
    }

    fn add(&mut self, path: &str, field: Field) -> PyResult<usize> {
        let index = self.fields.len();
        self.index.set_item(PyString::intern(self.index.py(), path), index)?;
        self.fields.push(field);
        Ok(index)
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
