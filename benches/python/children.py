"""Processes beside the measured one: pinned, bounded in time, and never left behind."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess

from model import Absent

LIFETIME_S = 120.0
"""A child's loop ends by itself after this long, should its parent have been killed."""
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 3.0

Times = ctypes.Array[ctypes.c_longlong]
"""Nanoseconds shared by parent and child (`CONTEXT.RawArray`); one of them writes."""

CONTEXT: ForkServerContext = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["command"])


def measured_cpu() -> int:
    """Return the processor kept for the measured process: the last one allowed to us."""
    return max(os.sched_getaffinity(0))


def other_cpus() -> set[int]:
    """Return the processors for everybody else; the same one when there is no other."""
    allowed = os.sched_getaffinity(0)
    return allowed - {measured_cpu()} or allowed


@contextmanager
def pinned(cpus: set[int]) -> Iterator[None]:
    """Keep this process on `cpus` inside the block."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Signals:
    """What parent and child tell each other: `ready` counts children at work, `stop` ends their loops."""

    def __init__(self) -> None:
        """Make the primitives; to be done before the children start."""
        self._ready = CONTEXT.Semaphore(0)
        self._stop = CONTEXT.RawValue("b", 0)
        self._deadline = time.monotonic() + LIFETIME_S

    def report_ready(self) -> None:
        """Child: say that the loop is about to begin; from now on the child ends with its parent."""
        threading.Thread(target=_end_with_parent, daemon=True).start()
        self._ready.release()

    def stopped(self) -> bool:
        """Child: whether to end now."""
        return bool(self._stop.value) or time.monotonic() > self._deadline

    def wait(self) -> None:
        """Child: do nothing until then."""
        while not self.stopped():
            time.sleep(0.005)

    def stop(self) -> None:
        """Parent: end all loops."""
        self._stop.value = 1

    def await_ready(self, children: list[BaseProcess]) -> None:
        """Parent: wait until every child has begun; raise `Absent` when one died or took too long."""
        for _ in children:
            deadline = time.monotonic() + START_TIMEOUT_S
            while not self._ready.acquire(timeout=0.1):
                dead = [child for child in children if child.exitcode]
                if dead or time.monotonic() > deadline:
                    raise Absent(f"{len(dead)} of {len(children)} helper processes failed to start")


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextmanager
def crew(count: int, work: Callable[..., None], *args: object, cpus: set[int]) -> Iterator[list[BaseProcess]]:
    """Run `work(signals, cpus, *args)` in `count` children inside the block; they are at work when it begins.

    Afterwards they are asked to stop, and killed if they cannot.
    """
    signals = Signals()
    children: list[BaseProcess] = [
        CONTEXT.Process(target=work, args=(signals, cpus, *args), daemon=True) for _ in range(count)
    ]
    try:
        for child in children:
            child.start()
        signals.await_ready(children)
        yield children
    finally:
        signals.stop()
        end = time.monotonic() + STOP_TIMEOUT_S
        for child in children:
            if child.pid is not None:
                child.join(max(0.0, end - time.monotonic()))
        for child in children:
            if child.is_alive():
                child.kill()
                child.join()
