//! Who owns the relay of a ring on this host: a kernel lock on a file, and in the file a note about its holder.
//!
//! The lock is the fence. It is taken before the socket is bound, the kernel frees it at death, and no timer ever takes
//! it from a living process, stopped or not: two owners would write one slot. What a standby may do about an owner
//! that hangs is end it ([`Lease::end_hung`]) and then wait for the lock like everybody else.
//!
//! The file is never unlinked or replaced, so that all see the same lock. A standby hears the owner's end as the
//! `CLOSE_WRITE` event of inotify on that file. The kernel sends it shortly before it drops the lock, on a busy machine
//! many milliseconds, so the standby tries again and again, ever more slowly. Without inotify it tries now and then.

use rustix::event::epoll;
use rustix::fd::{AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{OFlags, inotify};
use rustix::io::{Errno, pread, pwrite};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use snapring_core::claim::{self, Range};
use snapring_core::fork::ClaimFile;
use snapring_core::{Directory, Error, clock};
use std::mem::MaybeUninit;

/// Locked by the owner.
const OWNER: Range = Range { first: 0, count: 1 };
/// Shared by every standby, so that an owner that closes knows whether one is there.
const STANDBY: Range = Range { first: 1, count: 1 };

const MAGIC: u64 = u64::from_le_bytes(*b"SNAPOWNR");
const NOTE_WORDS: usize = 7;

/// Pause after the first try that follows a sign that the owner ended. Each further one is longer by a quarter, so that
/// a standby that waits for a slow end is late by a quarter at most.
const EAGER_NS: u64 = 100_000;
/// Longest pause.
const IDLE_NS: u64 = 250_000_000;
/// Without inotify.
const DEAF_NS: u64 = 10_000_000;
/// The owner notes that it works this often.
pub const BEAT_NS: u64 = 500_000_000;

/// What the holder says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Note {
    /// Pid as the holder sees itself; 0 once it gave the lock back.
    pub pid: u64,
    /// Its start in clock ticks since boot.
    pub start_ticks: u64,
    /// Inode of its pid namespace.
    pub pid_namespace: u64,
    /// How many owners there were so far; for display and counters.
    pub term: u64,
    /// When it last worked, on its monotonic clock, ns; only that it changes says anything elsewhere.
    pub beat_ns: u64,
    /// TCP port that the relay was last bound to, 0 for none: senders know no other.
    pub port: u64,
}

/// What a standby saw of an owner that does not change its note.
#[derive(Clone, Copy, Debug)]
struct Seen {
    note: Note,
    /// For how long it was watched.
    silent_ns: u64,
    looked_ns: u64,
}

/// The lock: held, or waited for. A child of a fork has neither.
#[derive(Debug)]
pub struct Lease {
    lock: ClaimFile,
    path: String,
    watch: Option<(OwnedFd, i32)>,
    held: Option<Note>,
    pause_ns: u64,
    beat_at_ns: u64,
    seen: Option<Seen>,
}

impl Lease {
    /// Opens `file` in `directory`, making it where there is none; takes nothing yet.
    pub fn open(directory: &Directory, file: &str) -> Result<Self, Error> {
        let fd = directory.open_or_create_file(file, OFlags::RDWR)?;
        let path = directory.path().join(file).display().to_string();
        Ok(Self {
            lock: ClaimFile::new(fd)?,
            path,
            watch: None,
            held: None,
            pause_ns: IDLE_NS,
            beat_at_ns: 0,
            seen: None,
        })
    }

    /// Takes the lock if nobody has it.
    pub fn try_take(&mut self) -> Result<bool, Error> {
        if self.held.is_some() {
            return Ok(true);
        }
        if !claim::try_claim(self.lock.fd()?, OWNER)? {
            return Ok(false);
        }
        claim::release(self.lock.fd()?, STANDBY)?;
        self.deafen();
        let now_ns = clock::mono_ns();
        let (term, port) = self.note()?.map_or((0, 0), |note| (note.term, note.port));
        let note = Note {
            pid: u64::from(std::process::id()),
            start_ticks: clock::process_start(),
            pid_namespace: namespace(),
            term,
            beat_ns: now_ns,
            port,
        };
        self.write(&note)?;
        self.beat_at_ns = now_ns + BEAT_NS;
        self.held = Some(note);
        Ok(true)
    }

