"""The table of ranks as rich draws it: as many columns and rows as the terminal has room for."""

from collections.abc import Callable, Sequence
from typing import Final

import msgspec
from rich.table import Table
from rich.text import Text

from snapring.cli.board import LOAD_COLUMNS, Board, Row
from snapring.cli.output import STATE_STYLES
from snapring.state import State

__all__ = ["SPARKS", "bar", "number_text", "rank_table", "short_seconds", "sparkline"]

SPARKS: Final = "▁▂▃▄▅▆▇█"
_BAR_CELLS: Final = 10
_EIGHTHS: Final = " ▏▎▍▌▋▊▉"
_GAP: Final = 2  # columns between two columns
_FULL: Final = 0.9  # from here on KV memory is nearly full, and the bar says so
_HALF: Final = 0.6


class _Column(msgspec.Struct, frozen=True):
    """One column: ``rank`` of importance (0 stays on the smallest terminal), width, and how a row looks in it."""

    title: str
    importance: int
    width: int
    cell: Callable[[Row], Text]
    left: bool = False


def rank_table(
    board: Board, rows: Sequence[Row], width: int, height: int | None = None, selected: int | None = None
) -> Table:
    """Return the table of ``rows`` for ``width`` columns and ``height`` lines (None: no limit), header included.

    ``selected``: the rank to mark and to keep in sight. Where ranks do not fit, the last line counts the others.
    """
    columns = _fitting(_columns(board, rows), width)
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    for column in columns:
        justify = "left" if column.left else "right"
        table.add_column(column.title, justify=justify, width=column.width, no_wrap=True, overflow="crop")  # type: ignore[arg-type]
    first, shown = _window(rows, height, selected)
    for row in rows[first : first + shown]:
        table.add_row(*(column.cell(row) for column in columns), style="reverse" if row.rank == selected else None)
    if shown < len(rows):
        table.add_row(Text("…"), Text(f"+{len(rows) - shown}", "dim"))
    return table


def _window(rows: Sequence[Row], height: int | None, selected: int | None) -> tuple[int, int]:
    """Give the first row to show and how many, so that the selected one is among them."""
    if height is None or len(rows) <= height - 1:
        return 0, len(rows)
    shown = max(1, height - 2)  # the header, and the line that counts the others
    at = next((index for index, row in enumerate(rows) if row.rank == selected), 0)
    return min(max(0, at - shown + 1), len(rows) - shown), shown


def _fitting(columns: Sequence[_Column], width: int) -> list[_Column]:
    """Give the columns that fit, the most important ones first taken, in their order."""
    chosen: list[_Column] = []
    for column in sorted(columns, key=lambda column: column.importance):
        width -= column.width + _GAP
        if width + _GAP < 0 and chosen:
            break
        chosen.append(column)
    return [column for column in columns if column in chosen]


def _columns(board: Board, rows: Sequence[Row]) -> list[_Column]:
    is_load = LOAD_COLUMNS["running"] in board.numbers
    has_nodes = is_load and any(row.fields.get(LOAD_COLUMNS["node"]) is not None for row in rows)
    return [
        _Column("rank", 0, 4, lambda row: Text(str(row.rank))),
        *([_node_column()] if has_nodes else []),
        _Column("state", 0, 5, lambda row: Text(row.state.name, _STATE_TEXT[row.state]), left=True),
        *(_load_columns() if is_load else _plain_columns(board)),
        _Column("age", 2, 6, lambda row: Text(short_seconds(row.age))),
        _Column("beat", 8, 6, lambda row: Text(short_seconds(row.beat_age))),
        _Column("epoch", 7, 5, lambda row: Text(number_text(row.epoch))),
        _Column("version", 6, 8, lambda row: Text(number_text(row.version))),
        *(
            [_Column("via", 5, 5, lambda row: Text("relay" if row.remote else "-"))]
            if any(row.remote for row in rows)
            else []
        ),
        _Column("per s", 5, 5, lambda row: Text(number_text(row.rate))),
        *([_spark_column(board.history_field)] if board.history_field else []),
    ]


