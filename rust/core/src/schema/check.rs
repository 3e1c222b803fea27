//! The schema's text form, and every check that a schema from a file must pass. The text is hostile until then:
//! sizes are bounded before anything is allocated for them, and all sums are taken in 64 bits.

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};

use super::{
    Choice, Codec, Field, Fill, Kind, MAX_FIELDS, MAX_RECORD_BYTES, MAX_SCHEMA_TEXT, SCHEMA_FORMAT, Schema,
    SchemaError, WORD_BYTES,
};

const MAX_NAME_BYTES: usize = 128;
const MAX_NOTE_BYTES: usize = 1024;
const MAX_CHOICES: usize = 1024;

/// The text form; member order here is the order in the canonical text.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text<F> {
    format: u32,
    name: String,
    codec: Codec,
    bytes: u32,
    fields: F,
}

impl Schema {
    /// Reads the text of a schema and checks all of it. Never panics, whatever the text.
    ///
    /// # Errors
    /// The text is too long, no JSON of this format, or describes fields that overlap, repeat a name or a bit, lie
    /// outside the record, or exceed a limit.
    pub fn parse(json: &str) -> Result<Self, SchemaError> {
        if json.len() > MAX_SCHEMA_TEXT {
            return fail(format!("its text has {} bytes, more than {MAX_SCHEMA_TEXT}", json.len()));
        }
        let text: Text<Vec<Field>> = serde_json::from_str(json).map_err(|error| SchemaError(error.to_string()))?;
        if text.format != SCHEMA_FORMAT {
            return fail(format!("its text has format {}; this version reads {SCHEMA_FORMAT}", text.format));
        }
        match text.codec {
            Codec::Record => record(&text.name, text.bytes, &text.fields)?,
            Codec::Bytes | Codec::Msgpack => free(&text.name, text.bytes, &text.fields)?,
        }
        Ok(Self::from_checked(text.name, text.codec, text.bytes, text.fields))
    }

    /// The canonical text: one line, members in fixed order, defaults left out.
    pub fn to_json(&self) -> String {
        let Self { name, codec, bytes, fields, .. } = self;
        let text = Text { format: SCHEMA_FORMAT, name: name.clone(), codec: *codec, bytes: *bytes, fields };
        // Strings, numbers and lists always have a JSON form; only maps with odd keys or failing writers do not.
        serde_json::to_string(&text).unwrap_or_default()
    }

    /// Whether values of `class` can travel in records of `file`: the codecs are equal, and fields of the same name
    /// agree in kind, `max` and choices. Choices are matched by value, in whatever order; one side may know more of them
    /// than the other. A field that only one side has is fine. The reason names both sides.
    pub fn compatible(file: &Self, class: &Self) -> Result<(), String> {
        let reason = |what: &str, file: String, class: String| {
            Err(format!("{what} differs: the ring has {file}, the class has {class}"))
        };
        if file.codec != class.codec {
            return reason("the codec", format!("{:?}", file.codec), format!("{:?}", class.codec));
        }
        let shared = class.fields.iter().any(|ours| file.field(&ours.name).is_some());
        if !shared && !class.fields.is_empty() && !file.fields.is_empty() {
            let (file, class) = (&file.name, &class.name);
            return Err(format!("the ring's records are {file}, which has no field in common with {class}; give the right schema"));
        }
        for ours in &class.fields {
            let Some(theirs) = file.field(&ours.name) else { continue };
            let what = |part: &str| format!("the {part} of field {:?}", ours.name);
            if theirs.kind != ours.kind {
                return reason(&what("kind"), format!("{:?}", theirs.kind), format!("{:?}", ours.kind));
            }
            if theirs.max != ours.max {
                return reason(&what("maximum"), theirs.max.to_string(), ours.max.to_string());
            }
            if !is_subset(&theirs.choices, &ours.choices) && !is_subset(&ours.choices, &theirs.choices) {
                return reason(
                    &what("choices (one side may have more of them, not both)"),
                    format!("{:?}", theirs.choices),
                    format!("{:?}", ours.choices),
                );
            }
        }
        Ok(())
    }
}

fn is_subset(some: &[Choice], all: &[Choice]) -> bool {
    let all: HashSet<_> = all.iter().collect();
    some.iter().all(|choice| all.contains(choice))
}

fn fail<T>(reason: String) -> Result<T, SchemaError> {
    Err(SchemaError(reason))
}

pub(super) fn too_large() -> SchemaError {
    SchemaError(format!("the record has more than {MAX_RECORD_BYTES} bytes; shorten texts and lists"))
}

/// Bounds what later checks multiply.
pub(super) fn counts(fields: &[Field]) -> Result<(), SchemaError> {
    if fields.is_empty() || fields.len() > MAX_FIELDS {
        return fail(format!("it has {} fields; a record has 1 to {MAX_FIELDS}", fields.len()));
    }
    if fields.iter().any(|field| field.max as usize > MAX_RECORD_BYTES) {
        return Err(too_large());
    }
    Ok(())
}

