import json
import math
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from fastapi import FastAPI, Request, Response
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from starlette.applications import Starlette
from starlette.routing import Mount

from conftest import Spawn
from expositions import FULL
from served import Site, served
from snapring import LoadSnapshot, Reader, Relay, RemoteWriter, Writer, serve
from snapring.errors import InvalidValue
from snapring.load import SECTION_FIELDS
from support import eventually

FOREVER_S = 3600.0
NAMES = ["all", "core", "memory", "spec", "lora", "disagg", "queues"]

STUCK = """
import signal, sys
import snapring
writer = snapring.Writer("busy", rank=0, ranks=1)
writer.publish(snapring.LoadSnapshot(num_running_reqs=5))
print("up", flush=True)
signal.pause()
"""


@pytest.fixture
def writers(ring_dir: Path) -> Iterator[list[Writer[LoadSnapshot]]]:
    """Eight ranks of ring ``loads``, all but the last of which have published everything."""
    with ExitStack() as stack:
        opened = [stack.enter_context(Writer("loads", rank=rank, ranks=8)) for rank in range(8)]
        for writer in opened[:7]:
            writer.publish(FULL)
        yield opened


@pytest.fixture
def site(writers: list[Writer[LoadSnapshot]]) -> Iterator[Site]:
    """Their server."""
    with Reader("loads", max_age=FOREVER_S) as reader, served(serve.app(reader)) as site:
        yield site


def test_all_ranks(site: Site) -> None:
    """One document has every rank that has published, with sections, age, state and version; it is not to be cached."""
    reply = site.get("/v1/loads")

    assert (reply.status, reply.headers["content-type"], reply.headers["cache-control"]) == (
        200,
        "application/json",
        "no-cache",
    )
    assert (reply.json["ranks"], [rank["dp_rank"] for rank in reply.json["loads"]]) == (8, list(range(7)))
    for rank in reply.json["loads"]:
        assert set(SECTION_FIELDS.values()) < set(rank)
        assert (rank["state"], rank["version"], rank["num_running_reqs"]) == ("LIVE", 1, 12)


def test_one_rank(site: Site) -> None:
    """``dp_rank`` chooses one; a rank without data, or that does not exist, gives an empty list."""
    assert [rank["dp_rank"] for rank in site.get("/v1/loads?dp_rank=3").json["loads"]] == [3]
    for rank in (7, 8, -1, 10**12):
        reply = site.get(f"/v1/loads?dp_rank={rank}")
        assert (reply.status, reply.json["loads"]) == (200, [])


def test_strict_ranks(writers: list[Writer[LoadSnapshot]]) -> None:
    """By option a rank that does not exist is 404, and one that has not published yet still an empty list."""
    with Reader("loads") as reader, served(serve.app(reader, strict_ranks=True)) as site:
        assert site.get("/v1/loads?dp_rank=3").status == 200
        assert site.get("/v1/loads?dp_rank=7").json["loads"] == []
        for rank in (8, -1):
            reply = site.get(f"/v1/loads?dp_rank={rank}")
            assert (reply.status, reply.json["error"]["code"]) == (404, 404)
            assert "0 to 7" in reply.json["error"]["message"]


def test_bad_queries(site: Site) -> None:
    """What cannot be asked is 400 with the valid choices, or 422 where a number was due."""
    for query in ("include=memry", "include=core,"):
        reply = site.get(f"/v1/loads?{query}")
        assert (reply.status, reply.json["error"]["valid"]) == (400, NAMES)
    assert site.get("/v1/loads?format=xml").json["error"]["valid"] == ["json", "prometheus", "openmetrics", "orca"]
    assert site.get("/v1/loads?dp_rank=one").status == 422


