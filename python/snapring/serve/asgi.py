"""The types of ASGI, for middlewares that know no framework."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from typing import Any, TypeVar

__all__ = ["App", "Message", "Receive", "Scope", "Send", "path_of", "unless_gone"]

T = TypeVar("T")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


def path_of(scope: Scope) -> str:
    """The path as the routes see it, wherever the application is mounted."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    if not root or not path.startswith(root):
        return path
    inner = path[len(root) :]
    return inner if inner.startswith("/") or not inner else path


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T | None:
    """What ``work`` gives, or None as soon as the client has hung up: it is cancelled then, for nobody waits for it."""

    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    working, hung_up = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait({working, hung_up}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        working.cancel()
        hung_up.cancel()
        await asyncio.wait({working, hung_up})
