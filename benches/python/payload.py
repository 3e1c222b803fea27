"""The snapshot that every peer publishes: every field of a full load, a pure function of rank and step.

45 numbers or words in the core and five sections. Because it is a pure function, whoever reads a snapshot can work out
what all its other fields must be from its step, so a mixture of two publishes never passes as one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from model import Leaf, Load, WrongAnswer

SECTIONS = ("memory", "speculative", "lora", "disaggregation", "queues")
TIMED_STEP = 1
"""What the timed publishes carry; a store starts out with step 0, so that one that did nothing is found out."""

STEP_ZERO_S = 1_790_000_000.25
"""The timestamp of step 0 in Unix seconds; a step is one second, so every timestamp is exact."""


def nested_load(rank: int, step: int) -> dict[str, Any]:
    """Return the snapshot of `rank` at `step` with its sections as dictionaries, values as a busy engine has them."""
    running = 17 + (step + rank) % 200
    used = 180_000 + 311 * (step % 1000) + rank
    return {
        "timestamp": STEP_ZERO_S + step,
        "dp_rank": rank,
        "num_running_reqs": running,
        "num_waiting_reqs": 3 + step % 7,
        "num_waiting_uncached_tokens": 5200 + step % 900,
        "num_used_tokens": used,
        "num_total_tokens": used + 9100,
        "num_active_tokens": used + 8000,
        "num_prealloc_ready_tokens": 640 + step % 64,
        "max_total_num_tokens": 524_288,
        "max_running_requests": 512,
        "token_usage": (used % 10_000) / 10_000,
        "gen_throughput": 2143.75 + step % 100,
        "cache_hit_rate": 0.4375,
        "utilization": 0.8125,
        "total_prefill_uncached_tokens": 73_400_320 + step,
        "total_prefill_busy_us": 990_000_000 + step,
        "decode_moments": [1000.0 + step, 31.5, 17_250.5, 1012.25, 560_000.125, 31_500.0],
        "memory": {"weight_gb": 14.963, "kv_cache_gb": 48.125, "graph_gb": 1.375, "token_capacity": 524_288},
        "speculative": {"accept_length": 2.625, "accept_rate": 0.71875},
        "lora": {"slots_used": 3, "slots_total": 8, "utilization": 0.375},
        "disaggregation": {
            "mode": "decode",
            "prefill_bootstrap_queue_reqs": 301,
            "prefill_inflight_queue_reqs": 2,
            "decode_prealloc_queue_reqs": 5 + step % 3,
            "decode_transfer_queue_reqs": 4,
            "decode_retracted_queue_reqs": 1,
            "kv_transfer_speed_gb_s": 21.5,
            "kv_transfer_latency_ms": 3.25,
        },
        "queues": {"waiting": 3 + step % 7, "grammar": 2, "paused": 1, "retracted": 6, "prealloc_ready": 7},
    }


def load(rank: int, step: int = 0) -> dict[str, Leaf]:
    """Return the same snapshot flat: one entry per value, dotted names, list items by number."""
    return flatten(nested_load(rank, step))


def flatten(value: object, prefix: str = "") -> dict[str, Leaf]:
    """Return every value inside a msgspec Struct, mapping or list under its dotted name; None is left out."""
    if isinstance(value, msgspec.Struct):
        value = msgspec.structs.asdict(value)
    elif isinstance(value, list | tuple):
        value = {str(index): item for index, item in enumerate(value)}
    if isinstance(value, Mapping):
        leaves: dict[str, Leaf] = {}
        for name, item in value.items():
            leaves.update(flatten(item, f"{prefix}.{name}" if prefix else str(name)))
        return leaves
    if value is None:
        return {}
    leaf = msgspec.to_builtins(value)
    if not isinstance(leaf, int | float | str):
        raise WrongAnswer(f"{prefix}: a {type(leaf).__name__} where a number or a word was published")
    return {prefix: leaf}


def step_of(seen: Load) -> int:
    """Return the step of a snapshot by its timestamp, which every peer carries."""
    return step_at(float(seen["timestamp"]))


def step_at(timestamp: float) -> int:
    """Return the step that carries `timestamp` (Unix seconds)."""
    return int(timestamp - STEP_ZERO_S)


def verify_whole(seen: Load) -> None:
    """Raise `WrongAnswer` unless all of `seen` belongs to one and the same publish."""
    step = step_of(seen)
    want = load(int(seen["dp_rank"]), step)
    torn = [name for name, value in seen.items() if want.get(name) != value]
    if torn:
        raise WrongAnswer(f"torn read: {torn[0]} is not of step {step}")


def words(values: Mapping[str, Leaf]) -> dict[str, int | float]:
    """Return a flat load as numbers only, for peers without text: the mode word becomes its index."""
    modes = ("null", "prefill", "decode")
    return {name: modes.index(value) if isinstance(value, str) else value for name, value in values.items()}


def numbered(rank: int) -> dict[str, int | float]:
    """Return the numbers of a timed publish as ``value0``, ``value1``, for statements that name each one."""
    return {f"value{index}": value for index, value in enumerate(words(load(rank, TIMED_STEP)).values())}


def from_words(names: list[str], values: tuple[int | float, ...] | list[int | float]) -> dict[str, Leaf]:
    """Undo `words` for a record read back as bare numbers in the order of `names`."""
    leaves: dict[str, Leaf] = dict(zip(names, values, strict=True))
    leaves["disaggregation.mode"] = ("null", "prefill", "decode")[int(leaves["disaggregation.mode"])]
    return leaves
