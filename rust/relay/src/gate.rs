//! Who may send: the answers to libzmq's question for each new connection (ZAP, `ZeroMQ` RFC 27).
//!
//! It fails closed: a connection whose question nobody answers is never admitted, and ends with its handshake's time.

use crate::curve::{KeyPair, PublicKey};
use crate::zmq::{Context, Message, Socket, SocketKind};
use rustix::fd::BorrowedFd;
use snapring_core::Error;
use std::collections::HashSet;
use std::net::IpAddr;

/// Where libzmq asks, in the same context.
const QUESTIONS: &str = "inproc://zeromq.zap.01";
/// Parts of a question: version, id, domain, address, identity, mechanism, credentials.
const PARTS: usize = 7;
const GRANTED: &str = "200";
const DENIED: &str = "400";

/// Which keys may connect.
#[derive(Clone, Debug)]
pub enum Admission {
    /// All, in the clear.
    Anyone,
    /// Those listed, by CURVE.
    Curve {
        /// The relay's own keys.
        own: KeyPair,
        /// Keys of the senders.
        clients: HashSet<PublicKey>,
    },
}

/// A range of addresses, such as `10.1.0.0/16` or `fd00::/8`; a single address is a range of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Net {
    address: IpAddr,
    bits: u32,
}

impl Net {
    /// Reads `address` or `address/bits`. Bits of the address beyond the range are an error.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let wrong = |fix: &str| Error::Invalid(format!("{text:?} is no range of addresses: {fix}"));
        let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.parse().map_err(|_| wrong("write 10.1.0.0/16 or fd00::/8"))?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(width), str::parse).map_err(|_| wrong("the bits are a number"))?;
        if bits > width {
            return Err(wrong(&format!("at most {width} bits")));
        }
        let net = Self { address, bits };
        if net.mask(address) == number(address) { Ok(net) } else { Err(wrong("bits are set beyond the range")) }
    }

    /// Whether `address` is in the range; one of IPv4 may come as `::ffff:1.2.3.4`.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.address.is_ipv4() && self.mask(address) == number(self.address)
    }

    fn mask(&self, address: IpAddr) -> u128 {
        let width = if address.is_ipv4() { 32 } else { 128 };
        number(address) & u128::MAX.checked_shl(width - self.bits).unwrap_or(0)
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

/// An answer to one question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Granted,
    UnknownKey,
    UnknownAddress,
    TooMany,
}

/// What is asked about a connection.
#[derive(Debug, Default)]
struct Question {
    parts: [Vec<u8>; PARTS],
    count: usize,
}

/// The answering end.
#[derive(Debug)]
pub(crate) struct Gate {
    socket: Socket,
    /// `None` admits any.
    keys: Option<HashSet<[u8; 32]>>,
    addresses: Option<Vec<Net>>,
    message: Message,
}

impl Gate {
    /// Takes the questions of `context`; must be there before its socket binds.
    pub(crate) fn open(context: &Context, admission: &Admission, addresses: Option<Vec<Net>>) -> Result<Self, Error> {
        let socket = context.socket(SocketKind::Rep)?;
        socket.bind(QUESTIONS)?;
        let keys = match admission {
            Admission::Anyone => None,
            Admission::Curve { clients, .. } => Some(clients.iter().map(PublicKey::bytes).collect()),
        };
        Ok(Self { socket, keys, addresses, message: Message::new() })
    }

    /// Lists other keys from now on; where any is admitted, nothing changes.
    pub(crate) fn list(&mut self, clients: &HashSet<PublicKey>) {
        if let Some(keys) = &mut self.keys {
            *keys = clients.iter().map(PublicKey::bytes).collect();
        }
    }

    pub(crate) fn fd(&self) -> Result<BorrowedFd<'_>, Error> {
        self.socket.fd()
    }

    /// Answers the next question, `None` when there is none; `full` says that there are too many peers.
    pub(crate) fn answer(&mut self, full: bool) -> Result<Option<Verdict>, Error> {
        let Some(question) = self.question()? else { return Ok(None) };
        let verdict = match self.judge(&question) {
            Verdict::Granted if full => Verdict::TooMany,
            verdict => verdict,
        };
        let status = if verdict == Verdict::Granted { GRANTED } else { DENIED };
        let [version, id, ..] = &question.parts;
        for part in [version, id, status.as_bytes(), b"", b""] {
            self.socket.send(part, true)?;
        }
        self.socket.send(b"", false)?;
        Ok(Some(verdict))
    }

    fn question(&mut self) -> Result<Option<Question>, Error> {
        let mut question = Question::default();
        while self.socket.recv(&mut self.message)? {
            if let Some(part) = question.parts.get_mut(question.count) {
                self.message.data().clone_into(part);
            }
            question.count += 1;
            if !self.message.more() {
                return Ok(Some(question));
            }
        }
        Ok(None)
    }

    fn judge(&self, question: &Question) -> Verdict {
        let [_, _, _, address, _, mechanism, key] = &question.parts;
        let known = match &self.keys {
            None => mechanism == b"NULL",
            Some(keys) => {
                question.count == PARTS
                    && mechanism == b"CURVE"
                    && key.as_slice().try_into().is_ok_and(|key: [u8; 32]| keys.contains(&key))
            }
        };
        let listed = self.addresses.as_ref().is_none_or(|nets| {
            let address = core::str::from_utf8(address).ok().and_then(|text| text.parse().ok());
            address.is_some_and(|address| nets.iter().any(|net| net.contains(address)))
        });
        match (listed, known) {
            (true, true) => Verdict::Granted,
            (false, _) => Verdict::UnknownAddress,
            (true, false) => Verdict::UnknownKey,
        }
    }
}
