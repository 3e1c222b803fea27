"""What ``snapring doctor`` looks at: functions that look at one thing each and give findings, each with the fix."""

import os
import platform
import resource
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

import snapring
from snapring import _core
from snapring.cli.finding import Finding
from snapring.cli.output import bytes_text
from snapring.cli.relay_checks import check_relays
from snapring.cli.rings import LEFT_BEHIND_S, RingInfo, Unreadable, all_rings, directory_path, geometry, kernel
from snapring.errors import SnapringError
from snapring.load import LoadSnapshot
from snapring.rendezvous.agreement import named
from snapring.ring import Reader, Writer
from snapring.schema import compile_schema
from snapring.state import State

__all__ = ["examine"]


SMALL_SHM: Final = 64 << 20
"""What container runtimes give to /dev/shm unless told otherwise, bytes."""

ENLARGE: Final = (
    "enlarge it: docker run --shm-size=1g; in Kubernetes mount an emptyDir with medium: Memory at /dev/shm; else "
    "mount -o remount,size=1G"
)
RANKS: Final = 8
"""Ranks of the ring that stands for an ordinary one."""

LEAST_FILES: Final = 256
"""Soft limit of open files below which a server that also has sockets soon meets it; a writer takes three."""

LEAST_INODES: Final = 64


def examine(directory: str | None) -> list[Finding]:
    """Look at everything; takes some milliseconds and leaves nothing behind."""
    path = Path(directory_path(directory))
    place = list(check_directory(path))
    findings = [*check_versions(), *place]
    nearest = path if path.is_dir() else path.parent
    if nearest.is_dir():
        findings += [*check_file_system(nearest), *check_space(nearest)]
    if all(finding.level != "fail" for finding in findings):
        findings += [*check_by_doing(path), *check_rings(directory), *check_relays(path, ranks_of(directory))]
    return [*findings, *check_limits(), *check_kernel()]


def check_versions() -> Iterator[Finding]:
    """What a report of a bug should begin with."""
    parts = [
        f"snapring {snapring.__version__}",
        f"Python {platform.python_version()}",
        f"numpy {np.__version__}",
        f"msgspec {msgspec.__version__}",
        f"Linux {platform.release()} {platform.machine()}",
    ]
    yield Finding("versions", "ok", ", ".join(parts))