    /// Gives the lock back, and says so: a process that was the owner once is not to be taken for a hung one.
    pub fn release(&mut self) -> Result<(), Error> {
        let Some(note) = self.held.take() else { return Ok(()) };
        self.write(&Note { pid: 0, start_ticks: 0, ..note })?;
        claim::release(self.lock.fd()?, OWNER)
    }

    /// Port that the relay was last bound to, by this owner or the one before; 0 for none.
    pub fn port(&self) -> u16 {
        self.held.and_then(|note| u16::try_from(note.port).ok()).unwrap_or(0)
    }

    /// Begins a term of the holder, whose socket is bound to `port` (0 for none), for whoever takes over to know.
    pub fn begin(&mut self, port: u16) -> Result<(), Error> {
        if let Some(note) = &mut self.held {
            note.term += 1;
            note.port = u64::from(port);
            let note = *note;
            self.write(&note)?;
        }
        Ok(())
    }

    /// Declares itself a standby and listens for the owner's end.
    pub fn stand_by(&mut self) -> Result<(), Error> {
        claim::share(self.lock.fd()?, STANDBY)?;
        // Instances of inotify are limited per user; the slow tries serve without. One that was deafened hears again.
        self.watch = match self.watch.take() {
            None => listen(self.lock.fd()?).ok(),
            Some((watch, _)) => hear(&watch, self.lock.fd()?).ok().map(|number| (watch, number)),
        };
        Ok(())
    }

    /// Has nothing more to hear. The descriptor stays open, because closing it waits for a grace period of the kernel,
    /// up to 0.2 s on a busy machine, and ranks would wait along.
    fn deafen(&mut self) {
        if let Some((watch, number)) = &self.watch {
            let _ = inotify::remove_watch(watch, *number); // it is there
            drain(watch); // or the set that it is in would be readable for ever
        }
    }

