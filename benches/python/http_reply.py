"""The design before shared memory: a front end asks every scheduler, and a scheduler answers between two steps."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

import msgspec
import payload
from children import Signals, pinned
from model import Foreign

STEP_S = 0.05


def answering_scheduler(signals: Signals, cpus: set[int], where: Path, taken: Synchronized[int]) -> None:
    """Child: a scheduler of the next free rank. Each step it waits 50 ms, as for a GPU, then answers what was asked."""
    import zmq

    with taken.get_lock():
        rank = taken.value
        taken.value += 1
    with pinned(cpus), zmq.Context() as context, context.socket(zmq.PULL) as asked, context.socket(zmq.PUSH) as replies:
        asked.bind(_questions(where, rank))
        replies.connect(_answers(where))
        replies.linger = asked.linger = 0
        signals.report_ready()
        step = 0
        time.sleep(random.Random(rank).uniform(0, STEP_S))
        while not signals.stopped():
            time.sleep(STEP_S)
            step += 1
            while asked.poll(0):
                number = int.from_bytes(asked.recv())
                replies.send(msgspec.msgpack.encode((number, rank, payload.nested_load(rank, step))))


def reply_app(where: Path, ranks: int) -> Foreign:
    """Return an ASGI application that asks `ranks` schedulers at every request and waits for all of them."""
    front = FrontEnd(where, ranks)

    async def answer(_: Foreign, __: Foreign, send: Callable[[Mapping[str, Any]], Awaitable[None]]) -> None:
        body = msgspec.json.encode({"loads": await front.ask()})
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return answer


class FrontEnd:
    """The asking side; belongs to one event loop."""

    def __init__(self, where: Path, ranks: int) -> None:
        """Bind where answers come in, and connect to the schedulers."""
        import zmq
        import zmq.asyncio

        context = zmq.asyncio.Context()
        self._answers = context.socket(zmq.PULL)
        self._answers.bind(_answers(where))
        self._questions = [context.socket(zmq.PUSH) for _ in range(ranks)]
        for rank, socket in enumerate(self._questions):
            socket.connect(_questions(where, rank))
        self._waiting: dict[int, tuple[dict[int, Any], asyncio.Event]] = {}
        self._number = 0
        self._hearing: asyncio.Task[None] | None = None

    async def ask(self) -> list[Any]:
        """Return the loads of all ranks, in their order."""
        if self._hearing is None:
            self._hearing = asyncio.create_task(self._hear())
        self._number += 1
        number, loads, complete = self._number, dict[int, Any](), asyncio.Event()
        self._waiting[number] = loads, complete
        for socket in self._questions:
            await socket.send(number.to_bytes(8))
        await complete.wait()
        return [loads[rank] for rank in range(len(self._questions))]

    async def _hear(self) -> None:
        while True:
            number, rank, load = msgspec.msgpack.decode(await self._answers.recv())
            loads, complete = self._waiting[number]
            loads[rank] = load
            if len(loads) == len(self._questions):
                del self._waiting[number]
                complete.set()


def _questions(where: Path, rank: int) -> str:
    return f"ipc://{where}/asked{rank}"


def _answers(where: Path) -> str:
    return f"ipc://{where}/answers"