fn free(name: &str, bytes: u32, fields: &[Field]) -> Result<(), SchemaError> {
    label(name)?;
    if bytes != 0 || !fields.is_empty() {
        return fail("only records have fields".to_owned());
    }
    Ok(())
}

/// Checks all of a record schema.
pub(super) fn record(name: &str, bytes: u32, fields: &[Field]) -> Result<(), SchemaError> {
    label(name)?;
    counts(fields)?;
    if bytes as usize > MAX_RECORD_BYTES {
        return Err(too_large());
    }
    if !(bytes as usize).is_multiple_of(WORD_BYTES) {
        return fail(format!("{bytes} bytes are no whole number of words"));
    }
    names(fields)?;
    bits(fields)?;
    fields.iter().try_for_each(content)?;
    extents(bytes, fields)
}

fn label(name: &str) -> Result<(), SchemaError> {
    if name.is_empty() || name.len() > MAX_NAME_BYTES || name.chars().any(char::is_control) {
        return fail(format!("the name {name:?} is not 1 to {MAX_NAME_BYTES} printable bytes"));
    }
    Ok(())
}

/// Dotted paths of identifiers, each once, a section before what it holds.
fn names(fields: &[Field]) -> Result<(), SchemaError> {
    let mut seen = HashMap::with_capacity(fields.len());
    for Field { name, kind, .. } in fields {
        label(name)?;
        if !name.split('.').all(is_identifier) {
            return fail(format!("{name:?} is no dotted path of identifiers"));
        }
        if let Some((section, _)) = name.rsplit_once('.')
            && seen.get(section) != Some(&Kind::Struct)
        {
            return fail(format!("no section {section:?} comes before field {name:?}"));
        }
        if seen.insert(name.as_str(), *kind).is_some() {
            return fail(format!("two fields are called {name:?}"));
        }
    }
    Ok(())
}

/// Names with two leading underscores belong to Python and to the columns of its array view.
fn is_identifier(part: &str) -> bool {
    let starts = part.starts_with(|c: char| c.is_alphabetic() || c == '_') && !part.starts_with("__");
    starts && part.chars().all(|c| c.is_alphanumeric() || c == '_')
}

fn bits(fields: &[Field]) -> Result<(), SchemaError> {
    let mut seen = vec![false; fields.len()];
    for Field { name, bit, .. } in fields {
        match seen.get_mut(*bit as usize) {
            Some(taken) if !*taken => *taken = true,
            Some(_) => return fail(format!("presence bit {bit} of {name:?} is taken")),
            None => return fail(format!("presence bit {bit} of {name:?} is not below {}", fields.len())),
        }
    }
    Ok(())
}

/// What belongs to the kind is there, and nothing else.
fn content(field: &Field) -> Result<(), SchemaError> {
    let Field { name, kind, max, choices, unit, doc, fill, .. } = field;
    if (*max > 0) != kind.is_sized() {
        return fail(format!("{name:?} of kind {kind:?} cannot have a maximum of {max}"));
    }
    if choices.is_empty() == (*kind == Kind::Enum) || choices.len() > MAX_CHOICES {
        return fail(format!("{name:?} of kind {kind:?} cannot have {} choices", choices.len()));
    }
    if choices.iter().collect::<HashSet<_>>().len() != choices.len() {
        return fail(format!("{name:?} has a choice twice"));
    }
    if unit.len() > MAX_NOTE_BYTES || doc.len() > MAX_NOTE_BYTES {
        return fail(format!("unit or doc of {name:?} is longer than {MAX_NOTE_BYTES} bytes"));
    }
    match (fill, kind) {
        (None, _) | (Some(Fill::Rank), Kind::Int) | (Some(Fill::Timestamp), Kind::Float) => Ok(()),
        (Some(fill), kind) => fail(format!("{name:?} of kind {kind:?} cannot be filled by {fill:?}")),
    }
}

/// Every value lies behind the presence words and inside the record; no two share a word.
fn extents(bytes: u32, fields: &[Field]) -> Result<(), SchemaError> {
    let mut spans = Vec::with_capacity(fields.len());
    for field in fields {
        if !(field.offset as usize).is_multiple_of(WORD_BYTES) {
            return fail(format!("offset {} of {:?} is no multiple of {WORD_BYTES}", field.offset, field.name));
        }
        let start = u64::from(field.offset);
        spans.push((start, start + (field.words() * WORD_BYTES) as u64, &field.name));
    }
    spans.sort_unstable();
    let mut end = (fields.len().div_ceil(u64::BITS as usize) * WORD_BYTES) as u64;
    for (start, stop, name) in spans {
        if start < end {
            return fail(format!("{name:?} at offset {start} overlaps what ends at {end}"));
        }
        end = stop;
    }
    if end > u64::from(bytes) {
        return fail(format!("the fields end at {end}, behind the record's {bytes} bytes"));
    }
    Ok(())
}
