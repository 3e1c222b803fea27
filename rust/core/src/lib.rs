//! Live state of every rank of a server, in shared memory, readable from any process without a lock.
//!
//! Each rank publishes its newest snapshot into its own slot of a small file on a tmpfs; anybody of the same user maps
//! the file and reads one rank or all of them.
//!
//! # What is promised
//!
//! * **Publish is wait-free** and makes no system call, but one `stat` a second and a wake-up when somebody waits. No
//!   reader, however slow, stopped or dead, delays it.
//! * **Read is lock-free**: a try fails only when the writer publishes `cells - 1` more snapshots during one copy, and
//!   tries are bounded. A reader of a dead or stopped writer succeeds at the first.
//! * **No torn value** is ever returned, and no reader goes back to an older version.
//! * **A killed writer loses nothing**: its last complete snapshot stays, and its claim is freed by the kernel.
//!
//! # What it costs
//!
//! Memory: `cells` copies of each snapshot. Age: a value is as old as its writer's last publish, and says so.
//! Trust: processes of one user; a hostile one can scribble on what it may write, never crash a reader that checks.
//!
//! ```text
//! rank 0  Writer --> [ slot 0: head | cell cell cell cell ] --> Reader   any process
//! rank 1  Writer --> [ slot 1: head | cell cell cell cell ] --> Reader   one file: <dir>/<name>.ring
//! ```
//!
//! # Example
//!
//! ```
//! use snapring_core::{Ask, DirOptions, Field, Kind, Reader, ReaderOptions, Reading, Record, RecordMut, Schema, State};
//! use snapring_core::{Value, layout};
//! use snapring_core::{Writer, WriterOptions};
//! use std::sync::Arc;
//!
//! # let place = std::path::PathBuf::from(format!("/dev/shm/snapring-doc-{}", std::process::id()));
//! # let dir = DirOptions { path: Some(place.clone()), allow_disk: false };
//! let schema = Arc::new(Schema::builder("Load").with(Field::new("running", Kind::Int)).build()?);
//! let options = WriterOptions::new("llama", 0, 1, Arc::clone(&schema));
//! # let options = WriterOptions { dir: dir.clone(), ..options };
//! let writer = Writer::open(options)?;
//!
//! let mut words = schema.absent().to_vec();
//! RecordMut::new(&schema, &mut words)?.set("running", Some(&Value::Int(12)))?;
//! let nonce = writer.header()?.nonce;
//! writer.publish(nonce, &words, words.len() * 8)?;
//!
//! let options = ReaderOptions { name: "llama".into(), ..ReaderOptions::default() };
//! # let options = ReaderOptions { dir, ..options };
//! let reader = Reader::open(options)?;
//! let attached = reader.ring()?;
//! let ring = attached.as_ref().expect("the writer made it");
//! let mut row = vec![0; ring.row_words()];
//! ring.read(0, &mut row)?;
//! let reading = Reading::of(&row).expect("it published");
//! assert_eq!(Record::new(&ring.header.schema, &row[layout::cell::PAYLOAD..])?.get("running")?, Some(Value::Int(12)));
//! assert_eq!(ring.state(0, Some(&reading), 1_000_000_000, Ask::Recent)?, State::Live);
//! # writer.close()?;
//! # std::fs::remove_dir(place)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![deny(unsafe_code)]

pub mod bell;
pub mod error;
pub mod layout;
pub mod seqlock;
pub mod slot;
pub mod sync;

/// Declares the modules that talk to the kernel; loom checks the ones above.
macro_rules! system {
    ($($name:ident)*) => { $(#[cfg(not(loom))] pub mod $name;)* };
}
system!(admin attachment claim claimed clock dir file fork header mapping notify options reader record relayed ring schema settle text wake watch writer);

pub use error::Error;
pub use slot::{Newest, Origin, Slot, Stamp};
#[cfg(not(loom))]
pub use {
    clock::Now,
    dir::{DirOptions, Directory, ring_name},
    header::Header,
    notify::Watch,
    options::WriterOptions,
    reader::{Reader, ReaderOptions},
    record::{Record, RecordMut, Value},
    relayed::Relayed,
    ring::{Ask, Reading, Ring, State},
    schema::{Codec, Field, Kind, Schema},
    watch::Cursor,
    writer::{Published, Writer},
};
