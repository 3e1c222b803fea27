//! The text that Prometheus scrapes: metric by metric, a line per rank.

use super::{Rows, Source};
use crate::ring::State;

/// What a sample shows of a rank.
#[derive(Debug, Clone)]
pub enum SampleValue {
    /// A number, times a scale.
    Number {
        /// The number.
        source: Source,
        /// The factor.
        scale: f64,
    },
    /// A text, as the value of the last label; the sample is 1.
    Label(Source),
}

/// One line per rank: `before`, the rank, `after`, the value.
#[derive(Debug, Clone)]
pub struct Sample {
    /// The name up to the rank's opening quote.
    pub before: Box<[u8]>,
    /// From the rank's closing quote to the space before the value, or to the opening quote of the label that shows it.
    pub after: Box<[u8]>,
    /// The value.
    pub value: SampleValue,
}

/// One metric: lines of description, and what is shown of each rank.
#[derive(Debug, Clone)]
pub struct Family {
    /// HELP, TYPE and UNIT, with line ends.
    pub header: Box<[u8]>,
    /// A running total: what is below 0 or no number is none, and left out, or strict readers refuse the whole text.
    pub is_counter: bool,
    /// The load of now, which a DEAD rank has not: its last one would stand in every sum until somebody removes it.
    pub is_load: bool,
    /// Samples of a rank.
    pub samples: Vec<Sample>,
}

/// All metrics of one scrape.
#[derive(Debug, Clone)]
pub struct Exposition {
    families: Vec<Family>,
}

impl Exposition {
    /// An exposition of `families`.
    pub fn new(families: Vec<Family>) -> Self {
        Self { families }
    }

    /// Appends the text, with `ranks` of these only. What a rank does not report has no sample, and a family without
    /// samples is left out.
    pub fn render(&self, rows: &Rows<'_>, ranks: Option<&[u32]>, out: &mut Vec<u8>) {
        let chosen: Vec<_> = match ranks {
            None => rows.iter().collect(),
            Some(ranks) => ranks.iter().filter_map(|&rank| rows.get(rank)).collect(),
        };
        for family in &self.families {
            let start = out.len();
            out.extend_from_slice(&family.header);
            let begun = out.len();
            for row in &chosen {
                if family.is_load && row.state == State::Dead {
                    continue;
                }
                for sample in &family.samples {
                    sample.push(out, row, family.is_counter);
                }
            }
            if out.len() == begun {
                out.truncate(start);
            }
        }
    }
}

impl Sample {
    fn push(&self, out: &mut Vec<u8>, row: &super::Row<'_>, is_counter: bool) {
        let (SampleValue::Number { source, .. } | SampleValue::Label(source)) = &self.value;
        if row.version() == 0 && !source.is_of_all() {
            return;
        }
        match &self.value {
            SampleValue::Number { source, scale } => {
                let Some(number) = source.number(row) else { return };
                if is_counter && !number.is_total() {
                    return;
                }
                self.begin(out, row.rank);
                number.push_scaled(out, *scale);
                out.push(b'\n');
            }
            SampleValue::Label(source) => {
                let Some(text) = source.text(row) else { return };
                self.begin(out, row.rank);
                push_escaped(out, &text);
                out.extend_from_slice(b"\"} 1\n");
            }
        }
    }

    fn begin(&self, out: &mut Vec<u8>, rank: u32) {
        out.extend_from_slice(&self.before);
        super::push_unsigned(out, u64::from(rank));
        out.extend_from_slice(&self.after);
    }
}

/// The value of a label: backslash, quote and line end are escaped.
fn push_escaped(out: &mut Vec<u8>, text: &str) {
    for byte in text.bytes() {
        match byte {
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'"' => out.extend_from_slice(b"\\\""),
            b'\n' => out.extend_from_slice(b"\\n"),
            _ => out.push(byte),
        }
    }
}
