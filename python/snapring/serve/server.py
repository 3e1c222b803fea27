"""The server behind ``snapring serve``: :class:`Server`, uvicorn on a socket that was opened before.

Nothing is printed and no access log kept. What uvicorn has to say goes to the logger ``snapring.serve``, which is
silent unless the program asks for it.
"""

import logging
import os
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import uvicorn

from snapring.errors import InvalidValue
from snapring.serve.asgi import App
from snapring.serve.bind import Bind, is_loopback, listening
from snapring.serve.guard import Guard

__all__ = ["Server", "tls_context"]

GRACE_S: Final = 2
"""Answers under way may take so long when the server stops; event streams, which have no end, are then cut."""

_LOG: Final = logging.getLogger("snapring.serve")


class Server:
    """Serves an application over HTTP until it is told to stop.

    Connections queue from the moment it is made, at ``url``; :meth:`run` answers them. An address of this host alone
    gets the check of the Host header, any address that of the token, if there is one: see `Guard`. Nothing is taken
    from headers of proxies.

    Args:
        app: any ASGI application.
        bind: where to listen; port 0 takes a free one.
        token: what requests have to bring, None for nothing.
        tls: of :func:`tls_context`; None for plain HTTP.
        insecure: listen without a token where other hosts can connect.

    Belongs to one thread. In a child of a fork it must not be used.

    Raises:
        InvalidValue: the name has no address, or other hosts could connect without a token. SystemRefused: it cannot be
            listened at, and why.
    """

    def __init__(
        self,
        app: App,
        bind: Bind,
        *,
        token: str | None = None,
        tls: ssl.SSLContext | None = None,
        insecure: bool = False,
    ) -> None:
        self._tls = tls
        self._socket = listening(bind)
        place = self._socket.getsockname()
        # Of the address that was taken: a name may have had another one when somebody looked before.
        local = is_loopback(str(place[0]))
        if not local and token is None and not insecure:
            self._socket.close()
            raise InvalidValue(
                f"other hosts can connect to {place[0]}; give a token, or insecure=True to let anybody read"
            )
        self._app = Guard(app, token=token, hosts=frozenset({bind.name.lower()}) if local else None)
        self.bind: Final = Bind(bind.host, place[1])
        self.url: Final = f"{'http' if tls is None else 'https'}://{self.bind.authority}/"

    def run(self, wants_stop: Callable[[], bool]) -> None:
        """Answer until ``wants_stop``, asked ten times a second, is true; then end what is open within 2 s.

        Handles no signals: who runs it says what they mean.
        """
        config = uvicorn.Config(
            self._app,
            interface="asgi3",
            ws="none",
            workers=1,
            log_config=None,
            log_level=max(_LOG.getEffectiveLevel(), logging.DEBUG),  # its own lowest level would log every header
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=GRACE_S,
        )
        config.load()
        config.ssl = self._tls
        with _logged_here():
            _Uvicorn(config, wants_stop).run(sockets=[self._socket])

    def close(self) -> None:
        """Listen no more. May be called again."""
        self._socket.close()

    def __enter__(self) -> Self:
        """Give the server itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Listen no more."""
        self.close()


class _Uvicorn(uvicorn.Server):
    """uvicorn without its own signal handlers: it would raise the signals again after it has stopped for them."""

    def __init__(self, config: uvicorn.Config, wants_stop: Callable[[], bool]) -> None:
        super().__init__(config)
        self._wants_stop = wants_stop

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals as they are."""
        yield

    async def on_tick(self, counter: int) -> bool:
        """Tell whether to stop."""
        return await super().on_tick(counter) or self._wants_stop()


class _Forwarding(logging.Handler):
    """Hands records on to our own logger."""

    def emit(self, record: logging.LogRecord) -> None:
        """Hand one on."""
        if _LOG.isEnabledFor(record.levelno):
            _LOG.handle(record)


@contextmanager
def _logged_here() -> Iterator[None]:
    """Send what uvicorn and its loop log to our logger, and nowhere else: Python itself prints warnings of others."""
    handler, loggers = _Forwarding(), [logging.getLogger(name) for name in ("uvicorn", "asyncio")]
    propagate = [logger.propagate for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.propagate = False
    try:
        yield
    finally:
        for logger, before in zip(loggers, propagate, strict=True):
            logger.removeHandler(handler)
            logger.propagate = before


def tls_context(certificate: str | os.PathLike[str], key: str | os.PathLike[str]) -> ssl.SSLContext:
    """What a server needs for https, TLS 1.2 or newer, from PEM files of its certificate chain and of its private key.

    Raises:
        InvalidValue: a file cannot be read, is none of these, is encrypted, or the two do not belong together.
    """
    for what, path in (("certificate", certificate), ("key", key)):
        try:
            Path(path).open("rb").close()
        except OSError as error:
            raise InvalidValue(f"the {what} {path} cannot be read: {error.strerror}; name a PEM file") from error
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except (ssl.SSLError, OSError) as error:
        reason = str(getattr(error, "reason", None) or error).replace("_", " ").lower()
        text = f"{certificate} and {key} are no certificate and its key, both in PEM ({reason}); make them anew"
        raise InvalidValue(text) from error
    return context


def _no_password() -> str:
    """Refuse to ask the terminal for one, as OpenSSL would."""
    raise InvalidValue("the key is encrypted, and a server has nobody to ask; write it without: openssl pkey -in KEY")
