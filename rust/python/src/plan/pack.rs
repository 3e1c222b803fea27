//! From an object to the words of a record.

use pyo3::conversion::FromPyObjectOwned;
use pyo3::exceptions::{PyAttributeError, PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyList, PyString};
use snapring_core::record::{self, Fault, Place};
use snapring_core::schema::{Choice, Fill, Kind, Schema};

use super::{Described, DescribedField, InvalidValue, dotted, matched, refused};
use crate::slots::{Expect, Layout, Seen};

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

/// The fields of a class, or of a class nested in it, that the file has too. `layout`, `steps` and `fields` go by the
/// same index.
struct Section {
    name: String,
    layout: Layout,
    steps: Vec<Step>,
    fields: Vec<Field>,
}

/// What suffices to pack a field that holds the usual: small, so that a snapshot's steps share few cache lines.
struct Step {
    place: Place,
    expect: Expect,
    /// Takes any number of the expected type.
    plain: bool,
    /// None needs no more than the presence bit taken back.
    nullable: bool,
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
        let (mut names, mut steps, mut fields) = (Vec::new(), Vec::new(), Vec::new());
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
            steps.push(Step::new(&action, place, unset.is_some()));
            fields.push(Field { attribute, label, place, unset, action });
        }
        let layout = Layout::new(&described.class, &names)?;
        Ok(Section { name, layout, steps, fields })
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

impl Step {
    fn new(action: &Action, place: Place, nullable: bool) -> Self {
        let expect = match action {
            Action::Int | Action::Rank => Expect::Int,
            Action::Float | Action::Timestamp => Expect::Float,
            _ => Expect::Object,
        };
        let plain = !matches!(action, Action::Rank);
        let filled = matches!(action, Action::Rank | Action::Timestamp | Action::Section(..));
        Self { place, expect, plain, nullable: nullable && !filled }
    }

    /// Packs the usual; hands back everything else, which [`Field::pack`] then takes or refuses.
    #[inline]
    fn pack<'py>(&self, seen: Seen<'py>, words: &mut [u64]) -> Option<Seen<'py>> {
        match seen {
            Seen::Float(value) => record::put_float(words, self.place, value),
            Seen::Int(value) if self.plain && record::put_int(words, self.place, value).is_ok() => {}
            Seen::None if self.nullable => record::unmark(words, self.place),
            seen => return Some(seen),
        }
        None
    }
}

impl Section {
    fn pack(&self, object: &Bound<'_, PyAny>, filler: Filler, words: &mut [u64]) -> PyResult<()> {
        let Some(slots) = self.layout.slots(object) else { return self.pack_attributes(object, filler, words) };
        for (index, step) in self.steps.iter().enumerate() {
            if let Some(seen) = step.pack(slots.read(index, step.expect), words) {
                self.fields[index].pack(seen, filler, words)?;
            }
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
                Ok(value) => Seen::Other(value),
                Err(error) if error.is_instance_of::<PyAttributeError>(py) => Seen::Unset,
                Err(error) => return Err(error),
            };
            field.pack(seen, filler, words)?;
        }
        Ok(())
    }
}

impl Field {
    fn pack(&self, seen: Seen<'_>, filler: Filler, words: &mut [u64]) -> PyResult<()> {
        match seen {
            Seen::Int(value) => self.pack_int(value, filler, words),
            Seen::Float(value) => {
                record::put_float(words, self.place, value);
                Ok(())
            }
            Seen::None => self.pack_none(filler, words),
            Seen::Other(value) => self.pack_object(&value, filler, words),
            Seen::Unset => Err(InvalidValue::new_err(format!("{} is not set; give it a value", self.label))),
        }
    }

    fn pack_int(&self, value: i64, filler: Filler, words: &mut [u64]) -> PyResult<()> {
        if matches!(self.action, Action::Rank) && value != i64::from(filler.rank) {
            let text = format!("{} is {value}, but the writer's rank is {}; leave it None", self.label, filler.rank);
            return Err(InvalidValue::new_err(text));
        }
        record::put_int(words, self.place, value).map_err(|fault| self.refuse(fault))
    }

    fn pack_none(&self, filler: Filler, words: &mut [u64]) -> PyResult<()> {
        match &self.action {
            Action::Rank => return self.pack_int(i64::from(filler.rank), filler, words),
            Action::Timestamp => record::put_float(words, self.place, filler.now_s),
            _ if self.unset.is_none() => {
                let text = format!("{} is None; give a value, or declare the field as ... | None", self.label);
                return Err(InvalidValue::new_err(text));
            }
            Action::Section(_, bits) => bits.iter().for_each(|&(word, mask)| words[word] &= !mask),
            _ => record::unmark(words, self.place),
        }
        Ok(())
    }

