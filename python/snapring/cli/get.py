"""``snapring get``: the newest snapshots of a ring."""

import argparse
import csv
import sys

from snapring.cli import options, output
from snapring.cli.opening import open_reader
from snapring.cli.values import RankValue, Selection, flat, read_ranks, text
from snapring.errors import InvalidValue
from snapring.state import State

__all__ = ["add_parser", "run"]

EPILOG = """\
examples:
  snapring get llama --fields num_running_reqs,queues.waiting
  snapring get llama --rank 3 --json --require-fresh
"""

STAMP = ("rank", "state", "version", "epoch", "age", "beat_age", "timestamp")
RANK_WIDTH = 12
"""Columns of a terminal that a rank takes, about."""


def add_parser(verbs: options.Verbs) -> None:
    """Add the verb's parser."""
    parser = options.verb(verbs, "get", run, "Print the newest snapshot of each rank.", epilog=EPILOG)
    parser.add_argument("name", metavar="NAME", help="ring")
    parser.add_argument("--rank", type=options.ranks, metavar="RANKS", help="only these: 3, 0,2 or 0-7")
    text = "only these, by dotted path: num_running_reqs,queues.waiting"
    parser.add_argument("--fields", type=options.fields, metavar="FIELDS", help=text)
    parser.add_argument("--csv", action="store_true", help="print CSV, a row per rank")
    options.add_max_age(parser)
    text = "exit with 3 unless every rank shown is live"
    parser.add_argument("--require-fresh", action="store_true", help=text)


def run(args: argparse.Namespace) -> int:
    """Print the ranks asked for."""
    if args.csv and args.json:
        raise InvalidValue("--csv and --json exclude each other; choose one")
    with open_reader(args, must_exist=True) as reader:
        selection = Selection.of(reader, args.fields)
        rows = read_ranks(reader, args.rank)
    if args.json:
        output.print_json(
            {"ring": args.name, "max_age": args.max_age, "ranks": [selection.picked(row) for row in rows]}
        )
    elif args.csv:
        print_csv(rows, selection)
    elif args.fields:
        print_by_rank(rows, selection)
    else:
        print_by_field(rows, selection)
    stale = [row.rank for row in rows if row.state != State.LIVE.name]
    if not (stale and args.require_fresh):
        return options.Exit.OK
    output.note(f"not fresh: {', '.join(f'rank {row.rank} {row.state}' for row in rows if row.rank in stale)}")
    return options.Exit.STALE


def print_csv(rows: list[RankValue], selection: Selection) -> None:
    """A header, then a row per rank; empty where not reported."""
    columns = selection.columns(rows)
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow([*STAMP, *columns])
    for row in rows:
        fields = dict(flat(row.value))
        writer.writerow([getattr(row, name) for name in STAMP] + [fields.get(name) for name in columns])


def print_by_rank(rows: list[RankValue], selection: Selection) -> None:
    """A line per rank, a column per field."""
    columns = selection.columns(rows)
    lines = []
    for row in rows:
        fields = dict(flat(row.value))
        values = [text(fields.get(name)) for name in columns]
        lines.append([row.rank, state(row), output.seconds_text(row.age), *values])
    output.table(["rank", "state", "age", *columns], lines, right=["rank", "age", *columns])


def print_by_field(rows: list[RankValue], selection: Selection) -> None:
    """A line per field that any rank reports, a column per rank; as many ranks side by side as there is room for."""
    columns = selection.columns(rows)
    width = max(map(len, [*columns, "version"]))
    across = max(1, (output.console().width - width) // RANK_WIDTH - 1)
    for start in range(0, len(rows), across):
        part = rows[start : start + across]
        fields = [dict(flat(row.value)) for row in part]
        lines: list[list[object]] = [
            ["state", *map(state, part), ""],
            ["age", *(output.seconds_text(row.age) for row in part), ""],
            ["version", *(text(row.version) for row in part), ""],
        ]
        if any(row.remote for row in rows):
            lines.append(["via", *("relay" if row.remote else "-" for row in part), ""])
        lines += [
            [name, *(text(values.get(name)) for values in fields), selection.units.get(name, "")] for name in columns
        ]
        ranks = [f"rank {row.rank}" for row in part]
        output.table(["", *ranks, "unit"], lines, right=ranks)


def state(row: RankValue) -> tuple[str, str]:
    """The state in its colour."""
    return row.state, output.STATE_STYLES[State[row.state]]
