//! Text of rows: what stands in the words stands in the text, and no words bring it out of step.

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value as Json, json};
use snapring_core::State;
use snapring_core::layout::cell;
use snapring_core::record::{RecordMut, Value};
use snapring_core::schema::{Field, Kind, Schema};
use snapring_core::text::{Document, Exposition, Family, Part, Rows, Sample, SampleValue, Source};

const AGE_NS: u64 = 1_500_000_000;
const NOW_NS: u64 = 9_000_000_000;

fn schema() -> Schema {
    Schema::builder("Load")
        .with(Field::new("running", Kind::Int))
        .with(Field::new("usage", Kind::Float))
        .with(Field::new("on", Kind::Bool))
        .with(Field::sized("note", Kind::Str, 16))
        .with(Field::choice("mode", &["null", "prefill"]))
        .with(Field::sized("moments", Kind::ListFloat, 3))
        .with(Field::sized("counts", Kind::ListInt, 2))
        .with(Field::new("queue", Kind::Struct))
        .with(Field::new("queue.waiting", Kind::Int))
        .build()
        .unwrap()
}

fn value(key: &str, source: &str) -> Part {
    let literal = format!("\"{key}\":");
    Part::Value { literal: literal.into_bytes().into(), source: Source::parse(source, &schema()).unwrap() }
}

fn document() -> Document {
    let inside = vec![value("waiting", "queue.waiting")];
    let place = schema().field("queue").unwrap().place();
    Document::new(vec![
        value("rank", "$rank"),
        value("running", "running"),
        value("usage", "usage"),
        value("on", "on"),
        value("note", "note"),
        value("mode", "mode"),
        value("moments", "moments"),
        value("counts", "counts"),
        value("none", "no_such_field"),
        Part::Section { literal: b"\"queue\":{".as_slice().into(), place, parts: inside },
        value("age", "$age"),
        value("state", "$state"),
        value("version", "$version"),
    ])
}

/// A row of version 7 with these fields.
fn row(fields: &[(&str, Value)]) -> Vec<u64> {
    let schema = schema();
    let mut row = vec![0; cell::PAYLOAD];
    row[cell::SEQ] = 14;
    row[cell::VERSION] = 7;
    row[cell::EPOCH] = 2;
    row[cell::MONO_NS] = NOW_NS - AGE_NS;
    row.extend(schema.absent());
    let mut record = RecordMut::new(&schema, &mut row[cell::PAYLOAD..]).unwrap();
    for (name, value) in fields {
        record.set(name, Some(value)).unwrap();
    }
    row
}

fn rows<'a>(words: &'a [u64], states: &'a [State]) -> Rows<'a> {
    Rows { words, row_words: cell::PAYLOAD + schema().words(), states, nonce: [1, 2], now_ns: NOW_NS }
}

fn render(document: &Document, rows: &Rows<'_>, ranks: Option<&[u32]>) -> (Vec<Json>, String) {
    let mut out = b"[".to_vec();
    let tag = document.render(rows, ranks, &mut out).tag;
    out.push(b']');
    (serde_json::from_slice(&out).expect("JSON"), tag)
}

#[test]
fn every_kind_is_written_as_json() {
    let words = row(&[
        ("running", Value::Int(-5)),
        ("usage", Value::Float(0.25)),
        ("on", Value::Bool(true)),
        ("note", Value::Text("a\"\\\n\u{1}é".to_owned())),
        ("mode", Value::Text("prefill".to_owned())),
        ("moments", Value::Floats(vec![1.0, f64::NAN])),
        ("counts", Value::Ints(vec![3, -4])),
        ("queue.waiting", Value::Int(9)),
    ]);

    let (objects, _) = render(&document(), &rows(&words, &[State::Live]), None);

    let expected = json!({
        "rank": 0, "running": -5, "usage": 0.25, "on": true, "note": "a\"\\\n\u{1}é", "mode": "prefill",
        "moments": [1.0, null], "counts": [3, -4], "none": null, "queue": {"waiting": 9},
        "age": 1.5, "state": "LIVE", "version": 7,
    });
    assert_eq!(objects, [expected]);
}

#[test]
fn what_is_not_reported_is_null_and_an_absent_section_is_left_out() {
    let words = row(&[]);

    let (objects, _) = render(&document(), &rows(&words, &[State::Stale]), None);

    let object = objects[0].as_object().unwrap();
    for key in ["running", "usage", "on", "note", "mode", "moments", "counts", "none"] {
        assert_eq!(object[key], Json::Null, "{key}");
    }
    assert!(!object.contains_key("queue"));
}

#[test]
fn infinite_numbers_are_null() {
    for number in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let words = row(&[("usage", Value::Float(number))]);

        let (objects, _) = render(&document(), &rows(&words, &[State::Live]), None);

        assert_eq!(objects[0]["usage"], Json::Null);
    }
}

