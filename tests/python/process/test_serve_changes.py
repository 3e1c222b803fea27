import asyncio
import json
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from conftest import Spawn
from served import Events, Reply, Site, served
from snapring import LoadSnapshot, Reader, Writer, serve
from snapring.loads import Loads
from snapring.serve import changes as following
from snapring.serve.changes import Changes
from snapring.serve.stream import events
from support import eventually

FOREVER_S = 3600.0

CHILD = """
import sys
import snapring
writer = snapring.Writer("live", rank=1, ranks=2)
writer.publish(snapring.LoadSnapshot(num_running_reqs=7))
print("up", flush=True)
for line in sys.stdin:
    writer.publish(snapring.LoadSnapshot(num_running_reqs=int(line)))
"""


@pytest.fixture
def writer(ring_dir: Path) -> Iterator[Writer[LoadSnapshot]]:
    """Rank 0 of ring ``live``, which has published."""
    with Writer("live", rank=0, ranks=2) as writer:
        writer.publish(LoadSnapshot(num_running_reqs=1))
        yield writer


@pytest.fixture
def application(writer: Writer[LoadSnapshot]) -> Iterator[serve.LoadsApp]:
    """The application over that ring."""
    with Reader("live", max_age=FOREVER_S) as reader:
        yield serve.app(reader)


@pytest.fixture
def site(application: serve.LoadsApp) -> Iterator[Site]:
    """Its server."""
    with served(application) as site:
        yield site


def running(document: Any) -> dict[int, int]:  # noqa: ANN401  any JSON
    """Running requests by rank."""
    return {rank["dp_rank"]: rank["num_running_reqs"] for rank in document["loads"]}


def await_running(stream: Events, wanted: dict[int, int]) -> Any:  # noqa: ANN401  any JSON
    """The first event of loads that says so; the server's end, or pytest's, ends a hang."""
    while running(document := stream.loads()) != wanted:
        pass
    return document


def test_full_first_then_what_changed(site: Site, writer: Writer[LoadSnapshot], spawn: Spawn) -> None:
    """A listener gets all ranks, then only those that changed: one that publishes anew, and one that comes later."""
    with closing(Events(site)) as stream:
        first = stream.loads()
        child = spawn(CHILD)
        joined = await_running(stream, {1: 7})
        writer.publish(LoadSnapshot(num_running_reqs=2))
        changed = await_running(stream, {0: 2})
        child.kill()

    assert stream.type.startswith("text/event-stream")
    assert (first["full"], first["ranks"], running(first)) == (True, 2, {0: 1})
    assert (joined["full"], changed["full"]) == (False, False)


def test_a_change_of_state_alone_is_an_event(site: Site, spawn: Spawn) -> None:
    """A rank that dies is told without a publish of anybody, with the data that it left."""
    child = spawn(CHILD)
    assert child.stdout is not None
    child.stdout.readline()
    with closing(Events(site)) as stream:
        states = {rank["dp_rank"]: rank["state"] for rank in stream.loads()["loads"]}
        child.kill()
        while (rank := stream.loads()["loads"][-1])["state"] != "DEAD":
            pass

    assert states == {0: "LIVE", 1: "LIVE"}
    assert (rank["dp_rank"], rank["num_running_reqs"], rank["version"]) == (1, 7, 1)


def test_coming_back_gives_the_full_state(site: Site, writer: Writer[LoadSnapshot]) -> None:
    """Who was away gets everything anew, with the id that /v1/loads has as its tag."""
    with closing(Events(site)) as stream:
        first = stream.next()
    writer.publish(LoadSnapshot(num_running_reqs=5))

    with closing(Events(site)) as stream:
        again = stream.next()

    document = json.loads(again["data"])
    assert (document["full"], running(document)) == (True, {0: 5})
    assert again["id"] != first["id"]
    assert site.get("/v1/loads").headers["etag"] == f'W/"{again["id"]}"'


def test_a_ring_that_goes_takes_its_ranks_along(ring_dir: Path) -> None:
    """When the last writer closes, ranks are told as gone, and the next ring's ranks as they come."""
    with (
        Reader("live", max_age=FOREVER_S) as reader,
        served(serve.app(reader)) as site,
        closing(Events(site)) as stream,
    ):
        empty = stream.loads()
        with Writer("live", rank=0, ranks=2) as writer:
            writer.publish(LoadSnapshot(num_running_reqs=1))
            await_running(stream, {0: 1})
        while (left := stream.loads())["gone"] != [0]:
            pass

    assert (empty["ranks"], empty["loads"]) == (0, [])
    assert (left["ranks"], left["loads"]) == (0, [])


