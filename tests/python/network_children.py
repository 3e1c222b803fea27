"""What tests of the network run on its hosts: ``python network_children.py relay|senders OPTIONS``, options in JSON.

Each line of standard input is a question, answered by a line of JSON; the end of input ends it.
"""

import json
import os
import resource
import sys
import threading
import time
from pathlib import Path
from typing import Any

import msgspec

import snapring

PAGE = os.sysconf("SC_PAGE_SIZE")


class Mark(msgspec.Struct, frozen=True):
    """A snapshot that says when it was published: ``at_ns`` of the monotonic clock, which all hosts here share."""

    count: int
    at_ns: int


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


class Relay:
    def __init__(self, options: dict[str, Any]) -> None:
        self.relay = snapring.Relay(**options, schema=Mark)

    def look(self) -> dict[str, Any]:
        return {
            "endpoint": self.relay.endpoint,
            "term": self.relay.term,
            "error": self.relay.last_error,
            "stats": self.relay.stats(),
            "resident": resident(),
            "cpu_s": time.process_time(),
        }


class Senders:
    """A writer for each of the ranks from ``first`` on; one thread publishes all of them, every ``every_s`` seconds."""

    def __init__(self, options: dict[str, Any]) -> None:
        endpoint, first, count, every_s = (options.pop(name) for name in ("endpoint", "first", "count", "every_s"))
        self.every_s = every_s
        self.writers = [
            snapring.RemoteWriter(endpoint, rank, schema=Mark, **options) for rank in range(first, first + count)
        ]
        threading.Thread(target=self.publish, daemon=True).start()

    def publish(self) -> None:
        count = 0
        while True:
            count += 1
            for writer in self.writers:
                writer.publish(Mark(count, time.monotonic_ns()))
            time.sleep(self.every_s)

    def look(self) -> dict[str, Any]:
        return {
            "connected": [writer.is_connected for writer in self.writers],
            "refusals": [writer.last_refusal for writer in self.writers],
            "stats": [writer.stats() for writer in self.writers],
            "resident": resident(),
        }


def main(what: str, options: str) -> None:
    """Do it until the input ends."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a thousand senders are a thousand connections
    try:
        worker = {"relay": Relay, "senders": Senders}[what](json.loads(options))
    except snapring.SnapringError as error:
        print(json.dumps({"error": type(error).__name__, "message": str(error)}), flush=True)
        return
    for line in sys.stdin:
        print(json.dumps(getattr(worker, line.strip())()), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
