"""Real consumers of the metrics: a Prometheus server that scrapes a served ring, and promtool."""

import json
import shutil
import subprocess
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import uvicorn

from conftest import Spawn
from etcd_server import end, free_ports
from expositions import FULL, native
from snapring import LoadSnapshot, Reader, State, Writer
from snapring.formats.dashboard import dashboard, expressions
from snapring.formats.metrics import METRICS
from snapring.formats.profiles import PROFILES
from snapring.serve import app
from support import eventually

HINT = "no prometheus on the path: apt-get install --no-install-recommends prometheus"
RANKS = 8

OPTIONS = ("--config.file=prometheus.yml", "--storage.tsdb.path=data", "--log.level=warn")

# Eight ranks that publish until they are killed: rank r runs r + 1 requests, and running totals grow.
WRITERS = """
import json, sys, time
import msgspec
import snapring

full = msgspec.convert(json.loads(sys.argv[1]), snapring.LoadSnapshot)
writers = [snapring.Writer("main", rank=rank, ranks=8) for rank in range(8)]
step = 0
while True:
    step += 1
    for rank, writer in enumerate(writers):
        writer.publish(
            msgspec.structs.replace(
                full,
                dp_rank=None,
                timestamp=None,
                num_running_reqs=rank + 1,
                total_prefill_uncached_tokens=100 * step,
                total_prefill_busy_us=1000 * step,
                decode_moments=[step, 10 * step, 20_000 * step, 100 * step, 200_000 * step, 12 * step],
            )
        )
    if step == 1:
        print("published", flush=True)
    time.sleep(0.02)
"""


