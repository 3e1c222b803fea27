//! Files that no snapring wrote: every answer is a typed error or a right value, never a panic, a fault or a hang.

mod support;

use proptest::prelude::*;
use snapring_core::file::RingFile;
use snapring_core::layout::{cell, header, slot};
use snapring_core::mapping::{Access, Mapping};
use snapring_core::{DirOptions, Directory, Error, Header, Ring, Slot, Writer, WriterOptions};
use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::thread;
use support::{NAME, Place, ROW, Rng, attached, publish, reader, whole, writer_options};

const CELLS: u32 = 4;
const PUBLISHES: u64 = 6;

fn options(path: &Path) -> WriterOptions {
    WriterOptions { cells: Some(CELLS), keep: true, ..writer_options(path, 1, 2) }
}

/// The words of a sound ring whose rank 1 has published and closed.
fn sound(path: &Path) -> Vec<u64> {
    let writer = Writer::open(options(path)).unwrap();
    (0..PUBLISHES).for_each(|_| assert!(publish(&writer) > 0));
    writer.close().unwrap();
    let bytes = fs::read(path.join(format!("{NAME}.ring"))).unwrap();
    bytes.chunks(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect()
}

/// Puts `words` in the place of the ring, as a new file.
fn plant(path: &Path, words: &[u64]) {
    let file = path.join(format!("{NAME}.ring"));
    fs::remove_file(&file).unwrap();
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let mut made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file).unwrap();
    std::io::Write::write_all(&mut made, &bytes).unwrap();
}

/// Values that a word is tried with.
fn bad_values(word: u64, random: &mut Rng) -> [u64; 8] {
    let random = random.below(u64::MAX);
    [0, 1, u64::MAX, 1 << 62, word.wrapping_add(1), word.wrapping_sub(1), word ^ 1 << 32, random]
}

/// Reads all that a reader can of the planted file; what it got must be accepted values or typed errors.
fn read_everything(path: &Path) {
    let reader = reader(path);
    let attached = match reader.ring() {
        Ok(attached) => attached,
        Err(Error::Untrusted(_) | Error::LayoutMismatch(_)) => return,
        Err(error) => panic!("{error}"),
    };
    let Some(ring) = attached.as_ref() else { return };
    read_ring(ring);
}

fn read_ring(ring: &Ring) {
    let mut row = vec![0; ring.row_words()];
    for rank in 0..ring.ranks().min(2) {
        match ring.read(rank, &mut row) {
            Ok(published) => assert_eq!(published, row[cell::VERSION] != 0),
            Err(Error::Contended { .. }) => {}
            Err(error) => panic!("{error}"),
        }
        let reading = snapring_core::Reading::of(&row);
        ring.state(rank, reading.as_ref(), 1, snapring_core::Ask::Now).unwrap();
        if let Some(reading) = &reading {
            ring.last_sign_ns(rank, reading);
        }
        let rows = ring.slot(rank).history(usize::MAX, ROW);
        let versions: Vec<u64> = rows.chunks(ROW).map(|row| row[cell::VERSION]).collect();
        assert!(versions.len() < ring.header.geometry.cells as usize);
        assert!(versions.windows(2).all(|pair| pair[1] == pair[0] + 1), "{versions:?}");
    }
}

/// Claims the planted ring: refused with a type, or good for use.
fn write_everything(path: &Path) {
    match Writer::open(options(path)) {
        Ok(writer) => {
            let version = publish(&writer);
            let mut row = [0; ROW];
            assert!(attached(&reader(path)).read(1, &mut row).unwrap());
            assert_eq!(whole(&row), version);
            writer.close().unwrap();
        }
        Err(Error::Untrusted(_) | Error::LayoutMismatch(_)) => {}
        Err(error) => panic!("{error}"),
    }
}

/// Tries word after word with bad values, and says which one it was when that fails.
fn try_words(words: impl Iterator<Item = usize>) {
    let (place, mut random) = (Place::new(), Rng::new());
    let sound = sound(place.path());
    for index in words {
        for value in bad_values(sound[index], &mut random) {
            let mut words = sound.clone();
            words[index] = value;
            plant(place.path(), &words);
            let tried = std::panic::catch_unwind(|| {
                read_everything(place.path());
                write_everything(place.path());
            });
            assert!(tried.is_ok(), "word {index}, which was {:#x}, as {value:#x}", sound[index]);
        }
    }
}

/// No word of the header, the schema's text included, can hurt a reader or a writer.
#[test]
fn a_hostile_header_word() {
    try_words(0..header::WORDS + 12);
}