def test_sections_of_a_stream(site: Site) -> None:
    """``include`` is as for /v1/loads: a typo is 400, a choice holds for every event; what a stream lacks is 400."""
    assert site.get("/v1/loads/stream?include=memry").status == 400
    for other in ("dp_rank=0", "max_age=1", "wait=1", "format=prometheus"):
        assert site.get(f"/v1/loads/stream?{other}").status == 400
    with closing(Events(site, "/v1/loads/stream?include=core")) as stream:
        assert "queues" not in stream.loads()["loads"][0]


def test_one_encode_for_all_listeners(site: Site, application: serve.LoadsApp, writer: Writer[LoadSnapshot]) -> None:
    """Twenty listeners get each change, and it was encoded once, however many they are."""
    streams = [Events(site) for _ in range(20)]
    try:
        for stream in streams:
            stream.loads()
        ticks, before = application.changes.tick, application.changes.encodes
        writer.publish(LoadSnapshot(num_running_reqs=9))
        for stream in streams:
            await_running(stream, {0: 9})
    finally:
        for stream in streams:
            stream.close()

    # A tick that began before may have been encoded after.
    assert 1 <= application.changes.encodes - before <= application.changes.tick - ticks + 1


def test_changes_are_merged(writer: Writer[LoadSnapshot]) -> None:
    """Of publishes that come faster than the rate a listener gets few events: no two ticks are closer than that."""
    period_s = 0.2

    async def run() -> tuple[int, int, float]:
        with Reader("live", max_age=FOREVER_S) as reader:
            changes = Changes(Loads(reader), rate=1 / period_s)
            published = 1
            async with changes.followed():
                began_s = time.monotonic()
                while changes.tick < 5:
                    published += 1
                    writer.publish(LoadSnapshot(num_running_reqs=published))
                    await asyncio.sleep(0.001)
                return published, changes.tick, time.monotonic() - began_s

    published, ticks, took_s = asyncio.run(run())

    assert ticks <= took_s / period_s + 1
    assert published > 10 * ticks


def test_nobody_listens_nobody_follows(site: Site, application: serve.LoadsApp) -> None:
    """The ring is followed from the first listener to the last, and then no more: an idle server has no task."""
    assert application.changes._task is None
    with closing(Events(site)) as stream:
        stream.loads()
        assert application.changes._task is not None

    # The server learns at its next word to the client that nobody is there.
    with Writer("live", rank=1, ranks=2) as other:
        eventually(lambda: other.publish(LoadSnapshot()) and application.changes._task is None)


def listen(writer: Writer[LoadSnapshot], changes: Changes, skipped: int) -> list[bytes]:
    """What a listener gets that sleeps over ``skipped`` ticks after its first event."""

    async def run() -> list[bytes]:
        async with changes.followed():
            stream = events(changes, frozenset())
            got = [await anext(stream)]
            for step in range(skipped):
                seen = changes.tick
                writer.publish(LoadSnapshot(num_running_reqs=100 + step))
                while changes.tick == seen:
                    await changes.news.wait()
            got.append(await anext(stream))
            await stream.aclose()
            return got

    return asyncio.run(run())


@pytest.mark.parametrize(("skipped", "full"), [(1, b'"full":false'), (3, b'"full":true')])
def test_who_misses_a_tick_gets_everything(writer: Writer[LoadSnapshot], skipped: int, full: bytes) -> None:
    """A listener that is too slow for one tick is not told of the next alone, which would lack what it missed."""
    with Reader("live", max_age=FOREVER_S) as reader:
        changes = Changes(Loads(reader), rate=1000.0)

        first, second = listen(writer, changes, skipped)

    assert b'"full":true' in first
    assert full in second
    assert b'"num_running_reqs":%d' % (99 + skipped) in second


def test_silence_has_a_heartbeat(writer: Writer[LoadSnapshot], monkeypatch: pytest.MonkeyPatch) -> None:
    """When nothing changes for a while a comment is sent, so that nothing in between takes the connection for dead."""
    monkeypatch.setattr(following, "HEARTBEAT_S", 0.01)

    async def run() -> bytes:
        with Reader("live", max_age=FOREVER_S) as reader:
            stream = events(Changes(Loads(reader)), frozenset())
            while (got := await anext(stream)).find(b"data:") >= 0:
                pass
            await stream.aclose()
            return got

    assert asyncio.run(run()) == b": heartbeat\n\n"


