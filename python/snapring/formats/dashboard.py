"""A Grafana dashboard made from the table of metrics, so that its names are those which are exposed.

A pure function, safe in any thread and after a fork.
"""

import re
from collections.abc import Iterable
from typing import Any, Final

from snapring.formats.metrics import METRICS, Metric
from snapring.formats.profiles import profile_named

__all__ = ["dashboard", "expressions"]

_SELECTOR: Final = 'instance=~"$instance",dp_rank=~"$dp_rank"'
_DATASOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}

_CUMULATIVE: Final = frozenset(metric.source for metric in METRICS if metric.type == "counter")
"""Sources that only grow, whatever type a profile gives them."""

_ROWS: Final = {
    "Requests": ("num_running_reqs", "num_waiting_reqs", "max_running_requests", "utilization"),
    "Tokens and KV cache": (
        "token_usage",
        "num_used_tokens",
        "max_total_num_tokens",
        "num_total_tokens",
        "num_active_tokens",
        "num_waiting_uncached_tokens",
        "num_prealloc_ready_tokens",
        "cache_hit_rate",
    ),
    "Throughput": (
        "gen_throughput",
        "decode_moments[5]",
        "total_prefill_uncached_tokens",
        "total_prefill_busy_us",
        "decode_moments[0]",
        "decode_moments[1]",
        "decode_moments[2]",
        "decode_moments[3]",
        "decode_moments[4]",
    ),
    "Age and state": ("$state", "$up", "$age", "timestamp", "$version", "$epoch"),
}
"""Sources of the core section and of the slot, by the row that shows them; a section has a row of its own."""

_SECTION_ROWS: Final = {
    "queues": "Queues",
    "memory": "Memory",
    "speculative": "Speculative decoding",
    "lora": "Adapters",
    "disaggregation": "Disaggregation",
}
"""A row of each section; not every server reports them, so they are closed at first."""

_UNITS: Final = {"bytes": "bytes", "seconds": "s", "ratio": "percentunit"}
"""Grafana's names of units."""

_ROW_HEIGHT, _PANEL_HEIGHT, _PANEL_WIDTH, _WIDTH = 1, 8, 6, 24
_PER_LINE = _WIDTH // _PANEL_WIDTH


