import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec
import pytest

import snapring
from command import LONG, start
from command import snapring as command
from snapring import LoadSnapshot


@pytest.fixture
def writer(ring_dir: Path) -> Iterator["snapring.Writer[LoadSnapshot]"]:
    """The writer of rank 0 of ``box``, which has two ranks and one snapshot: five requests wait."""
    with snapring.Writer("box", rank=0, ranks=2) as writer:
        writer.publish(LoadSnapshot(num_waiting_reqs=5, num_running_reqs=1))
        yield writer


def lines(watch: "subprocess.Popen[str]") -> Iterator[str]:
    """The lines that a watch prints, as they come."""
    assert watch.stdout is not None
    return iter(watch.stdout)


def test_a_line_per_change(writer: "snapring.Writer[LoadSnapshot]") -> None:
    """First comes every rank that published, then each change as soon as it happens, with what was reported."""
    with start("watch", "box", *LONG, "--count", "2") as watch:
        seen = lines(watch)
        first = next(seen)
        writer.publish(LoadSnapshot(num_waiting_reqs=4))
        second = next(seen)

        assert watch.wait(timeout=60) == 0
    assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{3} rank 0 LIVE version 1 .*num_waiting_reqs=5.*\n", first)
    assert "rank 0 LIVE version 2 " in second
    assert "num_waiting_reqs=4" in second
    assert "utilization" not in second


def test_json_lines(writer: "snapring.Writer[LoadSnapshot]") -> None:
    """--json prints an object per line, with the time of looking and the fields that were chosen."""
    done = command("watch", "box", *LONG, "--json", "--count", "1", "--fields", "num_waiting_reqs")

    (line,) = done.stdout.splitlines()
    found = json.loads(line)
    assert found["value"] == {"num_waiting_reqs": 5}
    assert (found["rank"], found["state"], found["version"]) == (0, "LIVE", 1)
    assert found["time"] >= found["timestamp"]


def test_until_a_condition_holds(writer: "snapring.Writer[LoadSnapshot]") -> None:
    """--until ends the watch with 0 at the change that fulfils it, also when that field is not printed."""
    fields = ("--fields", "num_running_reqs", "--rank", "0")
    with start("watch", "box", *LONG, *fields, "--until", "num_waiting_reqs==0", "--until", "version>2") as watch:
        seen = lines(watch)
        next(seen)
        writer.publish(LoadSnapshot(num_waiting_reqs=0))
        next(seen)
        assert watch.poll() is None  # the second condition does not hold yet
        writer.publish(LoadSnapshot(num_waiting_reqs=0))

        assert watch.wait(timeout=60) == 0
        assert "version 3" in next(seen)


def test_until_holds_already(writer: "snapring.Writer[LoadSnapshot]") -> None:
    """A condition that holds at once ends the watch at once, whatever the interval."""
    done = command("watch", "box", *LONG, "--rank", "0", "--until", "num_waiting_reqs==5", "--interval", "1h")

    assert (done.returncode, done.stdout.count("\n")) == (0, 1)


def test_timeout(writer: "snapring.Writer[LoadSnapshot]") -> None:
    """Time that ran out is an error where a condition was waited for, and names it; else it is just the end."""
    missed = command("watch", "box", *LONG, "--until", "sum(num_waiting_reqs)==0", "--timeout", "50ms")
    over = command("watch", "box", *LONG, "--timeout", "50ms")

    assert (missed.returncode, over.returncode) == (1, 0)
    assert missed.stderr == "snapring: not within 0.05 s: sum(num_waiting_reqs)==0\n"
    assert over.stdout.count("\n") == 1


def test_interval(writer: "snapring.Writer[LoadSnapshot]") -> None:
    """--interval prints every rank at that pace, changed or not, and no faster."""
    before = time.monotonic()
    done = command("watch", "box", *LONG, "--interval", "300ms", "--count", "6", "--json")
    took = time.monotonic() - before

    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(line["rank"], line["version"]) for line in found] == [(0, 1), (1, None)] * 3
    assert took >= 0.6


