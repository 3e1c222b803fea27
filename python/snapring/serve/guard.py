"""Who may ask: :class:`Guard`, an ASGI middleware in front of every route.

What it refuses the application never sees.
"""

import base64
import binascii
import hmac
import re
from typing import Final

from snapring.errors import InvalidValue
from snapring.serve.asgi import App, Receive, Scope, Send, path_of
from snapring.serve.reply import failure, send_answer

__all__ = ["HEALTH", "Guard"]

HEALTH: Final = frozenset({"/healthz", "/readyz"})
"""Paths that need no token: who restarts a server has none."""

LOOPBACK_HOSTS: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})
"""What a browser or a script of this host calls it."""

HOST: Final = re.compile(rb"(\[[^\[\]]*\]|[^:\[\]]+)(?::[0-9]*)?")
"""A Host header: a name or an address, IPv6 in brackets, then perhaps a port."""

CHALLENGES: Final = (
    (b"www-authenticate", b'Basic realm="snapring", charset="UTF-8"'),  # a browser asks its user
    (b"www-authenticate", b'Bearer realm="snapring"'),
)


class Guard:
    """An application that lets through to ``app`` only who may ask.

    Args:
        app: any ASGI application. Its lifespan passes; websockets are refused, for no route speaks them.
        token: what a request has to bring, as ``Authorization: Bearer TOKEN`` or as the password of HTTP Basic, with
            any user. The paths of `HEALTH` need none. None lets everybody in. It is never logged or shown.
        hosts: names, without port and in lower case, that the Host header may have, besides those of the loopback
            interface; None does not look. A page of the network whose name was bound anew to 127.0.0.1 is stopped so:
            the browser still sends its own name. Needed only where a server listens to this host alone, since others
            have names of their own.

    Safe with any number of requests at once. Errors are JSON: 401 without the token, 421 for a wrong Host, 400 for
    none or several.

    Raises:
        InvalidValue: the token is empty, so that nobody would have to know it.
    """

    def __init__(self, app: App, *, token: str | None, hosts: frozenset[str] | None) -> None:
        if token is not None and not token.strip():
            raise InvalidValue("an empty token keeps nobody out; give one, or None to let everybody in")
        self._app = app
        self._token = None if token is None else token.encode()
        self._hosts = None if hosts is None else hosts | LOOPBACK_HOSTS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer or refuse one connection."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008, "reason": ""})
            return
        headers: list[tuple[bytes, bytes]] = list(scope["headers"])
        if self._hosts is not None and (wrong := _wrong_host(_all(headers, b"host"), self._hosts)):
            await send_answer(send, failure(*wrong))
        elif self._token is not None and path_of(scope) not in HEALTH and not self._knows(headers):
            text = "the token is missing or wrong; send it as Authorization: Bearer TOKEN, or as a password"
            await send_answer(send, failure(401, text, more=CHALLENGES))
        else:
            await self._app(scope, receive, send)

    def _knows(self, headers: list[tuple[bytes, bytes]]) -> bool:
        """Whether the request brings the token, once; how long the comparison takes tells nothing of it."""
        given = _all(headers, b"authorization")
        secret = _secret_in(given[0]) if len(given) == 1 else None
        return secret is not None and self._token is not None and hmac.compare_digest(secret, self._token)


def _all(headers: list[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    return [value for key, value in headers if key.lower() == name]


def _secret_in(header: bytes) -> bytes | None:
    """The token of an Authorization header of either kind, None where there is none."""
    scheme, _, rest = header.strip().partition(b" ")
    rest = rest.strip()
    match scheme.lower():
        case b"bearer":
            return rest
        case b"basic":
            try:
                _, colon, password = base64.b64decode(rest, validate=True).partition(b":")
            except binascii.Error:
                return None
            return password if colon else None
        case _:
            return None


def _wrong_host(given: list[bytes], hosts: frozenset[str]) -> tuple[int, str] | None:
    """Status and message where the Host header does not name one of ``hosts``, with any port."""
    if len(given) != 1:
        return 400, "a request needs one Host header"
    found = HOST.fullmatch(given[0].strip().lower())
    if found is not None and found[1].decode("latin-1") in hosts:  # which takes any byte
        return None
    return 421, f"this server answers only as {', '.join(sorted(hosts))}; ask it by one of these names"
