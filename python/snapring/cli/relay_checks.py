"""What ``snapring doctor`` looks at where rings have relays."""

import resource
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from snapring.cli.finding import Finding
from snapring.cli.output import seconds_text
from snapring.cli.relays import Owner, dead_sockets, owners

__all__ = ["check_relays"]

HUNG_S: Final = 5.0
"""An owner notes twice a second that it works."""

SPARE_FILES: Final = 128
"""Descriptors that a relay needs besides one per connection: its own, its host's, and a reserve for the transport."""


def check_relays(directory: Path, ranks: Mapping[str, int]) -> Iterator[Finding]:
    """Who owns the relay of each ring, whether it works and has descriptors enough; ``ranks`` by name of the ring."""
    for owner in owners(directory):
        yield check_owner(owner)
        if owner.held and owner.ring in ranks:
            yield from check_descriptors(owner, ranks[owner.ring])
    if dead := dead_sockets(directory):
        names = ", ".join(path.name for path in dead)
        yield Finding(
            "relays", "warn", f"nobody listens at {len(dead)} left behind by kills: {names}", "snapring gc --yes"
        )


def check_owner(owner: Owner) -> Finding:
    """Whether an owner works; none at all is no fault."""
    who = f"pid {owner.pid}{'' if owner.here else ' of another pid namespace'}"
    if not owner.held:
        last = f"the last was {who}" if owner.pid else "the last has closed"
        return Finding("relays", "ok", f"{owner.ring}: no owner now; {last}, term {owner.term}")
    text = f"{owner.ring}: owned by {who}, up {seconds_text(owner.up)}, term {owner.term}"
    if owner.silent < HUNG_S or not owner.here:  # clocks of other containers may be others
        return Finding("relays", "ok", f"{text}, at work")
    fix = f"kill -CONT {owner.pid} if it was stopped, else end it; a relay with kill_hung would have"
    return Finding("relays", "warn", f"{text}, has not worked for {seconds_text(owner.silent)}", fix)


def check_descriptors(owner: Owner, ranks: int) -> Iterator[Finding]:
    """Whether all ranks can connect: each takes a descriptor of the owner; nothing where its limit cannot be seen."""
    if not owner.here:  # in this pid namespace its pid is nobody's, or somebody else's
        return
    try:
        soft, _ = resource.prlimit(owner.pid, resource.RLIMIT_NOFILE)
    except (OSError, ValueError):  # it has just ended
        return
    needed = ranks + SPARE_FILES
    if 0 <= soft < needed:
        text = f"{owner.ring}: its owner may open {soft} files, and {ranks} ranks that connect take {needed}"
        yield Finding("relays", "warn", text, f"ulimit -n {needed}, before the owner starts")