def check_directory(path: Path) -> Iterator[Finding]:
    """The directory is this user's, no link, and closed to others."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        if path.parent.is_dir():
            yield Finding("directory", "ok", f"{path} is not there yet; the first writer makes it")
        else:
            fix = f"mkdir -p {path.parent}, or set SNAPRING_DIR"
            yield Finding("directory", "fail", f"{path.parent}, where {path.name} would be made, is not there", fix)
        return
    except OSError as error:
        yield Finding("directory", "fail", f"{path}: {error.strerror}", "set SNAPRING_DIR to a directory of your own")
        return
    uid, mode = os.geteuid(), stat.S_IMODE(found.st_mode)
    if not stat.S_ISDIR(found.st_mode):
        yield Finding("directory", "fail", f"{path} is no directory, or a link", "set SNAPRING_DIR to a real one")
    elif found.st_uid != uid:
        fix = f"set SNAPRING_DIR to a directory of uid {uid}, or run as uid {found.st_uid}"
        yield Finding("directory", "fail", f"{path} belongs to uid {found.st_uid}, this is uid {uid}", fix)
    elif mode & stat.S_ISVTX:
        fix = f"set SNAPRING_DIR to a directory of your own, such as {path}/snapring-{uid}"
        yield Finding("directory", "fail", f"{path} is shared by all users, mode {mode:04o}", fix)
    elif mode != stat.S_IRWXU:
        yield Finding("directory", "fail", f"{path} has mode {mode:04o}; 0700 keeps others out", f"chmod 700 {path}")
    else:
        yield Finding("directory", "ok", f"{path} belongs to uid {uid}, mode 0700")


def check_file_system(path: Path) -> Iterator[Finding]:
    """Rings live in memory: a disk would stall publishes."""
    kind, mount = file_system(path)
    if kind in {"tmpfs", "hugetlbfs"}:
        yield Finding("file system", "ok", f"{kind}, mounted at {mount}")
    else:
        fix = "set SNAPRING_DIR to a directory on a tmpfs, such as /dev/shm/mine, or pass allow_disk=True"
        yield Finding("file system", "fail", f"{path} is on {kind}: write-back would stall publishes", fix)


def file_system(path: Path) -> tuple[str, str]:
    """Type of the file system that holds ``path``, and where it is mounted."""
    device = path.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if before.split()[2] == wanted:
            return after.split()[0], before.split()[4]
    return "unknown", "?"


def check_space(path: Path) -> Iterator[Finding]:
    """There is room for an ordinary ring, and for more than one."""
    found = os.statvfs(path)
    free, total = found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
    ring = geometry(compile_schema(LoadSnapshot).text, ranks=RANKS)
    text = (
        f"{bytes_text(free)} free of {bytes_text(total)}; a rank of LoadSnapshot with {ring.cells} cells takes "
        f"{bytes_text(ring.slot_stride)}, {RANKS} ranks {bytes_text(ring.file_bytes)}"
    )
    if free < ring.file_bytes:
        yield Finding("space", "fail", text, f"remove what is not used (snapring gc), or {ENLARGE}")
    elif total <= SMALL_SHM:
        yield Finding("space", "warn", f"{text}; this is what containers get by default", ENLARGE)
    else:
        yield Finding("space", "ok", text)
    if found.f_files and found.f_favail < LEAST_INODES:
        fix = "remove files there, or mount it with a larger nr_inodes"
        yield Finding("inodes", "warn", f"only {found.f_favail} more files can be made", fix)


def check_by_doing(path: Path) -> Iterator[Finding]:
    """A ring is made, written, read, waited for and removed."""
    name, was_there = f"doctor-{secrets.token_hex(4)}", path.exists()
    where: dict[str, Any] = {"schema": bytes, "directory": path, "allow_disk": True}
    try:
        with Writer[bytes](name, 0, 1, cells=2, payload=8, **where) as writer, Reader[bytes](name, **where) as reader:
            version = writer.publish(b"probe")
            snapshot = reader.read(0)
            woken = reader.wait(timeout=1.0)
    except (SnapringError, OSError) as error:
        yield Finding("rehearsal", "fail", f"a ring could not be made and read: {error}", "see the message")
        return
    finally:
        if not was_there and path.is_dir() and not any(path.iterdir()):
            path.rmdir()
    if snapshot is None or (snapshot.value, snapshot.version) != (b"probe", version) or not woken:
        yield Finding("rehearsal", "fail", f"a ring gave back {snapshot!r}", "report this as a bug, with this output")
    else:
        yield Finding("rehearsal", "ok", "a ring was made, written, read and removed")


def check_rings(directory: str | None) -> Iterator[Finding]:
    """Nothing lies about that nobody uses, and every rank of a server lives."""
    every = all_rings(directory, max_age=0)
    rings = [ring for ring in every if not isinstance(ring, Unreadable)]
    groups = [
        ("unreadable", [ring.name for ring in every if isinstance(ring, Unreadable)], "snapring gc --force --yes"),
        ("made before the last boot", [ring.name for ring in rings if not ring.this_boot], "snapring gc --yes"),
        (
            "without a living writer",
            [ring.name for ring in rings if ring.this_boot and not ring.in_use],
            "snapring gc --yes, unless their servers come back",
        ),
        ("left behind by kills", _core.leftovers(directory, older_than=LEFT_BEHIND_S), "snapring gc --yes"),
        (
            "in use with dead ranks",
            [f"{ring.name} ({named(dead)})" for ring in rings if ring.in_use and (dead := dead_ranks(ring))],
            "start the schedulers of these ranks again, or their server with fewer ranks",
        ),
    ]
    for what, names, fix in groups:
        if names:
            yield Finding("rings", "warn", f"{len(names)} {what}: {', '.join(names)}", fix)
    if not any(names for _, names, _ in groups):
        yield Finding("rings", "ok", f"{len(rings)}, all in use" if rings else "none")


def dead_ranks(ring: RingInfo) -> list[int]:
    """Ranks whose writer has ended; what it last said still stands there."""
    return [rank.rank for rank in ring.ranks if rank.state is State.DEAD]


def ranks_of(directory: str | None) -> dict[str, int]:
    """Ranks of each ring that can be read."""
    rings = all_rings(directory, max_age=0)
    return {ring.name: ring.geometry.ranks for ring in rings if not isinstance(ring, Unreadable)}


def check_limits() -> Iterator[Finding]:
    """The limits of this process, which its children inherit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    text = f"{'any number of' if soft == resource.RLIM_INFINITY else soft} files may be open; a writer takes three"
    few = 0 <= soft < LEAST_FILES
    yield Finding("open files", "warn" if few else "ok", text, "ulimit -n 1024" if few else "")
    largest, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if largest != resource.RLIM_INFINITY:
        needed = geometry(compile_schema(LoadSnapshot).text, ranks=RANKS).file_bytes
        text = f"files may have {bytes_text(largest)}; {RANKS} ranks take {bytes_text(needed)}"
        yield Finding("file size", "fail" if largest < needed else "warn", text, "ulimit -f unlimited")


def check_kernel() -> Iterator[Finding]:
    """What waiting readers and ages rest on."""
    found = kernel()
    if found.membarrier:
        yield Finding("membarrier", "ok", "writers need no fence of their own")
    else:
        text = "not offered by the kernel or a seccomp filter: each publish pays for a fence, some 20 ns"
        yield Finding("membarrier", "warn", text, "allow the system call membarrier")
    if found.futex:
        yield Finding("futex", "ok", "waiting readers sleep until they are woken")
    else:
        yield Finding("futex", "warn", "refused: waiting readers look every 100 ms", "allow the system call futex")
    yield check_time_namespace(found.time_namespace)


def check_time_namespace(inode: int) -> Finding:
    """Monotonic clocks compare only inside one time namespace."""
    if not inode:
        return Finding("time", "ok", "the kernel has no time namespaces: ages are exact")
    try:
        offsets = Path("/proc/self/timens_offsets").read_text().split()
    except OSError:
        offsets = []
    shifted = any(number.lstrip("-").isdigit() and int(number) for number in offsets)
    if not shifted:
        return Finding("time", "ok", f"time namespace {inode}, monotonic clock not shifted: ages are exact")
    text = (
        f"time namespace {inode} shifts the monotonic clock: ages of writers outside count from when a reader saw them"
    )
    return Finding("time", "warn", text, "run writers and readers in one time namespace")
