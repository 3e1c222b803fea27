"""``snapring export``: the load of every rank as a document, once or again and again, without a server."""

import argparse
import select
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from snapring.cli import exposing, options, output
from snapring.cli.opening import open_reader
from snapring.cli.replacing import replace, target
from snapring.cli.terminal import StopRequest, catch_stop
from snapring.errors import InvalidValue, SnapringError
from snapring.ring import Reader

if TYPE_CHECKING:
    from snapring.load import Section
    from snapring.loads import Loads

__all__ = ["add_parser", "run"]

FORMATS: Final = ("prometheus", "openmetrics", "json", "textfile")

SHORTEST_S: Final = 1.0
"""Without --interval: between two documents, however fast changes come."""

LONGEST_S: Final = 15.0
"""Without --interval: a document comes so often even where nothing changes, as ages grow."""

EPILOG: Final = """\
With --watch a document follows each change, at most one a second, and one every
15 s even without; with --interval one at that pace. A document replaces FILE as
a whole, so that nobody ever reads half of one.

textfile is for the textfile collector of node_exporter: the prometheus format,
in a FILE that ends in .prom.

examples:
  snapring export llama --format json --include core,memory
  snapring export llama --format textfile --watch \\
      --output /var/lib/node_exporter/llama.prom
"""


def add_parser(verbs: options.Verbs) -> None:
    """Add the verb's parser."""
    text = "Print the load of every rank for other tools, or write it into a file."
    parser = options.verb(verbs, "export", run, text, epilog=EPILOG)
    parser.add_argument("name", metavar="NAME", help="ring")
    text = f"{', '.join(FORMATS)} (default: prometheus)"
    parser.add_argument("--format", choices=FORMATS, metavar="FORMAT", help=text)
    exposing.add_profile(parser)
    exposing.add_labels(parser)
    text = "of JSON only these sections: core,memory,spec,lora,disagg,queues"
    parser.add_argument("--include", metavar="SECTIONS", help=text)
    parser.add_argument("--watch", action="store_true", help="go on until Ctrl-C; the ring may come later")
    parser.add_argument("--interval", type=options.interval, metavar="DURATION", help="with --watch, at this pace")
    parser.add_argument("--output", metavar="FILE", help="replace this file instead of printing")
    options.add_max_age(parser)


def run(args: argparse.Namespace) -> int:
    """Write one document, or one after another until Ctrl-C, SIGTERM or a hang-up."""
    from snapring.loads import Loads

    form = format_of(args)
    path = None if args.output is None else target(args.output)
    labels = exposing.labels_of(args)
    include = sections(args, form)
    with catch_stop() as stop, open_reader(args, must_exist=not args.watch) as reader:
        loads = Loads(reader, labels=labels)
        render = renderer(loads, form, args.profile or exposing.PROFILES[0], include)
        empty = nothing(loads, form)
        # Of these formats the one alone does not show where a document ends.
        behind = "\n" if args.watch and form == "prometheus" else ""
        exporting = Exporting(reader, render, empty, path, behind)
        if not args.watch:
            exporting.write(exporting.render())
        else:
            exporting.follow(args.interval, stop)
    return options.Exit.OK


def format_of(args: argparse.Namespace) -> str:
    """The format asked for, with ``--json`` as another word for one.

    Raises:
        InvalidValue: options that do not go together.
    """
    if args.json and args.format not in {None, "json"}:
        raise InvalidValue(f"--json and --format {args.format} exclude each other; choose one")
    form: str = "json" if args.json else args.format or "prometheus"
    if args.interval is not None and not args.watch:
        raise InvalidValue("--interval is the pace of --watch; add --watch")
    if args.label and form == "json":
        raise InvalidValue("JSON has no labels; leave --label out, or choose another format")
    if form == "textfile" and not (args.output or "").endswith(".prom"):
        raise InvalidValue("--format textfile needs --output FILE.prom, where node_exporter looks for it")
    return form


def sections(args: argparse.Namespace, form: str) -> "frozenset[Section]":
    """The sections of ``--include``, by default all."""
    from snapring.load import parse_include

    if args.include is not None and form != "json":
        raise InvalidValue("--include chooses sections of JSON; add --format json, or leave it out")
    return parse_include(args.include or "")


def renderer(loads: "Loads", form: str, profile: str, include: "frozenset[Section]") -> Callable[[], bytes]:
    """What gives a document of the ring as it is then."""
    if form == "json":
        return lambda: loads.json(include=include).content + b"\n"
    return lambda: loads.text(profile, openmetrics=form == "openmetrics")


def nothing(loads: "Loads", form: str) -> Callable[[], bytes]:
    """What gives a document without ranks."""
    from snapring.formats.as_prometheus import ending

    if form == "json":
        return lambda: loads.empty() + b"\n"
    return lambda: ending(form == "openmetrics")


class Exporting:
    """Where documents come from and where they go."""

    def __init__(
        self,
        reader: Reader[Any],
        render: Callable[[], bytes],
        empty: Callable[[], bytes],
        path: Path | None,
        behind: str,
    ) -> None:
        self.reader, self.render, self.empty, self.path, self.behind = reader, render, empty, path, behind
        self.reason = ""
        self.broken = False
        self.bell = -1

    def follow(self, interval: float | None, stop: StopRequest) -> None:
        """Write until somebody wants an end. What cannot be read has no ranks in its document, and is said once."""
        least, most = (SHORTEST_S, LONGEST_S) if interval is None else (interval, interval)
        while stop.signal is None:
            began_s = time.monotonic()
            self.write_what_there_is()
            select.select([stop.fileno()], [], [], max(0.0, began_s + least - time.monotonic()))
            if least < most and not self.broken:  # a broken ring calls all the time
                select.select([stop.fileno(), self.bell], [], [], max(0.0, began_s + most - time.monotonic()))

    def write_what_there_is(self) -> None:
        """Write a document, one without ranks where there is no ring or it cannot be read.

        To leave the last one would be to say of dead ranks that they live, for as long as nobody looks here.
        """
        try:
            self.bell = self.reader.fileno()
            self.reader.poll()  # changes from here on call for another document
            reason = f"no ring {self.reader.name!r} now" if self.reader.ranks is None else ""
            content = self.render()
            self.broken = False
        except SnapringError as error:
            reason, content = str(error), self.empty()
            self.broken = True
        if reason and not self.reason:
            output.note(f"{reason}; goes on when it can be read")
        self.reason = reason
        self.write(content)

    def write(self, content: bytes) -> None:
        """Write one document."""
        if self.path is not None:
            replace(self.path, content)
            return
        sys.stdout.write(content.decode() + self.behind)
        sys.stdout.flush()
