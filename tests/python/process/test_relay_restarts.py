"""Owner, writers and readers that come in any order, go, and come back."""

import itertools
import json
from pathlib import Path

import pytest

from contract.model import Spawn, line
from relays import RELAYS

# Values are (number of the publish, moment); each writer's numbers begin at `first`.
CAST = (
    RELAYS
    + """
def counter(first=1):
    one = snapring.RemoteWriter(endpoint, 0, 1, schema=bytes, payload=MOMENT.size)
    numbers = iter(range(first, 10**9))
    def publish():
        number = next(numbers)
        one.publish(MOMENT.pack(number, time.monotonic_ns()))
        return number
    return {"publish": publish, "close": one.close}

def local(first):
    one = snapring.Writer("main", 0, 1, schema=bytes, payload=MOMENT.size, cells=64)
    def publish():
        return one.publish(MOMENT.pack(first, time.monotonic_ns()))
    return {"publish": publish, "close": one.close}

def looker():
    reader = snapring.Reader("main", schema=bytes, max_age=1e6)
    def look():
        snap = reader.read(0)
        if snap is None:
            return None
        state, again = reader.check(0), reader.read(0)
        if (again.epoch, again.version) != (snap.epoch, snap.version):
            return look()  # the state may be that of another snapshot
        return {"number": MOMENT.unpack(snap.value)[0], "version": snap.version, "epoch": snap.epoch,
                "state": int(state), "age": snap.age}
    return {"look": look}

def open_relay():
    child = Child(relay, endpoint, 1)
    child.ask("state")
    return child

def shown(number, state="LIVE"):
    '''What the reader sees, once it is that number in that state.'''
    def look():
        seen = reader.ask("look")
        fits = seen and (seen["number"], seen["state"]) == (number, snapring.State[state])
        return seen if fits else None
    return until(look)

endpoint = "ipc://" + os.environ["SNAPRING_DIR"] + "/main.sock"
"""
)

ORDERS = (
    CAST
    + """
makers = {"owner": open_relay, "reader": lambda: Child(looker), "writer": lambda: Child(counter)}
made = {}
for name in sys.argv[1:]:
    made[name] = makers[name]()
    if name == "writer":
        made[name].ask("publish")
    if name == "reader":
        made[name].ask("look")
    time.sleep(0.05)
reader = made["reader"]
first = shown(1)
made["writer"].ask("publish")
second = shown(2)
end_all()
print(json.dumps([first, second]))
"""
)


ORDER = list(itertools.permutations(["owner", "reader", "writer"]))


@pytest.mark.parametrize("order", ORDER, ids="-".join)
def test_any_order_of_starts(ring_dir: Path, spawn: Spawn, order: tuple[str, ...]) -> None:
    """Whoever comes first or last, the reader sees the writer's newest value, as the first version, and the next."""
    first, second = json.loads(line(spawn(ORDERS, *order)))

    assert (first["version"], second["version"]) == (1, 2)
    assert first["epoch"] == second["epoch"] == 1


RESTARTS = (
    CAST
    + """
seen, reader, owner, writer = [], Child(looker), open_relay(), Child(counter, 100)
def note(step, number, state="LIVE"):
    seen.append([step, shown(number, state)])

note("first", writer.ask("publish"))
writer.end()
note("writer killed", 100, "DEAD")
writer = Child(counter, 200)
note("another writer", writer.ask("publish"))
owner.end()
note("owner killed", 200, "STALE")
owner = open_relay()
note("another owner", 200)
note("and a publish", writer.ask("publish"))
owner.end()
writer.end()
owner, writer = open_relay(), Child(counter, 300)
note("both killed", writer.ask("publish"))
end_all()
print(json.dumps(seen))
"""
)


def test_restarts_are_progress(ring_dir: Path, spawn: Spawn) -> None:
    """Writer, owner or both are killed and started again: values go on, versions and epochs never go back."""
    seen = json.loads(line(spawn(RESTARTS)))

    places = [(look["epoch"], look["version"]) for _, look in seen]
    assert places == sorted(places), seen
    by_step = dict(seen)
    assert by_step["another writer"]["version"] == by_step["first"]["version"] + 1
    assert by_step["another writer"]["epoch"] > by_step["first"]["epoch"]
    assert by_step["another owner"]["epoch"] > by_step["owner killed"]["epoch"]
    assert by_step["and a publish"]["version"] == by_step["another owner"]["version"] + 1
    assert by_step["both killed"]["epoch"] > by_step["and a publish"]["epoch"]


LOCAL = (
    CAST
    + """
reader, owner, remote = Child(looker), open_relay(), Child(counter, 100)
shown(remote.ask("publish"))
remote.end()
shown(100, "DEAD")
here = Child(local, 7)
here.ask("publish")
shown(7)
remote = Child(counter, 200)
remote.ask("publish")
until(lambda: owner.ask("stats")["held_locally"])
while_local = shown(7)
here.ask("close")
shown(remote.ask("publish"))
after = reader.ask("look")
end_all()
print(json.dumps({"while_local": while_local, "after": after}))
"""
)


def test_a_local_writer_keeps_its_rank(ring_dir: Path, spawn: Spawn) -> None:
    """What a remote writer sends for a rank that a local one holds is counted and dropped, until that one closes."""
    found = json.loads(line(spawn(LOCAL)))

    assert found["while_local"]["state"] == 1
    assert found["after"]["number"] == 201
    assert found["after"]["epoch"] > found["while_local"]["epoch"]
    assert found["after"]["version"] > found["while_local"]["version"]


SILENCE = (
    CAST
    + """
silence = float(sys.argv[1])
reader, owner, writer = Child(looker), open_relay(), Child(counter)
shown(writer.ask("publish"))
time.sleep(silence)
before = reader.ask("look")
owner.end()
owner = open_relay()
after = until(lambda: (seen := reader.ask("look"))["epoch"] > before["epoch"] and seen)
end_all()
print(json.dumps({"before": before, "after": after}))
"""
)


def test_old_news_stays_old(ring_dir: Path, spawn: Spawn) -> None:
    """A snapshot that is sent again to a new owner is as old as before and older, however fresh its arrival."""
    silence = 2.5

    found = json.loads(line(spawn(SILENCE, str(silence))))

    assert found["before"]["age"] >= silence
    assert found["after"]["age"] >= silence
    assert found["after"]["number"] == found["before"]["number"] == 1
