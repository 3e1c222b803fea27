"""The table of metrics: what each exposed number is called, what it means, and which field it comes from.

One table drives every output, so a name, a unit or an explanation stands in one place. The names of :data:`METRICS`
are the canonical ones: underscores only, base units (seconds, bytes, ratio) at the end, running totals as counters.
:mod:`snapring.formats.profiles` gives the same numbers the names that other tools expect.

Pure values, safe in any thread and after a fork.
"""

import re
from collections.abc import Iterable
from typing import Final, Literal

import msgspec
from msgspec import Struct

from snapring.layout import FieldText, Kind, SchemaText
from snapring.state import State

__all__ = ["METRICS", "SELF_METRICS", "STATES", "Metric", "MetricType", "families_of", "is_load", "split_source"]

MetricType = Literal["gauge", "counter", "info", "stateset"]


class Metric(Struct, frozen=True):
    """One exposed number of every rank.

    Attributes:
        name: as exposed, without the ``_total`` of a counter and the ``_info`` of an info.
        help: one line.
        type: as OpenMetrics has it; the older text format shows info and stateset as gauges.
        source: a dotted field of the snapshot (``"queues.waiting"``), an item of a list (``"decode_moments[5]"``), or
            a fact of the rank's slot: ``"$version"`` (snapshots published), ``"$epoch"`` (writers so far), ``"$age"``
            (s), ``"$timestamp"`` (wall clock of the publish, Unix s), ``"$state"``, ``"$up"`` (1 where LIVE, else 0).
        unit: the OpenMetrics unit, with which the name ends; empty for plain counts.
        scale: what is exposed is the source times this.
        label: of an info, the label that carries the source's text; of a stateset, the one that names the state, which
            OpenMetrics wants to be called like the metric.
    """

    name: str
    help: str
    type: MetricType
    source: str
    unit: str = ""
    scale: float = 1.0
    label: str = ""


STATES: Final = tuple(state.name for state in State)
"""The values of a ``$state``, in the order of their numbers."""

_GIB: Final = 2.0**30
_US: Final = 1e-6
_MS: Final = 1e-3


def _gauge(name: str, source: str, text: str, unit: str = "", scale: float = 1.0) -> Metric:
    return Metric(name, text, "gauge", source, unit, scale)


def _counter(name: str, source: str, text: str, unit: str = "", scale: float = 1.0) -> Metric:
    return Metric(name, text, "counter", source, unit, scale)


_CORE: Final = (
    _gauge("llm_publish_timestamp_seconds", "timestamp", "Wall clock of the newest snapshot, Unix time.", "seconds"),
    _gauge("llm_requests_running", "num_running_reqs", "Requests in the running batch."),
    _gauge("llm_requests_waiting", "num_waiting_reqs", "Requests accepted and not yet running."),
    _gauge(
        "llm_waiting_uncached_tokens",
        "num_waiting_uncached_tokens",
        "Prompt tokens of waiting requests still to be computed.",
        "tokens",
    ),
    _gauge("llm_kv_used_tokens", "num_used_tokens", "KV cache slots in use.", "tokens"),
    _gauge(
        "llm_total_tokens",
        "num_total_tokens",
        "KV cache slots in use plus the lengths of requests that hold none yet.",
        "tokens",
    ),
    _gauge("llm_kv_capacity_tokens", "max_total_num_tokens", "KV cache slots there are.", "tokens"),
    _gauge("llm_max_running_requests", "max_running_requests", "Most requests that may run at once.", "requests"),
    _gauge("llm_kv_usage_ratio", "token_usage", "Used part of the KV cache, 0 to 1.", "ratio"),
    _gauge(
        "llm_generation_tokens_per_second",
        "gen_throughput",
        "Tokens generated per second over the scheduler's last reporting window.",
    ),
    _gauge(
        "llm_cache_hit_ratio",
        "cache_hit_rate",
        "Part of the last prefill batch found in the prefix cache, 0 to 1.",
        "ratio",
    ),
    _gauge(
        "llm_utilization_ratio",
        "utilization",
        "Load relative to what the rank serves within its latency goal; above 1 it misses the goal.",
        "ratio",
    ),
    _gauge(
        "llm_active_tokens",
        "num_active_tokens",
        "Total tokens minus those whose KV has yet to arrive.",
        "tokens",
    ),
    _gauge(
        "llm_prealloc_ready_tokens",
        "num_prealloc_ready_tokens",
        "Tokens of requests that hold KV room and are ready to go on.",
        "tokens",
    ),
    _counter("llm_prefill_tokens", "total_prefill_uncached_tokens", "Prompt tokens computed.", "tokens"),
    _counter("llm_prefill_busy_seconds", "total_prefill_busy_us", "Time spent on prefill.", "seconds", _US),
    _counter("llm_decode_steps", "decode_moments[0]", "Decode steps done."),
    _counter("llm_decode_batched_requests", "decode_moments[1]", "Sum of the batch sizes of decode steps.", "requests"),
    _counter("llm_decode_step_seconds", "decode_moments[2]", "Time spent in decode steps.", "seconds", _US),
    _counter("llm_decode_batch_squares", "decode_moments[3]", "Sum of the squared batch sizes of decode steps."),
    _counter(
        "llm_decode_request_seconds",
        "decode_moments[4]",
        "Sum of batch size times duration of decode steps: the time that requests spent in them.",
        "seconds",
        _US,
    ),
    _counter("llm_generated_tokens", "decode_moments[5]", "Tokens generated.", "tokens"),
)

