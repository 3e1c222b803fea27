//! Where a value comes from: a field of the record, or a fact of its slot.

use super::{Row, age_s, push_finite, push_int, push_unsigned};
use crate::layout::cell;
use crate::record::{self, Place};
use crate::ring::State;
use crate::schema::{Choice, Field, Kind, Schema};

/// What a value is taken from, parsed once.
///
/// By name: `num_running_reqs` and `queues.waiting` are fields, `decode_moments[5]` is an item of a list, `$rank`,
/// `$version`, `$epoch`, `$age` (s), `$timestamp` (wall clock of the publish, s) and `$state` are facts of the slot,
/// `$state=LIVE` is 1 or 0, and `$up` the same as `$state=LIVE`.
#[derive(Debug, Clone)]
pub enum Source {
    /// The ring's records have no such field.
    Missing,
    /// A field.
    Field(Box<Held>),
    /// Rank.
    Rank,
    /// Version.
    Version,
    /// Epoch.
    Epoch,
    /// Age in seconds, at the moment of writing.
    Age,
    /// Wall clock of the publish, s.
    Timestamp,
    /// Name of the state.
    State,
    /// 1 in this state, else 0.
    Is(State),
}

/// A field as far as its values must be written.
#[derive(Debug, Clone)]
pub struct Held {
    place: Place,
    kind: Kind,
    /// Item of a list.
    item: Option<usize>,
    choices: Vec<Choice>,
}

/// A number that a metric can show.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Number {
    Int(i64),
    Unsigned(u64),
    Float(f64),
}

const STATES: [State; 4] = [State::Never, State::Live, State::Stale, State::Dead];

const fn name(state: State) -> &'static str {
    match state {
        State::Never => "NEVER",
        State::Live => "LIVE",
        State::Stale => "STALE",
        State::Dead => "DEAD",
    }
}

impl Source {
    /// The source of that name in records of `schema`; `None` for a name that means nothing in any schema.
    pub fn parse(text: &str, schema: &Schema) -> Option<Self> {
        let Some(fact) = text.strip_prefix('$') else {
            return Self::field(text, schema);
        };
        Some(match fact {
            "rank" => Self::Rank,
            "version" => Self::Version,
            "epoch" => Self::Epoch,
            "age" => Self::Age,
            "timestamp" => Self::Timestamp,
            "state" => Self::State,
            "up" => Self::Is(State::Live),
            _ => {
                let wanted = fact.strip_prefix("state=")?;
                Self::Is(STATES.into_iter().find(|&state| name(state) == wanted)?)
            }
        })
    }

    fn field(text: &str, schema: &Schema) -> Option<Self> {
        let (path, item) = match text.strip_suffix(']') {
            None => (text, None),
            Some(indexed) => {
                let (path, index) = indexed.split_once('[')?;
                (path, Some(index.parse().ok()?))
            }
        };
        Some(schema.field(path).map_or(Self::Missing, |field| Self::Field(Box::new(Held::of(field, item)))))
    }

    /// Whether every rank has it, also one that never published.
    pub(super) const fn is_of_all(&self) -> bool {
        matches!(self, Self::Rank | Self::State | Self::Is(_))
    }

    /// The value as a number; `None` where it is not reported, or is none.
    pub(super) fn number(&self, row: &Row<'_>) -> Option<Number> {
        Some(match self {
            Self::Missing | Self::State => return None,
            Self::Field(field) => return field.number(row.payload()),
            Self::Rank => Number::Int(i64::from(row.rank)),
            Self::Version => Number::Unsigned(row.version()),
            Self::Epoch => Number::Unsigned(row.epoch()),
            Self::Age => Number::Float(age_s(row.now_ns, row.mono_ns())),
            Self::Timestamp => Number::Float(row.words[cell::WALL_NS] as f64 / 1e9),
            Self::Is(state) => Number::Int(i64::from(row.state == *state)),
        })
    }

    /// The value as a text; `None` where it is not reported, or is none.
    pub(super) fn text(&self, row: &Row<'_>) -> Option<String> {
        match self {
            Self::State => Some(name(row.state).to_owned()),
            Self::Field(field) => field.text(row.payload()),
            _ => None,
        }
    }

    /// Writes the value as JSON: null where it is not reported, and for numbers that JSON does not have.
    pub(super) fn push_json(&self, out: &mut Vec<u8>, row: &Row<'_>) {
        if let Some(number) = self.number(row) {
            number.push_json(out);
        } else if let Some(text) = self.text(row) {
            push_json_text(out, &text);
        } else if let Self::Field(field) = self {
            field.push_json_other(out, row.payload());
        } else {
            out.extend_from_slice(b"null");
        }
    }
}