/// No word of a slot can, and a slot that is claimed in spite of it works.
#[test]
fn a_hostile_slot_word() {
    let place = Place::new();
    sound(place.path());
    let geometry = attached(&reader(place.path())).header.geometry;
    let slot_1 = geometry.slot_offset(1) / 8;
    let cells = (0..CELLS as usize).map(|index| slot_1 + slot::CELLS + index * geometry.cell_words());
    let stamps = cells.flat_map(|cell| cell..cell + cell::PAYLOAD + 1);
    try_words((slot_1..slot_1 + slot::CELLS).chain(stamps));
}

/// A file that is too short, too long, empty or sparse is refused, however right its header is.
#[test]
fn a_file_of_another_size() {
    let place = Place::new();
    let sound = sound(place.path());
    let refused = || matches!(reader(place.path()).ring(), Err(Error::Untrusted(_)));
    for len in [0, 1, header::WORDS - 1, header::WORDS, 512, sound.len() - 512, sound.len() - 1] {
        plant(place.path(), &sound[..len]);
        assert!(refused(), "{len} words of {}", sound.len());
        assert!(matches!(Writer::open(options(place.path())), Err(Error::Untrusted(_))));
    }
    plant(place.path(), &[&sound[..], &[0]].concat());
    assert!(refused(), "a word too many");

    plant(place.path(), &sound[..512]);
    let file = OpenOptions::new().write(true).open(place.path().join(format!("{NAME}.ring"))).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[0], sound.len() as u64 * 8 - 1).unwrap();
    assert!(refused(), "a hole");
}

/// A length beyond the words that come with it would show an older version's bytes: refused, and nothing is published.
#[test]
fn a_length_beyond_its_words() {
    let place = Place::new();
    let writer = Writer::open(options(place.path())).unwrap();
    let nonce = writer.header().unwrap().nonce;

    let short = writer.publish(nonce, &[1], 9);
    let large = writer.publish(nonce, &[0; support::WORDS + 1], 8);

    assert!(matches!(short, Err(Error::Invalid(_))), "{short:?}");
    assert!(matches!(large, Err(Error::PayloadTooLarge { .. })), "{large:?}");
    assert_eq!(writer.position().unwrap().1, 0);
}

/// Readers and writers go on while another process writes anything anywhere into the file that they have mapped.
#[test]
fn a_file_that_is_scribbled_on() {
    const SCRIBBLES: usize = 300_000;
    let (place, mut random) = (Place::new(), Rng::new());
    let writer = Writer::open(options(place.path())).unwrap();
    publish(&writer);
    let ring = attached(&reader(place.path()));
    let directory =
        Directory::open(&DirOptions { path: Some(place.path().into()), allow_disk: false }).unwrap().unwrap();
    let file = RingFile::open(&directory, NAME, Access::Write).unwrap().unwrap();
    let geometry = file.header.geometry;
    let map = Mapping::new(&file.fd, 0, geometry.file_bytes, Access::Write).unwrap();
    let first = geometry.slot_offset(0) / 8;

    thread::scope(|scope| {
        let scribbler = scope.spawn(|| {
            for _ in 0..SCRIBBLES {
                // Headers of slots and cells half of the time, anything else of the slots otherwise.
                let anywhere = random.below((map.words().len() - first) as u64) as usize;
                let near = geometry.slot_offset(random.below(2) as u32) / 8 - first + random.below(32) as usize;
                let word = &map.words()[first + if random.below(2) == 0 { anywhere } else { near }];
                let value = bad_values(word.load(Ordering::Relaxed), &mut random)[random.below(8) as usize];
                word.store(value, Ordering::Relaxed);
            }
        });
        let nonce = writer.header().unwrap().nonce;
        while !scribbler.is_finished() {
            read_ring(&ring);
            writer.publish(nonce, &support::payload(1), support::WORDS * 8).unwrap();
            read_everything(place.path());
        }
    });
    // Whatever it looks like now, a scan of its cells ends.
    let slot: Slot<'_> = ring.slot(1);
    let _ = slot.last_used();
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// A header with several bad words is refused, or says nothing but what its words say.
    #[test]
    fn a_hostile_header(changes in proptest::collection::vec((0..header::WORDS + 8, any::<u64>(), 0..4), 1..6)) {
        let place = Place::new();
        let mut words = sound(place.path());
        for (index, random, way) in changes {
            words[index] = match way {
                0 => random,
                1 => random % 64,
                2 => words[index] ^ (1 << (random % 64)),
                _ => words[index].wrapping_add(random % 3).wrapping_sub(1),
            };
        }
        let file_bytes = words.len() as u64 * 8;
        match Header::from_words(&words, file_bytes) {
            Ok(header) => {
                prop_assert_eq!(header.geometry.file_bytes as u64, file_bytes);
                let again = Header::from_words(&header.to_words(), file_bytes).unwrap();
                prop_assert_eq!(again.to_words(), header.to_words());
            }
            Err(Error::Untrusted(_) | Error::LayoutMismatch(_)) => {}
            Err(error) => prop_assert!(false, "{}", error),
        }
    }
}
