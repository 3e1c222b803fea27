"""What a scheduler publishes about itself: :class:`LoadSnapshot` and its optional sections.

A leaf of the vocabulary: plain values, no I/O, no clock. The classes are ordinary ``msgspec.Struct`` classes; a ring
of another schema is declared just like this one. Two marks in the annotations are read by the schema compiler:
``unit`` travels with the field into the ring's own description, and ``fill`` names what the writer puts in place of
``None`` at publish.

Zero or ``None``? A default of 0 stands only where leaving the field out means "none of these", which holds for the
plain counts that every scheduler keeps. Whatever a scheduler may not measure, or may not have (a limit, a ratio, a
rate, a running total, a queue of one role), defaults to ``None``: *not reported*, which differs from zero.

Every class is frozen, so a snapshot may be handed to any thread and used after a fork. Constructing one checks nothing:
values are checked by ``Writer.publish``. Fields can be given by position, which readers use because it builds an
object many times faster, but the order is no promise: write keywords.
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct
from msgspec.structs import asdict

from snapring.errors import InvalidValue

__all__ = [
    "SECTION_FIELDS",
    "DisaggregationSection",
    "LoadSnapshot",
    "LoraSection",
    "MemorySection",
    "QueuesSection",
    "Section",
    "SpeculativeSection",
    "parse_include",
]

_Rank = Annotated[int, Meta(extra={"unit": "rank", "fill": "rank"})]
_PublishTime = Annotated[float, Meta(extra={"unit": "s", "fill": "timestamp"})]
_Requests = Annotated[int, Meta(extra={"unit": "requests"})]
_Tokens = Annotated[int, Meta(extra={"unit": "tokens"})]
_MeanTokens = Annotated[float, Meta(extra={"unit": "tokens"})]
_TokensPerSecond = Annotated[float, Meta(extra={"unit": "tokens/s"})]
_Ratio = Annotated[float, Meta(extra={"unit": "ratio"})]
_Slots = Annotated[int, Meta(extra={"unit": "slots"})]
_Microseconds = Annotated[int, Meta(extra={"unit": "us"})]
_Milliseconds = Annotated[float, Meta(extra={"unit": "ms"})]
_Gibibytes = Annotated[float, Meta(extra={"unit": "GiB"})]
_GibibytesPerSecond = Annotated[float, Meta(extra={"unit": "GiB/s"})]
_Moments = Annotated[
    list[float], Meta(max_length=6, extra={"unit": "steps, requests, us, requests^2, requests*us, tokens"})
]


class Section(StrEnum):
    """Parts of a snapshot by their short names: what ``include`` accepts and what prefixes a metric's name."""

    CORE = "core"
    MEMORY = "memory"
    SPEC = "spec"
    LORA = "lora"
    DISAGG = "disagg"
    QUEUES = "queues"


SECTION_FIELDS: Final[Mapping[Section, str]] = MappingProxyType(
    {
        Section.MEMORY: "memory",
        Section.SPEC: "speculative",
        Section.LORA: "lora",
        Section.DISAGG: "disaggregation",
        Section.QUEUES: "queues",
    }
)
"""The field of :class:`LoadSnapshot`, which is also the JSON key, of every optional section."""

_ALL: Final = frozenset(Section)
_VALID_NAMES: Final = ", ".join(["all", *Section])


def parse_include(include: str | Iterable[str] = "") -> frozenset[Section]:
    """The sections that a caller asked for.

    Args:
        include: comma-separated text, or an iterable of names: ``core``, ``memory``, ``spec``, ``lora``, ``disagg``,
            ``queues`` or ``all``. Blanks around a name are dropped. Nothing at all means ``all``.

    Returns:
        The sections; ``core`` is always among them.

    Raises:
        InvalidValue: a name is unknown or empty (as after a trailing comma); the message lists the valid ones.
    """
    if isinstance(include, str):
        include = include.split(",") if include.strip() else ()
    names = [name.strip() for name in include]
    if not names:
        return _ALL
    wanted = {Section.CORE}
    for name in names:
        if name == "all":
            wanted |= _ALL
        elif name in _ALL:
            wanted.add(Section(name))
        else:
            raise InvalidValue(f"unknown section {name!r} in include; valid names: {_VALID_NAMES}")
    return frozenset(wanted)


