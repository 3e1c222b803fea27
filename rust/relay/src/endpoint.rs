//! Where a relay listens and a sender connects: `ipc:///path/of/socket`, `tcp://host:port`, `tcp://[v6 address]:port`.

use snapring_core::{DirOptions, Directory, Error};
use std::fmt;
use std::fs::symlink_metadata;
use std::net::{IpAddr, Ipv4Addr, ToSocketAddrs};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Longest path of a socket, in bytes: a `sockaddr_un` holds 108 with the zero at its end.
pub const MAX_IPC_PATH: usize = 107;

/// Host of a TCP endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// An address; the unspecified one means all interfaces.
    Address(IpAddr),
    /// A name, looked up at each connect.
    Name(String),
}

/// A checked endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// A socket in the file system.
    Ipc(PathBuf),
    /// A TCP port; 0 takes a free one on bind.
    Tcp(Host, u16),
}

impl Endpoint {
    /// Reads an endpoint. Relative and abstract ipc paths are refused, and so are all other transports.
    pub fn parse(text: &str) -> Result<Self, Error> {
        if let Some(path) = text.strip_prefix("ipc://") {
            return ipc(path, text);
        }
        match text.strip_prefix("tcp://") {
            Some(address) => tcp(address, text),
            None => Err(invalid(text, "write ipc:///path/of/socket or tcp://host:port")),
        }
    }

    /// True when only processes of this machine can reach it.
    pub fn is_loopback(&self) -> bool {
        match self {
            Self::Ipc(_) => true,
            Self::Tcp(Host::Address(address), _) => address.to_canonical().is_loopback(),
            Self::Tcp(Host::Name(name), _) => name.eq_ignore_ascii_case("localhost"),
        }
    }

    /// Its port; 0 for a free one, and for a socket in the file system.
    pub fn port(&self) -> u16 {
        match self {
            Self::Ipc(_) => 0,
            Self::Tcp(_, port) => *port,
        }
    }

    /// The same with `port` in the place of a free one; `None` where it names a port already, or `port` is 0 too.
    pub(crate) fn with_port(&self, port: u16) -> Option<Self> {
        match self {
            Self::Tcp(host, 0) if port != 0 => Some(Self::Tcp(host.clone(), port)),
            _ => None,
        }
    }

    /// True when the socket must speak IPv6. A name means an IPv4 address if it has any; one that nobody knows yet may
    /// come to mean anything, and libzmq does without IPv6 where the system has none.
    pub(crate) fn needs_ipv6(&self) -> bool {
        match self {
            Self::Tcp(Host::Address(address), _) => address.is_ipv6(),
            Self::Tcp(Host::Name(name), port) => (name.as_str(), *port)
                .to_socket_addrs()
                .map_or(true, |mut found| found.len() > 0 && found.all(|address| address.is_ipv6())),
            Self::Ipc(_) => false,
        }
    }

    /// As libzmq binds it: only addresses, and `*` for a free port.
    pub(crate) fn to_bind(&self) -> Result<String, Error> {
        let Self::Tcp(host, port) = self else { return Ok(self.to_string()) };
        let address = match host {
            Host::Address(address) => *address,
            Host::Name(name) => resolve(name)?,
        };
        let text = Self::Tcp(Host::Address(address), *port).to_string();
        Ok(if *port == 0 { format!("{}*", text.trim_end_matches('0')) } else { text })
    }

    /// As libzmq connects to it, from `source` if given.
    pub(crate) fn to_connect(&self, source: Option<IpAddr>) -> Result<String, Error> {
        match (self, source) {
            (Self::Tcp(_, 0), _) => {
                Err(invalid(&self.to_string(), "port 0 cannot be connected to; name the port that the relay got"))
            }
            (Self::Tcp(host, port), Some(source)) => Ok(format!("tcp://{}:0;{host}:{port}", Host::Address(source))),
            (Self::Ipc(_), Some(_)) => Err(invalid(&self.to_string(), "a source address needs a tcp endpoint")),
            (_, None) => Ok(self.to_string()),
        }
    }
}

