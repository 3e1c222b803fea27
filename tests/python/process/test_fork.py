"""What a forked child inherits: readers that work, writers that refuse, no claim."""

import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from contract.model import FORKS, Spawn, line, tell
from snapring import LoadSnapshot, Reader, State, Writer
from support import eventually, python, run

# Every script forks in a fresh process, so that pytest's own threads are nobody's problem.
PRELUDE = (
    FORKS
    + """
import json, os, sys, time
import snapring
from snapring import LoadSnapshot, Reader, Writer

def in_child(work, meanwhile=lambda: None):
    '''What `work` returned in a forked child, through a pipe; "no answer" when the child died.'''
    source, sink = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(source)
        os.write(sink, json.dumps(work()).encode())
        os._exit(0)
    os.close(sink)
    meanwhile()
    with open(source) as answer:
        text = answer.read()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return json.loads(text) if text and code == 0 else f"no answer, exit code {code}"

def error_of(call):
    try:
        call()
    except Exception as error:
        return type(error).__name__
    return "nothing raised"
"""
)


def answer(script: str) -> Any:  # noqa: ANN401  whatever the script prints as JSON
    """What a script prints."""
    return json.loads(run(python(PRELUDE + script)))


def test_an_inherited_writer_refuses(ring_dir: Path) -> None:
    """Two processes with one claim would tear the slot, so each call in the child raises; the parent's go on."""
    found = answer("""
writer = Writer("main", rank=0, ranks=1)
writer.publish(LoadSnapshot())
calls = [lambda: writer.publish(LoadSnapshot()), writer.beat, lambda: writer.start_heartbeat(1), writer.close,
         lambda: writer.version, lambda: writer.epoch]
errors = in_child(lambda: [error_of(call) for call in calls])
print(json.dumps([errors, writer.publish(LoadSnapshot()), Reader("main", max_age=1e6).check(0).name]))
""")

    assert found == [["ForkedHandle"] * 6, 2, "LIVE"]


@pytest.mark.parametrize("how", ["fork", "forkserver", "spawn"])
def test_children_of_multiprocessing(ring_dir: Path, how: str, tmp_path: Path) -> None:
    """Whatever the start method, a child reads the parent's ring and claims a rank of its own."""
    script = tmp_path / "script.py"
    script.write_text("""
import multiprocessing, sys
import snapring

def work(queue):
    with snapring.Writer("main", rank=1, ranks=2) as writer:
        writer.publish(snapring.LoadSnapshot(num_running_reqs=2))
        queue.put([snap["num_running_reqs"] for snap in snapring.Reader("main").read_all()])

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    writer = snapring.Writer("main", rank=0, ranks=2)
    writer.publish(snapring.LoadSnapshot(num_running_reqs=1))
    queue = context.Queue()
    child = context.Process(target=work, args=(queue,))
    child.start()
    print(queue.get(timeout=60))
    child.join()
    print(child.exitcode, snapring.Reader("main").check(1).name)
""")
    assert run([sys.executable, "-P", str(script), how]) == "[1, 2]\n0 DEAD\n"


def test_an_inherited_reader_works(ring_dir: Path) -> None:
    """A reader in a child attaches anew by itself: reads, waits, watches and polls, independently of the parent's."""
    found = answer("""
import select
writer = Writer("main", rank=0, ranks=1)
writer.publish(LoadSnapshot(num_running_reqs=7))
reader = Reader("main")
fd = reader.fileno()
reader.poll()
wait, go = os.pipe()

def work():
    first = [reader.read(0)["num_running_reqs"], len(reader.view()), reader.poll(), reader.poll()]
    own = reader.fileno()
    os.write(go, b"x")
    ready = select.select([own], [], [], 30)[0] == [own]
    return [*first, ready, reader.poll(), reader.read(0)["num_running_reqs"]]

def publish_once_the_child_waits():
    os.read(wait, 1)
    writer.publish(LoadSnapshot(num_running_reqs=8))

found = in_child(work, publish_once_the_child_waits)
print(json.dumps([found, [select.select([fd], [], [], 30)[0] == [fd], reader.poll(), reader.fileno() == fd]]))
""")

    assert found == [[7, 1, [0], [], True, [0], 8], [True, [0], True]]


def test_a_snapshot_survives_a_fork(ring_dir: Path) -> None:
    """What was read before the fork can be looked at in the child, its state too."""
    found = answer("""
keeper = Writer("main", rank=1, ranks=2)
with Writer("main", rank=0, ranks=2) as writer:
    writer.publish(LoadSnapshot(num_running_reqs=7))
    snap, view = Reader("main").read(0), Reader("main").view()
time.sleep(0.06)
print(json.dumps(in_child(lambda: [snap.value.num_running_reqs, snap.state.name, view.states.tolist()])))
""")

    assert found == [7, "DEAD", [3, 0]]


PARENT = (
    FORKS
    + """
import os, sys, time
import snapring
writer = snapring.Writer("main", rank=0, ranks=2)
writer.publish(snapring.LoadSnapshot())
child = os.fork()
if child == 0:
    time.sleep(600)
print(child, flush=True)
sys.stdin.read()
"""
)