def dashboard(profile: str = "snapring") -> dict[str, Any]:
    """A dashboard that shows every metric of ``profile``, as a JSON-ready dictionary to import or provision.

    It has variables for the data source, the instances and the ranks. Each metric has a panel with a line per rank,
    running totals as rates; the first row compares the living ranks: the largest over the mean, which is 1 in perfect
    balance. The rows of sections, which not every server reports, are closed. Queries hold only names of the profile.
    Where a profile has a number under two names, one is shown.

    Raises:
        InvalidValue: there is no such profile.
    """
    metrics = profile_named(profile)
    by_source = {metric.source: metric for metric in metrics}
    panels: list[dict[str, Any]] = []
    top = 0
    for title, members in _rows(by_source):
        if members:
            top = _place(panels, title, members, top)
    for section, title in _SECTION_ROWS.items():
        members = [_panel_of(metric) for source, metric in by_source.items() if source.startswith(f"{section}.")]
        if members:
            top = _place_closed(panels, title, members, top)
    first = _exposed(metrics[0])
    return {
        "uid": f"snapring-{profile}",
        "title": "Load of every rank" if profile == "snapring" else f"Load of every rank ({profile} names)",
        "tags": ["snapring", "llm"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "5s",
        "time": {"from": "now-15m", "to": "now"},
        "templating": {"list": _variables(first)},
        "annotations": {"list": []},
        "panels": panels,
    }


def expressions(board: dict[str, Any]) -> list[str]:
    """Every query of a dashboard's panels, with Grafana's variables filled in as for all instances and ranks."""
    queries = [target["expr"] for panel in _flat(board["panels"]) for target in panel.get("targets", ())]
    return [
        query.replace("$instance", ".*").replace("$dp_rank", ".*").replace("$__rate_interval", "1m")
        for query in queries
    ]


def _rows(by_source: dict[str, Metric]) -> Iterable[tuple[str, list[dict[str, Any]]]]:
    yield "Balance", _balance(by_source)
    for title, sources in _ROWS.items():
        extra = _steps(by_source) if title == "Throughput" else []
        yield title, [*extra, *(_panel_of(by_source[source]) for source in sources if source in by_source)]


def _place(panels: list[dict[str, Any]], title: str, members: list[dict[str, Any]], top: int) -> int:
    """Append an open row and its panels from line ``top`` on; gives the line after them."""
    panels.append(_row(title, top, len(_flat(panels)) + 1))
    top += _ROW_HEIGHT
    panels += _in_lines(members, top, len(_flat(panels)) + 1)
    return top + -(-len(members) // _PER_LINE) * _PANEL_HEIGHT


def _place_closed(panels: list[dict[str, Any]], title: str, members: list[dict[str, Any]], top: int) -> int:
    """Append a closed row, whose panels ask nothing before it is opened; gives the line after it."""
    number = len(_flat(panels)) + 1
    inside = _in_lines(members, top + _ROW_HEIGHT, number + 1)
    panels.append(_row(title, top, number) | {"collapsed": True, "panels": inside})
    return top + _ROW_HEIGHT


def _row(title: str, top: int, number: int) -> dict[str, Any]:
    grid = {"x": 0, "y": top, "w": _WIDTH, "h": _ROW_HEIGHT}
    return {"type": "row", "title": title, "collapsed": False, "panels": [], "id": number, "gridPos": grid}


def _in_lines(members: list[dict[str, Any]], top: int, number: int) -> list[dict[str, Any]]:
    """The panels side by side from line ``top`` on, with ids from ``number`` on."""
    placed = []
    for index, panel in enumerate(members):
        line, place = divmod(index, _PER_LINE)
        grid = {"x": place * _PANEL_WIDTH, "y": top + line * _PANEL_HEIGHT, "w": _PANEL_WIDTH, "h": _PANEL_HEIGHT}
        placed.append(panel | {"id": number + index, "gridPos": grid})
    return placed


def _flat(panels: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows and panels, those in closed rows too."""
    return [inner for panel in panels for inner in (panel, *panel.get("panels", ()))]


def _exposed(metric: Metric) -> str:
    """The name that the samples carry, which is what a query asks for."""
    return metric.name + {"counter": "_total", "info": "_info"}.get(metric.type, "")


def _selected(metric: Metric) -> str:
    return f"{_exposed(metric)}{{{_SELECTOR}}}"


def _rate(metric: Metric) -> str:
    return f"rate({_selected(metric)}[$__rate_interval])"


def _panel_of(metric: Metric) -> dict[str, Any]:
    """The panel of one metric: a line per rank, of a text or state how many ranks have it."""
    unit = _UNITS.get(metric.unit, "short")
    if metric.type in {"info", "stateset"}:
        query = f"sum by (instance, {metric.label}) ({_selected(metric)})"
        return _panel(_title(metric), metric.help, query, f"{{{{instance}}}} {{{{{metric.label}}}}}", "short")
    if metric.source == "decode_moments[4]":
        # The time that requests spent in steps, per time: how many there were.
        return _panel("Requests in decode steps, mean", metric.help, _rate(metric), _RANK, "short")
    if metric.source in _CUMULATIVE:
        # Seconds per second are a part of the time, and one rank at work all the time has 1.
        rate, unit = ("part of the time", "percentunit") if metric.unit == "seconds" else ("per second", "short")
        return _panel(f"{_title(metric)}, {rate}", metric.help, _rate(metric), _RANK, unit)
    if metric.source in {"timestamp", "$timestamp"}:
        query = f"time() - {_selected(metric)}"
        return _panel("Seconds since the newest snapshot by wall clock", metric.help, query, _RANK, "s")
    return _panel(_title(metric), metric.help, _selected(metric), _RANK, unit)


_SPELLINGS: Final = {"kv": "KV", "lora": "LoRA"}

_RANK: Final = "{{instance}} rank {{dp_rank}}"


def _title(metric: Metric) -> str:
    """The name as words; the axis tells seconds and bytes."""
    name = metric.name.rpartition(":")[2]
    for prefix in ("llm_", "sglang_", "snapring_"):
        name = name.removeprefix(prefix)
    if metric.unit in {"seconds", "bytes"}:
        name = name.removesuffix(f"_{metric.unit}")
    title = name.replace("_", " ").capitalize()
    for plain, right in _SPELLINGS.items():
        title = re.sub(rf"\b{plain}\b", right, title, flags=re.IGNORECASE)
    return title


def _living(by_source: dict[str, Metric], metric: Metric) -> str:
    """The metric without the ranks that are not LIVE, where the profile tells; what dead ranks last said is gone."""
    if "$up" not in by_source:
        return _selected(metric)
    return f"{_selected(metric)} and on (instance, dp_rank) {_selected(by_source['$up'])} == 1"


def _balance(by_source: dict[str, Metric]) -> list[dict[str, Any]]:
    """How uneven the ranks of an instance are, and what they hold together."""
    panels = []
    for source in ("num_running_reqs", "num_waiting_reqs", "num_total_tokens", "token_usage"):
        if source in by_source:
            metric = by_source[source]
            living = _living(by_source, metric)
            query = f"max by (instance) ({living}) / avg by (instance) ({living})"
            text = "The most loaded rank over the mean of all; 1 is perfect balance, and nothing is shown at no load."
            panels.append(_panel(f"{_title(metric)}: max over mean", text, query, "{{instance}}", "short"))
    for source in ("num_running_reqs", "num_waiting_reqs"):
        if source in by_source:
            metric = by_source[source]
            query = f"sum by (instance) ({_living(by_source, metric)})"
            panels.append(_panel(f"{_title(metric)}, all ranks", metric.help, query, "{{instance}}", "short"))
    if (generated := by_source.get("decode_moments[5]")) is not None:
        query = f"sum by (instance) ({_rate(generated)})"
        panels.append(_panel("Generated tokens, per second, all ranks", generated.help, query, "{{instance}}", "short"))
    return panels


def _steps(by_source: dict[str, Metric]) -> list[dict[str, Any]]:
    """Means over decode steps, from the sums that ranks publish."""
    steps = by_source.get("decode_moments[0]")
    if steps is None:
        return []
    means = (
        ("decode_moments[1]", "Mean decode batch", "Requests in a decode step.", "short"),
        ("decode_moments[2]", "Mean decode step", "Duration of a decode step.", "s"),
    )
    return [
        _panel(title, text, f"{_rate(by_source[source])} / {_rate(steps)}", _RANK, unit)
        for source, title, text, unit in means
        if source in by_source
    ]


def _panel(title: str, text: str, query: str, legend: str, unit: str) -> dict[str, Any]:
    return {
        "type": "timeseries",
        "title": title,
        "description": text,
        "datasource": _DATASOURCE,
        "fieldConfig": {"defaults": {"unit": unit, "min": 0, "custom": {"lineWidth": 1}}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [{"refId": "A", "datasource": _DATASOURCE, "expr": query, "legendFormat": legend}],
    }


def _variables(name: str) -> list[dict[str, Any]]:
    """The data source, then the instances and ranks that have ``name``."""
    source = {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}
    return [
        source,
        _variable("instance", "Instance", f"label_values({name}, instance)"),
        _variable("dp_rank", "Rank", f'label_values({name}{{instance=~"$instance"}}, dp_rank)'),
    ]


def _variable(name: str, label: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": _DATASOURCE,
        "query": {"query": query, "refId": name},
        "definition": query,
        "refresh": 2,
        "sort": 3,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
    }
