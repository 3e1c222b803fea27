"""The command line, as a script calls it: real processes, no terminal, no input."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from pseudo_terminal import COMMAND

__all__ = ["COMMAND", "LONG", "snapring", "start"]

LONG = ("--max-age", "1d")
"""A rank stays LIVE however long a loaded machine takes to start the command."""

DROPPED = {"NO_COLOR", "COLUMNS", "LINES", "FORCE_COLOR", "SNAPRING_DEBUG"}


def snapring(*arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
    """Runs ``snapring`` to its end; two minutes only end a hang."""
    clean = {name: value for name, value in os.environ.items() if name not in DROPPED}
    return subprocess.run(
        [*COMMAND, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=clean | env,
        timeout=120,
        check=False,
    )


@contextmanager
def start(*arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """``snapring`` with its output in pipes, for a ``with`` block; killed at the block's end."""
    pipe = subprocess.PIPE
    command = [*COMMAND, *arguments]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True) as child:
        try:
            yield child
        finally:
            child.kill()
