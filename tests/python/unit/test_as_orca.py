"""ORCA reports: what they say of ranks, and that others read the same from all three ways to write one."""

import base64
import json
import math
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from snapring import InvalidValue, LoadSnapshot, State
from snapring.formats.as_orca import OrcaFormat, OrcaReport, orca_report, rank_utilization


class Rank(Struct):
    value: object
    state: State = State.LIVE


def message_class() -> Any:  # noqa: ANN401  protobuf makes the class
    """``xds.data.orca.v3.OrcaLoadReport`` as cncf/xds declares it, built by protobuf itself."""
    file = descriptor_pb2.FileDescriptorProto(name="orca.proto", package="xds.data.orca.v3", syntax="proto3")
    report = file.message_type.add(name="OrcaLoadReport")
    double, text, message = 1, 9, 11
    scalars = {"cpu_utilization": 1, "mem_utilization": 2, "rps_fractional": 6, "eps": 7, "application_utilization": 9}
    for name, tag in scalars.items():
        report.field.add(name=name, number=tag, type=double, label=1)
    for name, tag in {"request_cost": 4, "utilization": 5, "named_metrics": 8}.items():
        entry = report.nested_type.add(name="".join(part.title() for part in name.split("_")) + "Entry")
        entry.options.map_entry = True
        entry.field.add(name="key", number=1, type=text, label=1)
        entry.field.add(name="value", number=2, type=double, label=1)
        report.field.add(
            name=name, number=tag, type=message, label=3, type_name=f".xds.data.orca.v3.OrcaLoadReport.{entry.name}"
        )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("xds.data.orca.v3.OrcaLoadReport"))


MESSAGE = message_class()

NAMES = st.text("abcXYZ019_.:-", min_size=1, max_size=128)
RATES = st.none() | st.floats(0, 1e299)
REPORTS = st.builds(
    OrcaReport,
    RATES,
    RATES,
    RATES,
    st.dictionaries(NAMES, st.floats(allow_nan=False, allow_infinity=False), max_size=8),
)


def parse_text(text: str) -> OrcaReport:
    """A TEXT report as Envoy's rules read it: entries at commas, value after the ``=``, no name twice."""
    entries = [entry.partition("=") for entry in text.split(",") if entry]
    found = {name: float(value) for name, _, value in entries}
    assert len(found) == len(entries)
    assert all(math.isfinite(value) for value in found.values())
    named = {name.removeprefix("named_metrics."): value for name, value in found.items() if "." in name}
    return OrcaReport(**{name: value for name, value in found.items() if "." not in name}, named_metrics=named)


@given(load=REPORTS)
def test_text_reads_back(load: OrcaReport) -> None:
    """Every report can be read from its TEXT form, number for number."""
    assert parse_text(load.text()) == load


@given(load=REPORTS)
def test_json_reads_back(load: OrcaReport) -> None:
    """Every report can be read from its JSON form, which holds only fields of the message, under their names there."""
    document = json.loads(load.json())

    assert OrcaReport(**document) == load
    assert set(document) <= {field.name for field in MESSAGE.DESCRIPTOR.fields}


@given(load=REPORTS)
def test_the_message_is_the_one_that_protobuf_writes(load: OrcaReport) -> None:
    """The hand-made message holds what protobuf writes of the same report, in as many bytes, and nothing else."""
    expected = MESSAGE(
        application_utilization=load.application_utilization or 0.0,
        rps_fractional=load.rps_fractional or 0.0,
        eps=load.eps or 0.0,
        named_metrics=load.named_metrics,
    )

    content = load.message()

    assert MESSAGE.FromString(content) == expected
    assert len(content) == expected.ByteSize()
    if len(load.named_metrics) < 2:  # the order of more is open
        assert content == expected.SerializeToString()


@given(load=REPORTS)
def test_equal_reports_are_written_alike(load: OrcaReport) -> None:
    """The order in which named metrics were put in does not show."""
    turned = OrcaReport(
        load.application_utilization, load.rps_fractional, load.eps, dict(reversed(load.named_metrics.items()))
    )

    for form in OrcaFormat:
        assert turned.header(form) == load.header(form)


def test_headers() -> None:
    """Each format has the header and the look that its readers expect."""
    load = OrcaReport(0.5, named_metrics={"kv_cache_usage_perc": 0.3, "num_requests_waiting": 5})
    rates = OrcaReport(rps_fractional=100, eps=2, named_metrics={"rif": 4})
    text = "application_utilization=0.5,named_metrics.kv_cache_usage_perc=0.3,named_metrics.num_requests_waiting=5.0"

    assert load.header(OrcaFormat.TEXT) == (b"endpoint-load-metrics", f"TEXT {text}".encode())
    assert load.header(OrcaFormat.JSON) == (
        b"endpoint-load-metrics",
        b'JSON {"application_utilization":0.5,"named_metrics":{"kv_cache_usage_perc":0.3,"num_requests_waiting":5.0}}',
    )
    assert rates.header(OrcaFormat.BIN) == (
        b"endpoint-load-metrics-bin",
        base64.b64encode(
            bytes.fromhex("31 0000000000005940 39 0000000000000040 42 0e 0a 03 726966 11 0000000000001040")
        ),
    )