_STATE_TEXT: Final = STATE_STYLES | {State.LIVE: "green", State.DEAD: "bold red"}


def _node_column() -> _Column:
    return _Column("node", 1, 4, lambda row: Text(number_text(row.fields.get(LOAD_COLUMNS["node"]))))


def _load_columns() -> list[_Column]:
    def of(name: str) -> Callable[[Row], Text]:
        return lambda row: Text(number_text(row.fields.get(LOAD_COLUMNS[name])))

    return [
        _Column("run", 1, 4, of("running")),
        _Column("wait", 1, 4, of("waiting")),
        _Column("KV tokens", 3, _BAR_CELLS + 5, _usage, left=True),
        _Column("used/most", 9, 11, _used),
        _Column("tok/s", 4, 6, of("throughput")),
    ]


def _plain_columns(board: Board) -> list[_Column]:
    """Columns of a ring that holds something else: its first numbers, as many as fit."""

    def of(name: str) -> Callable[[Row], Text]:
        return lambda row: Text(number_text(row.fields.get(name)))

    return [_Column(name, 3, max(6, min(len(name), 16)), of(name)) for name in board.numbers]


def _spark_column(field: str) -> _Column:
    title = field.removeprefix("num_").replace("_", " ")[:16]
    return _Column(title, 4, 16, lambda row: Text(sparkline(row.history), "cyan"), left=True)


def _usage(row: Row) -> Text:
    used, most = row.fields.get(LOAD_COLUMNS["tokens"]), row.fields.get(LOAD_COLUMNS["capacity"])
    if used is None or not most:
        return Text("-")
    share = used / most
    style = "red" if share >= _FULL else "yellow" if share >= _HALF else "green"
    return Text.assemble((bar(share), style), f" {share:4.0%}")


def _used(row: Row) -> Text:
    used, most = (row.fields.get(LOAD_COLUMNS[name]) for name in ("tokens", "capacity"))
    return Text(f"{number_text(used)}/{number_text(most)}")


def bar(share: float, cells: int = _BAR_CELLS) -> str:
    """Return a bar of ``cells`` letters, filled to ``share`` (cut to 0..1) in steps of an eighth of a letter."""
    eighths = round(min(max(share, 0.0), 1.0) * cells * 8)
    text = "█" * (eighths // 8) + (_EIGHTHS[eighths % 8] if eighths % 8 else "")
    return text.ljust(cells)


def sparkline(values: Sequence[float | None]) -> str:
    """Return a letter per value, from 0 or the least at the bottom to the most at the top; blanks for None."""
    known = [value for value in values if value is not None]
    low, high = min(known, default=0.0), max(known, default=0.0)
    low = min(low, 0.0)
    step = (high - low) / (len(SPARKS) - 1) or 1.0
    return "".join(" " if value is None else SPARKS[round((value - low) / step)] for value in values)


def number_text(value: float | None) -> str:
    """Return a number in at most six letters: ``-`` for None, ``950``, ``12.3k``, ``4.1M``; small ones with a digit."""
    if value is None:
        return "-"
    is_measured = isinstance(value, float)
    for unit in ("", "k", "M", "G"):
        if abs(value) < 999.5:  # noqa: PLR2004  from here on it would round to one unit of the next
            digits = 1 if (unit or is_measured) and abs(value) < 100 else 0  # noqa: PLR2004  where a digit still says something
            return f"{value:.{digits}f}{unit}"
        value /= 1000
    return f"{value:.0f}T"


def short_seconds(seconds: float | None) -> str:
    """Return a duration in at most six letters: ``-`` for None, ``12ms``, ``3.4s``, ``2m05s``, ``3h07m``, ``12d``."""
    if seconds is None:
        return "-"
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 100:  # noqa: PLR2004  up to here seconds read well
        return f"{seconds:.1f}s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours < 1:
        return f"{minutes}m{rest:02}s"
    return f"{hours}h{minutes:02}m" if hours < 100 else f"{hours // 24}d"  # noqa: PLR2004  six letters
