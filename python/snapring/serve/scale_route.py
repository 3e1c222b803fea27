"""``GET /v1/scale``: how many ranks the present load needs, as one JSON document for autoscalers.

KEDA's ``metrics-api`` scaler reads a number out of it by ``valueLocation`` (a GJSON path)::

    triggers:
      - type: metrics-api
        metricType: Value              # ceil(replicas * value / targetValue)
        metadata:
          url: "http://server:9400/v1/scale?target_waiting=4"
          valueLocation: "value"
          targetValue: "1"

or, with ``metricType: AverageValue``, ``valueLocation: "desired_ranks"`` and the ranks of one replica as
``targetValue``: ``ceil(desired_ranks / targetValue)`` replicas. The latter is 0 while the server is idle, and then KEDA
scales to zero. The rule is that of :func:`snapring.formats.scaling.scaling`.

Answers: 200; 400 for a target that is no number in its range; 503 where no rank is LIVE or the ring cannot be read,
since a scaler would take an answer without load for an idle server.
"""

from collections.abc import Mapping
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from snapring.errors import InvalidValue, SnapringError
from snapring.formats.scaling import TARGET_KV, TARGET_WAITING, check_target, scaling
from snapring.loads import Loads
from snapring.serve.reply import JSON, AnswerResponse, error, unreadable, whole

__all__ = ["routes"]

PARAMETERS: Final = {"target_waiting": TARGET_WAITING, "target_kv": TARGET_KV}
"""What may be asked for, and its default."""


def routes(loads: Loads) -> list[Route]:
    """The route ``/v1/scale`` over ``loads``; wait-free, for any number of requests at once."""

    async def scale(request: Request) -> Response:
        try:
            targets = {name: _target(request.query_params, name) for name in PARAMETERS}
        except InvalidValue as problem:
            return error(400, str(problem), PARAMETERS)
        try:
            found = scaling(loads.reader.read_all(), **targets)
        except SnapringError as problem:
            return AnswerResponse(unreadable(problem))
        if found is None:
            return error(503, "no rank is live, so nothing is known of the load; look at /readyz")
        return AnswerResponse(whole(200, JSON, msgspec.json.encode(found)))

    return [Route("/v1/scale", scale, methods=["GET"])]


def _target(query: Mapping[str, str], name: str) -> float:
    """A target as asked for, or its default.

    Raises:
        InvalidValue: no number, or outside of its range.
    """
    text = query.get(name)
    if text is None:
        return PARAMETERS[name]
    try:
        target = float(text)
    except ValueError:
        raise InvalidValue(f"{name}={text!r} is no number; write {name}={PARAMETERS[name]:g}") from None
    check_target(name, target)
    return target
