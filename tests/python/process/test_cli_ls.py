import json
import os
import re
from pathlib import Path
from typing import Annotated

import msgspec
import pytest

import snapring
from command import COMMAND
from command import snapring as command
from support import run


def test_every_ring_with_its_states(ring_dir: Path) -> None:
    """A listing counts the ranks of each ring by state, and gives its age, size and job, in text and as JSON."""
    one = snapring.Writer("one", rank=0, ranks=4, job="train-7")
    two = snapring.Writer("one", rank=1, ranks=4, job="train-7")
    with one, snapring.Writer("two", rank=0, ranks=1, schema=bytes):
        one.publish(snapring.LoadSnapshot())
        two.publish(snapring.LoadSnapshot())
        two.close()
        in_text = command("ls", "--max-age", "1d")
        in_json = json.loads(command("ls", "--json", "--max-age", "1d").stdout)
        stale = json.loads(command("ls", "--json", "--max-age", "0").stdout)

    header, first, second = (line.split() for line in in_text.stdout.splitlines())
    assert header == ["name", "ranks", "live", "stale", "dead", "never", "age", "size", "job"]
    assert first[:6] == ["one", "4", "1", "0", "1", "2"]
    assert first[-1] == "train-7"
    assert second[:6] == ["two", "1", "0", "0", "0", "1"]
    assert {key: in_json[0][key] for key in ("name", "ranks", "live", "stale", "dead", "never", "job", "in_use")} == {
        "name": "one",
        "ranks": 4,
        "live": 1,
        "stale": 0,
        "dead": 1,
        "never": 2,
        "job": "train-7",
        "in_use": True,
    }
    assert in_json[0]["bytes"] > 4096
    assert (stale[0]["live"], stale[0]["stale"], stale[0]["dead"]) == (0, 1, 1)


def test_no_rings(ring_dir: Path) -> None:
    """No ring, or no directory, is no error: nothing on standard output, a remark beside it, an empty list as JSON."""
    done = command("ls")
    nowhere = command("ls", "--dir", str(ring_dir / "nowhere"))

    assert (done.returncode, done.stdout) == (0, "")
    assert str(ring_dir) in done.stderr
    assert (nowhere.returncode, nowhere.stdout) == (0, "")
    assert json.loads(command("ls", "--json").stdout) == []


def test_an_unreadable_ring_does_not_hide_the_others(ring_dir: Path) -> None:
    """A file that is no ring is listed as such, among the rings."""
    (ring_dir / "bad.ring").write_bytes(b"no ring")
    (ring_dir / "bad.ring").chmod(0o600)
    with snapring.Writer("good", rank=0, ranks=1):
        done = command("ls", "--json")

    bad, good = json.loads(done.stdout)
    assert done.returncode == 0
    assert "unreadable" in bad
    assert good["name"] == "good"


class Load(msgspec.Struct, frozen=True):
    """A small schema."""

    tokens: Annotated[int, msgspec.Meta(extra={"unit": "tokens"})]
    tags: Annotated[list[int], msgspec.Meta(max_length=3, description="what it does")]


def test_schema_of_a_ring(ring_dir: Path) -> None:
    """The layout of a ring has each field's offset, words, bit and unit."""
    with snapring.Writer("box", rank=0, ranks=2, schema=Load):
        done = command("schema", "box")

    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["field", "kind", "offset", "words", "bit", "max", "unit", "notes"] in lines
    assert ["tokens", "int", "8", "1", "0", "tokens"] in lines
    assert ["tags", "list_int", "16", "4", "1", "3", "what", "it", "does"] in lines


def test_schema_says_where_everything_stands(ring_dir: Path) -> None:
    """By the printed layout alone a value is found in the file."""
    with snapring.Writer("box", rank=1, ranks=2, schema=Load) as writer:
        for number in (10, 20, 30):
            writer.publish(Load(number, [number]))
        layout = json.loads(command("schema", "box", "--json").stdout)
        ring = (ring_dir / "box.ring").read_bytes()

    def word(offset: int) -> int:
        return int.from_bytes(ring[offset : offset + 8], "little")

    file, fields = layout["file"], {field["name"]: field for field in layout["fields"]}
    assert len(ring) == file["file_bytes"]
    slot = file["header_bytes"] + file["slot_stride"] + (1 % file["skews"]) * 64
    head = word(slot + file["slot"]["head"])
    cell = slot + file["cells_offset"] + head % file["cells"] * file["cell_stride"]
    payload = cell + file["payload_offset"]
    assert (head, word(cell + file["cell"]["seq"]), word(cell + file["cell"]["version"])) == (3, 6, 3)
    assert word(cell + file["cell"]["payload_len"]) == layout["bytes"]
    assert word(payload + fields["tokens"]["offset"]) == 30
    assert [word(payload + fields["tags"]["offset"] + 8 * index) for index in (0, 1)] == [1, 30]


def test_schema_of_a_class(tmp_path: Path) -> None:
    """--class shows the layout that a class would have, imported as from the current directory, with no ring there."""
    (tmp_path / "mine.py").write_text("import msgspec\nclass Mine(msgspec.Struct):\n    value: float\n")

    found = json.loads(
        run(
            ["sh", "-c", 'cd "$0" && exec "$@"', str(tmp_path), *COMMAND, *["schema", "--class", "mine:Mine", "--json"]]
        )
    )

    assert (found["name"], found["bytes"]) == ("Mine", 16)
    assert [(field["name"], field["kind"], field["offset"]) for field in found["fields"]] == [("value", "float", 8)]


@pytest.mark.parametrize("path", ["nowhere:A", "os", "os:nothing", "os:getcwd", "json:JSONDecoder", ":", "a b:c"])
def test_schema_of_no_class(path: str) -> None:
    """What names no Struct class is an error of usage that says how to name one."""
    done = command("schema", "--class", path)

    assert done.returncode == 2
    assert re.search(r"write package.module:Class|is a msgspec.Struct class", done.stderr)
    assert done.stderr.count("\n") == 1


def test_schema_that_no_ring_can_have(tmp_path: Path) -> None:
    """A class with a field of unbounded length is refused with the field's name."""
    (tmp_path / "loose.py").write_text("import msgspec\nclass Loose(msgspec.Struct):\n    text: str\n")

    done = command("schema", "--class", "loose:Loose", PYTHONPATH=os.pathsep.join([str(tmp_path)]))

    assert done.returncode == 2
    assert "text" in done.stderr


@pytest.mark.parametrize(
    ("body", "raised"),
    [
        ("raise RuntimeError('no GPU\\nhere')", "RuntimeError: no GPU here"),
        ("1 / 0", "ZeroDivisionError"),
        ("class :", "SyntaxError"),
        ("raise SystemExit(0)", "SystemExit: 0"),
    ],
)
def test_a_module_that_fails(tmp_path: Path, body: str, raised: str) -> None:
    """Whatever a module raises while it is imported is one line with its name, and an error of usage."""
    (tmp_path / "broken.py").write_text(body)

    done = command("schema", "--class", "broken:Mine", PYTHONPATH=str(tmp_path))

    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert f"importing 'broken' raised {raised}" in done.stderr
