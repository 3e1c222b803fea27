//! How a Python value becomes a payload and comes back: records by plan, bytes as they are, msgpack by msgspec.

use crate::error::{InvalidValue, LayoutMismatch, OrRaise, RingUntrusted, from_core};
use crate::plan::{Filler, PackPlan, UnpackPlan};
use pyo3::buffer::PyBuffer;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};
use snapring_core::layout::Geometry;
use snapring_core::{Codec, Error, Schema};

/// Words packed on the stack; a larger payload takes the heap.
const STACK_WORDS: usize = 64;

/// What the Python side hands over: `compiled` for records, an encode or decode callable for msgpack.
pub(crate) struct Source {
    /// A `snapring.schema.CompiledSchema`, or None.
    pub(crate) compiled: Option<Py<PyAny>>,
    /// `msgspec.msgpack.Encoder.encode` or `Decoder.decode`, or None.
    pub(crate) convert: Option<Py<PyAny>>,
}

/// Packs values for one generation of a ring.
pub(crate) enum Packer {
    /// By a plan, `words` long.
    Record { plan: PackPlan, words: usize },
    /// A bytes-like object as it is.
    Bytes,
    /// Through msgspec.
    Msgpack(Py<PyAny>),
}

impl Packer {
    pub(crate) fn new(py: Python<'_>, source: &Source, schema: &Schema) -> PyResult<Self> {
        match (schema.codec(), &source.compiled, &source.convert) {
            (Codec::Record, Some(compiled), _) => {
                Ok(Self::Record { plan: PackPlan::compile(compiled.bind(py), schema)?, words: schema.words() })
            }
            (Codec::Bytes, ..) => Ok(Self::Bytes),
            (Codec::Msgpack, _, Some(encode)) => Ok(Self::Msgpack(encode.clone_ref(py))),
            _ => Err(LayoutMismatch::new_err("the ring's codec is not this writer's")),
        }
    }

    /// Packs `value` into words that no other thread sees, then hands them to `publish` with their length in bytes.
    ///
    /// Python code may run while packing, never inside `publish`.
    #[inline]
    pub(crate) fn pack<R>(
        &self,
        value: &Bound<'_, PyAny>,
        fill: Filler,
        geometry: &Geometry,
        publish: impl FnOnce(&[u64], usize) -> PyResult<R>,
    ) -> PyResult<R> {
        match self {
            Self::Record { plan, words } => {
                let mut stack = [0; STACK_WORDS];
                let mut heap = Vec::new();
                let buffer = if *words <= STACK_WORDS {
                    &mut stack[..*words]
                } else {
                    heap.resize(*words, 0);
                    &mut heap[..]
                };
                plan.pack(value, fill, buffer)?;
                publish(buffer, *words * 8)
            }
            Self::Bytes => {
                let Ok(buffer) = PyBuffer::<u8>::get(value) else {
                    let kind = value.get_type().qualname()?;
                    let text = format!("a ring of bytes takes a contiguous bytes-like object, not {kind}");
                    return Err(InvalidValue::new_err(text));
                };
                pack_bytes(buffer.len_bytes(), geometry, || buffer.to_vec(value.py()), publish)
            }
            Self::Msgpack(encode) => {
                let text = |error: PyErr| InvalidValue::new_err(format!("this value cannot be msgpack: {error}"));
                let encoded = encode.bind(value.py()).call1((value,)).map_err(text)?.cast_into::<PyBytes>()?;
                pack_bytes(encoded.as_bytes().len(), geometry, || Ok(encoded.as_bytes().to_vec()), publish)
            }
        }
    }
}

fn pack_bytes<R>(
    len: usize,
    geometry: &Geometry,
    bytes: impl FnOnce() -> PyResult<Vec<u8>>,
    publish: impl FnOnce(&[u64], usize) -> PyResult<R>,
) -> PyResult<R> {
    if len > geometry.payload_bytes {
        return Err(from_core(Error::PayloadTooLarge { got: len, max: geometry.payload_bytes }));
    }
    let mut bytes = bytes()?;
    bytes.resize(len.next_multiple_of(8), 0);
    let (words, _) = bytes.as_chunks::<8>();
    let words: Vec<u64> = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
    publish(&words, len)
}

/// Unpacks payloads of one generation of a ring.
pub(crate) enum Unpacker {
    /// By a plan.
    Record(UnpackPlan),
    /// As bytes.
    Bytes,
    /// Through msgspec.
    Msgpack(Py<PyAny>),
}

impl Unpacker {
    pub(crate) fn new(py: Python<'_>, source: &Source, schema: &Schema) -> PyResult<Self> {
        match (schema.codec(), &source.compiled, &source.convert) {
            (Codec::Record, Some(compiled), _) => Ok(Self::Record(UnpackPlan::compile(compiled.bind(py), schema)?)),
            (Codec::Bytes, ..) => Ok(Self::Bytes),
            (Codec::Msgpack, _, Some(decode)) => Ok(Self::Msgpack(decode.clone_ref(py))),
            _ => Err(LayoutMismatch::new_err("the ring's codec is not this reader's")),
        }
    }

    /// The value of a payload of `len` bytes in `words`.
    pub(crate) fn unpack(&self, py: Python<'_>, words: &[u64], len: u64) -> PyResult<Py<PyAny>> {
        match self {
            Self::Record(plan) => Ok(plan.unpack(py, words)?.unbind()),
            Self::Bytes => Ok(bytes(py, words, len)?.into_any().unbind()),
            Self::Msgpack(decode) => {
                let text =
                    |error: PyErr| RingUntrusted::new_err(format!("a payload is not the msgpack expected: {error}"));
                Ok(decode.bind(py).call1((bytes(py, words, len)?,)).map_err(text)?.unbind())
            }
        }
    }

    /// One field of a record by its dotted name.
    #[inline]
    pub(crate) fn field(&self, py: Python<'_>, words: &[u64], name: &Bound<'_, PyString>) -> PyResult<Py<PyAny>> {
        match self {
            Self::Record(plan) => Ok(plan.field(py, words, name)?.unbind()),
            _ => Err(InvalidValue::new_err("only records have fields; use .value")),
        }
    }
}

fn bytes<'py>(py: Python<'py>, words: &[u64], len: u64) -> PyResult<Bound<'py, PyBytes>> {
    let untrusted =
        || Error::Untrusted("a cell's length is larger than its payload: something else wrote to this ring".into());
    let len = usize::try_from(len).ok().filter(|&len| len <= words.len() * 8).ok_or_else(untrusted).or_raise()?;
    PyBytes::new_with(py, len, |bytes| {
        for (to, word) in bytes.chunks_mut(8).zip(words) {
            to.copy_from_slice(&word.to_le_bytes()[..to.len()]);
        }
        Ok(())
    })
}
