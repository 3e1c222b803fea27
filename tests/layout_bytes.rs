//! The bytes of a ring, held by a golden file: a change that no reader of yesterday understands is a change of format.
//!
//! `SNAPRING_BLESS=1 cargo test --test layout_bytes` writes the file anew.

mod support;

use snapring_core::file::RingFile;
use snapring_core::layout::{Geometry, slot};
use snapring_core::mapping::Access;
use snapring_core::sync::{AtomicU64, Ordering};
use snapring_core::{DirOptions, Directory, Field, Header, Kind, Newest, Origin, Ring, Schema, Slot, Stamp, Writer};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use support::{NAME, Place, WORDS, publish, writer_options};

const RANKS: u32 = 2;
const PUBLISHES: u64 = 3;

fn golden_path() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "data", "ring_v1.bin"].iter().collect()
}

/// A header without time and chance.
fn header() -> Header {
    let fields = [Field::new("running", Kind::Int).unit("requests"), Field::new("usage", Kind::Float)];
    let builder = fields.into_iter().fold(Schema::builder("Golden"), snapring_core::schema::Builder::with);
    let schema = Arc::new(builder.build().unwrap());
    let schema_text = schema.to_json();
    let geometry = Geometry::new(RANKS, Some(2), schema.record_bytes(), schema_text.len()).unwrap();
    let job = "golden job".into();
    Header { geometry, created_ns: 1, boot_id: [2, 3], nonce: [4, 5], job, schema, schema_text }
}

fn stamp(rank: u32, version: u64) -> Stamp {
    let epoch = 7 + u64::from(rank);
    let origin = Origin { start: epoch, random: 8, version };
    Stamp { version, epoch, origin, mono_ns: 1_000 + version, wall_ns: 2_000 + version, len: 24 }
}

/// The record {running: 40 + rank, usage: version / 2}: presence bits, then the fields.
fn record(rank: u32, version: u64) -> [u64; 3] {
    [0b11, 40 + u64::from(rank), (version as f64 / 2.0).to_bits()]
}

/// A whole ring in memory, both ranks published three times.
fn ring_bytes() -> Vec<u8> {
    let header = header();
    let geometry = header.geometry;
    let mut words = header.to_words();
    words.resize(geometry.file_bytes / 8, 0);
    let words: Vec<_> = words.into_iter().map(AtomicU64::new).collect();
    for rank in 0..RANKS {
        let slot = Slot::new(&words[geometry.slot_offset(rank) / 8..], &geometry);
        for (word, value) in (slot::EPOCH..=slot::FILLER).zip([7 + u64::from(rank), 0, 11, 12, 13, 14, 0]) {
            slot.store(word, value);
        }
        (1..=PUBLISHES).for_each(|version| slot.publish(&stamp(rank, version), &record(rank, version)));
    }
    words.iter().flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes()).collect()
}

/// A ring of today has the bytes of a ring of format 1.
#[test]
fn a_ring_has_the_golden_bytes() {
    if std::env::var_os("SNAPRING_BLESS").is_some() {
        std::fs::write(golden_path(), ring_bytes()).unwrap();
    }
    let golden = std::fs::read(golden_path()).unwrap();

    let bytes = ring_bytes();

    assert_eq!(bytes.len(), golden.len());
    let differs = (0..golden.len()).find(|&at| bytes[at] != golden[at]);
    assert_eq!(differs, None, "byte {differs:?} is not the golden one");
}

/// Every word stands where the documentation says, in numbers that no constant can move along.
#[test]
fn words_stand_where_they_are_documented() {
    let golden = std::fs::read(golden_path()).unwrap();
    let word = |byte: usize| u64::from_le_bytes(golden[byte..byte + 8].try_into().unwrap());
    let header = [
        (0, u64::from_le_bytes(*b"SNAPRING")),
        (8, 1),         // format
        (16, 4096),     // header bytes
        (24, 3 * 4096), // file bytes
        (32, 2),        // ranks
        (40, 2),        // cells
        (48, 4096),     // slot to slot
        (56, 128),      // cell to cell
        (64, 24),       // payload
        (72, 1),        // creation
        (80, 2),        // boot id
        (88, 3),        //
        (96, 4),        // nonce
        (104, 5),       //
        (112, 10),      // bytes of the job
        (192, 256),     // schema offset
        (240, 0),       // retired
        (248, 1),       // ready
    ];
    let skew = word(208) as usize; // slot r begins (r mod this) lines of 64 bytes into its pages
    assert!(skew.is_power_of_two());
    let slot = 2 * 4096 + (1 % skew) * 64;
    let slot_1 = [(0, 3), (8, 8), (16, 0), (24, 11), (32, 12), (40, 13), (48, 14), (56, 0)];
    let cell_1_of_2 = [(0, 6), (8, 3), (16, 8), (24, 8), (32, 8), (40, 3), (48, 1_003), (56, 2_003), (64, 24)];
    let payload = [(72, 0b11), (80, 41), (88, 1.5_f64.to_bits())];

    for (at, value) in header {
        assert_eq!(word(at), value, "header, byte {at}");
    }
    assert_eq!(&golden[120..130], b"golden job");
    assert_eq!(golden[256], b'{');
    for (at, value) in slot_1 {
        assert_eq!(word(slot + at), value, "slot 1, byte {at}");
    }
    for (at, value) in cell_1_of_2.into_iter().chain(payload) {
        assert_eq!(word(slot + 128 + 128 + at), value, "slot 1, cell 1, byte {at}");
    }
}

/// The golden file, put in place as it is, opens and gives its values.
#[test]
fn the_golden_file_opens() {
    let place = Place::new();
    let dir = DirOptions { path: Some(place.path().to_owned()), allow_disk: false };
    let directory = Directory::open_or_create(&dir).unwrap();
    let path = place.path().join(format!("{NAME}.ring"));
    std::fs::copy(golden_path(), &path).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();

    let ring = Ring::attach(RingFile::open(&directory, NAME, Access::Read).unwrap().expect("it is there")).unwrap();

    assert_eq!(ring.header.job, "golden job");
    for rank in 0..RANKS {
        let mut row = vec![0; ring.row_words()];
        assert_eq!(ring.slot(rank).newest(&mut row), Newest::Complete { retries: 0 });
        assert_eq!(Stamp::of(&row), stamp(rank, PUBLISHES));
        assert_eq!(row[9..], record(rank, PUBLISHES));
    }
}

/// What a header says survives its words, and a file that a writer made is its header's words and nothing else.
#[test]
fn a_header_survives_its_words() {
    let header = header();
    let again = Header::from_words(&header.to_words(), header.geometry.file_bytes as u64).unwrap();
    assert_eq!(again.to_words(), header.to_words());
    assert_eq!((again.geometry, again.job, again.nonce), (header.geometry, header.job, header.nonce));

    let place = Place::new();
    let writer = Writer::open(writer_options(place.path(), 1, 3)).unwrap();
    publish(&writer);
    let made = writer.header().unwrap();
    let bytes = std::fs::read(place.path().join(format!("{NAME}.ring"))).unwrap();
    let expected: Vec<u8> = made.to_words().iter().flat_map(|word| word.to_le_bytes()).collect();
    assert_eq!(bytes.len(), made.geometry.file_bytes);
    assert!(bytes.starts_with(&expected));
    assert_eq!((made.geometry.ranks, made.geometry.payload_bytes), (3, WORDS * 8));
}