#[test]
fn a_rank_that_never_published_is_left_out() {
    let mut words = row(&[]);
    words.extend(row(&[]));
    words[cell::VERSION] = 0;

    let (objects, _) = render(&document(), &rows(&words, &[State::Never, State::Live]), None);

    assert_eq!(objects.iter().map(|object| &object["rank"]).collect::<Vec<_>>(), [1]);
}

#[test]
fn ranks_can_be_chosen_and_unknown_ones_are_passed_over() {
    let words: Vec<u64> = (0..3).flat_map(|_| row(&[])).collect();
    let document = document();

    let (objects, tag) = render(&document, &rows(&words, &[State::Live; 3]), Some(&[2, 9, 0]));

    assert_eq!(objects.iter().map(|object| &object["rank"]).collect::<Vec<_>>(), [2, 0]);
    assert_ne!(tag, render(&document, &rows(&words, &[State::Live; 3]), None).1);
}

/// What a kept text may not outlive: another version, epoch, state or generation of any rank.
#[test]
fn a_kept_text_ends_with_any_change() {
    let words: Vec<u64> = [row(&[]), row(&[("running", Value::Int(1))])].concat();
    let at = words.len() / 2;
    let document = document();
    let (before, first) = render(&document, &rows(&words, &[State::Live; 2]), None);

    let (same, again) = render(&document, &rows(&words, &[State::Live; 2]), None);
    assert_eq!((&same, &again), (&before, &first));

    let mut later = rows(&words, &[State::Live; 2]);
    later.now_ns += 500_000_000;
    let (older, tag) = render(&document, &later, None);
    assert_eq!((&older[1]["age"], &tag), (&json!(2.0), &first), "ages go on, and are no change");

    let (dead, tag) = render(&document, &rows(&words, &[State::Live, State::Dead]), None);
    assert_eq!(dead[1]["state"], "DEAD");
    assert_ne!(tag, first);

    for word in [cell::VERSION, cell::EPOCH] {
        let mut other = row(&[("running", Value::Int(2))]);
        other[word] += 1;
        let changed = [&words[..at], &other].concat();
        let (objects, tag) = render(&document, &rows(&changed, &[State::Live; 2]), None);
        assert_eq!(objects[1]["running"], 2);
        assert_ne!(tag, first);
    }

    let mut replaced = words.clone();
    replaced[at..].copy_from_slice(&row(&[("running", Value::Int(3))]));
    let mut other = rows(&replaced, &[State::Live; 2]);
    other.nonce = [1, 3];
    let (objects, tag) = render(&document, &other, None);
    assert_eq!(objects[1]["running"], 3, "the same versions in another generation are other snapshots");
    assert_ne!(tag, first);
}

/// Stamps suffice exactly as long as nothing changed, and give the same text.
#[test]
fn stamps_suffice_for_a_kept_text() {
    let words: Vec<u64> = [row(&[("running", Value::Int(1))]), row(&[("queue.waiting", Value::Int(2))])].concat();
    let stamps: Vec<u64> = words.chunks(words.len() / 2).flat_map(|row| row[..cell::PAYLOAD].to_vec()).collect();
    let of_stamps = |states| Rows { row_words: cell::PAYLOAD, ..rows(&stamps, states) };
    let (document, live) = (document(), [State::Live; 2]);
    assert_eq!(document.render_kept(&of_stamps(&live), None, &mut Vec::new()), None, "nothing is kept yet");
    let (mut whole, mut again, mut one) = (Vec::new(), Vec::new(), Vec::new());
    let rendered = document.render(&rows(&words, &live), None, &mut whole);

    let kept = document.render_kept(&of_stamps(&live), None, &mut again);
    document.render_kept(&of_stamps(&live), Some(&[1]), &mut one).unwrap();

    assert_eq!((kept.as_ref(), &again), (Some(&rendered), &whole));
    assert!(whole.ends_with(&one) && one.starts_with(b"{"));
    assert_eq!(document.edition(&of_stamps(&live)), Some(rendered.edition));
    assert_eq!(document.edition(&of_stamps(&[State::Live, State::Dead])), None);
    let other = Rows { nonce: [1, 3], ..of_stamps(&live) };
    assert_eq!(document.edition(&other), None);
    let mut newer = stamps.clone();
    newer[cell::PAYLOAD + cell::VERSION] += 1;
    let newer = Rows { words: &newer, ..of_stamps(&live) };
    assert_eq!(document.render_kept(&newer, None, &mut Vec::new()), None);
}

