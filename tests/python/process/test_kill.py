"""SIGKILL at any moment loses nothing and confuses nobody."""

import json
import random
from pathlib import Path

from contract.model import BLOCKS, FORKS, Spawn, line, tell

KILLS = 400
RESTARTED = 100

# A parent forks one writer after another and kills each at a random moment of its publishing. The writer notes each
# version that `publish` returned in memory that the parent shares, so the parent knows what was promised.
KILLER = (
    FORKS
    + BLOCKS
    + """
import json, mmap, os, random, signal, sys, time
import snapring

kills, rng = int(sys.argv[1]), random.Random(int(sys.argv[2]))
promised = mmap.mmap(-1, 8)
ready, started = os.pipe()

def publish_until_killed():
    writer = snapring.Writer("main", rank=0, ranks=2, schema=bytes, cells=4)
    version = writer.version
    os.write(started, b"x")
    while True:
        version = writer.publish(block(version + 1))
        promised[:] = struct.pack("<q", version)

keeper = snapring.Writer("main", rank=1, ranks=2, schema=bytes, cells=4)
reader = snapring.Reader("main", schema=bytes)
before, odd, alive = 0, [], 0
for round in range(1, kills + 1):
    child = os.fork()
    if child == 0:
        publish_until_killed()
    os.read(ready, 1)
    time.sleep(rng.random() * 0.004)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    known, = struct.unpack("<q", promised[:])
    snap = reader.read(0)
    if snap is None:
        odd += [f"round {round}: nothing to read"] if known else []
        continue
    if not (snap.version in (known, known + 1) and snap.version >= before):
        odd.append(f"round {round}: version {snap.version} after {before}, promised {known}")
    if number_of(snap.value) != snap.version or not 1 <= snap.epoch <= round:
        odd.append(f"round {round}: {snap} holds {number_of(snap.value)}, epoch {snap.epoch}")
    history = [number_of(value) for value in reader.history(0)]
    if history != list(range(snap.version - len(history) + 1, snap.version + 1)):
        odd.append(f"round {round}: history {history}")
    alive += reader.check(0) is not snapring.State.DEAD
    before = snap.version
writer = snapring.Writer("main", rank=0, ranks=2, schema=bytes, cells=4)
print(json.dumps({"odd": odd, "alive": alive, "epoch": writer.epoch, "published": before,
                  "next": writer.publish(block(before + 1)) - before}))
"""
)


def test_a_killed_writer_loses_nothing(ring_dir: Path, spawn: Spawn, rng: random.Random) -> None:
    """After each kill the last promised value is there and whole, and the rank is DEAD at once.

    Versions are dense and never go back; the next writer goes on with the next version and the next epoch.
    """
    found = json.loads(line(spawn(KILLER, str(KILLS), str(rng.getrandbits(32)))))

    assert found["odd"] == []
    assert found["alive"] == 0
    assert (found["epoch"], found["next"]) == (KILLS + 1, 1)
    assert found["published"] > KILLS


# Readers in this parent look on while one writer after another is started and killed.
RESTARTS = (
    FORKS
    + BLOCKS
    + """
import os, signal, sys, time
import snapring
sys.stdin.readline()
ready, started = os.pipe()
keeper = snapring.Writer("main", rank=1, ranks=2, schema=bytes, cells=4)
def publish_forever():
    writer = snapring.Writer("main", rank=0, ranks=2, schema=bytes, cells=4)
    writer.publish(block(writer.version + 1))
    os.write(started, b"x")
    while True:
        writer.publish(block(writer.version + 1))
for _ in range(int(sys.argv[1])):
    child = os.fork()
    if child == 0:
        publish_forever()
    os.read(ready, 1)
    time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
print("done", flush=True)
sys.stdin.read()
"""
)

WATCHER = (
    BLOCKS
    + """
import select, sys
import snapring
reader, last, reads = snapring.Reader("main", schema=bytes), (0, 0), 0
print("up", flush=True)
told = False
while not told:
    told = bool(select.select([sys.stdin], [], [], 0)[0])  # and then one read more: of the last writer
    snap = reader.read(0)
    if snap is not None:
        now = (snap.epoch, snap.version)
        if now < last or number_of(snap.value) != snap.version:
            raise SystemExit(f"{now} after {last}")
        last, reads = now, reads + 1
print(last[0], reads, flush=True)
"""
)


def test_readers_see_restarts_only_as_progress(ring_dir: Path, spawn: Spawn) -> None:
    """Readers that never re-open see (epoch, version) only grow through a hundred restarts, and no torn value."""
    writers, readers = spawn(RESTARTS, str(RESTARTED)), [spawn(WATCHER) for _ in range(2)]
    assert [line(reader) for reader in readers] == ["up", "up"]
    tell(writers)
    assert line(writers) == "done"
    for reader in readers:
        tell(reader)
    results = [[int(word) for word in line(reader).split()] for reader in readers]

    assert all(epoch == RESTARTED and reads > 0 for epoch, reads in results), results
