"""The older load routes, in the shapes that their callers parse: ``/get_load``, ``/get_loads`` and ``/load``.

``/get_load``
    SGLang's, up to 0.5.14: a list with an object per rank. SGLang's gateway sums ``num_tokens`` over it
    (``worker_manager.rs``), and tools read ``num_waiting_reqs`` and ``num_pending_tokens``. vllm-router's fork of the
    gateway looks for ``{"load": n}`` instead (vllm-project/router#174), a shape that no engine has ever sent; its fix
    (vllm-project/router#175) asks ``/load``.
``/get_loads``
    What a gateway tells of its workers: ``{"workers": [{"worker": url, "load": tokens}]}``, and as ``loads`` with
    ``total_workers``, ``successful`` and ``failed``, as the gateway's ``WorkerLoadsResult`` is written down. Each rank
    is a worker, called ``URL@RANK`` as the gateway calls data-parallel ranks. -1 means that the load is not known.
``/load``
    vLLM's: ``{"server_load": requests}``, here running and waiting ones.

LIVE and STALE ranks count, because a rank in a long step still has its load; a DEAD one is left out (-1 in
``/get_loads``), and so is one that does not tell how many requests run. Where no rank is left, ``/get_load`` and
``/load`` answer 503: their callers would take 0 or nothing for an idle server and send it everything.
All three do so when the ring cannot be read.

Their callers expect integers and know no "not reported": a number that a ring does not hold is 0, and -1 in
``/get_loads``. Rings of :class:`snapring.LoadSnapshot` hold all of them.
"""

import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from snapring import Snapshot, State
from snapring.errors import SnapringError
from snapring.formats.ratios import number
from snapring.loads import Loads
from snapring.serve.reply import JSON, AnswerResponse, error, unreadable, whole

__all__ = ["get_load", "get_loads", "routes", "server_load"]

Snapshots = list[Snapshot[Any]]
Document = list[dict[str, int | float]] | dict[str, Any]

NOTHING: str = "no rank is live or stale, so nothing is known of the load; look at /readyz"


def routes(loads: Loads) -> list[Route]:
    """The three routes over ``loads``; wait-free, for any number of requests at once."""
    return [
        Route("/get_load", _answer(loads, lambda ranks, _: get_load(ranks, time.monotonic())), methods=["GET"]),
        Route("/get_loads", _answer(loads, lambda ranks, request: get_loads(ranks, _base(request))), methods=["GET"]),
        Route("/load", _answer(loads, lambda ranks, _: server_load(ranks)), methods=["GET"]),
    ]


def get_load(ranks: Snapshots, now: float) -> Document | None:
    """The document of ``/get_load``, None without a rank; ``ts_tic`` is the publish on the clock that says ``now``."""
    return [
        {
            "dp_rank": rank.rank,
            "num_reqs": _count(rank, "num_running_reqs") + _count(rank, "num_waiting_reqs"),
            "num_waiting_reqs": _count(rank, "num_waiting_reqs"),
            "num_tokens": _count(rank, "num_total_tokens"),
            "num_pending_tokens": max(_count(rank, "num_total_tokens") - _count(rank, "num_used_tokens"), 0),
            "ts_tic": now - rank.age,
        }
        for rank in _present(ranks)
    ] or None


def get_loads(ranks: Snapshots, base: str) -> Document:
    """The document of ``/get_loads`` of a server at the URL ``base``."""
    present = {rank.rank for rank in _present(ranks)}
    loads = [
        {"worker": f"{base}@{rank.rank}", "load": _count(rank, "num_total_tokens", -1) if rank.rank in present else -1}
        for rank in ranks
    ]
    known = sum(load["load"] != -1 for load in loads)
    return {
        "workers": loads,
        "loads": [{**load, "worker_type": None} for load in loads],
        "total_workers": len(loads),
        "successful": known,
        "failed": len(loads) - known,
    }


def server_load(ranks: Snapshots) -> Document | None:
    """The document of ``/load``, None without a rank."""
    counts = [_count(rank, name) for rank in _present(ranks) for name in ("num_running_reqs", "num_waiting_reqs")]
    return {"server_load": sum(counts)} if counts else None


def _answer(
    loads: Loads, document: Callable[[Snapshots, Request], Document | None]
) -> Callable[[Request], Awaitable[Response]]:
    """A handler that answers with the document of all ranks, or an error where there is none."""

    async def handler(request: Request) -> Response:
        try:
            found = document(loads.reader.read_all(), request)
        except SnapringError as problem:
            return AnswerResponse(unreadable(problem))
        if found is None:
            return error(503, NOTHING)
        return AnswerResponse(whole(200, JSON, msgspec.json.encode(found)))

    return handler


def _present(ranks: Snapshots) -> Snapshots:
    """Ranks that are not dead and say how much runs: one of another schema is no idle one."""
    return [
        rank
        for rank in ranks
        if rank.state in {State.LIVE, State.STALE} and number(rank.value, "num_running_reqs") is not None
    ]


def _count(rank: Snapshot[Any], name: str, otherwise: int = 0) -> int:
    found = number(rank.value, name)
    return otherwise if found is None else int(found)


def _base(request: Request) -> str:
    return str(request.base_url).rstrip("/")
