"""An owner of the relay that is stopped, busy or frozen with all others: who waits, who may end it, what is lost."""

import json
import signal
from pathlib import Path

from contract.model import Spawn, line
from relays import RELAYS

RANKS = 3

# One owner, two standbys, and a writer; the options of the relays come from the test.
CAST = (
    RELAYS
    + f"""
ranks, options = {RANKS}, json.loads(sys.argv[1])
reader = snapring.Reader("main", schema=bytes, max_age=0.5)
owner = Child(relay, None, ranks, options)
endpoint = owner.ask("endpoint")
standbys = [Child(relay, None, ranks, options) for _ in range(2)]
states = lambda children: [child.ask("state") for child in children]
if states([owner, *standbys]) != [[True, 1], [False, 1], [False, 1]]:
    raise SystemExit(f"roles: {{states([owner, *standbys])}}")
writer = Child(writers, endpoint, ranks)

def all_are(state):
    for rank in range(ranks):
        check_history(reader, rank)
    return all(reader.check(rank) is snapring.State[state] for rank in range(ranks))

def fresh_since(moment_ns):
    return all(newest(reader, rank)[1] > moment_ns for rank in range(ranks)) and all_are("LIVE")

until(lambda: fresh_since(0))
"""
)

STOPPED = (
    CAST
    + """
owner.stop()
until(lambda: all_are("STALE"))
held = [reader.read(rank).version for rank in range(ranks)]
before = writer.ask("counts")
until(lambda: all(now > then + 1000 for then, now in zip(before, writer.ask("counts"))))
waiting = states(standbys)
stopped = [reader.read(rank).version for rank in range(ranks)]
owner.send(signal.SIGCONT)
until(lambda: fresh_since(time.monotonic_ns() - 400_000_000))
lives = all_are("LIVE")
after = states([owner, *standbys])
end_all()
print(json.dumps({"held": held, "stopped": stopped, "waiting": waiting, "lives": lives, "after": after}))
"""
)


def test_a_stopped_owner_keeps_its_lock(ring_dir: Path, spawn: Spawn) -> None:
    """While it is stopped its ranks are STALE, nobody takes over and no publish waits; then it goes on as before."""
    found = json.loads(line(spawn(STOPPED, "{}")))

    assert found["stopped"] == found["held"]
    assert found["waiting"] == [[False, 1]] * 2
    assert found["lives"]
    assert found["after"] == [[True, 1], [False, 1], [False, 1]]


HUNG = (
    CAST
    + """
owner.send(signal.SIGSTOP)
stopped_ns = time.monotonic_ns()
until(lambda: any(owns for owns, _ in states(standbys)))
_, status = os.waitpid(owner.pid, 0)
until(lambda: fresh_since(stopped_ns))
after = sorted(states(standbys))
family.remove(owner)
end_all()
print(json.dumps({"signal": os.WTERMSIG(status), "after": after}))
"""
)


def test_a_standby_ends_a_hung_owner(ring_dir: Path, spawn: Spawn) -> None:
    """With kill_hung a stopped owner is killed, one standby owns under the next term, and each rank's values go on."""
    found = json.loads(line(spawn(HUNG, json.dumps({"kill_hung": 1}))))

    assert found["signal"] == signal.SIGKILL
    assert found["after"] == [[False, 2], [True, 2]]


BUSY = (
    CAST
    + """
owner.mine.sendall(json.dumps(["busy", [4.0]]).encode() + b"\\n")
began_ns = time.monotonic_ns()
until(lambda: fresh_since(began_ns + 3_500_000_000))  # the ring follows while nothing else runs there
waiting = states(standbys)
done = owner.answer()
after = states([owner, *standbys])
end_all()
print(json.dumps({"waiting": waiting, "done": done, "after": after}))
"""
)


def test_a_busy_interpreter_is_no_hang(ring_dir: Path, spawn: Spawn) -> None:
    """An owner whose Python holds the interpreter for longer than kill_hung still fills the ring, and lives."""
    found = json.loads(line(spawn(BUSY, json.dumps({"kill_hung": 1}))))

    assert found["waiting"] == [[False, 1]] * 2
    assert found["done"]
    assert found["after"] == [[True, 1], [False, 1], [False, 1]]


# As a container that is paused, or a job that a shell stops and takes up again: the owner may well be the last to run.
FROZEN = (
    CAST
    + """
for child in (owner, *standbys):
    child.stop()
time.sleep(2.5)
for child in standbys:
    child.send(signal.SIGCONT)
first = states(standbys)
time.sleep(0.3)
owner.send(signal.SIGCONT)
began_ns = time.monotonic_ns()
until(lambda: fresh_since(began_ns))
after = states([owner, *standbys])
end_all()
print(json.dumps({"first": first, "after": after}))
"""
)


def test_those_who_froze_together_blame_nobody(ring_dir: Path, spawn: Spawn) -> None:
    """A standby that was stopped itself has not seen the owner hang: it grants it the whole time from now."""
    found = json.loads(line(spawn(FROZEN, json.dumps({"kill_hung": 1}))))

    assert found["first"] == [[False, 1]] * 2
    assert found["after"] == [[True, 1], [False, 1], [False, 1]]
