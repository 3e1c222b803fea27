"""What the verbs that look after rings know of their relays: the notes of owners, their locks, and sockets."""

import fcntl
import os
import socket
import stat
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import msgspec

__all__ = ["Owner", "dead_sockets", "owners", "remove_socket"]

NOTE: Final = struct.Struct("<8s5Q")
"""Magic, pid, start in clock ticks since boot, inode of the pid namespace, term, monotonic ns of the last work."""

MAGIC: Final = b"SNAPOWNR"

FLOCK: Final = struct.Struct("@hhqqi4x")
"""The kernel's ``flock``: type, whence, first byte, number of bytes, pid."""

OWNED_BYTE: Final = 1 << 62
"""Locked by the owner; part of the format."""


class Owner(msgspec.Struct, frozen=True):
    """A relay's owner, or the last one. Durations in seconds.

    ``pid`` is as the owner's pid namespace has it, 0 once an owner has closed; ``here`` is whether that is this
    process's namespace too.
    """

    ring: str
    held: bool
    pid: int
    here: bool
    term: int
    up: float
    silent: float


def owners(directory: Path) -> list[Owner]:
    """Of each ring that ever had a relay, by name; none where there is no directory."""
    return [owner for path in sorted(directory.glob("*.owner")) if (owner := _owner(path)) is not None]


def dead_sockets(directory: Path) -> list[Path]:
    """Sockets of this user where nobody listens, by name."""
    return [path for path in sorted(directory.glob("*.sock")) if _is_own_socket(path) and not _answers(path)]


def remove_socket(path: Path) -> bool:
    """Remove a socket where nobody listens; False when somebody does by now.

    A relay locks before it binds, so with the lock in hand no relay's socket can be hit. Raises OSError.
    """
    with _locked(Path(f"{path}.lock")) as mine:
        if not mine or not _is_own_socket(path) or _answers(path):
            return False
        path.unlink()
        return True


def _owner(path: Path) -> Owner | None:
    """What the file says; None for one that says nothing, or went away."""
    try:
        with _opened(path, os.O_RDONLY) as file:
            note, held = os.pread(file, NOTE.size, 0), _is_locked(file)
    except OSError:
        return None
    if len(note) != NOTE.size or not note.startswith(MAGIC):
        return None
    _, pid, ticks, namespace, term, beat_ns = NOTE.unpack(note)
    return Owner(
        ring=path.stem,
        held=held,
        pid=pid,
        here=namespace == Path("/proc/self/ns/pid").stat().st_ino,
        term=term,
        up=max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")),
        silent=max(0.0, time.monotonic() - beat_ns / 1e9),
    )


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    """The descriptor of what is no link, and hangs on nothing planted."""
    file = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        yield file
    finally:
        os.close(file)


@contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Whether this process has the lock of an owner now; True too where no relay ever made its file."""
    with ExitStack() as stack:
        mine = True
        try:
            file = stack.enter_context(_opened(path, os.O_RDWR))
            fcntl.fcntl(file, fcntl.F_OFD_SETLK, _flock(fcntl.F_WRLCK))
        except FileNotFoundError:
            pass
        except BlockingIOError:
            mine = False
        yield mine  # outside of the try: what the block raises is the caller's


def _is_locked(file: int) -> bool:
    answer = fcntl.fcntl(file, fcntl.F_OFD_GETLK, _flock(fcntl.F_WRLCK))
    kind: int = FLOCK.unpack(answer)[0]
    return kind != fcntl.F_UNLCK


def _flock(kind: int) -> bytes:
    return FLOCK.pack(kind, os.SEEK_SET, OWNED_BYTE, 1, 0)


def _is_own_socket(path: Path) -> bool:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISSOCK(found.st_mode) and found.st_uid == os.geteuid()


def _answers(path: Path) -> bool:
    """Whether somebody listens there; a full queue is somebody too."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(0)
        try:
            client.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True
    return True
