"""The row of Prometheus text: what one rendering of all ranks costs, reading included, without a server."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

import payload
import peers
from children import CONTEXT, Signals, crew, measured_cpu, other_cpus, pinned
from http_apps import PROMETHEUS_CLIENT, all_columns
from http_servers import require
from model import Absent, Bench, Cell, Cells, Leaf, Load, Operation
from peers.http_sglang import open_reader, renderer
from peers.ring import Snapring
from timing import hot

RANKS = 8
PREFIXES = {"speculative": "spec", "disaggregation": "disagg"}
NOT_TEXT = ("dp_rank", "disaggregation.mode", "decode_moments")


def rendering(bench: Bench) -> Cells:
    """Time one rendering of every number of 8 ranks under SGLang's metric names, hot.

    prometheus_client's is its multiprocess mode: each rank's gauges are in a file, and a scrape reads all files.
    """
    return _rendering(bench, _own)


def collecting(bench: Bench) -> Cells:
    """Time the same, but with snapring's text made by prometheus_client of the collector for a program's registry."""
    return _rendering(bench, _own_collector)


def _rendering(bench: Bench, own: Callable[[ExitStack, Path], Operation]) -> Cells:
    makers = {peers.OURS: own, peers.BASELINE: _sglang, PROMETHEUS_CLIENT: _prometheus_client}
    cells: dict[str, Cell] = {}
    operations: dict[str, Operation] = {}
    expected = [payload.load(rank) for rank in range(RANKS)]
    with ExitStack() as stack:
        for name, make in makers.items():
            if name in peers.KINDS and name not in bench.peers:
                continue
            try:
                operation = make(stack, peers.new_room(bench.home))
            except Absent as reason:
                cells[name] = reason
                continue
            operation.verify(expected)
            operations[name] = operation
        with pinned({measured_cpu()}):
            cells.update(hot(operations, bench.effort))
    return all_columns(cells, bench, "renders no Prometheus text")


def _own(stack: ExitStack, where: Path) -> Operation:
    require(("snapring.loads",))
    from snapring.loads import Loads

    store = stack.enter_context(Snapring(where, RANKS, range(RANKS)))
    return Operation('text("sglang")', {"text": Loads(store.reader).text}, _leaves)


def _own_collector(stack: ExitStack, where: Path) -> Operation:
    require(("prometheus_client",))
    from prometheus_client import CollectorRegistry, generate_latest

    from snapring.serve.collector import LoadCollector

    store = stack.enter_context(Snapring(where, RANKS, range(RANKS)))
    registry = CollectorRegistry()
    registry.register(LoadCollector(store.reader, profile="sglang"))
    return Operation("generate_latest(registry)", {"generate_latest": generate_latest, "registry": registry}, _leaves)


def _sglang(stack: ExitStack, where: Path) -> Operation:
    stack.enter_context(peers.open_store(peers.BASELINE, where, RANKS, range(RANKS)))
    names = {"render": renderer(), "read_all": open_reader(where, RANKS).read_all}
    return Operation("render(read_all())", names, lambda response: _leaves(response.body))


def _prometheus_client(stack: ExitStack, where: Path) -> Operation:
    require(("prometheus_client",))
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.multiprocess import MultiProcessCollector

    stack.enter_context(crew(RANKS, setting_gauges, where, CONTEXT.Value("i", 0), cpus=other_cpus()))
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=str(where))
    return Operation("generate_latest(registry)", {"generate_latest": generate_latest, "registry": registry}, _leaves)


def setting_gauges(signals: Signals, cpus: set[int], where: Path, taken: Synchronized[int]) -> None:
    """Child: set a gauge for every number of the next free rank, then stay."""
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(where)
    from prometheus_client import Gauge

    with taken.get_lock():
        rank = taken.value
        taken.value += 1
    numbers = payload.load(rank)
    for metric, name in exposed().items():
        Gauge(metric, "A load.", ["dp_rank"], multiprocess_mode="mostrecent").labels(rank).set(float(numbers[name]))
    signals.report_ready()
    signals.wait()


def exposed() -> Mapping[str, str]:
    """Return the dotted name of every number by the name of its metric."""
    names = {}
    for name in payload.load(0):
        if not name.startswith(NOT_TEXT):
            section, found, field = name.partition(".")
            names[f"sglang_{PREFIXES.get(section, section)}_{field}" if found else f"sglang_{name}"] = name
    return names


def _leaves(text: bytes) -> list[Load]:
    """Return what each rank's samples say; a number that has none counts as lost."""
    names = exposed()
    ranks: dict[int, dict[str, Leaf]] = {rank: dict.fromkeys(names.values(), "lost") for rank in range(RANKS)}
    for line in text.decode().splitlines():
        metric, _, rest = line.partition('{dp_rank="')
        if not line.startswith("#") and metric in names:
            rank, _, value = rest.partition('"} ')
            ranks[int(rank)][names[metric]] = float(value)
    return [ranks[rank] for rank in sorted(ranks)]
