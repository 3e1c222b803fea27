"""Stopwatches: hot in interleaved rounds, call by call, and cold.

A statement is timed by `timeit` with Python's garbage collector left on, because engines leave it on.
"""

from __future__ import annotations

import gc
import random
import statistics
import time
import timeit
from collections.abc import Mapping, Sequence

from model import Effort, Figure, Operation

NS_PER_US = 1000
COLD_WALK_BYTES = 8 << 20
COLD_SLEEP_S = 0.0005
CACHE_LINE_BYTES = 64


def percentile(samples: Sequence[float], fraction: float) -> float:
    """Return the value that `fraction` (0 to 1) of the samples do not exceed. Raises IndexError when there are none."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(fraction * len(ordered)))]


class Stopwatch:
    """Times one operation, again and again.

    The statement and its names are compiled once; a batch costs one loop step per call besides the statement.
    """

    def __init__(self, operation: Operation) -> None:
        """Compile `operation`; nothing runs yet."""
        self.singles_ns: list[int] = []
        names = {**operation.names, "_gc_on": gc.enable, "_clock": time.perf_counter_ns}
        self._batch = timeit.Timer(operation.statement, "_gc_on()", time.perf_counter_ns, names)
        self._single = timeit.Timer(
            f"_start = _clock(); {operation.statement}; _record(_clock() - _start)",
            "_gc_on()",
            time.perf_counter_ns,
            {**names, "_record": self.singles_ns.append},
        )

    def batch_us(self, calls: int) -> float:
        """Return the mean of `calls` calls in microseconds."""
        return self._batch.timeit(calls) / calls / NS_PER_US

    def singles(self, calls: int) -> None:
        """Time `calls` calls one by one into `singles_ns`; each includes some 40 ns of clock."""
        self._single.timeit(calls)

    def calls_for(self, effort: Effort) -> int:
        """Return how many calls fill one turn, found by trying."""
        self.batch_us(effort.batch_calls)
        return max(effort.batch_calls, int(effort.batch_us / max(self.batch_us(effort.batch_calls), 0.01)))


def hot(operations: Mapping[str, Operation], effort: Effort) -> dict[str, Figure]:
    """Time each operation in its turn, round after round, so that a disturbance falls on all alike.

    Returns the median of the batches, and p99 and p99.9 of calls timed one by one.
    """
    watches = {name: Stopwatch(operation) for name, operation in operations.items()}
    calls = {name: watch.calls_for(effort) for name, watch in watches.items()}
    batches: dict[str, list[float]] = {name: [] for name in watches}
    for _ in range(effort.rounds):
        for name, watch in watches.items():
            batches[name].append(watch.batch_us(calls[name]))
            watch.singles(min(calls[name], effort.single_calls))
    return {name: _figure(batches[name], watch) for name, watch in watches.items()}


def _figure(batches: list[float], watch: Stopwatch) -> Figure:
    singles = watch.singles_ns
    return Figure(
        statistics.median(batches),
        p99=percentile(singles, 0.99) / NS_PER_US,
        p999=percentile(singles, 0.999) / NS_PER_US,
    )


def cold(operations: Mapping[str, Operation], effort: Effort) -> dict[str, Figure]:
    """Time single calls, each right after other work, in random order.

    Schedulers publish once per step and front ends read once per request, so this is what they pay.
    """
    watches = {name: Stopwatch(operation) for name, operation in operations.items()}
    samples: dict[str, list[float]] = {name: [] for name in watches}
    order = random.Random(0)
    work = OtherWork()
    turns = [name for name in watches for _ in range(effort.cold_samples)]
    order.shuffle(turns)
    for name in turns:
        work.do()
        samples[name].append(watches[name].batch_us(1))
    return {
        name: Figure(statistics.median(taken), p99=percentile(taken, 0.99), p999=percentile(taken, 0.999))
        for name, taken in samples.items()
    }


class OtherWork:
    """What a process does between two calls: walks 8 MB of memory, works on dictionaries, sleeps half a millisecond."""

    def __init__(self) -> None:
        """Allocate the memory to be walked."""
        self._memory = bytearray(COLD_WALK_BYTES)
        self._seed = random.Random(1)

    def do(self) -> None:
        """Do a few milliseconds of it."""
        view = memoryview(self._memory)[::CACHE_LINE_BYTES]
        total = sum(view.tolist())
        table = {self._seed.random(): index + total for index in range(2000)}
        sorted(table.items())
        time.sleep(COLD_SLEEP_S)