@pytest.mark.usefixtures("ring_dir")
def test_bad_queries_without_data() -> None:
    """A typo is 400 also while no rank has data: whether it is seen does not depend on the ring."""
    with Reader("nothing") as reader, served(serve.app(reader)) as site:
        assert (site.get("/v1/loads?include=memry").status, site.get("/v1/loads?format=xml").status) == (400, 400)
        empty = site.get("/v1/loads")

    assert (empty.status, empty.json["ranks"], empty.json["loads"]) == (200, 0, [])


def test_numbers_that_are_none(site: Site, writers: list[Writer[LoadSnapshot]]) -> None:
    """NaN and infinities break no answer: null in JSON, NaN and +Inf in both text formats."""
    writers[7].publish(LoadSnapshot(token_usage=math.nan, gen_throughput=math.inf))

    (rank,) = site.get("/v1/loads?dp_rank=7").json["loads"]
    text = site.get("/v1/loads?dp_rank=7&format=prometheus")
    metrics = site.get("/v1/loads?format=openmetrics")

    assert (rank["token_usage"], rank["gen_throughput"]) == (None, None)
    assert 'sglang_token_usage{dp_rank="7"} NaN\n' in text.body.decode()
    assert 'sglang_gen_throughput{dp_rank="7"} +Inf\n' in text.body.decode()
    assert {"sglang_token_usage", "sglang_gen_throughput"} <= {f.name for f in parse_openmetrics(metrics.body.decode())}


def test_text_formats(site: Site) -> None:
    """``format`` gives the reference's names as gauges, with its content type, filtered as the JSON is."""
    reply = site.get("/v1/loads?format=prometheus&dp_rank=2&include=spec")

    assert reply.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    families = {family.name: family for family in parse_text(reply.body.decode())}
    assert {family.type for family in families.values()} == {"gauge"}
    assert families["sglang_spec_accept_length"].samples[0].value == 2.5
    assert {tuple(s.labels.items()) for f in families.values() for s in f.samples} == {(("dp_rank", "2"),)}
    assert not [name for name in families if name.startswith(("sglang_memory", "sglang_lora", "sglang_disagg"))]


def test_profile_of_the_text(writers: list[Writer[LoadSnapshot]]) -> None:
    """A profile renames the metrics of both routes; an unknown one is refused at the start."""
    with Reader("loads") as reader, served(serve.app(reader, profile="vllm", labels={"model": "m"})) as site:
        pages = [site.get(path).body.decode() for path in ("/v1/loads?format=prometheus", "/metrics")]

    for page in pages:
        assert 'vllm:num_requests_running{dp_rank="0",model="m"} 12\n' in page


def test_orca_format(site: Site) -> None:
    """``format=orca`` is one report for all ranks as JSON."""
    report = site.get("/v1/loads?format=orca").json

    assert 0 < report["application_utilization"] <= 1
    assert report["named_metrics"]["num_requests_waiting"] == 35


def test_methods(site: Site) -> None:
    """HEAD is as GET without a body; anything else is 405 and says what is allowed."""
    head = site.get("/v1/loads", "HEAD")
    post = site.get("/v1/loads", "POST")

    assert (head.status, head.body) == (200, b"")
    assert int(head.headers["content-length"]) > 1000
    assert (post.status, post.headers["allow"], post.json["error"]["valid"]) == (405, "GET, HEAD", ["GET", "HEAD"])


def test_unknown_paths(site: Site) -> None:
    """A path that does not exist is 404 in JSON, with those that do."""
    reply = site.get("/v2/loads")

    assert (reply.status, reply.headers["content-type"]) == (404, "application/json")
    assert {"/v1/loads", "/metrics", "/healthz"} <= set(reply.json["error"]["valid"])


