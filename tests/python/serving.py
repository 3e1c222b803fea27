"""``snapring serve`` as a child, and curl, which asks it: ``from serving import curl, serving``."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from command import LONG, start

__all__ = ["Answer", "Serving", "curl", "serving"]

ANY_PORT = ("--bind", "127.0.0.1:0")


class Answer(NamedTuple):
    """What curl was answered; status 0 where there was no answer."""

    status: int
    type: str
    body: str

    @property
    def json(self) -> dict[str, Any]:
        """The body, a JSON object."""
        found: dict[str, Any] = json.loads(self.body)
        return found


class Serving(NamedTuple):
    """A server that is up: its process and where it listens, with a slash at the end."""

    child: "subprocess.Popen[str]"
    url: str

    def end(self, number: int) -> tuple[int, str]:
        """Sends a signal; gives the exit code and what stood on standard error. Minutes only end a hang."""
        self.child.send_signal(number)
        _, noted = self.child.communicate(timeout=120)
        return self.child.returncode, noted


@contextmanager
def serving(name: str, *arguments: str, bind: tuple[str, ...] = ANY_PORT) -> Iterator[Serving]:
    """The ring's server, from when it has said that it listens; killed at the block's end."""
    with start("serve", name, *bind, "--json", *LONG, *arguments) as child:
        assert child.stdout is not None
        line = child.stdout.readline()
        assert line, child.communicate(timeout=120)[1]
        said = json.loads(line)
        assert said["name"] == name
        yield Serving(child, said["url"])


def curl(url: str, *options: str) -> Answer:
    """What curl gets of ``url``; the status and the type follow the body on a line of their own."""
    report = r"\n%{http_code} %{content_type}"
    command = ["curl", "--silent", "--noproxy", "*", "--max-time", "60", "--write-out", report, *options, url]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    body, _, told = done.stdout.rpartition("\n")
    status, _, media = told.partition(" ")
    return Answer(int(status), media, body)
