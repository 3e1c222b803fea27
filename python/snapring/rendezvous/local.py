"""A group on one host: entries are files in a directory of one's own, and a kernel lock makes swaps one at a time."""

import errno
import fcntl
import functools
import os
import random
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from snapring.errors import RingUntrusted, StoreUnavailable, SystemRefused
from snapring.rendezvous.group import MAX_ENTRY_BYTES, check_entry, check_name, check_place, check_seconds

__all__ = ["LocalGroup"]

LOCK: Final = "lock"
LOCK_PAUSE_S: Final = 0.002
HEADER_BYTES: Final = 96
"""More than the first line of a file: the boot's id, and when the entry ends, monotonic ns or 0 for never."""

_NO_LINKS: Final = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class LocalGroup:
    """The embedded default: needs no service, works among the processes and threads of one host and one user.

    ``path`` is a directory for snapring alone; it is made with mode 0700, and refused if it is somebody else's, open
    to others or a link. It may be shared by jobs. It must be on this host: a network file system's locks and clocks
    lie. ``job`` keeps launches apart. Making a group touches nothing; the directory is made at the first call.

    A swap holds a kernel lock for as long as a small file takes to be written and renamed; the kernel frees it when its
    holder dies. ``ttl`` counts on the host's monotonic clock, so all processes must share a time namespace. Files of
    ended entries stay until overwritten. Threads and both sides of a fork may use one group.

    Raises InvalidValue for a bad size or job and RankOutOfRange for a bad rank; calls raise RingUntrusted for a
    directory or file that is not ours, SystemRefused for what the file system refuses, StoreUnavailable when the lock
    was not had in time.
    """

    def __init__(self, path: str | os.PathLike[str], rank: int, size: int, *, job: str = "default") -> None:
        check_place(rank, size)
        self._path = Path(path)
        self._rank, self._size, self._job = rank, size, check_name(job, "the job")

    def __repr__(self) -> str:
        return f"LocalGroup({str(self._path)!r}, rank={self._rank}, size={self._size}, job={self._job!r})"

    @property
    def rank(self) -> int:
        """This process's rank."""
        return self._rank

    @property
    def size(self) -> int:
        """How many ranks the job has."""
        return self._size

    @property
    def job(self) -> str:
        """Name of the job."""
        return self._job

    def describe(self) -> str:
        """The directory."""
        return f"directory {self._path} of this host"

    def read(self, folder: str, rank: int, timeout: float) -> bytes | None:
        """The entry of one rank; takes no lock and does not wait."""
        check_seconds(timeout, "a timeout")
        with _refusals(self._path), self._directory() as directory:
            return _read(directory, self._file(folder, rank))

    def read_all(self, folder: str, timeout: float) -> dict[int, bytes]:
        """Every entry of a folder by rank; takes no lock and does not wait."""
        check_seconds(timeout, "a timeout")
        head, _, tail = self._file(folder, 0).rpartition("0.")
        with _refusals(self._path), self._directory() as directory:
            ranks = [
                int(middle)
                for name in os.listdir(directory)  # noqa: PTH208  by descriptor, so that nobody can swap the directory
                if name.startswith(head) and name.endswith(f".{tail}")
                if (middle := name[len(head) : -len(tail) - 1]).isdecimal()
            ]
            found = {rank: _read(directory, self._file(folder, rank)) for rank in sorted(ranks)}
        return {rank: entry for rank, entry in found.items() if entry is not None}

    def swap(
        self, folder: str, rank: int, old: bytes | None, new: bytes | None, timeout: float, *, ttl: float | None = None
    ) -> bool:
        """Replace the entry ``old`` by ``new`` under the lock; whether ``new`` stands there now."""
        check_entry(new)
        file = self._file(folder, rank)
        with _refusals(self._path), self._directory() as directory, _locked(directory, timeout, self.describe()):
            now = _read(directory, file)
            if now not in {old, new}:
                return False
            if new is None:
                _unlink(directory, file)
            else:
                _write(directory, file, new, ttl)
        return True

    def _file(self, folder: str, rank: int) -> str:
        # None of the three can hold a "~", so no two entries share a file.
        return f"{self._job}~{check_name(folder, 'a folder')}~{rank}.entry"

    @contextmanager
    def _directory(self) -> Iterator[int]:
        with suppress(FileExistsError):  # whose it is, is looked at below
            self._path.mkdir(mode=0o700, parents=True)
        directory = os.open(self._path, os.O_DIRECTORY | os.O_RDONLY | _NO_LINKS)
        try:
            status = os.fstat(directory)
            if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
                raise RingUntrusted(
                    f"directory {self._path} belongs to user {status.st_uid} and has mode"
                    f" {stat.S_IMODE(status.st_mode):o}; name one that is yours alone, mode 0700"
                )
            yield directory
        finally:
            os.close(directory)


