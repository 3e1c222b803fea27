//! Where rings live, and what may stand there: names, the directory, and files that snapring would have made itself.

use crate::error::Error;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, Dir, FileType, FlockOperation, Mode, OFlags, Stat, fchmod, flock, fstat, fstatfs, mkdirat, openat, statat, unlinkat};
use rustix::io::Errno;
use std::env;
use std::path::{Path, PathBuf};

/// Longest name of a ring.
pub const MAX_NAME: usize = 64;
/// Suffix of a ring's file.
pub const RING: &str = ".ring";
/// Suffix of its bell's file.
pub const BELL: &str = ".bell";
/// Suffix of a file on its way to replace another; left behind only by a kill within microseconds.
pub const NEW: &str = ".new";
/// Permissions of every file.
pub const FILE_MODE: Mode = Mode::RUSR.union(Mode::WUSR);

const TMPFS_MAGIC: i64 = 0x0102_1994;

/// Checks a ring's name: 1 to 64 of `[A-Za-z0-9._-]`, not all dots.
pub fn check_name(name: &str) -> Result<(), Error> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(legal) || name.bytes().all(|byte| byte == b'.') {
        return Err(Error::Invalid(format!(
            "{name:?} is no ring name: 1 to {MAX_NAME} of letters, digits, '.', '_' and '-'; ring_name(id) makes one of any id"
        )));
    }
    Ok(())
}

/// A legal name for any instance id: its last path part, sanitised and shortened, and an 8-digit hash of the whole id.
///
/// Two ids that differ get names that differ (but for a collision of 32-bit BLAKE2s); the same id always the same name.
pub fn ring_name(instance: &str) -> String {
    use blake2::digest::consts::U4;
    use blake2::{Blake2s, Digest};
    let part = instance.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let clean: String = part
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '_' })
        .take(MAX_NAME - 9)
        .collect();
    let clean = if clean.is_empty() { "default" } else { clean.as_str() };
    let digest: [u8; 4] = Blake2s::<U4>::digest(instance.as_bytes()).into();
    format!("{clean}_{:08x}", u32::from_be_bytes(digest))
}

/// Where the directory of rings is looked for.
#[derive(Clone, Debug, Default)]
pub struct DirOptions {
    /// The directory; `None` takes `$SNAPRING_DIR`, else `/dev/shm/snapring-<uid>`.
    pub path: Option<PathBuf>,
    /// Accept a file system that writes back to a disk, which stalls publishes now and then.
    pub allow_disk: bool,
}

impl DirOptions {
    /// The path that these options mean.
    pub fn path(&self) -> PathBuf {
        let set = self.path.clone().or_else(|| env::var_os("SNAPRING_DIR").filter(|dir| !dir.is_empty()).map(PathBuf::from));
        set.unwrap_or_else(|| PathBuf::from(format!("/dev/shm/snapring-{}", rustix::process::geteuid().as_raw())))
    }

    /// The same directory, whatever becomes of the environment and of the working directory.
    #[must_use]
    pub fn resolved(&self) -> Self {
        let path = self.path();
        Self { path: Some(std::path::absolute(&path).unwrap_or(path)), ..*self }
    }

    /// True unless `file` in that directory is known to name something else than `inode`, or nothing. Where the path
    /// cannot be looked at (no permission, say), nothing is known to have changed. Needs no descriptor.
    pub fn names(&self, file: &str, inode: u64) -> bool {
        match statat(CWD, self.path().join(file), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat.st_ino == inode,
            Err(Errno::NOENT | Errno::NOTDIR) => false,
            Err(_) => true,
        }
    }
}

/// An open directory that passed all checks: own, 0700, no link, in memory.
#[derive(Debug)]
pub struct Directory {
    fd: OwnedFd,
    path: PathBuf,
}

