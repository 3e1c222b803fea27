//! Records and schemas against an obviously right model: a map from field name to value.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::Value as Json;
use snapring_core::record::{ABSENT_FLOAT, ABSENT_INT, Fault, Record, RecordMut, Value};
use snapring_core::schema::{Builder, Choice, Codec, Field, Fill, Kind, Schema};

/// Kinds without sections, with a maximum where one is due.
fn leaf() -> impl Strategy<Value = (Kind, u32)> {
    use Kind::{Bool, Bytes, Enum, Float, Int, ListFloat, ListInt, Str};
    prop_oneof![
        prop_oneof![Just(Int), Just(Float), Just(Bool), Just(Enum)].prop_map(|kind| (kind, 0)),
        (prop_oneof![Just(Str), Just(Bytes), Just(ListInt), Just(ListFloat)], 1_u32..20),
    ]
}

/// Up to 8 sections of up to 12 fields, and as many fields beside them: more than 64 presence bits at times.
fn schema() -> impl Strategy<Value = Schema> {
    let fields = || vec(leaf(), 0..12);
    (vec(leaf(), 1..12), vec(fields(), 0..8)).prop_map(|(top, sections)| {
        let make = |prefix: &str, leaves: Vec<(Kind, u32)>| -> Vec<Field> {
            let field = |(i, (kind, max)): (usize, (Kind, u32))| match kind {
                Kind::Enum => Field::choice(&format!("{prefix}f{i}"), &["a", "b", "c"]),
                _ => Field::sized(&format!("{prefix}f{i}"), kind, max).unit("unit"),
            };
            leaves.into_iter().enumerate().map(field).collect()
        };
        let mut builder = Schema::builder("Random");
        for field in make("", top) {
            builder = builder.with(field);
        }
        for (i, leaves) in sections.into_iter().enumerate() {
            builder = builder.with(Field::new(&format!("s{i}"), Kind::Struct));
            for field in make(&format!("s{i}."), leaves) {
                builder = builder.with(field);
            }
        }
        builder.build().expect("the builder's own layout is sound")
    })
}

/// A value that `field` takes, from random bits and text; the corners come often.
fn value_for(field: &Field, bits: u64, text: &str) -> Value {
    let int = |bits: u64| if bits == ABSENT_INT { 0 } else { bits as i64 };
    let count = bits as usize % (field.max as usize + 1);
    match field.kind {
        Kind::Int => Value::Int(int(bits)),
        Kind::Float => Value::Float(f64::from_bits(bits)),
        Kind::Bool => Value::Bool(bits & 1 == 1),
        Kind::Str => {
            let end = (0..=text.len().min(field.max as usize)).rev().find(|&end| text.is_char_boundary(end));
            Value::Text(text[..end.unwrap_or(0)].to_owned())
        }
        Kind::Bytes => Value::Bytes(text.bytes().take(field.max as usize).collect()),
        Kind::ListInt => Value::Ints((0..count as u64).map(|i| int(bits.rotate_left(i as u32))).collect()),
        Kind::ListFloat => Value::Floats((0..count as u64).map(|i| f64::from_bits(bits ^ i)).collect()),
        Kind::Enum => Value::Text(["a", "b", "c"][bits as usize % 3].to_owned()),
        Kind::Struct => Value::Section,
    }
}

fn bits() -> impl Strategy<Value = u64> {
    let corner = prop_oneof![Just(0), Just(u64::MAX), Just(ABSENT_INT), Just(ABSENT_FLOAT), Just(i64::MAX as u64)];
    prop_oneof![corner, any::<u64>()]
}

/// Bit-exact text of a value, so that NaN equals itself.
fn exact(value: &Value) -> String {
    match value {
        Value::Float(float) => format!("{:x}", float.to_bits()),
        Value::Floats(floats) => format!("{:x?}", floats.iter().map(|float| float.to_bits()).collect::<Vec<_>>()),
        other => format!("{other:?}"),
    }
}

/// What setting a field means, on a map: a section's fields mark it, and go with it.
fn model_set(model: &mut BTreeMap<String, Value>, name: &str, value: Option<Value>) {
    model.retain(|other, _| other != name && !other.starts_with(&format!("{name}.")));
    if let Some(value) = value {
        model.insert(name.to_owned(), value);
        if let Some((section, _)) = name.split_once('.') {
            model.insert(section.to_owned(), Value::Section);
        }
    }
}

