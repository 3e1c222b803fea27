"""Draws the table: one line per row, one mark per peer, on a logarithmic scale of time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from model import Figure
from report import Result

MARKS = ("D", "o", "s", "^", "v", "|", "<", ">", "P", "X")
INCHES_PER_ROW = 0.34
UNITS_IN_US = {"us": 1.0, "ms": 1000.0}


def draw(results: Sequence[Result], names: Sequence[str], path: Path) -> None:
    """Write the picture to `path`; its suffix chooses the format. Raises ImportError without matplotlib."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    timed = [result for result in results if result.row.unit in UNITS_IN_US]
    figure, axes = plt.subplots(figsize=(10, 1.4 + INCHES_PER_ROW * len(timed)), layout="constrained")
    compared = list(dict.fromkeys(name for result in results for name in result.columns(names)))
    for name, mark in zip(compared, MARKS, strict=False):
        places, values = [], []
        for place, result in enumerate(timed):
            cell = result.cells.get(name)
            if isinstance(cell, Figure) and cell.value > 0:
                places.append(place)
                values.append(cell.value * UNITS_IN_US[result.row.unit])
        axes.plot(values, places, mark, label=name, markersize=7, alpha=0.85)
    for place, result in enumerate(timed):
        if result.row.goal is not None:
            goal = result.row.goal * UNITS_IN_US[result.row.unit]
            axes.plot([goal, goal], [place - 0.35, place + 0.35], color="black", linewidth=1)
    axes.set_xscale("log")
    axes.set_yticks(range(len(timed)), [result.row.title for result in timed])
    axes.invert_yaxis()
    axes.set_xlabel("microseconds (logarithmic); black line: goal for snapring")
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside upper center", ncols=5, fontsize="small")
    figure.savefig(path, dpi=130)
    plt.close(figure)
