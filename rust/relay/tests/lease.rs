//! The note of who holds a relay's lock, and for how long a silent holder is let live.

use snapring_core::{DirOptions, Directory};
use snapring_relay::lease::{BEAT_NS, Lease};

const SECOND: u64 = 1_000_000_000;

/// A directory of its own for each test, removed at the end.
struct Place(Directory);

impl Place {
    fn new(name: &str) -> Self {
        let path = format!("/dev/shm/snapring-test-{}-{name}", std::process::id());
        Self(Directory::open_or_create(&DirOptions { path: Some(path.into()), allow_disk: false }).unwrap())
    }

    fn lease(&self) -> Lease {
        Lease::open(&self.0, "main.owner").unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(self.0.path());
    }
}

/// The lock has one holder at a time; each take is another term, and who gave it back is not named any more.
#[test]
fn the_note_names_the_holder_while_there_is_one() {
    let place = Place::new("holder");
    for term in 1..4 {
        let mut holder = place.lease();
        let mut other = place.lease();
        assert!(holder.try_take().unwrap());
        holder.begin(0).unwrap();
        assert!(!other.try_take().unwrap());
        let note = other.note().unwrap().unwrap();
        assert_eq!((note.pid, note.term, other.term()), (u64::from(std::process::id()), term, term));

        drop(holder);

        let note = other.note().unwrap().unwrap();
        assert_eq!((note.pid, note.start_ticks, note.term), (0, 0, term));
    }
}

/// A holder notes that it works twice a second, however often it is asked to.
#[test]
fn a_beat_is_written_now_and_then() {
    let place = Place::new("beats");
    let mut lease = place.lease();
    lease.try_take().unwrap();
    let start_ns = lease.note().unwrap().unwrap().beat_ns;

    let due_ns = lease.beat(start_ns + 1).unwrap();
    assert_eq!(lease.note().unwrap().unwrap().beat_ns, start_ns);
    assert_eq!(lease.beat(due_ns).unwrap(), due_ns + BEAT_NS);
    assert_eq!(lease.note().unwrap().unwrap().beat_ns, due_ns);
}

/// The pause between tries is short after the owner's file was closed, grows to a quarter of a second and no further.
#[test]
fn a_standby_hears_an_end_and_calms_down() {
    let place = Place::new("standby");
    let mut holder = place.lease();
    holder.try_take().unwrap();
    holder.begin(0).unwrap();
    let mut standby = place.lease();
    standby.stand_by().unwrap();
    assert!(holder.has_standby().unwrap());
    assert_eq!(standby.wait_turn(SECOND).unwrap(), Some(SECOND + SECOND / 4));

    drop(place.lease());

    let pauses: Vec<u64> = (0..60).map(|_| standby.wait_turn(0).unwrap().unwrap()).collect();
    assert!(pauses[0] <= 1_000_000, "{pauses:?}");
    assert!(pauses.is_sorted() && pauses[59] == SECOND / 4, "{pauses:?}");
    drop(holder);
    assert_eq!(standby.wait_turn(0).unwrap(), None);
    standby.begin(0).unwrap();
    assert_eq!(standby.term(), 2);
}