    /// Adds what is to be waited for to an epoll set, unless it is there already.
    pub fn watch_in(&self, set: &OwnedFd) -> Result<(), Error> {
        let Some((watch, _)) = &self.watch else { return Ok(()) };
        match epoll::add(set, watch, epoll::EventData::new_u64(0), epoll::EventFlags::IN) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(error) => Err(Error::io("waiting for the relay's lock", error)),
        }
    }

    /// One turn of a standby: hears the events, tries, and says when to try again at the latest, ns on the monotonic
    /// clock; `None` once it holds the lock.
    pub fn wait_turn(&mut self, now_ns: u64) -> Result<Option<u64>, Error> {
        if self.watch.as_ref().is_some_and(|(watch, _)| drain(watch)) {
            self.pause_ns = EAGER_NS;
        }
        if self.try_take()? {
            return Ok(None);
        }
        let pause_ns = if self.watch.is_some() { self.pause_ns } else { DEAF_NS };
        self.pause_ns = IDLE_NS.min(self.pause_ns * 5 / 4);
        Ok(Some(now_ns + pause_ns))
    }

    /// How many owners there were so far.
    pub fn term(&self) -> u64 {
        self.held.or_else(|| self.note().ok().flatten()).map_or(0, |note| note.term)
    }

    /// Notes that the owner works; returns when to call again.
    pub fn beat(&mut self, now_ns: u64) -> Result<u64, Error> {
        if let Some(note) = &mut self.held
            && now_ns >= self.beat_at_ns
        {
            note.beat_ns = now_ns;
            self.beat_at_ns = now_ns + BEAT_NS;
            let note = *note;
            self.write(&note)?;
        }
        Ok(self.beat_at_ns)
    }

    /// True while somebody stands by.
    pub fn has_standby(&self) -> Result<bool, Error> {
        claim::is_shared(self.lock.fd()?, STANDBY)
    }

    /// Ends an owner of this host that this standby has not seen work for `limit_ns`, by SIGKILL; its pid where that was
    /// done. To be called at each turn: a long time between two of them hardly counts, because whatever stopped this
    /// process may have stopped the owner as well.
    ///
    /// The lock stays the fence: it is free only once the process is gone. A note of another pid namespace proves
    /// nothing, and a pid whose process started at another time is somebody else's.
    pub fn end_hung(&mut self, limit_ns: u64, now_ns: u64) -> Result<Option<u64>, Error> {
        let Some(note) = self.note()? else { return Ok(None) };
        let silent_ns = match self.seen {
            Some(seen) if seen.note == note => seen.silent_ns + IDLE_NS.min(now_ns.saturating_sub(seen.looked_ns)),
            _ => 0,
        };
        self.seen = Some(Seen { note, silent_ns, looked_ns: now_ns });
        if note.pid_namespace != namespace() || silent_ns < limit_ns {
            return Ok(None);
        }
        let Some(pid) = i32::try_from(note.pid).ok().and_then(Pid::from_raw) else { return Ok(None) };
        let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { return Ok(None) };
        // Looked at after the descriptor was had: the pid cannot come to mean another process in between.
        if clock::start_of(note.pid) != note.start_ticks || pid == rustix::process::getpid() {
            return Ok(None);
        }
        pidfd_send_signal(&process, Signal::KILL)
            .map_err(|error| Error::io(format!("ending the hung relay owner, pid {}", note.pid), error))?;
        Ok(Some(note.pid))
    }

    /// The note in the file, `None` where nobody wrote one yet.
    pub fn note(&self) -> Result<Option<Note>, Error> {
        let mut bytes = [0; NOTE_WORDS * 8];
        let read = pread(self.lock.fd()?, &mut bytes, 0)
            .map_err(|error| Error::io(format!("reading {}", self.path), error))?;
        let (chunks, _) = bytes.as_chunks::<8>();
        let mut words = [0; NOTE_WORDS];
        for (word, chunk) in words.iter_mut().zip(chunks) {
            *word = u64::from_le_bytes(*chunk);
        }
        let [magic, pid, start_ticks, pid_namespace, term, beat_ns, port] = words;
        let note = Note { pid, start_ticks, pid_namespace, term, beat_ns, port };
        Ok((read == bytes.len() && magic == MAGIC).then_some(note))
    }

    fn write(&self, note: &Note) -> Result<(), Error> {
        let Note { pid, start_ticks, pid_namespace, term, beat_ns, port } = *note;
        let words = [MAGIC, pid, start_ticks, pid_namespace, term, beat_ns, port];
        let mut bytes = [0; NOTE_WORDS * 8];
        for (to, word) in bytes.chunks_mut(8).zip(words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        // One write of less than a page: a reader sees the old note or the new one.
        pwrite(self.lock.fd()?, &bytes, 0).map(drop).map_err(|error| Error::io(format!("writing {}", self.path), error))
    }

    /// For an error that names the holder.
    pub fn busy(&self, what: &str) -> Error {
        let pid = self.note().ok().flatten().map_or(0, |note| note.pid);
        Error::OwnerBusy { what: what.to_owned(), pid }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // In a child of a fork this is refused by design, and elsewhere the lock ends with its descriptor.
        let _ = self.release();
    }
}

/// Hears when somebody who could write `file` closes it.
fn listen(file: BorrowedFd<'_>) -> rustix::io::Result<(OwnedFd, i32)> {
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    let number = hear(&watch, file)?;
    Ok((watch, number))
}

fn hear(watch: &OwnedFd, file: BorrowedFd<'_>) -> rustix::io::Result<i32> {
    inotify::add_watch(watch, format!("/proc/self/fd/{}", file.as_raw_fd()), inotify::WatchFlags::CLOSE_WRITE)
}

/// Takes all events; false where there was none.
fn drain(watch: &OwnedFd) -> bool {
    let mut events = [MaybeUninit::<u8>::uninit(); 1024];
    let mut any = false;
    while rustix::io::read(watch, &mut events).is_ok() {
        any = true;
    }
    any
}

fn namespace() -> u64 {
    rustix::fs::stat("/proc/self/ns/pid").map_or(0, |stat| stat.st_ino)
}
