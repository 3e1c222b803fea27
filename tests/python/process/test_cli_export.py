"""``snapring export`` and ``snapring dashboard``: documents for other tools, without a server."""

import json
import signal
import stat
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as prometheus

from command import LONG, start
from command import snapring as command
from snapring import LoadSnapshot, Writer
from snapring.load import MemorySection
from support import eventually

FAST = ("--watch", "--interval", "1ms")

Samples = dict[tuple[str, str], float]


def samples(text: str, parse: Any = prometheus) -> Samples:  # noqa: ANN401  either parser
    """Values by metric and rank, as the strict parsers of prometheus_client see them."""
    return {
        (sample.name, sample.labels["dp_rank"]): sample.value
        for family in parse(text)
        for sample in family.samples
        if "snapring_state" not in sample.labels
    }


def is_whole(text: str) -> bool:
    """Whether a document has all of two ranks that always report the same."""
    found = samples(text)
    running = [found.get(("llm_requests_running", str(rank))) for rank in range(2)]
    return None not in running and ("snapring_publishes_total", "1") in found and text.endswith("\n")


def export(*arguments: str) -> str:
    """What it prints; it has to succeed without a word."""
    done = command("export", "llama", *LONG, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_every_format(ring_dir: Path) -> None:
    """Each format is what its own parser takes, and has each rank's numbers."""
    with ExitStack() as stack:
        for rank in range(2):
            writer = stack.enter_context(Writer("llama", rank, 3))
            writer.publish(LoadSnapshot(num_running_reqs=10 + rank))

        text, text_too = export(), export("--format", "prometheus")
        open_text = export("--format", "openmetrics")
        document = json.loads(export("--format", "json"))
        same = json.loads(export("--json"))

    running = {("llm_requests_running", "0"): 10, ("llm_requests_running", "1"): 11}
    assert running.items() <= samples(text).items()
    assert samples(text).keys() == samples(text_too).keys()
    assert running.items() <= samples(open_text, openmetrics).items()
    assert open_text.endswith("# EOF\n")
    assert {load["dp_rank"]: load["num_running_reqs"] for load in document["loads"]} == {0: 10, 1: 11}
    assert (document["ranks"], document.keys()) == (3, same.keys())


def test_options_shape_the_document(ring_dir: Path) -> None:
    """Profile and labels change names and samples, sections of JSON are chosen, and an age can make a rank stale."""
    load = LoadSnapshot(num_running_reqs=4, memory=MemorySection(weight_gb=12.5))
    with Writer("llama", 0, 1) as writer:
        writer.publish(load)

        text = export("--profile", "sglang", "--label", 'model=a"b', "--label", "zone=b")
        core, memory = (json.loads(export("--json", "--include", names)) for names in ("core", "core, memory"))
        stale = json.loads(command("export", "llama", "--json", "--max-age", "0").stdout)

    (running,) = (
        sample for family in prometheus(text) for sample in family.samples if sample.name == "sglang_num_running_reqs"
    )
    assert (running.labels, running.value) == ({"dp_rank": "0", "model": 'a"b', "zone": "b"}, 4)
    assert "memory" not in core["loads"][0]
    assert memory["loads"][0]["memory"]["weight_gb"] == 12.5
    assert stale["loads"][0]["state"] == "STALE"


def test_a_textfile(ring_dir: Path, tmp_path: Path) -> None:
    """The file holds the prometheus format, whoever collects it may read it, a link stays one, nothing else is left."""
    place, link = tmp_path / "real" / "llama.prom", tmp_path / "llama.prom"
    place.parent.mkdir()
    place.write_text("old")
    link.symlink_to(place)
    with Writer("llama", 0, 1) as writer:
        writer.publish(LoadSnapshot(num_running_reqs=7))

        printed = export("--format", "textfile", "--output", str(link))

    assert printed == ""
    assert samples(place.read_text())["llm_requests_running", "0"] == 7
    assert stat.S_IMODE(place.stat().st_mode) == 0o644
    assert link.is_symlink()
    assert list(place.parent.iterdir()) == [place]


def test_nobody_reads_half_a_file(ring_dir: Path, tmp_path: Path) -> None:
    """While it is rewritten as fast as it can be, every look finds a whole document, and who has it open keeps his."""
    path = tmp_path / "llama.prom"
    words = ("export", "llama", "--format", "textfile", "--output", str(path), *FAST)
    with ExitStack() as stack:
        writers = [stack.enter_context(Writer("llama", rank, 2)) for rank in range(2)]
        for writer in writers:
            writer.publish(LoadSnapshot(num_running_reqs=0))
        child = stack.enter_context(start(*words))
        eventually(path.exists)
        stream = stack.enter_context(path.open())
        begun = stream.read(20)
        seen: list[str] = []
        while len(seen) < 200:
            for writer in writers:
                writer.publish(LoadSnapshot(num_running_reqs=len(seen)))
            seen.append(path.read_text())
        eventually(lambda: samples(path.read_text())["llm_requests_running", "1"] == len(seen) - 1)
        rest = begun + stream.read()

        child.send_signal(signal.SIGTERM)
        _, noted = child.communicate(timeout=120)

    assert [text for text in seen if not is_whole(text)] == []
    assert samples(rest)["llm_requests_running", "0"] == 0
    assert (child.returncode, noted, list(tmp_path.iterdir())) == (0, "", [path])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_change_is_written(number: int, ring_dir: Path, tmp_path: Path) -> None:
    """Without an interval a change rewrites the file by itself, until a signal ends it with 0."""
    path = tmp_path / "llama.json"
    words = ("export", "llama", "--format", "json", "--output", str(path), "--watch")
    with Writer("llama", 0, 1) as writer, start(*words) as child:
        writer.publish(LoadSnapshot(num_running_reqs=1))
        eventually(path.exists)

        for value in (2, 3):
            writer.publish(LoadSnapshot(num_running_reqs=value))
            eventually(lambda: json.loads(path.read_text())["loads"][0]["num_running_reqs"] == value)  # noqa: B023

        child.send_signal(number)
        _, noted = child.communicate(timeout=120)

    assert (child.returncode, noted) == (0, "")


@pytest.mark.parametrize(("form", "end"), [("prometheus", "\n"), ("openmetrics", "# EOF\n")])
def test_documents_one_after_another(form: str, end: str, ring_dir: Path) -> None:
    """Printed documents can be told apart: an empty line follows each, or OpenMetrics' own end."""
    with Writer("llama", 0, 1) as writer, start("export", "llama", "--format", form, *FAST) as child:
        writer.publish(LoadSnapshot(num_running_reqs=1))
        assert child.stdout is not None
        documents = []
        while len(documents) < 3:
            lines = [child.stdout.readline()]
            while lines[-1] != end:
                lines.append(child.stdout.readline())
                assert lines[-1]
            documents.append("".join(lines))

    parse = openmetrics if form == "openmetrics" else prometheus
    assert ("snapring_up", "0") in samples(documents[0], parse)
    assert samples(documents[0], parse).keys() <= samples(documents[2], parse).keys()


def test_a_ring_that_comes_and_goes(ring_dir: Path, tmp_path: Path) -> None:
    """--watch waits for a ring, and goes on when it is made again; while there is none its document has no ranks.

    So nobody reads of a rank that lives and is gone. It is noted once each time.
    """
    path = tmp_path / "llama.json"
    words = ("export", "llama", "--format", "json", "--output", str(path), *FAST)

    def told() -> list[tuple[int, str]]:
        found = json.loads(path.read_text())["loads"] if path.exists() else []
        return [(load["num_running_reqs"], load["state"]) for load in found]

    with start(*words, *LONG) as child:
        assert child.stderr is not None
        first = child.stderr.readline()
        for value in (1, 2):
            with Writer("llama", 0, 1) as writer:
                writer.publish(LoadSnapshot(num_running_reqs=value))
                eventually(lambda: told() == [(value, "LIVE")])  # noqa: B023
            eventually(lambda: told() == [])

        child.send_signal(signal.SIGTERM)
        _, noted = child.communicate(timeout=120)

    assert first == "snapring: no ring 'llama' now; goes on when it can be read\n"
    assert (child.returncode, noted) == (0, 2 * first)


def test_a_ring_that_cannot_be_read(ring_dir: Path, tmp_path: Path) -> None:
    """What stands in the way of --watch is waited out too, with the reason, and meanwhile no rank is told as living."""
    path = tmp_path / "llama.prom"
    words = ("export", "llama", "--format", "textfile", "--output", str(path), "--watch")
    with start(*words, *LONG) as child, Writer("llama", 0, 1) as writer:
        assert child.stderr is not None
        writer.publish(LoadSnapshot())
        eventually(lambda: path.exists() and 'snapring_up{dp_rank="0"} 1' in path.read_text())
        (ring_dir / "llama.ring").rename(ring_dir / "aside")

        (ring_dir / "llama.ring").touch(mode=0o666)
        (ring_dir / "llama.ring").chmod(0o666)
        eventually(lambda: path.read_text() == "")
        noted = next(line for line in iter(child.stderr.readline, "") if "0666" in line)
        (ring_dir / "aside").replace(ring_dir / "llama.ring")

        eventually(lambda: 'snapring_up{dp_rank="0"} 1' in path.read_text())
        assert child.poll() is None
    assert "goes on when it can be read" in noted


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 4, "no ring 'llama'"),
        (["--format", "yaml"], 2, "invalid choice"),
        (["--format", "openmetrics", "--json"], 2, "exclude each other"),
        (["--format", "textfile"], 2, "--output FILE.prom"),
        (["--format", "textfile", "--output", "llama.txt"], 2, "--output FILE.prom"),
        (["--output", "/dev/null"], 2, "no regular file"),
        (["--output", "/nowhere/llama.prom"], 2, "mkdir -p /nowhere"),
        (["--interval", "1s"], 2, "add --watch"),
        (["--include", "memory"], 2, "add --format json"),
        (["--json", "--include", "memoire"], 2, "valid names"),
        (["--json", "--label", "a=b"], 2, "JSON has no labels"),
        (["--label", "dp_rank=b"], 2, "set by snapring"),
    ],
)
def test_errors(arguments: list[str], code: int, message: str, ring_dir: Path) -> None:
    """A ring that is not there, and options that mean nothing, are told before anything is written."""
    done = command("export", "llama", *arguments)

    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr


def test_a_ring_of_something_else(ring_dir: Path) -> None:
    """A ring whose payload is no record cannot be exported, and the error says so."""
    with Writer("llama", 0, 1, schema=bytes, payload=8) as writer:
        writer.publish(b"x")

        done = command("export", "llama", "--json")

    assert (done.returncode, done.stdout) == (2, "")
    assert "only records can be served" in done.stderr


def test_a_dashboard() -> None:
    """It is JSON that Grafana takes, with the names of the profile that was asked for."""
    ours, theirs = (command("dashboard", *words).stdout for words in ((), ("--profile", "vllm")))

    assert json.loads(ours)["panels"]
    assert "llm_requests_running" in ours
    assert "vllm:num_requests_running" in theirs
    assert "llm_requests_running" not in theirs
