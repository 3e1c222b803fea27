"""One living writer per rank, and no more than that."""

import random
import re
import signal
from pathlib import Path

import pytest

from contract.model import Spawn, line, tell
from snapring import LayoutMismatch, LoadSnapshot, Reader, State, Writer, WriterBusy
from support import eventually

RACERS, ROUNDS = 8, 100

# Claims at a common signal, many times, and tells who won.
RACER = """
import sys
import snapring
print("up", flush=True)
for _ in sys.stdin:
    try:
        writer = snapring.Writer("race", rank=0, ranks=2)
        print("won", writer.epoch, flush=True)
    except snapring.WriterBusy as error:
        writer = None
        print("busy", "rank 0" in str(error), flush=True)
    sys.stdin.readline()
    if writer is not None:
        writer.close()
    print("free", flush=True)
"""


def test_of_many_that_claim_a_rank_one_wins(ring_dir: Path, spawn: Spawn) -> None:
    """Each race has exactly one winner, each winner a new epoch; the losers learn which rank is taken."""
    racers = [spawn(RACER) for _ in range(RACERS)]
    assert {line(racer) for racer in racers} == {"up"}
    with Writer("race", rank=1, ranks=2):
        epochs = []
        for _ in range(ROUNDS):
            for racer in racers:
                tell(racer)
            answers = [line(racer).split() for racer in racers]
            winners = [int(word) for answer, word in answers if answer == "won"]
            assert len(winners) == 1, answers
            assert [word for answer, word in answers if answer == "busy"] == ["True"] * (RACERS - 1)
            epochs += winners
            for racer in racers:
                tell(racer)
            assert {line(racer) for racer in racers} == {"free"}

    assert epochs == list(range(1, ROUNDS + 1))


# Opens the ring of all ranks at once, from nothing, and closes it again.
STARTER = """
import sys
import snapring
rank, ranks = int(sys.argv[1]), int(sys.argv[2])
print("up", flush=True)
for _ in sys.stdin:
    writer = snapring.Writer("race", rank=rank, ranks=ranks)
    version = writer.publish(snapring.LoadSnapshot(num_running_reqs=rank))
    print(writer.epoch, version, flush=True)
    sys.stdin.readline()
    writer.close()
    print("closed", flush=True)
"""


def test_all_ranks_may_start_and_end_at_once(ring_dir: Path, spawn: Spawn) -> None:
    """However ranks race to make the ring and to remove it, there is one, all are in it, and none is left."""
    ranks = 6
    starters = [spawn(STARTER, str(rank), str(ranks)) for rank in range(ranks)]
    assert {line(starter) for starter in starters} == {"up"}
    for _ in range(50):
        for starter in starters:
            tell(starter)
        assert [line(starter) for starter in starters] == ["1 1"] * ranks
        snaps = Reader("race").read_all()
        assert [snap["num_running_reqs"] for snap in snaps] == list(range(ranks))
        assert len({snap.generation for snap in snaps}) == 1
        for starter in starters:
            tell(starter)
        assert {line(starter) for starter in starters} == {"closed"}
        assert list(ring_dir.iterdir()) == []


def test_starts_and_ends_may_overlap(ring_dir: Path, spawn: Spawn, rng: random.Random) -> None:
    """A writer that opens while the last one closes gets the old ring or a new one, never a half of either."""
    starters = [spawn(STARTER, str(rank), "3") for rank in range(3)]
    assert {line(starter) for starter in starters} == {"up"}
    turns = [rng.choice(starters) for _ in range(600)]
    for starter in turns:
        tell(starter)  # opens if it is closed and closes if it is open; nobody waits for it
    answers = {starter.pid: [line(starter) for turn in turns if turn is starter] for starter in starters}

    for lines in answers.values():
        assert all(answer == "closed" for answer in lines[1::2])
        assert all(re.fullmatch(r"\d+ \d+", answer) for answer in lines[::2])


HOLDER = """
import sys
import snapring
writer = snapring.Writer("main", rank=0, ranks=2)
writer.publish(snapring.LoadSnapshot(num_running_reqs=1))
print("up", flush=True)
sys.stdin.read()
"""


def test_a_killed_writer_frees_its_rank(ring_dir: Path, spawn: Spawn) -> None:
    """The kernel gives the rank back with the process: the next writer needs no waiting and no cleaning up."""
    with Writer("main", rank=1, ranks=2), Reader("main", max_age=1e6) as reader:
        for round_ in range(1, 6):
            holder = spawn(HOLDER)
            assert line(holder) == "up"
            with pytest.raises(WriterBusy, match=rf"rank 0 .*pid {holder.pid}"):
                Writer("main", rank=0, ranks=2)
            assert reader.check(0) is State.LIVE
            holder.send_signal(signal.SIGKILL)
            holder.wait()

            assert reader.check(0) is State.DEAD
            with Writer("main", rank=0, ranks=2) as writer:
                assert writer.publish(LoadSnapshot()) == 2 * round_
                assert writer.epoch == 2 * round_


def test_death_is_seen_without_a_call(ring_dir: Path, spawn: Spawn) -> None:
    """Whoever only looks at views learns of a death too: no answer of the kernel is kept for long."""
    with Writer("main", rank=1, ranks=2), Reader("main", max_age=1e6) as reader:
        holder = spawn(HOLDER)
        assert line(holder) == "up"
        eventually(lambda: reader.view().ages[0] > 0.2)
        assert State(reader.view().states[0]) is State.LIVE
        holder.kill()

        eventually(lambda: State(reader.view().states[0]) is State.DEAD)


def test_two_writers_of_one_rank_in_one_process(ring_dir: Path) -> None:
    """The rule holds inside a process too: claims belong to handles, not to processes."""
    with Writer("main", rank=0, ranks=2) as first:
        with pytest.raises(WriterBusy):
            Writer("main", rank=0, ranks=2)

        assert first.publish(LoadSnapshot()) == 1
        assert Reader("main", max_age=1e6).check(0) is State.LIVE


@pytest.mark.parametrize(
    "options", [{"ranks": 3}, {"ranks": 2, "cells": 5}, {"ranks": 2, "schema": bytes}, {"ranks": 2, "job": "x"}]
)
def test_a_living_ring_is_not_replaced(ring_dir: Path, options: dict[str, int]) -> None:
    """Who wants another shape is told both sides of the difference, and the living notice nothing."""
    with Writer("main", rank=0, ranks=2, cells=4) as writer, Reader("main") as reader:
        writer.publish(LoadSnapshot(num_running_reqs=1))
        with pytest.raises(LayoutMismatch, match=r"the ring has .*, (this writer wants|the class has)"):
            Writer("main", rank=1, **options)  # type: ignore[arg-type]

        assert writer.publish(LoadSnapshot(num_running_reqs=2)) == 2
        assert [snap["num_running_reqs"] for snap in reader.read_all()] == [2]
