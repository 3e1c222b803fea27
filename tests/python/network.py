"""Hosts on a network of their own, whose links a test may cut: ``with network(3) as hosts: hosts[1].cut()``.

A host is a network namespace of :mod:`snapring.simulate.network`. No packet filter is needed: a cut takes a port of the
switch down, a silence takes a port that stays up off the switch, and a mute host has a wrong address for a peer.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from conftest import end
from snapring import SystemRefused
from snapring.simulate.network import Network
from support import run

CHILDREN = str(Path(__file__).with_name("network_children.py"))
NOWHERE = "02:00:00:00:00:fe"


class Child:
    """A process of ``network_children.py``: it does its work, and answers questions."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        """Talk to ``process``."""
        self.process = process

    def ask(self, question: str = "look") -> dict[str, Any]:
        """Its answer; AssertionError when it has ended."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(f"{question}\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # what it said before its end is read all the same
        line = self.process.stdout.readline()
        assert line, f"the child ended with {self.process.wait()}"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def end(self) -> None:
        """End it as a crash would."""
        end(self.process)


class Host:
    """One host; ``index`` from 0."""

    def __init__(self, net: Network, index: int, children: list[Child]) -> None:
        """Be host ``index`` of ``net``; what runs here is noted in ``children``."""
        self._net = net
        self._children = children
        self.index = index
        self.address = net.address(index)
        self.address6 = f"fd77::{index + 1:x}"
        net.ip(index, f"addr add {self.address6}/64 dev eth0 nodad")

    def run(self, command: Sequence[str]) -> str:
        """What a command printed on this host; AssertionError when it fails."""
        return run(self._net.command(self.index, command))

    def start(self, what: str, **options: Any) -> Child:  # noqa: ANN401  options of what is started
        """Start one of ``network_children.py`` on this host."""
        command = [sys.executable, "-P", "-W", "error", CHILDREN, what, json.dumps(options)]
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            self._net.command(self.index, command), stdin=pipe, stdout=pipe, text=True, start_new_session=True
        )
        child = Child(process)
        self._children.append(child)
        return child

    def cut(self) -> None:
        """Pull the cable: the host sees its link go."""
        self._net.ip(None, f"link set port{self.index} down")

    def silence(self) -> None:
        """Lose all that this host sends or should get, while its link is up: no end of a connection is told."""
        self._net.ip(None, f"link set port{self.index} nomaster")

    def mute(self, peer: "Host") -> None:
        """Lose all that this host sends to ``peer``, which is still heard: a half-open link."""
        for address in (peer.address, peer.address6):
            self._net.ip(self.index, f"neigh replace {address} lladdr {NOWHERE} dev eth0 nud permanent")

    def heal(self) -> None:
        """Undo all of these."""
        self._net.ip(self.index, "neigh flush dev eth0 nud permanent")
        self._net.ip(None, f"link set port{self.index} up", f"link set port{self.index} master switch")


@contextmanager
def network(count: int) -> Iterator[list[Host]]:
    """``count`` hosts; all of their processes, links and namespaces are gone afterwards. Skips where it cannot be."""
    if shutil.which("ip") is None:
        pytest.skip("no network to cut: install Debian's iproute2")
    try:
        net = Network(count)
    except SystemRefused as error:
        pytest.skip(str(error))
    children: list[Child] = []
    with net:
        try:
            yield [Host(net, index, children) for index in range(count)]
        finally:
            for child in children:
                child.end()
