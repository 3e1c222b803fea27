"""The past of ranks over HTTP: columns of numbers out of real rings."""

import asyncio
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import msgspec
import pytest

from asgi_server import unreadable
from served import Reply, Site, served
from snapring import LoadSnapshot, Reader, Writer, serve
from snapring.load import QueuesSection
from snapring.loads import Loads
from snapring.serve import history
from support import eventually

PATH = "/v1/loads/history"


class Plain(msgspec.Struct, frozen=True):
    """A record that is no load: no time of publish, and fields of every kind."""

    depth: int = 0
    ready: bool | None = None
    ratio: float | None = None
    kinds: Annotated[list[int], msgspec.Meta(max_length=4)] | None = None


@pytest.fixture
def writers(ring_dir: Path) -> Iterator[list[Writer[LoadSnapshot]]]:
    """Ranks 0 and 2 of three of ring ``main``; rank 0 has published thrice."""
    with ExitStack() as stack:
        writers = [stack.enter_context(Writer("main", rank, 3, cells=16)) for rank in (0, 2)]
        for count in (1, 2, 3):
            writers[0].publish(
                LoadSnapshot(num_running_reqs=count, num_total_tokens=10 * count, timestamp=float(count))
            )
        yield writers


@pytest.fixture
def site(writers: list[Writer[LoadSnapshot]]) -> Iterator[Site]:
    """Its server."""
    with Reader("main") as reader, served(serve.app(reader)) as site:
        yield site


def message(reply: Reply) -> str:
    """What an error says."""
    text: str = reply.json["error"]["message"]
    return text


def test_columns_oldest_first(site: Site) -> None:
    """By default a rank has the fields that a dispatcher wants; one that has not published is not there."""
    reply = site.get(PATH)

    assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
    assert reply.headers["cache-control"] == "no-store"
    (rank,) = reply.json["ranks"]
    assert rank == {
        "dp_rank": 0,
        "timestamp": rank["timestamp"],
        "num_running_reqs": [1, 2, 3],
        "num_waiting_reqs": [0, 0, 0],
        "num_total_tokens": [10, 20, 30],
        "gen_throughput": [None, None, None],
    }
    assert rank["timestamp"] == sorted(rank["timestamp"])
    assert len(rank["timestamp"]) == 3


def test_the_last_ones(site: Site, writers: list[Writer[LoadSnapshot]]) -> None:
    """``last`` takes the newest, and a ring that keeps fewer gives what it has."""
    two = site.get(f"{PATH}?last=2&fields=num_running_reqs").json["ranks"][0]
    for count in range(4, 40):
        writers[0].publish(LoadSnapshot(num_running_reqs=count))
    most = site.get(f"{PATH}?last=65536&fields=num_running_reqs").json["ranks"][0]

    assert two["num_running_reqs"] == [2, 3]
    assert most["num_running_reqs"] == list(range(25, 40))


def test_chosen_fields_of_a_chosen_rank(site: Site, writers: list[Writer[LoadSnapshot]]) -> None:
    """Fields of sections go by their path; what is not reported, and what is no finite number, is null."""
    sent = [0.5, math.nan, math.inf, None]
    for usage in sent:
        writers[1].publish(LoadSnapshot(token_usage=usage, queues=QueuesSection(waiting=4) if usage else None))

    reply = site.get(f"{PATH}?dp_rank=2&fields=queues.waiting,%20token_usage,queues.waiting,max_total_num_tokens")

    (rank,) = reply.json["ranks"]
    assert list(rank) == ["dp_rank", "timestamp", "queues.waiting", "token_usage", "max_total_num_tokens"]
    assert rank["dp_rank"] == 2
    assert rank["queues.waiting"] == [4, 4, 4, None]
    assert rank["token_usage"] == [0.5, None, None, None]
    assert rank["max_total_num_tokens"] == [None] * 4


@pytest.mark.parametrize("rank", ["1", "3", "-1", "99999999999999999999"])
def test_a_rank_without_a_past_is_not_there(site: Site, rank: str) -> None:
    """One that never published, and one that the ring does not have, give none."""
    assert site.get(f"{PATH}?dp_rank={rank}").json == {"ranks": []}


@pytest.mark.parametrize("query", ["last=0", "last=65537", "last=many", "last=-1", "last=1.5", "dp_rank=first"])
def test_what_is_no_number_is_refused(site: Site, query: str) -> None:
    """The answer is 422 and names the parameter and what it takes."""
    reply = site.get(f"{PATH}?{query}")

    assert reply.status == 422
    assert message(reply).startswith(query.partition("=")[0])


@pytest.mark.parametrize("field", ["num_runing_reqs", "decode_moments", "disaggregation.mode", "memory", "__present__"])
def test_an_unknown_field_is_refused(site: Site, field: str) -> None:
    """Neither a typing error nor what no chart can show is a field; the answer is 400 with those there are."""
    reply = site.get(f"{PATH}?fields=num_running_reqs,{field}")

    assert reply.status == 400
    assert field in message(reply)
    assert {"num_running_reqs", "queues.waiting", "token_usage"} <= set(reply.json["error"]["valid"])


