"""``snapring serve`` as an operator starts it, asked by curl."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from command import snapring as command
from command import start
from serving import curl, serving
from snapring import LoadSnapshot, Writer
from support import eventually, python

BLOCKED = """
import sys
sys.modules.update(dict.fromkeys(sys.argv[1].split(",")))
from snapring.cli import main
sys.exit(main(sys.argv[2:]))
"""
"""The command on a host without the modules that its first argument names."""

Spawn = Callable[..., "subprocess.Popen[str]"]


def samples(text: str) -> dict[str, dict[str, float]]:
    """The values of each metric by rank."""
    found: dict[str, dict[str, float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[sample.labels.get("dp_rank", "")] = sample.value
    return found


def shown(url: str) -> dict[int, Any]:
    """What /v1/loads says of each rank."""
    return {load["dp_rank"]: load for load in curl(f"{url}v1/loads").json["loads"]}


@pytest.mark.usefixtures("ring_dir")
def test_a_ring_over_http() -> None:
    """Every rank's load is at /v1/loads as JSON and at /metrics for Prometheus; health and the page are there too."""
    with ExitStack() as stack:
        for rank in range(2):
            writer = stack.enter_context(Writer("llama", rank, 3))
            writer.publish(LoadSnapshot(num_running_reqs=10 + rank))
        server = stack.enter_context(serving("llama"))

        loads = curl(f"{server.url}v1/loads")
        metrics = curl(f"{server.url}metrics")
        health = curl(f"{server.url}healthz")
        page = curl(server.url)

    running = {load["dp_rank"]: load["num_running_reqs"] for load in loads.json["loads"]}
    assert (loads.status, loads.json["ranks"], running) == (200, 3, {0: 10, 1: 11})
    assert samples(metrics.body)["llm_requests_running"] == {"0": 10, "1": 11}
    assert samples(metrics.body)["snapring_up"] == {"0": 1, "1": 1, "2": 0}
    assert (health.status, health.type.partition(";")[0]) == (200, "application/json")
    assert (page.status, page.type.partition(";")[0]) == (200, "text/html")


@pytest.mark.usefixtures("ring_dir")
def test_it_says_where() -> None:
    """One line names the ring and an address that answers; until there is a ring, a note says so."""
    with start("serve", "llama", "--bind", "127.0.0.1:0") as child:
        assert child.stdout is not None
        words = child.stdout.readline().split()
        health = curl(f"{words[-1]}healthz")
        child.send_signal(signal.SIGTERM)
        rest, noted = child.communicate(timeout=120)

    assert words[:3] == ["serving", "llama", "on"]
    assert (health.status, child.returncode, rest) == (200, 0, "")
    assert noted == "snapring: no ring 'llama' yet; it is served as soon as it is there\n"


@pytest.mark.usefixtures("ring_dir")
def test_the_ring_may_come_later() -> None:
    """A ring made after the server started is served, without a restart."""
    with serving("llama") as server:
        before = shown(server.url)
        with Writer("llama", 0, 1) as writer:
            writer.publish(LoadSnapshot(num_waiting_reqs=5))
            after = eventually(lambda: shown(server.url))

    assert before == {}
    assert after[0]["num_waiting_reqs"] == 5


@pytest.mark.usefixtures("ring_dir")
def test_options_reach_the_routes() -> None:
    """Profile, labels, readiness and strictness are as asked for on the command line."""
    names = ("--profile", "vllm", "--label", "model=llama-70b", "--label", "zone=a=b")
    with Writer("llama", 0, 2) as writer, serving("llama", *names, "--ready", "2", "--strict-ranks") as server:
        writer.publish(LoadSnapshot(num_running_reqs=4))
        metrics = eventually(lambda: (found := curl(f"{server.url}metrics").body) and "running" in found and found)
        half = curl(f"{server.url}readyz").status
        missing = curl(f"{server.url}v1/loads?dp_rank=9").status
        with Writer("llama", 1, 2) as second:
            second.publish(LoadSnapshot())
            eventually(lambda: curl(f"{server.url}readyz").status == 200)

    (sample,) = (
        sample
        for family in text_string_to_metric_families(metrics)
        for sample in family.samples
        if sample.name == "vllm:num_requests_running"
    )
    assert (sample.labels, sample.value) == ({"dp_rank": "0", "model": "llama-70b", "zone": "a=b"}, 4)
    assert (half, missing) == (503, 404)


@pytest.mark.usefixtures("ring_dir")
def test_lenient_by_default() -> None:
    """Without options one live rank makes it ready, and a rank that is not there is an empty list."""
    with Writer("llama", 0, 2) as writer, serving("llama") as server:
        writer.publish(LoadSnapshot())
        eventually(lambda: curl(f"{server.url}readyz").status == 200)

        missing = curl(f"{server.url}v1/loads?dp_rank=9")

    assert (missing.status, missing.json["loads"]) == (200, [])