@contextmanager
def _refusals(path: Path) -> Iterator[None]:
    """Turns what the operating system refuses into errors of ours."""
    try:
        yield
    except OSError as error:
        if isinstance(error, (RingUntrusted, StoreUnavailable)):
            raise
        if error.errno in {errno.ELOOP, errno.ENOTDIR}:
            raise RingUntrusted(
                f"{path} is or holds a link, or is no directory; name a directory of your own"
            ) from error
        raise SystemRefused(error.errno, f"{path}: {error.strerror}; name a directory that can be written") from error


@contextmanager
def _locked(directory: int, timeout: float, where: str) -> Iterator[None]:
    """Holds the directory's lock; StoreUnavailable when it was not free within ``timeout`` seconds."""
    end = time.monotonic() + check_seconds(timeout, "a timeout")
    # Each call opens the file anew: the lock belongs to the open file, so threads exclude each other as well.
    lock = os.open(LOCK, os.O_CREAT | os.O_RDWR | _NO_LINKS, 0o600, dir_fd=directory)
    try:
        while not _try_lock(lock):
            if time.monotonic() > end:
                raise StoreUnavailable(f"the lock of {where} was not free within {timeout:g} s; end whoever holds it")
            time.sleep(LOCK_PAUSE_S * random.uniform(0.5, 1.5))
        try:
            yield
        finally:
            fcntl.flock(lock, fcntl.LOCK_UN)  # a child forked meanwhile may keep the file open, but not the lock
    finally:
        os.close(lock)


def _try_lock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(directory: int, name: str) -> bytes | None:
    """The entry in a file; None if there is none, or it has ended."""
    try:
        file = os.open(name, os.O_RDONLY | _NO_LINKS, dir_fd=directory)
    except FileNotFoundError:
        return None
    with os.fdopen(file, "rb") as stream:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
            raise RingUntrusted(f"{name} is no plain file of this user; remove it")
        header, separator, entry = stream.read(HEADER_BYTES + MAX_ENTRY_BYTES).partition(b"\n")
    boot, _, ends = header.partition(b" ")
    if not (separator and ends.isdigit()):
        raise RingUntrusted(f"{name} holds something else than snapring wrote; remove it")
    lives = boot == _boot_id() and (int(ends) == 0 or time.monotonic_ns() < int(ends))
    return entry if lives else None


def _write(directory: int, name: str, entry: bytes, ttl: float | None) -> None:
    """Writes beside and renames over, so that readers see one entry or the other. The lock is held."""
    ends = 0 if ttl is None else time.monotonic_ns() + int(check_seconds(ttl, "a ttl") * 1e9)
    beside = f"{name}.new"
    _unlink(directory, beside)  # what a process that was killed right here has left
    file = os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY | _NO_LINKS, 0o600, dir_fd=directory)
    with os.fdopen(file, "wb") as stream:
        stream.write(b"%s %d\n%s" % (_boot_id(), ends, entry))
    os.rename(beside, name, src_dir_fd=directory, dst_dir_fd=directory)


def _unlink(directory: int, name: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=directory)


@functools.cache
def _boot_id() -> bytes:
    """Which boot this is: entries on a disk must not outlive it, as monotonic time starts again."""
    return Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()