_MEMORY: Final = (
    _gauge("llm_memory_weight_bytes", "memory.weight_gb", "Device memory of the weights.", "bytes", _GIB),
    _gauge("llm_memory_kv_cache_bytes", "memory.kv_cache_gb", "Device memory of the KV cache.", "bytes", _GIB),
    _gauge("llm_memory_graph_bytes", "memory.graph_gb", "Device memory of captured device graphs.", "bytes", _GIB),
    _gauge("llm_memory_capacity_tokens", "memory.token_capacity", "Tokens that the KV cache can hold.", "tokens"),
)

_SPECULATIVE: Final = (
    _gauge(
        "llm_speculative_accept_tokens",
        "speculative.accept_length",
        "Mean tokens gained per forward pass, bonus token included.",
        "tokens",
    ),
    _gauge(
        "llm_speculative_accept_ratio", "speculative.accept_rate", "Accepted part of drafted tokens, 0 to 1.", "ratio"
    ),
)

_LORA: Final = (
    _gauge("llm_lora_slots_used", "lora.slots_used", "Adapter slots in use."),
    _gauge("llm_lora_slots_available", "lora.slots_total", "Adapter slots there are."),
    _gauge("llm_lora_usage_ratio", "lora.utilization", "Used part of the adapter slots, 0 to 1.", "ratio"),
)

_DISAGGREGATION: Final = (
    Metric("llm_disaggregation", "Role of the rank: null does both.", "info", "disaggregation.mode", label="mode"),
    _gauge(
        "llm_prefill_bootstrap_queue_requests",
        "disaggregation.prefill_bootstrap_queue_reqs",
        "Requests of a prefill rank that wait for a peer.",
        "requests",
    ),
    _gauge(
        "llm_prefill_inflight_queue_requests",
        "disaggregation.prefill_inflight_queue_reqs",
        "Requests of a prefill rank whose KV is on its way out.",
        "requests",
    ),
    _gauge(
        "llm_decode_prealloc_queue_requests",
        "disaggregation.decode_prealloc_queue_reqs",
        "Requests of a decode rank that wait for KV room.",
        "requests",
    ),
    _gauge(
        "llm_decode_transfer_queue_requests",
        "disaggregation.decode_transfer_queue_reqs",
        "Requests of a decode rank whose KV is on its way in.",
        "requests",
    ),
    _gauge(
        "llm_decode_retracted_queue_requests",
        "disaggregation.decode_retracted_queue_reqs",
        "Requests of a decode rank that were put back for want of room.",
        "requests",
    ),
    _gauge(
        "llm_kv_transfer_bytes_per_second",
        "disaggregation.kv_transfer_speed_gb_s",
        "Speed of the last KV transfer.",
        scale=_GIB,
    ),
    _gauge(
        "llm_kv_transfer_latency_seconds",
        "disaggregation.kv_transfer_latency_ms",
        "Duration of the last KV transfer.",
        "seconds",
        _MS,
    ),
)

