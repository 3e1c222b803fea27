import signal
from collections.abc import Callable
from subprocess import Popen

from contract.model import FORKS
from support import eventually, python, run

PARENT = (
    FORKS
    + """
import os, sys
from snapring import LoadSnapshot
from snapring.errors import ForkedHandle
from snapring.feed import LoadFeed

def refused(call):
    try:
        call()
    except ForkedHandle:
        return True
    return False

feed = LoadFeed("tcp://127.0.0.1:0", 0)
feed.publish(LoadSnapshot())
feed.start_heartbeat(0.001)
"""
)


def test_an_inherited_feed_refuses() -> None:
    """In a child each call raises, whatever the native threads did; the parent's feed goes on and ends in order."""
    found = run(
        python(
            PARENT
            + """
calls = [lambda: feed.publish(LoadSnapshot()), lambda: feed.publish(LoadSnapshot(num_running_reqs=1)),
         lambda: feed.start_heartbeat(1.0), feed.close, lambda: LoadFeed("tcp://127.0.0.1:0", 1, beside=feed)]
codes = []
for _ in range(20):
    pid = os.fork()
    if pid == 0:
        right = all(refused(call) for call in calls)
        with LoadFeed("tcp://127.0.0.1:0", 0) as own:
            right = right and own.publish(LoadSnapshot()) == 1
        del feed
        os._exit(0 if right else 1)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
before = feed.publish(LoadSnapshot(num_running_reqs=2))
print(codes == [0] * 20, feed.publish(LoadSnapshot(num_running_reqs=3)) > before)
feed.close()
with LoadFeed(feed.endpoint, 0):
    print("bound again")
"""
        )
    )

    assert found == "True True\nbound again\n"


def test_a_child_does_not_keep_the_port(spawn: "Callable[..., Popen[str]]") -> None:
    """When the parent is killed, the port is free, while a child of it lives on."""
    parent = spawn(
        PARENT
        + """
pid = os.fork()
if pid == 0:
    sys.stdin.read()
    os._exit(0)
print(feed.endpoint, pid, flush=True)
sys.stdin.read()
"""
    )
    assert parent.stdout is not None
    endpoint, child = parent.stdout.readline().split()
    parent.send_signal(signal.SIGKILL)
    parent.wait()

    bind = "import sys; from snapring.feed import LoadFeed; LoadFeed(sys.argv[1], 0).close(); print('bound')"
    assert run(python(bind, endpoint)) == "bound\n"
    assert eventually(lambda: alive(int(child)))


def alive(pid: int) -> bool:
    """Whether the process runs."""
    with open(f"/proc/{pid}/stat") as stat:  # noqa: PTH123  a file that is no file
        return stat.read().rpartition(")")[2].split()[0] in "RSD"