@pytest.mark.usefixtures("ring_dir")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_stop_does_not_wait_for_streams(number: int) -> None:
    """SIGTERM, Ctrl-C and a hang-up end it with 0 and without a word, also while somebody follows the changes."""
    with Writer("llama", 0, 1) as writer, serving("llama") as server:
        writer.publish(LoadSnapshot())
        follow = ["curl", "--silent", "--no-buffer", "--noproxy", "*", f"{server.url}v1/loads/stream"]
        with subprocess.Popen(follow, stdout=subprocess.PIPE, text=True) as stream:
            assert stream.stdout is not None
            first = stream.stdout.readline()

            ended = server.end(number)

            stream.stdout.read()  # to its end: the connection is closed

    assert first.strip()
    assert ended == (0, "")
    assert curl(server.url).status == 0


@pytest.mark.usefixtures("ring_dir")
def test_a_port_that_is_taken() -> None:
    """Where somebody listens already the command fails, and says what to do."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"

        done = command("serve", "llama", "--bind", address)

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"snapring: cannot listen at {address}: another process listens there; end it, or give another port, as "
        "127.0.0.1:0 for a free one\n"
    )


@pytest.mark.usefixtures("ring_dir")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bind", "9400"], "no address to listen at"),
        (["--bind", "nowhere.invalid:0"], "no address belongs to"),
        (["--ready", "some"], "neither any, nor all"),
        (["--ready", "0"], "neither any, nor all"),
        (["--profile", "nobody"], "invalid choice"),
        (["--label", "model"], "no label; write"),
        (["--label", "a-b=c"], "no name of a label"),
        (["--label", "dp_rank=1"], "set by snapring"),
        (["--label", "a=1", "--label", "a=2"], "given twice"),
    ],
)
def test_usage(arguments: list[str], message: str) -> None:
    """What cannot be meant is an error of usage before anything listens."""
    done = command("serve", "llama", "--bind", "127.0.0.1:0", *arguments)

    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr


def test_without_the_extra(ring_dir: Path) -> None:
    """Where the packages that serve are missing, one line says what to install; the library and exports need none."""
    extra = "starlette,uvicorn,prometheus_client"
    with Writer("llama", 0, 1) as writer:
        writer.publish(LoadSnapshot(num_running_reqs=3))

        serve, export = (
            subprocess.run(python(BLOCKED, extra, verb, "llama"), capture_output=True, text=True, check=False)
            for verb in ("serve", "export")
        )

    assert (serve.returncode, serve.stdout, serve.stderr.count("\n")) == (1, "", 1)
    assert "pip install 'snapring[serve]'" in serve.stderr
    assert (export.returncode, export.stderr) == (0, "")
    assert samples(export.stdout)["llm_requests_running"] == {"0": 3}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_without_the_quicker_loop(number: int, ring_dir: Path, spawn: Spawn) -> None:
    """Where uvloop and httptools are not installed Python's own do their work, and it ends as well."""
    with Writer("llama", 0, 1) as writer:
        writer.publish(LoadSnapshot(num_running_reqs=3))
        child = spawn(BLOCKED, "uvloop,httptools", "serve", "llama", "--bind", "127.0.0.1:0")
        assert child.stdout is not None
        url = child.stdout.readline().split()[-1]

        running = shown(url)[0]["num_running_reqs"]
        refused = curl(f"{url}v1/loads", "--header", "Host: evil.example").status
        child.send_signal(number)

    assert (running, refused, child.wait(timeout=120)) == (3, 421, 0)


def test_silent_unless_asked(ring_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests leave no trace on the outputs; SNAPRING_DEBUG=1 shows what the server has to say."""
    with serving("llama") as server:
        curl(f"{server.url}v1/loads")
        _, silent = server.end(signal.SIGTERM)
    monkeypatch.setenv("SNAPRING_DEBUG", "1")
    with serving("llama") as server:
        _, spoken = server.end(signal.SIGTERM)

    assert silent.count("\n") == 1  # there is no ring yet
    assert "Shutting down" in spoken


@pytest.mark.usefixtures("ring_dir")
def test_it_starts_light() -> None:
    """The command line knows the verb without loading a web framework."""
    code = (
        "import sys; from snapring.cli import build_parser; build_parser(); "
        "sys.exit(str({'uvicorn', 'starlette', 'prometheus_client', 'asyncio'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=os.environ)

    assert done.stderr == "set()\n"
