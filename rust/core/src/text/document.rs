//! JSON of all ranks, each kept for as long as it does not change.

use super::{Row, Rows, Source, age_s, push_finite, tag};
use crate::record::{self, Place};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A part of a rank's object. Literals hold what stands before a value, but for the comma: which part comes first is
/// known only when the sections that a rank reports are.
#[derive(Debug, Clone)]
pub enum Part {
    /// A value.
    Value {
        /// What stands before it.
        literal: Box<[u8]>,
        /// The value.
        source: Source,
    },
    /// A section: left out, its literal too, where the rank does not report it.
    Section {
        /// What stands before its first part, the brace included.
        literal: Box<[u8]>,
        /// Its presence bit.
        place: Place,
        /// What it holds.
        parts: Vec<Part>,
    },
}

/// Writes the ranks' objects, `{...},{...}`, and remembers each: of a rank that has not changed only its age is written.
#[derive(Debug)]
pub struct Document {
    parts: Vec<Part>,
    kept: Mutex<Kept>,
}

/// The objects of one generation's ranks, and the tag of all of them.
#[derive(Debug, Default)]
struct Kept {
    nonce: [u64; 2],
    ranks: Vec<Object>,
    tag: Option<String>,
    /// Counts the changes.
    edition: u64,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// 16 hex digits that differ where the generation or a shown rank's epoch, version or state does.
    pub tag: String,
    /// Grows with each change of any rank.
    pub edition: u64,
}

/// One rank's object; empty where it never published.
#[derive(Debug, Clone, Default)]
struct Object {
    identity: [u64; 3],
    text: Text,
}

/// Text with gaps where ages belong.
#[derive(Debug, Clone, Default)]
struct Text {
    bytes: Vec<u8>,
    /// Where a gap is, and the moment that its age counts from.
    gaps: Vec<(usize, u64)>,
}

impl Document {
    /// A document whose objects are made of `parts`.
    pub fn new(parts: Vec<Part>) -> Self {
        Self { parts, kept: Mutex::default() }
    }

    /// The edition of what is kept, where that is the text of all `rows`, of which stamps alone suffice here.
    pub fn edition(&self, rows: &Rows<'_>) -> Option<u64> {
        let kept = self.kept();
        kept.is_of(rows).then_some(kept.edition)
    }

    /// As [`Self::render`], where the text of all `rows` is kept, of which stamps alone suffice here; else `None`.
    pub fn render_kept(&self, rows: &Rows<'_>, ranks: Option<&[u32]>, out: &mut Vec<u8>) -> Option<Rendered> {
        let mut kept = self.kept();
        kept.is_of(rows).then(|| kept.render(rows.now_ns, ranks, out))
    }

    /// Appends the objects of the ranks that have published.
    ///
    /// With `ranks`, of these only, in that order; ranks that do not exist are passed over.
    pub fn render(&self, rows: &Rows<'_>, ranks: Option<&[u32]>, out: &mut Vec<u8>) -> Rendered {
        let mut kept = self.kept();
        kept.update(&self.parts, rows);
        kept.render(rows.now_ns, ranks, out)
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Appends the objects with commas between them.
fn join<'a>(objects: impl Iterator<Item = &'a Object>, now_ns: u64, out: &mut Vec<u8>) {
    let mut first = true;
    for object in objects.filter(|object| !object.text.bytes.is_empty()) {
        if !std::mem::take(&mut first) {
            out.push(b',');
        }
        object.text.fill(now_ns, out);
    }
}

impl Kept {
    fn is_of(&self, rows: &Rows<'_>) -> bool {
        self.nonce == rows.nonce
            && self.ranks.len() == rows.states.len()
            && self.ranks.iter().zip(rows.iter()).all(|(object, row)| object.identity == row.identity())
    }

    fn render(&mut self, now_ns: u64, ranks: Option<&[u32]>, out: &mut Vec<u8>) -> Rendered {
        let Self { nonce, ranks: objects, tag: known, edition } = self;
        let tag = if let Some(ranks) = ranks {
            let chosen = || ranks.iter().filter_map(|&rank| objects.get(rank as usize));
            join(chosen(), now_ns, out);
            tag(*nonce, chosen().map(|object| object.identity))
        } else {
            out.reserve(objects.iter().map(|object| object.text.room()).sum());
            join(objects.iter(), now_ns, out);
            known.get_or_insert_with(|| tag(*nonce, objects.iter().map(|object| object.identity))).clone()
        };
        Rendered { tag, edition: *edition }
    }

    fn update(&mut self, parts: &[Part], rows: &Rows<'_>) {
        if self.nonce != rows.nonce || self.ranks.len() != rows.states.len() {
            let ranks = vec![Object::default(); rows.states.len()];
            *self = Self { nonce: rows.nonce, ranks, tag: None, edition: self.edition + 1 };
        }
        for (object, row) in self.ranks.iter_mut().zip(rows.iter()) {
            let identity = row.identity();
            if object.identity != identity {
                object.identity = identity;
                object.text.write(parts, &row);
                self.tag = None;
                self.edition += 1;
            }
        }
    }
}

impl Text {
    fn write(&mut self, parts: &[Part], row: &Row<'_>) {
        self.bytes.clear();
        self.gaps.clear();
        if row.version() != 0 {
            self.bytes.push(b'{');
            self.push(parts, row);
            self.bytes.push(b'}');
        }
    }

    fn push(&mut self, parts: &[Part], row: &Row<'_>) {
        for part in parts {
            match part {
                Part::Value { literal, source: Source::Age } => {
                    self.begin(literal);
                    self.gaps.push((self.bytes.len(), row.mono_ns()));
                }
                Part::Value { literal, source } => {
                    self.begin(literal);
                    source.push_json(&mut self.bytes, row);
                }
                Part::Section { literal, place, parts } => {
                    if record::is_present(row.payload(), *place) {
                        self.begin(literal);
                        self.push(parts, row);
                        self.bytes.push(b'}');
                    }
                }
            }
        }
    }

    /// Begins a member of the object that is open.
    #[inline]
    fn begin(&mut self, literal: &[u8]) {
        if self.bytes.last() != Some(&b'{') {
            self.bytes.push(b',');
        }
        self.bytes.extend_from_slice(literal);
    }

    /// Bytes that it takes at most with its ages and a comma.
    fn room(&self) -> usize {
        const LONGEST_FLOAT: usize = 24;
        self.bytes.len() + self.gaps.len() * LONGEST_FLOAT + 1
    }

    /// Appends the text with the ages of `now_ns`.
    fn fill(&self, now_ns: u64, out: &mut Vec<u8>) {
        let mut done = 0;
        for &(gap, mono_ns) in &self.gaps {
            out.extend_from_slice(&self.bytes[done..gap]);
            push_finite(out, age_s(now_ns, mono_ns));
            done = gap;
        }
        out.extend_from_slice(&self.bytes[done..]);
    }
}
