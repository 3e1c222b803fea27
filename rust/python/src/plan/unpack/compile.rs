//! Compiles an [`UnpackPlan`].

use std::collections::HashMap;

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple};
use snapring_core::record::{Fault, Place};
use snapring_core::schema::{Kind, Schema};

use super::{Absent, Field, Section, Source, Step, UnpackPlan, Yields};
use crate::plan::{Described, DescribedField, LayoutMismatch, dotted, matched, refused};

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
