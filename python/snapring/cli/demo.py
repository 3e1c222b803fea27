"""``snapring demo``: a simulated server, one real process per rank, fed by real or generated arrivals."""

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from snapring.cli import options, output
from snapring.errors import InvalidValue, SnapringError

if TYPE_CHECKING:
    from snapring.cli.terminal import StopRequest
    from snapring.simulate import Request
    from snapring.simulate.cluster import Cluster
    from snapring.simulate.controller import Controller, Report

__all__ = ["add_parser", "run"]

EPILOG: Final = """\
keys: arrows or digits select a rank, k kill it, r restart it, q quit
The requests of a rank that dies are sent again to the others. Without a terminal, and with --headless, the demo runs
for 10 s, or until the trace is served, and prints a summary. The arrivals of --trace are a CSV file with the columns
TIMESTAMP,ContextTokens,GeneratedTokens.
With --nodes each node is a host with a network of its own, if this user may make such (root, or unprivileged user
namespaces, and iproute2), else they talk over the loopback interface. The ring is on node 0; ranks of other nodes
publish to a relay there.
"""

HEADLESS_SECONDS: Final = 10.0
RATE_PER_RANK: Final = 4.0  # requests/s; a rank serves about twice that of chat
START_SECONDS: Final = 120.0  # for all ranks; only ends a hang
MOST_RANKS: Final = 256  # each is a process


def add_parser(verbs: options.Verbs) -> None:
    """Add the verb's parser."""
    text = "Run a simulated server: a process per rank publishes, a controller balances by the ring."
    parser = options.verb(verbs, "demo", run, text, epilog=EPILOG)
    parser.add_argument("--name", default="demo", help="the ring (default: demo)")
    parser.add_argument("--ranks", type=_count, default=8, metavar="N", help="ranks (default: 8)")
    parser.add_argument("--nodes", type=_count, default=1, metavar="N", help="nodes to spread them over (default: 1)")
    arrivals = parser.add_mutually_exclusive_group()
    arrivals.add_argument(
        "--trace", metavar="FILE", help="replay the arrivals of this CSV file, and end when they are served"
    )
    arrivals.add_argument(
        "--rate", type=_positive, metavar="R", help="mean of generated requests per second (default: 4 per rank)"
    )
    parser.add_argument(
        "--speed", type=_positive, default=1.0, metavar="X", help="arrivals come X times as fast (default: 1)"
    )
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the generated arrivals (default: 1)")
    parser.add_argument("--headless", action="store_true", help="no live table; print a summary at the end")
    parser.add_argument("--seconds", type=options.duration, metavar="DURATION", help="end after this time")


def _count(text: str) -> int:
    if text.isascii() and text.isdigit() and 1 <= int(text) <= MOST_RANKS:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 to {MOST_RANKS}")


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if 0 < value < math.inf:
        return value
    raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")


def run(args: argparse.Namespace) -> int:
    """Do it."""
    from snapring.cli.terminal import catch_stop, is_interactive
    from snapring.simulate.cluster import Cluster
    from snapring.simulate.controller import Controller

    arrivals, total = _arrivals(args)
    live = is_interactive() and not args.headless
    seconds = args.seconds
    if seconds is None:
        seconds = math.inf if live or args.trace else HEADLESS_SECONDS
    with (
        catch_stop() as stop,
        Cluster(args.name, args.ranks, args.dir, nodes=args.nodes) as cluster,
        Controller(cluster, arrivals, speed=args.speed) as controller,
    ):
        cluster.watch(stop.fileno())
        _start(cluster, stop)
        title = _title(args, cluster)
        controller.begin()
        if live:
            from snapring.cli.demo_screen import Screen

            Screen(cluster, controller, title=title, total=total, no_later_than_s=seconds).play(stop)
        else:
            _play_headless(controller, stop, total, seconds)
        report = controller.report()
    _print(args, report, title, why_loopback=cluster.nodes.why_loopback)
    return stop.exit_code


