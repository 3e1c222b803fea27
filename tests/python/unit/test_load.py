import json
import math
from collections.abc import Iterable
from typing import Any, get_args, get_type_hints

import msgspec
import numpy as np
import pytest

from snapring.errors import InvalidValue
from snapring.load import (
    SECTION_FIELDS,
    DisaggregationSection,
    LoadSnapshot,
    LoraSection,
    MemorySection,
    QueuesSection,
    Section,
    SpeculativeSection,
    parse_include,
)

CORE_KEYS = [
    "dp_rank",
    "timestamp",
    "num_running_reqs",
    "num_waiting_reqs",
    "num_waiting_uncached_tokens",
    "num_used_tokens",
    "num_total_tokens",
    "max_total_num_tokens",
    "max_running_requests",
    "token_usage",
    "gen_throughput",
    "cache_hit_rate",
    "utilization",
    "num_active_tokens",
    "num_prealloc_ready_tokens",
    "total_prefill_uncached_tokens",
    "total_prefill_busy_us",
    "decode_moments",
]
SECTION_KEYS = {
    "memory": ["weight_gb", "kv_cache_gb", "graph_gb", "token_capacity"],
    "speculative": ["accept_length", "accept_rate"],
    "lora": ["slots_used", "slots_total", "utilization"],
    "disaggregation": [
        "mode",
        "prefill_bootstrap_queue_reqs",
        "prefill_inflight_queue_reqs",
        "decode_prealloc_queue_reqs",
        "decode_transfer_queue_reqs",
        "decode_retracted_queue_reqs",
        "kv_transfer_speed_gb_s",
        "kv_transfer_latency_ms",
    ],
    "queues": ["waiting", "grammar", "paused", "retracted", "prealloc_ready"],
}
ALL_CLASSES = [LoadSnapshot, MemorySection, SpeculativeSection, LoraSection, DisaggregationSection, QueuesSection]


def full() -> LoadSnapshot:
    """A snapshot with every section."""
    return LoadSnapshot(
        dp_rank=3,
        timestamp=1.5,
        num_running_reqs=12,
        decode_moments=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
        memory=MemorySection(weight_gb=14.5),
        speculative=SpeculativeSection(accept_length=2.5),
        lora=LoraSection(slots_used=1),
        disaggregation=DisaggregationSection(mode="decode"),
        queues=QueuesSection(waiting=4),
    )


def marks(cls: type, field: str) -> msgspec.Meta:
    """The Meta of a field, wherever in ``X | None`` it stands."""
    hint = get_type_hints(cls, include_extras=True)[field]
    found: list[msgspec.Meta] = [meta for part in (hint, *get_args(hint)) for meta in getattr(part, "__metadata__", ())]
    assert len(found) == 1
    return found[0]


def test_every_field_is_there_under_its_customary_name() -> None:
    """The keys are those that existing clients of a load report read: core flat, sections nested."""
    result = full().to_dict()

    assert CORE_KEYS + list(SECTION_KEYS) == list(result)
    assert {key: list(result[key]) for key in SECTION_KEYS} == SECTION_KEYS


def test_plain_counts_default_to_zero_and_all_else_to_not_reported() -> None:
    """Unknown differs from zero: only counts that every scheduler keeps may default to 0."""
    zero = {"num_running_reqs", "num_waiting_reqs", "num_used_tokens", "num_total_tokens"}

    assert {key: 0 if key in zero else None for key in CORE_KEYS} == LoadSnapshot().to_dict()


@pytest.mark.parametrize("cls", ALL_CLASSES)
def test_units_stand_in_the_annotation_and_in_the_docstring(cls: type) -> None:
    """Every number carries its unit for programs, and every field is explained to readers."""
    for field in msgspec.structs.fields(cls):
        lines = [line for line in (cls.__doc__ or "").splitlines() if line.strip().startswith(f"{field.name}: ")]
        assert len(lines) == 1, field.name
        if field.name not in {*SECTION_FIELDS.values(), "mode"}:
            assert (marks(cls, field.name).extra or {})["unit"]


def test_the_writer_fills_the_rank_and_the_time() -> None:
    """Exactly two fields are marked to be filled at publish when they are None."""
    plain = [name for name in CORE_KEYS if name not in SECTION_FIELDS.values()]
    fills = {name: (marks(LoadSnapshot, name).extra or {}).get("fill") for name in plain}

    assert {name: fill for name, fill in fills.items() if fill} == {"dp_rank": "rank", "timestamp": "timestamp"}


def test_decode_moments_are_bounded() -> None:
    """A list needs an upper length, or a record could not have a fixed layout."""
    assert marks(LoadSnapshot, "decode_moments").max_length == 6


