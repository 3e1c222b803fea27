"""Who listens: with default options, nobody that another host could reach."""

import ipaddress
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from conftest import Spawn
from support import eventually

LISTENS = "0A"
"""State of a listening socket in /proc/net/tcp."""

RELAY = """
import snapring
endpoint = {endpoint!r}
with (
    snapring.Relay("far", endpoint, ranks=2, insecure=endpoint is not None) as relay,
    snapring.RemoteWriter(relay.endpoint.replace("0.0.0.0", "127.0.0.1"), 0, 2, insecure=True) as writer,
):
    writer.publish(snapring.LoadSnapshot())
    while not writer.is_connected:
        pass
    print("up", flush=True)
    input()
"""
DEMO = "import sys; from snapring.cli import main; sys.exit(main(['demo', '--headless', '--ranks', '2']))"


def tree(pid: int) -> Iterator[int]:
    """A process and all that it started."""
    yield pid
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield from tree(int(child))


def sockets(pid: int) -> Iterator[str]:
    """Inodes of the sockets that a process has open."""
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            found = re.fullmatch(r"socket:\[(\d+)\]", str(descriptor.readlink()))
            if found:
                yield found[1]


def address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The address in a line of /proc/net/tcp: words of 32 bits, in the machine's order."""
    words = [bytes.fromhex(text[at : at + 8])[::-1] for at in range(0, len(text), 8)]
    return ipaddress.ip_address(b"".join(words))


def listening(pid: int) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """Where a process and all that it started listen for TCP."""
    own = {inode for each in tree(pid) for inode in sockets(each)}
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == LISTENS and inode in own:
                found.append(address(local.partition(":")[0]))
    return found


@pytest.mark.usefixtures("ring_dir")
@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [(None, []), ("tcp://127.0.0.1:0", ["127.0.0.1"]), ("tcp://[::1]:0", ["::1"]), ("tcp://0.0.0.0:0", ["0.0.0.0"])],  # noqa: S104  what this test looks for
)
def test_a_relay_listens_where_it_was_told(spawn: Spawn, endpoint: str | None, expected: list[str]) -> None:
    """By default no port is open at all; a port that was asked for is open at its address only."""
    child = spawn(RELAY.format(endpoint=endpoint))
    assert child.stdout is not None
    assert child.stdout.readline() == "up\n"

    assert [str(each) for each in listening(child.pid)] == expected


def test_the_demo_opens_no_port_to_others(ring_dir: Path, spawn: Spawn) -> None:
    """All of a demo's processes keep to this machine."""
    child = spawn(DEMO)
    eventually(lambda: len(list(tree(child.pid))) > 2 and (ring_dir / "demo.ring").exists())

    assert all(each.is_loopback for each in listening(child.pid))