class Prometheus:
    """A running server, asked over its HTTP API."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def is_ready(self) -> bool:
        """Whether it answers."""
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=5):  # noqa: S310  http on loopback
                return True
        except OSError:
            return False

    def get(self, path: str, **parameters: str) -> Any:  # noqa: ANN401  whatever the API gives
        """The data of an answer; AssertionError with the reason where it refuses."""
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as response:  # noqa: S310  as above
                answer = json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                message = f"{parameters}: {error.read().decode()}"
            raise AssertionError(message) from error
        assert answer["status"] == "success"
        return answer["data"]

    def query(self, promql: str) -> dict[str, float]:
        """The vector that a query gives now: values by the labels that tell its series apart."""
        return {
            ",".join(f"{value}" for name, value in sorted(series["metric"].items()) if name not in HIDDEN): float(
                series["value"][1]
            )
            for series in self.get("query", query=promql)["result"]
        }


HIDDEN = {"__name__", "instance", "job"}


@contextmanager
def serving(reader: Reader[LoadSnapshot]) -> Iterator[int]:
    """The application over ``reader`` on a free port of loopback, in a thread."""
    config = uvicorn.Config(app(reader), host="127.0.0.1", port=0, log_config=None, lifespan="off", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        eventually(lambda: server.started)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def scraping(folder: Path, target: int) -> Iterator[Prometheus]:
    """A Prometheus that scrapes a port of loopback twice a second; its data stays in ``folder``."""
    jobs = [{"job_name": "snapring", "static_configs": [{"targets": [f"127.0.0.1:{target}"]}]}]
    times = {"scrape_interval": "500ms", "scrape_timeout": "500ms"}
    (folder / "prometheus.yml").write_text(json.dumps({"global": times, "scrape_configs": jobs}))
    for _ in range(3):  # a port may be taken between looking and binding
        (port,) = free_ports(1)
        prometheus = Prometheus(port)
        with (folder / "log").open("wb") as log:
            command = ["prometheus", *OPTIONS, f"--web.listen-address=127.0.0.1:{port}"]
            server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder)
        try:
            if came_up(prometheus, server):
                yield prometheus
                return
        finally:
            end(server)
        shutil.rmtree(folder / "data", ignore_errors=True)
    pytest.fail(f"prometheus does not start:\n{(folder / 'log').read_text()}")


def came_up(prometheus: Prometheus, server: "subprocess.Popen[bytes]") -> bool:
    """Wait until the server answers; False when it ended instead."""
    return (
        eventually(lambda: prometheus.is_ready() or server.poll() is not None, deadline=60.0) and server.poll() is None
    )


@pytest.fixture
def scraped(ring_dir: Path, tmp_path: Path, spawn: Spawn) -> "Iterator[tuple[Prometheus, subprocess.Popen[str]]]":
    """A Prometheus that scrapes eight living ranks, and the process that they live in."""
    if shutil.which("prometheus") is None:
        pytest.skip(HINT)
    writers = spawn(WRITERS, msgspec.json.encode(FULL).decode())
    assert writers.stdout is not None
    assert writers.stdout.readline() == "published\n"
    with Reader("main", max_age=30.0) as reader, serving(reader) as port, scraping(tmp_path, port) as prometheus:
        eventually(lambda: prometheus.query("up") == {"": 1.0})
        yield prometheus, writers


def test_it_scrapes_eight_ranks(scraped: "tuple[Prometheus, subprocess.Popen[str]]") -> None:
    """Every rank is a series of each metric, totals have rates, and types, units and help have arrived."""
    prometheus, _ = scraped
    expected = {str(rank): rank + 1.0 for rank in range(RANKS)}

    eventually(lambda: len(prometheus.query("rate(llm_generated_tokens_total[1m]) > 0")) == RANKS)

    assert prometheus.query("llm_requests_running") == expected
    assert prometheus.query("sum(llm_requests_running)") == {"": 36.0}
    assert prometheus.query("max(llm_requests_running) / avg(llm_requests_running)") == {"": pytest.approx(8 / 4.5)}
    assert prometheus.query("sum(snapring_up)") == {"": 8.0}
    assert prometheus.query("count by (mode) (llm_disaggregation_info)") == {"decode": 8.0}
    assert prometheus.query("sum by (snapring_state) (snapring_state == 1)") == {"LIVE": 8.0}
    batch = "rate(llm_decode_batched_requests_total[1m]) / rate(llm_decode_steps_total[1m])"
    assert prometheus.query(batch) == {str(rank): pytest.approx(10) for rank in range(RANKS)}
    step = "rate(llm_decode_step_seconds_total[1m]) / rate(llm_decode_steps_total[1m])"
    assert prometheus.query(step) == {str(rank): pytest.approx(0.02) for rank in range(RANKS)}
    metadata = prometheus.get("metadata")
    assert metadata["llm_generated_tokens"] == [{"type": "counter", "help": "Tokens generated.", "unit": "tokens"}]
    assert metadata["snapring_state"][0]["type"] == "stateset"
    assert metadata["llm_disaggregation"][0]["type"] == "info"


def test_dead_ranks_are_seen(scraped: "tuple[Prometheus, subprocess.Popen[str]]") -> None:
    """Ranks that are killed are down and DEAD at the next scrape, and what they did stays, but no load of theirs."""
    prometheus, writers = scraped

    writers.kill()

    eventually(lambda: prometheus.query("sum(snapring_up)") == {"": 0.0})
    assert prometheus.query("sum by (snapring_state) (snapring_state == 1)") == {"DEAD": 8.0}
    eventually(lambda: prometheus.query("sum(llm_requests_running)") == {})
    assert len(prometheus.query("llm_decode_steps_total")) == RANKS


def test_dashboards(scraped: "tuple[Prometheus, subprocess.Popen[str]]") -> None:
    """Prometheus understands every query of every profile's dashboard, and those of canonical names have data."""
    prometheus, _ = scraped
    eventually(lambda: len(prometheus.query("rate(llm_decode_steps_total[1m]) > 0")) == RANKS)

    answers = {
        profile: {query: prometheus.query(query) for query in expressions(dashboard(profile))} for profile in PROFILES
    }

    assert [query for query, answer in answers["snapring"].items() if not answer] == []
    assert len(answers["snapring"]) > len(METRICS)


def test_promtool(ring_dir: Path) -> None:
    """Promtool has nothing to say about names, types, units and help of the canonical metrics."""
    if shutil.which("promtool") is None:
        pytest.skip(HINT)
    with Writer("main", rank=1, ranks=3) as writer, Reader("main") as reader:
        writer.publish(FULL)
        eventually(lambda: reader.view().states[1] == State.LIVE)
        text = native(reader.view(), "snapring", labels={"model": 'a "b" \\ c\n'})

    done = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, timeout=60, check=False
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
