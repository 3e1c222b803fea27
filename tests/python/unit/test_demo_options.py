"""What the options of ``snapring demo`` come to, without a rank being started."""

import argparse
import math
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from snapring.cli import build_parser, demo
from snapring.simulate import Request, bursty
from snapring.simulate.cluster import Cluster
from snapring.simulate.controller import Controller

TRACE = """TIMESTAMP,ContextTokens,GeneratedTokens
2024-05-10 00:00:00.00,400,3
2024-05-10 00:00:00.10,300,5
"""


class PlayedError(Exception):
    """The demo got as far as playing."""


def parse(*arguments: str) -> argparse.Namespace:
    """The arguments of ``snapring demo``."""
    return build_parser().parse_args(["demo", *arguments])


def generated(*arguments: str) -> list[Request]:
    """The first requests that a demo with these arguments serves."""
    requests, total = demo._arrivals(parse(*arguments))

    assert total is None
    return list(islice(requests, 50))


def play(monkeypatch: pytest.MonkeyPatch, *arguments: str, terminal: bool = False) -> dict[str, Any]:
    """What a demo hands to its parts, up to where it would play without a table."""
    seen: dict[str, Any] = {}

    class Noted(Controller):
        def __init__(self, cluster: Cluster, arrivals: Iterable[Request], *, speed: float) -> None:
            seen.update(cluster=cluster, arrivals=list(islice(arrivals, 50)), speed=speed)
            super().__init__(cluster, [])

    def note(_: Controller, __: object, total: int | None, seconds: float) -> None:
        seen.update(total=total, seconds=seconds)
        raise PlayedError

    monkeypatch.setattr("snapring.cli.terminal.is_interactive", lambda: terminal)
    monkeypatch.setattr("snapring.simulate.controller.Controller", Noted)
    monkeypatch.setattr(demo, "_start", lambda *_: None)
    monkeypatch.setattr(demo, "_play_headless", note)
    with pytest.raises(PlayedError):
        demo.run(parse(*arguments))
    return seen


def test_the_seed_chooses_the_requests() -> None:
    """The same seed gives the same requests, another seed others; without --seed it is 1."""
    first, again, second = generated("--seed", "1"), generated(), generated("--seed", "2")

    assert first == again
    assert [request.arrival_s for request in first] != [request.arrival_s for request in second]
    assert [request.prompt_tokens for request in first] != [request.prompt_tokens for request in second]


def test_the_rate_is_that_of_the_arrivals() -> None:
    """--rate is the generator's mean rate; without it there are 4 requests a second for each rank."""
    asked = generated("--rate", "40", "--ranks", "3")
    default = generated("--ranks", "3")

    assert asked == list(islice(bursty(1, 40.0), 50))
    assert default == list(islice(bursty(1, 12.0), 50))
    assert asked[-1].arrival_s < default[-1].arrival_s


def test_options_reach_cluster_and_controller(ring_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--name, --ranks, --nodes and --dir describe the cluster; --speed, --seed and --rate the controller's arrivals."""
    options = ["--name", "box", "--ranks", "3", "--nodes", "2", "--dir", str(ring_dir / "here"), "--speed", "2.5"]

    seen = play(monkeypatch, *options, "--seed", "7", "--rate", "9")

    cluster = seen["cluster"]
    assert (cluster.name, cluster.ranks, cluster.directory) == ("box", 3, str(ring_dir / "here"))
    assert [cluster.nodes.node(rank) for rank in range(3)] == [0, 0, 1]
    assert seen["speed"] == 2.5
    assert seen["arrivals"] == list(islice(bursty(7, 9.0), 50))


def test_without_a_terminal_it_runs_for_ten_seconds(ring_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Generated requests are served for 10 s without a terminal, and with --headless on one; --seconds says else."""
    piped = play(monkeypatch)
    headless = play(monkeypatch, "--headless", terminal=True)
    asked = play(monkeypatch, "--seconds", "3m")

    assert (piped["seconds"], headless["seconds"], asked["seconds"]) == (10.0, 10.0, 180.0)
    assert piped["total"] is None


def test_a_trace_runs_to_its_end(ring_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trace has no limit of time but that of --seconds, and its number of requests is known."""
    trace = tmp_path / "trace.csv"
    trace.write_text(TRACE)

    seen = play(monkeypatch, "--trace", str(trace))
    limited = play(monkeypatch, "--trace", str(trace), "--seconds", "3")

    assert (seen["seconds"], seen["total"], limited["seconds"]) == (math.inf, 2, 3.0)
    assert [request.prompt_tokens for request in seen["arrivals"]] == [400, 300]
