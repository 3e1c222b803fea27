"""Writers without a relay that keeps up, many writers at once, and what an idle relay costs.

``SNAPRING_SENDERS=1000 pytest -s`` makes the crowd larger, and prints how long it took to come back.
"""

import json
import os
from pathlib import Path

import pytest

from contract.model import Spawn, line
from relays import RELAYS

MOST_GROWTH_KIB = 16 * 1024
SENDERS = int(os.environ.get("SNAPRING_SENDERS", "150"))

# A process that publishes 4 kB snapshots as fast as it can when told to, and a relay that may be slow.
PRESSURE = (
    RELAYS
    + """
SIZE = 4096
burst = int(sys.argv[2])

def publisher(endpoint):
    one = snapring.RemoteWriter(endpoint, 0, 1, schema=bytes, payload=SIZE)
    def publish(count):
        for _ in range(count):
            version = one.publish(MOMENT.pack(version_of() + 1, time.monotonic_ns()) * (SIZE // MOMENT.size))
        return version
    def version_of():
        return one.stats()["published"]
    return {"publish": publish, "stats": one.stats}

def collector(endpoint, every):
    one = snapring.Relay("main", endpoint, ranks=1, schema=bytes, payload=SIZE, drain="poll" if every else "thread")
    def poll():
        while True:
            one.poll()
            time.sleep(every)
    if every:
        threading.Thread(target=poll, daemon=True).start()
    return {"stats": one.stats}

def resident(child):
    with open(f"/proc/{child.pid}/status") as status:
        return next(int(row.split()[1]) for row in status if row.startswith("VmRSS"))

def number():
    snap = reader.read(0)
    return 0 if snap is None else MOMENT.unpack_from(snap.value)[0]

kind, endpoint = sys.argv[1], "ipc://" + os.environ["SNAPRING_DIR"] + "/main.sock"
reader = snapring.Reader("main", schema=bytes)
writer = Child(publisher, endpoint)
relays = [] if kind == "absent" else [Child(collector, endpoint, 0.05 if kind == "slow" else 0)]
count = writer.ask("publish", 2000)  # buffers are as large as they get
if relays:
    until(lambda: number() == count)
if kind == "stopped":
    relays[0].stop()
everyone = [writer, *relays]
before = [resident(child) for child in everyone]
count = writer.ask("publish", burst)
growth = [resident(child) - then for child, then in zip(everyone, before)]
seen = number()
if kind == "stopped":
    relays[0].send(signal.SIGCONT)
if kind == "absent":
    relays = [Child(collector, endpoint, 0)]
until(lambda: number() == count)
stats = writer.ask("stats")
end_all()
print(json.dumps({"count": count, "growth": growth, "seen": seen, "stats": stats}))
"""
)


@pytest.mark.parametrize("collector", ["absent", "slow", "stopped"])
def test_publishing_waits_for_nobody(ring_dir: Path, spawn: Spawn, collector: str) -> None:
    """Without a collector that keeps up all publishes return, memory stays flat, and the newest one wins in the end."""
    burst = 30_000

    found = json.loads(line(spawn(PRESSURE, collector, str(burst))))

    print(f"{collector}: growth of writer and relay {found['growth']} KiB, {found['stats']}")
    assert found["count"] == found["stats"]["published"] == burst + 2000
    assert found["stats"]["replaced"] > 0
    assert max(found["growth"]) < MOST_GROWTH_KIB  # a queue of all would have taken 120 MiB
    if collector != "slow":
        assert found["seen"] == (0 if collector == "absent" else 2000)


