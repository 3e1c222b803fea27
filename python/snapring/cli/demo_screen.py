"""The live view of ``snapring demo``: the table of ``top``, with keys that kill and restart ranks."""

import time
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from snapring.cli.board import Board, Row
from snapring.cli.output import seconds_text
from snapring.cli.table import rank_table
from snapring.cli.terminal import StopRequest, keys
from snapring.simulate.channel import FromRank, Ready
from snapring.simulate.cluster import Cluster, Ended
from snapring.simulate.controller import Controller
from snapring.simulate.summary import FirstTokenTimes

__all__ = ["Screen"]

_DRAW_S: Final = 0.2  # a drawing costs a few milliseconds, and the ranks share the machine
_DEAD_S: Final = 0.05
_TIMES_S: Final = 1.0  # all first tokens are sorted for their percentiles


class Screen:
    """Runs a controller and draws its ring, a few times a second and at once when a rank ends or is back.

    A dead rank shows as soon as the ring calls it dead; nothing here looks at processes for that.
    """

    def __init__(
        self, cluster: Cluster, controller: Controller, *, title: str, total: int | None, no_later_than_s: float
    ) -> None:
        """Play until every one of ``total`` requests is served, if they end, or until that time of the controller."""
        self._cluster = cluster
        self._controller = controller
        self._title = title
        self._total = total
        self._end_s = no_later_than_s
        self._selected = 0
        self._note = ""
        self._times = FirstTokenTimes(0, None, None, None)
        self._times_due_s = 0.0

    def play(self, stop: StopRequest) -> None:
        """Run until the end, ``q``, or ``stop``."""
        console = Console(highlight=False, markup=False, emoji=False)
        with (
            self._cluster.reader() as reader,
            keys() as pressed,
            Live(console=console, screen=True, auto_refresh=False) as live,
        ):
            self._cluster.watch(pressed.fileno())
            board = Board(reader)
            draw_s = 0.0
            while stop.signal is None and not self._controller.is_served and self._controller.seconds < self._end_s:
                reports = self._controller.turn(draw_s - time.monotonic())
                names = pressed.pressed()
                if pressed.ended or not self._take(names):
                    break
                told = self._take_note(reports)
                if told or names or time.monotonic() >= draw_s:
                    live.update(self._draw(board.look(), board, console.width, console.height), refresh=True)
                    # A young snapshot counts as live; soon after an end it is old enough for the ring to say dead.
                    draw_s = time.monotonic() + (_DEAD_S if told else _DRAW_S)

    def _take(self, names: list[str]) -> bool:
        """Act on keys; False to quit."""
        for name in names:
            if name == "q":
                return False
            if name in {"up", "down"}:
                self._selected = (self._selected + (1 if name == "down" else -1)) % self._cluster.ranks
            elif name.isdecimal() and int(name) < self._cluster.ranks:
                self._selected = int(name)
            elif name == "k":
                killed = self._cluster.kill(self._selected)
                self._note = f"rank {self._selected} " + ("killed" if killed else "is dead already; r restarts it")
            elif name == "r":
                self._cluster.restart(self._selected)
                self._note = f"rank {self._selected} is starting"
        return True

    def _take_note(self, reports: list[tuple[int, FromRank | Ended]]) -> bool:
        """Say what became of a rank; False if nothing did."""
        told = False
        for rank, report in reports:
            if isinstance(report, Ready):
                self._note, told = f"rank {rank} is back", True
            elif isinstance(report, Ended):
                self._note, told = f"rank {rank} ended: {self._cluster.reason(rank)}", True
        return told

    def _draw(self, rows: list[Row], board: Board, width: int, height: int) -> RenderableType:
        above: list[RenderableType] = [self._line(self._title, "bold"), self._line(self._counts())]
        if self._total is not None:
            above.append(self._bar(width))
        below = self._line(
            "k kill  r restart  ↑↓ 0-9 select  q quit" + (f"   {self._note}" if self._note else ""), "dim"
        )
        room = height - len(above) - 1
        return Group(*above, rank_table(board, rows, width, room, self._selected), below)

    def _counts(self) -> str:
        controller = self._controller
        if controller.seconds >= self._times_due_s:
            self._times = controller.first_token_times()
            self._times_due_s = controller.seconds + _TIMES_S
        return (
            f"{seconds_text(controller.seconds)}: {controller.done} done, {controller.unfinished} in progress, "
            f"{controller.waiting} without a rank, {controller.resent} sent again; "
            f"first token mean {seconds_text(self._times.mean_s)}, p99 {seconds_text(self._times.p99_s)}"
        )

    def _bar(self, width: int) -> Table:
        served = self._controller.done + self._controller.refused
        text = f"{served}/{self._total}"
        bar = Table.grid(padding=(0, 1))
        bar.add_row(ProgressBar(self._total, served, width=max(1, width - len(text) - 2)), text)
        return bar

    @staticmethod
    def _line(text: str, style: str = "") -> Text:
        return Text(text, style, no_wrap=True, overflow="ellipsis")
