//! Who owns the relay of a ring on this host: a kernel lock on a file, and in the file a note about its holder.
//!
//! The lock is the fence. It is taken before the socket is bound, the kernel frees it at death, and no timer ever takes
//! it from a living process, stopped or not: two owners would write one slot. What a standby may do about an owner
//! that hangs is end it ([`Lease::end_hung`]) and then wait for the lock like everybody else.
//!
//! The file is never unlinked or replaced, so that all see the same lock. A standby hears the owner's end as the
//! `CLOSE_WRITE` event of inotify on that file. The kernel sends it microseconds before it drops the lock, so the
//! standby tries a few times; where inotify cannot be had, it tries now and then.

use rustix::event::epoll;
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::{OFlags, inotify};
use rustix::io::{pread, pwrite};
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

/// Tries after a sign that the owner ended, one every [`EAGER_NS`]; then one every [`IDLE_NS`].
const EAGER_TRIES: u32 = 40;
const EAGER_NS: u64 = 300_000;
const IDLE_NS: u64 = 250_000_000;
/// Without inotify.
const DEAF_NS: u64 = 10_000_000;
/// The owner notes that it works this often.
pub const BEAT_NS: u64 = 500_000_000;

/// What the holder says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Note {
    /// Pid as the holder sees itself.
    pub pid: u64,
    /// Its start in clock ticks since boot.
    pub start_ticks: u64,
    /// Inode of its pid namespace.
    pub pid_namespace: u64,
    /// How often the lock was taken; for display and counters.
    pub term: u64,
    /// When it last worked, on its monotonic clock, ns.
    pub beat_ns: u64,
    /// Inode of its time namespace: elsewhere the beat says nothing.
    pub time_namespace: u64,
}

/// The lock: held, or waited for. A child of a fork has neither.
#[derive(Debug)]
pub struct Lease {
    lock: ClaimFile,
    path: String,
    watch: Option<OwnedFd>,
    held: Option<Note>,
    eager: u32,
    beat_at_ns: u64,
}

impl Lease {
    /// Opens `file` in `directory`, making it where there is none; takes nothing yet.
    pub fn open(directory: &Directory, file: &str) -> Result<Self, Error> {
        let fd = directory.open_or_create_file(file, OFlags::RDWR)?;
        let path = directory.path().join(file).display().to_string();
        Ok(Self { lock: ClaimFile::new(fd)?, path, watch: None, held: None, eager: 0, beat_at_ns: 0 })
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
        self.watch = None;
        let now_ns = clock::mono_ns();
        let note = Note {
            pid: u64::from(std::process::id()),
            start_ticks: clock::process_start(),
            pid_namespace: namespace(),
            term: self.note()?.map_or(0, |note| note.term) + 1,
            beat_ns: now_ns,
            time_namespace: clock::time_namespace(),
        };
        self.write(&note)?;
        self.beat_at_ns = now_ns + BEAT_NS;
        self.held = Some(note);
        Ok(true)
    }

    /// Declares itself a standby and listens for the owner's end.
    pub fn stand_by(&mut self) -> Result<(), Error> {
        claim::share(self.lock.fd()?, STANDBY)?;
        // Instances of inotify are limited per user; the slow tries serve without.
        self.watch =
            inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK).ok().filter(|watch| {
                let file = self.lock.fd().map(|fd| format!("/proc/self/fd/{}", fd.as_raw_fd()));
                file.is_ok_and(|file| inotify::add_watch(watch, file, inotify::WatchFlags::CLOSE_WRITE).is_ok())
            });
        Ok(())
    }

    /// Adds what is to be waited for to an epoll set.
    pub fn watch_in(&self, set: &OwnedFd) -> Result<(), Error> {
        let Some(watch) = &self.watch else { return Ok(()) };
        epoll::add(set, watch, epoll::EventData::new_u64(0), epoll::EventFlags::IN)
            .map_err(|error| Error::io("waiting for the relay's lock", error))
    }

    /// One turn of a standby: hears the events, tries, and says when to try again at the latest, ns on the monotonic
    /// clock; `None` once it holds the lock.
    pub fn wait_turn(&mut self, now_ns: u64) -> Result<Option<u64>, Error> {
        let mut events = [MaybeUninit::<u8>::uninit(); 1024];
        while self.watch.as_ref().is_some_and(|watch| rustix::io::read(watch, &mut events).is_ok()) {
            self.eager = EAGER_TRIES;
        }
        if self.try_take()? {
            return Ok(None);
        }
        let pause_ns = match (&self.watch, self.eager) {
            (None, _) => DEAF_NS,
            (_, 0) => IDLE_NS,
            _ => EAGER_NS,
        };
        self.eager = self.eager.saturating_sub(1);
        Ok(Some(now_ns + pause_ns))
    }

    /// How often the lock was taken so far, by anybody.
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

    /// Ends an owner of this host that has not worked for `limit_ns`, by SIGKILL; its pid where that was done.
    ///
    /// The lock stays the fence: it is free only once the process is gone. A note of another pid or time namespace
    /// proves nothing, and a pid whose process started at another time is somebody else's.
    pub fn end_hung(&self, limit_ns: u64, now_ns: u64) -> Result<Option<u64>, Error> {
        let Some(note) = self.note()? else { return Ok(None) };
        let comparable = note.pid_namespace == namespace() && note.time_namespace == clock::time_namespace();
        if !comparable || now_ns.saturating_sub(note.beat_ns) < limit_ns {
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
        let [magic, pid, start_ticks, pid_namespace, term, beat_ns, time_namespace] = words;
        let note = Note { pid, start_ticks, pid_namespace, term, beat_ns, time_namespace };
        Ok((read == bytes.len() && magic == MAGIC).then_some(note))
    }

    fn write(&self, note: &Note) -> Result<(), Error> {
        let Note { pid, start_ticks, pid_namespace, term, beat_ns, time_namespace } = *note;
        let words = [MAGIC, pid, start_ticks, pid_namespace, term, beat_ns, time_namespace];
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

fn namespace() -> u64 {
    rustix::fs::stat("/proc/self/ns/pid").map_or(0, |stat| stat.st_ino)
}
