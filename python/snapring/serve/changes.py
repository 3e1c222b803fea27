"""What changed, told to many at once: :class:`Changes` follows a ring once, however many streams and polls wait."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from typing import Final

from snapring.errors import HandleClosed, SnapringError
from snapring.load import Section
from snapring.loads import Loads
from snapring.ring import polled

__all__ = ["Changes"]

HEARTBEAT_S: Final = 15.0
"""A stream that has nothing to say says so this often, or proxies take its connection for dead."""

RETRY_S: Final = 1.0
"""Pause before a ring that could not be read is followed again."""

_LOG: Final = logging.getLogger("snapring.serve")


class Changes:
    """The changes of a ring, in ticks: each is one look at the ranks whose snapshot or state changed since the last.

    Ticks are at least ``1 / rate`` seconds apart, so what changes more often is merged. The ring is followed only
    while somebody is inside :meth:`followed`. Belongs to one event loop at a time.

    Attributes:
        tick: number of the newest tick, 0 before the first.
        news: set at the next tick, and by a heartbeat when there was none for 15 s; a new one stands here afterwards,
            so take it before looking at ``tick``.
        encodes: events encoded so far: one a tick and set of sections, whoever listens.
    """

    def __init__(self, loads: Loads, *, rate: float = 10.0) -> None:
        self._loads, self._pause_s = loads, 1.0 / rate
        self._told = loads
        self._followers = 0
        self._task: asyncio.Task[None] | None = None
        self._changed: list[int] = []
        self._gone: list[int] = []
        self._events: dict[frozenset[Section], bytes] = {}
        self.tick = 0
        self.news = asyncio.Event()
        self.encodes = 0

    @contextlib.asynccontextmanager
    async def followed(self) -> AsyncIterator[None]:
        """Follow the ring until the block ends; blocks may overlap, also in many tasks."""
        loop = asyncio.get_running_loop()
        if self._task is None or self._task.done() or self._task.get_loop() is not loop:
            self._begin(loop)
        task = self._task
        self._followers += 1
        try:
            yield
        finally:
            if self._task is task:  # else another loop has begun anew, after this one ended or was left by a fork
                self._followers -= 1
                if not self._followers:
                    self._end()

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Look with a reader of its own, also for what is told.

        Each reader notices a ring that was replaced or removed when it looks, once a second: what one notices, another
        may not tell yet. The first poll comes before the first listener is told everything, so nothing is between them.
        """
        try:
            reader = self._loads.reader.clone()
        except HandleClosed:
            reader = self._loads.reader  # every look will say so
        told = self._loads.over(reader)
        with contextlib.suppress(SnapringError):  # who follows it will say so
            reader.poll()
        if self._task is None or self._task.get_loop() is loop:
            self._wake()
        else:
            self.news = asyncio.Event()  # whoever waits in the other loop cannot be reached from here
        self._told, self._followers = told, 0
        self._task = loop.create_task(self._follow(told), name="snapring changes")

    def _end(self) -> None:
        task, self._task = self._task, None
        if task is not None and not task.get_loop().is_closed():
            task.cancel()

    def event(self, include: frozenset[Section]) -> bytes:
        """The newest tick as an event: the ranks that changed in it, and those that went away."""
        found = self._events.get(include)
        if found is None:
            self.encodes += 1
            found = self._events[include] = self._encode(include, full=False)
        return found

    def full(self, include: frozenset[Section]) -> bytes:
        """All ranks now as an event, for who has seen nothing yet, or has missed a tick."""
        return self._encode(include, full=True)

    def _encode(self, include: frozenset[Section], *, full: bool) -> bytes:
        gone = b"" if full else b",".join(b"%d" % rank for rank in self._gone)
        more = b'"full":%b,"gone":[%b]' % (b"true" if full else b"false", gone)
        try:
            # The tag of an event is that of all ranks, of which the text then shows some.
            whole = self._told.json(include=include, more=more)
            body = whole if full else self._told.json(include=include, ranks=self._changed, more=more)
        except SnapringError as error:
            return b"event: unreadable\ndata: %b\n\n" % " ".join(str(error).split()).encode()
        return b"event: loads\nid: %b\ndata: %b\n\n" % (whole.tag.encode(), body.content)

    async def _follow(self, loads: Loads) -> None:
        """Take ticks until cancelled. Whatever goes wrong is told to the listeners, and followed again."""
        failed = False
        with loads.reader:
            while True:
                try:
                    if failed:
                        loads.view()
                        self._tell_all()  # it can be read again, though perhaps nothing in it has changed
                        failed = False
                    await self._take_ticks(loads)
                except SnapringError as error:
                    if not failed:
                        _LOG.warning("the ring %r cannot be read: %s", loads.reader.name, error)
                except Exception:  # noqa: BLE001  listeners would wait for ever
                    _LOG.exception("the ring %r could not be followed; it is tried again", loads.reader.name)
                failed = True
                self._tell_all()
                await asyncio.sleep(RETRY_S)

    async def _take_ticks(self, loads: Loads) -> None:
        """A tick for each change, and heartbeats between them; ends only by an error."""
        loop = asyncio.get_running_loop()
        async with contextlib.aclosing(polled(loads.reader)) as changes:
            ahead: asyncio.Task[list[int]] | None = None
            due_s = 0.0
            try:
                while True:
                    ahead = ahead or asyncio.ensure_future(anext(changes))
                    done, _ = await asyncio.wait({ahead}, timeout=HEARTBEAT_S)
                    if not done:
                        self._wake()
                        continue
                    ranks, ahead = ahead.result(), None
                    began_s = time.monotonic()
                    there = loads.view().versions > 0
                    is_there = [rank < len(there) and bool(there[rank]) for rank in ranks]
                    self._turn(
                        [rank for rank, here in zip(ranks, is_there, strict=True) if here],
                        [rank for rank, here in zip(ranks, is_there, strict=True) if not here],
                    )
                    # By a clock that goes on: what a tick costs, and late wake-ups, would make them fewer.
                    due_s = (due_s if began_s - due_s < self._pause_s else began_s) + self._pause_s
                    await asyncio.sleep(due_s - time.monotonic())
            finally:
                if ahead is not None and not loop.is_closed():
                    ahead.cancel()
                    await asyncio.wait({ahead})

    def _tell_all(self) -> None:
        """Let every listener think that it missed a tick, so that it is told everything."""
        self.tick += 1
        self._turn([], [])

    def _turn(self, changed: list[int], gone: list[int]) -> None:
        self._changed, self._gone = changed, gone
        self._events.clear()
        self.tick += 1
        self._wake()

    def _wake(self) -> None:
        news, self.news = self.news, asyncio.Event()
        news.set()
