"""``snapring gc``: removal of rings that nobody uses any more."""

import argparse
import os
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from snapring import _core
from snapring.cli import options, output
from snapring.cli.relays import dead_sockets, remove_socket
from snapring.cli.rings import LEFT_BEHIND_S, RingInfo, Unreadable, all_rings, directory_path
from snapring.errors import LayoutMismatch, RingNotFound, RingUntrusted

__all__ = ["add_parser", "run"]

EPILOG = """\
Without --yes nothing is removed. A ring that a living process claims is never
removed, whatever the options; a ring whose writers all died may be wanted
still: a restarted server goes on with its versions.
"""


class Candidate(msgspec.Struct, kw_only=True):
    """A file and what becomes of it; ``age`` in seconds, ``action`` one of keep, remove, removed, failed."""

    name: str
    bytes: int
    age: float
    action: str = "remove"
    reason: str = ""


def add_parser(verbs: options.Verbs) -> None:
    """Add the verb's parser."""
    parser = options.verb(verbs, "gc", run, "Remove rings whose writers are all gone.", epilog=EPILOG)
    text = "only what was not written for this long"
    parser.add_argument("--older-than", type=options.duration, default=0.0, metavar="DURATION", help=text)
    parser.add_argument("--yes", action="store_true", help="remove; without it only say what would be removed")
    parser.add_argument("--force", action="store_true", help="also remove rings whose header cannot be read")


def run(args: argparse.Namespace) -> int:
    """Say what nobody uses, and with ``--yes`` remove it."""
    found = [*rings(args), *leftovers(args), *sockets(args)]
    if args.yes:
        for candidate in found:
            if candidate.action == "remove":
                remove(candidate, args)
    if args.json:
        output.print_json(found)
    elif found:
        rows = [
            [each.name, output.bytes_text(each.bytes), output.seconds_text(each.age), action(each), each.reason]
            for each in found
        ]
        output.table(["file", "size", "age", "action", "why"], rows, right=["size", "age"])
    else:
        output.note(f"no rings in {directory_path(args.dir)}")
    waiting = [each for each in found if each.action == "remove"]
    if waiting:
        freed = output.bytes_text(sum(each.bytes for each in waiting))
        output.note(f"nothing was removed; --yes would remove {len(waiting)} and free {freed}")
    return options.Exit.ERROR if any(each.action == "failed" for each in found) else options.Exit.OK


def rings(args: argparse.Namespace) -> Iterator[Candidate]:
    """Every ring, and whether it may go."""
    for ring in all_rings(args.dir, max_age=0):
        file = f"{ring.name}.ring"
        if isinstance(ring, Unreadable):
            size, age = size_and_age(args.dir, file)
            candidate = Candidate(name=file, bytes=size, age=age, reason="unreadable")
            keep = "" if args.force else "unreadable; --force removes it"
        else:
            candidate = Candidate(name=file, bytes=ring.geometry.file_bytes, age=ring.age, reason=why(ring))
            keep = "in use" if ring.in_use else ""
        if not keep and candidate.age < args.older_than:
            keep = f"younger than {output.seconds_text(args.older_than)}"
        if keep:
            candidate.action, candidate.reason = "keep", keep
        yield candidate


def why(ring: RingInfo) -> str:
    """Why a ring that nobody claims is there."""
    return "no living writer" if ring.this_boot else "made before the last boot"


def leftovers(args: argparse.Namespace) -> Iterator[Candidate]:
    """Files that a kill in the wrong microsecond left behind."""
    for file in _core.leftovers(args.dir, older_than=max(LEFT_BEHIND_S, args.older_than)):
        size, age = size_and_age(args.dir, file)
        yield Candidate(name=file, bytes=size, age=age, reason="left behind by a kill")


def sockets(args: argparse.Namespace) -> Iterator[Candidate]:
    """Sockets of relays that were killed. Files of locks stay for ever: all must lock the same one."""
    for path in dead_sockets(Path(directory_path(args.dir))):
        size, age = size_and_age(args.dir, path.name)
        if age >= args.older_than:
            yield Candidate(name=path.name, bytes=size, age=age, reason="nobody listens")


def size_and_age(directory: str | None, file: str) -> tuple[int, float]:
    """Bytes of a file and seconds since it was last changed; zeros for one that went meanwhile."""
    try:
        stat = os.lstat(Path(directory_path(directory)) / file)
    except FileNotFoundError:
        return 0, 0.0
    return stat.st_blocks * 512, max(0.0, time.time() - stat.st_mtime)


def remove(candidate: Candidate, args: argparse.Namespace) -> None:
    """Remove a file, unless somebody claimed it since it was looked at."""
    name, is_ring = candidate.name.removesuffix(".ring"), candidate.name.endswith(".ring")
    try:
        if candidate.name.endswith(".sock"):
            if remove_socket(Path(directory_path(args.dir)) / candidate.name):
                candidate.action = "removed"
            else:
                candidate.action, candidate.reason = "keep", "in use since a moment ago"
        elif not is_ring:
            _core.leftovers(args.dir, older_than=max(LEFT_BEHIND_S, args.older_than), remove=True)
            candidate.action = "removed"
        elif _core.remove(name, args.dir, force=args.force):
            candidate.action = "removed"
        else:
            candidate.action, candidate.reason = "keep", "in use since a moment ago"
    except RingNotFound:
        candidate.action, candidate.reason = "keep", "went away by itself"
    except (RingUntrusted, LayoutMismatch, OSError) as error:
        candidate.action, candidate.reason = "failed", str(error)


def action(candidate: Candidate) -> tuple[str, str]:
    """What is done, in a colour."""
    if candidate.action == "remove":
        return "would remove", "yellow"
    return candidate.action, {"removed": "green", "failed": "red"}.get(candidate.action, "dim")
