"""``snapring top``: the ranks of a ring as a live table, or once when piped."""

import argparse
import select
from typing import TYPE_CHECKING, Any

from snapring.cli import options, output
from snapring.cli.opening import open_reader, wanted_ranks
from snapring.cli.values import hint
from snapring.errors import InvalidValue
from snapring.ring import Reader

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from snapring.cli.board import Board, Row

__all__ = ["add_parser", "run"]

EPILOG = """\
keys: q quit, s sort by the next column, r reverse the order, arrows to scroll
sort by: rank, state, running, waiting, tokens, capacity, throughput, age, beat, epoch, version, rate, or any number of
the ring's records
"""

SORTS = ("rank", "state", "running", "waiting", "tokens", "throughput", "age", "rate")
"""What the key ``s`` goes through."""

ONCE_DELAY_S = 0.5
"""Longest time between the two looks of a single table."""


def add_parser(verbs: options.Verbs) -> None:
    """Add the verb's parser."""
    parser = options.verb(
        verbs, "top", run, "Show all ranks of a ring as a live table, or once into a pipe.", epilog=EPILOG
    )
    parser.add_argument("name", metavar="NAME", help="the ring; on a terminal it may come later")
    parser.add_argument(
        "-d",
        "--delay",
        type=options.duration,
        default=0.5,
        metavar="DURATION",
        help="time between looks (default: 0.5s)",
    )
    parser.add_argument("--sort", default="rank", metavar="FIELD", help="order, largest first (default: rank)")
    parser.add_argument("--reverse", action="store_true", help="turn the order round")
    parser.add_argument("--rank", type=options.ranks, metavar="RANKS", help="only these, such as 0-7 or 0,3")
    parser.add_argument("--once", action="store_true", help="print one table and end, as into a pipe")
    parser.add_argument("--no-color", action="store_true", help="no colours, as with NO_COLOR")
    options.add_max_age(parser)


def run(args: argparse.Namespace) -> int:
    """Do it."""
    from snapring.cli.board import Board
    from snapring.cli.terminal import is_interactive

    once = args.once or args.json or not is_interactive()
    with open_reader(args, must_exist=once) as reader:
        board = Board(reader, args.rank)
        if board.look() and args.sort not in (known := board.sort_names()):
            raise InvalidValue(
                f"ranks of ring {args.name!r} cannot be sorted by {args.sort!r}; {hint(args.sort, known)}"
            )
        return _once(args, board, reader) if once else _live(args, board)


def _once(args: argparse.Namespace, board: "Board", reader: Reader[Any]) -> int:
    """Print one table. A rate takes two looks, and this is the second."""
    import time

    from snapring.cli.board import sort_rows

    wanted_ranks(reader, args.rank)
    time.sleep(min(args.delay, ONCE_DELAY_S))
    rows = sort_rows(board.look(), args.sort, reverse=args.reverse)
    if args.json:
        output.print_json({"ring": args.name, "max_age": args.max_age, "ranks": [row.to_dict() for row in rows]})
    else:
        from snapring.cli.table import rank_table

        console = _console(args)
        console.print(rank_table(board, rows, console.width))
    return options.Exit.OK


def _console(args: argparse.Namespace) -> "Console":
    import os
    import sys

    from rich.console import Console

    # Into a pipe goes everything, unless somebody said how wide it is.
    width = None if sys.stdout.isatty() or os.environ.get("COLUMNS") else output.PIPE_WIDTH
    return Console(width=width, no_color=args.no_color or None, highlight=False, markup=False, emoji=False)


def _live(args: argparse.Namespace, board: "Board") -> int:
    from rich.live import Live

    from snapring.cli.terminal import catch_stop, keys

    console = _console(args)
    view = _View(args, board)
    with catch_stop() as stop, keys() as pressed, Live(console=console, screen=True, auto_refresh=False) as live:
        while stop.signal is None:
            live.update(view.draw(console.width, console.height), refresh=True)
            select.select([stop.fileno(), pressed.fileno()], [], [], args.delay)
            if not view.take(pressed.pressed()) or pressed.ended:
                break
    return stop.exit_code


class _View:
    """What the keys change, and how that looks."""

    def __init__(self, args: argparse.Namespace, board: "Board") -> None:
        self._name = args.name
        self._board = board
        self._sort = args.sort
        self._reverse = args.reverse
        self._scroll = 0

    def take(self, keys: list[str]) -> bool:
        """Act on keys; False to quit."""
        for key in keys:
            match key:
                case "q":
                    return False
                case "s":
                    at = SORTS.index(self._sort) if self._sort in SORTS else -1
                    self._sort = SORTS[(at + 1) % len(SORTS)]
                case "r":
                    self._reverse = not self._reverse
                case "up" | "down":
                    self._scroll += 1 if key == "down" else -1
                case _:
                    pass
        return True

    def draw(self, width: int, height: int) -> "RenderableType":
        """Look at the ring and draw it."""
        from rich.console import Group
        from rich.text import Text

        from snapring.cli.board import sort_rows
        from snapring.cli.table import rank_table

        rows = sort_rows(self._board.look(), self._sort, reverse=self._reverse)
        self._scroll = min(max(0, self._scroll), max(0, len(rows) - (height - 3)))
        title = Text(_title(self._name, rows), "bold", no_wrap=True, overflow="ellipsis")
        if not rows:
            return Group(title, Text("q quits", "dim"))
        table = rank_table(self._board, rows[self._scroll :], width, height - 1)
        return Group(title, table)


def _title(name: str, rows: list["Row"]) -> str:
    if not rows:
        return f"waiting for ring {name}"
    counts = {state.name.lower(): sum(row.state == state for row in rows) for state in output.STATE_STYLES}
    return f"{name}: {len(rows)} ranks, " + ", ".join(f"{count} {state}" for state, count in counts.items() if count)
