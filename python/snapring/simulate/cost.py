"""How long one step of a rank takes, and how much a rank holds: the numbers of the model, all in one place."""

import math

import msgspec

from snapring.errors import InvalidValue

__all__ = ["RankConfig", "StepCost"]


class StepCost(msgspec.Struct, frozen=True):
    """Step time as a linear function of the work in the step, in seconds.

    ::

        t = base_s + prefill_token_s * prefill_tokens + sequence_s * batch + context_token_s * context_tokens

    Why linear: engines themselves publish the running sums from which a linear fit of decode step time against batch
    size follows (`decode_moments`), and routers fit it. The growth of attention inside one prefill chunk is left out.

    Where the constants come from: they are assumptions for a GPU deployment between an 8B model on one and a 70B model
    on four accelerators of 2023 (3 TB/s memory, 400 TFLOP/s achieved each), not measurements. Per step, weights are
    read once (16 GB, or 140 GB over four: 5 to 12 ms) plus launches: 8 ms. Per prefill token, two FLOP a weight: 40 to
    90 us: 50 us. Per sequence, sampling and bookkeeping: 20 us. Per context token, its keys and values are read once
    (80 to 128 KiB a device: 27 to 43 ns): 40 ns.

    Constants are finite and not negative, and ``base_s`` is above 0, so that time always advances; else `InvalidValue`.
    """

    base_s: float = 8e-3
    prefill_token_s: float = 50e-6
    sequence_s: float = 20e-6
    context_token_s: float = 40e-9

    def __post_init__(self) -> None:
        constants = (self.base_s, self.prefill_token_s, self.sequence_s, self.context_token_s)
        if self.base_s <= 0 or not all(0 <= constant < math.inf for constant in constants):
            raise InvalidValue(f"step costs must be finite and not negative, and base_s above 0, not {self}")

    def seconds(self, *, prefill_tokens: int, batch: int, context_tokens: int) -> float:
        """Return the duration of a step over ``batch`` sequences that hold ``context_tokens`` from earlier steps."""
        return (
            self.base_s
            + self.prefill_token_s * prefill_tokens
            + self.sequence_s * batch
            + self.context_token_s * context_tokens
        )


class RankConfig(msgspec.Struct, frozen=True):
    """What one rank can hold and how fast it is. Raises `InvalidValue` for values out of range.

    ``chunk_tokens``: most prompt tokens in one prefill step. ``max_running``: most requests admitted at once.
    ``kv_capacity_tokens``: KV slots, one per token. These three are at least 1. ``headroom_tokens``: KV slots kept
    free per admitted request when another one is admitted, 0 or more; a small value fills the memory and retracts
    often, a large one leaves memory unused. ``cost``: see `StepCost`. Defaults are assumptions of the same deployment.
    """

    chunk_tokens: int = 4_096
    max_running: int = 256
    kv_capacity_tokens: int = 250_000
    headroom_tokens: int = 64
    cost: StepCost = StepCost()

    def __post_init__(self) -> None:
        if min(self.chunk_tokens, self.max_running, self.kv_capacity_tokens) < 1 or self.headroom_tokens < 0:
            raise InvalidValue(
                "chunk_tokens, max_running and kv_capacity_tokens must be at least 1 and headroom_tokens at least 0, "
                f"not {self.chunk_tokens}, {self.max_running}, {self.kv_capacity_tokens} and {self.headroom_tokens}"
            )