@pytest.mark.parametrize("form", OrcaFormat)
def test_a_report_of_nothing_has_no_header(form: OrcaFormat) -> None:
    """An empty report would be refused by those who read it."""
    assert OrcaReport().header(form) is None
    assert OrcaReport(math.nan, None, math.inf, {"x": math.nan}).header(form) is None


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_left_out(bad: float) -> None:
    """A reader throws away a report with NaN or infinity in it, so none is written, and the rest stays."""
    load = OrcaReport(bad, bad, 1.0, {"bad": bad, "good": 2.0})

    assert load.text() == "eps=1.0,named_metrics.good=2.0"
    assert load.json() == '{"eps":1.0,"named_metrics":{"good":2.0}}'
    assert MESSAGE.FromString(load.message()) == MESSAGE(eps=1.0, named_metrics={"good": 2.0})


@pytest.mark.parametrize("name", ["", "a,b", "a=b", "a b", "a\r\nset-cookie: x", "ä", "a" * 129])
def test_a_name_that_would_break_a_header(name: str) -> None:
    """A named metric cannot end its entry or its header."""
    with pytest.raises(InvalidValue, match="names no metric"):
        OrcaReport(named_metrics={name: 1.0})


def test_format_names() -> None:
    """Formats are found in any case; others name the valid ones."""
    assert [OrcaFormat(name) for name in ("text", "Json", "BIN")] == list(OrcaFormat)
    with pytest.raises(InvalidValue, match="TEXT, JSON, BIN"):
        OrcaFormat("xml")


@pytest.mark.parametrize(
    ("load", "expected"),
    [
        (LoadSnapshot(), None),
        (LoadSnapshot(num_running_reqs=3, max_running_requests=4), 0.75),
        (LoadSnapshot(num_running_reqs=3, num_waiting_reqs=3, max_running_requests=4), 1.5),
        (LoadSnapshot(num_waiting_reqs=1, max_running_requests=100), 0.01),
        (LoadSnapshot(num_running_reqs=3, max_running_requests=4, token_usage=0.8), 0.8),
        (LoadSnapshot(token_usage=0.0), 0.0),
        (LoadSnapshot(num_used_tokens=30, max_total_num_tokens=120), 0.25),
        (LoadSnapshot(num_used_tokens=30, max_total_num_tokens=120, token_usage=0.5), 0.5),
        (LoadSnapshot(num_used_tokens=30, max_total_num_tokens=0, max_running_requests=0), None),
        (LoadSnapshot(token_usage=math.nan), None),
        (LoadSnapshot(token_usage=math.inf, num_running_reqs=1, max_running_requests=2), 0.5),
        (object(), None),
    ],
)
def test_how_busy_a_rank_is(load: object, expected: float | None) -> None:
    """The largest of the terms that are reported: KV, and demand for slots, which grows with the queue."""
    assert rank_utilization(load) == expected


def test_a_server_is_the_mean_of_its_live_ranks() -> None:
    """Ratios are means and counts are sums, over LIVE ranks only."""
    ranks = [
        Rank(LoadSnapshot(num_running_reqs=2, num_waiting_reqs=1, max_running_requests=4, token_usage=0.25)),
        Rank(LoadSnapshot(num_running_reqs=4, num_waiting_reqs=2, max_running_requests=4, token_usage=0.5)),
        Rank(LoadSnapshot(num_running_reqs=100, token_usage=1.0), State.STALE),
        Rank(LoadSnapshot(num_running_reqs=100, token_usage=1.0), State.DEAD),
    ]

    load = orca_report(ranks, rps_fractional=7.0, eps=0.5)

    assert load is not None
    assert load.application_utilization == (0.75 + 1.5) / 2
    assert (load.rps_fractional, load.eps) == (7.0, 0.5)
    assert load.named_metrics == {
        "kv_cache_usage_perc": 0.375,
        "llm_kv_usage_ratio": 0.375,
        "num_requests_waiting": 3,
        "llm_requests_waiting": 3,
        "llm_requests_running": 6,
        "llm_kv_used_tokens": 0,
        "llm_total_tokens": 0,
    }


def test_a_metric_of_some_ranks_only_is_left_out() -> None:
    """The sum of some ranks would pass for that of all."""
    some = [Rank(LoadSnapshot(gen_throughput=10.0)), Rank(LoadSnapshot())]
    every = [Rank(LoadSnapshot(gen_throughput=10.0)), Rank(LoadSnapshot(gen_throughput=0.0))]

    loads = [orca_report(ranks) for ranks in (some, every)]

    name = "llm_generation_tokens_per_second"
    assert [load and load.named_metrics.get(name) for load in loads] == [None, 10.0]


@pytest.mark.parametrize("ranks", [[], [Rank(LoadSnapshot(), State.DEAD), Rank(LoadSnapshot(), State.STALE)]])
def test_nothing_is_said_without_a_live_rank(ranks: list[Rank]) -> None:
    """A server of which nothing is known is not reported as idle."""
    assert orca_report(ranks, rps_fractional=1.0) is None


def test_absurd_numbers_do_no_harm() -> None:
    """Finite numbers whose sum is none are left out, and the report stays."""
    load = orca_report([Rank(LoadSnapshot(gen_throughput=1.7e308, token_usage=1.7e308)) for _ in range(2)])

    assert load is not None
    assert load.named_metrics["llm_requests_running"] == 0
    assert "inf" not in load.text()


@given(usages=st.lists(st.floats(0, 1), min_size=1))
def test_the_report_lies_among_the_ranks(usages: list[float]) -> None:
    """No server is busier than its busiest rank, or less busy than its least busy one, up to rounding."""
    load = orca_report([Rank(LoadSnapshot(token_usage=usage)) for usage in usages])

    assert load is not None
    assert load.application_utilization is not None
    assert min(usages) - 1e-12 <= load.application_utilization <= max(usages) + 1e-12
