"""What the contract and process tests publish, and how they see that a value is whole."""

import struct
import subprocess
from collections.abc import Callable
from typing import Annotated

from msgspec import Meta, Struct

from snapring import Reader

Spawn = Callable[..., "subprocess.Popen[str]"]
"""The fixture of that name."""

COPIES = 60


class Whole(Struct, frozen=True):
    """``copies`` repeats ``number`` throughout, so that a mix of two snapshots shows."""

    number: int
    copies: Annotated[list[int], Meta(max_length=COPIES)]


def whole(number: int) -> Whole:
    """The snapshot of that number."""
    return Whole(number, [number] * COPIES)


class Numbered(Struct, frozen=True):
    """The smallest record."""

    number: int


BLOCK_WORDS = 512

# For children too: prints or sends nothing, needs no class. `block(n)` is 4 kB of the number n over and over.
BLOCKS = f"""
import struct
def block(number):
    return struct.pack("<q", number) * {BLOCK_WORDS}
def number_of(block):
    number, = struct.unpack_from("<q", block)
    if block != struct.pack("<q", number) * {BLOCK_WORDS}:
        raise SystemExit(f"torn: {{sorted(set(struct.unpack('<{BLOCK_WORDS}q', block)))}}")
    return number
"""


# In front of scripts that fork: newer Pythons warn of it in a process with threads, and numpy starts some.
FORKS = """
import warnings
warnings.filterwarnings("ignore", ".*fork", DeprecationWarning)
"""


def block(number: int) -> bytes:
    """4 kB of the number over and over."""
    return struct.pack("<q", number) * BLOCK_WORDS


def number_of(payload: bytes) -> int:
    """The number of a block; AssertionError when the block is a mix of two."""
    numbers = set(struct.unpack(f"<{BLOCK_WORDS}q", payload))

    assert len(numbers) == 1, f"torn: {sorted(numbers)}"
    return numbers.pop()


def line(child: "subprocess.Popen[str]") -> str:
    """Next line that a child prints; "" when it ended without one. The test's own limit ends a hang."""
    assert child.stdout is not None
    return child.stdout.readline().rstrip("\n")


def tell(child: "subprocess.Popen[str]", word: str = "go") -> None:
    """Sends a line to a child."""
    assert child.stdin is not None
    child.stdin.write(f"{word}\n")
    child.stdin.flush()


# Publishes as fast as it can, and pauses at random so that waiters do fall asleep.
FLOOD = """
import random, sys, time
import msgspec, snapring
class Numbered(msgspec.Struct, frozen=True):
    number: int
writer, rng = snapring.Writer("main", rank=0, ranks=1, schema=Numbered), random.Random(int(sys.argv[2]))
print("up", flush=True)
sys.stdin.readline()
for number in range(1, int(sys.argv[1]) + 1):
    writer.publish(Numbered(number))
    if rng.random() < 0.002:
        time.sleep(rng.random() * 0.002)
print("done", flush=True)
sys.stdin.read()
"""


def patient() -> "Reader[Numbered]":
    """A reader to whom nothing is ever stale, so that only publishes and deaths are changes."""
    return Reader("main", schema=Numbered, max_age=1e6)
