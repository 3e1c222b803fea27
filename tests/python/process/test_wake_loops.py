"""Waiting for change in an event loop, asyncio's and uvloop's."""

import asyncio
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import uvloop

from contract.model import FLOOD, Numbered, Spawn, line, patient, tell
from snapring import LayoutMismatch, Reader, Writer
from support import eventually


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_changes_come_to_an_event_loop(
    ring_dir: Path, spawn: Spawn, run: Callable[..., int], rng: random.Random
) -> None:
    """``changes()`` yields the changed ranks until the last publish, under either loop, and the loop stays free."""
    flood = spawn(FLOOD, "20000", str(rng.getrandbits(32)))
    assert line(flood) == "up"
    reader = patient()

    async def main() -> int:
        ticks, seen = 0, 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.001)
                ticks += 1

        ticker = asyncio.create_task(tick())
        tell(flood)
        async for ranks in reader.changes():
            assert ranks == [0]
            snap = reader.read(0)
            assert snap is not None
            seen = snap.version
            if seen == 20_000:
                break
        ticker.cancel()
        return ticks

    assert run(main()) > 0


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_a_loop_may_add_the_descriptor_itself(ring_dir: Path, run: Callable[..., object]) -> None:
    """``add_reader(reader.fileno(), ...)`` is enough; after a poll the callback is silent until the next change."""

    async def main() -> None:
        with Writer("main", rank=0, ranks=2, schema=Numbered) as writer, patient() as reader:
            found: asyncio.Queue[list[int]] = asyncio.Queue()
            loop = asyncio.get_running_loop()
            loop.add_reader(reader.fileno(), lambda: found.put_nowait(reader.poll()))
            for number in range(20):
                writer.publish(Numbered(number))
                while not (ranks := await asyncio.wait_for(found.get(), 30)):
                    pass
                assert ranks == [0]
            loop.remove_reader(reader.fileno())

    run(main())


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_several_may_follow_one_reader(ring_dir: Path, run: Callable[..., object]) -> None:
    """Each ``changes()`` has a cursor of its own: none eats what another, or ``poll``, should see."""

    async def main() -> None:
        with Writer("main", rank=1, ranks=2, schema=Numbered) as writer, patient() as reader:
            writer.publish(Numbered(0))
            first, second = reader.changes(), reader.changes()
            for number in range(5):
                assert await asyncio.wait_for(anext(first), 30) == [1]
                assert await asyncio.wait_for(anext(second), 30) == [1]
                assert reader.poll() == [1]
                writer.publish(Numbered(number))
            await first.aclose()
            await second.aclose()

    run(main())


def test_changes_are_those_of_this_reader(ring_dir: Path, tmp_path: Path) -> None:
    """The cursor of ``changes()`` reads as its reader does: its directory, on a disk too, its codec and its job."""
    disk = tmp_path / "disk"
    disk.mkdir(mode=0o700)

    async def first(job: str) -> list[int]:
        reader = Reader("main", schema=dict, codec="msgpack", directory=disk, allow_disk=True, job=job)
        changes = reader.changes()
        try:
            return await asyncio.wait_for(anext(changes), 30)
        finally:
            await changes.aclose()

    with Writer("main", 1, 2, schema=dict, codec="msgpack", directory=disk, allow_disk=True, job="mine") as writer:
        writer.publish({"number": 1})

        assert asyncio.run(first("mine")) == [1]
        with pytest.raises(LayoutMismatch, match="job"):
            asyncio.run(first("theirs"))


def test_a_cancelled_follower_leaves_nothing(ring_dir: Path) -> None:
    """A task that is cancelled in ``changes()`` takes its descriptor and its thread with it."""

    async def main() -> None:
        async def follower() -> None:
            async for _ in patient().changes():
                pass

        for _ in range(20):
            task = asyncio.create_task(follower())
            await asyncio.sleep(0.002)
            task.cancel()
            await asyncio.wait([task])

    asyncio.run(main())
    eventually(lambda: snapring_threads() == 0)


def snapring_threads() -> int:
    """Threads of this process that snapring started."""
    names = list(Path("/proc/self/task").glob("*/comm"))
    return sum(name.read_text().startswith("snapring") for name in names if name.exists())
