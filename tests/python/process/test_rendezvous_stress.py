"""Many syncs of many members against real stores: files and a real etcd, with late, dead and slow members.

The rules are proven over virtual time elsewhere; this is the same promise where kernels, sockets and schedulers have a
say. ``SNAPRING_SYNCS`` sets how many syncs there are; the latest end beyond a deadline is printed, not judged.
"""

import os
import random
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from etcd_server import etcd
from snapring.errors import RendezvousFailed, RendezvousTimeout
from snapring.rendezvous import EtcdGroup, Group, LocalGroup, sync_from_leader

SYNCS = int(os.environ.get("SNAPRING_SYNCS") or 24)
AT_ONCE = 4
DOOMED_S = 2.0
SAFE_S = 120.0
LISTED = 12  # messages name as many ranks one by one

Make = Callable[[int, int, str], Group]


class End(NamedTuple):
    """How a member ended: its value or its error, and by how many seconds it overran its deadline."""

    value: object
    error: RendezvousFailed | None
    over: float


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """URL of an etcd for all tests here."""
    with etcd() as url:
        yield url


@pytest.fixture(params=["local", "etcd"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """``make(rank, size, job)``: a group over a real store."""
    if request.param == "local":
        return lambda rank, size, job: LocalGroup(tmp_path / "store", rank, size, job=job)
    url = request.getfixturevalue("server")
    return lambda rank, size, job: EtcdGroup(url, f"/{tmp_path.name}", rank, size, job=job)


def member(group: Group, timeout: float, late: float) -> End:
    """One rank: comes late, offers its rank, tells how it ended."""
    time.sleep(late)
    began, value, fault = time.monotonic(), None, None
    try:
        value = sync_from_leader(group.rank, group, timeout)
    except RendezvousFailed as error:
        fault = error
    return End(value, fault, time.monotonic() - began - timeout)


def one_sync(make: Make, rng: random.Random, job: str) -> tuple[list[End], set[int]]:
    """A sync of 2 to 64 members, some of them absent in one of two; returns how they ended and who was absent."""
    size = int(2 ** rng.uniform(1, 6.01))
    absent = set() if rng.random() < 0.5 else {rng.choice([0, rng.randrange(size)])}
    timeout = DOOMED_S if absent else SAFE_S
    with ThreadPoolExecutor(size) as pool:
        ends = [
            pool.submit(member, make(rank, size, job), timeout, rng.choice([0.0, rng.uniform(0.0, 0.3)]))
            for rank in range(size)
            if rank not in absent
        ]
    return [end.result() for end in ends], absent


def test_many_syncs(make: Make, rng: random.Random, capsys: pytest.CaptureFixture[str]) -> None:
    """Complete groups agree on the leader's value, incomplete ones end by themselves, with who and where."""
    seeds = [rng.getrandbits(64) for _ in range(SYNCS)]

    with ThreadPoolExecutor(AT_ONCE) as pool:
        syncs = list(pool.map(lambda seed: one_sync(make, random.Random(seed), f"{seed:x}"), seeds))

    for ends, absent in syncs:
        if not absent:
            assert {end.value for end in ends} == {0}, [str(end.error) for end in ends if end.error]
            continue
        assert all(end.error is not None for end in ends)
        late = [str(end.error) for end in ends if isinstance(end.error, RendezvousTimeout)]
        assert late, "nobody waited for the deadline"
        assert all(make(0, 2, "job").describe().partition(",")[0] in text for text in late)
        assert all("last error: " in text for text in late)
        if len(ends) < LISTED:
            assert all(any(re.search(rf"ranks? (\d+, )*{rank}\b", text) for text in late) for rank in absent), late
    members = sum(len(ends) for ends, _ in syncs)
    overrun = max(end.over for ends, _ in syncs for end in ends)
    with capsys.disabled():
        print(f"\n{SYNCS} syncs, {members} members, {sum(bool(absent) for _, absent in syncs)} incomplete;", end=" ")
        print(f"latest end {overrun:+.3f} s from its deadline")
