"""A command on a terminal of its own, as a person would see it."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from types import TracebackType
from typing import Self

COMMAND = [sys.executable, "-P", "-W", "error", "-m", "snapring"]

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\x1b[()][A-Z0-9]")


class PseudoTerminal:
    """Runs ``snapring`` with ``arguments`` on a terminal of ``columns`` and ``lines``; kills it at the end."""

    def __init__(self, *arguments: str, columns: int = 120, lines: int = 24, **env: str) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.mode_before = termios.tcgetattr(theirs)
        self._theirs = theirs
        dropped = {"NO_COLOR", "COLUMNS", "LINES", "FORCE_COLOR"}
        clean = {name: value for name, value in os.environ.items() if name not in dropped}
        self.process = subprocess.Popen(
            [*COMMAND, *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            # So that Ctrl-C is a signal. The child of a fork may do this much.
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509
            env=clean | {"TERM": "xterm-256color"} | env,
        )
        self.output = ""

    def press(self, keys: str) -> None:
        """Types ``keys``, and forgets the output so far: what is expected next came after them."""
        self._read(0)
        self.output = ""
        os.write(self._ours, keys.encode())

    def expect(self, pattern: str, deadline: float = 60.0) -> str:
        """Waits until the text shown since the last key, or at all, matches; gives the raw output.

        AssertionError with the output after ``deadline`` seconds, which only end a hang.
        """
        end = time.monotonic() + deadline
        while not re.search(pattern, self.text):
            assert time.monotonic() < end, f"no {pattern!r} in {self.text[-4000:]}"
            self._read(0.1)
        return self.output

    @property
    def text(self) -> str:
        """The output without colours and movements of the cursor."""
        return ESCAPES.sub("", self.output)

    def wait(self, deadline: float = 60.0) -> int:
        """The exit code, once the command has ended; its terminal is read meanwhile."""
        end = time.monotonic() + deadline
        while self.process.poll() is None:
            assert time.monotonic() < end, f"still running; {self.text[-4000:]}"
            self._read(0.05)
        self._read(0)
        return self.process.returncode

    def mode(self) -> object:
        """How the terminal is set, to compare with ``mode_before``."""
        return termios.tcgetattr(self._theirs)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self._ours)
        os.close(self._theirs)

    def _read(self, timeout: float) -> None:
        while select.select([self._ours], [], [], timeout)[0]:
            self.output += os.read(self._ours, 65_536).decode(errors="replace")
            timeout = 0