def test_a_ring_of_another_schema(ring_dir: Path) -> None:
    """Without fields of a load there are no columns by default, and without times of publish the times are null."""
    with Writer("main", 0, 1, schema=Plain) as writer, Reader("main", schema=None) as reader:
        writer.publish(Plain(depth=3, ready=True))
        with served(serve.app(reader)) as site:
            default, chosen = site.get(PATH), site.get(f"{PATH}?fields=depth,ready,ratio")

    assert default.json == {"ranks": [{"dp_rank": 0, "timestamp": [None]}]}
    assert chosen.json == {"ranks": [{"dp_rank": 0, "timestamp": [None], "depth": [3], "ready": [1], "ratio": [None]}]}


def test_no_ring_is_no_rank(ring_dir: Path) -> None:
    """Before any writer, and after the last one, the answer is empty, whatever the fields."""
    with Reader("main") as reader, served(serve.app(reader)) as site:
        before = site.get(f"{PATH}?fields=whatever")
        with Writer("main", 0, 1) as writer:
            writer.publish(LoadSnapshot())
            assert len(site.get(PATH).json["ranks"]) == 1
        eventually(lambda: site.get(PATH).json == {"ranks": []})

    assert (before.status, before.json) == (200, {"ranks": []})


def test_a_ring_that_cannot_be_read_is_an_error(ring_dir: Path) -> None:
    """Neither a ring of another job nor one of bytes has a past of numbers; the answer is 503 and says why."""
    with Writer("main", 0, 1, job="one") as writer, served(serve.app(unreadable())) as site:
        writer.publish(LoadSnapshot())
        other = site.get(PATH)
    with Writer("free", 0, 1, schema=bytes) as free, Reader("free", schema=bytes) as reader:
        free.publish(b"free")
        with served(serve.app(reader)) as site:
            unfit = site.get(PATH)

    assert (other.status, unfit.status) == (503, 503)
    assert 'job "one"' in message(other)
    assert "holds bytes" in message(unfit)


def test_an_answer_is_bounded(ring_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of ranks and fields that would give too many numbers each rank gets fewer snapshots, the newest."""
    monkeypatch.setattr(history, "MOST_VALUES", 12)
    with ExitStack() as stack, Reader("main") as reader, served(serve.app(reader)) as site:
        for rank in range(3):
            writer = stack.enter_context(Writer("main", rank, 3))
            for count in range(5):
                writer.publish(LoadSnapshot(num_running_reqs=count))
        cut = site.get(f"{PATH}?fields=num_running_reqs").json["ranks"]
        alone = site.get(f"{PATH}?fields=num_running_reqs&dp_rank=1").json["ranks"]
        refused = site.get(PATH)

    assert [rank["num_running_reqs"] for rank in cut] == [[3, 4]] * 3
    assert alone[0]["num_running_reqs"] == [0, 1, 2, 3, 4]
    assert refused.status == 400
    assert "3 ranks with 5 columns" in message(refused)


async def document_and_turns(reader: Reader[LoadSnapshot]) -> tuple[bytes, int]:
    """The default document, and how often the event loop did something else meanwhile."""
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count_turns())
    document = await history._document(Loads(reader), history._parse(b""))
    counting.cancel()
    return document, turns


def test_others_have_their_turn(writers: list[Writer[LoadSnapshot]]) -> None:
    """Between two ranks the event loop does something else."""
    with Reader("main") as reader:
        _, turns = asyncio.run(document_and_turns(reader))

    assert turns >= 3


def test_a_long_past_is_copied_elsewhere(writers: list[Writer[LoadSnapshot]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Many numbers of a rank are copied in another thread; the answer is the same."""
    with Reader("main") as reader:
        short, _ = asyncio.run(document_and_turns(reader))
        monkeypatch.setattr(history, "AT_ONCE", 2)
        copied_in = []
        copy = Reader.history

        def noted(self: Reader[LoadSnapshot], rank: int, last: int) -> object:
            copied_in.append(threading.current_thread())
            return copy(self, rank, last)

        monkeypatch.setattr(Reader, "history", noted)
        long, _ = asyncio.run(document_and_turns(reader))

    assert long == short
    assert len(copied_in) == 3
    assert threading.main_thread() not in copied_in


def test_a_long_past_is_told_by_columns(writers: list[Writer[LoadSnapshot]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two columns of a rank with many numbers the event loop does something else."""

    async def at_once(work: Callable[..., object], *arguments: object) -> object:
        return work(*arguments)  # so that no turn is counted but those between ranks and columns

    monkeypatch.setattr(asyncio, "to_thread", at_once)
    with Reader("main") as reader:
        _, between_ranks = asyncio.run(document_and_turns(reader))
        monkeypatch.setattr(history, "AT_ONCE", 2)
        _, between_columns = asyncio.run(document_and_turns(reader))

    assert between_columns == between_ranks + 5