impl Held {
    fn of(field: &Field, item: Option<usize>) -> Self {
        Self { place: field.place(), kind: field.kind, item, choices: field.choices.clone() }
    }

    #[inline]
    fn number(&self, words: &[u64]) -> Option<Number> {
        if !record::is_present(words, self.place) {
            return None;
        }
        match (self.kind, self.item) {
            (Kind::Int, None) => Some(Number::Int(record::get_int(words, self.place))),
            (Kind::Float, None) => Some(Number::Float(record::get_float(words, self.place))),
            (Kind::ListInt | Kind::ListFloat, Some(item)) => {
                record::get_items(words, self.place).ok()?.get(item).map(|&word| self.item(word))
            }
            (Kind::Enum, None) => match self.choice(words)? {
                Choice::Int(number) => Some(Number::Int(*number)),
                Choice::Str(_) => None,
            },
            _ => None,
        }
    }

    fn item(&self, word: u64) -> Number {
        if self.kind == Kind::ListInt { Number::Int(word as i64) } else { Number::Float(f64::from_bits(word)) }
    }

    fn choice(&self, words: &[u64]) -> Option<&Choice> {
        self.choices.get(usize::try_from(record::get_int(words, self.place)).ok()?)
    }

    fn text(&self, words: &[u64]) -> Option<String> {
        if !record::is_present(words, self.place) {
            return None;
        }
        match self.kind {
            Kind::Str => record::get_text(words, self.place).ok(),
            Kind::Enum => match self.choice(words)? {
                Choice::Str(text) => Some(text.clone()),
                Choice::Int(_) => None,
            },
            _ => None,
        }
    }

    /// Bools and lists, which no metric shows.
    fn push_json_other(&self, out: &mut Vec<u8>, words: &[u64]) {
        let present = record::is_present(words, self.place);
        match self.kind {
            Kind::Bool if present => {
                out.extend_from_slice(if record::get_int(words, self.place) == 0 { b"false" } else { b"true" });
            }
            Kind::ListInt | Kind::ListFloat if present && self.item.is_none() => {
                match record::get_items(words, self.place) {
                    Ok(items) => self.push_list(out, items),
                    Err(_) => out.extend_from_slice(b"null"),
                }
            }
            _ => out.extend_from_slice(b"null"),
        }
    }

    fn push_list(&self, out: &mut Vec<u8>, items: &[u64]) {
        out.push(b'[');
        for (index, &word) in items.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            self.item(word).push_json(out);
        }
        out.push(b']');
    }
}

impl Number {
    fn push_json(self, out: &mut Vec<u8>) {
        match self {
            Self::Int(value) => push_int(out, value),
            Self::Unsigned(value) => push_unsigned(out, value),
            Self::Float(value) if value.is_finite() => push_finite(out, value),
            Self::Float(_) => out.extend_from_slice(b"null"),
        }
    }

    /// Whether it can be a running total.
    pub(super) fn is_total(self) -> bool {
        match self {
            Self::Int(value) => value >= 0,
            Self::Unsigned(_) => true,
            Self::Float(value) => value >= 0.0,
        }
    }

    /// As Prometheus reads it, times `scale`.
    pub(super) fn push_scaled(self, out: &mut Vec<u8>, scale: f64) {
        #[expect(clippy::float_cmp, reason = "exactly 1 means: leave an integer as it is")]
        let same = scale == 1.0;
        let value = match self {
            Self::Int(value) if same => return push_int(out, value),
            Self::Unsigned(value) if same => return push_unsigned(out, value),
            Self::Int(value) => value as f64 * scale,
            Self::Unsigned(value) => value as f64 * scale,
            Self::Float(value) => value * scale,
        };
        match value {
            _ if value.is_nan() => out.extend_from_slice(b"NaN"),
            f64::INFINITY => out.extend_from_slice(b"+Inf"),
            f64::NEG_INFINITY => out.extend_from_slice(b"-Inf"),
            _ => push_finite(out, value),
        }
    }
}

/// A JSON string. A Vec takes every byte, so this cannot fail.
fn push_json_text(out: &mut Vec<u8>, text: &str) {
    if serde_json::to_writer(&mut *out, text).is_err() {
        out.extend_from_slice(b"null");
    }
}
