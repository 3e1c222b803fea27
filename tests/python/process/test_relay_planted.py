"""What somebody else put where a relay keeps its files is refused, and neither used nor touched."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

import snapring
from snapring import RingUntrusted

STRANGER = 12345
"""A user id that is not ours."""


def give_away(path: Path) -> None:
    """Makes the file somebody else's."""
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away: run the tests as root, in a container")
    os.chown(path, STRANGER, -1, follow_symlinks=False)


def link(path: Path, victim: Path) -> None:
    """A link to a file that matters."""
    path.symlink_to(victim)


def dangling(path: Path, victim: Path) -> None:
    """A link by which a file would be made elsewhere."""
    path.symlink_to(victim.with_name("made"))


def hard_link(path: Path, victim: Path) -> None:
    """A second name of a file that matters."""
    path.hardlink_to(victim)


def fifo(path: Path, victim: Path) -> None:
    """A pipe, whose opening would wait for ever."""
    os.mkfifo(path, 0o600)


def folder(path: Path, victim: Path) -> None:
    """A directory."""
    path.mkdir(0o700)


def loose(path: Path, victim: Path) -> None:
    """A file that others may write."""
    path.touch()
    path.chmod(0o666)


def foreign(path: Path, victim: Path) -> None:
    """A file of another user."""
    path.touch(0o600)
    give_away(path)


def regular(path: Path, victim: Path) -> None:
    """A file of our own that matters."""
    path.write_text("precious")


def foreign_socket(path: Path, victim: Path) -> None:
    """A socket of another user, who would like our ranks to connect to it."""
    os.mknod(path, 0o140600)
    give_away(path)


Plant = Callable[[Path, Path], None]


def is_refused(ring_dir: Path, name: str, plant: Plant) -> None:
    """With that in the place of ``name``, a relay raises at once and touches neither it nor the victim."""
    victim = ring_dir / "victim"
    victim.write_text("precious")
    victim.chmod(0o600)
    place = ring_dir / name
    plant(place, victim)
    before = place.lstat()

    with pytest.raises(RingUntrusted, match=name):
        snapring.Relay("far", ranks=1)

    after = place.lstat()
    assert (after.st_ino, after.st_mode, after.st_size) == (before.st_ino, before.st_mode, before.st_size)
    assert victim.read_text() == "precious"
    assert not (ring_dir / "made").exists()


@pytest.mark.parametrize("plant", [link, dangling, hard_link, fifo, folder, loose, foreign])
@pytest.mark.parametrize("name", ["far.owner", "far.sock.lock"])
def test_planted_locks_are_refused(ring_dir: Path, name: str, plant: Plant) -> None:
    """The files of the two locks are regular, own, private and of one name, or there is no relay."""
    is_refused(ring_dir, name, plant)


@pytest.mark.parametrize("plant", [link, dangling, hard_link, fifo, folder, regular, foreign_socket])
def test_planted_sockets_are_refused(ring_dir: Path, plant: Plant) -> None:
    """Nothing but an own left-over socket is removed to make room for a relay's."""
    is_refused(ring_dir, "far.sock", plant)


@pytest.mark.usefixtures("ring_dir")
def test_a_left_over_socket_is_replaced(ring_dir: Path) -> None:
    """A socket that a killed owner left is no hindrance."""
    os.mknod(ring_dir / "far.sock", 0o140600)

    with snapring.Relay("far", ranks=1) as relay:
        assert relay.is_owner


@pytest.mark.usefixtures("ring_dir")
@pytest.mark.parametrize("spoil", [lambda folder: folder.chmod(0o755), give_away], ids=["loose", "foreign"])
def test_sockets_live_in_private_directories(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    """A socket in a directory that others may enter, or that is somebody else's, is not bound."""
    folder = tmp_path / "open"
    folder.mkdir(0o700)
    spoil(folder)

    with pytest.raises(RingUntrusted, match="open"):
        snapring.Relay("far", f"ipc://{folder}/socket", ranks=1)

    assert list(folder.iterdir()) == []