fn invalid(text: &str, fix: &str) -> Error {
    Error::Invalid(format!("{text:?} is no endpoint: {fix}"))
}

fn ipc(path: &str, text: &str) -> Result<Endpoint, Error> {
    let len = path.len();
    if !path.starts_with('/') {
        return Err(invalid(
            text,
            "the path must begin with / (abstract sockets have no permissions, relative ones move)",
        ));
    }
    if path.ends_with('/') || path.contains('\0') {
        return Err(invalid(text, "the path must name a file"));
    }
    if len > MAX_IPC_PATH {
        return Err(invalid(
            text,
            &format!("its path has {len} bytes, and a socket's at most {MAX_IPC_PATH}; choose a shorter directory"),
        ));
    }
    Ok(Endpoint::Ipc(PathBuf::from(path)))
}

fn tcp(address: &str, text: &str) -> Result<Endpoint, Error> {
    let (host, port) = address.rsplit_once(':').ok_or_else(|| invalid(text, "the port is missing: tcp://host:port"))?;
    let number = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit()).then(|| port.parse().ok()).flatten();
    let port = match port {
        "*" => 0,
        _ => number(port).ok_or_else(|| invalid(text, "the port is a number up to 65535, or * for a free one"))?,
    };
    let v6 = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host = match (v6, host.parse::<Ipv4Addr>()) {
        (Some(v6), _) => v6
            .parse()
            .map(|v6| Host::Address(IpAddr::V6(v6)))
            .map_err(|_| invalid(text, "no IPv6 address in the brackets"))?,
        (None, Ok(v4)) => Host::Address(v4.into()),
        (None, Err(_)) => Host::Name(name(host, text)?),
    };
    Ok(Endpoint::Tcp(host, port))
}

fn name(host: &str, text: &str) -> Result<String, Error> {
    let legal = |label: &str| {
        let edges = !label.starts_with('-') && !label.ends_with('-');
        !label.is_empty()
            && edges
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    // All digits would be an address of a form that nobody means.
    let numeric = host.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    match host {
        "*" => Err(invalid(text, "name an address; 0.0.0.0 or [::] means all interfaces")),
        _ if host.contains(':') => Err(invalid(text, "an IPv6 address stands in brackets: tcp://[::1]:port")),
        _ if numeric || host.len() > 253 || !host.split('.').all(legal) => {
            Err(invalid(text, "the host is a name or an address"))
        }
        _ => Ok(host.to_owned()),
    }
}

fn resolve(name: &str) -> Result<IpAddr, Error> {
    let what = || format!("looking up {name} to bind it; name an address of this machine");
    let mut found: Vec<_> = (name, 0).to_socket_addrs().map_err(|error| Error::io(what(), error))?.collect();
    found.sort_by_key(std::net::SocketAddr::is_ipv6);
    found.first().map(std::net::SocketAddr::ip).ok_or_else(|| Error::Invalid(what()))
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(IpAddr::V4(address)) => write!(f, "{address}"),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ipc(path) => write!(f, "ipc://{}", path.display()),
            Self::Tcp(host, port) => write!(f, "tcp://{host}:{port}"),
        }
    }
}

/// Checks where the socket of an ipc endpoint will stand: in a directory that is there, own and 0700, and in the place
/// of nothing but an own socket. libzmq itself would remove whatever it finds.
pub(crate) fn check_ipc_place(path: &Path) -> Result<(), Error> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let options = DirOptions { path: Some(folder.to_owned()), allow_disk: true };
    if Directory::open(&options)?.is_none() {
        return Err(Error::Invalid(format!("there is no directory {}; make it, with mode 0700", folder.display())));
    }
    match symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() || found.uid() != rustix::process::geteuid().as_raw() => Err(
            Error::Untrusted(format!("{} is no socket of the own user; look at it, then remove it", path.display())),
        ),
        _ => Ok(()),
    }
}

/// Inode of what stands at `path`, 0 for nothing.
pub(crate) fn inode(path: &Path) -> u64 {
    symlink_metadata(path).map_or(0, |found| found.ino())
}
