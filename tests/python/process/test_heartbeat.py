"""Who asks is answered at once, whatever the rank is doing; and sees whether it still lives."""

import signal
from pathlib import Path

from contract.model import Spawn, line, tell
from snapring import LoadSnapshot, Reader, State, Writer
from support import eventually

# A rank whose loop publishes once and then, on request, does something long. `sleep` of the C library through PyDLL
# holds the interpreter's lock: no Python code of the process runs meanwhile.
RANK = """
import ctypes, sys, time
import snapring
publisher = snapring.Publisher(lambda: snapring.Writer("main", rank=0, ranks=1), interval=1, heartbeat=0.02,
                               heartbeat_thread=sys.argv[1] == "beat")
publisher.tick(lambda: snapring.LoadSnapshot(num_running_reqs=7))
print("up", flush=True)
step = sys.stdin.readline().strip()
if step == "hold the GIL":
    ctypes.PyDLL(None).sleep(600)
while True:
    time.sleep(600)
"""


def silent(reader: "Reader[object]") -> bool:
    """True when the rank's data and its last sign of life are both older than 0.3 s."""
    snap = reader.read(0)
    assert snap is not None
    return snap.age > 0.3 and snap.beat_age > 0.3


def alive_but_busy(reader: "Reader[object]") -> bool:
    """True when the data is older than 0.3 s and there was a sign of life since."""
    snap = reader.read(0)
    assert snap is not None
    return snap.age > 0.3 and snap.beat_age < 0.2


def test_a_rank_in_a_long_step_is_read_at_once(ring_dir: Path, spawn: Spawn) -> None:
    """A reader never asks the rank: a thousand reads give its last state while not even the rank's interpreter runs."""
    rank = spawn(RANK, "no beat")
    assert line(rank) == "up"
    tell(rank, "hold the GIL")
    reader = Reader("main", max_age=0.1)
    eventually(lambda: silent(reader))

    for _ in range(1000):
        snap = reader.read(0)
        assert snap is not None
        assert (snap["num_running_reqs"], snap.version, snap.contended) == (7, 1, False)
    assert reader.view().records["num_running_reqs"].tolist() == [7]
    assert reader.check(0) is State.STALE
    assert rank.poll() is None


def test_the_heartbeat_beats_while_python_cannot(ring_dir: Path, spawn: Spawn) -> None:
    """A rank that holds the interpreter's lock is seen to live by its native heartbeat; its data grows old."""
    rank = spawn(RANK, "beat")
    assert line(rank) == "up"
    tell(rank, "hold the GIL")
    reader = Reader("main", max_age=0.1)
    for _ in range(5):
        eventually(lambda: alive_but_busy(reader))

    snap = reader.read(0)
    assert snap is not None
    assert (snap.version, snap.state) == (1, State.STALE)


def test_a_stopped_process_stops_beating(ring_dir: Path, spawn: Spawn) -> None:
    """A paused host shows no life, keeps its rank, and is seen again when it goes on."""
    rank = spawn(RANK, "beat")
    assert line(rank) == "up"
    tell(rank, "sleep")
    reader = Reader("main", max_age=0.1)
    eventually(lambda: alive_but_busy(reader))
    rank.send_signal(signal.SIGSTOP)
    eventually(lambda: silent(reader))
    assert reader.check(0) is State.STALE
    rank.send_signal(signal.SIGCONT)
    eventually(lambda: alive_but_busy(reader))
    rank.kill()

    eventually(lambda: reader.check(0) is State.DEAD)
    assert reader.read(0) is not None


def test_a_heartbeat_ends_with_its_writer(ring_dir: Path) -> None:
    """Closing or dropping a writer ends its thread at once; starting it twice leaves one."""
    for end in ("close", "drop"):
        writer = Writer("main", rank=0, ranks=1)
        writer.publish(LoadSnapshot())
        writer.start_heartbeat(3600)
        writer.start_heartbeat(3600)
        eventually(lambda: beats() == 1)  # a thread takes its name a moment after it started
        if end == "close":
            writer.close()
        del writer
        eventually(lambda: beats() == 0)


def beats() -> int:
    """Heartbeat threads of this process."""
    names = list(Path("/proc/self/task").glob("*/comm"))
    return sum(name.read_text().startswith("snapring-beat") for name in names)
