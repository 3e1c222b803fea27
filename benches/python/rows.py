"""The table: what is measured, in which order, and what was promised for it.

Goals are those set for this project before it was built, on a 2-processor virtual machine (AMD Zen 5); on another
machine judge the ratios.
"""

from __future__ import annotations

import ctypes
from functools import partial

from alone import cold_row, hot_row, idle_states_row
from contended import read_beside_writer, tail_ratio, tail_with_readers, tail_without_readers
from http_rows import http_rows
from model import Effort, Job, Row
from remote_rows import remote_rows
from startup import import_time
from waking import cost_of_bell, wake_p99, wake_to_callback

MEMBARRIER_SYSCALL = 324
MEMBARRIER_PRIVATE_EXPEDITED = 1 << 3
BELL_GOAL_MEMBARRIER_US = 0.005
BELL_GOAL_FENCE_US = 0.03

VIEW_GOALS_US = {8: 0.4, 64: 1.0, 256: 2.5}
LIST_GOALS_US = {8: 0.3, 64: 1.8, 256: 7.0}


def all_rows(effort: Effort) -> list[Row]:
    """Return the rows in the order of the table."""
    return [
        *_publish_rows(),
        *_read_rows(),
        *_liveness_rows(),
        *_contended_rows(effort),
        *_other_rows(),
        *remote_rows(),
        *http_rows(effort),
    ]


def _publish_rows() -> list[Row]:
    return [
        Row("publish", "publish, struct in hand", "us", partial(hot_row, job=Job.PUBLISH, ranks=8), 0.25),
        Row("build", "build the struct and publish", "us", partial(hot_row, job=Job.BUILD_AND_PUBLISH, ranks=8)),
        Row("publish-cold", "publish, cold caller", "us", partial(cold_row, job=Job.PUBLISH, ranks=8), 6.0),
    ]


def _read_rows() -> list[Row]:
    one, built = Job.READ_FIELD, Job.READ_ALL_BUILT
    return [
        Row("read-field", "read one rank and one field", "us", partial(hot_row, job=one, ranks=8), 0.1),
        Row("read-whole", "read one rank, whole struct", "us", partial(hot_row, job=Job.READ_WHOLE, ranks=8), 0.75),
        Row("read-cold", "read one rank and one field, cold", "us", partial(cold_row, job=one, ranks=8), 3.0),
        *(
            Row(f"view-{n}", f"view() of {n} ranks", "us", partial(hot_row, job=Job.VIEW, ranks=n), goal)
            for n, goal in VIEW_GOALS_US.items()
        ),
        Row("view-cold", "view() of 64 ranks, cold", "us", partial(cold_row, job=Job.VIEW, ranks=64), 8.0),
        *(
            Row(f"list-{n}", f"read_all() of {n}, lazy", "us", partial(hot_row, job=Job.READ_ALL, ranks=n), goal)
            for n, goal in LIST_GOALS_US.items()
        ),
        Row("list-built", "read_all() of 64, every value built", "us", partial(hot_row, job=built, ranks=64), 50.0),
    ]


def _liveness_rows() -> list[Row]:
    return [
        Row(
            "states",
            "view() of 64 idle ranks and .states",
            "us",
            partial(idle_states_row, ranks=64, helper=False),
            40.0,
        ),
        Row(
            "states-helper",
            "same, helper thread running",
            "us",
            partial(idle_states_row, ranks=64, helper=True),
            1.5,
        ),
    ]


def _contended_rows(effort: Effort) -> list[Row]:
    readers = f"{effort.readers} readers looping"
    return [
        Row("tail-alone", "publish p99.9, no readers", "us", tail_without_readers),
        Row("tail-readers", f"publish p99.9, {readers}", "us", tail_with_readers, 5.0),
        Row("tail-ratio", f"publish p99.9, {readers} : none", "x", tail_ratio, 1.5),
        Row("beside-writer", "read beside a restless writer, mean", "us", read_beside_writer, 0.25),
    ]


def _other_rows() -> list[Row]:
    return [
        Row("wake", "publish to asyncio callback, p50", "us", wake_to_callback, 60.0),
        Row("wake-p99", "publish to asyncio callback, p99", "us", wake_p99, 130.0),
        Row("bell", "what the bell adds to publish, nobody waiting", "us", cost_of_bell, _bell_goal()),
        Row("import", "import, beyond numpy and msgspec", "ms", import_time, 50.0),
    ]


def _bell_goal() -> float:
    """Return the goal that fits the kernel: a compiler fence suffices where it has expedited memory barriers."""
    supported = ctypes.CDLL(None).syscall(MEMBARRIER_SYSCALL, 0, 0)
    with_membarrier = supported > 0 and supported & MEMBARRIER_PRIVATE_EXPEDITED
    return BELL_GOAL_MEMBARRIER_US if with_membarrier else BELL_GOAL_FENCE_US