def test_interval_on_change(writer: "snapring.Writer[LoadSnapshot]") -> None:
    """--on-change with --interval prints only ranks that changed, each once however often it did."""
    with start("watch", "box", *LONG, "--interval", "100ms", "--on-change", "--json") as watch:
        seen = lines(watch)
        assert json.loads(next(seen))["version"] == 1
        for _ in range(50):
            last = writer.publish(LoadSnapshot())
        versions = [1]
        while versions[-1] != last:
            versions.append(json.loads(next(seen))["version"])

    assert versions == sorted(set(versions))
    assert len(versions) < 50


def test_state_is_a_change(ring_dir: Path, spawn: "type[subprocess.Popen[str]]") -> None:
    """The death of a writer ends a watch that waits for it."""
    code = (
        "import snapring, sys; w = snapring.Writer('box', 0, 1); w.publish(snapring.LoadSnapshot());"
        "print('ready', flush=True); sys.stdin.read()"
    )
    child = spawn(code)
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    with start("watch", "box", *LONG, "--until", "state==DEAD") as watch:
        seen = lines(watch)
        next(seen)
        child.kill()

        assert watch.wait(timeout=60) == 0
        assert "rank 0 DEAD version 1" in "".join(seen)


def test_ages_grow(writer: "snapring.Writer[LoadSnapshot]") -> None:
    """A condition on the age comes true while nothing changes at all."""
    done = command("watch", "box", *LONG, "--rank", "0", "--until", "age>0.5", "--interval", "1h")

    assert done.returncode == 0
    assert "version 1" in done.stdout


def test_a_ring_that_goes(ring_dir: Path) -> None:
    """When the last writer closes, the ring is gone, and a watch says so with 4."""
    writer = snapring.Writer("box", rank=0, ranks=1)
    writer.publish(LoadSnapshot())
    with start("watch", "box", *LONG) as watch:
        next(lines(watch))
        writer.close()

        assert watch.wait(timeout=60) == 4
        assert watch.stderr is not None
        assert "is gone" in watch.stderr.read()


class Seven(msgspec.Struct, frozen=True):
    x: int


def test_waiting_for_a_ring(ring_dir: Path) -> None:
    """With --wait a ring may come later, go, and come again with another schema."""
    with start("watch", "box", *LONG, "--wait", "--until", "x==7", "--json") as watch:
        seen = lines(watch)
        with snapring.Writer("box", rank=0, ranks=1, schema=dict, codec="msgpack") as first:
            first.publish({"x": 1})
            assert json.loads(next(seen))["value"] == {"x": 1}
        with snapring.Writer("box", rank=0, ranks=1, schema=Seven) as second:
            second.publish(Seven(7))

            assert watch.wait(timeout=60) == 0
        assert json.loads(list(seen)[-1])["value"] == {"x": 7}


def test_conditions_name_fields(writer: "snapring.Writer[LoadSnapshot]") -> None:
    """A condition on a field that the records do not have is an error of usage, not a watch for ever."""
    done = command("watch", "box", *LONG, "--until", "num_waiting==0")

    assert done.returncode == 2
    assert "did you mean" in done.stderr


def test_conditions_name_states(writer: "snapring.Writer[LoadSnapshot]") -> None:
    """States match in any case; what is no state is an error of usage that lists them, not a watch for ever."""
    live = command("watch", "box", *LONG, "--until", "any(state)==live", "--interval", "1h")
    none = command("watch", "box", *LONG, "--until", "state==dying")

    assert (live.returncode, none.returncode) == (0, 2)
    assert "NEVER, LIVE, STALE, DEAD" in none.stderr


class Machine(msgspec.Struct, frozen=True):
    state: Annotated[str, msgspec.Meta(max_length=8)]


def test_a_field_that_is_called_state(ring_dir: Path) -> None:
    """Where records have a field named state, conditions mean that, and it may hold anything."""
    with snapring.Writer("box", rank=0, ranks=1, schema=Machine) as writer:
        writer.publish(Machine("idle"))

        done = command("watch", "box", *LONG, "--until", "state==idle", "--timeout", "60s")

    assert done.returncode == 0


def test_on_change_alone(writer: "snapring.Writer[LoadSnapshot]") -> None:
    """Without --interval only changes are printed anyhow, and --on-change changes nothing."""
    done = command("watch", "box", *LONG, "--on-change", "--timeout", "600ms")

    assert (done.returncode, done.stdout.count("\n")) == (0, 1)
