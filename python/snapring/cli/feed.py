"""``snapring feed``: the load of every rank of a ring, for routers that know only an address."""

import argparse
from typing import Final

from snapring.cli import options, output

__all__ = ["add_parser", "run"]

EPILOG: Final = """\
Rank R is published on port PORT+R by a ZeroMQ PUB socket, in three parts: topic
"load"; sequence (8 bytes, big-endian); msgpack array ["LoadStat", running,
waiting, used tokens, token capacity, rank, waiting uncached tokens, total
tokens, most running requests, prefill tokens since start, prefill microseconds
since start], with nil for what a rank does not report. A change is sent at once.
A rank that is LIVE is heard every second, at most a quarter late, and one that
is not, not at all.

examples:
  snapring feed llama --endpoint tcp://127.0.0.1:5600
  snapring feed llama --endpoint tcp://0.0.0.0:5600 \\
      --key feed.key --client router.pub
"""


def add_parser(verbs: options.Verbs) -> None:
    """Add the verb's parser."""
    text = "Publish the load of every rank for routers, until Ctrl-C."
    parser = options.verb(verbs, "feed", run, text, epilog=EPILOG)
    parser.add_argument("name", metavar="NAME", help="ring")
    help_text = "tcp://HOST:PORT; PORT is that of rank 0, and 0 takes free ones"
    parser.add_argument("--endpoint", required=True, metavar="URL", help=help_text)
    parser.add_argument("--key", metavar="FILE", help="own CURVE key file; needed where other hosts can connect")
    help_text = "public key of a router, its .pub file, or a directory of such; repeatable"
    parser.add_argument("--client", action="append", default=[], metavar="KEY", help=help_text)
    parser.add_argument("--insecure", action="store_true", help="let anybody who reaches the ports read, without keys")
    help_text = "send 0 for what is not reported, for routers that take integers only"
    parser.add_argument("--unknown-as-zero", action="store_true", help=help_text)
    options.add_max_age(parser)


def run(args: argparse.Namespace) -> int:
    """Feed until Ctrl-C, SIGTERM or a hang-up."""
    import select

    from snapring.cli.terminal import catch_stop
    from snapring.load import LoadSnapshot
    from snapring.ring import Reader
    from snapring.ring_feed import RingFeed

    reader = Reader[LoadSnapshot](args.name, max_age=args.max_age, must_exist=True, directory=args.dir, allow_disk=True)
    with (
        catch_stop() as stop,
        reader,
        RingFeed(
            reader,
            args.endpoint,
            key=args.key,
            clients=args.client,
            insecure=args.insecure,
            unknown_as_zero=args.unknown_as_zero,
        ) as feed,
    ):
        announce(args, feed.endpoints)
        failures = 0
        while stop.signal is None:
            pause_s = feed.step()
            if feed.failures and not failures:
                output.note(f"{feed.last_error}; the other ranks go on, and more such errors are only counted")
            failures = feed.failures
            select.select([stop.fileno(), feed.fileno()], [], [], pause_s)
    if failures > 1:
        output.note(f"{failures} loads could not be sent; the last: {feed.last_error}")
    return options.Exit.OK


def announce(args: argparse.Namespace, endpoints: list[str]) -> None:
    """Say where each rank is published, at once, for whoever started this."""
    if args.json:
        output.print_json_line({"name": args.name, "endpoints": endpoints})
        return
    for rank, endpoint in enumerate(endpoints):
        print(f"rank {rank}: {endpoint}", flush=True)
