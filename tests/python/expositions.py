"""Snapshots to expose, both ways to expose them, and what is to be read in the text."""

import math
from collections.abc import Mapping

from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest as latest_text
from prometheus_client.openmetrics.exposition import generate_latest as latest_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from snapring import LoadSnapshot, View
from snapring._core import Exposition
from snapring.formats.as_prometheus import ending, plan
from snapring.formats.profiles import profile_named
from snapring.load import DisaggregationSection, LoraSection, MemorySection, QueuesSection, SpeculativeSection
from snapring.serve.collector import PROCESS_FAMILIES, LoadCollector

Parsed = dict[str, tuple[str, str, str, dict[tuple[str, tuple[tuple[str, str], ...]], float]]]
"""Type, help, unit and samples of each family."""

FULL = LoadSnapshot(
    timestamp=1764359139.5,
    num_running_reqs=12,
    num_waiting_reqs=5,
    num_waiting_uncached_tokens=2048,
    num_used_tokens=30_000,
    num_total_tokens=34_096,
    max_total_num_tokens=65_536,
    max_running_requests=64,
    token_usage=0.45776,
    gen_throughput=812.5,
    cache_hit_rate=0.25,
    utilization=0.75,
    num_active_tokens=33_000,
    num_prealloc_ready_tokens=96,
    total_prefill_uncached_tokens=1_000_000,
    total_prefill_busy_us=2_500_000,
    decode_moments=[1000.0, 12_000.0, 20_000_000.0, 150_000.0, 240_000_000.0, 12_500.0],
    memory=MemorySection(weight_gb=14.5, kv_cache_gb=40.0, graph_gb=0.5, token_capacity=65_536),
    speculative=SpeculativeSection(accept_length=2.5, accept_rate=0.625),
    lora=LoraSection(slots_used=2, slots_total=8, utilization=0.25),
    disaggregation=DisaggregationSection(
        mode="decode",
        prefill_bootstrap_queue_reqs=1,
        prefill_inflight_queue_reqs=2,
        decode_prealloc_queue_reqs=3,
        decode_transfer_queue_reqs=4,
        decode_retracted_queue_reqs=6,
        kv_transfer_speed_gb_s=12.5,
        kv_transfer_latency_ms=3.5,
    ),
    queues=QueuesSection(waiting=5, grammar=1, paused=2, retracted=3, prealloc_ready=4),
)
"""Every field and every section, all of them different from 0 and 1 where it matters."""

_COUNTS = st.integers(min_value=0, max_value=2**63 - 1)
_FLOATS = st.floats(allow_nan=True, allow_infinity=True)
# A running total that is NaN or negative is no running total, and OpenMetrics refuses it.
_TOTALS = st.floats(min_value=0, allow_nan=False, allow_infinity=False)
_SPECIAL = {
    "dp_rank": st.none(),
    "decode_moments": st.none() | st.lists(_TOTALS, max_size=6),
}


def snapshots() -> st.SearchStrategy[LoadSnapshot]:
    """Snapshots with any field absent, any float, and integers that no float holds."""
    sections = {
        "memory": st.builds(MemorySection, **_fields(MemorySection)),
        "speculative": st.builds(SpeculativeSection, **_fields(SpeculativeSection)),
        "lora": st.builds(LoraSection, **_fields(LoraSection)),
        "disaggregation": st.builds(
            DisaggregationSection,
            **_fields(DisaggregationSection) | {"mode": st.sampled_from(["null", "prefill", "decode"])},
        ),
        "queues": st.builds(QueuesSection, **_fields(QueuesSection)),
    }
    optional = {name: st.none() | section for name, section in sections.items()}
    return st.builds(LoadSnapshot, **_fields(LoadSnapshot) | _SPECIAL | optional)


def _fields(cls: type) -> dict[str, st.SearchStrategy[object]]:
    """A strategy for every number of a class, absent where it may be."""
    return {
        name: (_FLOATS if "float" in str(kind) else _COUNTS) | (st.none() if "None" in str(kind) else st.nothing())
        for name, kind in cls.__annotations__.items()
    }


def native(view: View, profile: str, *, openmetrics: bool = False, labels: Mapping[str, str] | None = None) -> str:
    """The text of the native renderer."""
    text = view.schema_text
    assert text is not None
    exposition = Exposition(text, plan(profile_named(profile), labels or {}, openmetrics))
    return (exposition.render(view) + ending(openmetrics)).decode()


def collected(collector: LoadCollector, *, openmetrics: bool = False) -> str:
    """The text that prometheus_client makes of the collector."""
    registry = CollectorRegistry()
    registry.register(collector)
    return (latest_openmetrics(registry) if openmetrics else latest_text(registry)).decode()


def parsed(text: str, *, openmetrics: bool = False) -> Parsed:
    """What prometheus_client reads in a text; its parser of OpenMetrics is the strict one."""
    families = parse_openmetrics(text) if openmetrics else parse_text(text)
    return {
        family.name: (
            family.type,
            family.documentation,
            family.unit,
            {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for sample in family.samples},
        )
        for family in families
    }


def comparable(families: Parsed) -> dict[str, object]:
    """Families of ranks in a form that equals itself: NaN as a text, and an age, which never stands still, as none."""
    return {
        name: (kind, text, unit, {key: _shown(name, value) for key, value in samples.items()})
        for name, (kind, text, unit, samples) in families.items()
        if name.removesuffix("_total") not in PROCESS_FAMILIES
    }


def _shown(name: str, value: float) -> object:
    if name == "snapring_age_seconds":
        return "an age" if 0 <= value < math.inf else value
    return "NaN" if math.isnan(value) else float(value)  # the strict parser keeps integers that no float holds