class MemorySection(Struct, frozen=True, gc=False):
    """Device memory of the rank. Leave the section out where the model runner does not tell.

    Attributes:
        weight_gb: model weights, GiB (the name is the customary one, the unit is binary), >= 0.
        kv_cache_gb: KV cache, GiB, >= 0.
        graph_gb: captured device graphs, GiB, >= 0.
        token_capacity: tokens that the KV cache can hold, >= 0.
    """

    weight_gb: _Gibibytes | None = None
    kv_cache_gb: _Gibibytes | None = None
    graph_gb: _Gibibytes | None = None
    token_capacity: _Tokens | None = None


class SpeculativeSection(Struct, frozen=True, gc=False):
    """Speculative decoding. Leave the section out when it is off and until its first forward pass.

    Attributes:
        accept_length: mean tokens gained per forward pass since start, bonus token included, tokens, >= 1.
        accept_rate: accepted part of the drafted tokens, ratio in 0..1.
    """

    accept_length: _MeanTokens | None = None
    accept_rate: _Ratio | None = None


class LoraSection(Struct, frozen=True, gc=False):
    """Adapters. Leave the section out when LoRA is off.

    Attributes:
        slots_used: adapter slots in use, slots, >= 0.
        slots_total: adapter slots there are, slots, >= 0.
        utilization: used part of the slots, ratio in 0..1.
    """

    slots_used: _Slots | None = None
    slots_total: _Slots | None = None
    utilization: _Ratio | None = None


class DisaggregationSection(Struct, frozen=True, gc=False):
    """Prefill and decode on separate ranks: the role, its queues and its KV transfers.

    Attributes:
        mode: ``"null"`` (the rank does both), ``"prefill"`` or ``"decode"``.
        prefill_bootstrap_queue_reqs: waiting for a peer to be agreed, requests, >= 0; prefill role.
        prefill_inflight_queue_reqs: KV on its way out, requests, >= 0; prefill role.
        decode_prealloc_queue_reqs: waiting for KV room, requests, >= 0; decode role.
        decode_transfer_queue_reqs: KV on its way in, requests, >= 0; decode role.
        decode_retracted_queue_reqs: put back for want of room, requests, >= 0; decode role.
        kv_transfer_speed_gb_s: last transfer, GiB/s, >= 0.
        kv_transfer_latency_ms: last transfer, ms, >= 0.
    """

    mode: Literal["null", "prefill", "decode"] = "null"
    prefill_bootstrap_queue_reqs: _Requests = 0
    prefill_inflight_queue_reqs: _Requests = 0
    decode_prealloc_queue_reqs: _Requests = 0
    decode_transfer_queue_reqs: _Requests = 0
    decode_retracted_queue_reqs: _Requests = 0
    kv_transfer_speed_gb_s: _GibibytesPerSecond | None = None
    kv_transfer_latency_ms: _Milliseconds | None = None


class QueuesSection(Struct, frozen=True, gc=False):
    """Requests that are in the scheduler but not running, by the reason why.

    Attributes:
        waiting: in the waiting queue now, requests, >= 0.
        grammar: waiting for their grammar to compile, requests, >= 0.
        paused: paused by a weight update since the scheduler's last report, requests, >= 0.
        retracted: put back for want of KV room since the scheduler's last report, requests, >= 0.
        prealloc_ready: KV room given and ready to go on, requests, >= 0; decode role.
    """

    waiting: _Requests = 0
    grammar: _Requests | None = None
    paused: _Requests | None = None
    retracted: _Requests | None = None
    prealloc_ready: _Requests | None = None


