"""What the verbs' parsers share: exit codes, types of arguments, and the options that every verb has."""

import argparse
import enum
import math
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

__all__ = ["Exit", "Verb", "add_max_age", "duration", "fields", "interval", "ranks", "verb"]

if TYPE_CHECKING:
    Verbs = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001  the only name that argparse has for it
else:
    Verbs = object


class Exit(enum.IntEnum):
    """Exit codes of every verb."""

    OK = 0
    ERROR = 1
    USAGE = 2
    STALE = 3
    NOT_FOUND = 4
    INTERRUPTED = 130  # 128 + SIGINT, as shells report it
    BROKEN_PIPE = 141  # 128 + SIGPIPE


class Verb(Protocol):
    """A module of this package that is a verb."""

    def add_parser(self, verbs: Verbs) -> None:
        """Add the verb's parser."""

    def run(self, args: argparse.Namespace) -> int:
        """Do it; gives the exit code, raises :class:`~snapring.errors.SnapringError` or ``OSError``."""


def verb(
    verbs: Verbs, name: str, run: Callable[[argparse.Namespace], int], text: str, *, epilog: str | None = None
) -> argparse.ArgumentParser:
    """Add a verb's parser with the options that all have: ``--dir`` and ``--json``.

    ``text`` is one sentence, shown in both helps; ``epilog`` follows the options as it is.
    """
    parser = verbs.add_parser(
        name,
        help=text[0].lower() + text[1:].rstrip("."),
        description=text,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "--dir", metavar="DIR", help="where rings live (default: $SNAPRING_DIR or /dev/shm/snapring-UID)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def add_max_age(parser: argparse.ArgumentParser) -> None:
    """Add ``--max-age``."""
    text = "age from which a living rank counts as stale (default: 2s)"
    parser.add_argument("--max-age", type=duration, default=2.0, metavar="DURATION", help=text)


UNITS: Final = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
"""Seconds of each unit; a number without one is in seconds."""


def duration(text: str) -> float:
    """Seconds of ``200ms``, ``2s``, ``1.5m``, ``1h``, ``1d`` or a plain number of seconds.

    Raises ``argparse.ArgumentTypeError``, which argparse shows as an error of usage.
    """
    found = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*([a-z]*)", text.strip())
    if found is None or found[2] not in UNITS or math.isinf(seconds := float(found[1]) * UNITS[found[2]]):
        raise argparse.ArgumentTypeError(f"{text!r} is no duration; write 200ms, 2s, 5m, 1h or plain seconds")
    return seconds


def interval(text: str) -> float:
    """Seconds of a duration that is longer than nothing."""
    if not (seconds := duration(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is no interval; write 200ms, 2s, 5m, 1h or plain seconds")
    return seconds


MAX_RANKS: Final = 65_536
"""Ranks that a ring may have."""


def ranks(text: str) -> list[int]:
    """Ranks of ``3``, ``0,2`` or ``0-3,7``, each once and in order."""
    chosen: set[int] = set()
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d{1,5})(?:-(\d{1,5}))?\s*", part)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if not first <= last < MAX_RANKS:
            raise argparse.ArgumentTypeError(f"{text!r} names no ranks; write 3, 0,2 or 0-7")
        chosen.update(range(first, last + 1))
    return sorted(chosen)


def fields(text: str) -> list[str]:
    """Names of fields, ``a,queues.waiting``, each once and in the order given."""
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise argparse.ArgumentTypeError(f"{text!r} names no fields; write num_running_reqs,queues.waiting")
    return list(dict.fromkeys(names))
