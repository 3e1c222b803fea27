"""The routes of autoscalers and of older callers, in a real server before real rings."""

import json
from pathlib import Path

import pytest
from starlette.applications import Starlette

from asgi_server import served, unreadable
from snapring import LoadSnapshot, Reader, Writer
from snapring.loads import Loads
from snapring.serve import aliases, scale_route


def routes_app(reader: "Reader[LoadSnapshot]") -> Starlette:
    """The small routes alone."""
    loads = Loads(reader)
    return Starlette(routes=[*scale_route.routes(loads), *aliases.routes(loads)])


def test_scale(ring_dir: Path) -> None:
    """One document with the number, its terms and what was asked for; a wrong target is 400 with what is right."""
    with Writer("main", rank=0, ranks=2) as writer, Reader("main", max_age=1e6) as reader:
        writer.publish(LoadSnapshot(num_waiting_reqs=6, token_usage=0.2))
        with served(routes_app(reader)) as client:
            plain, asked = client.ask("/v1/scale"), client.ask("/v1/scale?target_waiting=12&target_kv=0.1")
            wrong = [client.ask(f"/v1/scale?{query}") for query in ("target_kv=x", "target_kv=2", "target_waiting=nan")]

    assert json.loads(plain.body) == {
        "value": 1.5,
        "desired_ranks": 2,
        "idle": False,
        "live_ranks": 1,
        "ranks": 1,
        "terms": {
            "waiting": {"mean": 6.0, "target": 4.0, "value": 1.5},
            "kv": {"mean": 0.2, "target": 0.8, "value": 0.25},
        },
    }
    assert plain.headers["cache-control"] == "no-store"
    assert json.loads(asked.body)["value"] == 2.0
    for response, name in zip(wrong, ("target_kv", "target_kv", "target_waiting"), strict=True):
        error = json.loads(response.body)["error"]
        assert (response.status, error["valid"]) == (400, ["target_waiting", "target_kv"])
        assert error["message"].startswith(name)


def test_aliases(ring_dir: Path) -> None:
    """The older routes answer in the shapes of their callers, and workers are named by the address that was asked."""
    with Writer("main", rank=0, ranks=1) as writer, Reader("main") as reader:
        writer.publish(LoadSnapshot(num_running_reqs=2, num_waiting_reqs=1, num_total_tokens=9))
        with served(routes_app(reader)) as client:
            load, loads, total = (json.loads(client.ask(path).body) for path in ("/get_load", "/get_loads", "/load"))
            base = f"http://127.0.0.1:{client.port}"

    assert (load[0]["num_reqs"], load[0]["num_tokens"]) == (3, 9)
    assert loads["workers"] == [{"worker": f"{base}@0", "load": 9}]
    assert total == {"server_load": 3}


@pytest.mark.parametrize("path", ["/v1/scale", "/get_load", "/load", "/get_loads"])
def test_no_load_is_an_error(ring_dir: Path, path: str) -> None:
    """A caller must not take a server without ranks, or one that cannot be read, for an idle one."""
    with Reader("main") as reader, served(routes_app(reader)) as client:
        nothing = client.ask(path)
    with Writer("main", rank=0, ranks=1, job="one") as writer, served(routes_app(unreadable())) as client:
        writer.publish(LoadSnapshot())
        broken = client.ask(path)

    assert nothing.status == (200 if path == "/get_loads" else 503)
    assert broken.status == 503
    assert "cannot be read" in json.loads(broken.body)["error"]["message"]
