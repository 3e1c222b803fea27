import json
import re
from pathlib import Path
from typing import Any

import pytest

from expositions import FULL, native
from snapring import InvalidValue, Reader, Writer
from snapring.formats.dashboard import dashboard, expressions
from snapring.formats.metrics import METRICS
from snapring.formats.profiles import PROFILES

# What a query holds besides names of metrics.
WORDS = {"sum", "max", "avg", "by", "rate", "time", "and", "on", "instance", "dp_rank", "mode", "snapring_state"}


def asked(query: str) -> set[str]:
    """Names of metrics in a query: words before a selector."""
    return set(re.findall(r"([a-zA-Z_:][\w:]*)\{", query))


def exposed(ring_dir: Path, profile: str) -> set[str]:
    """Names of samples in the text of a full snapshot."""
    with Writer("main", rank=0, ranks=1) as writer, Reader("main") as reader:
        writer.publish(FULL)
        text = native(reader.view(), profile)
    return {line.partition("{")[0] for line in text.splitlines() if not line.startswith("#")}


def opened(board: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows and panels, those in closed rows too."""
    return [inner for panel in board["panels"] for inner in (panel, *panel.get("panels", ()))]


def panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    """All panels but the rows."""
    return [panel for panel in opened(board) if panel["type"] != "row"]


@pytest.mark.parametrize("profile", PROFILES)
def test_queries_ask_for_what_is_exposed(ring_dir: Path, profile: str) -> None:
    """Each query names a metric that the profile's text has, and nothing that it lacks."""
    names = exposed(ring_dir, profile)

    for query in expressions(dashboard(profile)):
        assert asked(query), query
        assert asked(query) <= names, query
        words = re.sub(r"\{.*?\}|\[1m\]", "", query)
        assert set(re.findall(r"[a-zA-Z_:][\w:]*", words)) <= names | WORDS, query


def test_every_metric_is_shown(ring_dir: Path) -> None:
    """No metric of the table is left without a panel."""
    shown = set().union(*map(asked, expressions(dashboard())))

    assert shown == exposed(ring_dir, "snapring")


@pytest.mark.parametrize("profile", PROFILES)
def test_totals_are_shown_as_rates(profile: str) -> None:
    """What only grows is never shown as it is, whatever type the profile gives it."""
    cumulative = {metric.source for metric in METRICS if metric.type == "counter"}
    totals = {metric.name for metric in PROFILES[profile] if metric.source in cumulative}

    for query in expressions(dashboard(profile)):
        for name in asked(query):
            if name.removesuffix("_total") in totals or name in totals:
                assert f"rate({name}{{" in query, query


def test_rows() -> None:
    """Balance comes first, then what all ranks have, then a closed row for each section, which not all report."""
    rows = [panel for panel in opened(dashboard()) if panel["type"] == "row"]

    assert [row["title"] for row in rows if not row["collapsed"]] == [
        "Balance",
        "Requests",
        "Tokens and KV cache",
        "Throughput",
        "Age and state",
    ]
    assert [row["title"] for row in rows if row["collapsed"]] == [
        "Queues",
        "Memory",
        "Speculative decoding",
        "Adapters",
        "Disaggregation",
    ]
    assert rows == sorted(rows, key=lambda row: row["gridPos"]["y"])
    assert [bool(row["panels"]) for row in rows] == [row["collapsed"] for row in rows]


def test_titles() -> None:
    """Titles are words in the spelling of the field, without the unit that the axis tells."""
    titles = {panel["title"] for panel in panels(dashboard())}

    assert {
        "KV used tokens",
        "LoRA slots used",
        "Prefill busy, part of the time",
        "Prefill tokens, per second",
        "Requests in decode steps, mean",
    } < titles
    assert not [title for title in titles if re.search(r"\b(kv|lora)\b|(seconds|bytes)$", title)]


def test_balance() -> None:
    """The imbalance of running requests is the largest over the mean of living ranks, for each instance."""
    by_title = {panel["title"]: panel for panel in panels(dashboard())}

    (target,) = by_title["Requests running: max over mean"]["targets"]

    selector = '{instance=~"$instance",dp_rank=~"$dp_rank"}'
    living = f"llm_requests_running{selector} and on (instance, dp_rank) snapring_up{selector} == 1"
    assert target["expr"] == f"max by (instance) ({living}) / avg by (instance) ({living})"


def test_variables() -> None:
    """The data source, the instances and the ranks can be chosen, and every query follows the choice."""
    board = dashboard()

    assert [variable["name"] for variable in board["templating"]["list"]] == ["datasource", "instance", "dp_rank"]
    for panel in panels(board):
        assert panel["datasource"]["uid"] == "${datasource}"
        for target in panel["targets"]:
            selectors = re.findall(r"\{([^}]*)\}", target["expr"])
            assert set(selectors) == {'instance=~"$instance",dp_rank=~"$dp_rank"'}, target["expr"]


@pytest.mark.parametrize("profile", PROFILES)
def test_places(profile: str) -> None:
    """Panels have an id of their own, lie on Grafana's 24 columns, and none covers another."""
    board = dashboard(profile)
    for shown in (board["panels"], *(panel["panels"] for panel in board["panels"] if panel.get("panels"))):
        none_covers_another([panel["gridPos"] for panel in shown])

    ids = [panel["id"] for panel in opened(board)]
    assert len(set(ids)) == len(ids)


def none_covers_another(grids: list[dict[str, int]]) -> None:
    """Check places that are shown at once."""
    cells = [
        (x, y)
        for grid in grids
        for x in range(grid["x"], grid["x"] + grid["w"])
        for y in range(grid["y"], grid["y"] + grid["h"])
    ]

    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24


@pytest.mark.parametrize("profile", PROFILES)
def test_json(profile: str) -> None:
    """It is JSON, with an id that Grafana accepts and that tells the profiles apart."""
    board = dashboard(profile)

    assert json.loads(json.dumps(board, allow_nan=False)) == board
    assert re.fullmatch(r"[a-z0-9-]{1,40}", board["uid"])
    assert board["uid"] == f"snapring-{profile}"


def test_unknown_profile() -> None:
    """A profile that does not exist is refused with the names of those that do."""
    with pytest.raises(InvalidValue, match="valid names: snapring, sglang"):
        dashboard("grafana")
