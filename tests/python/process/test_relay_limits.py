"""A relay and its writers as guests of a process: what they do with its descriptors."""

import json
import subprocess
from pathlib import Path

import pytest

import support
from support import python, run

TESTS = str(Path(support.__file__).parent)
"""Where children find ``support``."""

FEW = """
import json, os, resource
import snapring
from snapring.feed import LoadFeed
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
openings = {
    "relay": lambda: snapring.Relay("far", ranks=1),
    "polled": lambda: snapring.Relay("far", ranks=1, drain="poll"),
    "writer": lambda: snapring.RemoteWriter("tcp://127.0.0.1:9", 0, 1, insecure=True),
    "feed": lambda: LoadFeed("tcp://127.0.0.1:0", 0),
}
found = {name: {"opened": 0, "refused": 0} for name in openings}
for opening in openings.values():
    opening().close()  # what is made once, and modules, are there
used = max(map(int, os.listdir("/proc/self/fd"))) + 1
for spare in range(0, 100, 3):
    for name, opening in openings.items():
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + spare, hard))
        try:
            opening().close()
            found[name]["opened"] += 1
        except snapring.SystemRefused as error:
            found[name]["refused"] += 1
            assert "files" in str(error), error
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
print(json.dumps(found))
"""


@pytest.mark.usefixtures("ring_dir")
def test_few_descriptors_are_an_error() -> None:
    """Where the limit leaves libzmq too few descriptors, opening raises SystemRefused and the process lives."""
    found = json.loads(run(python(FEW)))

    assert set(found) == {"relay", "polled", "writer", "feed"}
    for counts in found.values():
        assert counts["opened"] > 0
        assert counts["refused"] > 0


INHERITED = """
import os, subprocess, sys
sys.path.insert(0, sys.argv[1])
import snapring
from snapring.feed import LoadFeed
from support import eventually
def listed():
    return set(os.listdir("/proc/self/fd"))
before = listed()
with (
    snapring.Relay("far", ranks=1) as relay,
    snapring.Relay("far", ranks=1, drain="poll"),
    snapring.Relay("near", "tcp://127.0.0.1:0", ranks=1, insecure=True, drain="poll") as driven,
    snapring.RemoteWriter(relay.endpoint, 0, 1) as writer,
    LoadFeed("tcp://127.0.0.1:0", 0),
):
    eventually(lambda: writer.is_connected)
    opened = len(listed() - before)
    command = [sys.executable, "-c", "import os; print(len(os.listdir('/proc/self/fd')))"]
    print(opened, subprocess.run(command, close_fds=False, capture_output=True, text=True).stdout)
"""


@pytest.mark.usefixtures("ring_dir")
def test_started_programs_inherit_nothing() -> None:
    """No descriptor of owners, standbys, writers or feeds reaches a program that the host starts."""
    bare = [*python("import os; print(len(os.listdir('/proc/self/fd')))")]
    usual = int(subprocess.run(bare, capture_output=True, text=True, check=True).stdout)

    opened, inherited = map(int, run(python(INHERITED, TESTS)).split())

    assert opened > 60
    assert inherited == usual