class LoadSnapshot(Struct, frozen=True, gc=False):
    """The load of one rank at one moment.

    ``None`` in any field means *not reported*. Counts are >= 0; integers fit 64 bits.

    Attributes:
        dp_rank: the publishing rank; filled from the writer, and refused there when it differs.
        timestamp: wall clock at publish, Unix seconds; filled at publish. For display: a reader's ``age`` comes from
            a monotonic clock instead.
        num_running_reqs: the running (decode) batch, requests.
        num_waiting_reqs: everything accepted and not yet running, requests; on a prefill rank this includes the
            bootstrap queue, on a decode rank the prealloc, transfer and retracted queues.
        num_waiting_uncached_tokens: prompt tokens still to be computed, tokens: the sum over waiting requests of
            length minus matched prefix, plus the rest of a chunked prompt. Not reported by decode ranks, or where
            prefixes are not looked up.
        num_used_tokens: KV slots in use, tokens; the larger pool of a hybrid model.
        num_total_tokens: used tokens plus the lengths of requests that hold no KV slots yet, tokens. The quantity
            that token balancing compares.
        max_total_num_tokens: KV capacity, tokens.
        max_running_requests: most requests that may run at once, requests.
        token_usage: used part of the KV capacity, ratio in 0..1; the highest pool of a hybrid model.
        gen_throughput: generated tokens over the scheduler's last reporting window, tokens/s.
        cache_hit_rate: part of the last prefill batch found in the prefix cache, ratio in 0..1.
        utilization: load relative to what the rank can serve within its latency goal, ratio >= 0.
        num_active_tokens: total tokens minus those whose KV has yet to arrive, tokens; equals ``num_total_tokens``
            outside the decode role.
        num_prealloc_ready_tokens: tokens of the requests counted in ``queues.prealloc_ready``, tokens; decode role.
        total_prefill_uncached_tokens: prompt tokens computed since start, tokens; only grows.
        total_prefill_busy_us: time spent on prefill since start, pauses left out, us; only grows.
        decode_moments: running sums over the decode steps since start, six floats: steps, batch sizes (requests),
            step times (us), squared batch sizes, batch size times step time (requests x us), generated tokens. They
            suffice for a least-squares line of step time over batch size. None until the first step.
        memory: device memory, or None.
        speculative: speculative decoding, or None.
        lora: adapters, or None.
        disaggregation: role, queues and transfers of a split deployment, or None.
        queues: requests in the scheduler that do not run, or None.
    """

    dp_rank: _Rank | None = None
    timestamp: _PublishTime | None = None
    num_running_reqs: _Requests = 0
    num_waiting_reqs: _Requests = 0
    num_waiting_uncached_tokens: _Tokens | None = None
    num_used_tokens: _Tokens = 0
    num_total_tokens: _Tokens = 0
    max_total_num_tokens: _Tokens | None = None
    max_running_requests: _Requests | None = None
    token_usage: _Ratio | None = None
    gen_throughput: _TokensPerSecond | None = None
    cache_hit_rate: _Ratio | None = None
    utilization: _Ratio | None = None
    num_active_tokens: _Tokens | None = None
    num_prealloc_ready_tokens: _Tokens | None = None
    total_prefill_uncached_tokens: _Tokens | None = None
    total_prefill_busy_us: _Microseconds | None = None
    decode_moments: _Moments | None = None
    memory: MemorySection | None = None
    speculative: SpeculativeSection | None = None
    lora: LoraSection | None = None
    disaggregation: DisaggregationSection | None = None
    queues: QueuesSection | None = None

    def to_dict(self, include: str | Iterable[str] = "") -> dict[str, Any]:
        """A JSON-ready dictionary: core fields flat, each section asked for as a nested dictionary under its field.

        Absent sections are left out. A field that was not reported stays, as ``None``, so that the set of keys does
        not depend on what a scheduler measures. Fields that a subclass adds count as core. numpy numbers become native
        ones; NaN and infinities stay as they are, because what to do with them is the formatter's choice.

        Args:
            include: the sections wanted, as in :func:`parse_include`.

        Raises:
            InvalidValue: ``include`` names an unknown section.
        """
        wanted = parse_include(include)
        values = asdict(self)
        sections = {field: values.pop(field) for field in SECTION_FIELDS.values()}
        result = _plain(values)
        for section, field in SECTION_FIELDS.items():
            value = sections[field]
            if section in wanted and value is not None:
                result[field] = _plain(asdict(value))
        return result


_NATIVE: Final = frozenset({int, float, bool, str, type(None)})


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    # Most often all values are native already, which one pass without bytecode can tell.
    if _NATIVE.issuperset(map(type, values.values())):
        return values
    return {name: value if type(value) in _NATIVE else _native(value) for name, value in values.items()}


def _native(value: Any) -> Any:  # noqa: ANN401  a field's value, whatever its type
    """``value`` without structs and without numpy, whose numbers all know ``tolist``: no need to import it to ask."""
    if isinstance(value, Struct):
        return _plain(asdict(value))
    if isinstance(value, list | tuple):
        return [item if type(item) in _NATIVE else _native(item) for item in value]
    to_native = getattr(value, "tolist", None)
    return value if to_native is None else to_native()