proptest! {
    /// After any sequence of sets a record holds what a map would hold, bit by bit, and nothing else.
    #[test]
    fn record_equals_map(
        schema in schema(),
        steps in vec((any::<prop::sample::Index>(), prop::option::weighted(0.8, bits()), ".{0,24}"), 0..80),
    ) {
        let mut words = vec![0xdead_beef; schema.words()];
        let mut model = BTreeMap::new();
        let mut record = RecordMut::new(&schema, &mut words).unwrap();
        for (index, bits, text) in steps {
            let field = index.get(schema.fields());
            let value = bits.map(|bits| value_for(field, bits, &text));
            record.set(&field.name, value.as_ref()).unwrap();
            model_set(&mut model, &field.name, value);
        }
        let record = Record::new(&schema, &words).unwrap();
        for field in schema.fields() {
            let got = record.get(&field.name).unwrap();
            prop_assert_eq!(model.get(&field.name).map(exact), got.as_ref().map(exact), "{}", field.name);
        }
        // Taking everything back leaves exactly the words of an empty record: no stale text, no stale item.
        let mut record = RecordMut::reopen(&schema, &mut words).unwrap();
        for field in schema.fields() {
            record.set(&field.name, None).unwrap();
        }
        prop_assert_eq!(schema.absent(), &words[..]);
    }

    /// The text of a schema says all of it: reading it back gives the same schema, text and fingerprint.
    #[test]
    fn text_round_trip(schema in schema()) {
        let again = Schema::parse(&schema.to_json()).unwrap();
        prop_assert_eq!(&schema, &again);
        prop_assert_eq!(schema.to_json(), again.to_json());
        prop_assert_eq!(schema.fingerprint(), again.fingerprint());
        prop_assert_eq!(Schema::compatible(&schema, &again), Ok(()));
    }

    /// No change of bytes in the text makes the parser panic.
    #[test]
    fn damaged_text_never_panics(
        schema in schema(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut text = schema.to_json().into_bytes();
        for (index, byte) in damage {
            let at = index.index(text.len());
            text[at] = byte;
        }
        text.truncate(cut.index(text.len() * 4).max(1));
        let _ = Schema::parse(&String::from_utf8_lossy(&text));
    }

    /// A text whose numbers were forged is refused, or describes values that lie in the record and share no word.
    #[test]
    fn forged_numbers_are_harmless(
        schema in schema(),
        forgeries in vec((any::<prop::sample::Index>(), 0_usize..4, prop_oneof![0_i64..2000, any::<i64>()]), 1..6),
        noise in vec(bits(), 1..64),
    ) {
        let mut text: Json = serde_json::from_str(&schema.to_json()).unwrap();
        for (index, member, number) in forgeries {
            if member == 3 {
                text["bytes"] = number.into();
            } else {
                let fields = text["fields"].as_array_mut().unwrap();
                let at = index.index(fields.len());
                fields[at][["offset", "bit", "max"][member]] = number.into();
            }
        }
        let Ok(forged) = Schema::parse(&text.to_string()) else { return Ok(()) };
        let mut owners = vec![0; forged.words()];
        owners[..forged.fields().len().div_ceil(64)].fill(1);
        for field in forged.fields() {
            for word in 0..field.words() {
                owners[field.offset as usize / 8 + word] += 1;
            }
        }
        prop_assert!(owners.iter().all(|&count| count <= 1));
        let words: Vec<u64> = noise.iter().copied().cycle().take(forged.words()).collect();
        let record = Record::new(&forged, &words).unwrap();
        for field in forged.fields() {
            let _ = record.get(&field.name);
        }
    }
}

fn sample() -> Schema {
    Schema::builder("Sample")
        .with(Field::new("timestamp", Kind::Float).unit("s").fill(Fill::Timestamp))
        .with(Field::new("rank", Kind::Int).fill(Fill::Rank))
        .with(Field::sized("moments", Kind::ListFloat, 3).doc("running sums"))
        .with(Field::new("queues", Kind::Struct))
        .with(Field::new("queues.waiting", Kind::Int).unit("requests"))
        .with(Field::sized("queues.name", Kind::Str, 9))
        .with(Field::choice("mode", &["prefill", "decode"]))
        .build()
        .unwrap()
}

/// The stored text is what both compilers, this one and the Python one, make of the same fields; the fingerprint was
/// computed by Python's `hashlib.blake2b`.
#[test]
fn golden_text() {
    let golden = include_str!("data/schema_sample.json").trim_end();
    assert_eq!(golden, sample().to_json());
    assert_eq!(0x0591_d97c_7fea_6c52, sample().fingerprint());
}

/// A refused value names its field and the reason, and leaves the field absent.
#[test]
fn refusals_name_the_field() {
    let schema = sample();
    let mut words = vec![0; schema.words()];
    let mut record = RecordMut::new(&schema, &mut words).unwrap();
    let cases = [
        ("rank", Value::Int(i64::MIN), Fault::Reserved),
        ("rank", Value::Float(1.0), Fault::Kind),
        ("moments", Value::Floats(vec![0.0; 4]), Fault::TooLong { max: 3, got: 4 }),
        ("queues.name", Value::Text("ééééé".into()), Fault::TooLong { max: 9, got: 10 }),
        ("mode", Value::Text("both".into()), Fault::UnknownChoice),
        ("nobody", Value::Int(1), Fault::Unknown),
    ];
    for (name, value, fault) in cases {
        let refused = record.set(name, Some(&value)).unwrap_err();
        assert_eq!((name, fault), (refused.field.as_str(), refused.fault));
    }
    assert_eq!(schema.absent(), &words[..]);
}

/// A length or position that no writer stores is reported as corrupt, never followed.
#[test]
fn corrupt_words_are_refused() {
    let schema = sample();
    let words = vec![u64::MAX - 1; schema.words()];
    let record = Record::new(&schema, &words).unwrap();
    for name in ["moments", "queues.name", "mode"] {
        assert_eq!(Fault::Corrupt, record.get(name).unwrap_err().fault, "{name}");
    }
    assert_eq!(Fault::Short, Record::new(&schema, &words[1..]).unwrap_err().fault);
}

/// Layouts are compared by name, choices by value: extra fields and choices on one side pass; another kind, maximum or
/// codec, choices of which each side lacks some, and nothing in common, fail with a reason that names both sides.
#[test]
fn compatibility() {
    let one = |field: Field| Schema::builder("One").with(field).build().unwrap();
    let file = sample();
    assert_eq!(Ok(()), Schema::compatible(&file, &one(Field::choice("mode", &["both", "decode", "prefill"]))));
    assert_eq!(Ok(()), Schema::compatible(&file, &one(Field::choice("mode", &["prefill"]))));
    let newer = Schema::builder("Two")
        .with(Field::new("rank", Kind::Int))
        .with(Field::new("newer", Kind::Int))
        .build()
        .unwrap();
    assert_eq!(Ok(()), Schema::compatible(&file, &newer));
    let differing = [
        (one(Field::new("rank", Kind::Float)), ["rank", "Int", "Float"]),
        (one(Field::sized("moments", Kind::ListFloat, 4)), ["moments", "3", "4"]),
        (one(Field::choice("mode", &["prefill", "both"])), ["mode", "both", "decode"]),
        (Schema::bytes(), ["codec", "Record", "Bytes"]),
        (one(Field::new("newer", Kind::Int)), ["no field in common", file.name(), "One"]),
    ];
    for (class, parts) in differing {
        let reason = Schema::compatible(&file, &class).unwrap_err();
        assert!(parts.iter().all(|part| reason.contains(part)), "{reason}");
    }
}

/// Free payloads have a schema text too, without fields.
#[test]
fn free_payloads() {
    for (schema, codec) in [(Schema::bytes(), Codec::Bytes), (Schema::msgpack("Thing"), Codec::Msgpack)] {
        assert_eq!((codec, 0), (schema.codec(), schema.record_bytes()));
        assert_eq!(Ok(schema.clone()), Schema::parse(&schema.to_json()));
    }
}

/// Each rule of a sound schema refuses what breaks it.
#[test]
fn unsound_fields_are_refused() {
    let int = |name: &str| Field::new(name, Kind::Int);
    let cases = [
        ("two fields", vec![int("a"), int("a")]),
        ("section", vec![int("s.a")]),
        ("section", vec![int("s"), int("s.a")]),
        ("identifiers", vec![int("a:len")]),
        ("identifiers", vec![int("a..b")]),
        ("identifiers", vec![int("__present__")]),
        ("identifiers", vec![int("1a")]),
        ("printable", vec![int("")]),
        ("maximum", vec![Field::new("t", Kind::Str)]),
        ("maximum", vec![Field::sized("t", Kind::Int, 3)]),
        ("more than", vec![Field::sized("t", Kind::Str, u32::MAX)]),
        ("more than", vec![Field::sized("t", Kind::ListInt, 1 << 19), Field::sized("u", Kind::ListInt, 1 << 19)]),
        ("choices", vec![Field::new("e", Kind::Enum)]),
        ("twice", vec![Field::choice("e", &["a", "a"])]),
        ("filled", vec![int("t").fill(Fill::Timestamp)]),
        ("0 fields", vec![]),
        ("1025 fields", (0..1025).map(|i| int(&format!("f{i}"))).collect()),
    ];
    for (part, fields) in cases {
        let builder = fields.into_iter().fold(Schema::builder("Bad"), Builder::with);
        let refused = builder.build().unwrap_err().to_string();
        assert!(refused.contains(part), "{part}: {refused}");
    }
    let mixed = Field { choices: vec![Choice::Int(1), Choice::Str("1".into())], ..Field::new("e", Kind::Enum) };
    assert!(Schema::builder("Mixed").with(mixed).build().is_ok());
}
