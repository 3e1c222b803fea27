"""The relay of a simulated server as a process of its own: ``python -m snapring.simulate.relay_process SITE``.

SITE is a `Site` in JSON. The process makes keys, listens, says where in a line of JSON (a `Listening`), and ends with
its input, so that it cannot outlive its maker; a stopped one goes on when its maker dies, to see that.
"""

import ctypes
import signal
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from snapring._core import make_keys
from snapring.relay import Relay
from snapring.simulate.snapshot import SimulatedLoad

__all__ = ["Listening", "Site", "main"]

_PR_SET_PDEATHSIG: Final = 1  # <linux/prctl.h>


class Site(msgspec.Struct, frozen=True):
    """Which ring to fill, and the address to listen at."""

    ring: str
    ranks: int
    job: str
    directory: str
    address: str


class Listening(msgspec.Struct, frozen=True):
    """Where the relay listens, its public key, and the key file of those who may send; the folder goes with it."""

    endpoint: str
    server_key: str
    key: str


def main(text: str) -> None:
    """Relay until the input ends; leaves no file."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # when it ends is for its maker to say
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGCONT)
    site = msgspec.json.decode(text, type=Site)
    # Its maker removes it too, should this process be killed.
    with tempfile.TemporaryDirectory(prefix="snapring-demo-", ignore_cleanup_errors=True) as folder:
        keys = Path(folder)
        server_key, sender_key = (make_keys(keys / name) for name in ("relay", "ranks"))
        with Relay(
            site.ring,
            f"tcp://{site.address}:0",
            ranks=site.ranks,
            schema=SimulatedLoad,
            job=site.job,
            standby=False,
            key=keys / "relay",
            clients=[sender_key],
            directory=site.directory,
        ) as relay:
            listening = Listening(relay.endpoint or "", server_key, str(keys / "ranks"))
            sys.stdout.write(f"{msgspec.json.encode(listening).decode()}\n")
            sys.stdout.flush()
            with suppress(OSError):
                sys.stdin.read()
            # A server keeps this file, since its lock is what relays agree by; nobody stands by for a demo.
            (Path(site.directory) / f"{site.ring}.owner").unlink(missing_ok=True)


if __name__ == "__main__":
    main(sys.argv[1])
