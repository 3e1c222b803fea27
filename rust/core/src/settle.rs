//! How a writer comes to its ring: it takes the one that is there, makes it, or replaces it where nobody uses it.

use crate::clock;
use crate::dir::{Directory, RING};
use crate::error::Error;
use crate::file::{self, Fresh, Legacy, RingFile};
use crate::header::Header;
use crate::layout::{Geometry, MAX_RANKS};
use crate::mapping::Access;
use crate::options::WriterOptions;
use crate::schema::{Codec, Schema};
use std::sync::Arc;
use std::time::Duration;

/// Rounds of opening, creating and replacing before a claim gives up.
pub(crate) const ROUNDS: u32 = 1_000;
/// Rounds in which a process waits for another to make the ring. Ranks that start together need room for one ring, not
/// for one each; but the maker may be stopped.
const PATIENCE: u32 = 300;
/// Pause after a round that met a replacement or a removal.
const PAUSE: Duration = Duration::from_millis(1);

/// What a new file inherits.
#[derive(Debug, Default)]
pub(crate) struct Origins {
    pub(crate) legacies: Vec<Legacy>,
    /// Of the rank that is claimed next.
    pub(crate) own: Legacy,
}

/// Finds the ring that `options` name, making or replacing it where that is needed, until `take` has what it wants of it.
///
/// `take` gives `None` when the ring changed meanwhile. Gives up after so many `rounds` of at most about a millisecond;
/// each lost one is one that another process won. A file made here cannot be removed before `take` ended.
pub(crate) fn settle<T>(
    options: &WriterOptions,
    origins: &Origins,
    rounds: u32,
    take: impl Fn(Directory, RingFile) -> Result<Option<T>, Error>,
) -> Result<T, Error> {
    let mut made = None;
    let outcome = find(options, origins, rounds, take, &mut made);
    if matches!(outcome, Err(Error::WriterBusy { .. }))
        && !options.keep
        && let Some(fresh) = made
        && let Ok(Some(directory)) = Directory::open(&options.dir)
    {
        // Whoever held the rank could not remove the ring, if it has gone by now. After other errors the ring stays:
        // what stands beside it may be a stranger's.
        let _ = fresh.withdraw(&directory, &options.name);
    }
    outcome
}

fn find<T>(
    options: &WriterOptions,
    origins: &Origins,
    rounds: u32,
    take: impl Fn(Directory, RingFile) -> Result<Option<T>, Error>,
    made: &mut Option<Fresh>,
) -> Result<T, Error> {
    let name = &options.name;
    for round in 0..rounds {
        let directory = Directory::open_or_create(&options.dir)?;
        let Some(ring) = RingFile::open(&directory, name, Access::Write)? else {
            if !directory.try_lock() && round < PATIENCE {
                std::thread::sleep(PAUSE);
            } else if directory.inode(&format!("{name}{RING}")) == 0 {
                let fresh = Fresh::create(&directory, name, &new_header(options)?, &origins.legacies)?;
                if fresh.install(&directory, name)? {
                    *made = Some(fresh);
                }
            }
            continue; // whoever gave it its name, the next round finds it
        };
        if let Some(reason) = misfit(options, &ring)? {
            match file::replace(&directory, name, &ring, &new_header(options)?, &reason)? {
                Some(fresh) => *made = Some(fresh),
                None => std::thread::sleep(PAUSE),
            }
            continue;
        }
        if let Some(taken) = take(directory, ring)? {
            return Ok(taken);
        }
        std::thread::sleep(PAUSE);
    }
    Err(Error::LayoutMismatch(format!(
        "ring {name:?} is being made, replaced or removed by another process, for {rounds} rounds now; is that one stopped?"
    )))
}

/// Refuses the ring that `options` name where there is one and it does not fit.
pub(crate) fn check(options: &WriterOptions) -> Result<(), Error> {
    let Some(directory) = Directory::open(&options.dir)? else { return Ok(()) };
    let Some(ring) = RingFile::open(&directory, &options.name, Access::Read)? else { return Ok(()) };
    if ring.is_retired()? {
        return Ok(());
    }
    misfit(options, &ring)?.map_or(Ok(()), |reason| {
        Err(Error::LayoutMismatch(format!("ring {:?} does not fit: {reason}", options.name)))
    })
}

fn new_header(options: &WriterOptions) -> Result<Header, Error> {
    let schema_text = options.schema.to_json();
    if options.ranks > MAX_RANKS {
        return Err(Error::Invalid(format!("ranks is {}; a ring has at most {MAX_RANKS}", options.ranks)));
    }
    Ok(Header {
        geometry: Geometry::new(options.ranks, options.cells, options.payload_room(), schema_text.len())?,
        created_ns: clock::wall_ns(),
        boot_id: clock::boot_id()?,
        nonce: clock::random()?,
        job: options.job.clone(),
        schema: Arc::clone(&options.schema),
        schema_text,
    })
}

