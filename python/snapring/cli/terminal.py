"""The terminal: keys as they are pressed, the signals that ask for an end, and what kind of screen there is."""

import os
import select
import signal
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, Final

__all__ = ["Keys", "StopRequest", "catch_stop", "ended_by_signals", "is_interactive", "keys"]

ESCAPES: Final = {b"\x1b[A": "up", b"\x1b[B": "down", b"\x1bOA": "up", b"\x1bOB": "down"}
"""What arrow keys send, by name."""

STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def is_interactive() -> bool:
    """Tell whether a person sits in front: standard input and output are a terminal that can move its cursor."""
    return sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"


class Keys:
    """Keys pressed, without waiting for a line. Belongs to one thread."""

    def __init__(self, descriptor: int) -> None:
        """Read from ``descriptor``, a terminal in cbreak mode."""
        self._descriptor = descriptor
        self.ended = False

    def fileno(self) -> int:
        """Return the descriptor, readable when a key was pressed."""
        return self._descriptor

    def pressed(self) -> list[str]:
        """Return, without waiting, what was pressed: letters, digits, ``up`` and ``down``; other keys are left out.

        Once the terminal is gone, ``ended`` is True.
        """
        if not select.select([self], [], [], 0)[0]:
            return []
        try:
            text = os.read(self._descriptor, 1024)
        except OSError:  # the terminal hung up
            text = b""
        self.ended = not text
        return _names(text)


def _names(text: bytes) -> list[str]:
    names = []
    while text:
        escape = next((escape for escape in ESCAPES if text.startswith(escape)), b"")
        if escape:
            names.append(ESCAPES[escape])
        elif text.startswith(b"\x1b"):
            break  # some other key; its letters and digits were never pressed
        elif text[:1].isalnum():
            names.append(text[:1].decode())
        text = text[len(escape) or 1 :]
    return names


@contextmanager
def keys() -> Iterator[Keys]:
    """Give the keys of standard input, a terminal; its mode is put back at the end. Ctrl-C stays a signal."""
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor)
    try:
        yield Keys(descriptor)
    finally:
        with suppress(termios.error):  # the terminal hung up
            termios.tcsetattr(descriptor, termios.TCSANOW, before)


class StopRequest:
    """Whether somebody asked this process to end: ``signal`` is the first such signal's number, or None."""

    def __init__(self, descriptor: int) -> None:
        """Nobody has; ``descriptor`` becomes readable when somebody does."""
        self._descriptor = descriptor
        self.signal: int | None = None

    def fileno(self) -> int:
        """Return a descriptor that is readable from the first request on."""
        return self._descriptor

    @property
    def exit_code(self) -> int:
        """The exit code that shells expect of a process that a signal ended; 0 if none did."""
        return 0 if self.signal is None else 128 + self.signal


@contextmanager
def catch_stop() -> Iterator[StopRequest]:
    """Turn Ctrl-C, SIGTERM and a hang-up into a wish to be looked at, so that what was begun is put away in order.

    In the main thread only. The handlers of before are put back at the end; a signal that was ignored stays so.
    """
    readable, written = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    request = StopRequest(readable)

    def note(number: int, _: FrameType | None) -> None:
        request.signal = request.signal or number

    handlers = _handle(note)
    # A handler alone would not end a wait: Python goes on waiting after it.
    wakeup = signal.set_wakeup_fd(written, warn_on_full_buffer=False)
    try:
        yield request
    finally:
        signal.set_wakeup_fd(wakeup)
        _put_back(handlers)
        os.close(readable)
        os.close(written)


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let the same signals end what cannot look, such as a start, by ``SystemExit``: all that is open is closed.

    The exit code is 0, as of a service that :func:`catch_stop` ends: whoever asked got what was asked for. In the main
    thread only; :func:`catch_stop` may be entered inside, so that there is no moment between them.
    """

    def end(_: int, __: FrameType | None) -> None:
        sys.exit(0)

    handlers = _handle(end)
    try:
        yield
    finally:
        _put_back(handlers)


Handler = Callable[[int, FrameType | None], object]


def _handle(handler: Handler) -> dict[int, Any]:
    """Hear the signals, but those that this process was started to ignore, as nohup does; gives the handlers before."""
    heard = [number for number in STOP_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in heard}


def _put_back(handlers: dict[int, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)
