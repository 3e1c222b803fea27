"""A real etcd on loopback, for tests that import this by name; ended and removed with the test session's module."""

import contextlib
import http.client
import random
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

HINT = "no etcd on the path: apt-get install --no-install-recommends etcd-server"


class Etcd(str):
    """URL of a running server, and its process id."""

    __slots__ = ("pid",)
    pid: int


def free_ports(count: int) -> list[int]:
    """Ports of loopback that were free a moment ago, none of those that the kernel gives to whoever asks for any."""
    first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    candidates = [*range(10_000, first), *range(last + 1, 65_536)]
    ports: list[int] = []
    while len(ports) < count:
        port = random.SystemRandom().choice(candidates)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            ports.append(port)
    return ports


def answers(port: int) -> bool:
    """Whether the server says that it is healthy."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
    try:
        connection.request("GET", "/health")
        return b'"true"' in connection.getresponse().read()
    except OSError:
        return False
    finally:
        connection.close()


def start(folder: Path, client: int, peer: int) -> "subprocess.Popen[bytes]":
    """One server of a cluster of one, its data in ``folder``, so that it can be started there again."""
    urls = {"client": f"http://127.0.0.1:{client}", "peer": f"http://127.0.0.1:{peer}"}
    command = [
        "etcd",
        f"--data-dir={folder / 'data'}",
        f"--listen-client-urls={urls['client']}",
        f"--advertise-client-urls={urls['client']}",
        f"--listen-peer-urls={urls['peer']}",
        f"--initial-advertise-peer-urls={urls['peer']}",
        f"--initial-cluster=default={urls['peer']}",
        "--log-level=error",
    ]
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)


def end(server: "subprocess.Popen[bytes]") -> None:
    """Kills it, stopped or not, and waits."""
    server.kill()
    server.wait()


@contextmanager
def etcd() -> Iterator[Etcd]:
    """URL of a fresh server; skips where there is no etcd. Its data is in memory, so that no disk slows it down."""
    if shutil.which("etcd") is None:
        pytest.skip(HINT)
    folder = Path(tempfile.mkdtemp(prefix="snapring-etcd-", dir="/dev/shm"))
    try:
        for _ in range(3):  # a port may be taken between looking and binding
            client, peer = free_ports(2)
            server = start(folder, client, peer)
            try:
                if healthy(server, client):
                    url = Etcd(f"http://127.0.0.1:{client}")
                    url.pid = server.pid
                    yield url
                    return
            finally:
                end(server)
            shutil.rmtree(folder / "data", ignore_errors=True)
        pytest.fail(f"etcd does not start:\n{(folder / 'log').read_text()}")
    finally:
        shutil.rmtree(folder)


def healthy(server: "subprocess.Popen[bytes]", port: int, deadline: float = 60.0) -> bool:
    """Whether the server came up; False when it ended instead."""
    limit = time.monotonic() + deadline
    while not answers(port):
        if server.poll() is not None or time.monotonic() > limit:
            return False
        time.sleep(0.02)
    return True
