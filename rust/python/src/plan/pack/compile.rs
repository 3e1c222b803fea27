//! Compiles a [`PackPlan`].

use pyo3::prelude::*;
use snapring_core::record::{self, Fault, Place};
use snapring_core::schema::{Choice, Fill, Kind, Schema};

use super::{Action, Field, PackPlan, Section, Step};
use crate::plan::{Described, DescribedField, dotted, matched, refused};
use crate::slots::Layout;

impl PackPlan {
    /// Plans for `compiled`, a `snapring.schema.CompiledSchema`, and the schema of a file.
    ///
    /// Raises `LayoutMismatch` where a common field differs in kind, maximum or choices.
    pub(crate) fn compile(compiled: &Bound<'_, PyAny>, file: &Schema) -> PyResult<Self> {
        let class = matched(compiled, file)?;
        let mut plan = Compiler { file, class, dropped: Vec::new(), used: Vec::new() };
        let root = plan.section(compiled, "")?;
        let mut template: Box<[u64]> = file.absent().into();
        for place in plan.used {
            record::mark(&mut template, place);
        }
        Ok(Self { root, template, dropped: plan.dropped })
    }
}

struct Compiler<'a> {
    file: &'a Schema,
    class: Schema,
    dropped: Vec<String>,
    /// Places of the fields that both sides have.
    used: Vec<Place>,
}

impl Compiler<'_> {
    fn section(&mut self, compiled: &Bound<'_, PyAny>, prefix: &str) -> PyResult<Section> {
        let described = Described::new(compiled)?;
        let name = described.class_name();
        let unset = compiled.py().import("msgspec")?.getattr("UNSET")?;
        let (mut names, mut fields) = (Vec::new(), Vec::new());
        let (mut ints, mut floats, mut others) = (Vec::new(), Vec::new(), Vec::new());
        for field in described.fields {
            let path = dotted(prefix, field.name.to_str()?);
            let Some(theirs) = self.file.field(&path) else {
                self.dropped.push(path);
                continue;
            };
            let place = theirs.place();
            self.used.push(place);
            let label = format!("{name}.{}", field.name);
            let attribute = field.name.clone().unbind();
            let unset = field.absent.is_some().then(|| unset.clone().unbind());
            names.push(field.name.clone());
            let action = self.action(field, &path)?;
            let index = fields.len();
            match action {
                Action::Int => ints.push(Step { index: index as u32, word: place.word }),
                Action::Float | Action::Timestamp => floats.push(Step { index: index as u32, word: place.word }),
                _ => others.push(index),
            }
            fields.push(Field { attribute, label, place, unset, action });
        }
        let layout = Layout::new(&described.class, &names)?;
        Ok(Section { name, layout, fields, ints, floats, others })
    }

    fn action(&mut self, field: DescribedField<'_>, path: &str) -> PyResult<Action> {
        let theirs = self.file.field(path).ok_or_else(|| refused(path, Fault::Unknown))?;
        Ok(match (theirs.fill, theirs.kind) {
            (Some(Fill::Rank), _) => Action::Rank,
            (Some(Fill::Timestamp), _) => Action::Timestamp,
            (None, Kind::Int) => Action::Int,
            (None, Kind::Float) => Action::Float,
            (None, Kind::Bool) => Action::Bool,
            (None, Kind::Str) => Action::Text,
            (None, Kind::Bytes) => Action::Bytes,
            (None, Kind::ListInt) => Action::Ints,
            (None, Kind::ListFloat) => Action::Floats,
            (None, Kind::Enum) => {
                let ours = self.class.field(path).map_or(&[][..], |field| &field.choices);
                let place = |choice: &Choice| theirs.choices.iter().position(|other| other == choice);
                Action::Choice(field.values.into_iter().zip(ours.iter().map(place)).collect())
            }
            (None, Kind::Struct) => {
                let compiled = field.section.ok_or_else(|| refused(path, Fault::Kind))?;
                let before = self.used.len() - 1;
                let section = self.section(&compiled, path)?;
                Action::Section(section, bits(&self.used[before..]))
            }
        })
    }
}

/// The presence bits of `places`, gathered by word.
fn bits(places: &[Place]) -> Vec<(usize, u64)> {
    let mut bits: Vec<(usize, u64)> = Vec::new();
    for place in places {
        let word = place.bit_word as usize;
        match bits.iter_mut().find(|(other, _)| *other == word) {
            Some((_, mask)) => *mask |= place.bit_mask,
            None => bits.push((word, place.bit_mask)),
        }
    }
    bits
}
