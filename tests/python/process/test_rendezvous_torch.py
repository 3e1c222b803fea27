"""Torch's store as a group: real ranks of a real process group, by Debian's python3-torch."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

import snapring
from conftest import Spawn
from support import run

# Debian's torch is for Debian's Python; the native module under test must be built for the same version.
DEBIAN = "/usr/bin/python3"
DEBIANS_VERSION = (3, 11)
for_debians_python = pytest.mark.skipif(
    sys.version_info[:2] != DEBIANS_VERSION, reason="Debian's torch is for CPython 3.11: run these tests with that"
)

GLOO = """
import sys, logging
import torch.distributed as dist
from snapring import RendezvousFailed
from snapring.rendezvous import *
rank, size, port, mode = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
if mode == "uninitialised":
    try:
        TorchGroup()
    except RendezvousFailed as error:
        print(error)
    sys.exit()
store = dist.TCPStore("127.0.0.1", port, size, rank == 0, wait_for_workers=False)
print(store.port, flush=True)
dist.init_process_group("gloo", store=store, rank=rank, world_size=size)
group = TorchGroup(job="launch")
print("joined", flush=True)
if (mode, rank) in {("missing", 1), ("killed", 0)}:
    print("silent", flush=True)
    sys.stdin.read()
try:
    print("value", sync_from_leader({"port": 40000 + rank}, group, 60.0 if mode == "sync" else 4.0), flush=True)
    with register({"port": rank}, group, ttl=5.0):
        while not (found := rows(group)).ready:
            pass
        print("rows", sorted(found), flush=True)
        sync_from_leader(None, group, 60.0, name="end")
except RendezvousFailed as error:
    print(type(error).__name__, error, flush=True)
sys.stdin.read()
"""


def line(child: "subprocess.Popen[str]") -> str:
    """The next line that a child prints."""
    assert child.stdout is not None
    return child.stdout.readline().strip()


@pytest.fixture(scope="module")
def torch_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A path for Debian's Python with our package and msgspec, and nothing else: its torch wants its own numpy."""
    if subprocess.run([DEBIAN, "-c", "import torch"], capture_output=True, check=False).returncode:
        pytest.skip("no torch for Debian's Python: apt-get install --no-install-recommends python3-torch")
    folder = tmp_path_factory.mktemp("torch")
    for module in (snapring, msgspec):
        (folder / module.__name__).symlink_to(Path(str(module.__file__)).parent)
    return str(folder)


@pytest.fixture
def gloo(
    spawn: Spawn, torch_path: str, monkeypatch: pytest.MonkeyPatch
) -> Callable[[int, str], list["subprocess.Popen[str]"]]:
    """``gloo(size, mode)`` starts that many ranks of one process group; returns the processes."""
    monkeypatch.setenv("PYTHONPATH", torch_path)
    monkeypatch.setattr(sys, "executable", DEBIAN)

    def start(size: int, mode: str) -> list["subprocess.Popen[str]"]:
        leader = spawn(GLOO, "0", str(size), "0", mode)
        port = line(leader)
        others = [spawn(GLOO, str(rank), str(size), port, mode) for rank in range(1, size)]
        assert [line(child) for child in others] == [port] * (size - 1)
        assert [line(child) for child in (leader, *others)] == ["joined"] * size
        return [leader, *others]

    return start


@for_debians_python
def test_gloo_ranks_sync_and_register(gloo: Callable[[int, str], list["subprocess.Popen[str]"]]) -> None:
    """Real ranks of torch agree on rank 0's value and see each other's rows, by the group's store alone."""
    ranks = gloo(3, "sync")

    assert [line(child) for child in ranks] == ["value {'port': 40000}"] * 3
    assert [line(child) for child in ranks] == ["rows [0, 1, 2]"] * 3


@for_debians_python
def test_gloo_rank_that_never_calls(gloo: Callable[[int, str], list["subprocess.Popen[str]"]]) -> None:
    """A rank of the process group that never syncs hangs nobody: it is named, with the store's address."""
    leader, silent, follower = gloo(3, "missing")

    assert line(silent) == "silent"
    said = line(leader)
    assert said.startswith("RendezvousTimeout rank 0 of job 'launch'")
    assert "torch TCPStore 127.0.0.1:" in said
    assert re.search(r"ranks? 1\b.* did not answer", said)
    assert line(follower).startswith("Rendezvous")


@for_debians_python
def test_gloo_leader_killed(gloo: Callable[[int, str], list["subprocess.Popen[str]"]]) -> None:
    """With rank 0 the store dies too: the others end by themselves and name the address and the last error."""
    leader, follower = gloo(2, "killed")
    assert line(leader) == "silent"

    leader.kill()

    said = line(follower)
    assert said.startswith("RendezvousTimeout rank 1 of job 'launch' waited")
    assert "torch TCPStore 127.0.0.1:" in said
    assert "is its process, rank 0's, alive?" in said


@for_debians_python
def test_process_group_not_initialised(torch_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a process group the error comes at once and says what to call."""
    monkeypatch.setenv("PYTHONPATH", torch_path)

    said = run([DEBIAN, "-c", GLOO, "0", "1", "0", "uninitialised"])

    assert said.strip() == "torch.distributed is not initialised; call init_process_group(...) first"
