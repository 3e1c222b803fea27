//! CURVE keys and the files that they live in.
//!
//! A key is 32 bytes, written as 40 characters of Z85 (`ZeroMQ` RFC 32). A key file is short text:
//!
//! ```text
//! public = "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"
//! secret = "JTKVSB%%)wK0E.X)V>+}o?pNmC{O&4W4b!Ni{Lh6"
//! ```
//!
//! It is regular, of the own user, of mode 0600 and reachable by one name; `<stem>.pub` beside it has the public line only.

use crate::zmq::{KEY_TEXT, curve_keypair, curve_public, z85_key};
use rustix::fs::{FileType, Mode, OFlags, Stat, fstat, open};
use snapring_core::Error;
use std::fmt;
use std::fs::{File, OpenOptions, remove_file};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use zeroize::{Zeroize, Zeroizing};

// The characters and the zero that libzmq wants after them.
type Text = [u8; KEY_TEXT + 1];
/// More than any key file has.
const MAX_FILE: u64 = 4096;
const SECRET_MODE: u32 = 0o600;
const PUBLIC_MODE: u32 = 0o644;
/// Bits of a mode by which others than the owner write.
const OTHERS_WRITE: u32 = 0o022;

fn parse(text: &str, what: &str) -> Result<Text, Error> {
    let mut key = [0; KEY_TEXT + 1];
    // The text itself stays out of the message: it may be a secret.
    let wrong = || {
        Error::Invalid(format!("a CURVE {what} key has {KEY_TEXT} characters of Z85; make a pair with: snapring keys"))
    };
    key.get_mut(..text.len()).filter(|part| part.len() == KEY_TEXT).ok_or_else(wrong)?.copy_from_slice(text.as_bytes());
    z85_key(&key).map(|mut bytes| bytes.zeroize()).ok_or_else(wrong)?;
    Ok(key)
}

/// A key that may be known to all.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey(Text);

impl PublicKey {
    /// A key from its 40 characters.
    pub fn parse(text: &str) -> Result<Self, Error> {
        parse(text, "public").map(Self)
    }

    /// The key in a file that has a line `public = "..."`: a `.pub` file. Anything but a regular file that only the own
    /// user or root can write is refused with [`Error::Untrusted`]: others could name whom to trust. It may be a link.
    pub fn load(path: &Path) -> Result<Self, Error> {
        Self::parse(value(&content(open_public(path)?, path)?, "public", path)?)
    }

    /// The 40 characters.
    pub fn as_str(&self) -> &str {
        core::str::from_utf8(&self.0[..KEY_TEXT]).unwrap_or_default()
    }

    /// The 32 bytes.
    pub fn bytes(&self) -> [u8; 32] {
        z85_key(&self.0).unwrap_or_default()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

/// A key that only its owner may know: never shown, zeroed when dropped.
#[derive(Clone)]
pub struct SecretKey(Text);

impl SecretKey {
    /// A key from its 40 characters.
    pub fn parse(text: &str) -> Result<Self, Error> {
        parse(text, "secret").map(Self)
    }

    /// The 40 characters, for libzmq and for key files.
    pub fn reveal(&self) -> &str {
        core::str::from_utf8(&self.0[..KEY_TEXT]).unwrap_or_default()
    }

    /// The key that belongs to it.
    pub fn public(&self) -> Result<PublicKey, Error> {
        let wrong =
            || Error::Invalid("no public key belongs to this secret one; make a pair with: snapring keys".into());
        curve_public(&self.0).map(PublicKey).ok_or_else(wrong)
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(..)")
    }
}

impl Drop for SecretKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// Who one end of a connection is.
#[derive(Clone, Debug)]
pub struct KeyPair {
    public: PublicKey,
    secret: SecretKey,
}

impl KeyPair {
    /// A new pair from the system's randomness.
    pub fn generate() -> Result<Self, Error> {
        let (public, secret) = curve_keypair()?;
        Ok(Self { public: PublicKey(public), secret: SecretKey(secret) })
    }

    /// The pair of a secret key.
    pub fn new(secret: SecretKey) -> Result<Self, Error> {
        Ok(Self { public: secret.public()?, secret })
    }

    /// The public half.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// The secret half.
    pub fn secret(&self) -> &SecretKey {
        &self.secret
    }

    /// Reads a key file. Anything but a regular file of the own user, of mode 0600 and with one name, is refused with
    /// [`Error::Untrusted`]: others may have read or replaced its secret.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let content = content(open_secret(path)?, path)?;
        let pair = Self::new(SecretKey::parse(value(&content, "secret", path)?)?)?;
        if value(&content, "public", path)? != pair.public.as_str() {
            return Err(Error::Invalid(format!(
                "the two keys in {} do not belong together; make a new pair with: snapring keys",
                path.display()
            )));
        }
        Ok(pair)
    }

    /// Writes a new key file, and the public key to `<stem>.pub` beside it. Nothing is overwritten.
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        let public_path = path.with_extension("pub");
        if public_path == path {
            return Err(Error::Invalid(format!(
                "{} is where the public key goes; name the key file otherwise",
                path.display()
            )));
        }
        let public = format!("public = \"{}\"\n", self.public);
        let both = Zeroizing::new(format!("{public}secret = \"{}\"\n", self.secret.reveal()));
        write_new(path, SECRET_MODE, &both)?;
        write_new(&public_path, PUBLIC_MODE, &public).inspect_err(|_| {
            let _ = remove_file(path); // the file just made; half a pair would only be in the way
        })
    }
}