impl Directory {
    /// Opens the directory, or gives `None` where there is none yet.
    pub fn open(options: &DirOptions) -> Result<Option<Self>, Error> {
        let path = options.path();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = match openat(CWD, &path, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP | Errno::NOTDIR) => {
                return Err(Error::Untrusted(format!("{} is not a directory (or is a link); name one of your own", path.display())));
            }
            Err(Errno::ACCESS | Errno::PERM) => {
                return Err(Error::Untrusted(format!("{} is not open to this user; set SNAPRING_DIR to a directory of your own", path.display())));
            }
            Err(error) => return Err(Error::io(format!("opening {}", path.display()), error)),
        };
        let directory = Self { fd, path };
        directory.check(options.allow_disk)?;
        Ok(Some(directory))
    }

    /// Opens the directory, making it (not its parents) where there is none.
    pub fn open_or_create(options: &DirOptions) -> Result<Self, Error> {
        if let Some(directory) = Self::open(options)? {
            return Ok(directory);
        }
        let path = options.path();
        match mkdirat(CWD, &path, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(Error::io(format!("making the directory {}", path.display()), error)),
        }
        Self::open(options)?.ok_or_else(|| Error::Invalid(format!("{} vanished while it was made", path.display())))
    }

    fn check(&self, allow_disk: bool) -> Result<(), Error> {
        let path = self.path.display();
        let stat = fstat(&self.fd).map_err(|error| Error::io(format!("looking at {path}"), error))?;
        let (uid, mode) = (rustix::process::geteuid().as_raw(), stat.st_mode & 0o777);
        if stat.st_uid != uid || mode != 0o700 {
            // A directory that others share, such as /tmp, must stay as it is.
            let shared = stat.st_uid != uid || stat.st_mode & 0o1000 != 0;
            let fix = if shared {
                format!("set SNAPRING_DIR to one, such as {path}/snapring-{uid}, which the first writer makes")
            } else {
                format!("chmod 700 {path}, or set SNAPRING_DIR to one")
            };
            return Err(Error::Untrusted(format!(
                "{path} belongs to uid {} with mode {mode:04o}; rings live only in a directory of the own uid {uid} with mode \
                 0700: {fix}",
                stat.st_uid
            )));
        }
        let kind = fstatfs(&self.fd).map_err(|error| Error::io(format!("looking at the file system of {path}"), error))?.f_type;
        if !allow_disk && kind != TMPFS_MAGIC {
            return Err(Error::Invalid(format!(
                "{path} is not in memory (tmpfs): write-back would stall publishes; set SNAPRING_DIR to a directory on a tmpfs, \
                 or pass allow_disk=True"
            )));
        }
        Ok(())
    }

    /// Path, for messages and display.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens `file` if it is there, refusing anything that snapring would not have made.
    pub fn open_file(&self, file: &str, flags: OFlags) -> Result<Option<(OwnedFd, Stat)>, Error> {
        let full = || self.path.join(file);
        // NONBLOCK: a planted FIFO must not hang the open.
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let fd = match openat(&self.fd, file, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP | Errno::NXIO | Errno::ISDIR | Errno::NODEV) => return Err(refused(&full(), "no regular file")),
            Err(Errno::ACCESS | Errno::PERM) => return Err(refused(&full(), "not open to this user")),
            Err(error) => return Err(Error::io(format!("opening {}", full().display()), error)),
        };
        let stat = fstat(&fd).map_err(|error| Error::io(format!("looking at {}", full().display()), error))?;
        if stat.st_nlink == 0 {
            return Ok(None); // removed since the open
        }
        let (uid, mode) = (rustix::process::geteuid().as_raw(), stat.st_mode & 0o7777);
        let reason = if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            "no regular file".to_owned()
        } else if stat.st_uid != uid {
            format!("owned by uid {}, not {uid}", stat.st_uid)
        } else if mode != FILE_MODE.as_raw_mode() {
            format!("of mode {mode:04o}, not 0600")
        } else if stat.st_nlink != 1 {
            format!("reachable by {} hard links", stat.st_nlink)
        } else {
            return Ok(Some((fd, stat)));
        };
        Err(refused(&full(), &reason))
    }

    /// Opens `file`, making it empty where there is none.
    pub fn open_or_create_file(&self, file: &str, flags: OFlags) -> Result<OwnedFd, Error> {
        // Two makers: one makes it, the other finds it. Bounded, because a third might remove it each time.
        for _ in 0..1_000 {
            if let Some((fd, _)) = self.open_file(file, flags)? {
                return Ok(fd);
            }
            let new = flags | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let what = |error| Error::io(format!("making {}", self.path.join(file).display()), error);
            match openat(&self.fd, file, new, FILE_MODE) {
                Ok(fd) => {
                    fchmod(&fd, FILE_MODE).map_err(what)?; // whatever the process's umask is
                    return Ok(fd);
                }
                Err(Errno::EXIST) => {}
                Err(error) => return Err(what(error)),
            }
        }
        Err(Error::Untrusted(format!("{} is made and removed all the time; by whom?", self.path.join(file).display())))
    }

    /// Locks the directory against other makers of rings, until this value is dropped; false when another holds it.
    pub fn try_lock(&self) -> bool {
        flock(&self.fd, FlockOperation::NonBlockingLockExclusive).is_ok()
    }

    /// Inode that `file` names now, 0 for none.
    pub fn inode(&self, file: &str) -> u64 {
        statat(&self.fd, file, AtFlags::SYMLINK_NOFOLLOW).map_or(0, |stat| stat.st_ino)
    }

    /// Removes `file` if it is there.
    pub fn unlink(&self, file: &str) -> Result<(), Error> {
        match unlinkat(&self.fd, file, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(Error::io(format!("removing {}", self.path.join(file).display()), error)),
        }
    }

    /// File names in the directory, sorted.
    pub fn files(&self) -> Result<Vec<String>, Error> {
        let listing = |error| Error::io(format!("listing {}", self.path.display()), error);
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.fd).map_err(listing)? {
            if let Ok(name) = entry.map_err(listing)?.file_name().to_str() {
                names.push(name.to_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    /// Names of the rings in the directory, sorted.
    pub fn rings(&self) -> Result<Vec<String>, Error> {
        let files = self.files()?;
        Ok(files.iter().filter_map(|file| file.strip_suffix(RING)).filter(|name| check_name(name).is_ok()).map(String::from).collect())
    }

    /// Bytes free and in all of the file system.
    pub fn space(&self) -> Result<(u64, u64), Error> {
        let stat = rustix::fs::fstatvfs(&self.fd).map_err(|error| Error::io("asking for free space", error))?;
        Ok((stat.f_bavail * stat.f_frsize, stat.f_blocks * stat.f_frsize))
    }
}

impl AsFd for Directory {
    fn as_fd(&self) -> rustix::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn refused(path: &Path, reason: &str) -> Error {
    Error::Untrusted(format!("{} is {reason}; snapring did not make it and will not use it. Look at it, then remove it", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for good in ["a", "llama-70b", "A.b_c-1", &"x".repeat(64)] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a b", "ä", "a\0", &"x".repeat(65)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn any_instance_id_gets_a_legal_name() {
        for id in ["", "/", "a/b c", "über", "0123456789ab", &"long/".repeat(99), &"y".repeat(500)] {
            let name = ring_name(id);
            assert!(check_name(&name).is_ok(), "{name}");
            assert_eq!(name, ring_name(id));
        }
        assert_ne!(ring_name("a/x"), ring_name("b/x"));
    }
}
