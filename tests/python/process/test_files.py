"""What somebody else planted where the ring belongs is refused, at once and untouched."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from snapring import LoadSnapshot, Reader, RingUntrusted, Writer
from support import python, run

SECRET = b"somebody's own bytes" * 500


@pytest.fixture
def victim(ring_dir: Path) -> Path:
    """A file of the user's outside the ring directory, on the same file system."""
    path = ring_dir.with_name(f"{ring_dir.name}-victim")
    path.write_bytes(SECRET)
    path.chmod(0o600)
    yield path  # type: ignore[misc]
    path.unlink()


def symlink(path: Path, victim: Path) -> None:
    """A link to the victim."""
    path.symlink_to(victim)


def dangling(path: Path, victim: Path) -> None:
    """A link to nowhere, which a careless open would create."""
    path.symlink_to(victim.with_name("nowhere"))


def fifo(path: Path, victim: Path) -> None:
    """A pipe, whose open would wait for a peer."""
    os.mkfifo(path, 0o600)


def directory(path: Path, victim: Path) -> None:
    """A directory."""
    path.mkdir(mode=0o700)


def hard_link(path: Path, victim: Path) -> None:
    """A second name of the victim."""
    path.hardlink_to(victim)


def unix_socket(path: Path, victim: Path) -> None:
    """A socket."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


def device(path: Path, victim: Path) -> None:
    """The zero device."""
    if os.geteuid() != 0:
        pytest.skip("only root can make a device")
    os.mknod(path, 0o600 | 0o020000, os.makedev(1, 5))


def loose(path: Path, victim: Path) -> None:
    """A regular file that everybody may read."""
    path.write_bytes(SECRET)
    path.chmod(0o644)


def set_id(path: Path, victim: Path) -> None:
    """A regular file with a special mode."""
    path.write_bytes(SECRET)
    path.chmod(0o4600)


def foreign(path: Path, victim: Path) -> None:
    """A regular file of another user."""
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    path.write_bytes(SECRET)
    path.chmod(0o600)
    os.chown(path, 12_345, 12_345)


PLANTS = [symlink, dangling, fifo, directory, hard_link, unix_socket, device, loose, set_id, foreign]


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
@pytest.mark.parametrize("suffix", ["ring", "bell"])
def test_what_snapring_did_not_make_is_refused(
    ring_dir: Path, victim: Path, plant: Callable[[Path, Path], None], suffix: str
) -> None:
    """Neither opened for long, nor followed, nor written: a typed error names the file, and the victim is as it was."""
    path = ring_dir / f"main.{suffix}"
    plant(path, victim)
    before = os.lstat(path)

    with pytest.raises(RingUntrusted, match=f"{path} is .*; snapring did not make it") as caught:
        Writer("main", rank=0, ranks=1)
    if suffix == "ring":
        with pytest.raises(RingUntrusted, match=f"{path} is "):
            Reader("main").read(0)

    after = os.lstat(path)
    assert isinstance(caught.value, PermissionError)
    assert (after.st_ino, after.st_mode, after.st_size) == (before.st_ino, before.st_mode, before.st_size)
    assert victim.read_bytes() == SECRET
    assert not victim.with_name("nowhere").exists()


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
def test_readers_do_without_a_bell_that_is_not_ours(
    ring_dir: Path, victim: Path, plant: Callable[[Path, Path], None]
) -> None:
    """A planted bell costs readers the wake-up, not the update."""
    with Writer("main", rank=0, ranks=1, wake=False) as writer, Reader("main") as reader:
        plant(ring_dir / "main.bell", victim)
        writer.publish(LoadSnapshot())
        assert reader.poll() == [0]
        assert not reader.wait(0.05)
        writer.publish(LoadSnapshot())

        assert reader.wait(30.0)
        assert victim.read_bytes() == SECRET
        remove(ring_dir / "main.bell")


def remove(path: Path) -> None:
    """Removes whatever was planted."""
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    else:
        path.unlink()


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701, 0o777, 0o500])
def test_a_directory_that_others_may_enter_is_refused(ring_dir: Path, mode: int) -> None:
    """The directory's mode is the fence around all files in it."""
    inner = ring_dir / "inner"
    inner.mkdir()
    inner.chmod(mode)

    for attempt in (lambda: Writer("main", 0, 1, directory=inner), lambda: Reader("main", directory=inner).read(0)):
        with pytest.raises(RingUntrusted, match=r"chmod 700"):
            attempt()
    inner.chmod(0o700)
    assert list(inner.iterdir()) == []