def _arrivals(args: argparse.Namespace) -> tuple[Iterable["Request"], int | None]:
    """Give the requests, and how many there are if they end."""
    from snapring.simulate import bursty, read_trace

    if args.trace is None:
        return bursty(args.seed, args.rate or RATE_PER_RANK * args.ranks), None
    try:
        requests = read_trace(args.trace)
    except InvalidValue as error:
        raise SnapringError(str(error)) from error  # the command was right, the file is not
    return requests, len(requests)


def _start(cluster: "Cluster", stop: "StopRequest") -> None:
    """Start all ranks and wait until each has published."""
    from snapring.simulate.cluster import Ended

    for rank in range(cluster.ranks):
        cluster.start(rank)
    end_s = time.monotonic() + START_SECONDS
    while stop.signal is None and not all(map(cluster.is_ready, range(cluster.ranks))):
        for rank, report in cluster.poll(1.0):
            if isinstance(report, Ended):
                raise cluster.why_ended(rank)
        if time.monotonic() > end_s:
            raise SnapringError(f"not all ranks started within {START_SECONDS:.0f} s; try fewer --ranks")


def _play_headless(controller: "Controller", stop: "StopRequest", total: int | None, seconds: float) -> None:
    with _progress(total) as show:
        while stop.signal is None and not controller.is_served and (left_s := seconds - controller.seconds) > 0:
            controller.turn(min(left_s, 0.5))
            show(controller.done + controller.refused)


@contextmanager
def _progress(total: int | None) -> Iterator[Callable[[int], object]]:
    """Give what shows how far a trace is, on a terminal; JSON on standard output stays alone there."""
    if total is None or not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    console = Console(stderr=True)
    with Progress("requests", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console) as progress:
        task = progress.add_task("", total=total)
        yield lambda done: progress.update(task, completed=done)


def _title(args: argparse.Namespace, cluster: "Cluster") -> str:
    source = args.trace or f"generated, {args.rate or RATE_PER_RANK * args.ranks:g}/s, seed {args.seed}"
    where = "over loopback" if cluster.nodes.why_loopback else "with a network of their own"
    nodes = f" on {args.nodes} nodes {where}" if args.nodes > 1 else ""
    return f"ring {args.name}, {args.ranks} ranks{nodes}; arrivals: {source}" + (
        f", {args.speed:g}x" if args.speed != 1 else ""
    )


def _print(args: argparse.Namespace, report: "Report", title: str, *, why_loopback: str | None) -> None:
    if args.json:
        output.print_json(_setting(args) | {"why_loopback": why_loopback} | report.to_dict())
        return
    first = report.first_token
    print(f"{title}; {report.seconds:.1f} s")
    if why_loopback:
        print(f"loopback: {why_loopback}")
    print(
        f"requests: {report.requests_done} done, {report.requests_resent} sent again, "
        f"{report.requests_refused} refused, {report.requests_unfinished} unfinished"
    )
    print(
        f"first token: mean {output.seconds_text(first.mean_s)}, median {output.seconds_text(first.p50_s)}, "
        f"99 % within {output.seconds_text(first.p99_s)}"
    )
    print(f"ring: {report.publishes} snapshots published, {report.reads} looks at all ranks by the controller")
    if args.nodes > 1:
        columns = ("node", "address", "ranks", "requests", "prompt tokens", "answer tokens", "published")
        rows = [
            (n.node, n.address, len(n.ranks), n.requests, n.prompt_tokens, n.answer_tokens, n.publishes)
            for n in report.nodes
        ]
        output.table(columns, rows, right=columns)
    columns = ("rank", "node", "requests", "prompt tokens", "answer tokens", "published", "starts")
    ranks = [
        (r.rank, r.node, r.requests, r.prompt_tokens, r.answer_tokens, r.publishes, r.starts) for r in report.ranks
    ]
    output.table(columns, ranks, right=columns)


def _setting(args: argparse.Namespace) -> dict[str, Any]:
    generated = args.trace is None
    return {
        "ring": args.name,
        "trace": args.trace,
        "rate": (args.rate or RATE_PER_RANK * args.ranks) if generated else None,
        "seed": args.seed if generated else None,
        "speed": args.speed,
    }
