"""The part of the table about HTTP: servers on one processor, who asks and who publishes on the others."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from http_apps import COLUMNS, IN_FASTAPI
from http_blocked import blocked_p50, blocked_p99
from http_load import lag_idle, lag_loaded, latency_p50, latency_p99, requests
from http_render import collecting, rendering
from http_streams import encodes, processor
from model import Bench, Cells, Effort, Row

CHANGING_GOAL_US = round(1e6 / 30_000, 1)
UNCHANGED_GOAL_US = round(1e6 / 42_000, 1)
FASTAPI_GOAL_US = round(1e6 / 11_000, 1)
RENDER_GOAL_US = 45.0
P50_GOALS_US = {8: 85.0, 64: None}
P99_GOAL_US = 1000.0
PROCESSOR_GOAL_PERCENT = 100.0
ENCODES_GOAL = 1.0


def http_rows(effort: Effort) -> list[Row]:
    """Return the rows in the order of the table."""
    return [*_request_rows(), *_latency_rows(), *_stream_rows(effort), *_blocked_rows()]


def _request_rows() -> list[Row]:
    changing, unchanged = partial(requests, changing=True), partial(requests, changing=False)
    in_fastapi = partial(requests, contenders=IN_FASTAPI, changing=True)
    return [
        _row("http-json", "a request, 8 ranks at 100 Hz", "us", changing, CHANGING_GOAL_US),
        _row("http-json-idle", "a request, no rank changes", "us", unchanged, UNCHANGED_GOAL_US),
        _row("http-fastapi", "a request, user's FastAPI route", "us", in_fastapi, FASTAPI_GOAL_US),
        _row("prometheus-render", "Prometheus text of 8 ranks", "us", rendering, RENDER_GOAL_US),
        _row("prometheus-collector", "same, by snapring's collector in a registry", "us", collecting),
    ]


def _latency_rows() -> list[Row]:
    rows = []
    for ranks, p50_goal in P50_GOALS_US.items():
        title = f"one connection, {ranks} ranks at 100 Hz"
        rows += [
            _row(f"http-p50-{ranks}", f"{title}, p50", "us", partial(latency_p50, ranks=ranks), p50_goal),
            _row(f"http-p99-{ranks}", f"{title}, p99", "us", partial(latency_p99, ranks=ranks), P99_GOAL_US),
        ]
    return [
        *rows,
        _row("http-loop-lag", "loop lag, 64 ranks, 16 connections, p99", "us", lag_loaded),
        _row("http-loop-lag-idle", "loop lag, 64 ranks, no requests, p99", "us", lag_idle),
    ]


def _stream_rows(effort: Effort) -> list[Row]:
    streams = f"{effort.streams:,} event streams"
    return [
        _row("http-streams", f"{streams} at 10/s, server's processor", "%", processor, PROCESSOR_GOAL_PERCENT),
        _row("http-streams-encodes", f"{streams}, encodings of one change", "n", encodes, ENCODES_GOAL),
    ]


def _blocked_rows() -> list[Row]:
    title = "a request, schedulers in 50 ms steps"
    return [
        _row("http-blocked", f"{title}, p50", "us", blocked_p50),
        _row("http-blocked-p99", f"{title}, p99", "us", blocked_p99),
    ]


def _row(key: str, title: str, unit: str, measure: Callable[[Bench], Cells], goal: float | None = None) -> Row:
    return Row(key, title, unit, measure, goal, columns=COLUMNS)
