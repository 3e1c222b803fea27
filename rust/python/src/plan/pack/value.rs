//! Values that are no plain numbers: what a field takes, and how it is refused.

use pyo3::conversion::FromPyObjectOwned;
use pyo3::exceptions::{PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyList, PyString};
use snapring_core::record::{self, Fault};

use super::{Action, Field, Filler};
use crate::plan::{InvalidValue, refused};
use crate::slots::Seen;

impl Field {
    /// Packs what a step has handed back.
    pub(super) fn pack(&self, seen: Seen<'_>, filler: Filler, words: &mut [u64]) -> PyResult<()> {
        match seen {
            Seen::None => self.pack_none(filler, words),
            Seen::Value(value) => self.pack_object(&value, filler, words),
            Seen::Unset => Err(InvalidValue::new_err(format!("{} is not set; give it a value", self.label))),
        }
    }

    fn pack_int(&self, value: i64, filler: Filler, words: &mut [u64]) -> PyResult<()> {
        if matches!(self.action, Action::Rank) && value != i64::from(filler.rank) {
            let text = format!("{} is {value}, but the writer's rank is {}; leave it None", self.label, filler.rank);
            return Err(InvalidValue::new_err(text));
        }
        record::put_int(words, self.place.word, value).map_err(|fault| self.refuse(fault))
    }

    fn pack_none(&self, filler: Filler, words: &mut [u64]) -> PyResult<()> {
        match &self.action {
            Action::Rank => return self.pack_int(i64::from(filler.rank), filler, words),
            Action::Timestamp => record::put_float(words, self.place.word, filler.now_s),
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
                record::put_float(words, place.word, self.taken(value, value.extract())?);
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