/// Why the ring cannot take this writer, or `None`.
fn misfit(options: &WriterOptions, ring: &RingFile) -> Result<Option<String>, Error> {
    let header = &ring.header;
    let geometry = &header.geometry;
    let free = header.schema.codec() != Codec::Record;
    let differs = |what: &str, has: &dyn std::fmt::Display, wants: &dyn std::fmt::Display| {
        Some(format!("the ring has {what} {has}, this writer wants {wants}"))
    };
    Ok(if ring.is_retired()? {
        Some("it is retired".to_owned())
    } else if header.boot_id != clock::boot_id()? {
        Some("it was made before the last boot".to_owned())
    } else if header.job != options.job {
        differs("job", &format!("{:?}", header.job), &format!("{:?}", options.job))
    } else if geometry.ranks != options.ranks {
        differs("ranks", &geometry.ranks, &options.ranks)
    } else if let Some(cells) = options.cells.filter(|&cells| cells != geometry.cells) {
        differs("cells", &geometry.cells, &cells)
    } else if let Some(payload) =
        options.payload.map(|payload| payload.next_multiple_of(8)).filter(|&payload| free && payload != geometry.payload_bytes)
    {
        differs("payload", &geometry.payload_bytes, &payload)
    } else if options.exact && header.schema.fingerprint() != options.schema.fingerprint() {
        Some("its schema is another one, and a relay stores records as they come: run the same classes on all nodes".to_owned())
    } else {
        Schema::compatible(&header.schema, &options.schema).err()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Writer, admin, dir::DirOptions};
    use std::cell::Cell;

    /// Options of a writer in a directory that goes with the test.
    struct Place(WriterOptions);

    impl Place {
        fn new(name: &str) -> Self {
            let path = std::path::PathBuf::from(format!("/dev/shm/snapring-test-{name}-{}", std::process::id()));
            let dir = DirOptions { path: Some(path), allow_disk: false };
            Self(WriterOptions { dir, ..WriterOptions::new("box", 0, 1, Arc::new(Schema::bytes())) })
        }

        fn remove(&self) -> Result<bool, Error> {
            admin::remove(&self.0.dir, "box", false)
        }

        /// A ring and a bell are two.
        fn count_files(&self) -> usize {
            std::fs::read_dir(self.0.dir.path()).unwrap().count()
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(self.0.dir.path()); // never made, when the test fails early
        }
    }

    /// A removal at the worst moment, after the maker named its file and before it has its claim, finds the ring in use;
    /// so a removal that never pauses cannot starve the maker.
    #[test]
    fn a_new_ring_outlives_removals_until_its_maker_has_a_claim() {
        let place = Place::new("fresh");
        let tries = Cell::new(0);
        let take = |_: Directory, ring: RingFile| {
            tries.set(tries.get() + 1);
            assert!(!place.remove()?, "try {}", tries.get());
            Ok((tries.get() == 3).then_some(ring))
        };

        let made = settle(&place.0, &Origins::default(), ROUNDS, take).unwrap();
        assert_eq!(tries.get(), 3);

        made.retire().unwrap(); // the next is a replacement, and lasts as well
        tries.set(0);
        let replaced = settle(&place.0, &Origins::default(), ROUNDS, take).unwrap();
        assert_ne!(replaced.inode, made.inode);
        assert_eq!(tries.get(), 3);

        assert!(place.remove().unwrap(), "nobody is at it any more");
    }

    /// Another writer takes the new ring's rank and leaves it again, while its maker is at it: nothing is left.
    /// While the other is still there, or where rings are to be kept, it stays.
    #[test]
    fn a_maker_without_a_rank_leaves_no_ring_behind() {
        for (leaves, keep, left) in [(true, false, 0), (false, false, 2), (true, true, 2)] {
            let place = Place::new("left");
            let options = WriterOptions { keep, ..place.0.clone() };
            let other = Cell::new(None);
            let take = |_: Directory, _: RingFile| {
                let writer = Writer::open(options.clone())?;
                if leaves {
                    writer.close()?;
                } else {
                    other.set(Some(writer));
                }
                Err::<Option<()>, _>(Error::WriterBusy { name: "box".to_owned(), rank: 0, pid: 1 })
            };

            let outcome = settle(&options, &Origins::default(), ROUNDS, take);
            assert!(matches!(outcome, Err(Error::WriterBusy { .. })));
            assert_eq!(place.count_files(), left, "leaves: {leaves}, keep: {keep}");
        }
    }
}
