"""How the verbs print: JSON by msgspec, tables by rich, plain text into pipes."""

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from snapring.state import State

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "STATE_STYLES",
    "bytes_text",
    "console",
    "note",
    "print_json",
    "print_json_line",
    "printable",
    "seconds_text",
    "table",
]

STATE_STYLES: Final = {State.NEVER: "dim", State.LIVE: "green", State.STALE: "yellow", State.DEAD: "red"}
"""Colours of the states, the same in every verb."""

PIPE_WIDTH: Final = 10_000
"""Columns of what is no terminal: nothing there is ever cut or folded."""


def print_json(value: Any) -> None:  # noqa: ANN401  whatever msgspec encodes
    """Print one document, indented. NaN and infinities become null."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")


def print_json_line(value: Any) -> None:  # noqa: ANN401  as above
    """Print one document on a line of its own, and at once."""
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    sys.stdout.flush()


def console() -> "Console":
    """A rich console on standard output: colours on a terminal unless NO_COLOR says no, plain text into a pipe."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else PIPE_WIDTH
    return Console(width=width, highlight=False, soft_wrap=False, emoji=False, markup=False)


def note(text: str) -> None:
    """Print a remark on standard error, where it disturbs no pipe."""
    print(f"snapring: {text}", file=sys.stderr)


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, right: Iterable[str] = ()) -> None:
    """Print a table without lines; ``right`` names the columns of numbers.

    A cell is anything with a text, or a pair of it and a rich style. On a terminal too narrow even for folded texts
    each row becomes a line of ``column=value``. The first column, which names the row, is never folded.
    """
    from rich.measure import Measurement
    from rich.table import Table
    from rich.text import Text

    lines = [[cell if isinstance(cell, tuple) else (cell, "") for cell in row] for row in rows]
    grid = Table(box=None, pad_edge=False, header_style="bold")
    right = set(right)
    for column in columns:
        number = column in right
        whole = number or column == columns[0]
        grid.add_column(Text(column), justify="right" if number else "left", overflow="fold", no_wrap=whole)
    for line in lines:
        grid.add_row(*(Text(printable(str(value)), style) for value, style in line))
    screen = console()
    if Measurement.get(screen, screen.options.update(width=PIPE_WIDTH), grid).minimum > screen.width:
        for line in lines:
            pairs = zip(columns, line, strict=True)
            print(" ".join(f"{name}={printable(str(value))}" for name, (value, _) in pairs if value not in {"", None}))
        return
    with screen.capture() as captured:
        screen.print(grid)
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))


def printable(text: str) -> str:
    """The text without what a terminal would obey: a ring's texts are whatever somebody published."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def seconds_text(seconds: float | None) -> str:
    """A duration for people: ``0.3ms``, ``1.24s``, ``3m10s``, ``2h05m``, ``4d03h``; ``-`` for none."""
    if seconds is None:
        return "-"
    if seconds < 0.99995:  # noqa: PLR2004  what would be shown as 1000.0ms is a second
        return f"{seconds * 1e3:.1f}ms"
    if seconds < 59.995:  # noqa: PLR2004  and what would be 60.00s a minute
        return f"{seconds:.2f}s"
    minutes, rest = divmod(int(seconds + 0.005), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d{hours:02}h"
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{rest:02}s"


def bytes_text(count: int) -> str:
    """A size for people, in powers of 1024: ``416 B``, ``2.3 MiB``."""
    size, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1024:  # noqa: PLR2004  bytes of a kibibyte
            break
        size, unit = size / 1024, larger
    return f"{count} B" if unit == "B" else f"{size:.1f} {unit}"
