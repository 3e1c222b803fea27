"""``snapring ls``: the rings of a directory."""

import argparse
from pathlib import Path

from snapring.cli import options, output
from snapring.cli.relays import owners
from snapring.cli.rings import RingInfo, Unreadable, all_rings, directory_path
from snapring.state import State

__all__ = ["add_parser", "run"]

STATES = (State.LIVE, State.STALE, State.DEAD, State.NEVER)


def add_parser(verbs: options.Verbs) -> None:
    """Add the verb's parser."""
    parser = options.verb(verbs, "ls", run, "List the rings on this host.")
    options.add_max_age(parser)


def run(args: argparse.Namespace) -> int:
    """Print a line per ring; no ring is no error."""
    rings = all_rings(args.dir, args.max_age)
    relays = {owner.ring: owner.pid for owner in owners(Path(directory_path(args.dir))) if owner.held}
    if args.json:
        output.print_json([as_dict(ring, relays.get(ring.name)) for ring in rings])
    elif rings:
        counts = [state.name.lower() for state in STATES]
        columns = ["name", "ranks", *counts, "age", "size", *(["relay"] if relays else []), "job"]
        rows = [row(ring, relays) for ring in rings]
        output.table(columns, rows, right=["ranks", *counts, "age", "size", "relay"])
    else:
        output.note(f"no rings in {directory_path(args.dir)}")
    return options.Exit.OK


def as_dict(ring: RingInfo | Unreadable, relay: int | None) -> dict[str, object]:
    """A ring as JSON shows it: sizes in bytes, times in seconds, and the pid of its relay's owner."""
    if isinstance(ring, Unreadable):
        return {"name": ring.name, "unreadable": ring.reason}
    return {
        "name": ring.name,
        "ranks": ring.geometry.ranks,
        **{state.name.lower(): ring.count(state) for state in STATES},
        "in_use": ring.in_use,
        "age": ring.age,
        "created": ring.created,
        "this_boot": ring.this_boot,
        "bytes": ring.geometry.file_bytes,
        "relay": relay,
        "job": ring.job,
        "generation": ring.generation,
        "schema": ring.schema_name,
    }


def row(ring: RingInfo | Unreadable, relays: dict[str, int]) -> list[object]:
    """A ring's cells in the table; ``relays`` has the pid of each owner, and is a column unless there is none."""
    relay = [relays.get(ring.name, "-")] if relays else []
    if isinstance(ring, Unreadable):
        return [ring.name, *[""] * (7 + len(relay)), ("unreadable; see snapring doctor", "red")]
    counts = [(ring.count(state), output.STATE_STYLES[state] if ring.count(state) else "dim") for state in STATES]
    age, size = output.seconds_text(ring.age), output.bytes_text(ring.geometry.file_bytes)
    return [(ring.name, "bold"), ring.geometry.ranks, *counts, age, size, *relay, ring.job]
