"""``snapring watch``: a line for each change of a ring."""

import argparse
import math
import time
from typing import Any

import msgspec

from snapring.cli import condition, options, output
from snapring.cli.opening import open_reader
from snapring.cli.values import RankValue, Selection, flat, read_ranks, text
from snapring.errors import RingNotFound
from snapring.ring import Reader

__all__ = ["add_parser", "run"]

EPILOG = """\
Without --interval there is a line for each change of a rank's snapshot or
state, as soon as it is seen; changes that come faster than they can be printed
are merged. With --interval there is a line for each rank at that pace, or with
--on-change too, for those that changed since the last.

conditions: FIELD OP VALUE, of all ranks; or any(FIELD), sum(FIELD),
min(FIELD), max(FIELD) OP VALUE. OP is one of == != < <= > >=. Besides the
fields of the records: state, age, beat_age, version, epoch, rank. States are
NEVER, LIVE, STALE and DEAD, in any case.

examples:
  snapring watch llama --until 'num_waiting_reqs==0' --timeout 60s
  snapring watch llama --wait --until 'state==LIVE' --timeout 5m
  snapring watch llama --json --interval 1s --fields num_running_reqs | head
"""

LOOK_S = 0.25
"""Even when nothing changes, conditions are looked at again this often: ages grow."""


def add_parser(verbs: options.Verbs) -> None:
    """Add the verb's parser."""
    parser = options.verb(verbs, "watch", run, "Print a line for each change of a ring.", epilog=EPILOG)
    parser.add_argument("name", metavar="NAME", help="ring")
    parser.add_argument("--rank", type=options.ranks, metavar="RANKS", help="only these: 3, 0,2 or 0-7")
    help_text = "only these, by dotted path: num_running_reqs,queues.waiting"
    parser.add_argument("--fields", type=options.fields, metavar="FIELDS", help=help_text)
    parser.add_argument("--interval", type=options.interval, metavar="DURATION", help="print at this pace")
    parser.add_argument("--on-change", action="store_true", help="only what changed, as without --interval")
    parser.add_argument("--until", type=until, action="append", metavar="EXPR", help="end when this holds; repeatable")
    parser.add_argument("--timeout", type=options.duration, metavar="DURATION", help="end after this time")
    parser.add_argument("--count", type=count, metavar="N", help="end after this many lines")
    parser.add_argument("--wait", action="store_true", help="wait for a ring that is not there yet, or went away")
    options.add_max_age(parser)


def until(expression: str) -> condition.Condition:
    """A condition; argparse shows the error as one of usage."""
    try:
        return condition.parse(expression)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def count(number: str) -> int:
    """A number of lines, at least one."""
    if not number.isdecimal() or int(number) < 1:
        raise argparse.ArgumentTypeError(f"{number!r} is no number of lines, 1 or more")
    return int(number)


def run(args: argparse.Namespace) -> int:
    """Print changes until the condition holds, the lines are out, the time is up, or Ctrl-C."""
    with open_reader(args, must_exist=not args.wait) as reader:
        try:
            return Watching(reader, args).run()
        except KeyboardInterrupt:
            # The ordinary way to end a watch that has no other end.
            return options.Exit.INTERRUPTED if args.until or args.count else options.Exit.OK


class Watching:
    """One watch: what was not yet printed, and when it ends."""

    def __init__(self, reader: Reader[Any], args: argparse.Namespace) -> None:
        self.reader, self.args = reader, args
        self.pending: set[int] = set()
        self.printed = 0
        self.next_s = -math.inf  # the pace counts from the first round: the look before it may take long
        self.deadline_s = math.inf if args.timeout is None else time.monotonic() + args.timeout
        self.selection: Selection | None = None

    def run(self) -> int:
        """Look, print, wait, and again; gives the exit code."""
        while True:
            self.pending.update(self.reader.poll())
            rows = self.look()
            reached = bool(self.args.until) and all(each.holds(rows) for each in self.args.until)
            if self.show(rows, now=reached) or reached:
                return options.Exit.OK
            if time.monotonic() >= self.deadline_s:
                return self.give_up(rows)
            self.pause()

    def look(self) -> list[RankValue]:
        """The ranks now; with ``--wait`` none while there is no ring."""
        try:
            if self.selection is None or self.selection.schema_text != self.reader.schema_text:
                self.selection = self.select()
            return read_ranks(self.reader, self.args.rank)
        except RingNotFound:
            if self.args.wait:
                return []
            raise

    def select(self) -> Selection:
        """The fields to print, once the ring says which there are; checks those of the conditions too."""
        selection = Selection.of(self.reader, self.args.fields)
        for each in self.args.until or ():
            if each.field not in RankValue.__struct_fields__:
                selection.check(each.field)
            elif each.field == "state" and not selection.has("state"):
                condition.check_state(each)
        return selection

    def show(self, rows: list[RankValue], *, now: bool) -> bool:
        """Print what is due; true once that are all the lines that were asked for."""
        chosen = self.pending
        if self.args.interval is not None:
            now_s = time.monotonic()
            if not now and now_s < self.next_s:
                return False
            # A round that was missed is left out, and not printed at once with the next.
            due_s = self.next_s + self.args.interval
            self.next_s = due_s if due_s > now_s else now_s + self.args.interval
            chosen = self.pending if self.args.on_change else {row.rank for row in rows}
        for row in rows:
            if row.rank in chosen and self.selection is not None:
                self.print(row, self.selection)
                self.printed += 1
                if self.printed == self.args.count:
                    return True
        self.pending = set()
        return False

    def print(self, row: RankValue, selection: Selection) -> None:
        """Print one line."""
        wall = time.time()
        if self.args.json:
            output.print_json_line({"time": wall, **msgspec.to_builtins(selection.picked(row))})
            return
        clock = f"{time.strftime('%H:%M:%S', time.localtime(wall))}.{int(wall % 1 * 1000):03}"
        head = f"{clock} rank {row.rank} {row.state} version {text(row.version)}"
        fields = dict(flat(row.value))
        values = [f"{name}={text(fields.get(name))}" for name in selection.columns([row])]
        print(output.printable(" ".join([head, *values])), flush=True)

    def give_up(self, rows: list[RankValue]) -> int:
        """Say why, when the time was up before what was asked for came."""
        if not rows:
            raise RingNotFound(f"no ring {self.args.name!r} within {self.args.timeout:g} s")
        if not self.args.until:
            return options.Exit.OK
        missing = " and ".join(each.text for each in self.args.until if not each.holds(rows))
        output.note(f"not within {self.args.timeout:g} s: {missing}")
        return options.Exit.ERROR

    def pause(self) -> None:
        """Wait until there may be something to print."""
        limit_s = min(self.deadline_s, math.inf if self.args.interval is None else self.next_s) - time.monotonic()
        if self.args.interval is not None and not self.args.until:
            time.sleep(max(0.0, limit_s))  # changes are collected when they are printed
        else:
            self.reader.wait(timeout=max(0.0, min(limit_s, LOOK_S)))
