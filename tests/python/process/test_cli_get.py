import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec
import pytest

import snapring
from command import LONG
from command import snapring as command
from snapring.load import QueuesSection


@pytest.fixture
def ring(ring_dir: Path) -> Iterator["snapring.Writer[snapring.LoadSnapshot]"]:
    """The writer of rank 1 of ``box``, which has three ranks, one snapshot and a job."""
    with snapring.Writer("box", rank=1, ranks=3, job="train-7") as writer:
        load = snapring.LoadSnapshot(num_running_reqs=12, token_usage=0.25, queues=QueuesSection(waiting=3))
        writer.publish(load)
        yield writer


def test_json_is_the_whole_snapshot(ring: object) -> None:
    """--json gives each rank its state, version, ages in seconds, and its value, or null where it has none."""
    done = command("get", "box", *LONG, "--json")

    answer = json.loads(done.stdout)
    never, live, _ = answer["ranks"]
    assert (answer["ring"], len(answer["ranks"])) == ("box", 3)
    assert never == {"rank": 0, "state": "NEVER"} | dict.fromkeys(
        ["version", "epoch", "age", "beat_age", "timestamp", "remote", "value"]
    )
    assert (live["rank"], live["state"], live["version"], live["epoch"]) == (1, "LIVE", 1, 1)
    assert 0 < live["age"] < live["timestamp"]
    assert live["value"]["num_running_reqs"] == 12
    assert live["value"]["queues"]["waiting"] == 3
    assert live["value"]["cache_hit_rate"] is None


def test_chosen_fields_and_ranks(ring: object) -> None:
    """--fields and --rank choose; a section stands for all of its fields."""
    done = command("get", "box", *LONG, "--rank", "1", "--fields", "num_running_reqs,queues", "--json")

    (rank,) = json.loads(done.stdout)["ranks"]
    assert rank["value"] == {
        "num_running_reqs": 12,
        "queues.waiting": 3,
        "queues.grammar": None,
        "queues.paused": None,
        "queues.retracted": None,
        "queues.prealloc_ready": None,
    }


def test_table_of_chosen_fields(ring: object) -> None:
    """With --fields there is a line per rank, in the order of the fields; what was not reported is a dash."""
    done = command("get", "box", *LONG, "--fields", "token_usage,num_running_reqs,utilization")

    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[0] == ["rank", "state", "age", "token_usage", "num_running_reqs", "utilization"]
    assert lines[1] == ["0", "NEVER", "-", "-", "-", "-"]
    assert lines[2][:2] + lines[2][3:] == ["1", "LIVE", "0.25", "12", "-"]


def test_table_of_all_fields(ring: object) -> None:
    """Without --fields there is a line per field that any rank reports, with its unit, and a column per rank."""
    done = command("get", "box", *LONG)

    lines = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines()}
    assert lines["state"] == ["NEVER", "LIVE", "NEVER"]
    assert lines["num_running_reqs"] == ["-", "12", "-", "requests"]
    assert lines["queues.waiting"] == ["-", "3", "-", "requests"]
    assert "utilization" not in lines


def test_csv(ring: object) -> None:
    """--csv is a header and a row per rank; what was not reported is empty."""
    done = command("get", "box", *LONG, "--csv", "--fields", "num_running_reqs,utilization")

    rows = list(csv.DictReader(done.stdout.splitlines()))
    assert [row["rank"] for row in rows] == ["0", "1", "2"]
    assert [row["num_running_reqs"] for row in rows] == ["", "12", ""]
    assert [row["utilization"] for row in rows] == ["", "", ""]
    assert (rows[1]["state"], rows[1]["version"]) == ("LIVE", "1")


def test_fresh_enough(ring: object) -> None:
    """--require-fresh asks every rank that is shown to be LIVE, and exits with 3 when one is not."""
    fresh = command("get", "box", *LONG, "--rank", "1", "--max-age", "1d", "--require-fresh")
    old = command("get", "box", *LONG, "--rank", "1", "--max-age", "0", "--require-fresh", "--json")
    never = command("get", "box", *LONG, "--max-age", "1d", "--require-fresh")

    assert (fresh.returncode, old.returncode, never.returncode) == (0, 3, 3)
    assert "rank 1 STALE" in old.stderr
    assert "rank 0 NEVER, rank 2 NEVER" in never.stderr
    assert json.loads(old.stdout)["ranks"][0]["value"]["num_running_reqs"] == 12  # shown all the same


