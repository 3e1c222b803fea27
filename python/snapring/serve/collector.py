"""The load of every rank for ``prometheus_client``: a collector to register beside a program's own metrics.

Its families are those of the same table that the native renderer writes down, but taken from arrays and built of
prometheus_client's own classes, so either can be held against the other.
"""

import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Final, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, StateSetMetricFamily
from prometheus_client.core import Metric as PrometheusFamily
from prometheus_client.registry import Collector

from snapring._core import View
from snapring.errors import SnapringError
from snapring.formats.as_prometheus import RANK_LABEL, check_labels
from snapring.formats.metrics import STATES, Metric, families_of, is_load, split_source
from snapring.formats.profiles import profile_named
from snapring.layout import SchemaText
from snapring.loads import Loads
from snapring.relay import Relay
from snapring.ring import Reader
from snapring.state import State

__all__ = ["PROCESS_FAMILIES", "LoadCollector", "Timed"]

DROP_REASONS: Final = (
    "undecodable",
    "multipart",
    "foreign_job",
    "foreign_schema",
    "out_of_range",
    "unsound",
    "older",
    "replaced",
    "held_locally",
    "failed",
)
"""The counters of ``Relay.stats`` that mean a dropped frame."""

PROCESS_FAMILIES: Final = frozenset(
    {"snapring_contended_reads", "snapring_failed_reads", "snapring_relay_drops", "snapring_relay_takeovers"}
)
"""Families that tell of this process rather than of a rank; they have no ``dp_rank``."""


class Timed(Protocol):
    """Anything of prometheus_client that gives families, such as a histogram that is in no registry."""

    def collect(self) -> Iterable[PrometheusFamily]:
        """Give the families as of now."""


class LoadCollector(Collector):
    """Gives a family for every metric of a profile, with a sample for every rank that reports it.

    What a rank does not report has no sample, and a metric that no rank reports has no family. A rank that never
    published has its state only. Besides them come families of this process: rows that were read under contention,
    reads that failed, and what a relay dropped and how often it was taken over.

    Parameters
    ----------
    reader
        Of the ring. Each scrape takes one view of it.
    profile
        Whose names to use. Those with colons are fit for the older text format only: prometheus_client writes them
        in two ways into OpenMetrics.
    labels
        More labels of each sample of a rank, such as ``{"model": "m"}``.
    relay
        The relay that this process runs, if any.
    durations
        What else to give along, such as how long requests took.
    loads
        Whose contended and failed reads count too.

    Raises
    ------
    InvalidValue
        There is no such profile, or a label is not fit.

    Notes
    -----
    Registering it reads nothing. A ring that cannot be read takes no metrics of the host along: the scrape has no ranks
    then, and ``snapring_failed_reads_total`` is one higher. Threads may share it; after a fork it reads anew, but a
    relay belongs to the parent and is left out in the child.
    """

    def __init__(
        self,
        reader: Reader[Any],
        *,
        profile: str = "snapring",
        labels: Mapping[str, str] | None = None,
        relay: Relay | None = None,
        durations: Timed | None = None,
        loads: Loads | None = None,
    ) -> None:
        metrics = profile_named(profile)
        labels = labels or {}
        check_labels(labels, metrics)
        self._reader = reader
        self._metrics = metrics
        self._names = [RANK_LABEL, *sorted(labels)]
        self._values = [labels[name] for name in sorted(labels)]
        self._relay = relay
        self._durations = durations
        self._loads = loads
        self._lock = threading.Lock()
        self._contended = 0
        self._failed = 0

    def describe(self) -> list[PrometheusFamily]:
        """Nothing, so that a registry does not read the ring to learn the names."""
        return []

    def collect(self) -> Iterator[PrometheusFamily]:
        """Give the families as of one view of the ring; epochs as of right after it."""
        contended, failed = 0, 0
        try:
            yield from self._ranks(view := self._reader.view())
            contended = int(np.count_nonzero(view.contended))
        except SnapringError:
            failed = 1
        with self._lock:
            self._contended += contended
            self._failed += failed
        yield from self.process()

    def process(self) -> Iterator[PrometheusFamily]:
        """Give the families that tell of this process rather than of ranks."""
        with self._lock:
            contended, failed = self._contended, self._failed
        if self._loads is not None:
            contended, failed = contended + self._loads.contended, failed + self._loads.failed
        yield _count("snapring_contended_reads", "Rows whose last good value was read, not the newest.", contended)
        yield _count("snapring_failed_reads", "Views of the ring that could not be had.", failed)
        if self._relay is not None:
            yield from _relayed(self._relay)
        if self._durations is not None:
            yield from self._durations.collect()

    def _ranks(self, view: View) -> Iterator[PrometheusFamily]:
        """The families that tell of ranks."""
        text = view.schema_text
        if text is None:
            return
        columns = _Columns(view, text, self._reader)
        for metric in families_of(self._metrics, text):
            family = self._family(metric, columns)
            if family.samples:
                yield family

    def _family(self, metric: Metric, columns: "_Columns") -> PrometheusFamily:
        match metric.type:
            case "info":
                info = InfoMetricFamily(metric.name, metric.help, labels=self._names)
                for rank, text in columns.texts(metric.source):
                    info.add_metric([str(rank), *self._values], {metric.label: text})
                return info
            case "stateset":
                states = StateSetMetricFamily(metric.name, metric.help, labels=self._names)
                for rank, state in enumerate(columns.states):
                    states.add_metric([str(rank), *self._values], {name: name == State(state).name for name in STATES})
                return states
            case "counter":
                counter = CounterMetricFamily(metric.name, metric.help, labels=self._names, unit=metric.unit)
                self._add(counter, metric, columns)
                return counter
            case "gauge":
                gauge = GaugeMetricFamily(metric.name, metric.help, labels=self._names, unit=metric.unit)
                self._add(gauge, metric, columns)
                return gauge

    def _add(self, family: GaugeMetricFamily | CounterMetricFamily, metric: Metric, columns: "_Columns") -> None:
        for rank, value in columns.numbers(metric.source):
            if is_load(metric) and columns.states[rank] == State.DEAD:
                continue
            if metric.type != "counter" or value >= 0:  # no running total; strict readers would refuse the scrape
                family.add_metric([str(rank), *self._values], value * metric.scale)