@pytest.mark.parametrize("cls", ALL_CLASSES)
def test_snapshots_are_frozen_and_untracked(cls: type[msgspec.Struct]) -> None:
    """A snapshot handed to another thread cannot change, and does not burden the garbage collector."""
    config = cls.__struct_config__

    assert config.frozen
    assert not config.gc


def test_unknown_fields_are_ignored_and_missing_ones_take_defaults() -> None:
    """A report of a newer or older release still decodes."""
    text = b'{"num_running_reqs": 2, "a_newer_field": 9, "queues": {"waiting": 1, "newer_queue": 4}}'

    expected = LoadSnapshot(num_running_reqs=2, queues=QueuesSection(waiting=1))
    assert expected == msgspec.json.decode(text, type=LoadSnapshot)


@pytest.mark.parametrize(
    ("include", "sections"),
    [
        ("", list(SECTION_KEYS)),
        ("  ", list(SECTION_KEYS)),
        ([], list(SECTION_KEYS)),
        ("all", list(SECTION_KEYS)),
        ("core", []),
        ("core,all", list(SECTION_KEYS)),
        ("memory", ["memory"]),
        ("spec", ["speculative"]),
        (" disagg , queues ", ["disaggregation", "queues"]),
        ([" lora "], ["lora"]),
        ((name for name in ["queues", "memory"]), ["memory", "queues"]),
        ([Section.SPEC], ["speculative"]),
    ],
)
def test_include_selects_sections(include: str | Iterable[str], sections: list[str]) -> None:
    """Comma text or names, blanks trimmed, empty means all, core always there."""
    assert CORE_KEYS + sections == list(full().to_dict(include))


@pytest.mark.parametrize("include", ["speculative", "core,", ",", "core,,memory", ["memory", ""], "MEMORY"])
def test_unknown_include_is_refused_with_the_valid_names(include: str | list[str]) -> None:
    """A typing error is told, also when the snapshot has no sections at all."""
    with pytest.raises(InvalidValue, match="valid names: all, core, memory, spec, lora, disagg, queues"):
        LoadSnapshot().to_dict(include)


def test_parse_include_needs_no_snapshot() -> None:
    """A server can refuse a bad query before it has any rank's data."""
    assert frozenset({Section.CORE, Section.LORA}) == parse_include("lora")
    assert frozenset(Section) == parse_include()


def test_absent_sections_are_left_out() -> None:
    """A section that does not apply has no key; its presence is the information."""
    assert list(LoadSnapshot().to_dict("all")) == CORE_KEYS


def test_numpy_numbers_become_native() -> None:
    """Schedulers count with numpy; JSON encoders know only Python's own numbers."""
    numbers: dict[str, Any] = {
        "num_running_reqs": np.int64(3),
        "token_usage": np.float64(0.5),
        "gen_throughput": np.float32(2.0),
        "decode_moments": [np.float64(1.0), 2],
    }
    capacity: Any = np.uint32(7)

    result = LoadSnapshot(**numbers, memory=MemorySection(token_capacity=capacity)).to_dict()

    assert (int, 3) == (type(result["num_running_reqs"]), result["num_running_reqs"])
    assert (float, 0.5) == (type(result["token_usage"]), result["token_usage"])
    assert (float, 2.0) == (type(result["gen_throughput"]), result["gen_throughput"])
    assert [float, int] == [type(moment) for moment in result["decode_moments"]]
    assert int is type(result["memory"]["token_capacity"])
    assert json.loads(msgspec.json.encode(result)) == result


def test_a_numpy_array_of_moments_becomes_a_list() -> None:
    """The six sums are often kept as one array."""
    moments = LoadSnapshot(decode_moments=np.arange(6.0)).to_dict()["decode_moments"]  # type: ignore[arg-type]

    assert moments == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    assert list is type(moments)


def test_the_dictionary_shares_nothing_with_the_snapshot() -> None:
    """Whoever changes a report does not change the snapshot that others read."""
    snapshot = full()

    snapshot.to_dict()["decode_moments"].append(7.0)

    assert snapshot.decode_moments == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]


def test_not_a_number_stays() -> None:
    """Whether NaN becomes null is decided by the format, not here."""
    assert math.isnan(LoadSnapshot(token_usage=math.nan).to_dict()["token_usage"])


def test_fields_of_a_subclass_are_core() -> None:
    """Who appends fields of their own sees them in the report, also when no section is asked for."""

    class Pages(msgspec.Struct, frozen=True):
        free: int = 2

    class Mine(LoadSnapshot, frozen=True):
        steps: int = 7
        pages: Pages = Pages()

    result = Mine(memory=MemorySection()).to_dict("core")

    assert list(result) == [*CORE_KEYS, "steps", "pages"]
    assert (result["steps"], result["pages"]) == (7, {"free": 2})