@pytest.mark.parametrize("gentle", [True, False])
def test_a_child_does_not_keep_its_parents_claim(ring_dir: Path, spawn: Spawn, gentle: bool) -> None:
    """A claim ends with the process that made it, although a child that it forked lives on."""
    with Writer("main", rank=1, ranks=2), Reader("main", max_age=1e6) as reader:
        parent = spawn(PARENT)
        child = int(line(parent))
        assert reader.check(0) is State.LIVE
        if gentle:
            assert parent.stdin is not None
            parent.stdin.close()
        else:
            parent.send_signal(signal.SIGKILL)
        parent.wait()

        assert Path(f"/proc/{child}").exists()
        eventually(lambda: reader.check(0) is State.DEAD)  # the child lets go when it first runs
        with Writer("main", rank=0, ranks=2) as writer:
            assert writer.publish(LoadSnapshot()) == 2


def test_a_subprocess_does_not_keep_its_parents_claim(ring_dir: Path, spawn: Spawn) -> None:
    """Neither does a program that the writer starts, even one that inherits every descriptor."""
    with Writer("main", rank=1, ranks=2), Reader("main") as reader:
        parent = spawn(
            "import subprocess, sys, snapring\n"
            "writer = snapring.Writer('main', rank=0, ranks=2)\n"
            "writer.publish(snapring.LoadSnapshot())\n"
            "print(subprocess.Popen(['sleep', '600'], close_fds=False).pid, flush=True)\n"
            "sys.stdin.read()\n"
        )
        sleeper = int(line(parent))
        parent.kill()
        parent.wait()

        assert Path(f"/proc/{sleeper}").exists()
        assert reader.check(0) is State.DEAD


def test_dropping_inherited_handles_is_quiet(ring_dir: Path) -> None:
    """A child that lets go of what it inherited neither hangs nor complains nor takes anything from its parent.

    Here a writer whose heartbeat thread exists only in the parent, and a reader with a watching thread.
    """
    found = answer("""
import gc
sys.unraisablehook = lambda args: os._exit(9)
odd = []
for _ in range(30):
    writer, reader = Writer("main", rank=0, ranks=1), Reader("main")
    writer.publish(LoadSnapshot())
    writer.start_heartbeat(0.0001)
    reader.fileno()
    def work():
        global writer, reader
        del writer, reader
        gc.collect()
        return "quiet"
    odd.append(in_child(work))
    assert writer.publish(LoadSnapshot()) == 2 and reader.poll() == [0]
    writer.close()
    reader.close()
print(json.dumps(sorted(set(odd))))
""")

    assert found == ["quiet"]


def test_a_child_may_open_what_its_parent_has_open(ring_dir: Path) -> None:
    """In the child the parent's rank is busy and the others are free."""
    found = answer("""
writer = Writer("main", rank=0, ranks=2)
print(json.dumps(in_child(lambda: [
    error_of(lambda: Writer("main", rank=0, ranks=2)),
    Writer("main", rank=1, ranks=2).publish(LoadSnapshot()),
])))
""")

    assert found == ["WriterBusy", 1]


def test_a_forked_publisher_leaves_the_parent_in_charge(ring_dir: Path) -> None:
    """A child that ticks its inherited publisher is told in the log; the parent's rank never has two writers."""
    found = answer("""
import logging
publisher = snapring.Publisher(lambda: Writer("main", rank=0, ranks=1), interval=1, retry=0.0, heartbeat_thread=True)
published = [publisher.tick(LoadSnapshot)]
child = in_child(lambda: [[publisher.tick(LoadSnapshot) for _ in range(3)], publisher.last_error.split(":")[0]])
published.append(publisher.tick(LoadSnapshot))
print(json.dumps([child, published, Reader("main").read(0).version]))
""")

    assert found == [[[False] * 3, "WriterBusy"], [True, True], 2]


def test_a_grandchild_is_a_child_too(ring_dir: Path) -> None:
    """The guard holds over any number of forks, and for handles opened on the way."""
    found = answer("""
writer = Writer("main", rank=0, ranks=2)
def work():
    own = Writer("main", rank=1, ranks=2)
    errors = in_child(lambda: [error_of(lambda: one.publish(LoadSnapshot())) for one in (writer, own)])
    return [errors, own.publish(LoadSnapshot())]
print(json.dumps(in_child(work)))
""")

    assert found == [["ForkedHandle", "ForkedHandle"], 1]


def test_forks_while_threads_publish(ring_dir: Path, spawn: Spawn) -> None:
    """A fork at any moment of a publish, a read, a beat or a watch leaves a child in which all of them answer."""
    child = spawn(
        PRELUDE
        + """
import threading
writer, reader = Writer("main", rank=0, ranks=1), Reader("main")
writer.start_heartbeat(0.0001)
reader.fileno()
stop = threading.Event()
def busy():
    while not stop.is_set():
        writer.publish(LoadSnapshot()); reader.read(0); reader.poll(); reader.view().states
threads = [threading.Thread(target=busy) for _ in range(3)]
for thread in threads: thread.start()
def work():
    return [error_of(lambda: writer.publish(LoadSnapshot())), reader.read(0) is not None, len(reader.view()),
            error_of(reader.poll), reader.fileno() >= 0]
print(json.dumps(sorted({json.dumps(in_child(work)) for _ in range(60)})), flush=True)
stop.set()
"""
    )

    assert json.loads(line(child)) == ['["ForkedHandle", true, 1, "nothing raised", true]']
    tell(child)
    eventually(lambda: child.poll() is not None)
