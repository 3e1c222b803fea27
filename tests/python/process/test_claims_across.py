"""Claims and files across containers: what separates two processes, and what does not."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from contract.model import FORKS, Spawn, line, tell
from snapring import LoadSnapshot, Reader, State, Writer, WriterBusy
from support import eventually, python, run


def separated(*options: str) -> list[str]:
    """A command line that runs the rest in namespaces of its own."""
    command = ["unshare", *options]
    probe = subprocess.run([*command, "true"], check=False, capture_output=True)
    if os.geteuid() != 0 or probe.returncode != 0:
        pytest.skip("only root can make namespaces")
    return command


HOLDER = """
import os, sys
import snapring
writer = snapring.Writer("main", rank=0, ranks=2)
writer.publish(snapring.LoadSnapshot())
print(os.getpid(), flush=True)
sys.stdin.read()
"""

LAUNCH = "import os, sys; os.execvp(sys.argv[1], sys.argv[1:])"


def test_a_claim_holds_across_pid_namespaces(ring_dir: Path, spawn: Spawn) -> None:
    """A rank in another container with its own pid 1 is as alive, and as dead, as one next door."""
    command = separated("--pid", "--fork", "--kill-child")
    with Writer("main", rank=1, ranks=2), Reader("main", max_age=1e6) as reader:
        holder = spawn(LAUNCH, *command, *python(HOLDER))
        assert line(holder) == "1"
        assert reader.check(0) is State.LIVE
        with pytest.raises(WriterBusy, match=r"pid 1 as it sees itself"):
            Writer("main", rank=0, ranks=2)
        holder.kill()

        eventually(lambda: reader.check(0) is State.DEAD)
        with Writer("main", rank=0, ranks=2) as writer:
            assert writer.publish(LoadSnapshot()) == 2


READER = """
import select, sys
import snapring
reader = snapring.Reader("main", max_age=1e6)
for _ in sys.stdin:
    print(reader.wait(60), reader.poll(), reader.read(0).version, reader.check(0).name, flush=True)
"""


def test_a_read_only_mount_suffices_to_read(ring_dir: Path, spawn: Spawn) -> None:
    """A sidecar that may only read sees values, states and changes; it cannot ring or write."""
    mount = f"mount --bind {ring_dir} {ring_dir}; mount -o remount,ro,bind {ring_dir}; exec " + '"$@"'
    command = [*separated("--mount"), "sh", "-ec", mount, "sh"]
    with Writer("main", rank=0, ranks=1) as writer:
        reader = spawn(LAUNCH, *command, *python(READER))
        for version in range(1, 6):
            writer.publish(LoadSnapshot())
            tell(reader)

            assert line(reader) == f"True [0] {version} LIVE"
        with pytest.raises(AssertionError, match="Read-only file system"):
            run([*command, sys.executable, "-P", "-c", "import snapring; snapring.Writer('main', rank=0, ranks=1)"])


def test_a_private_mount_is_not_mistaken_for_an_empty_ring(ring_dir: Path) -> None:
    """A container without the shared directory can ask for the ring, and is told where it was looked for."""
    mount = f"mount -t tmpfs -o mode=0700 tmpfs {ring_dir}; exec " + '"$@"'
    command = [*separated("--mount"), "sh", "-ec", mount, "sh"]
    with Writer("main", rank=0, ranks=1) as writer:
        writer.publish(LoadSnapshot())
        with pytest.raises(AssertionError, match=f"RingNotFound: no ring 'main' in {ring_dir}"):
            run([*command, *python("import snapring; snapring.Reader('main', must_exist=True)")])


# Ranks start at once, and one of them is killed while they do; again and again.
KILLED_AT_START = (
    FORKS
    + """
import os, random, signal, sys, time
import snapring
rng, ranks, odd = random.Random(int(sys.argv[1])), 5, []
for _ in range(int(sys.argv[2])):
    children = []
    for rank in range(ranks):
        child = os.fork()
        if child == 0:
            try:
                with snapring.Writer("main", rank=rank, ranks=ranks) as writer:
                    writer.publish(snapring.LoadSnapshot(num_running_reqs=rank))
                os._exit(0)
            except BaseException as error:
                print(repr(error), flush=True)
                os._exit(1)
        children.append(child)
    time.sleep(rng.random() * 0.01)
    os.kill(rng.choice(children), signal.SIGKILL)
    odd += [code for child in children if (code := os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])) not in (0, -9)]
    for snap in snapring.Reader("main").read_all():
        odd += [str(snap)] if snap["num_running_reqs"] != snap.rank or snap.state is snapring.State.NEVER else []
    with snapring.Writer("main", rank=0, ranks=ranks) as writer:
        writer.publish(snapring.LoadSnapshot())
    odd += [name for name in os.listdir(os.environ["SNAPRING_DIR"])]
print(odd, flush=True)
"""
)


def test_a_kill_while_ranks_start_spoils_nothing(ring_dir: Path, spawn: Spawn, rng: random.Random) -> None:
    """Whatever a rank was doing when it was killed, the others start, the next one too, and nothing is left behind."""
    assert line(spawn(KILLED_AT_START, str(rng.getrandbits(32)), "60")) == "[]"
