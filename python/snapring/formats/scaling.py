"""How many ranks the present load needs: one composite number for autoscalers.

Pure, safe in any thread and after a fork.
"""

import math
from collections.abc import Iterable
from typing import Final

from msgspec import Struct

from snapring.errors import InvalidValue
from snapring.formats.ratios import RankState, kv_ratio, live_values, mean, number
from snapring.state import State

__all__ = ["Scaling", "ScalingTerm", "ScalingTerms", "check_target", "scaling"]

TARGET_WAITING: Final = 4.0
TARGET_KV: Final = 0.8
LEAST_TARGET: Final = 1e-3
MOST_WAITING: Final = 1e9


class ScalingTerm(Struct, frozen=True):
    """One reason to scale.

    Attributes:
        mean: over LIVE ranks.
        target: what it should be.
        value: the former over the latter; above 1 there is too little of this.
    """

    mean: float
    target: float
    value: float


class ScalingTerms(Struct, frozen=True):
    """The reasons: ``waiting`` in requests per LIVE rank, ``kv`` as ratio in 0..1; None where no LIVE rank tells."""

    waiting: ScalingTerm | None
    kv: ScalingTerm | None


class Scaling(Struct, frozen=True):
    """What an autoscaler wants to know.

    Attributes:
        value: the larger of the terms: 1 is just right, 2 needs twice the ranks.
        desired_ranks: ``ceil(live_ranks * value)``, at least 1; 0 where idle.
        idle: no request anywhere, so that all ranks could stop. Never with a STALE rank, whose last word may be old:
            it may be in a long step.
        live_ranks: LIVE ranks.
        ranks: ranks that have ever published.
        terms: the terms.
    """

    value: float
    desired_ranks: int
    idle: bool
    live_ranks: int
    ranks: int
    terms: ScalingTerms


def scaling(
    ranks: Iterable[RankState], *, target_waiting: float = TARGET_WAITING, target_kv: float = TARGET_KV
) -> Scaling | None:
    """The composite rule; None where no LIVE rank reports a term: unknown is not 0, which would stop the server.

    ``value = max(mean num_waiting_reqs / target_waiting, mean KV ratio / target_kv)`` over LIVE ranks, and
    ``desired_ranks = ceil(live_ranks * value)``, which is the formula of Kubernetes' HorizontalPodAutoscaler
    (``ceil(currentReplicas * currentMetricValue / desiredMetricValue)``) with 1 as the desired value. The queue tells
    of load that has come, the KV cache of room that is going. Which is reported by some LIVE ranks only is the mean of
    these.

    Args:
        ranks: snapshots, as of ``Reader.read_all``.
        target_waiting: waiting requests per rank that are fine, 0.001 to 1e9.
        target_kv: used part of the KV cache that is fine, 0.001 to 1.

    Raises:
        InvalidValue: a target is outside of its range.
    """
    check_target("target_waiting", target_waiting)
    check_target("target_kv", target_kv)
    ranks = list(ranks)
    values = live_values(ranks)
    terms = ScalingTerms(
        _term(mean(number(value, "num_waiting_reqs") for value in values), target_waiting),
        _term(mean(map(kv_ratio, values)), target_kv),
    )
    ratios = [term.value for term in (terms.waiting, terms.kv) if term is not None]
    if not ratios:
        return None
    idle = _idle(ranks, values)
    desired = 0 if idle else max(1, math.ceil(len(values) * max(ratios)))
    return Scaling(max(ratios), desired, idle, len(values), len(ranks), terms)


def check_target(name: str, target: float) -> None:
    """Check ``target_waiting`` or ``target_kv``.

    Raises:
        InvalidValue: outside of its range.
    """
    most = 1.0 if name == "target_kv" else MOST_WAITING
    if not LEAST_TARGET <= target <= most:
        raise InvalidValue(f"{name}={target!r} must be a number from {LEAST_TARGET:g} to {most:g}")


def _term(found: float | None, target: float) -> ScalingTerm | None:
    return None if found is None else ScalingTerm(found, target, found / target)


def _idle(ranks: list[RankState], values: list[object]) -> bool:
    """Whether nobody works or may work: no request runs, waits or has its KV sent by a LIVE rank, and none is STALE."""
    if any(rank.state == State.STALE for rank in ranks):
        return False
    sections = [getattr(value, "disaggregation", None) for value in values]
    return not any(
        number(value, name) != 0 for value in values for name in ("num_running_reqs", "num_waiting_reqs")
    ) and (not any(number(section, "prefill_inflight_queue_reqs") for section in sections))
