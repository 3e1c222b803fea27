//! The two things that only raw CPython can do fast: read an object's fields at their offsets, and call a class with a
//! row of arguments. The only unsafe code of this crate.
//!
//! A Struct class keeps each field in a pointer-sized slot, at an offset that the class's member descriptor tells (which
//! the limited API hides). Reading the slot is 10 times faster than looking the attribute up.

#![allow(unsafe_code)]

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyFloat, PyInt, PyString, PyTuple, PyType};

/// What a slot holds. A value is owned, because code that runs later may change the object and drop the slot's own
/// reference.
pub(crate) enum Seen<'py> {
    Unset,
    None,
    Value(Bound<'py, PyAny>),
}

/// Where the objects of one class keep their fields.
pub(crate) struct Layout {
    class: Py<PyType>,
    /// One byte offset per field, each found by [`offset`]; empty if fields must be read as attributes.
    offsets: Box<[u32]>,
}

impl Layout {
    /// Finds the slots of `names`. Attributes are used instead where a field has no plain slot, and on free-threaded
    /// builds: another thread could drop a slot's reference between our reading it and our counting it, of a frozen
    /// class too (`msgspec.structs.force_setattr`).
    pub(crate) fn new(class: &Bound<'_, PyType>, names: &[Bound<'_, PyString>]) -> PyResult<Self> {
        let py = class.py();
        let free_threaded = py.import("sys")?.getattr("abiflags")?.extract::<String>()?.contains('t');
        let offsets = if free_threaded { None } else { names.iter().map(|name| offset(class, name)).collect() };
        Ok(Self { class: class.clone().unbind(), offsets: offsets.unwrap_or_default() })
    }

    /// The class whose objects are meant.
    pub(crate) fn class<'py>(&self, py: Python<'py>) -> &Bound<'py, PyType> {
        self.class.bind(py)
    }

    /// The slots of `object` if its type is exactly the class: a subclass may keep its fields elsewhere.
    #[inline]
    pub(crate) fn slots<'a, 'py>(&'a self, object: &'a Bound<'py, PyAny>) -> Option<Slots<'a, 'py>> {
        let exact = object.get_type_ptr() == self.class.as_ptr().cast();
        (exact && !self.offsets.is_empty()).then_some(Slots { object, offsets: &self.offsets })
    }
}

/// Slots of an object of the right type.
pub(crate) struct Slots<'a, 'py> {
    object: &'a Bound<'py, PyAny>,
    offsets: &'a [u32],
}

impl<'py> Slots<'_, 'py> {
    /// The field of that index, if it is an exact int that fits 64 bits.
    #[inline]
    pub(crate) fn int(&self, index: usize) -> Option<i64> {
        let value = self.peek(index).filter(|value| value.is_exact_instance_of::<PyInt>())?;
        let mut overflow = 0;
        // SAFETY: `value` is alive and an int, for which the function neither fails nor runs Python code.
        let number = unsafe { ffi::PyLong_AsLongLongAndOverflow(value.as_ptr(), &raw mut overflow) };
        (overflow == 0).then_some(number)
    }

    /// The field of that index, if it is an exact float.
    #[inline]
    pub(crate) fn float(&self, index: usize) -> Option<f64> {
        self.peek(index)?.cast_exact::<PyFloat>().ok().map(|float| float.value())
    }

    /// Whatever the field of that index is.
    #[inline]
    pub(crate) fn read(&self, index: usize) -> Seen<'py> {
        match self.peek(index) {
            None => Seen::Unset,
            Some(value) if value.is_none() => Seen::None,
            Some(value) => Seen::Value(value.to_owned()),
        }
    }

    /// The slot's own reference. Private, because it is good only until the object changes: no Python code may run
    /// while it is held.
    #[inline]
    fn peek(&self, index: usize) -> Option<Borrowed<'_, 'py, PyAny>> {
        let start = self.object.as_ptr().cast::<*mut ffi::PyObject>();
        // SAFETY: `offset` checked that a pointer slot of this class lies there, inside its basic size, and
        // `Layout::slots` that the object is of exactly this class. CPython aligns slots to pointers and zeroes them.
        let value = unsafe { *start.byte_add(self.offsets[index] as usize) };
        // SAFETY: null, or an object that the slot owns a reference to. `self.object` keeps the slot alive, and nobody
        // empties it while we look: the callers above run no Python code and hold the GIL (`Layout::new` finds no slots
        // where there is none).
        unsafe { Borrowed::from_ptr_or_opt(self.object.py(), value) }
    }
}

/// The offset at which objects of exactly `class` keep field `name`, if it is a plain slot.
fn offset(class: &Bound<'_, PyType>, name: &Bound<'_, PyString>) -> Option<u32> {
    let descriptor = class.getattr(name).ok()?;
    let member_type = &raw mut ffi::PyMemberDescr_Type;
    if descriptor.get_type_ptr() != member_type {
        return None;
    }
    // SAFETY: the type is exactly `member_descriptor`, whose objects are `PyMemberDescrObject`s with a valid `d_member`
    // and `d_type` for as long as they live.
    let (owner, member) = unsafe {
        let descriptor = descriptor.as_ptr().cast::<ffi::PyMemberDescrObject>();
        ((*descriptor).d_common.d_type, *(*descriptor).d_member)
    };
    // SAFETY: both are type objects, alive through the descriptor and `class`.
    let inherits = unsafe { ffi::PyType_IsSubtype(class.as_type_ptr(), owner) } != 0;
    // SAFETY: `class` is a type object; its size does not change once it has objects.
    let size = usize::try_from(unsafe { (*class.as_type_ptr()).tp_basicsize }).ok()?;
    let offset = usize::try_from(member.offset).ok()?;
    let absolute = member.flags & ffi::Py_RELATIVE_OFFSET == 0 && member.type_code == ffi::Py_T_OBJECT_EX;
    let inside = offset >= size_of::<ffi::PyObject>() && offset + size_of::<*mut ffi::PyObject>() <= size;
    let plain = inherits && absolute && inside && offset.is_multiple_of(align_of::<*mut ffi::PyObject>());
    u32::try_from(offset).ok().filter(|_| plain)
}

/// Calls `class` with `args`, none of which may be missing; the last are given by keyword, under the names `keywords`.
#[inline]
pub(crate) fn call<'py>(
    class: &Bound<'py, PyType>,
    args: &[Option<Bound<'py, PyAny>>],
    keywords: Option<&Bound<'py, PyTuple>>,
) -> PyResult<Bound<'py, PyAny>> {
    let named = keywords.map_or(0, PyTupleMethods::len);
    assert!(named <= args.len() && args.iter().all(Option::is_some), "a plan fills and names only its own arguments");
    let keywords = keywords.map_or(std::ptr::null_mut(), Bound::as_ptr);
    // SAFETY: `Option<Bound>` is a transparent, nullable object pointer, and none is null (asserted), so the slice is a
    // row of borrowed references, as the call asks; it takes none of them. `keywords` is null or a tuple of `named`
    // strings.
    unsafe {
        let row = args.as_ptr().cast::<*mut ffi::PyObject>();
        let result = ffi::PyObject_Vectorcall(class.as_ptr(), row, args.len() - named, keywords);
        Bound::from_owned_ptr_or_err(class.py(), result)
    }
}

const _: () = assert!(size_of::<Option<Bound<'static, PyAny>>>() == size_of::<*mut ffi::PyObject>());