/// Opens a file to look at before it is read.
fn open_key(path: &Path, flags: OFlags) -> Result<(File, Stat), Error> {
    let shown = path.display();
    // NONBLOCK: a planted FIFO must not hang the open.
    let flags = flags | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let fd = match open(path, flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(rustix::io::Errno::LOOP) => return Err(untrusted(path, "is a link; name the file itself")),
        // Somebody took the key itself for its file: it stays out of the message.
        Err(_) if path.to_str().is_some_and(|text| parse(text, "").is_ok()) => {
            return Err(Error::Invalid("a key stands where the path of its file should; name the file".into()));
        }
        Err(error) => return Err(Error::io(format!("opening the key file {shown}"), error)),
    };
    let stat = fstat(&fd).map_err(|error| Error::io(format!("looking at {shown}"), error))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(untrusted(path, "is no regular file"));
    }
    Ok((File::from(fd), stat))
}

fn open_public(path: &Path) -> Result<File, Error> {
    let (file, stat) = open_key(path, OFlags::empty())?;
    let (uid, mode) = (rustix::process::geteuid().as_raw(), stat.st_mode & 0o7777);
    if stat.st_uid != uid && stat.st_uid != 0 {
        Err(untrusted(path, &format!("belongs to uid {}; copy it to a file of the own uid {uid}", stat.st_uid)))
    } else if mode & OTHERS_WRITE != 0 {
        let shown = path.display();
        Err(untrusted(path, &format!("has mode {mode:04o}; if its key is the right one: chmod go-w {shown}")))
    } else {
        Ok(file)
    }
}

fn open_secret(path: &Path) -> Result<File, Error> {
    let (file, stat) = open_key(path, OFlags::NOFOLLOW)?;
    let (uid, mode) = (rustix::process::geteuid().as_raw(), stat.st_mode & 0o7777);
    if stat.st_uid != uid {
        Err(untrusted(path, &format!("belongs to uid {}; copy it to a file of the own uid {uid}", stat.st_uid)))
    } else if mode != SECRET_MODE {
        let shown = path.display();
        Err(untrusted(path, &format!("has mode {mode:04o}; if nobody else has read it: chmod 600 {shown}")))
    } else if stat.st_nlink != 1 {
        Err(untrusted(path, &format!("has {} names (hard links); leave it one", stat.st_nlink)))
    } else {
        Ok(file)
    }
}

fn untrusted(path: &Path, reason: &str) -> Error {
    Error::Untrusted(format!("the key file {} {reason}", path.display()))
}

fn content(file: File, path: &Path) -> Result<Zeroizing<String>, Error> {
    // Full size at once: growing would leave copies of a secret behind.
    let mut text = Zeroizing::new(String::with_capacity(MAX_FILE as usize));
    file.take(MAX_FILE)
        .read_to_string(&mut text)
        .map_err(|error| Error::io(format!("reading the key file {}", path.display()), error))?;
    Ok(text)
}

/// What stands in the line `name = "..."`.
fn value<'a>(content: &'a str, name: &str, path: &Path) -> Result<&'a str, Error> {
    let of_line = |line: &'a str| {
        let (key, value) = line.split_once('=')?;
        (key.trim() == name).then(|| value.trim().strip_prefix('"')?.strip_suffix('"')).flatten()
    };
    content.lines().find_map(of_line).ok_or_else(|| {
        Error::Invalid(format!("{} has no line {name} = \"...\"; make a pair with: snapring keys", path.display()))
    })
}

fn write_new(path: &Path, mode: u32, text: &str) -> Result<(), Error> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path).map_err(|error| {
        let fix = if error.kind() == io::ErrorKind::AlreadyExists {
            "; keys are never overwritten, so choose another path"
        } else {
            ""
        };
        Error::io(format!("making the key file {}{fix}", path.display()), error)
    })?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    written.map_err(|error| {
        let _ = remove_file(path); // the file just made
        Error::io(format!("writing the key file {}", path.display()), error)
    })
}