fn sample(source: &str, scale: f64) -> Sample {
    let value = match source.strip_suffix('=') {
        Some(field) => SampleValue::Label(Source::parse(field, &schema()).unwrap()),
        None => SampleValue::Number { source: Source::parse(source, &schema()).unwrap(), scale },
    };
    let after: &[u8] = if source.ends_with('=') { b"\",mode=\"" } else { b"\"} " };
    Sample { before: b"m{rank=\"".as_slice().into(), after: after.into(), value }
}

fn scrape(samples: Vec<Sample>, words: &[u64], states: &[State]) -> String {
    let family = Family { header: b"# TYPE m gauge\n".as_slice().into(), is_counter: false, is_load: false, samples };
    let mut out = Vec::new();
    Exposition::new(vec![family]).render(&rows(words, states), None, &mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn samples_are_written_as_prometheus_reads_them() {
    for (source, scale, field, number, line) in [
        ("running", 1.0, "running", Value::Int(-3), "m{rank=\"0\"} -3\n"),
        ("running", 0.5, "running", Value::Int(3), "m{rank=\"0\"} 1.5\n"),
        ("usage", 1.0, "usage", Value::Float(f64::NAN), "m{rank=\"0\"} NaN\n"),
        ("usage", 1.0, "usage", Value::Float(f64::INFINITY), "m{rank=\"0\"} +Inf\n"),
        ("usage", 1.0, "usage", Value::Float(f64::NEG_INFINITY), "m{rank=\"0\"} -Inf\n"),
        ("moments[1]", 1.0, "moments", Value::Floats(vec![1.0, 2.5]), "m{rank=\"0\"} 2.5\n"),
        ("mode=", 1.0, "mode", Value::Text("prefill".to_owned()), "m{rank=\"0\",mode=\"prefill\"} 1\n"),
        ("note=", 1.0, "note", Value::Text("a\"\\\n".to_owned()), "m{rank=\"0\",mode=\"a\\\"\\\\\\n\"} 1\n"),
    ] {
        let words = row(&[(field, number)]);

        let text = scrape(vec![sample(source, scale)], &words, &[State::Live]);

        assert_eq!(text, format!("# TYPE m gauge\n{line}"), "{source}");
    }
}

#[test]
fn a_family_without_a_sample_is_left_out() {
    for source in ["running", "moments[2]", "mode=", "no_such_field"] {
        assert_eq!(scrape(vec![sample(source, 1.0)], &row(&[]), &[State::Live]), "", "{source}");
    }
}

#[test]
fn the_load_of_a_dead_rank_is_not_told() {
    let words: Vec<u64> = (0..2).flat_map(|_| row(&[("running", Value::Int(1))])).collect();
    let family = |is_load| Family {
        header: b"# TYPE m gauge\n".as_slice().into(),
        is_counter: false,
        is_load,
        samples: vec![sample("running", 1.0)],
    };
    let text = |is_load| {
        let mut out = Vec::new();
        Exposition::new(vec![family(is_load)]).render(&rows(&words, &[State::Dead, State::Stale]), None, &mut out);
        String::from_utf8(out).unwrap()
    };

    assert_eq!(text(true), "# TYPE m gauge\nm{rank=\"1\"} 1\n");
    assert_eq!(text(false), "# TYPE m gauge\nm{rank=\"0\"} 1\nm{rank=\"1\"} 1\n");
}

#[test]
fn of_a_rank_that_never_published_only_the_state_is_known() {
    let mut words = row(&[]);
    words[cell::VERSION] = 0;

    let text =
        scrape(vec![sample("$state=NEVER", 1.0), sample("$up", 1.0), sample("$version", 1.0)], &words, &[State::Never]);

    assert_eq!(text, "# TYPE m gauge\nm{rank=\"0\"} 1\nm{rank=\"0\"} 0\n");
}

#[test]
fn names_that_mean_nothing_are_refused() {
    for name in ["$", "$nothing", "$state=ALIVE", "moments[x]", "moments]"] {
        assert!(Source::parse(name, &schema()).is_none(), "{name}");
    }
}

proptest! {
    /// Whatever words a hostile writer leaves in a slot, the text stays whole JSON of the same keys.
    #[test]
    fn hostile_words_stay_json(
        payload in vec(prop_oneof![any::<u64>(), 0_u64..20, Just(u64::MAX)], schema().words()),
        stamp in vec(1_u64.., cell::PAYLOAD),
    ) {
        let words = [stamp, payload].concat();

        let (objects, _) = render(&document(), &rows(&words, &[State::Live]), None);

        let keys: Vec<&str> = objects[0].as_object().unwrap().keys().map(String::as_str).collect();
        prop_assert!(keys.len() == 12 || keys.len() == 13 && keys.contains(&"queue"));
        scrape(
            ["running", "usage", "moments[1]", "counts[1]", "mode=", "note="].map(|name| sample(name, 1e-6)).into(),
            &words,
            &[State::Dead],
        );
    }
}
