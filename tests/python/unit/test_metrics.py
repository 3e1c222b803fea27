import re
from collections import Counter
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import pytest
from msgspec import Meta, Struct

from expositions import FULL, native, parsed
from snapring import LoadSnapshot, Reader, State, Writer
from snapring.formats.metrics import METRICS, SELF_METRICS, STATES, Metric, families_of, split_source
from snapring.layout import Kind, SchemaText
from snapring.schema import compile_schema


def fields() -> dict[str, Kind]:
    """The fields of a snapshot by their dotted names, sections left out."""
    schema = msgspec.json.decode(compile_schema(LoadSnapshot).text, type=SchemaText)
    return {field.name: field.kind for field in schema.fields if field.kind is not Kind.STRUCT}


def test_every_field_is_exposed() -> None:
    """Every field of a snapshot but the rank, which is a label, has exactly one metric; so has each decode moment."""
    moments = [f"decode_moments[{item}]" for item in range(6)]
    expected = [name for name in fields() if name not in {"dp_rank", "decode_moments"}] + moments

    found = [metric.source for metric in METRICS if metric not in SELF_METRICS]

    assert sorted(found) == sorted(expected)


def test_what_the_ring_tells_by_itself() -> None:
    """Age, state, liveness, snapshots and writers of every rank are exposed beside what it reports."""
    found = {metric.source: (metric.name, metric.type) for metric in SELF_METRICS}

    assert found == {
        "$up": ("snapring_up", "gauge"),
        "$state": ("snapring_state", "stateset"),
        "$age": ("snapring_age_seconds", "gauge"),
        "$version": ("snapring_publishes", "counter"),
        "$epoch": ("snapring_writer_epochs", "counter"),
    }
    assert METRICS[-len(SELF_METRICS) :] == SELF_METRICS


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_names(metric: Metric) -> None:
    """Names have lower case letters and underscores only, end with their unit, and keep suffixes for the formats."""
    assert re.fullmatch(r"(llm|snapring)(_[a-z]+)+", metric.name)
    assert metric.unit in {"", "seconds", "bytes", "ratio", "tokens", "requests"}
    assert metric.name.endswith(f"_{metric.unit}" if metric.unit else metric.name)
    assert not metric.name.endswith(("_total", "_info", "_count", "_sum", "_bucket", "_created", "_percent"))


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_help(metric: Metric) -> None:
    """Each metric is explained in one line that ends as a sentence does."""
    assert metric.help.endswith(".")
    assert "\n" not in metric.help
    assert len(metric.help) > len("Tokens.")


def test_names_are_unique() -> None:
    """No two metrics share a name, in whichever format."""
    suffixed = [metric.name + {"counter": "_total", "info": "_info"}.get(metric.type, "") for metric in METRICS]

    assert Counter(suffixed).most_common(1)[0][1] == 1
    assert Counter(metric.name for metric in METRICS).most_common(1)[0][1] == 1


def test_totals_are_counters() -> None:
    """What only grows is a counter and nothing else is."""
    cumulative = {"total_prefill_uncached_tokens", "total_prefill_busy_us", "$version", "$epoch"}
    cumulative |= {f"decode_moments[{item}]" for item in range(6)}

    assert {metric.source for metric in METRICS if metric.type == "counter"} == cumulative


def test_texts_are_labels() -> None:
    """The role is the label of an info, and a state the label that OpenMetrics wants: called like its metric."""
    labelled = {metric.name: (metric.type, metric.label) for metric in METRICS if metric.label}

    assert labelled == {
        "llm_disaggregation": ("info", "mode"),
        "snapring_state": ("stateset", "snapring_state"),
    }
    assert [state.name for state in sorted(State)] == list(STATES)


@pytest.mark.parametrize(
    ("sample", "expected"),
    [
        ("llm_requests_running", 12),
        ("llm_memory_weight_bytes", 14.5 * 1024**3),
        ("llm_memory_kv_cache_bytes", 40 * 1024**3),
        ("llm_memory_graph_bytes", 0.5 * 1024**3),
        ("llm_kv_transfer_bytes_per_second", 12.5 * 1024**3),
        ("llm_kv_transfer_latency_seconds", 0.0035),
        ("llm_prefill_busy_seconds_total", 2.5),
        ("llm_prefill_tokens_total", 1_000_000),
        ("llm_decode_steps_total", 1000),
        ("llm_decode_batched_requests_total", 12_000),
        ("llm_decode_step_seconds_total", 20),
        ("llm_decode_batch_squares_total", 150_000),
        ("llm_decode_request_seconds_total", 240),
        ("llm_generated_tokens_total", 12_500),
        ("llm_kv_usage_ratio", 0.45776),
        ("llm_publish_timestamp_seconds", 1764359139.5),
    ],
)
def test_base_units(ring_dir: Path, sample: str, expected: float) -> None:
    """GiB become bytes, microseconds and milliseconds seconds; ratios and counts stay as they are."""
    with Writer("main", rank=0, ranks=1) as writer, Reader("main") as reader:
        writer.publish(FULL)
        families = parsed(native(reader.view(), "snapring"))

    values = {name: value for _, _, _, samples in families.values() for (name, _), value in samples.items()}
    assert values[sample] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("num_running_reqs", ("num_running_reqs", None)),
        ("queues.waiting", ("queues.waiting", None)),
        ("decode_moments[5]", ("decode_moments", 5)),
    ],
)
def test_sources(source: str, expected: tuple[str, int | None]) -> None:
    """A source is a field, or an item of one."""
    assert split_source(source) == expected


class Other(Struct, frozen=True):
    num_running_reqs: int = 0
    token_usage: Literal["low", "high"] = "low"
    decode_moments: Annotated[list[float], Meta(max_length=2)] | None = None


def test_families_of_another_schema() -> None:
    """Of a schema that shares some fields, those are exposed that hold what the metric needs, and the slot's facts."""
    found = families_of(METRICS, compile_schema(Other).text)

    assert [metric.source for metric in found if metric not in SELF_METRICS] == [
        "num_running_reqs",
        "decode_moments[0]",
        "decode_moments[1]",
    ]
    assert found[-len(SELF_METRICS) :] == SELF_METRICS


def test_families_of_the_own_schema() -> None:
    """A ring of load snapshots has all of them, in the order of the table."""
    assert families_of(METRICS, compile_schema(LoadSnapshot).text) == METRICS