    /// What is no plain number of Python's.
    fn pack_object(&self, value: &Bound<'_, PyAny>, filler: Filler, words: &mut [u64]) -> PyResult<()> {
        if self.unset.as_ref().is_some_and(|unset| value.is(unset)) {
            return self.pack_none(filler, words);
        }
        let place = self.place;
        let stored = match &self.action {
            Action::Section(section, _) => return section.pack(value, filler, words),
            Action::Int | Action::Rank => return self.pack_int(self.taken(value, value.extract())?, filler, words),
            Action::Float | Action::Timestamp => {
                record::put_float(words, place, self.taken(value, value.extract())?);
                Ok(())
            }
            Action::Bool => {
                record::put_bool(words, place, self.taken(value, value.extract())?);
                Ok(())
            }
            Action::Text => {
                let text =
                    self.taken(value, value.cast::<PyString>().map_err(PyErr::from).and_then(|text| text.to_str()))?;
                record::put_bytes(words, place, text.as_bytes())
            }
            Action::Bytes => {
                let bytes = self.taken(value, value.cast::<PyBytes>().map_err(PyErr::from))?;
                record::put_bytes(words, place, bytes.as_bytes())
            }
            Action::Ints => {
                return self.pack_list(value, words, |words, index, item: i64| {
                    record::put_int_item(words, place, index, item)
                });
            }
            Action::Floats => {
                return self.pack_list(value, words, |words, index, item: f64| {
                    record::put_float_item(words, place, index, item)
                });
            }
            Action::Choice(values) => match self.chosen(value, values)? {
                Some(position) => {
                    record::put_choice(words, place, position);
                    Ok(())
                }
                None => Err(Fault::UnknownChoice),
            },
        };
        stored.map_err(|fault| self.refuse(fault))
    }

    /// Lists, tuples, arrays: anything with a length that can be iterated. Its items may change under our hands, so the
    /// number stored is that of the items met.
    fn pack_list<'py, T: FromPyObjectOwned<'py>>(
        &self,
        value: &Bound<'py, PyAny>,
        words: &mut [u64],
        put: impl Fn(&mut [u64], usize, T) -> Result<(), Fault>,
    ) -> PyResult<()> {
        let len = self.taken(value, value.len())?;
        record::put_len(words, self.place, len).map_err(|fault| self.refuse(fault))?;
        let mut met = 0;
        let mut store = |item: Bound<'py, PyAny>| {
            let number = self.taken(&item, item.extract().map_err(Into::into))?;
            put(words, met, number).map_err(|fault| self.refuse(fault))?;
            met += 1;
            Ok::<_, PyErr>(())
        };
        if let Ok(list) = value.cast::<PyList>() {
            list.iter().try_for_each(store)?;
        } else {
            self.taken(value, value.try_iter())?.try_for_each(|item| store(item?))?;
        }
        record::put_len(words, self.place, met).map_err(|fault| self.refuse(fault))
    }

    /// The position of `value` in the file, `None` if only the class knows it. Members and interned texts are found by
    /// identity; their plain values are taken too.
    fn chosen(&self, value: &Bound<'_, PyAny>, values: &[(Py<PyAny>, Option<usize>)]) -> PyResult<Option<usize>> {
        if let Some((_, position)) = values.iter().find(|(member, _)| value.is(member)) {
            return Ok(*position);
        }
        // True equals 1, and is no choice for it.
        for (member, position) in values.iter().filter(|_| !value.is_instance_of::<PyBool>()) {
            let member = member.bind(value.py());
            if value.eq(member)? || member.getattr("value").is_ok_and(|plain| value.eq(plain).unwrap_or(false)) {
                return Ok(*position);
            }
        }
        Err(InvalidValue::new_err(format!("{} is {}, which is none of its choices", self.label, value.repr()?)))
    }

    fn refuse(&self, fault: Fault) -> PyErr {
        refused(&self.label, fault)
    }

    /// Turns Python's complaints about a value into ours; what else its methods raise passes through.
    fn taken<T>(&self, value: &Bound<'_, PyAny>, result: PyResult<T>) -> PyResult<T> {
        result.map_err(|error| self.not_taken(value, error))
    }

    #[cold]
    fn not_taken(&self, value: &Bound<'_, PyAny>, error: PyErr) -> PyErr {
        let py = value.py();
        let text = if error.is_instance_of::<PyOverflowError>(py) {
            format!("{} {}", self.label, Fault::OutOfRange)
        } else if error.is_instance_of::<PyTypeError>(py) || error.is_instance_of::<PyValueError>(py) {
            let given = value.get_type().name().map_or_else(|_| "?".to_owned(), |name| name.to_string());
            format!("{} does not take a value of type {given}: {}", self.label, error.value(py))
        } else {
            return error;
        };
        let ours = InvalidValue::new_err(text);
        ours.set_cause(py, Some(error));
        ours
    }
}