class _Columns:
    """The columns of a view by the sources of metrics: (rank, value) of each rank that has one."""

    def __init__(self, view: View, schema_text: str, reader: Reader[Any]) -> None:
        self._view = view
        self._reader = reader
        self._records = view.records
        schema = msgspec.json.decode(schema_text, type=SchemaText)
        self._choices = {field.name: field.choices for field in schema.fields}
        self._published = view.versions > 0
        self.states = view.states.tolist()

    def numbers(self, source: str) -> Iterator[tuple[int, float]]:
        """The values of a source that holds numbers."""
        if source == "$up":
            return enumerate(float(state == State.LIVE) for state in self.states)
        if source == "$epoch":
            return ((rank, epoch) for rank, epoch in self._epochs() if self._published[rank])
        values, present = self._column(source)
        return ((int(rank), values[rank].item()) for rank in np.flatnonzero(present))

    def texts(self, source: str) -> Iterator[tuple[int, str]]:
        """The values of a field that holds texts or choices."""
        column, choices = self._records[source], self._choices[source]
        for rank in np.flatnonzero(self._published & self._view.present(source)):
            value = column[rank].item()
            if isinstance(value, bytes):
                with suppress(UnicodeDecodeError):  # words that no writer stores
                    yield int(rank), value.decode()
            elif 0 <= value < len(choices) and isinstance(text := choices[value], str):
                yield int(rank), text

    def _column(self, source: str) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """A value per rank, and where it is one."""
        if source == "$version":
            return self._view.versions, self._published
        if source == "$age":
            return self._view.ages, self._published
        name, item = split_source(source)
        column, present = self._records[name], self._published & self._view.present(name)
        if item is None:
            return column, present
        return column[:, item], present & (self._records[f"{name}:len"] > item)

    def _epochs(self) -> Iterator[tuple[int, float]]:
        # The arrays of a view do not hold them.
        return ((snapshot.rank, float(snapshot.epoch)) for snapshot in self._reader.read_all())


def _relayed(relay: Relay) -> Iterator[PrometheusFamily]:
    """What a relay tells of itself; nothing in a child of a fork, where it is the parent's."""
    try:
        counts, term = relay.stats(), relay.term
    except SnapringError:
        return
    drops = CounterMetricFamily("snapring_relay_drops", "Frames that the relay dropped, by reason.", labels=["reason"])
    for reason in DROP_REASONS:
        drops.add_metric([reason], counts[reason])
    yield drops
    yield _count(
        "snapring_relay_takeovers", "Owners of the ring's relay on this host so far, the first included.", term
    )


def _count(name: str, text: str, value: int) -> PrometheusFamily:
    return CounterMetricFamily(name, text, value=value)