_QUEUES: Final = (
    _gauge("llm_queue_waiting_requests", "queues.waiting", "Requests in the waiting queue.", "requests"),
    _gauge("llm_queue_grammar_requests", "queues.grammar", "Requests that wait for their grammar.", "requests"),
    _gauge(
        "llm_queue_paused_requests",
        "queues.paused",
        "Requests paused by a weight update since the scheduler's last report.",
        "requests",
    ),
    _gauge(
        "llm_queue_retracted_requests",
        "queues.retracted",
        "Requests put back for want of KV room since the scheduler's last report.",
        "requests",
    ),
    _gauge(
        "llm_queue_prealloc_ready_requests",
        "queues.prealloc_ready",
        "Requests of a decode rank that hold KV room and are ready to go on.",
        "requests",
    ),
)

SELF_METRICS: Final[tuple[Metric, ...]] = (
    _gauge("snapring_up", "$up", "1 where a living process writes the rank and its newest snapshot is fresh, else 0."),
    Metric("snapring_state", "What is known of the rank's writer.", "stateset", "$state", label="snapring_state"),
    _gauge("snapring_age_seconds", "$age", "Age of the newest snapshot.", "seconds"),
    _counter("snapring_publishes", "$version", "Snapshots published."),
    _counter("snapring_writer_epochs", "$epoch", "Writers that the rank has had."),
)
"""What a ring tells of a rank by itself, whatever the schema of its snapshots."""

METRICS: Final[tuple[Metric, ...]] = (
    *_CORE,
    *_MEMORY,
    *_SPECULATIVE,
    *_LORA,
    *_DISAGGREGATION,
    *_QUEUES,
    *SELF_METRICS,
)
"""The canonical table: every field of :class:`snapring.LoadSnapshot` but ``dp_rank``, which is a label."""

_ITEM: Final = re.compile(r"(.+)\[(\d+)\]")
_NUMBERS: Final = frozenset({Kind.INT, Kind.FLOAT})
_LISTS: Final = frozenset({Kind.LIST_INT, Kind.LIST_FLOAT})
_TEXTS: Final = frozenset({Kind.ENUM, Kind.STR})


def split_source(source: str) -> tuple[str, int | None]:
    """The field of a source and the item in it: ``("decode_moments", 5)``, or None for a field that is no list."""
    match = _ITEM.fullmatch(source)
    return (source, None) if match is None else (match[1], int(match[2]))


def is_load(metric: Metric) -> bool:
    """Whether it tells of the rank's load now, which is not told of a DEAD rank: it would stand in every sum for ever.

    What a rank has done so far, and what the ring knows of it, stay.
    """
    return metric.type == "gauge" and not metric.source.startswith("$") and metric.source != "timestamp"


def families_of(metrics: Iterable[Metric], schema_text: str) -> tuple[Metric, ...]:
    """The metrics that a ring of this schema can tell: those whose field it has, and holds as the metric needs it.

    Facts of the slot are always told. So a ring of any schema of records has its states and ages exposed, and whatever
    fields it shares with :class:`snapring.LoadSnapshot`.

    Raises:
        msgspec.DecodeError: ``schema_text`` is no text of a schema; those of ``View.schema_text`` are.
    """
    schema = msgspec.json.decode(schema_text, type=SchemaText)
    fields = {field.name: field for field in schema.fields}
    return tuple(metric for metric in metrics if metric.source.startswith("$") or _holds(fields, metric))


def _holds(fields: dict[str, FieldText], metric: Metric) -> bool:
    name, item = split_source(metric.source)
    field = fields.get(name)
    if field is None:
        return False
    if metric.type == "info":
        return field.kind in _TEXTS
    if item is not None:
        return field.kind in _LISTS and item < field.max
    return field.kind in _NUMBERS