def test_dead_is_not_fresh(ring_dir: Path) -> None:
    """A rank whose writer closed is DEAD; it exits with 3 only when freshness was asked for."""
    with snapring.Writer("box", rank=0, ranks=1, keep=True) as writer:
        writer.publish(snapring.LoadSnapshot())

    shown = command("get", "box", *LONG, "--json")
    refused = command("get", "box", *LONG, "--require-fresh", "--max-age", "1d")

    assert json.loads(shown.stdout)["ranks"][0]["state"] == "DEAD"
    assert (shown.returncode, refused.returncode) == (0, 3)


def test_names_that_are_not_there(ring: object) -> None:
    """An unknown field is answered with the nearest one, an unknown rank with the ranks there are; both with 2."""
    field = command("get", "box", *LONG, "--fields", "num_runing_reqs")
    rank = command("get", "box", *LONG, "--rank", "3")

    assert (field.returncode, rank.returncode) == (2, 2)
    assert "did you mean num_running_reqs" in field.stderr
    assert "ranks 0 to 2" in rank.stderr


class Odd(msgspec.Struct, frozen=True):
    """Fields that are hard to print."""

    ratio: float
    text: Annotated[str, msgspec.Meta(max_length=40)]
    raw: Annotated[bytes, msgspec.Meta(max_length=8)]
    many: Annotated[list[int], msgspec.Meta(max_length=4)]


def test_any_schema(ring_dir: Path) -> None:
    """Any ring can be read without its class; NaN becomes null, bytes base64, and control characters obey nobody."""
    with snapring.Writer("box", rank=0, ranks=1, schema=Odd) as writer:
        writer.publish(Odd(float("nan"), "red \x1b[31m, comma", b"\xff\x00", [1, 2]))
        in_json = command("get", "box", *LONG, "--json")
        in_text = command("get", "box", *LONG)
        in_csv = command("get", "box", *LONG, "--csv")

    value = json.loads(in_json.stdout)["ranks"][0]["value"]
    assert value == {"ratio": None, "text": "red \x1b[31m, comma", "raw": "/wA=", "many": [1, 2]}
    assert "\x1b" not in in_text.stdout
    assert "red ?[31m, comma" in in_text.stdout
    (row,) = csv.DictReader(in_csv.stdout.splitlines())
    assert (row["text"], row["many"], row["ratio"]) == ("red \x1b[31m, comma", "[1, 2]", "nan")


def test_free_payloads(ring_dir: Path) -> None:
    """Rings of msgpack and of bytes are shown too; fields of msgpack maps go by dotted path."""
    with (
        snapring.Writer("pack", rank=0, ranks=1, schema=dict, codec="msgpack") as pack,
        snapring.Writer("raw", rank=0, ranks=1, schema=bytes) as raw,
    ):
        pack.publish({"a": {"b": 1}, "c": "x"})
        raw.publish(b"abc")
        chosen = command("get", "pack", *LONG, "--fields", "a.b,missing", "--json")
        whole = command("get", "raw", *LONG, "--json")

    assert json.loads(chosen.stdout)["ranks"][0]["value"] == {"a.b": 1, "missing": None}
    assert json.loads(whole.stdout)["ranks"][0]["value"] == "YWJj"


@pytest.mark.parametrize(
    ("published", "shown", "path"),
    [
        ({(1, 2): 3}, {"(1, 2)": 3}, "(1, 2)"),
        ({1: {2.5: None, "a": 4}}, {"1": {"2.5": None, "a": 4}}, "1.a"),
        ({None: [{True: 5}]}, {"None": [{"True": 5}]}, "None"),
        ({"a": msgspec.msgpack.Ext(7, b"abc")}, {"a": {"code": 7, "data": "YWJj"}}, "a.code"),
        (msgspec.msgpack.Ext(7, b"abc"), {"code": 7, "data": "YWJj"}, "data"),
    ],
)
def test_msgpack_that_json_has_not(ring_dir: Path, published: object, shown: object, path: str) -> None:
    """Whatever msgpack holds is shown: any key as its text, an extension type as its code and its data in base64."""
    with snapring.Writer("box", rank=0, ranks=1, schema=object, codec="msgpack") as writer:
        writer.publish(published)
        in_json = command("get", "box", *LONG, "--json")
        in_text = command("get", "box", *LONG)
        in_watch = command("watch", "box", *LONG, "--json", "--count", "1")

    assert json.loads(in_json.stdout)["ranks"][0]["value"] == shown
    assert json.loads(in_watch.stdout)["value"] == shown
    assert any(line.startswith(path) for line in in_text.stdout.splitlines())