def test_a_fault_of_ours_ends_no_stream(writer: Writer[LoadSnapshot], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever goes wrong while the ring is followed, listeners are told at the next try, and the ring is followed."""
    monkeypatch.setattr(following, "RETRY_S", 0.01)

    async def run() -> list[bytes]:
        with Reader("live", max_age=FOREVER_S) as reader:
            changes = Changes(Loads(reader))
            stream = events(changes, frozenset())
            got = [await anext(stream)]
            turn = changes._turn
            monkeypatch.setattr(changes, "_turn", broken_once(turn))
            writer.publish(LoadSnapshot(num_running_reqs=77))
            while b'"num_running_reqs":77' not in got[-1]:
                got.append(await anext(stream))
            await stream.aclose()
            return got

    assert len(asyncio.run(run())) > 1


def broken_once(function: Any) -> Any:  # noqa: ANN401  any function
    """The function, but for its first call."""
    calls = []

    def call(*arguments: Any) -> None:  # noqa: ANN401  those of the function
        calls.append(arguments)
        if len(calls) == 1:
            raise RuntimeError("broken")
        function(*arguments)

    return call


def test_an_unreadable_ring_is_an_event(ring_dir: Path) -> None:
    """A listener is told that the ring cannot be read, and why, and the stream goes on."""
    with Writer("free", rank=0, ranks=1, schema=bytes) as writer, Reader("free", schema=None) as reader:
        writer.publish(b"x")
        with served(serve.app(reader)) as site, closing(Events(site)) as stream:
            event = stream.next()

    assert event["event"] == "unreadable"
    assert "records" in event["data"]


def test_a_ring_that_can_be_read_again(
    site: Site, ring_dir: Path, writer: Writer[LoadSnapshot], tmp_path: Path
) -> None:
    """When what stood in the way is gone, listeners are told everything, though nothing in the ring has changed."""
    with closing(Events(site)) as stream:
        stream.loads()
        (ring_dir / "live.ring").rename(ring_dir / "aside")
        (ring_dir / "live.ring").touch(mode=0o600)
        (ring_dir / "live.ring").chmod(0o666)
        while stream.next()["event"] != "unreadable":
            pass

        (ring_dir / "aside").replace(ring_dir / "live.ring")
        while (event := stream.next())["event"] != "loads":
            pass

    document = json.loads(event["data"])
    assert (document["full"], running(document)) == (True, {0: 1})


def test_an_unchanged_tag_is_304(site: Site, writer: Writer[LoadSnapshot]) -> None:
    """The tag stands for what is told, ages aside: 304 until a rank changes, with and without W/, and in lists."""
    tag = site.get("/v1/loads").headers["etag"]

    for known in (tag, tag.removeprefix("W/"), f'"other", {tag}', "*"):
        reply = site.get("/v1/loads", if_none_match=known)
        assert (reply.status, reply.body, reply.headers["etag"]) == (304, b"", tag)
    writer.publish(LoadSnapshot(num_running_reqs=2))
    assert site.get("/v1/loads", if_none_match=tag).status == 200


def ask(site: Site, path: str, tag: str) -> tuple[threading.Thread, list[Reply]]:
    """A request in a thread of its own, and where its reply will stand."""
    replies: list[Reply] = []
    thread = threading.Thread(target=lambda: replies.append(site.get(path, if_none_match=tag)))
    thread.start()
    return thread, replies


def test_long_poll_ends_with_the_news(site: Site, application: serve.LoadsApp, writer: Writer[LoadSnapshot]) -> None:
    """``wait`` with a tag answers when something changed, not before."""
    tag = site.get("/v1/loads").headers["etag"]
    thread, replies = ask(site, "/v1/loads?wait=60", tag)
    eventually(lambda: application.changes._task is not None)
    assert not replies

    writer.publish(LoadSnapshot(num_running_reqs=3))
    thread.join()

    assert (replies[0].status, running(replies[0].json)) == (200, {0: 3})


def test_long_poll_sees_a_death(site: Site, application: serve.LoadsApp, spawn: Spawn) -> None:
    """A change of state alone ends the wait too."""
    child = spawn(CHILD)
    assert child.stdout is not None
    child.stdout.readline()
    tag = site.get("/v1/loads").headers["etag"]
    thread, replies = ask(site, "/v1/loads?wait=60", tag)
    eventually(lambda: application.changes._task is not None)

    child.kill()
    thread.join()

    assert [rank["state"] for rank in replies[0].json["loads"]] == ["LIVE", "DEAD"]


def test_long_poll_ends_without_news(site: Site) -> None:
    """When the time is up the answer is 304; without a tag, or with another, nobody waits."""
    tag = site.get("/v1/loads").headers["etag"]

    assert site.get("/v1/loads?wait=0.05", if_none_match=tag).status == 304
    assert site.get("/v1/loads?wait=60", if_none_match='"0"').status == 200
    assert site.get("/v1/loads?wait=60").status == 200


def test_hanging_up_ends_the_wait(site: Site, application: serve.LoadsApp) -> None:
    """A client that goes away leaves nothing behind that waits for it."""
    tag = site.get("/v1/loads").headers["etag"]
    with closing(site.connection()) as connection:
        connection.request("GET", "/v1/loads?wait=60", headers={"If-None-Match": tag})
        eventually(lambda: application.changes._task is not None)

    eventually(lambda: application.changes._task is None)