def test_unfit_ring_is_no_empty_answer(ring_dir: Path) -> None:
    """A ring that is there and cannot be read is 503 with the reason, on every route that reads it."""
    with Writer("free", rank=0, ranks=1, schema=bytes) as writer, Reader("free", schema=None) as reader:
        writer.publish(b"x")
        with served(serve.app(reader)) as site:
            replies = [site.get(path) for path in ("/v1/loads", "/v1/loads?format=prometheus", "/metrics")]
            ready, older = site.get("/readyz"), [site.get(path).status for path in ("/load", "/get_load")]
            orca = site.get("/v1/loads?format=orca").status

    assert [reply.status for reply in replies] == [503] * 3
    assert all("records" in reply.json["error"]["message"] for reply in replies)
    assert (ready.status, older, orca) == (503, [503, 503], 503)
    assert "records" not in ready.json["error"]["message"]  # who asks there has no token


def test_durations_of_success_and_failure(site: Site) -> None:
    """The histogram of ``/metrics`` counts what was answered and what was refused."""
    for query in ("", "include=memry", "dp_rank=x"):
        site.get(f"/v1/loads?{query}")

    families = {family.name: family for family in parse_text(site.get("/metrics").body.decode())}

    counts = {
        sample.labels["outcome"]: sample.value
        for sample in families["snapring_loads_request_duration_seconds"].samples
        if sample.name.endswith("_count")
    }
    assert counts == {"ok": 1, "error": 2}


def test_metrics_negotiate(site: Site) -> None:
    """``/metrics`` speaks OpenMetrics to who accepts it, else the older format; both pass a strict reading."""
    plain = site.get("/metrics")
    open_metrics = site.get("/metrics", accept="application/openmetrics-text; version=1.0.0")

    assert plain.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert open_metrics.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    for families in (parse_text(plain.body.decode()), parse_openmetrics(open_metrics.body.decode())):
        named = {family.name: family for family in families}
        assert {"llm_requests_running", "snapring_state", "snapring_contended_reads"} <= set(named)
        assert [sample.value for sample in named["snapring_up"].samples] == [1.0] * 7 + [0.0]


def test_query_while_the_scheduler_is_stuck(ring_dir: Path, spawn: Spawn) -> None:
    """A scheduler that does not come back from its step answers nobody, and its last load is told all the same."""
    child = spawn(STUCK)
    assert child.stdout is not None
    child.stdout.readline()

    with Reader("busy", max_age=0.0) as reader, served(serve.app(reader)) as site:
        (rank,) = site.get("/v1/loads").json["loads"]

    assert (rank["num_running_reqs"], rank["state"]) == (5, "STALE")


def test_a_dead_rank_is_never_live_from_a_kept_text(ring_dir: Path, spawn: Spawn) -> None:
    """A rank that is killed while its last text is kept turns DEAD in JSON and metrics, its data unchanged."""
    child = spawn(STUCK)
    assert child.stdout is not None
    child.stdout.readline()
    with Reader("busy", max_age=FOREVER_S) as reader, served(serve.app(reader)) as site:
        before = site.get("/v1/loads")
        child.kill()
        child.wait()

        def dead() -> bool:
            return bool(site.get("/v1/loads").json["loads"][0]["state"] == "DEAD")

        eventually(dead)  # the kernel's answer is kept for 50 ms
        after = site.get("/v1/loads")
        metrics = site.get("/metrics").body.decode()

    assert before.json["loads"][0]["state"] == "LIVE"
    assert before.headers["etag"] != after.headers["etag"]
    assert after.json["loads"][0]["num_running_reqs"] == 5
    assert 'snapring_up{dp_rank="0"} 0\n' in metrics


def test_max_age_of_one_request(site: Site) -> None:
    """``max_age`` moves where LIVE ends for this answer alone, and filters nothing."""
    stale = site.get("/v1/loads?max_age=0").json["loads"]
    live = site.get("/v1/loads").json["loads"]

    assert [rank["state"] for rank in stale] == ["STALE"] * 7
    assert [rank["state"] for rank in live] == ["LIVE"] * 7


