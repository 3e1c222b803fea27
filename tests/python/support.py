"""Helpers that tests import by name: ``from support import eventually``."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

POLL_SECONDS = 0.005


def eventually(predicate: Callable[[], T], deadline: float = 30.0) -> T:
    """Return the predicate's first true value, asked every few milliseconds.

    ``deadline`` in seconds only ends a hang, so it is generous: no test may judge speed by it. Raises AssertionError
    with the last value when it passes.
    """
    end = time.monotonic() + deadline
    while not (value := predicate()):
        if time.monotonic() > end:
            message = f"not within {deadline} s; last value: {value!r}"
            raise AssertionError(message)
        time.sleep(POLL_SECONDS)
    return value


def stop(pid: int) -> None:
    """Stop a process and wait until each of its threads stands still: a signal acts later than it is sent."""
    assert pid > 0, "not a process, but a group"
    os.kill(pid, signal.SIGSTOP)
    eventually(lambda: set(thread_states(pid)) == {"T"})


def thread_states(pid: int) -> list[str]:
    """State letters of a process's threads; T for one that is stopped."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [(task / "stat").read_text().rpartition(")")[2].split()[0] for task in tasks]


def python(code: str, *arguments: str) -> list[str]:
    """Command line of a Python child that runs ``code`` without the current directory on its import path.

    Every warning is an error there too; ``arguments`` arrive as ``sys.argv[1:]``.
    """
    return [sys.executable, "-P", "-W", "error", "-c", code, *arguments]


def run(command: list[str], deadline: float = 120.0) -> str:
    """What a command without input printed; AssertionError with its output when it fails; ends after ``deadline`` s."""
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=deadline, check=False
    )

    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout
