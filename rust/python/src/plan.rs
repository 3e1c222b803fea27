//! How a Struct class meets a record: compiled once per class and file schema, then followed for every snapshot.
//!
//! A plan goes by the *file's* layout. Fields match by dotted name: what the class lacks stays absent, what the file
//! lacks is dropped on packing and takes the class's default on unpacking. Plans are immutable, so any thread may use one.

mod pack;
mod unpack;

use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple, PyType};
use snapring_core::record::Fault;
use snapring_core::schema::Schema;

use crate::error::{InvalidValue, LayoutMismatch, RingUntrusted};

pub(crate) use pack::{Filler, PackPlan};
pub(crate) use unpack::UnpackPlan;

/// A class as `snapring.schema.compile_schema` describes it, or a class nested in one.
struct Described<'py> {
    class: Bound<'py, PyType>,
    fields: Vec<DescribedField<'py>>,
}

/// One `CompiledField`; `None` stands for msgspec's NODEFAULT.
struct DescribedField<'py> {
    name: Bound<'py, PyString>,
    absent: Option<Bound<'py, PyAny>>,
    default: Option<Bound<'py, PyAny>>,
    factory: Option<Bound<'py, PyAny>>,
    keyword: bool,
    values: Vec<Py<PyAny>>,
    section: Option<Bound<'py, PyAny>>,
}

impl<'py> Described<'py> {
    fn new(compiled: &Bound<'py, PyAny>) -> PyResult<Self> {
        let none = compiled.py().import("msgspec")?.getattr("NODEFAULT")?;
        let mut fields = Vec::new();
        for field in compiled.getattr("fields")?.try_iter()? {
            let field = field?;
            let given = |name: &str| Ok::<_, PyErr>(Some(field.getattr(name)?).filter(|value| !value.is(&none)));
            let values = field.getattr("values")?.cast_into::<PyTuple>()?;
            fields.push(DescribedField {
                name: field.getattr("name")?.cast_into::<PyString>()?,
                absent: given("absent")?,
                default: given("default")?,
                factory: given("default_factory")?,
                keyword: field.getattr("keyword")?.extract()?,
                values: values.iter().map(Bound::unbind).collect(),
                section: Some(field.getattr("section")?).filter(|section| !section.is_none()),
            });
        }
        Ok(Self { class: compiled.getattr("cls")?.cast_into::<PyType>()?, fields })
    }

    fn class_name(&self) -> String {
        self.class.name().map_or_else(|_| "?".to_owned(), |name| name.to_string())
    }
}

/// The schema of a `CompiledSchema`, which must go with the file's.
fn matched(compiled: &Bound<'_, PyAny>, file: &Schema) -> PyResult<Schema> {
    let text: String = compiled.getattr("text")?.extract()?;
    let class = Schema::parse(&text).map_err(|error| InvalidValue::new_err(error.to_string()))?;
    Schema::compatible(file, &class).map_err(|reason| {
        LayoutMismatch::new_err(format!(
            "{} does not fit the ring's {}: {reason}; use the ring's class, or another ring name",
            class.name(),
            file.name()
        ))
    })?;
    Ok(class)
}

/// The dotted name of `name` inside section `prefix`.
fn dotted(prefix: &str, name: &str) -> String {
    if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") }
}

/// A value that was given and cannot be stored; `field` is `Class.field`.
#[cold]
fn refused(field: &str, fault: Fault) -> PyErr {
    InvalidValue::new_err(format!("{field} {fault}"))
}

/// Words in the ring that no writer stores.
#[cold]
fn corrupt(field: &str, fault: Fault) -> PyErr {
    RingUntrusted::new_err(format!("{field} {fault}; let its writer publish again, or remove the ring"))
}
