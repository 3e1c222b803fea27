import io

import pytest
from rich.console import Console

from snapring.cli.board import Row, sort_rows
from snapring.cli.table import bar, number_text, rank_table, short_seconds, sparkline
from snapring.state import State

LOAD = {
    "num_running_reqs": 7,
    "num_waiting_reqs": 2,
    "num_used_tokens": 30_000,
    "max_total_num_tokens": 60_000,
    "gen_throughput": 812.5,
}


class FakeBoard:
    """The two things that a table asks of a board."""

    def __init__(self, *numbers: str, history: str | None = "num_total_tokens") -> None:
        self.numbers = numbers or tuple(LOAD)
        self.history_field = history


def row(rank: int, state: State = State.LIVE, **changes: object) -> Row:
    """A rank under some load."""
    values: dict[str, object] = {
        "fields": LOAD,
        "age": 0.012,
        "beat_age": 0.5,
        "epoch": 1,
        "version": 42,
        "rate": 9.75,
    }
    return Row(rank, state, **(values | {"history": (1.0, None, 8.0)} | changes))


def drawn(board: FakeBoard, rows: list[Row], width: int = 140, **options: int) -> str:
    """The table as a colour terminal gets it."""
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system="standard")
    console.print(rank_table(board, rows, width, **options))
    return console.file.getvalue()


def plain(board: FakeBoard, rows: list[Row], width: int = 140, **options: int) -> list[str]:
    """The lines of the table without colours."""
    console = Console(file=io.StringIO(), width=width)
    console.print(rank_table(board, rows, width, **options))
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0, "0"),
        (7, "7"),
        (999, "999"),
        (0.25, "0.2"),
        (99.94, "99.9"),
        (812.5, "812"),
        (999.7, "1.0k"),
        (12_345, "12.3k"),
        (250_000, "250k"),
        (4_100_000, "4.1M"),
        (7e15, "7000T"),
        (-1500, "-1.5k"),
    ],
)
def test_numbers_are_short(value: float | None, text: str) -> None:
    """A number takes six letters at most and keeps three digits where it can."""
    assert number_text(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (0.012, "12ms"), (3.42, "3.4s"), (125, "2m05s"), (3 * 3600 + 7 * 60, "3h07m"), (12 * 86_400, "12d")],
)
def test_durations_are_short(seconds: float | None, text: str) -> None:
    """A duration takes six letters at most."""
    assert short_seconds(seconds) == text


@pytest.mark.parametrize(
    ("share", "text"), [(0.0, "    "), (0.5, "██  "), (0.53125, "██▏ "), (1.0, "████"), (7.0, "████"), (-1.0, "    ")]
)
def test_bars_fill_by_eighths(share: float, text: str) -> None:
    """A bar shows a share in eighths of a letter and never leaves its place."""
    assert bar(share, cells=4) == text


def test_sparklines_start_at_zero() -> None:
    """The least letter stands for 0, the tallest for the most; what was not reported is blank."""
    assert sparkline([0, 4, None, 14]) == "▁▃ █"
    assert sparkline([5, 5]) == "██"
    assert sparkline([0, 0]) == "▁▁"
    assert sparkline([]) == ""


def test_every_column_on_a_wide_terminal() -> None:
    """A wide terminal shows all that is known of a rank."""
    header, line = plain(FakeBoard(), [row(3)])

    titles = ["rank", "state", "run", "wait", "KV tokens", "used/most", "tok/s", "age", "beat", "epoch", "version"]
    assert [title for title in [*titles, "per s", "total tokens"] if title not in header] == []
    assert " ".join(line.split()) == "3 LIVE 7 2 █████ 50% 30.0k/60.0k 812 12ms 500ms 1 42 9.8 ▂ █"


def test_narrow_terminals_drop_columns() -> None:
    """No terminal is too narrow: lines never wrap, and the state stays to the last."""
    widths = [140, 100, 80, 60, 40, 20, 14]

    tables = [plain(FakeBoard(), [row(3)], width) for width in widths]

    assert [len(lines) for lines in tables] == [2] * len(widths)
    columns = [len(lines[0].split()) for lines in tables]
    assert columns == sorted(columns, reverse=True)
    assert tables[-1][1].split() == ["3", "LIVE"]


def test_few_lines_count_the_other_ranks() -> None:
    """Where ranks do not fit, the last line counts the rest, and the selected rank stays in sight."""
    rows = [row(rank) for rank in range(64)]

    lines = plain(FakeBoard(), rows, height=6, selected=40)

    assert len(lines) == 6
    assert [line.split()[0] for line in lines[1:5]] == ["37", "38", "39", "40"]
    assert lines[5].split() == ["…", "+60"]


@pytest.mark.parametrize(
    ("state", "codes"), [(State.LIVE, "32"), (State.STALE, "33"), (State.DEAD, "1;31"), (State.NEVER, "2")]
)
def test_states_have_colours(state: State, codes: str) -> None:
    """LIVE is green, STALE yellow, DEAD red, NEVER dim."""
    assert f"\x1b[{codes}m{state.name}" in drawn(FakeBoard(), [row(0, state)])


def test_other_schemas_show_their_numbers() -> None:
    """A ring of another schema shows its own fields, as many as fit."""
    board = FakeBoard("temperature", "watts", history="temperature")

    header, line = plain(board, [row(0, fields={"temperature": 61.5, "watts": None})])

    assert header.split()[:4] == ["rank", "state", "temperature", "watts"]
    assert line.split()[:4] == ["0", "LIVE", "61.5", "-"]


def test_unreported_is_a_dash() -> None:
    """A rank that never published has dashes, not zeros."""
    _, line = plain(FakeBoard(), [Row(0, State.NEVER)])

    assert set(line.split()[2:]) <= {"-", "-/-"}


def test_sorting() -> None:
    """The largest comes first, ranks count from 0, ranks without the value come last, ties stay in order of rank."""
    rows = [row(0, rate=1.0), row(1, rate=None), row(2, rate=3.0), row(3, rate=1.0)]

    def ranks(by: str, *, reverse: bool = False) -> list[int]:
        return [row.rank for row in sort_rows(rows, by, reverse=reverse)]

    assert ranks("rank") == [0, 1, 2, 3]
    assert ranks("rank", reverse=True) == [3, 2, 1, 0]
    assert ranks("rate") == [2, 0, 3, 1]
    assert ranks("rate", reverse=True) == [0, 3, 2, 1]
    assert ranks("num_waiting_reqs") == ranks("waiting") == [0, 1, 2, 3]
    assert ranks("no_such_field") == [0, 1, 2, 3]