# Senders by the dozen in a few processes; the owner is killed, and its successor hears all of them at once.
CROWD = (
    RELAYS
    + """
import resource
_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
ranks, each = int(sys.argv[1]), 125

def crowd(first, last):
    # "wake", because the ticks of so many on one machine would be what is measured.
    ones = [snapring.RemoteWriter(endpoint, rank, ranks, schema=bytes, payload=MOMENT.size, latency="wake")
            for rank in range(first, last)]
    def publish():
        while True:
            for one in ones:
                one.publish(MOMENT.pack(1, time.monotonic_ns()))
            time.sleep(0.1)
    threading.Thread(target=publish, daemon=True).start()
    return {"reconnects": lambda: sum(one.stats()["reconnects"] for one in ones)}

def moments():
    return {snap.rank: MOMENT.unpack(snap.value)[1] for snap in reader.read_all()}

def all_since(moment_ns):
    found = moments()
    return len(found) == ranks and min(found.values()) > moment_ns

def cpu_seconds(child):
    with open(f"/proc/{child.pid}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

endpoint = "ipc://" + os.environ["SNAPRING_DIR"] + "/main.sock"
reader = snapring.Reader("main", schema=bytes, max_age=1e6)
owner = Child(relay, endpoint, ranks)
owner.ask("state")
crowds = [Child(crowd, first, min(first + each, ranks)) for first in range(0, ranks, each)]
until(lambda: all_since(0), pause=0.02)
standby = Child(relay, endpoint, ranks)
standby.ask("state")
before = cpu_seconds(standby)
owner.end()
killed_ns = time.monotonic_ns()
until(lambda: all_since(killed_ns), pause=0.02)
seconds = (time.monotonic_ns() - killed_ns) / 1e9
cpu = cpu_seconds(standby) - before
until(lambda: all(reader.check(rank) is snapring.State.LIVE for rank in range(ranks)), pause=0.02)
reconnects, stats, after = [one.ask("reconnects") for one in crowds], standby.ask("stats"), standby.ask("state")
end_all()
print(json.dumps({"seconds": seconds, "cpu": cpu, "after": after,
                  "reconnects": sum(reconnects), "stats": stats}))
"""
)


def test_a_crowd_comes_back(ring_dir: Path, spawn: Spawn) -> None:
    """All senders of a killed owner reach its successor, and every rank is LIVE again, none was refused."""
    found = json.loads(line(spawn(CROWD, str(SENDERS))))

    print(f"{SENDERS} senders fresh after {found['seconds']:.2f} s, owner's CPU {found['cpu']:.2f} s")
    assert found["after"] == [True, 2]
    assert found["reconnects"] >= SENDERS
    assert found["stats"]["too_many_peers"] == 0


# Switches of all threads that the package and libzmq started, over some seconds without a publish.
IDLE = (
    RELAYS
    + """
def silent(endpoint):
    one = snapring.RemoteWriter(endpoint, 0, 1, schema=bytes, payload=MOMENT.size)
    one.publish(MOMENT.pack(1, time.monotonic_ns()))
    return {"connected": lambda: one.is_connected}

def switches(child):
    found = {}
    for thread in os.listdir(f"/proc/{child.pid}/task"):
        if thread != str(child.pid):
            with open(f"/proc/{child.pid}/task/{thread}/status") as status:
                rows = dict(row.split(":", 1) for row in status)
            found[rows["Name"].strip() + " " + thread] = int(rows["voluntary_ctxt_switches"])
    return found

def waking(child, seconds):
    before, began = switches(child), time.monotonic()
    time.sleep(seconds)
    passed = time.monotonic() - began
    return {name: (count - before.get(name, 0)) / passed for name, count in switches(child).items()}

endpoint = "ipc://" + os.environ["SNAPRING_DIR"] + "/main.sock"
reader = snapring.Reader("main", schema=bytes)
owner = Child(relay, endpoint, 1)
owner.ask("state")
standby, writer = Child(relay, endpoint, 1), Child(silent, endpoint)
until(lambda: newest(reader, 0)[0])
time.sleep(0.5)
rates = {name: waking(child, 3.0) for name, child in [("owner", owner), ("standby", standby), ("writer", writer)]}
end_all()
print(json.dumps(rates))
"""
)


def test_idle_is_quiet(ring_dir: Path, spawn: Spawn) -> None:
    """Without publishes the threads of owner, standby and writer wake for the lock's beats and repeats only."""
    found = json.loads(line(spawn(IDLE)))

    print(json.dumps(found, indent=1))
    for name, rates in found.items():
        assert rates, name
        assert sum(rates.values()) < 60, name
        assert max(rates.values()) < 30, name