def test_health(writers: list[Writer[LoadSnapshot]]) -> None:
    """Ready is by rule: any, all or a number of LIVE ranks; health is whether the server answers."""
    for rule, status in (("any", 200), ("all", 503), (7, 200), (8, 503)):
        with Reader("loads", max_age=FOREVER_S) as reader, served(serve.app(reader, ready=rule)) as site:
            ready, health = site.get("/readyz"), site.get("/healthz")
        assert (ready.status, ready.json["live"], ready.json["ranks"], health.status) == (status, 7, 8, 200)


@pytest.mark.usefixtures("writers")
def test_mounts_at_any_path() -> None:
    """Below a path of another application every route answers as at the root, the bare one too."""
    with Reader("loads", max_age=FOREVER_S) as reader:
        outer = Starlette(routes=[Mount("/state/of", app=serve.app(reader))])
        with served(outer) as site:
            replies = [site.get(f"/state/of{path}") for path in ("/v1/loads", "/healthz", "/metrics", "/")]

    assert [reply.status for reply in replies] == [200] * 4
    assert replies[0].json["ranks"] == 8


@pytest.mark.usefixtures("writers")
def test_only_some_routes() -> None:
    """Routes can be taken one by one, each whole; a path that is no route is refused with those that are."""
    with Reader("loads", max_age=FOREVER_S) as reader:
        chosen = serve.routes(reader, "/v1/loads", "/readyz", ready=7)
        with served(Starlette(routes=chosen)) as site:
            replies = [site.get(path).status for path in ("/v1/loads", "/readyz", "/metrics")]
        with pytest.raises(InvalidValue, match="/v1/loads, /v1/loads/stream"):
            serve.routes(reader, "/v1/load")

    assert replies == [200, 200, 404]


def test_relayed_ranks(ring_dir: Path) -> None:
    """A rank that publishes elsewhere is served as every other, and what the relay did is among the metrics."""
    with Relay("far", ranks=2) as relay, RemoteWriter(relay.endpoint or "", rank=1, ranks=2) as writer:
        writer.publish(LoadSnapshot(num_running_reqs=3))
        with Reader("far", max_age=FOREVER_S) as reader, served(serve.app(reader, relay=relay)) as site:
            (rank,) = eventually(lambda: site.get("/v1/loads").json["loads"])
            metrics = site.get("/metrics").body.decode()

    assert (rank["dp_rank"], rank["num_running_reqs"], rank["state"]) == (1, 3, "LIVE")
    assert "snapring_relay_takeovers_total 1.0\n" in metrics


@pytest.mark.usefixtures("writers")
def test_from_a_route_of_fastapi() -> None:
    """A handler of one's own returns the same response, tag and 304 included."""
    with Reader("loads", max_age=FOREVER_S) as reader:
        api, loads = FastAPI(), serve.app(reader)

        @api.get("/load_of_all")
        async def load_of_all(request: Request) -> Response:
            return await loads.endpoint.respond(request)

        with served(api) as site:
            reply = site.get("/load_of_all?include=core")
            again = site.get("/load_of_all?include=core", if_none_match=reply.headers["etag"])

    assert (reply.status, len(reply.json["loads"]), reply.headers["content-type"]) == (200, 7, "application/json")
    assert (again.status, again.body) == (304, b"")


def test_bodies_are_whole_beside_restless_writers(site: Site, writers: list[Writer[LoadSnapshot]]) -> None:
    """While all ranks publish without a pause every answer is whole JSON, and no rank goes back."""
    done = threading.Event()

    def publish() -> None:
        step = 0
        while not done.is_set():
            step += 1
            for writer in writers:
                writer.publish(LoadSnapshot(num_running_reqs=step, num_waiting_reqs=step))

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        seen = [0] * 8
        for _ in range(200):
            for rank in json.loads(site.get("/v1/loads").body)["loads"]:
                if rank["num_running_reqs"] != 12:
                    assert rank["num_running_reqs"] == rank["num_waiting_reqs"]
                assert rank["version"] >= seen[rank["dp_rank"]]
                seen[rank["dp_rank"]] = rank["version"]
    finally:
        done.set()
        thread.join()

    assert min(seen) > 1