@pytest.mark.parametrize(
    "plant", [symlink, dangling, fifo, hard_link, unix_socket, loose], ids=lambda plant: plant.__name__
)
def test_a_directory_that_is_none_is_refused(ring_dir: Path, victim: Path, plant: Callable[[Path, Path], None]) -> None:
    """Also a link to a good directory: whoever may change the link may change where the ring is."""
    inner = ring_dir / "inner"
    plant(inner, victim)

    for attempt in (lambda: Writer("main", 0, 1, directory=inner), lambda: Reader("main", directory=inner).read(0)):
        with pytest.raises(RingUntrusted, match="not a directory"):
            attempt()
    assert victim.read_bytes() == SECRET


def test_a_linked_directory_is_refused(ring_dir: Path) -> None:
    """As above, for a link to a directory that would pass by itself."""
    good, link = ring_dir / "good", ring_dir / "link"
    good.mkdir(mode=0o700)
    link.symlink_to(good)

    with pytest.raises(RingUntrusted, match="link"):
        Writer("main", 0, 1, directory=link)


AS_USER = """
import os, sys
import snapring
uid, name = int(sys.argv[1]), sys.argv[2]
os.setgid(uid)
os.setuid(uid)
for attempt in (lambda: snapring.Reader(name).read(0), lambda: snapring.Writer(name, rank=0, ranks=1).close()):
    try:
        attempt()
        print("done")
    except Exception as error:
        print(type(error).__name__, isinstance(error, PermissionError))
"""


def test_another_user_gets_nothing(ring_dir: Path) -> None:
    """A process of another user can neither read nor write a ring, and learns why."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    with Writer("main", rank=0, ranks=1) as writer:
        writer.publish(LoadSnapshot())
        answers = run(python(AS_USER, "12345", "main")).splitlines()

    assert answers == ["RingUntrusted True", "RingUntrusted True"]


def test_a_directory_given_away_is_refused(ring_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root does not trust a user's directory: its owner could change what is in it."""
    if os.geteuid() != 0:
        pytest.skip("only root can give directories away")
    inner = ring_dir / "inner"
    inner.mkdir(mode=0o700)
    os.chown(inner, 12_345, 12_345)

    for attempt in (lambda: Writer("main", 0, 1, directory=inner), lambda: Reader("main", directory=inner).read(0)):
        with pytest.raises(RingUntrusted, match="belongs to uid 12345"):
            attempt()


def test_a_reader_maps_nothing_it_could_write(ring_dir: Path) -> None:
    """The kernel itself keeps a reader from changing the ring."""
    found = run(
        python("""
import snapring
reader = snapring.Reader("main")
with snapring.Writer("main", rank=0, ranks=2) as writer:
    writer.publish(snapring.LoadSnapshot())
    reader.read(0), reader.view(), reader.check(0)
    maps = [line.split() for line in open("/proc/self/maps") if "main.ring" in line]
    print(sorted({entry[1] for entry in maps}), sum(entry[1] == "rw-s" for entry in maps))
""")
    )

    assert found == "['r--s', 'rw-s'] 1\n"  # the one writable part is the writer's own slot


def test_use_leaves_no_descriptor_and_no_thread(ring_dir: Path) -> None:
    """Hundreds of rounds of opening, reading, waiting and closing leave the process as it was."""
    found = run(
        python("""
import os, time
from pathlib import Path
import snapring
def footprint():
    return len(os.listdir("/proc/self/fd")), sum("main." in line for line in open("/proc/self/maps"))
def use():
    with snapring.Writer("main", rank=0, ranks=2) as writer, snapring.Reader("main") as reader:
        writer.start_heartbeat(0.01)
        reader.fileno()
        writer.publish(snapring.LoadSnapshot())
        reader.poll(), reader.view(), reader.wait(0)
def settle():
    while any("snapring" in path.read_text() for path in Path("/proc/self/task").glob("*/comm")): time.sleep(0.01)
use()
settle()
before = footprint()
for _ in range(200): use()
settle()
print(footprint() == before, footprint(), before)
""")
    )

    assert found.startswith("True"), found


def test_too_few_descriptors_are_an_error(ring_dir: Path) -> None:
    """At the limit of open files opening raises OSError, and what is open goes on."""
    found = run(
        python("""
import os, resource, time
import snapring
writer, reader = snapring.Writer("main", rank=0, ranks=2), snapring.Reader("main")
writer.publish(snapring.LoadSnapshot(num_running_reqs=1))
reader.read(0)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
used = []
try:
    while True: used.append(os.open("/dev/null", os.O_RDONLY))
except OSError:
    pass
for attempt in (lambda: snapring.Writer("main", rank=1, ranks=2), lambda: snapring.Reader("main").read(0)):
    try:
        attempt()
        print("done")
    except OSError as error:
        print(error.errno)
time.sleep(1.1)
print(writer.publish(snapring.LoadSnapshot(num_running_reqs=2)), reader.read(0)["num_running_reqs"])
""")
    )

    assert found.split() == ["24", "24", "2", "2"]
